"""From the singular values of the logits to layers, features and norms.

The class means of the logits are Z (row = output, column = class). Among all layers and features
that give the same logits the decays choose the one of balanced layers, whose cost is

    (M + 1) / 2 * sum_i t_i,    t_i = (Lam * sigma_i^2)^(1 / (M + 1))

with sigma_i the singular values of Z sqrt(counts), M the number of linear layers, and Lam the
product of the decays of the layers and the features. In that mode layer j has the squared singular
value t_i / weight_decay_j, and the features t_i / feature_decay. At depth 1 the cost is the nuclear
norm of Z sqrt(counts), times sqrt(weight_decay * feature_decay).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuralcollapse.theory.matrices import FactoredMatrix, GroupedMatrix, Groups

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The singular value decomposition of the logits with columns scaled, group by group.

    Attributes:
        groups: of alike classes.
        contrast: (G,), singular value of the contrasts within each group.
        values: (r,), the other singular values.
        left: (G, r), their singular vectors over outputs; None: the groups' indicators (r = G).
        right: (G, r), their singular vectors over classes; None like `left`.
        column: (G,), what the column of each group's classes was multiplied with, usually
            sqrt(counts).
    """

    groups: Groups
    contrast: Array
    values: Array
    left: Array | None
    right: Array | None
    column: Array

    @staticmethod
    def of(groups: Groups, contrast: Array, reduced: Array, column: Array) -> "Spectrum":
        """From the logits themselves: their factor on contrasts (G,) and reduced form (G, G)."""
        left, values, right = np.linalg.svd(reduced * column)
        return Spectrum(groups, contrast * column, values, left, right.T, column)

    @property
    def all_values(self) -> Array:
        """Every singular value that is not zero, as often as it occurs, largest first."""
        several = self.groups.contrasts > 0
        repeated = np.repeat(self.contrast[several], self.groups.contrasts[several].astype(int))
        values = np.concatenate([repeated, self.values])
        return -np.sort(-values[values > 0])

    @property
    def rank(self) -> int:
        """How many singular values are not zero."""
        return len(self.all_values)

    def logits(self) -> GroupedMatrix:
        """(K, K), row = output, column = class; without the bias."""
        contrast = self.contrast / self.column
        if self.left is None or self.right is None:
            return GroupedMatrix(self.groups, contrast, self.values / self.column)
        right = self.right / self.column[:, None]
        return GroupedMatrix(self.groups, contrast, FactoredMatrix(self.left, self.values, right))

    def classifier_gram(self, decays: Sequence[float]) -> GroupedMatrix:
        """(K, K), of the rows of the product of all layers."""
        contrast = product_squares(self.contrast, decays)
        values = product_squares(self.values, decays)
        if self.left is None:
            return GroupedMatrix(self.groups, contrast, values)
        return GroupedMatrix(self.groups, contrast, FactoredMatrix(self.left, values, self.left))

    def feature_gram(self, decays: Sequence[float]) -> GroupedMatrix:
        """(K, K), of the class means of the features."""
        contrast = layer_squares(self.contrast, decays, -1) / self.column**2
        values = layer_squares(self.values, decays, -1)
        if self.right is None:
            return GroupedMatrix(self.groups, contrast, values / self.column**2)
        right = self.right / self.column[:, None]
        return GroupedMatrix(self.groups, contrast, FactoredMatrix(right, values, right))

    def layers(self, decays: Sequence[float]) -> tuple[Array, ...]:
        """The singular values of each linear layer, next to the features first."""
        values = self.all_values
        return tuple(np.sqrt(layer_squares(values, decays, j)) for j in range(len(decays) - 1))

    def cost(self, decays: Sequence[float]) -> float:
        """What the decays add to the objective."""
        costs = mode_costs(self.contrast, decays), mode_costs(self.values, decays)
        return float((self.groups.contrasts * costs[0]).sum() + costs[1].sum())


def common_squares(values: Array, decays: Sequence[float]) -> Array:
    """t, the decay times the squared singular value, the same for every layer and the features.

    (Lam * value^2)^(1 / (M + 1))
    """
    with np.errstate(divide="ignore"):
        logs = math.fsum(math.log(decay) for decay in decays) + 2 * np.log(values)
    return np.exp(logs / len(decays))


def layer_squares(values: Array, decays: Sequence[float], layer: int) -> Array:
    """Squared singular values of one layer, or of the features (-1)."""
    return common_squares(values, decays) / decays[layer]


def product_squares(values: Array, decays: Sequence[float]) -> Array:
    """Squared singular values of the product of all layers."""
    common = common_squares(values, decays)
    return np.prod([common / decay for decay in decays[:-1]], axis=0)


def mode_costs(values: Array, decays: Sequence[float]) -> Array:
    """What each mode adds to the objective: (M + 1) / 2 * t."""
    return len(decays) / 2 * common_squares(values, decays)
