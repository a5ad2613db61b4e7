"""A softmax among the children of every node of a hierarchy."""

from typing import final

import numpy as np
import torch
from torch import Tensor

from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.hierarchy.level_groups import grouped_logsumexp
from neuralcollapse.losses.loss import AbstractLoss, check_hierarchy, check_rows, logits
from neuralcollapse.scalars import check_number


@final
class ConditionalSoftmax(AbstractLoss):
    """Cross entropy of a softmax among siblings at each node on the path to the class.

        mean_i(sum_{level}(exp(-depth_decay * (level - 1)) * -log(softmax among siblings)))

    Source: Redmon, Farhadi 2017; as a loss on class hierarchies Bertinetto et al. 2020.

    Every node has a logit of its own, so the classifier has more rows than there are classes: row
    k < K belongs to class k, the others to the inner nodes below the root in the order of
    `hierarchy.nodes`; `row_names` tells them. A class that is an inner node has both: row k says
    "this class and none below it" among its children, the other competes with its siblings. Labels
    are class indices as everywhere, and a `LinearHead(loss.num_rows, dim)` owns the classifier.
    Decide by `class_scores`: logits of different nodes do not compare.

    With depth_decay = 0 the loss is the negative log-probability of the class. Above 0 coarse steps
    count more, below 0 fine ones; level 1 always weighs 1.

    Args:
        hierarchy: the tree over the K classes.
        depth_decay: how fast the weights fall from the root to the classes.

    Raises:
        TypeError: if hierarchy is no Hierarchy.
        ValueError: if it has one class; from the call, if weight does not have `num_rows` rows or a
            label is K or above.

    Example:
        >>> tree = Hierarchy.from_newick("((cat,dog)pet,(car,bus)vehicle);")
        >>> loss = ConditionalSoftmax(tree)
        >>> loss.row_names
        ('cat', 'dog', 'car', 'bus', 'pet', 'vehicle')
        >>> scores = loss.class_scores(torch.randn(5, 3), torch.randn(loss.num_rows, 3))
        >>> torch.allclose(scores.exp().sum(1), torch.ones(5))
        True
    """

    name = "conditional-softmax"

    def __init__(self, hierarchy: Hierarchy, depth_decay: float = 0.0):
        super().__init__()
        check_hierarchy(hierarchy)
        self.depth_decay = check_number("depth_decay", depth_decay)
        self.num_classes = classes = hierarchy.num_classes
        parent = hierarchy.parent
        inner = np.unique(parent[1:])  # the root is the first
        row_of_inner = np.full(hierarchy.num_nodes, -1)
        row_of_inner[inner[1:]] = classes + np.arange(len(inner[1:]))
        # The node below which each row competes, counted among the inner nodes.
        is_inner = np.isin(hierarchy.node_of_class, inner)
        above = np.where(is_inner, hierarchy.node_of_class, parent[hierarchy.node_of_class])
        above = np.searchsorted(inner, np.concatenate([above, parent[inner[1:]]]))
        self.row_names = hierarchy.classes + tuple(hierarchy.nodes[n] for n in inner[1:].tolist())
        self._num_inner = len(inner)
        # (K, H), the rows on the path to each class; what lies below a class is num_rows.
        path = row_of_inner[hierarchy.levels[:, 1:]]
        last = hierarchy.depth[hierarchy.node_of_class] + is_inner
        steps = np.arange(1, hierarchy.total_height + 1)
        path[steps > last[:, None]] = len(self.row_names)
        path[np.arange(classes), last - 1] = np.arange(classes)
        self._above: Tensor
        self._path: Tensor
        self._step_weights: Tensor
        weights = torch.arange(hierarchy.total_height, dtype=torch.float64)
        for name, table in (
            ("_above", torch.tensor(above)),
            ("_path", torch.tensor(path)),
            ("_step_weights", (-self.depth_decay * weights).exp()),
        ):
            self.register_buffer(name, table, persistent=False)

    @property
    def num_rows(self) -> int:
        """How many rows the classifier has."""
        return len(self.row_names)

    def terms(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One term, `conditional_softmax`."""
        steps = self._steps(features, weight, bias).gather(1, self._path[labels])
        loss = -(steps * self._step_weights.to(steps)).sum(1).mean()
        return {"conditional_softmax": loss}

    def class_scores(self, features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """(N, K), the log-probabilities of the classes; those of a row sum to 1."""
        steps = self._steps(features, weight, bias)
        total = steps.new_zeros(len(steps), len(self._path))
        for rows in self._path.T:
            total = total + steps[:, rows]
        return total

    def _steps(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(N, num_rows + 1), log-probabilities among siblings; a last column of zeros."""
        check_rows(weight, self.num_rows, "one for each name in row_names")
        scores = logits(features, weight, bias)
        partition = grouped_logsumexp(scores, self._above, self._num_inner)
        return torch.nn.functional.pad(scores - partition[:, self._above], (0, 1))
