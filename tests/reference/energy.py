"""Potentials on the unit sphere as loops over pairs in float64, from their definitions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np


def distances(vectors: np.ndarray) -> Iterator[float]:
    """norm(u_k - u_j) for k < j, with u the directions of the rows."""
    vectors = np.asarray(vectors, dtype=np.float64)
    units = [v / math.sqrt(sum(x * x for x in v)) for v in vectors]
    for k in range(len(units)):
        for j in range(k + 1, len(units)):
            yield math.sqrt(
                math.fsum((a - b) ** 2 for a, b in zip(units[k], units[j], strict=True))
            )


def riesz(vectors: np.ndarray, power: float) -> float:
    if power == 0:
        return math.fsum(-math.log(distance) for distance in distances(vectors))
    sign = 1 if power > 0 else -1
    return math.fsum(sign * distance**-power for distance in distances(vectors))


def log_riesz(vectors: np.ndarray, power: float) -> float:
    """Relative to the closest pair, whose term is the largest."""
    all_distances = list(distances(vectors))
    closest = min(all_distances)
    ratios = math.fsum((closest / distance) ** power for distance in all_distances)
    return -power * math.log(closest) + math.log(ratios)


def gaussian(vectors: np.ndarray, scale: float) -> float:
    return math.fsum(math.exp(-scale * distance**2) for distance in distances(vectors))


def gaussian_log_determinant(vectors: np.ndarray, scale: float, jitter: float) -> float:
    """By elimination, pivots on the diagonal."""
    count = len(vectors)
    gram = [[1.0 + jitter if k == j else 0.0 for j in range(count)] for k in range(count)]
    pairs = ((k, j) for k in range(count) for j in range(k + 1, count))
    for (k, j), distance in zip(pairs, distances(vectors), strict=True):
        gram[k][j] = gram[j][k] = math.exp(-scale * distance**2)
    logarithm = 0.0
    for p in range(count):
        logarithm += math.log(gram[p][p])
        for k in range(p + 1, count):
            factor = gram[k][p] / gram[p][p]
            for j in range(p, count):
                gram[k][j] -= factor * gram[p][j]
    return logarithm
