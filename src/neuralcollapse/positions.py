"""Features of several positions, as pictures and sequences have them, made one row a sample."""

from typing import Any, Literal

from torch import Tensor, nn

Pooling = Literal["mean", "flatten"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def first_tensor(output: Any) -> Any:
    """The first entry of a tuple or list, or of a dictionary; anything else as it is."""
    if isinstance(output, dict):
        output = list(output.values())
    return output[0] if isinstance(output, tuple | list) and output else output


def mean_over_positions(output: Tensor, channels_last: bool) -> Tensor:
    """(N, d) of (N, ..., d) or (N, d, ...)."""
    return output.flatten(1, -2).mean(1) if channels_last else output.flatten(2).mean(2)


def channels_are_last(module: nn.Module, output: Tensor) -> bool | None:
    """Whether a module that gave (N, ., ...) has its channels last; None where nothing tells.

    They are second where a convolution or batch normalisation in it is as wide as the second axis,
    else last where a linear layer or layer normalisation is as wide as the last.

    Example:
        >>> channels_are_last(nn.Linear(8, 16), Tensor(2, 7, 7, 16))
        True
        >>> channels_are_last(nn.Conv1d(8, 16, 3), Tensor(2, 16, 7))
        False
    """
    second = last = False
    for part in module.modules():
        if isinstance(part, _CONVOLUTIONS):
            second = second or part.out_channels == output.shape[1]
        elif isinstance(part, nn.modules.batchnorm._NormBase):
            second = second or part.num_features == output.shape[1]
        elif isinstance(part, nn.Linear):
            last = last or part.out_features == output.shape[-1]
        elif isinstance(part, nn.LayerNorm):
            last = last or part.normalized_shape == (output.shape[-1],)
    return False if second else last or None
