"""The objective of the unconstrained feature model: every sample's feature is a variable.

A point is one flat vector, so that any minimiser can take it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuralcollapse.losses import AbstractLoss
from neuralcollapse.losses.loss import total

# Sizes that are tried for a new singular direction, in units of the typical one.
_SIZES = [2 ** (k / 5) for k in range(-7, 11)]


@dataclass(frozen=True, eq=False)
class End:
    """Where a descent ended, in balanced variables."""

    point: np.ndarray
    objective: float
    gradient: np.ndarray
    residual: float


@dataclass(frozen=True, eq=False)
class FreeFeatures:
    """The objective of one flat vector of balanced variables.

    Features and layers are scaled by the square root of their decay, which makes the sum of all
    decays half the squared norm of the vector: whatever the decays, no direction is flatter than
    that. The vector holds the features (N, d), the layers from the features on, and the bias.
    """

    loss: AbstractLoss
    labels: Tensor
    counts: Tensor
    class_weights: Tensor | None
    shapes: tuple[tuple[int, ...], ...]
    decays: tuple[float, ...]  # of the features and of each layer
    bias_decay: float | None
    nonnegative: bool

    @property
    def sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes]

    def factors(self, point: np.ndarray) -> list[Tensor]:
        """Features, layers and bias (if any) in balanced variables, as views of the vector."""
        parts = torch.from_numpy(point).split(self.sizes)
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def natural(self, factors: list[Tensor]) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Features, layers and bias in their own units."""
        number = len(self.decays)
        scaled = [f / decay**0.5 for f, decay in zip(factors, self.decays, strict=False)]
        return scaled[0], scaled[1:], None if self.bias_decay is None else factors[number]

    def data_loss(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.class_weights is None:
            return total(self.loss.terms(features, self.labels, weight, bias))
        sizes = self.counts.tolist()
        parts = zip(features.split(sizes), self.labels.split(sizes), strict=True)
        terms = [total(self.loss.terms(f, labels, weight, bias)) for f, labels in parts]
        shares = self.class_weights * self.counts / self.counts.sum()
        return (shares * torch.stack(terms)).sum()

    def value_and_gradient(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        leaves = [factor.requires_grad_() for factor in self.factors(point)]
        features, layers, bias = self.natural(leaves)
        value = self.data_loss(features, product(layers), bias)
        for leaf in leaves[: len(self.decays)]:
            value = value + leaf.square().sum() / 2
        if bias is not None and self.bias_decay:
            value = value + self.bias_decay / 2 * bias.square().sum()
        gradients = torch.autograd.grad(value, leaves)
        return value.item(), torch.cat([g.reshape(-1) for g in gradients]).numpy()

    @property
    def typical(self) -> float:
        """Size of the balanced singular values whose product is that of one-hot targets."""
        target_square = float(self.counts.double().mean())
        return (target_square * math.prod(self.decays)) ** (0.5 / len(self.decays))

    def random_start(
        self, orthogonal: bool, scale: float, generator: torch.Generator
    ) -> np.ndarray:
        parts: list[Tensor] = []
        size = self.typical * scale ** (2 / len(self.decays))
        for shape in self.shapes:
            entries = torch.randn(shape, generator=generator, dtype=torch.float64)
            if len(shape) == 1:
                parts.append(torch.zeros_like(entries))  # the bias
            elif orthogonal:
                tall = entries if shape[0] >= shape[1] else entries.T
                basis = torch.linalg.qr(tall).Q
                parts.append(size * (basis if shape[0] >= shape[1] else basis.T))
            else:
                parts.append(size / max(shape) ** 0.5 * entries)
        if self.nonnegative:
            parts[0] = parts[0].abs()
        return torch.cat([part.reshape(-1) for part in parts]).numpy()

    def projected(self, point: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """The gradient without what pushes a zero feature below zero."""
        if not self.nonnegative:
            return gradient
        features = self.sizes[0]
        held = (point[:features] <= 0) & (gradient[:features] > 0)
        return np.concatenate([np.where(held, 0.0, gradient[:features]), gradient[features:]])

    def end(self, point: np.ndarray) -> End:
        value, gradient = self.value_and_gradient(point)
        gradient = self.projected(point, gradient)
        # Where everything is zero, so is the decay's gradient: then the typical size stands in.
        size = max(_norm(point), self.typical)
        return End(point, value, gradient, _norm(gradient) / size)


def _norm(vector: np.ndarray) -> float:
    return float(torch.from_numpy(vector).norm())


def product(layers: Sequence[Tensor]) -> Tensor:
    """The product of layers given from the features on."""
    product = layers[-1]
    for layer in reversed(layers[:-1]):
        product = product @ layer
    return product


def with_new_mode(problem: FreeFeatures, point: np.ndarray) -> np.ndarray:
    """The point with one more singular direction, the steepest of those not in use.

    Logits have the gradient G (N, K). The direction is that of its largest singular value among
    samples and classes orthogonal to those in use, fed through the least used direction of each
    space between the factors. Its size is the best of a few: a descent from a worse one can leap
    over the minimum beside it, back to zero.
    """
    factors = [factor.clone() for factor in problem.factors(point)]
    matrices = factors[: len(problem.decays)]
    features, layers, bias = problem.natural(factors)
    num_classes = layers[-1].shape[0]
    # Logits are features @ weight.T + shift @ identity.
    shift = torch.zeros(len(features), num_classes, dtype=torch.float64, requires_grad=True)
    identity = torch.eye(num_classes, dtype=torch.float64)
    wide = torch.cat([features, shift], dim=1)
    loss = problem.data_loss(wide, torch.cat([product(layers), identity], dim=1), bias)
    (gradient,) = torch.autograd.grad(loss, shift)
    used_samples, used_classes = _range(matrices[0], problem), _range(matrices[-1], problem)
    gradient = gradient - used_samples @ (used_samples.T @ gradient)
    gradient = gradient - (gradient @ used_classes) @ used_classes.T
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    between = [
        torch.linalg.eigh(before + after).eigenvectors[:, 0]
        for before, after in zip(
            [matrices[0].T @ matrices[0], *(m @ m.T for m in matrices[1:-1])],
            [m.T @ m for m in matrices[1:]],
            strict=True,
        )
    ]
    rows, columns = [-left[:, 0], *between[1:], right[0]], between
    steps = [torch.outer(rows[0], columns[0])]
    steps += [torch.outer(row, column) for row, column in zip(rows[1:], columns, strict=True)]
    steps += [torch.zeros_like(factor) for factor in factors[len(steps) :]]
    step = torch.cat([part.reshape(-1) for part in steps]).numpy()
    points = [point + size * problem.typical * step for size in _SIZES]
    return min(points, key=lambda trial: problem.value_and_gradient(trial)[0])


def _range(matrix: Tensor, problem: FreeFeatures) -> Tensor:
    """An orthonormal basis of the columns' span, without what is tiny."""
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, values > 1e-3 * problem.typical]


def without_mode(problem: FreeFeatures, point: np.ndarray, mode: int) -> np.ndarray:
    """The point with one singular direction of the classifier taken out of every factor."""
    factors = [factor.clone() for factor in problem.factors(point)]
    layers = len(problem.decays) - 1
    left = torch.linalg.svd(product(factors[1 : layers + 1]))[0][:, mode]
    for place in reversed(range(1, layers + 1)):
        # What the direction is fed from: zero where it is fed from nowhere.
        source = torch.nn.functional.normalize(factors[place].T @ left, dim=0, eps=1e-300)
        factors[place] -= torch.outer(left, left @ factors[place])
        left = source
    factors[0] -= torch.outer(factors[0] @ left, left)
    return torch.cat([factor.reshape(-1) for factor in factors]).numpy()
