"""Heads: what turns features into logits, learned or fixed.

A loss owns no classifier. A head owns it, and hands loss and prediction the same operands:
`features, weight, bias = head.operands(features)`, logits = features @ weight.T + bias.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from neuralcollapse.frames.frame import Frame
from neuralcollapse.scalars import check_integer, check_number
from neuralcollapse.sphere import directions


class AbstractHead(nn.Module, ABC):
    """A classifier on features (N, d).

    `weight` (K, d) is the classifier in effect, the one that decides and is measured, and `bias`
    (K,) its bias or None.
    """

    weight: Tensor
    bias: Tensor | None

    @abstractmethod
    def operands(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features, weight and bias whose affine map is the logits."""

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


class LinearHead(AbstractHead):
    """A learned affine classifier: logits = h @ weight.T + bias.

    Args:
        num_classes: K.
        dim: d, the width of the features.
        bias: learn a bias; it starts at zero.

    Example:
        >>> LinearHead(num_classes=10, dim=64)(torch.zeros(3, 64)).shape
        torch.Size([3, 10])
    """

    def __init__(self, num_classes: int, dim: int, *, bias: bool = True):
        super().__init__()
        shape = _shape(num_classes, dim)
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(shape), a=5**0.5))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None

    def operands(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features, weight and bias as they are."""
        return features, self.weight, self.bias

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        return f"{self.num_classes}, {self.dim}, bias={self.bias is not None}"


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
        shape = _shape(num_classes, dim)
        self.prototypes = nn.Parameter(nn.init.normal_(torch.empty(shape), std=dim**-0.5))

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(K, d), the prototypes at unit length."""
        return directions(self.prototypes)

    def operands(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Unit features over the temperature, unit prototypes, no bias."""
        scaled = directions(features) / self.temperature
        return scaled.to(features.dtype), self.weight, None

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        return f"{self.num_classes}, {self.dim}, temperature={self.temperature:g}"


class FixedHead(AbstractHead):
    """A classifier that is not learned: the vectors of a frame, kept in the state dict.

    The frame is a buffer, so that checkpoints, resumed runs and exports carry it.

    Args:
        frame: its vectors (K, d) become the classifier.
        scale: length of the rows.

    Example:
        >>> from neuralcollapse.frames import simplex_etf
        >>> head = FixedHead(simplex_etf(num_classes=4, dim=3))
        >>> list(head.state_dict()), list(head.parameters())
        (['weight'], [])
    """

    bias = None

    def __init__(self, frame: Frame, *, scale: float = 1.0):
        super().__init__()
        if not isinstance(frame, Frame):
            raise TypeError(
                f"frame must be a Frame, got {type(frame).__name__}; make one with simplex_etf or "
                "Frame(kind, vectors)"
            )
        scale = check_number("scale", scale, minimum=0, exclusive=True)
        self.register_buffer("weight", frame.vectors * scale)

    def operands(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features as they are, the vectors of the frame, no bias."""
        return features, self.weight, None

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        return f"{self.num_classes}, {self.dim}"


HEADS: tuple[type[AbstractHead], ...] = (LinearHead, CosineHead, FixedHead)


def _shape(num_classes: int, dim: int) -> tuple[int, int]:
    return check_integer("num_classes", num_classes, 1), check_integer("dim", dim, 1)
