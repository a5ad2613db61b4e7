"""Networks that turn inputs into features: small ones of our own, and timm's."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

BACKBONES = ("mlp", "cnn", "resnet18")


class Standardize(nn.Module):
    """Shifts and scales inputs by the mean and deviation of the training set, kept as buffers."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs at zero mean and unit deviation per channel or feature."""
        return (inputs.to(self.mean.dtype) - self.mean) / self.deviation


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.first = _convolution(channels_in, channels, stride)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = _convolution(channels, channels, 1)
        self.second_norm = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """relu(shortcut + residual)."""
        hidden = relu(self.first_norm(self.first(inputs)))
        return relu(self.second_norm(self.second(hidden)) + self.shortcut(inputs))


def make_backbone(
    name: str, input_shape: tuple[int, ...], dim: int, width: int | None
) -> nn.Module:
    """A network from inputs of a shape to features (N, dim).

    Its last layers are a linear map and a BatchNorm without a ReLU behind it: features that can
    be negative, and centred, can reach a simplex around the origin.

    Args:
        name: "mlp", "cnn", "resnet18" or "timm:NAME".
        input_shape: (d,) or (channels, height, width).
        dim: width of the features.
        width: of hidden layers, or None for the usual.

    Raises:
        ValueError: if the name is unknown or the inputs are not images where they must be.
    """
    if name not in BACKBONES and not name.startswith("timm:"):
        raise ValueError(f"backbone must be {', '.join(BACKBONES)} or timm:NAME, got {name!r}")
    if name == "mlp":
        trunk, trunk_width = _mlp(input_shape, width or 256)
    elif len(input_shape) != 3:
        raise ValueError(
            f"backbone={name} must be given images (channels, height, width), got inputs of shape "
            f"{input_shape}; use backbone=mlp"
        )
    elif name == "cnn":
        trunk, trunk_width = _cnn(input_shape[0], width or 16)
    elif name == "resnet18":
        trunk, trunk_width = _resnet18(input_shape[0], width or 64)
    else:
        trunk, trunk_width = _timm(name.removeprefix("timm:"), input_shape)
    return nn.Sequential(trunk, nn.Linear(trunk_width, dim, bias=False), nn.BatchNorm1d(dim))


def _mlp(input_shape: tuple[int, ...], width: int) -> tuple[nn.Module, int]:
    size = int(torch.tensor(input_shape).prod())
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(2):
        layers += [nn.Linear(size, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        size = width
    return nn.Sequential(*layers), width


def _cnn(channels: int, width: int) -> tuple[nn.Module, int]:
    layers: list[nn.Module] = []
    for wide in (width, 2 * width, 4 * width):
        layers += [_convolution(channels, wide, 1), nn.BatchNorm2d(wide), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
        channels = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels


def _resnet18(channels: int, width: int) -> tuple[nn.Module, int]:
    """ResNet-18 in its form for 32-pixel images: a 3x3 stem and no pooling before the blocks."""
    layers: list[nn.Module] = [_convolution(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU()]
    channels = width
    for stage in range(4):
        wide = width * 2**stage
        layers += [BasicBlock(channels, wide, 1 if stage == 0 else 2), BasicBlock(wide, wide, 1)]
        channels = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels


def _timm(name: str, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError) as error:  # a torchvision for another torch: RuntimeError
        raise ValueError(
            f"backbone=timm:{name} needs the extra vision, which cannot be imported ({error}); "
            "pip install 'neuralcollapse[vision]'"
        ) from None
    options: dict[str, Any] = {"num_classes": 0, "in_chans": input_shape[0], "pretrained": False}
    try:
        trunk = timm.create_model(name, **options)
    except Exception as error:
        raise ValueError(f"backbone=timm:{name} cannot be made: {error}") from None
    with torch.no_grad():
        features = trunk.eval()(torch.zeros(1, *input_shape))
    return trunk.train(), features.shape[1]


def _convolution(channels_in: int, channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
