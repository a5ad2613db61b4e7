"""A learned classifier of directions."""

import torch
from torch import Tensor, nn

from neuralcollapse.heads.head import AbstractHead, cosine_features, head_shape
from neuralcollapse.scalars import check_number
from neuralcollapse.sphere import directions


class CosineHead(AbstractHead):
    """A learned classifier of directions: logits = cos(h, prototype_k) / temperature.

    `weight` is the unit prototypes. A zero feature has logits of zero.

    Args:
        num_classes: K.
        dim: d, the width of the features.
        temperature: divides the cosines; 0.1 by default.

    Example:
        >>> head = CosineHead(num_classes=10, dim=64, temperature=0.5)
        >>> bool(head(torch.randn(3, 64)).abs().max() <= 2)
        True
    """

    bias = None

    def __init__(self, num_classes: int, dim: int, *, temperature: float = 0.1):
        super().__init__()
        self.temperature = check_number("temperature", temperature, minimum=0, exclusive=True)
        shape = head_shape(num_classes, dim)
        self.prototypes = nn.Parameter(nn.init.normal_(torch.empty(shape), std=dim**-0.5))

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(K, d), the prototypes at unit length."""
        return directions(self.prototypes)

    def operands(
        self, features: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Unit features over the temperature, unit prototypes, no bias."""
        return cosine_features(features, self.temperature), self.weight, None

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        return f"{self.num_classes}, {self.dim}, temperature={self.temperature:g}"
