"""How far apart classes are, looked up by pairs: from a matrix, or from a tree without one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from neuralcollapse.checks import check_finite, check_matrix
from neuralcollapse.hierarchy import DISTANCE_KINDS, Hierarchy
from neuralcollapse.hierarchy.distances import DistanceKind
from neuralcollapse.scalars import check_choice


@dataclass(frozen=True)
class Profile:
    """What rankings can score at best, at worst and by chance, for some classes.

    Attributes:
        near: (C, top) float64, the smallest distances of each class to any class, ascending; the
            first is its own, 0.
        far: (C, top), the largest, descending.
        mean: (C,), the mean distance to all K classes, its own included.
    """

    near: Tensor
    far: Tensor
    mean: Tensor


class ClassDistances(ABC):
    """Distances between K classes; 0 between a class and itself."""

    num_classes: int
    name: str

    @abstractmethod
    def between(self, labels: Tensor, others: Tensor) -> Tensor:
        """(N, r) float64, the distance of labels (N,) to the classes others (N, r)."""

    @abstractmethod
    def profile(self, classes: Tensor, top: int) -> Profile:
        """The profile of classes (C,), for rankings of `top` <= K classes."""

    @abstractmethod
    def same(self, other: "ClassDistances") -> bool:
        """Whether the distances are the same numbers."""


class MatrixDistances(ClassDistances):
    """Distances in a matrix (K, K), entry [true, predicted]."""

    name = "given matrix"

    def __init__(self, matrix: Tensor):
        check_matrix("distances", matrix)
        check_matrix("distances", matrix, rows=matrix.shape[1], why="a row for every column")
        check_finite("distances", matrix)
        if not len(matrix):
            raise ValueError("distances must have at least one class, got shape (0, 0)")
        if float(matrix.min()) < 0 or bool((matrix.diagonal() != 0).any()):
            raise ValueError(
                "distances must be at least 0, and 0 between a class and itself, got a smallest "
                f"entry of {float(matrix.min()):g} and a diagonal up to "
                f"{float(matrix.diagonal().abs().max()):g}; similarities become distances as "
                "1 - similarity"
            )
        self.matrix = matrix.detach().double()
        self.num_classes = len(matrix)

    def between(self, labels: Tensor, others: Tensor) -> Tensor:
        """(N, r) float64, entries of the matrix."""
        self.matrix = self.matrix.to(labels.device)  # once
        return self.matrix[labels[:, None], others]

    def profile(self, classes: Tensor, top: int) -> Profile:
        """From the rows of the matrix."""
        rows = self.matrix.cpu()[classes.cpu()]
        near = rows.topk(top, 1, largest=False).values
        return Profile(near, rows.topk(top, 1).values, rows.mean(1))

    def same(self, other: ClassDistances) -> bool:
        """Whether the other is an equal matrix."""
        return isinstance(other, MatrixDistances) and torch.equal(
            self.matrix.cpu(), other.matrix.cpu()
        )


class TreeDistances(ClassDistances):
    """Heights or depths of the lowest common ancestor, read off the ancestors of each class.

    Needs K x (height of the tree) numbers, so that a million classes do.

    Args:
        hierarchy: the tree.
        kind: "lca_height" or "root_depth".
    """

    def __init__(self, hierarchy: Hierarchy, kind: Literal["lca_height", "root_depth"]):
        self.hierarchy = hierarchy
        self.kind = kind
        self.name = kind
        self.num_classes = hierarchy.num_classes
        # (K, H + 1): ancestors from the root down to the class itself.
        self._ancestors = torch.tensor(hierarchy.levels)
        if kind == "lca_height":
            height = torch.tensor(hierarchy.height, dtype=torch.float64)
            # The distance to a class whose last ancestor in common stands in column l.
            self._by_level = height[self._ancestors]
        else:
            steps = torch.arange(hierarchy.total_height, -1, -1, dtype=torch.float64)
            self._by_level = steps.expand(self._ancestors.shape).clone()
        self._by_level[:, -1] = 0.0

    def between(self, labels: Tensor, others: Tensor) -> Tensor:
        """(N, r) float64, by the number of ancestors in common."""
        self._move(labels.device)
        shared = self._ancestors[labels][:, None] == self._ancestors[others]
        last = shared.sum(2) - 1  # ancestors in common come first
        return self._by_level[labels].gather(1, last)

    def within(self, classes: Tensor) -> Tensor:
        """(C, H + 1) int64, how many classes share the ancestor s steps above level H."""
        self._move(torch.device("cpu"))
        columns = self._ancestors.T.flip(0).contiguous()
        return torch.stack([column.bincount()[column] for column in columns], 1)[classes.cpu()]

    def profile(self, classes: Tensor, top: int) -> Profile:
        """From the number of classes under each ancestor."""
        classes = classes.cpu()
        counts = self.within(classes)
        # How many classes share this ancestor and no later one, from the class up to the root.
        exactly = counts.diff(dim=1, prepend=counts.new_zeros(len(counts), 1))
        distances = self._by_level[classes].flip(1)
        ranks = torch.arange(1, top + 1).expand(len(classes), top).contiguous()
        near = distances.gather(1, torch.searchsorted(exactly.cumsum(1), ranks))
        outwards = exactly.flip(1).cumsum(1)
        far = distances.flip(1).gather(1, torch.searchsorted(outwards, ranks))
        return Profile(near, far, (exactly * distances).sum(1) / self.num_classes)

    def same(self, other: ClassDistances) -> bool:
        """Whether the other has an equal tree and the same convention."""
        return (
            isinstance(other, TreeDistances)
            and self.kind == other.kind
            and self.hierarchy == other.hierarchy
        )

    def _move(self, device: torch.device) -> None:
        self._ancestors = self._ancestors.to(device)
        self._by_level = self._by_level.to(device)


def class_distances(distances: Any, kind: DistanceKind = "lca_height") -> ClassDistances:
    """Distances between classes from a matrix (K, K), or of the given kind from a hierarchy."""
    if isinstance(distances, ClassDistances):
        return distances
    if isinstance(distances, Hierarchy):
        check_choice("kind", kind, DISTANCE_KINDS)
        if kind == "path":
            return MatrixDistances(distances.distances("path"))
        return TreeDistances(distances, kind)
    if not isinstance(distances, Tensor):
        raise TypeError(
            f"distances must be a Hierarchy or a matrix (K, K), got {type(distances).__name__}; "
            "use torch.as_tensor or Hierarchy.from_pairs"
        )
    return MatrixDistances(distances)
