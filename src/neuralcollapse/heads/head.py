"""Heads: what turns features into logits, learned or fixed.

A loss owns no classifier. A head owns it, and hands loss and prediction the same operands:
`features, weight, bias = head.operands(features)`, logits = features @ weight.T + bias.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn.functional import linear

from neuralcollapse.scalars import check_integer
from neuralcollapse.sphere import directions


class AbstractHead(nn.Module, ABC):
    """A classifier on features (N, d).

    `weight` (K, d) is the classifier in effect, the one that decides and is measured, and `bias`
    (K,) its bias or None.
    """

    weight: Tensor
    bias: Tensor | None

    @abstractmethod
    def operands(
        self, features: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features, weight and bias whose affine map is the logits.

        A training step gives the labels (N,) too: a head may follow the classes with them.
        """

    def forward(self, features: Tensor) -> Tensor:
        """(N, K), the logits of features (N, d)."""
        features, weight, bias = self.operands(features)
        shift = None if bias is None else bias.to(features.dtype)
        return linear(features, weight.to(features.dtype), shift)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.weight.shape[0]

    @property
    def dim(self) -> int:
        """d, the width of the features."""
        return self.weight.shape[1]


def cosine_features(features: Tensor, temperature: float) -> Tensor:
    """Features of which the product with unit rows is the cosine over the temperature."""
    return (directions(features) / temperature).to(features.dtype)


def head_shape(num_classes: int, dim: int) -> tuple[int, int]:
    """K and d, checked."""
    return check_integer("num_classes", num_classes, 1), check_integer("dim", dim, 1)
