"""Proven lower bounds on the largest cosine between two of K directions."""

import math
from typing import Any

import numpy as np
from scipy.optimize import brentq, linprog
from scipy.special import betaincinv

from neuralcollapse.frames.closed_forms import check_code_size

# Rounding of the special functions is far below this.
_SLACK = 1e-12
_TOLERANCES = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def max_cosine_bound(num_classes: int, dim: int) -> float:
    """A proven lower bound on the largest cosine among any K directions, in [-1/(K-1), 1).

        -1/(K-1)            K <= d+1, attained by the simplex             (Rankin 1955)
        cos(2 pi / K)       d = 2, attained by the regular polygon
        0                   d+1 < K <= 2d, attained by many               (Rankin 1955)
        the best of three   K > 2d

    The three: K disjoint caps have no more area than the sphere; in three dimensions, no circle
    packing is denser than the one of touching triples (Fejes Toth 1943); and linear programming
    (Delsarte, Goethals, Seidel 1977): a polynomial with non-negative Gegenbauer coefficients and
    f(x) <= 0 on [-1, s] proves that at most f(1) / f_0 directions have cosines up to s. The program
    is solved in floating point, and its polynomial checked afterwards over the whole interval, with
    bounds on its derivatives, so that an inaccurate solution costs sharpness and not truth.

    Args:
        num_classes: K, at least 2.
        dim: d, at least 1, and at least 2 for K > 2.

    Raises:
        ValueError: if K < 2 or dim is too small.

    Example:
        >>> max_cosine_bound(5, 4), max_cosine_bound(8, 4)
        (-0.25, 0.0)
        >>> round(max_cosine_bound(12, 3), 4)  # the icosahedron's, 1 / sqrt(5)
        0.4472
    """
    num_classes, dim = check_code_size(num_classes, dim)
    if num_classes <= dim + 1:
        return -1 / (num_classes - 1)
    if dim == 2:
        return math.cos(2 * math.pi / num_classes)
    if num_classes <= 2 * dim:
        return 0.0
    best = max(0.0, volume_bound(num_classes, dim))
    if dim == 3:
        best = max(best, _triple_bound(num_classes))
    return max(best, linear_programming_bound(num_classes, dim, best))


def cap_angle(fraction: float, dim: int) -> float:
    """The angle, in [0, pi/2], of a cap that takes a share, in [0, 1/2], of the sphere, d >= 2."""
    return math.asin(math.sqrt(float(betaincinv((dim - 1) / 2, 0.5, 2 * fraction))))


def volume_bound(num_classes: int, dim: int) -> float:
    """The largest cosine at which K disjoint caps of half the angle would fill the sphere."""
    return math.cos(2 * cap_angle(1 / num_classes, dim)) - _SLACK


def _triple_bound(num_classes: int) -> float:
    """Three dimensions: (cot(w)^2 - 1) / 2 with w = K / (K-2) pi / 6."""
    cotangent = 1 / math.tan(num_classes / (num_classes - 2) * math.pi / 6)
    return (cotangent**2 - 1) / 2 - _SLACK


def linear_programming_bound(num_classes: int, dim: int, start: float = 0.0) -> float:
    """The largest s >= `start`, to about 1e-9, at which a polynomial proves fewer than K."""
    degree = _degree(num_classes, dim)

    def excess(cosine: float) -> float:
        return math.log(_most_directions(dim, degree, cosine) / num_classes)

    if excess(start) >= 0:
        return start
    bound: Any = brentq(excess, start, 1.0, xtol=1e-10)
    step = 1e-10
    while excess(bound) > -_SLACK:
        bound, step = max(start, bound - step), 2 * step
    return float(bound)


def _degree(num_classes: int, dim: int) -> int:
    """Some degrees above the first at which there are K polynomials on the sphere."""
    degree = 1
    while math.comb(dim + degree - 1, degree) < num_classes and degree < 16:
        degree += 1
    return degree + 10


def _most_directions(dim: int, degree: int, cosine: float) -> float:
    """A number that so many directions with all cosines up to `cosine` are proved not to exceed."""
    if cosine >= 1:
        return 1e30
    nodes = np.cos(np.linspace(0, math.pi, 8 * degree))
    points = (1 + cosine) / 2 * nodes + (cosine - 1) / 2
    fine = np.cos(np.linspace(0, math.pi, 200 * degree)) * (1 + cosine) / 2 + (cosine - 1) / 2
    table = _gegenbauer(fine, dim, degree)[1:]
    # Columns of like size: inside, a polynomial is far below its value at 1.
    sizes = np.sqrt(np.square(table).mean(1))
    best = 1e30
    for _ in range(6):
        values = _gegenbauer(points, dim, degree)[1:] / sizes[:, None]
        solved = linprog(1 / sizes, values.T, np.full(len(points), -1.0), options=_TOLERANCES)
        if solved.status != 0:
            return best
        coefficients = np.maximum(solved.x, 0) / sizes
        excess = _maximum(coefficients, dim, cosine)
        if excess < 0.5:
            # f - excess is nowhere positive on [-1, s], and its mean over the sphere 1 - excess.
            total = 1 + float(coefficients.sum())
            best = min(best, (total - excess) / (1 - excess))
        # The next program also holds where this one's polynomial rose above zero.
        height = 1 + coefficients @ table
        peaks = (height[1:-1] > height[:-2]) & (height[1:-1] >= height[2:]) & (height[1:-1] > 0)
        if excess < 1e-11 or not peaks.any():
            return best
        points = np.concatenate([points, fine[1:-1][peaks]])
    return best


def _maximum(coefficients: np.ndarray, dim: int, cosine: float) -> float:
    """An upper bound, at least 0, on 1 + sum of coefficients[k-1] G_k(x) over x in [-1, cosine].

    Each cell is bounded by value, slope and the largest curvature; the cells in which that bound is
    positive are halved until the curvature does not matter.
    """
    degree = len(coefficients)
    order = np.arange(1, degree + 1)
    slopes = coefficients * order * (order + dim - 2) / (dim - 1)
    curvature = float(slopes @ ((order - 1) * (order + dim - 1))) / (dim + 1)
    rounding = 1e-13 * float(coefficients.sum())
    cells = 64 * degree
    half = (1 + cosine) / 2 / cells
    middles = -1 + half * (2 * np.arange(cells) + 1)
    while True:
        values = 1 + coefficients @ _gegenbauer(middles, dim, degree)[1:] + rounding
        # G_k' is, up to its factor, the polynomial of degree k-1 two dimensions higher.
        steep = np.abs(slopes @ _gegenbauer(middles, dim + 2, degree - 1)) + rounding * degree**2
        above = values + steep * half + curvature * half**2 / 2
        positive = above > 0
        if not positive.any():
            return 0.0
        if curvature * half**2 < 1e-12 or half < 1e-9 or positive.sum() > 20_000:
            return float(above[positive].max())
        half /= 2
        middles = np.concatenate([middles[positive] - half, middles[positive] + half])


def _gegenbauer(points: np.ndarray, dim: int, degree: int) -> np.ndarray:
    """(degree + 1, P), the Gegenbauer polynomials of d dimensions with G_k(1) = 1."""
    rows = np.ones((degree + 1, len(points)))
    if degree:
        rows[1] = points
    for k in range(1, degree):
        rows[k + 1] = ((2 * k + dim - 2) * points * rows[k] - k * rows[k - 1]) / (k + dim - 2)
    return rows
