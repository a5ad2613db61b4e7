"""One classifier for each level of a hierarchy, on parts of the features of their own."""

from typing import final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.hierarchy.level_groups import LevelGroups
from neuralcollapse.losses.loss import AbstractLoss, check_hierarchy, check_rows, logits


@final
class MultiGranularity(AbstractLoss):
    """Cross entropy at every level; coarse labels must not disturb the features of fine ones.

        sum_{level=1..H}(cross entropy of the groups at this level)

    The features fall into H parts of equal width, x_1 (coarsest) to x_H (finest). The classifier of
    a level sees its own part and all finer ones, but sends gradients back to its own part alone;
    the classes themselves see x_H. Source: Chang et al. 2021.

    The rows of the classifier are those of all levels, from fine to coarse: first the K classes,
    then the groups of level H-1, and so on to level 1, which is right below the root (`num_rows` in
    all, with `level_rows` telling which). Row r of a level has entries for its own part and those
    behind it; the entries before them take no part. Labels are class indices as everywhere, and a
    `LinearHead(loss.num_rows, dim)` owns the classifier. Decide by `class_scores`.

    A class above level H is a group of its own at the levels below it.

    Args:
        hierarchy: the tree over the K classes, of height H.

    Raises:
        TypeError: if hierarchy is no Hierarchy.
        ValueError: if it has one class; from the call, if weight does not have `num_rows` rows, or
            fewer than H columns.

    Example:
        >>> tree = Hierarchy.from_newick("((cat,dog),(car,bus));")
        >>> loss = MultiGranularity(tree)
        >>> loss.num_rows, loss.level_rows(1)
        (6, slice(4, 6, None))
        >>> features, weight = torch.randn(5, 8), torch.randn(6, 8)
        >>> sorted(loss.terms(features, torch.tensor([0, 1, 2, 3, 0]), weight))
        ['level_1', 'level_2']
    """

    name = "multi-granularity"

    def __init__(self, hierarchy: Hierarchy):
        super().__init__()
        check_hierarchy(hierarchy)
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
        """`level_1` (coarsest) to `level_H`, the classes."""
        groups = self._groups.groups[labels]
        return {
            f"level_{level}": cross_entropy(
                self._scores(level, features, weight, bias), groups[:, level]
            )
            for level in range(1, self._groups.height + 1)
        }

    def class_scores(self, features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """(N, K), the logits of the classes, from the finest part of the features."""
        return self._scores(self._groups.height, features, weight, bias)

    def _scores(self, level: int, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(N, groups at level), logits."""
        height, dim = self._groups.height, features.shape[1]
        check_rows(weight, self.num_rows, "the groups of all levels")
        if dim < height:
            raise ValueError(
                f"features must have a part for each of the {height} levels, got {dim} columns; "
                f"use dim >= {height}"
            )
        start, stop = (level - 1) * dim // height, level * dim // height
        seen = torch.cat([features[:, start:stop], features[:, stop:].detach()], 1)
        rows = self._groups.rows(level)
        return logits(seen, weight[rows, start:], None if bias is None else bias[rows])
