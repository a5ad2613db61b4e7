"""The convex program of one linear layer, solved and certified.

    min over Z, b of loss(Z + b) + price * nuclear_norm(Z diag(column)) + bias_decay / 2 * |b|^2

with Z (row = output, column = class) the logits of the classes. With column = sqrt(counts) and
price = sqrt(weight_decay * feature_decay) this is the minimum over the classifier and the features
of all samples. The program is symmetric in alike classes, so Z is sought among grouped matrices,
as a product of two factors; whatever the factors, duality bounds how far the result can be from
the minimum.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, minres

from neuralcollapse.theory.class_losses import ClassLoss, Curvature, Scores
from neuralcollapse.theory.matrices import Groups
from neuralcollapse.theory.spectrum import Spectrum

Array = NDArray[np.float64]

# Share of the largest singular value, and logit, below which one is zero.
_ROUNDING = 1e-9
# Newton's method stops at a gradient so small beside the price.
_SMALL_GRADIENT = 1e-11


@dataclass(frozen=True, eq=False)
class Program:
    """What is minimised.

    Attributes:
        loss: of the logits.
        column: (G,), what the column of each group's classes is multiplied with.
        price: of the nuclear norm.
        bias_decay: of the bias; 0 leaves it free, None means that there is none.
    """

    loss: ClassLoss
    column: Array
    price: float
    bias_decay: float | None

    @property
    def groups(self) -> Groups:
        """Of alike classes."""
        return self.loss.groups

    def scores(self, contrast: Array, reduced: Array, bias: Array) -> Scores:
        """The logits of a grouped matrix times diag(column), and a bias (G,)."""
        sizes = self.groups.sizes
        contrast, reduced = contrast / self.column, reduced / self.column
        own = contrast + (np.diagonal(reduced) - contrast) / sizes + bias
        between = (reduced - np.diag(contrast)) / np.sqrt(np.outer(sizes, sizes))
        return Scores(own, between + bias[:, None])

    def gradients(self, slope: Scores) -> tuple[Array, Array, Array]:
        """The transpose of `scores`: derivatives by contrast, reduced and bias.

        That by the contrast is divided by its dimension: the factor of the gradient there.
        """
        sizes, contrasts = self.groups.sizes, self.groups.contrasts
        reduced = slope.between / np.sqrt(np.outer(sizes, sizes)) + np.diag(slope.own / sizes)
        contrast = slope.own * (1 - 1 / sizes) - np.diagonal(slope.between) / sizes
        contrast = np.divide(contrast, contrasts, out=np.zeros_like(sizes), where=contrasts > 0)
        bias = slope.between.sum(1) + slope.own
        return contrast / self.column, reduced / self.column, bias


@dataclass(frozen=True, eq=False)
class Solution:
    """A point and a bound on how far it is from the minimum.

    Attributes:
        contrast: (G,), singular value on the contrasts within each group.
        reduced: (G, G), on the groups' indicators; both of Z diag(column).
        bias: (G,).
        objective: its value.
        certificate: a bound on (objective - minimum) / objective.
    """

    contrast: Array
    reduced: Array
    bias: Array
    objective: float
    certificate: float

    def spectrum(self, program: Program) -> Spectrum:
        """The singular value decomposition."""
        left, values, right = np.linalg.svd(self.reduced)
        # The optimiser drops directions that died: what is left of them is rounding.
        size = max(float(values[0]), float(self.contrast.max()), float(program.column.max()))
        values[values <= _ROUNDING * size] = 0.0
        return Spectrum(program.groups, self.contrast, values, left, right.T, program.column)


def certified(program: Program, contrast: Array, reduced: Array, bias: Array) -> Solution:
    """A point with its objective and the bound that duality gives.

    With G the gradient of the loss by Z diag(column) and s = min(1, price / |G|_2), s G is dual
    feasible, and as the loss is convex and not negative

        objective - minimum <= (1 - s) loss + price * nuclear_norm + s <G, Z diag(column)>
            + |bias_decay * b + s * gradient_b|^2 / (2 bias_decay)

    Where the bias is free, its gradient must vanish: what remains of it counts times |b| + 1.
    """
    groups = program.groups
    value, slope, _ = program.loss(program.scores(contrast, reduced, bias))
    by_contrast, by_reduced, by_bias = program.gradients(slope)
    several = groups.contrasts > 0
    steepest = max(float(np.linalg.norm(by_reduced, 2)), float(np.abs(by_contrast * several).max()))
    scale = min(1.0, program.price / steepest) if steepest else 1.0
    nuclear = np.linalg.svd(reduced, compute_uv=False).sum() + groups.contrasts @ np.abs(contrast)
    inner = (by_reduced * reduced).sum() + groups.contrasts @ (by_contrast * contrast)
    objective = value + program.price * nuclear
    gap = (1 - scale) * value + program.price * nuclear + scale * inner
    root = np.sqrt(groups.sizes)
    if program.bias_decay:
        # `by_bias` sums over the outputs of a group.
        rest = program.bias_decay * bias * root + scale * by_bias / root
        objective += program.bias_decay / 2 * (groups.sizes * bias**2).sum()
        gap += (rest**2).sum() / (2 * program.bias_decay)
    elif program.bias_decay is not None:
        length = np.sqrt((groups.sizes * bias**2).sum())
        gap += np.linalg.norm(by_bias / root) * (length + 1)
    return Solution(contrast, reduced, bias, float(objective), float(max(gap, 0.0) / objective))


def solved(program: Program, start: Array, tolerance: float = 1e-9, rounds: int = 8) -> Solution:
    """The minimum, to a certificate of `tolerance` where rounding allows.

    Args:
        program: what is minimised.
        start: (G, G), where the reduced matrix starts; the contrasts start at one.
        tolerance: of the certificate.
        rounds: of minimising, dropping directions that died, and adding those that duality asks
            for.
    """
    groups = program.groups
    left, values, right = np.linalg.svd(start)
    factors = [left * np.sqrt(values), right.T * np.sqrt(values)]
    roots = np.where(groups.contrasts > 0, np.sqrt(program.column), 0.0)
    point = _Factors(factors[0], factors[1], roots, np.zeros(len(groups)))
    found: list[Solution] = []
    for attempt in range(rounds):
        point = _quasi_newton(program, point, 1e-3 * program.price * 0.03**attempt)
        point = _newton(program, _pruned(program, point))
        found.append(certified(program, point.roots**2, point.left @ point.right.T, point.bias))
        if found[-1].certificate <= tolerance:
            break
        point = _widened(program, point)
    return min(found, key=lambda solution: solution.certificate)


@dataclass(frozen=True, eq=False)
class _Factors:
    """Z diag(column) = left right^T on the groups, roots^2 on the contrasts; and the bias."""

    left: Array
    right: Array
    roots: Array
    bias: Array

    def packed(self) -> Array:
        parts = (self.left, self.right, self.roots, self.bias)
        return np.concatenate([part.ravel() for part in parts])

    def like(self, packed: Array) -> "_Factors":
        size = self.left.size
        shape, groups = self.left.shape, len(self.roots)
        rest = packed[2 * size :]
        return _Factors(
            packed[:size].reshape(shape),
            packed[size : 2 * size].reshape(shape),
            rest[:groups],
            rest[groups:],
        )


def _value(
    program: Program, point: _Factors
) -> tuple[float, _Factors, tuple[Array, Array, Array], Curvature]:
    """(objective, its gradient, gradients by the matrices, curvature of the loss)."""
    groups, price = program.groups, program.price
    scores = program.scores(point.roots**2, point.left @ point.right.T, point.bias)
    value, slope, curvature = program.loss(scores)
    by_contrast, by_reduced, by_bias = program.gradients(slope)
    value += price * ((point.left**2).sum() + (point.right**2).sum()) / 2
    value += price * (groups.contrasts * point.roots**2).sum()
    if program.bias_decay is None:
        by_bias = np.zeros_like(by_bias)
    else:
        value += program.bias_decay / 2 * (groups.sizes * point.bias**2).sum()
        by_bias = by_bias + program.bias_decay * groups.sizes * point.bias
    gradient = _Factors(
        by_reduced @ point.right + price * point.left,
        by_reduced.T @ point.left + price * point.right,
        2 * point.roots * groups.contrasts * (by_contrast + price),
        by_bias,
    )
    return float(value), gradient, (by_contrast, by_reduced, by_bias), curvature


def _hessian_product(
    program: Program,
    point: _Factors,
    gradients: tuple[Array, Array, Array],
    curvature: Curvature,
    change: _Factors,
) -> _Factors:
    """The second derivative of the objective applied to a change of the factors."""
    groups, price = program.groups, program.price
    by_contrast, by_reduced, _ = gradients
    reduced = change.left @ point.right.T + point.left @ change.right.T
    contrast = 2 * point.roots * change.roots
    bias = change.bias if program.bias_decay is not None else np.zeros_like(change.bias)
    turned = curvature(program.scores(contrast, reduced, bias))
    contrast_change, reduced_change, bias_change = program.gradients(turned)
    if program.bias_decay is None:
        bias_change = change.bias
    else:
        bias_change = bias_change + program.bias_decay * groups.sizes * change.bias
    several = groups.contrasts > 0
    roots = (
        2
        * groups.contrasts
        * (point.roots * contrast_change + change.roots * (by_contrast + price))
    )
    return _Factors(
        reduced_change @ point.right + by_reduced @ change.right + price * change.left,
        reduced_change.T @ point.left + by_reduced.T @ change.left + price * change.right,
        np.where(several, roots, change.roots),
        bias_change,
    )


def _quasi_newton(program: Program, point: _Factors, tolerance: float) -> _Factors:
    """A point at which no entry of the gradient exceeds `tolerance`, or 1500 steps towards it."""

    def objective(packed: Array) -> tuple[float, Array]:
        value, gradient, _, _ = _value(program, point.like(packed))
        return value, gradient.packed()

    result = minimize(
        objective,
        point.packed(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 1500, "maxfun": 3000, "maxcor": 30, "ftol": 1e-15, "gtol": tolerance},
    )
    return point.like(result.x)


def _newton(program: Program, point: _Factors, steps: int = 25) -> _Factors:
    """Newton's method, by minimal residuals, while it makes the gradient smaller."""
    _, gradient, gradients, curvature = _value(program, point)
    size = np.linalg.norm(gradient.packed())
    for _ in range(steps):
        if size <= _SMALL_GRADIENT * program.price:
            break
        packed = gradient.packed()

        def product(
            vector: Array,
            point: _Factors = point,
            gradients: tuple[Array, Array, Array] = gradients,
            curvature: Curvature = curvature,
        ) -> Array:
            change = point.like(vector)
            return _hessian_product(program, point, gradients, curvature, change).packed()

        shape = (len(packed), len(packed))
        operator = LinearOperator(shape, matvec=product, dtype=float)  # pyright: ignore
        step, _ = minres(operator, -packed, rtol=min(1e-3, float(size)), maxiter=400)
        moved = point.like(point.packed() + step)
        _, new_gradient, new_gradients, new_curvature = _value(program, moved)
        new_size = np.linalg.norm(new_gradient.packed())
        if not new_size < 0.9 * size:
            break
        point, gradient, gradients, curvature = moved, new_gradient, new_gradients, new_curvature
        size = new_size
    return point


def _pruned(program: Program, point: _Factors, share: float = 1e-5) -> _Factors:
    """Balanced factors without directions that have died; dead contrasts exactly zero."""
    left, values, right = np.linalg.svd(point.left @ point.right.T)
    size = max(float(values[0]), float(point.roots.max()) ** 2, 1e-3 * float(program.column.max()))
    keep = values > share * size
    root = np.sqrt(values[keep])
    _, _, (by_contrast, _, _), _ = _value(
        program, _Factors(point.left, point.right, 0 * point.roots, point.bias)
    )
    # The contrasts of a group die where even at zero the loss does not pay for them.
    roots = np.where(by_contrast < -program.price, point.roots, 0.0)
    return _Factors(left[:, keep] * root, right.T[:, keep] * root, roots, point.bias)


def _widened(program: Program, point: _Factors) -> _Factors:
    """Factors with the directions added along which the loss falls faster than their price."""
    _, _, (by_contrast, by_reduced, _), _ = _value(program, point)
    left, values, right = np.linalg.svd(by_reduced)
    steep = values > program.price
    size = 1e-2 * max(1.0, float(np.abs(point.left).max(initial=0.0)))
    roots = np.where((by_contrast < -program.price) & (point.roots == 0), size, point.roots)
    return _Factors(
        np.concatenate([point.left, -size * left[:, steep]], axis=1),
        np.concatenate([point.right, size * right.T[:, steep]], axis=1),
        roots,
        point.bias,
    )
