"""The scalar problem behind every closed form of squared error.

With a deep linear head and free features the objective splits into modes, the singular directions
of the targets. A mode of singular value y costs

    y^2 / (2 N) * (1 / (x^M + 1) + level * x),    level = M N (N Lam)^(1/M) / y^2

where M is the number of linear layers, N the number of samples, Lam the product of the decays of
all layers and of the features, and x^M = w^2 / (N feature_decay) for the squared singular value w^2
of the product of the layers. The value that the mode fits is a share x^M / (x^M + 1) of its target.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

Array = NDArray[np.float64]


def jump_level(depth: int) -> float:
    """The level up to which a mode that is not zero is the global minimum; 1 at depth 1.

    (M - 1)^((M - 1) / M) / M
    """
    return 1.0 if depth == 1 else (depth - 1) ** ((depth - 1) / depth) / depth


def spinodal_level(depth: int) -> float:
    """The level up to which a mode that is not zero is a local minimum; 1 at depth 1.

    M q^((M - 1) / M) / (q + 1)^2    with q = (M - 1) / (M + 1)
    """
    if depth == 1:
        return 1.0
    turn = (depth - 1) / (depth + 1)
    return depth * turn ** ((depth - 1) / depth) / (turn + 1) ** 2


def share_at_jump(depth: int) -> float:
    """The share of its target that a mode still fits where it ceases to be the global minimum."""
    return (depth - 1) / depth


def mode_scale(decays: Sequence[float], num_samples: float) -> float:
    """level * y^2, from the decays of the M layers and, last, of the features.

    M N (N Lam)^(1/M)
    """
    depth = len(decays) - 1
    # In logarithms: a product of many small decays would underflow.
    logs = math.fsum(math.log(decay) for decay in decays)
    return depth * num_samples * math.exp((math.log(num_samples) + logs) / depth)


def largest_root(level: float, depth: int) -> float:
    """The largest x with level = M x^(M-1) / (x^M + 1)^2: the mode's local minimum.

    Raises:
        ValueError: if there is none, because `level` is above the spinodal.
    """
    if level > spinodal_level(depth):
        raise ValueError(
            f"level must be at most {spinodal_level(depth):g} at depth {depth}, got {level:g}; "
            "beyond it a mode has no minimum but zero"
        )
    if depth == 1:
        return 1 / math.sqrt(level) - 1

    height = math.log(depth / level)

    def excess(log_x: float) -> float:
        power = depth * log_x
        # log(1 + x^M) without overflow; `math`, because a thousand classes ask for it.
        softened = max(power, 0.0) + math.log1p(math.exp(-abs(power)))
        return height + (depth - 1) * log_x - 2 * softened

    # On this interval the right-hand side decreases; it is below M x^-(M+1) everywhere.
    low = math.log((depth - 1) / (depth + 1)) / depth
    high = height / (depth + 1)
    if excess(low) <= 0 or high <= low:
        return math.exp(low)
    return math.exp(root_between(excess, low, high))


def root_between(function: Callable[[float], float], low: float, high: float) -> float:
    """The root of a function that has opposite signs at `low` and `high`, by Brent's method."""
    return float(brentq(function, low, high, xtol=1e-15, rtol=1e-15))  # pyright: ignore


def fitted_shares(squares: Array, decays: Sequence[float], num_samples: float) -> Array:
    """The share x^M / (x^M + 1) of its target that each mode fits at the global minimum, in [0, 1).

    Args:
        squares: y^2, the squared singular values of the targets; zeros stay zero.
        decays: of the M layers and, last, of the features.
        num_samples: N.
    """
    depth = len(decays) - 1
    scale = mode_scale(decays, num_samples)
    alive = squares * jump_level(depth) > scale
    shares = np.zeros_like(squares)
    if depth == 1:
        shares[alive] = 1 - np.sqrt(scale / squares[alive])
        return shares
    values, places = np.unique(squares[alive], return_inverse=True)
    roots = np.array([largest_root(scale / value, depth) for value in values])
    powers = roots**depth
    shares[alive] = (powers / (1 + powers))[places]
    return shares
