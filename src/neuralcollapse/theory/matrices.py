"""Matrices over classes that do not change when classes of one group are exchanged.

Classes with equal counts are alike, so a prediction is made of few numbers however many classes
there are: one for the contrasts within each group (vectors on the group whose sum is zero), and
one matrix over the groups, in the basis of the groups' normalised indicators.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

# More entries than this, 16 GiB, are refused rather than attempted.
_MOST_ENTRIES = 1 << 31


@dataclass(frozen=True, eq=False)
class Groups:
    """A partition of K classes into G groups.

    Attributes:
        index: (K,), the group of each class.
        sizes: (G,), the number of classes in each group, as floats.
    """

    index: NDArray[np.int64]
    sizes: Array

    @staticmethod
    def alike(*keys: Array) -> "Groups":
        """Classes with equal values in all of the keys (K,) form a group."""
        index = np.zeros(len(keys[0]), dtype=np.int64)
        for key in keys:
            values, places = np.unique(key, return_inverse=True)
            _, index = np.unique(index * len(values) + places, return_inverse=True)
        return Groups(index, np.bincount(index).astype(np.float64))

    @staticmethod
    def single(num_classes: int) -> "Groups":
        """Every class a group of its own, in class order."""
        return Groups(np.arange(num_classes), np.ones(num_classes))

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.index)

    @property
    def contrasts(self) -> Array:
        """(G,), the dimension of the contrasts within each group."""
        return self.sizes - 1

    def each(self, values: Array) -> Array:
        """(G,), the common value in each group of values (K,)."""
        result = np.empty(len(self), dtype=np.float64)
        result[self.index] = values
        return result

    def members(self, group: int) -> list[int]:
        """The classes of a group, in class order."""
        return np.flatnonzero(self.index == group).tolist()


@dataclass(frozen=True, eq=False)
class FactoredMatrix:
    """A matrix left diag(values) right^T, multiplied out when it is asked for.

    Attributes:
        left: (rows, r).
        values: (r,).
        right: (columns, r).
    """

    left: Array
    values: Array
    right: Array

    @property
    def diagonal(self) -> Array:
        """The entries [k, k]."""
        size = min(len(self.left), len(self.right))
        return np.einsum("kr,r,kr->k", self.left[:size], self.values, self.right[:size])

    def array(self) -> Array:
        """(rows, columns)."""
        _refuse_large(len(self.left), len(self.right))
        return (self.left * self.values) @ self.right.T

    def dense(self) -> Tensor:
        """(rows, columns) float64."""
        return torch.from_numpy(self.array())


@dataclass(frozen=True, eq=False)
class GroupedMatrix:
    """A (K, K) matrix that does not change when classes of one group are exchanged.

    Attributes:
        groups: the partition.
        contrast: (G,), the factor by which contrasts within each group are multiplied.
        reduced: (G, G), on the normalised indicators of the groups; as it is, by its factors, or
            by its diagonal (G,) where that is all of it.
    """

    groups: Groups
    contrast: Array
    reduced: Array | FactoredMatrix

    @property
    def reduced_diagonal(self) -> Array:
        """(G,), the diagonal of `reduced`."""
        if isinstance(self.reduced, FactoredMatrix):
            return self.reduced.diagonal
        return np.diagonal(self.reduced) if self.reduced.ndim == 2 else self.reduced

    @property
    def only_diagonal(self) -> bool:
        """Whether `reduced` is zero off its diagonal."""
        return not isinstance(self.reduced, FactoredMatrix) and self.reduced.ndim == 1

    @property
    def own(self) -> Array:
        """(G,), the diagonal entry of a class of each group."""
        inner = self.reduced_diagonal
        # Not (m - 1) a / m + q / m: where both are equal the entry is exact.
        return self.contrast + (inner - self.contrast) / self.groups.sizes

    @property
    def between(self) -> Array:
        """(G, G), the entry off the diagonal for a class of each group and one of each group."""
        sizes = self.groups.sizes
        if isinstance(self.reduced, FactoredMatrix):
            full = self.reduced.array()
        else:
            full = np.diag(self.reduced) if self.only_diagonal else self.reduced
        return (full - np.diag(self.contrast)) / np.sqrt(np.outer(sizes, sizes))

    @property
    def diagonal(self) -> Array:
        """(K,)."""
        return self.own[self.groups.index]

    def dense(self) -> Tensor:
        """(K, K) float64."""
        _refuse_large(self.groups.num_classes, self.groups.num_classes)
        index = self.groups.index
        if self.only_diagonal and bool((self.reduced_diagonal == self.contrast).all()):
            return torch.diag(torch.from_numpy(self.diagonal))
        values = self.between[np.ix_(index, index)]
        np.fill_diagonal(values, self.diagonal)
        return torch.from_numpy(values)


def log_partition(logits: GroupedMatrix, bias: Array) -> Array:
    """(G,), the logarithm of the summed exponentials of the logits of a class of each group.

    Args:
        logits: row = output, column = class, without the bias.
        bias: (G,), of each group's outputs.
    """
    sizes = logits.groups.sizes
    own = logits.own + bias
    if logits.only_diagonal:
        own_group = bias + (logits.reduced_diagonal - logits.contrast) / sizes
        # Outputs of other groups have no logit but their bias.
        terms = np.log(sizes) + bias
        top = max(float(terms.max()), float(own.max()), float(own_group.max()))
        others = np.exp(terms - top).sum() - sizes * np.exp(bias - top)
        inside = (sizes - 1) * np.exp(own_group - top)
        return top + np.log(np.maximum(others, 0) + inside + np.exp(own - top))
    scores = logits.between + bias[:, None]
    top = np.maximum(scores.max(0), own)
    masses = sizes[:, None] * np.exp(scores - top)
    np.fill_diagonal(masses, (sizes - 1) * np.exp(np.diagonal(scores) - top))
    return top + np.log(masses.sum(0) + np.exp(own - top))


def _refuse_large(rows: int, columns: int) -> None:
    if rows * columns > _MOST_ENTRIES:
        size = rows * columns / 2**27
        raise ValueError(
            f"a matrix of shape ({rows}, {columns}) is too large, {size:.0f} GiB; "
            "use classifier_matrix, feature_matrix or logit_matrix, which hold it by groups"
        )
