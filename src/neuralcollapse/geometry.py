"""Gram matrices: the common currency of measured, fixed and predicted geometry.

A Gram matrix forgets rotation and the width of the feature space, so that a network, a frame and
a prediction can be compared with one distance.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from neuralcollapse.checks import check_matrix
from neuralcollapse.scalars import check_integer


@dataclass(frozen=True, eq=False)
class Geometry:
    """Inner products among centred class means and rows of the classifier.

    Attributes:
        means: (K, K), inner products of the centred class means.
        weight: (K, K), inner products of the rows of the classifier, or None.
        cross: (K, K), entry [k, j] is the inner product of row k of the classifier and centred
            mean j, or None.
    """

    means: Tensor
    weight: Tensor | None = None
    cross: Tensor | None = None

    @staticmethod
    def from_vectors(centred_means: Tensor, weight: Tensor | None = None) -> "Geometry":
        """The Gram blocks of centred means (K, d) and a classifier (K, d)."""
        check_matrix("centred_means", centred_means)
        if weight is None:
            return Geometry(centred_means @ centred_means.T)
        rows, columns = centred_means.shape
        check_matrix("weight", weight, rows=rows, columns=columns, why="the shape of the means")
        weight = weight.to(centred_means)
        return Geometry(
            centred_means @ centred_means.T, weight @ weight.T, weight @ centred_means.T
        )


def gram_distance(first: Tensor, second: Tensor) -> Tensor:
    """Distance between the shapes of two Gram matrices; 0 if equal up to scale, at most 2.

        norm(first / norm(first) - second / norm(second)), Frobenius norms

    Args:
        first: (K, K), a Gram matrix.
        second: (K, K), another.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> round(float(gram_distance(7 * simplex_gram(4), simplex_gram(4))), 12)
        0.0
    """
    if first.shape != second.shape:
        raise ValueError(
            f"Gram matrices to compare must have equal shapes, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    first, second = first.double(), second.double()
    return (first / first.norm() - second / second.norm()).norm()


def simplex_gram(num_classes: int) -> Tensor:
    """(K, K), I - J/K: the Gram matrix of the simplex equiangular tight frame, up to scale."""
    num_classes = check_integer("num_classes", num_classes, 2)
    return torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
