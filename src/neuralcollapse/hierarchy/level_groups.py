"""Groups of classes level by level, and sums over them that never leave the logarithm."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from neuralcollapse.hierarchy.tree import Hierarchy


class LevelGroups(nn.Module):
    """The groups that the classes of a tree form at each level, as tables on the right device.

    Level 0 is the root alone, level H the classes themselves, in the order of the labels. A class
    above level H is a group of its own at the levels below it; where it is an inner node, that
    group stands beside its children and means "this class and none below it". So every class has
    one group at each level, and the groups of a level part the classes.

    Args:
        hierarchy: the tree, of height H.
    """

    def __init__(self, hierarchy: "Hierarchy"):
        super().__init__()
        self.num_classes = hierarchy.num_classes
        self.height = hierarchy.total_height
        finest = np.arange(self.num_classes)
        columns = [np.unique(column, return_inverse=True)[1] for column in hierarchy.levels.T[:-1]]
        columns.append(finest)
        groups = np.stack([column.reshape(-1) for column in columns], 1)
        self.sizes = tuple(int(column.max()) + 1 for column in groups.T)
        self.groups: Tensor  # (K, H + 1), the group of each class at each level
        self.register_buffer("groups", torch.tensor(groups), persistent=False)
        for level in range(self.height):
            above = np.empty(self.sizes[level + 1], int)
            above[groups[:, level + 1]] = groups[:, level]
            self.register_buffer(f"_above_{level}", torch.tensor(above), persistent=False)

    @property
    def num_rows(self) -> int:
        """How many groups all levels below the root have together."""
        return sum(self.sizes[1:])

    def rows(self, level: int) -> slice:
        """Where a level stands among the groups of all levels, from fine to coarse."""
        start = sum(self.sizes[level + 1 :])
        return slice(start, start + self.sizes[level])

    def above(self, level: int) -> Tensor:
        """(groups at level + 1,), the group at `level` that each belongs to."""
        return self.get_buffer(f"_above_{level}")

    def log_sums(self, scores: Tensor) -> list[Tensor]:
        """Log-sums of scores (N, K) over the classes of each group, levels 0 to H."""
        sums = [scores]
        for level in reversed(range(self.height)):
            sums.append(grouped_logsumexp(sums[-1], self.above(level), self.sizes[level]))
        return sums[::-1]


def grouped_logsumexp(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """(N, G), log(sum(exp(values))) over the columns of each group; every group has a column.

    Example:
        >>> values = torch.tensor([[0.0, 0.0, 500.0]])
        >>> grouped_logsumexp(values, torch.tensor([0, 0, 1]), 2).round(decimals=4).tolist()
        [[0.6931, 500.0]]
    """
    shape = (len(values), num_groups)
    with torch.no_grad():
        index = groups.expand(values.shape)
        peaks = values.new_full(shape, -torch.inf).scatter_reduce(1, index, values, "amax")
    shares = (values - peaks[:, groups]).exp()
    return values.new_zeros(shape).index_add(1, groups, shares).log() + peaks
