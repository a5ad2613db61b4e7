"""The one door of all losses."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from neuralcollapse.checks import check_label_range, check_labels, check_matrix, check_vector
from neuralcollapse.hierarchy import Hierarchy


class AbstractLoss(nn.Module, ABC):
    """A loss on features, labels and a classifier that somebody else owns.

    A trained head, a fixed frame and the free variable of the unconstrained feature model go
    through the same door: `loss(features, labels, weight, bias)`, with features (N, d), labels
    (N,), weight (K, d) and bias (K,) or None. The result is a scalar, the mean over the batch,
    in float32 for half-precision features.
    """

    name: str
    """What it is called on the command line."""

    num_classes: int | None = None
    """K, where the classifier has more rows than there are classes; else None."""

    @abstractmethod
    def terms(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The parts of the loss by name; each a scalar."""

    @final
    def forward(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """The sum of the terms.

        Raises:
            TypeError: if features or weight are not floating point, or labels not integers.
            ValueError: if shapes do not fit, the batch is empty, or (on the CPU, where looking
                is free) a label is out of range.
        """
        check_matrix("features", features)
        check_matrix("weight", weight, columns=features.shape[1], why="the width of the features")
        if bias is not None:
            check_vector("bias", bias, len(weight), "one entry per row of weight")
        if not len(features):
            raise ValueError("features must hold at least one sample, got an empty batch")
        labels = check_labels(labels, len(features))
        if labels.device.type == "cpu":
            check_label_range(labels, self.num_classes or len(weight))
        return total(self.terms(features, labels, weight, bias))


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of the terms of a loss."""
    first, *others = terms.values()
    return functools.reduce(torch.add, others, first)


def check_hierarchy(hierarchy: Any) -> Hierarchy:
    """Return `hierarchy` if it is a Hierarchy of two classes or more."""
    if not isinstance(hierarchy, Hierarchy):
        raise TypeError(
            f"hierarchy must be a Hierarchy, got {type(hierarchy).__name__}; make one with "
            "Hierarchy.from_pairs or Hierarchy.from_levels"
        )
    if hierarchy.num_classes < 2:
        raise ValueError("hierarchy must have at least 2 classes, got 1; there is nothing to learn")
    return hierarchy


def check_rows(weight: Tensor, num_rows: int, what: str) -> None:
    """Refuse a classifier without the rows that a loss on a hierarchy needs."""
    if len(weight) != num_rows:
        raise ValueError(
            f"weight must have {num_rows} rows ({what}), got {len(weight)}; "
            "take LinearHead(loss.num_rows, dim)"
        )


def logits(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, K), features @ weight.T + bias; the product in the features' type, widened to float32."""
    weight = weight.to(features.dtype)
    wide = torch.promote_types(features.dtype, torch.float32)
    if features.dtype == wide and not torch.is_autocast_enabled(features.device.type):
        return linear(features, weight, None if bias is None else bias.to(wide))
    product = linear(features, weight).to(wide)
    return product if bias is None else product + bias
