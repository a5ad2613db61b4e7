"""Named worlds of labelled features with a classifier, and what they are built of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralcollapse import ClassStatistics


@dataclass(frozen=True, eq=False)
class World:
    """Labelled features with a classifier, all in float64."""

    name: str
    features: Tensor  # (N, d)
    labels: Tensor  # (N,)
    num_classes: int
    weight: Tensor  # (K, d)
    bias: Tensor  # (K,)
    outsiders: Tensor | None = None  # (M, d), of none of the classes

    def statistics(self, dtype: torch.dtype = torch.float64) -> ClassStatistics:
        return ClassStatistics.from_features(self.features.to(dtype), self.labels, self.num_classes)

    def replace(self, **changes: Any) -> World:
        return dataclasses.replace(self, **changes)


def simplex_vertices(num_classes: int, dim: int, seed: int = 0) -> np.ndarray:
    """(K, d) unit vectors, a regular simplex around the origin in a random orientation.

    From the eigenvectors of I - J/K; not how the library makes its frames.
    """
    values, vectors = np.linalg.eigh(np.eye(num_classes) - 1 / num_classes)
    corners = vectors[:, 1:] * np.sqrt(values[1:])
    corners /= np.linalg.norm(corners, axis=1, keepdims=True)
    return corners @ rotation(dim, seed)[: num_classes - 1]


def rotation(dim: int, seed: int = 0) -> np.ndarray:
    """(d, d), a random orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]


def cross_polytope(dim: int) -> np.ndarray:
    """(2 d, d), the rows e_i and -e_i."""
    return np.concatenate([np.eye(dim), -np.eye(dim)])


def harmonic_frame(num_classes: int, dim: int) -> np.ndarray:
    """(K, d), d even and below K: equal norms, sum zero, every direction alike (tight)."""
    angles = 2 * np.pi * np.outer(np.arange(num_classes), np.arange(1, dim // 2 + 1)) / num_classes
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def world(
    name: str,
    means: np.ndarray,
    counts: int | Sequence[int],
    noise: float,
    *,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    seed: int = 0,
    in_pairs: bool = False,
) -> World:
    """Gaussian noise around class means; `in_pairs` adds +x and -x so that means stay exact.

    Without a weight the classifier is the centred means and a little noise, with a random bias.
    """
    rng = np.random.default_rng(seed)
    num_classes, dim = means.shape
    sizes = [counts] * num_classes if isinstance(counts, int) else list(counts)
    labels = np.repeat(np.arange(num_classes), sizes)
    if in_pairs:
        half = rng.standard_normal((sum(sizes) // 2, dim))
        # Multiples of 2^-10: sums of a few are exact in float64, and so are the class means.
        spread = np.repeat(np.round(half * noise * 1024) / 1024, 2, axis=0)
        spread[1::2] *= -1
    else:
        spread = noise * rng.standard_normal((len(labels), dim))
    centred = means - means.mean(0)
    if weight is None:
        weight = centred + 0.1 * np.abs(centred).max() * rng.standard_normal(means.shape)
    if bias is None:
        bias = 0.1 * rng.standard_normal(num_classes)
    return World(
        name=name,
        features=torch.from_numpy(means[labels] + spread),
        labels=torch.from_numpy(labels),
        num_classes=num_classes,
        weight=torch.from_numpy(weight),
        bias=torch.from_numpy(bias),
    )


def collapsed(num_classes: int = 4, dim: int = 6, count: int = 6, seed: int = 1) -> World:
    """Every sample on its vertex; the classifier is dual and decides as the nearest mean does.

    Where a dimension is left, the outsiders' mean lies across all class means.
    """
    vertices = 3 * simplex_vertices(num_classes, dim, seed)
    centre = np.linspace(-1, 2, dim)
    weight = 2 * vertices
    made = world(
        "collapsed",
        vertices + centre,
        count,
        0.0,
        weight=weight,
        bias=-weight @ centre,
    )
    if dim <= num_classes:
        return made
    across = torch.from_numpy(np.linalg.svd(vertices + centre)[2][-1])
    spread = torch.from_numpy(weight[:1])
    return made.replace(outsiders=torch.cat([across + spread, 3 * across - spread]))


def _by_hand() -> World:
    """Every number is known in closed form."""
    return World(
        "by hand",
        torch.tensor([[1, 0], [3, 0], [-1, 1], [-3, -1]], dtype=torch.float64),
        torch.tensor([0, 0, 1, 1]),
        2,
        torch.tensor([[1, 1], [-1, -1]], dtype=torch.float64),
        torch.zeros(2, dtype=torch.float64),
    )


def _one_class_longer() -> World:
    means = simplex_vertices(5, 8, 2)
    means[0] *= 3
    return world("one class longer", means, 10, 0.2, seed=3)


def _minority_merged() -> World:
    means = simplex_vertices(6, 8, 4)
    means[3:] = means[3] + 1e-3 * np.random.default_rng(5).standard_normal((3, 8))
    return world("minority merged", means, [40, 40, 40, 2, 2, 2], 0.1, seed=6)


def _flat() -> World:
    """Six class means that span two of eight dimensions, exactly."""
    means = np.zeros((6, 8))
    means[:, :2] = [[4, 0], [2, 3], [-1, 4], [-4, 1], [-2, -3], [3, -2]]
    return world("means in a plane", means, 8, 0.5, seed=7, in_pairs=True)


def _steep() -> World:
    """Between-class singular values from 1 to 1e-5: pinv in float32 forgets the small ones."""
    rng = np.random.default_rng(8)
    directions = rotation(20, 9)[:5] * np.logspace(0, -5, 5)[:, None]
    return world("steep hierarchy", rng.standard_normal((6, 5)) @ directions, 10, 1e-5, seed=10)


def _one_class_unseen() -> World:
    return world("classes 2 and 5 unseen", simplex_vertices(6, 7, 11), [9, 9, 0, 9, 9, 0], 0.3)


def _rng_means(num_classes: int, dim: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_classes, dim))


WORLDS: tuple[World, ...] = (
    collapsed(),
    world("noisy", simplex_vertices(5, 8, 12), 12, 0.4, seed=13),
    _by_hand(),
    _one_class_longer(),
    _minority_merged(),
    world("K > d + 1", _rng_means(9, 3, 14), 8, 0.3, seed=15),
    world("K = d + 1", _rng_means(6, 5, 16), 8, 0.3, seed=17),
    _one_class_unseen(),
    world("one sample per class", _rng_means(5, 6, 18), 1, 0.3, seed=19),
    world("some singletons", _rng_means(5, 6, 20), [1, 7, 1, 7, 7], 0.3, seed=21),
    world("long tail", simplex_vertices(8, 12, 22), [192, 106, 59, 32, 18, 10, 5, 3], 0.5, seed=23),
    _flat(),
    _steep(),
    world("two classes", _rng_means(2, 3, 24), 10, 0.5, seed=25),
    world("one dimension", np.array([[-1.0], [0.5], [3.0]]), 6, 0.2, seed=26),
    world("cross-polytope", cross_polytope(3), 3, 0.0),
    world("far and tight", 30 * simplex_vertices(5, 8, 27) + 30, 20, 1e-5, seed=28),
)
world_cases = {"argvalues": WORLDS, "ids": [w.name for w in WORLDS]}
