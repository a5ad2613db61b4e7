"""The numeric judge: direct minimisation over free features and the layers of a linear head.

It knows no closed form. It takes the library's own losses, every sample's feature is a variable of
its own, and what it finds is compared with what theory says.
"""

import copy
import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from neuralcollapse.geometry import Geometry
from neuralcollapse.losses import AbstractLoss, CrossEntropy, SquaredError
from neuralcollapse.scalars import check_choice, check_integer
from neuralcollapse.theory.free_features import (
    End,
    FreeFeatures,
    product,
    with_new_mode,
    without_mode,
)
from neuralcollapse.theory.problem import (
    checked_bias,
    checked_counts,
    checked_decay,
    checked_decays,
    checked_per_class,
    checked_width,
)

_BY_NAME: dict[str, type[AbstractLoss]] = {"mse": SquaredError, "ce": CrossEntropy}
# Kinds of random starts: whether factors are orthogonal instead of Gaussian, and the size of their
# product in units of one-hot targets. Small ones, and the weak directions of Gaussian products,
# lose classes to the minimum at zero that every depth above 1 has; large ones keep classes that
# are better lost; only Gaussian ones find classifiers of low rank.
_KINDS = ((False, 4.0), (True, 4.0), (False, 1.0), (True, 8.0), (False, 8.0), (True, 1.0))
# A point counts as stationary where the gradient is below this share of the decay's own gradient.
_STATIONARY = 1e-5
# What L-BFGS keeps, and how often the best point's descent is begun anew with an empty memory.
_MEMORY = 30
_ROUNDS = 4
# A descent of the search ends where an iteration gains less than this share of the objective.
_SEARCHED = 1e-12


@dataclass(frozen=True, eq=False)
class UnconstrainedOptimum:
    """The best point that direct minimisation found; all tensors in float64.

    Attributes:
        objective: loss plus decays at the point.
        layers: weights of the linear layers, from the features on; entry j is (d_{j+1}, d_j).
        features: (N, d), one per sample.
        labels: (N,), the classes, in ascending order.
        bias: (K,), or None without a bias.
        gradient_norm: Euclidean norm of the objective's gradient there, over all variables; for
            features that cannot be negative, of its projection.
        objectives: what each random start ended at, in the order of the starts; at depth 2 and
            more the best point may lie below all of them.
    """

    objective: float
    layers: tuple[Tensor, ...]
    features: Tensor
    labels: Tensor
    bias: Tensor | None
    gradient_norm: float
    objectives: tuple[float, ...]

    @property
    def weight(self) -> Tensor:
        """(K, d), the classifier: the product of the layers."""
        return product(self.layers)

    @property
    def class_means(self) -> Tensor:
        """(K, d), means of the features of each class; not centred."""
        num_classes = self.layers[-1].shape[0]
        sums = torch.zeros(num_classes, self.features.shape[1], dtype=torch.float64)
        counts = torch.bincount(self.labels, minlength=num_classes)
        return sums.index_add(0, self.labels, self.features) / counts[:, None]

    @property
    def gram_classifier(self) -> Tensor:
        """(K, K), inner products of the rows of the classifier."""
        return self.weight @ self.weight.T

    @property
    def gram_features(self) -> Tensor:
        """(K, K), inner products of the class means, not centred."""
        return self.class_means @ self.class_means.T

    @property
    def geometry(self) -> Geometry:
        """Gram blocks at true scale, with class means centred on their mean, as a measurement's."""
        means = self.class_means
        return Geometry.from_vectors(means - means.mean(0), self.weight)

    @property
    def logits(self) -> Tensor:
        """(K, K), row k the logits of the mean feature of class k, bias included."""
        logits = self.class_means @ self.weight.T
        return logits if self.bias is None else logits + self.bias

    @property
    def spread(self) -> float:
        """NC1: the largest distance of a feature from its class mean; 0 at collapse."""
        return float((self.features - self.class_means[self.labels]).norm(dim=1).max())


def unconstrained(
    loss: AbstractLoss | Literal["mse", "ce"],
    counts: Sequence[int] | Tensor,
    *,
    weight_decay: float | Sequence[float],
    feature_decay: float,
    depth: int = 1,
    bias: Literal["none", "free"] | float = "none",
    dim: int | None = None,
    widths: Sequence[int] | None = None,
    activation: Literal["linear", "relu"] = "linear",
    class_weights: Sequence[float] | None = None,
    starts: int = 6,
    generator: torch.Generator | None = None,
    max_iterations: int = 20_000,
) -> UnconstrainedOptimum:
    """The minimum of a loss over free features and a linear head, found numerically.

        loss(features, labels, weight, bias)
            + sum_j(weight_decay_j / 2 * norm(layers_j)^2) + feature_decay / 2 * norm(features)^2
            + bias / 2 * norm(bias)^2  (where `bias` is a number)

    with weight the product of the layers, and Frobenius norms over all samples. Squared error is
    1/(2 N) times the squared distance, cross entropy the mean over the N samples.

    Every feature is a variable: nothing is assumed about collapse. Minimised in float64 by L-BFGS
    (with bounds where features cannot be negative) from random starts of several kinds. At depth 2
    and more, where zero is a local minimum for every class, single singular directions of the
    classifier are then added to or dropped from the best point for as long as the objective falls.
    For one layer and a convex loss every minimum is global if `dim` is at least the number of
    classes; otherwise the result is the best that was found.

    Args:
        loss: a loss of the library, or any other `AbstractLoss` that is a mean over samples;
            "mse" and "ce" are `SquaredError()` and `CrossEntropy()`.
        counts: (K,), samples per class.
        weight_decay: of each layer, from the features on, or one for all.
        feature_decay: of the features.
        depth: number of linear layers.
        bias: "none", "free" (not decayed), or the decay of the bias.
        dim: d, width of the features; by default K, and 2 K for activation "relu", where spare
            dimensions help the search.
        widths: (depth - 1,), widths between the layers, from the features on; by default K.
        activation: "relu" keeps features from being negative.
        class_weights: (K,), factors of the loss of each class's samples.
        starts: number of random starts.
        generator: of the random starts; by default a new one, always the same.
        max_iterations: of L-BFGS, for each start.

    Raises:
        TypeError: if the loss is neither an AbstractLoss nor one of the names.
        ValueError: if a count, decay or width is out of range, or lengths do not fit.

    Warns:
        RuntimeWarning: if the best point is not stationary.

    Example:
        >>> best = unconstrained("mse", [6] * 4, weight_decay=0.01, feature_decay=0.004)
        >>> round(best.objective, 9)
        0.060047734
        >>> bool((best.gram_classifier - 1.45319334 * torch.eye(4)).abs().max() < 1e-6)
        True
    """
    problem = _problem(
        loss, counts, weight_decay, feature_decay, depth, bias, dim, widths, activation,
        class_weights,
    )  # fmt: skip
    starts = check_integer("starts", starts, 1)
    max_iterations = check_integer("max_iterations", max_iterations, 1)
    generator = generator or torch.Generator().manual_seed(0)
    ends = [
        _descend(problem, problem.random_start(*kind, generator), max_iterations)
        for kind in itertools.islice(itertools.cycle(_KINDS), starts)
    ]
    best = min(ends, key=lambda end: end.objective)
    if len(problem.decays) > 2 and not problem.nonnegative:
        best = _with_the_right_modes(problem, best, max_iterations)
    best = _polished(problem, best, max_iterations)
    if not math.isfinite(best.objective + best.residual):
        raise ValueError("loss must be bounded below and finite, but its minimisation diverged")
    if best.residual > _STATIONARY:
        warnings.warn(
            f"the best point is not stationary (its gradient is {best.residual:.1e} of the "
            "decay's); raise max_iterations",
            RuntimeWarning,
            stacklevel=2,
        )
    return _optimum(problem, best, tuple(end.objective for end in ends))


def _optimum(
    problem: FreeFeatures, end: End, objectives: tuple[float, ...]
) -> UnconstrainedOptimum:
    """The end of a search in its own units."""
    features, layers, bias = problem.natural(problem.factors(end.point))
    square = 0.0
    scales = (*problem.decays, 1.0)
    for part, scale in zip(problem.factors(end.gradient), scales, strict=False):
        square += scale * float(part.square().sum())
    return UnconstrainedOptimum(
        end.objective, tuple(layers), features, problem.labels, bias, square**0.5, objectives
    )


def _descend(
    problem: FreeFeatures, point: np.ndarray, max_iterations: int, gain: float = _SEARCHED
) -> End:
    """L-BFGS from a point, until an iteration gains no more than a share of the objective."""
    from scipy.optimize import Bounds, minimize

    bounds = None
    if problem.nonnegative:
        low = np.full(len(point), -np.inf)
        low[: problem.sizes[0]] = 0.0
        bounds = Bounds(low, np.inf)  # pyright: ignore[reportArgumentType]
    result: Any = minimize(
        problem.value_and_gradient,
        point,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={
            "maxcor": _MEMORY,
            "maxiter": max_iterations,
            "maxfun": 2 * max_iterations,
            "ftol": gain,
            "gtol": 1e-10 * problem.typical,
        },
    )
    return problem.end(np.array(result.x))


def _polished(problem: FreeFeatures, best: End, max_iterations: int) -> End:
    """The best point brought as near to stationarity as float64 allows."""
    for _ in range(_ROUNDS):
        end = _descend(problem, best.point, max_iterations, 0.0)
        if end.residual >= best.residual and end.objective >= best.objective:
            return best
        best = end
        if best.residual < 1e-9:
            break
    return best


def _with_the_right_modes(problem: FreeFeatures, best: End, max_iterations: int) -> End:
    """Give the classifier a singular direction more, or one less, while the objective falls."""
    rank = min(min(shape) for shape in problem.shapes[: len(problem.decays)])
    while True:
        points = [with_new_mode(problem, best.point)]
        points += [without_mode(problem, best.point, mode) for mode in reversed(range(rank))]
        for point in points:
            trial = _descend(problem, point, max_iterations)
            if trial.objective < best.objective - 1e-10 * abs(best.objective):
                best = trial
                break
        else:
            return best


def _problem(
    loss: Any,
    counts: Any,
    weight_decay: Any,
    feature_decay: Any,
    depth: Any,
    bias: Any,
    dim: Any,
    widths: Any,
    activation: Any,
    class_weights: Any,
) -> FreeFeatures:
    """The checked arguments of `unconstrained` as a problem."""
    check_choice("activation", activation, ("linear", "relu"))
    depth = check_integer("depth", depth, 1)
    samples = [int(count) for count in checked_counts(counts)]
    num_classes = len(samples)
    default = 2 * num_classes if activation == "relu" else num_classes
    dim = check_integer("dim", default if dim is None else dim, 1)
    checked_width(dim, widths, depth)
    between = [num_classes] * (depth - 1) if widths is None else widths
    steps = [dim, *between, num_classes]
    shapes = [(sum(samples), dim), *((steps[j + 1], steps[j]) for j in range(depth))]
    bias = checked_bias(bias)
    bias_decay = {"none": None, "free": 0.0}[bias] if isinstance(bias, str) else bias
    if class_weights is not None:
        class_weights = torch.tensor(checked_per_class("class_weights", class_weights, num_classes))
    return FreeFeatures(
        loss=_loss(loss),
        labels=torch.repeat_interleave(torch.arange(num_classes), torch.tensor(samples)),
        counts=torch.tensor(samples),
        class_weights=class_weights,
        shapes=tuple(shapes if bias_decay is None else [*shapes, (num_classes,)]),
        decays=(
            checked_decay("feature_decay", feature_decay),
            *checked_decays(weight_decay, depth),
        ),
        bias_decay=bias_decay,
        nonnegative=activation == "relu",
    )


def _loss(loss: Any) -> AbstractLoss:
    if isinstance(loss, str):
        return _BY_NAME[check_choice("loss", loss, tuple(_BY_NAME))]()
    if not isinstance(loss, AbstractLoss):
        raise TypeError(
            f"loss must be an AbstractLoss or one of {', '.join(_BY_NAME)}, got "
            f"{type(loss).__name__}"
        )
    # A copy: its constants become float64, and nobody else's loss is changed.
    return copy.deepcopy(loss).double()
