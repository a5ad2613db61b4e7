"""Cross entropy taken apart along the path from the root of a hierarchy to the class."""

from typing import final

import torch
from torch import Tensor

from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.hierarchy.level_groups import LevelGroups
from neuralcollapse.losses.loss import AbstractLoss, check_hierarchy, logits
from neuralcollapse.scalars import check_number


@final
class HierarchicalCrossEntropy(AbstractLoss):
    """Cross entropy of each step from the root to the class, near steps weighted unlike far ones.

        mean_i(sum_{level=1..H}(exp(-depth_decay * (level - 1)) * -log(p(level | level - 1))))

    with p(level | level - 1) the softmax's probability of all classes in the true class's group at
    that level, over that of its group one level above. Source: Bertinetto et al. 2020.

    Level 1 is right below the root and always weighs 1. `depth_decay` above 0 makes coarse steps
    count more (the paper's alpha), below 0 fine ones; at 0 the steps add up to plain cross entropy.
    The published code divides by the sum of the weights of all nodes, which makes gradients smaller
    by a factor of hundreds; nothing is divided here. A class that is an inner node takes one step
    more, to itself among its children.

    All in logarithms: a class whose probability underflows has a finite loss and a gradient.

    Args:
        hierarchy: the tree over the K classes.
        depth_decay: how fast the weights fall from the root to the classes.

    Raises:
        TypeError: if hierarchy is no Hierarchy.
        ValueError: from the call, if weight does not have K rows.

    Example:
        >>> tree = Hierarchy.from_newick("((cat,dog),(car,bus));")
        >>> features, labels = torch.eye(4), torch.tensor([0, 1, 2, 3])
        >>> dog_for_cat, car_for_cat = torch.eye(4)[[1, 0, 2, 3]], torch.eye(4)[[2, 1, 0, 3]]
        >>> loss = HierarchicalCrossEntropy(tree, depth_decay=1.0)
        >>> near, far = (
        ...     loss(features, labels, 9 * dog_for_cat),
        ...     loss(features, labels, 9 * car_for_cat),
        ... )
        >>> bool(near < far)
        True
    """

    name = "hierarchical-cross-entropy"

    def __init__(self, hierarchy: Hierarchy, depth_decay: float = 0.1):
        super().__init__()
        check_hierarchy(hierarchy)
        self.depth_decay = check_number("depth_decay", depth_decay)
        self._groups = LevelGroups(hierarchy)
        steps = torch.arange(hierarchy.total_height, dtype=torch.float64)
        self._step_weights: Tensor
        self.register_buffer("_step_weights", (-self.depth_decay * steps).exp(), persistent=False)

    def terms(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One term, `hierarchical_cross_entropy`."""
        classes = self._groups.num_classes
        if len(weight) != classes:
            raise ValueError(
                f"weight must have {classes} rows (the classes of the hierarchy), got {len(weight)}"
            )
        sums = self._groups.log_sums(logits(features, weight, bias))
        groups = self._groups.groups[labels]  # (N, H + 1)
        own = torch.cat([s.gather(1, groups[:, [level]]) for level, s in enumerate(sums)], 1)
        steps = own[:, :-1] - own[:, 1:]  # each at least 0
        loss = (steps * self._step_weights.to(steps)).sum(1).mean()
        return {"hierarchical_cross_entropy": loss}
