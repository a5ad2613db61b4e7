"""Convex losses of the logits of alike classes, with their first two derivatives.

The logits of the classes of G groups are few numbers: that of the own class, and one for the
outputs of each group, `between[h, g]` for the outputs of group h and the samples of group g, where
`between[g, g]` belongs to the other classes of the own group.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuralcollapse.theory.matrices import Groups

Array = NDArray[np.float64]


class Scores(NamedTuple):
    """Logits (or their changes, or derivatives by them) of one class of each group."""

    own: Array  # (G,)
    between: Array  # (G, G)


# From a change of the logits to the change of the derivatives.
Curvature = Callable[[Scores], Scores]


@dataclass(frozen=True, eq=False)
class SoftmaxLoss:
    """Cross entropy of the softmax of scaled logits.

    Attributes:
        groups: of alike classes.
        weights: (G,), what the loss of each group's samples counts for in all.
        smoothing: share of the target spread over all classes.
        scales: (G, G), what the logits of the outputs of a group (row) are multiplied with for
            samples of a group (column).
    """

    groups: Groups
    weights: Array
    smoothing: float
    scales: Array

    def __call__(self, scores: Scores) -> tuple[float, Scores, Curvature]:
        """(value, derivatives, curvature); derivatives summed over the outputs of a group."""
        scales, own_scales = self.scales, np.diagonal(self.scales)
        others = np.tile(self.groups.sizes[:, None], (1, len(self.groups)))
        np.fill_diagonal(others, self.groups.contrasts)
        own, between = own_scales * scores.own, scales * scores.between
        # Where a group has one class its `between[g, g]` belongs to nothing.
        top = np.maximum(np.where(others > 0, between, -np.inf).max(0), own)
        masses = others * np.exp(np.where(others > 0, between - top, 0.0))
        own_mass = np.exp(own - top)
        total = masses.sum(0) + own_mass
        masses, own_mass = masses / total, own_mass / total
        spread = self.smoothing / self.groups.num_classes
        hit = 1 - self.smoothing + spread
        value = np.log(total) + top - hit * own - spread * (others * between).sum(0)
        slope = Scores(
            self.weights * own_scales * (own_mass - hit),
            self.weights * scales * (masses - spread * others),
        )

        def curvature(change: Scores) -> Scores:
            own_change, change_between = own_scales * change.own, scales * change.between
            mean = own_mass * own_change + (masses * change_between).sum(0)
            return Scores(
                self.weights * own_scales * own_mass * (own_change - mean),
                self.weights * scales * masses * (change_between - mean),
            )

        return float(self.weights @ value), slope, curvature


@dataclass(frozen=True, eq=False)
class SquaredLoss:
    """Half the squared distance to one-hot targets.

    Attributes:
        groups: of alike classes.
        weights: (G,), what the loss of each group's samples counts for in all.
    """

    groups: Groups
    weights: Array

    def __call__(self, scores: Scores) -> tuple[float, Scores, Curvature]:
        """(value, derivatives, curvature); derivatives summed over the outputs of a group."""
        others = np.tile(self.groups.sizes[:, None], (1, len(self.groups)))
        np.fill_diagonal(others, self.groups.contrasts)
        rest = scores.own - 1
        value = (rest**2 + (others * scores.between**2).sum(0)) / 2
        slope = Scores(self.weights * rest, self.weights * others * scores.between)

        def curvature(change: Scores) -> Scores:
            return Scores(self.weights * change.own, self.weights * others * change.between)

        return float(self.weights @ value), slope, curvature


ClassLoss = SoftmaxLoss | SquaredLoss
