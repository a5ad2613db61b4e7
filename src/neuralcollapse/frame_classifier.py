"""Any backbone before a fixed frame: a projection, residual blocks, a classifier that stays."""

from typing import Literal

import torch
from torch import Tensor, nn

from neuralcollapse.frames.frame import Frame
from neuralcollapse.heads import FixedHead
from neuralcollapse.scalars import check_choice, check_integer


class ResidualTransform(nn.Sequential):
    """BatchNorm, then residual blocks of twice (linear without bias, BatchNorm, PReLU).

    The identity is added behind the last PReLU of a block, so that features can take both signs, as
    the vectors of a frame do. Source: Liang, Davis 2023.

    Args:
        dim: d, the width of the features, in and out.
        num_blocks: how many residual blocks.

    Example:
        >>> ResidualTransform(dim=6)(torch.randn(4, 6)).shape
        torch.Size([4, 6])
    """

    def __init__(self, dim: int, num_blocks: int = 2):
        dim = check_integer("dim", dim, 1)
        blocks = [_Block(dim) for _ in range(check_integer("num_blocks", num_blocks, 0))]
        super().__init__(nn.BatchNorm1d(dim), *blocks)


class FrameClassifier(nn.Module):
    """A backbone, a projection to the frame's width, a residual transformation, the fixed frame.

        features = transform(pooled projection of backbone(inputs)), logits = features @ vectors.T

    Source: Liang, Davis 2023, who project to K dimensions. The projection has no bias; on feature
    maps (N, C, height, width) it is a 1x1 convolution before the pooling, which for averages is the
    same as a linear map behind it. The classifier has no bias, is not learned, and is kept in the
    state dict.

    Args:
        backbone: from inputs to features (N, C) or feature maps (N, C, height, width).
        frame: its vectors (K, d) are the classifier; d is the width of `features`.
        width: C, how wide the backbone's output is.
        example: a batch of inputs, from which the width is found instead by running the backbone
            once in evaluation mode.
        pool: how feature maps are pooled.
        scale: length of the rows of the classifier.

    Raises:
        TypeError: if backbone is no module or frame no Frame.
        ValueError: if not exactly one of width and example is given, or the backbone's output is
            neither features nor feature maps.

    Example:
        >>> from neuralcollapse.frames import simplex_etf
        >>> backbone = nn.Conv2d(3, 16, kernel_size=3)
        >>> frame = simplex_etf(num_classes=10, dim=10)
        >>> network = FrameClassifier(backbone, frame, example=torch.zeros(1, 3, 8, 8))
        >>> network(torch.randn(4, 3, 8, 8)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        backbone: nn.Module,
        frame: Frame,
        *,
        width: int | None = None,
        example: Tensor | None = None,
        pool: Literal["average", "max"] = "average",
        scale: float = 1.0,
    ):
        super().__init__()
        if not isinstance(backbone, nn.Module):
            raise TypeError(f"backbone must be a torch.nn.Module, got {type(backbone).__name__}")
        head = FixedHead(frame, scale=scale)
        if (width is None) == (example is None):
            given = "neither" if width is None else "both"
            raise ValueError(
                f"exactly one of width and example must be given, got {given}; width is the number "
                "of channels that the backbone puts out"
            )
        if example is not None:
            width = _width(backbone, example)
        self.pool = check_choice("pool", pool, ("average", "max"))
        self.backbone = backbone
        self.projection = nn.Linear(check_integer("width", width, 1), head.dim, bias=False)
        self.transform = ResidualTransform(head.dim)
        self.head = head

    def features(self, inputs: Tensor) -> Tensor:
        """(N, d), what enters the classifier."""
        return self.transform(self._projected(_checked(self.backbone(inputs))))

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, K), the logits."""
        return self.head(self.features(inputs))

    def _projected(self, outputs: Tensor) -> Tensor:
        if outputs.dim() == 2:
            return self.projection(outputs)
        if self.pool == "average":
            return self.projection(outputs.mean((2, 3)))
        return self.projection(outputs.movedim(1, 3)).amax((1, 2))


class _Block(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        parts = [
            part
            for _ in range(2)
            for part in (nn.Linear(dim, dim, bias=False), nn.BatchNorm1d(dim), nn.PReLU(dim))
        ]
        self.change = nn.Sequential(*parts)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.change(features)


def _checked(outputs: Tensor) -> Tensor:
    if not isinstance(outputs, Tensor) or outputs.dim() not in (2, 4):
        given = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            "the backbone must put out features (N, C) or feature maps (N, C, height, width), got "
            f"{given}; pool tokens, or take its last layer away"
        )
    return outputs


def _width(backbone: nn.Module, example: Tensor) -> int:
    """How wide the output is; modes of the backbone are afterwards as they were."""
    training = [module for module in backbone.modules() if module.training]
    try:
        backbone.eval()
        with torch.no_grad():
            return _checked(backbone(example)).shape[1]
    finally:
        for module in training:
            module.training = True
