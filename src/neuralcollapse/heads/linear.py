"""Learned linear classifiers, of one layer and of several."""

import functools
import itertools

import torch
from torch import Tensor, nn

from neuralcollapse.heads.head import AbstractHead, head_shape
from neuralcollapse.scalars import check_boolean, check_integer, check_number


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
        check_boolean("bias", bias)
        shape = head_shape(num_classes, dim)
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(shape), a=5**0.5))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None

    def operands(
        self, features: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features, weight and bias as they are."""
        return features, self.weight, self.bias

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        return f"{self.num_classes}, {self.dim}, bias={self.bias is not None}"


class DeepLinearHead(AbstractHead):
    """Several learned linear layers with nothing between them: logits = W_M ... W_1 h + bias.

    It decides what a `LinearHead` can decide; what changes is what weight decay does. With a decay
    on each layer the penalty of the product is a power 2 / (depth + 1) of its singular values,
    which widens the gap between frequent and rare classes and can make a class vanish at once
    (Dang et al. 2023). `weight` is the product; `layers` are the parameters, from the features on,
    and each may have a decay of its own.

    Args:
        num_classes: K.
        dim: d, the width of the features.
        depth: M, the number of layers.
        width: of the spaces between them; by default d.
        bias: learn a bias of the logits; it starts at zero.
        init_scale: entries of a layer start with deviation init_scale / sqrt(width of its input),
            so that at 1 a feature keeps its size in passing. A start that is too small can lose
            classes that decay alone would keep.

    Example:
        >>> head = DeepLinearHead(num_classes=10, dim=64, depth=3, width=32)
        >>> [tuple(layer.shape) for layer in head.layers], tuple(head.weight.shape)
        ([(32, 64), (32, 32), (10, 32)], (10, 64))
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        depth: int,
        width: int | None = None,
        bias: bool = True,
        init_scale: float = 1.0,
    ):
        super().__init__()
        check_boolean("bias", bias)
        num_classes, dim = head_shape(num_classes, dim)
        depth = check_integer("depth", depth, 1)
        width = check_integer("width", dim if width is None else width, 1)
        init_scale = check_number("init_scale", init_scale, minimum=0, exclusive=True)
        widths = [dim, *[width] * (depth - 1), num_classes]
        self.layers = nn.ParameterList(
            nn.init.normal_(torch.empty(rows, columns), std=init_scale / columns**0.5)
            for columns, rows in itertools.pairwise(widths)
        )
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias else None

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(K, d), the product of the layers."""
        # From the logits' side: few classes keep the products small.
        return functools.reduce(torch.matmul, reversed([*self.layers]))

    def operands(
        self, features: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features as they are, the product of the layers, the bias."""
        return features, self.weight, self.bias

    @property
    def depth(self) -> int:
        """M."""
        return len(self.layers)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.layers[-1].shape[0]

    @property
    def dim(self) -> int:
        """d, the width of the features."""
        return self.layers[0].shape[1]

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        return f"{self.num_classes}, {self.dim}, depth={self.depth}, bias={self.bias is not None}"
