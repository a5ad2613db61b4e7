"""The singular value decomposition of centred one-hot targets, without decomposing a matrix.

With a free bias the modes of squared error are those of (I - counts 1^T / N) diag(sqrt(counts)).
Its product with its transpose is diagonal minus rank one,

    diag(counts) - counts counts^T / N

so that its squared singular values mu are the zeros of one rational function, one between every
two neighbouring counts, and the singular vectors are known once those are:

    sum_k counts_k / (counts_k - mu) = 0
    left_k ~ counts_k / (counts_k - mu),    right_k ~ sqrt(counts_k) / (counts_k - mu)
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_MOST_STEPS = 60
# A step of Newton's method so small, relatively, squares to rounding.
_QUADRATIC = 1e-9
_CACHED = 1 << 16


def centred_modes(sizes: Array, each: Array) -> tuple[Array, Array, Array]:
    """(left, values, right) on the groups' indicators: (G, G - 1), (G - 1), (G, G - 1).

    Largest first. The one direction that is missing has the value zero: the constant over outputs.

    Args:
        sizes: (G,), classes in each group.
        each: (G,), the count of each class of a group, ascending; no two are equal.
    """
    root = np.sqrt(sizes)
    values, inverse = _roots(each, sizes * each / (sizes @ each))
    # Entries of a vector share the sign of 1 / (counts - mu): left and right belong together.
    left, right = inverse * (root * each), inverse * (root * np.sqrt(each))
    for vectors in (left, right):
        vectors /= np.sqrt(np.einsum("rg,rg->r", vectors, vectors))[:, None]
    return left[::-1].T, np.sqrt(values[::-1]), right[::-1].T


def _roots(poles: Array, weights: Array) -> tuple[Array, Array]:
    """The zeros mu of sum_k weights_k / (poles_k - mu) between the poles, and 1 / (poles - mu).

    Each zero is sought as a distance from the nearer of its two poles, so that no difference
    poles - mu loses digits: with weights of sum one the relative error of the distance is that of
    rounding over the square root of the pole's weight. Newton's method on the function times the
    distances to both poles, which is smooth up to the poles; bisection where it leaves the bracket.

    Args:
        poles: (G,), ascending, no two equal.
        weights: (G,), positive, of sum one.
    """
    gaps = np.diff(poles)
    values, inverse = np.empty_like(gaps), np.empty((len(gaps), len(poles)))
    # So many rows at a time that they stay in the processor's cache.
    size = max(1, _CACHED // len(poles))
    for first in range(0, len(gaps), size):
        rows = np.arange(first, min(first + size, len(gaps)))
        values[rows], inverse[rows] = _some_roots(poles, weights, rows)
    return values, inverse


def _some_roots(poles: Array, weights: Array, rows: NDArray[np.int64]) -> tuple[Array, Array]:
    below, above = poles[rows], poles[rows + 1]
    half = (above - below) / 2
    # The function rises: where it is positive in the middle its zero lies in the left half.
    left = (1 / (poles - (below + half)[:, None])) @ weights > 0
    origin = np.where(left, below, above)
    low, high = np.where(left, 0.0, -half), np.where(left, half, 0.0)
    distance = (low + high) / 2
    from_origin = poles - origin[:, None]
    inverse = np.empty_like(from_origin)
    for _ in range(_MOST_STEPS):
        np.reciprocal(np.subtract(from_origin, distance[:, None], out=inverse), out=inverse)
        value, slope = inverse @ weights, np.einsum("rg,rg,g->r", inverse, inverse, weights)
        low, high = np.where(value < 0, distance, low), np.where(value > 0, distance, high)
        back, on = below - origin - distance, above - origin - distance
        step = value * back * on / (value * (back + on) - slope * back * on)
        close = np.abs(step) <= _QUADRATIC * np.abs(distance)
        moved = distance + step
        outside = ~close & ((moved <= low) | (moved >= high))
        distance = np.where(outside, (low + high) / 2, moved)
        if close.all():
            break
    np.reciprocal(np.subtract(from_origin, distance[:, None], out=inverse), out=inverse)
    return origin + distance, inverse
