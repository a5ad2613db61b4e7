"""Classifiers for each level of a hierarchy on the same features, held consistent."""

import math
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.hierarchy.level_groups import LevelGroups, grouped_logsumexp
from neuralcollapse.losses.loss import AbstractLoss, check_hierarchy, check_rows, logits
from neuralcollapse.scalars import check_number
from neuralcollapse.sphere import directions


@final
class HierarchyAwareFeatures(AbstractLoss):
    """Cross entropy of the classes, with terms that hold the classifiers of all levels together.

        cross entropy of the classes
        + consistency * sum_level(mean_i(JSD(children's probabilities added up, probabilities)))
        + alignment * sum_level(mean_group(1 - cos(row, sum of the children's unit rows)))
        + separation * sum_level(mean_pair(log(2) - JSD(probabilities, those of the other sample)))

    with sums over the levels above the classes, JSD the Jensen-Shannon divergence in nats, and
    pairs of neighbours in the batch that belong to different groups. Every row of the classifier is
    scaled to unit length. Source: Garg et al. 2022.

    The published code separates by max(0, 3 - divergence); a divergence is at most log(2), so the
    margin is never met: it is log(2) here, which has the same gradient and can be reached. All
    divergences are taken in logarithms. Separation compares samples of a batch, so unlike the other
    terms it is no mean over samples: shuffle, and expect other values for other batch sizes.

    The rows of the classifier are those of all levels, from fine to coarse: first the K classes,
    then the groups of level H-1, and so on to level 1, which is right below the root (`num_rows` in
    all, with `level_rows` telling which). Labels are class indices as everywhere, and a
    `LinearHead(loss.num_rows, dim)` owns the classifier. Decide by `class_scores`.

    Args:
        hierarchy: the tree over the K classes, of height H.
        consistency: weight of the divergence between levels.
        alignment: weight of the angle between a row and its children.
        separation: weight of the divergence between samples.

    Raises:
        TypeError: if hierarchy is no Hierarchy.
        ValueError: if it has one class or a weight is negative; from the call, if weight does not
            have `num_rows` rows.

    Example:
        >>> tree = Hierarchy.from_newick("((cat,dog),(car,bus));")
        >>> loss = HierarchyAwareFeatures(tree)
        >>> features, weight = torch.randn(5, 8), torch.randn(loss.num_rows, 8)
        >>> list(loss.terms(features, torch.tensor([0, 1, 2, 3, 0]), weight))
        ['cross_entropy', 'consistency', 'alignment', 'separation']
    """

    name = "hierarchy-aware-features"

    def __init__(
        self,
        hierarchy: Hierarchy,
        consistency: float = 1.0,
        alignment: float = 1.0,
        separation: float = 1.0,
    ):
        super().__init__()
        check_hierarchy(hierarchy)
        self.consistency = check_number("consistency", consistency, minimum=0)
        self.alignment = check_number("alignment", alignment, minimum=0)
        self.separation = check_number("separation", separation, minimum=0)
        self._groups = LevelGroups(hierarchy)
        self.num_classes = hierarchy.num_classes

    @property
    def num_rows(self) -> int:
        """How many rows the classifier has, over all levels."""
        return self._groups.num_rows

    def level_rows(self, level: int) -> slice:
        """The rows of a level in 1, ..., H."""
        return self._groups.rows(level)

    def terms(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`cross_entropy`, `consistency`, `alignment` and `separation`, each with its weight."""
        groups, height = self._groups, self._groups.height
        rows = directions(weight)
        scores = self._scores(features, rows, bias)
        likely = {level: self._level(scores, level) for level in range(1, height + 1)}
        zero = scores.new_zeros(())
        consistency, alignment, separation = zero, zero, zero
        for level in range(1, height):
            added = grouped_logsumexp(likely[level + 1], groups.above(level), groups.sizes[level])
            consistency = consistency + _divergence(added, likely[level]).mean()
            alignment = alignment + self._misalignment(rows, level)
            separation = separation + _crowding(likely[level], groups.groups[labels, level])
        return {
            "cross_entropy": cross_entropy(scores[:, self._groups.rows(height)], labels),
            "consistency": self.consistency * consistency,
            "alignment": self.alignment * alignment.to(scores.dtype),
            "separation": self.separation * separation,
        }

    def class_scores(self, features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """(N, K), the logits of the classes."""
        scores = self._scores(features, directions(weight), bias)
        return scores[:, self._groups.rows(self._groups.height)]

    def _scores(self, features: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
        check_rows(rows, self.num_rows, "the groups of all levels")
        return logits(features, rows, bias)

    def _level(self, scores: Tensor, level: int) -> Tensor:
        """(N, groups at level), log-probabilities."""
        return scores[:, self._groups.rows(level)].log_softmax(1)

    def _misalignment(self, rows: Tensor, level: int) -> Tensor:
        own, children = rows[self._groups.rows(level)], rows[self._groups.rows(level + 1)]
        added = torch.zeros_like(own).index_add(0, self._groups.above(level), children)
        return (1 - (own * directions(added)).sum(1)).mean()


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    """(N,), the Jensen-Shannon divergence of rows of log-probabilities; from 0 to log(2)."""
    middle = torch.logaddexp(first, second) - math.log(2)
    gaps = first.exp() * (first - middle) + second.exp() * (second - middle)
    return gaps.sum(1) / 2


def _crowding(likely: Tensor, groups: Tensor) -> Tensor:
    """Mean of log(2) - divergence over neighbours in the batch from different groups."""
    apart = groups != groups.roll(1)
    short = math.log(2) - _divergence(likely, likely.roll(1, 0))
    return short.masked_fill(~apart, 0).sum() / apart.sum().clamp(min=1)
