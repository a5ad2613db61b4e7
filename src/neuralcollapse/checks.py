"""Checks of tensors in one style: the argument, the rule, what was given, what to do."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

INTEGER_DTYPES = (
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)
# A larger label is a mistake rather than a class, unless num_classes says otherwise.
_MOST_CLASSES = 1 << 24


def as_tensor(name: str, value: Any) -> Tensor:
    """A tensor as it is, or made of a numeric array."""
    if isinstance(value, Tensor):
        return value
    try:
        array = np.asarray(value)
        # torch shares neither foreign byte orders nor read-only or reversed memory.
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if not array.flags.writeable or any(stride < 0 for stride in array.strides):
            array = array.copy()
        return torch.as_tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        dtype = getattr(value, "dtype", type(value).__name__)
        reason = str(error).splitlines()[0].partition(". The only")[0]
        raise TypeError(
            f"{name} must be a tensor or a numeric array, got {dtype} ({reason})"
        ) from None


def check_matrix(
    name: str, value: Any, *, rows: int | None = None, columns: int | None = None, why: str = ""
) -> Tensor:
    """Return `value` if it is a 2-D floating-point tensor of the given shape."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(value).__name__}; use torch.as_tensor"
        )
    if value.dim() != 2:
        raise ValueError(
            f"{name} must be 2-D (rows are samples or classes), got shape {tuple(value.shape)}"
        )
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be dense, got {value.layout}; convert with .to_dense()")
    if not value.is_floating_point():
        raise TypeError(
            f"{name} must be floating point, got {_dtype(value)}; convert with .float()"
        )
    for axis, wanted in (("rows", rows), ("columns", columns)):
        given = value.shape[0 if axis == "rows" else 1]
        if wanted is not None and given != wanted:
            raise ValueError(
                f"{name} must have {wanted} {axis}{f' ({why})' if why else ''}, "
                f"got shape {tuple(value.shape)}"
            )
    return value


def check_vector(name: str, value: Any, length: int, why: str = "") -> Tensor:
    """Return `value` if it is a 1-D floating-point tensor of the given length."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(value).__name__}; use torch.as_tensor"
        )
    if not value.is_floating_point():
        raise TypeError(
            f"{name} must be floating point, got {_dtype(value)}; convert with .float()"
        )
    if value.shape != (length,):
        raise ValueError(
            f"{name} must have shape ({length},){f' ({why})' if why else ''}, "
            f"got {tuple(value.shape)}"
        )
    return value


def check_labels(
    labels: Any, num_samples: int | None, name: str = "labels", *, rows: str = "features"
) -> Tensor:
    """Return `labels` as int64 if they are a 1-D integer tensor with one entry per sample.

    The number of samples is that of the rows of `rows`; None for any.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(labels).__name__}; use torch.as_tensor"
        )
    if labels.dim() != 1:
        remedy = f"; take {name}.argmax(1) of one-hot rows" if labels.dim() == 2 else ""
        raise ValueError(
            f"{name} must be 1-D with one class index per sample, got shape "
            f"{tuple(labels.shape)}{remedy}"
        )
    if labels.dtype not in INTEGER_DTYPES:
        raise TypeError(f"{name} must be integers, got {_dtype(labels)}; convert with .long()")
    if num_samples is not None and len(labels) != num_samples:
        raise ValueError(
            f"{name} and {rows} must have the same length, got {len(labels)} {name} "
            f"for {num_samples} rows of {rows}"
        )
    return labels.long()


def check_label_range(labels: Tensor, num_classes: int, name: str = "labels") -> None:
    """Raise if a label lies outside [0, num_classes). Reads the values: waits for a GPU."""
    if not len(labels):
        return
    check_data(name, labels)
    low, high = (int(bound) for bound in torch.aminmax(labels))
    if low >= 0 and high < num_classes:
        return
    if low >= 1 and high == num_classes:
        hint = f"are your {name} 1-based?"
    elif low < 0:
        hint = "leave out samples with an ignore index, or name it where there is an ignore_index"
    else:
        hint = f"use num_classes >= {high + 1}, or leave out samples with an ignore index"
    raise ValueError(
        f"{name} must lie in [0, {num_classes}), got values from {low} to {high}; {hint}"
    )


def classes_in(labels: Tensor) -> int:
    """The number of classes where nothing but the labels tells it: the largest plus one, or 1."""
    check_data("labels", labels)
    most = max(0, int(labels.max())) + 1 if len(labels) else 1
    if most > _MOST_CLASSES:
        raise ValueError(
            f"labels must lie below {_MOST_CLASSES} where num_classes is not given, got "
            f"{most - 1}; pass num_classes if that is meant"
        )
    return most


def check_data(name: str, value: Tensor) -> None:
    """Raise if `value` has no values to read, being on the meta device."""
    if value.is_meta:
        raise ValueError(
            f"{name} must hold data, got a tensor of shape {tuple(value.shape)} on the meta device"
        )


def check_finite(name: str, value: Tensor) -> None:
    """Raise if `value` holds NaN or infinity. Reads the values: waits for a GPU."""
    check_data(name, value)
    # A finite sum proves all finite in one pass without a mask; overflow only costs the slow path.
    if value.numel() == 0 or bool(torch.isfinite(value.sum())):
        return
    bad = ~torch.isfinite(value.reshape(len(value), -1)).all(dim=1)
    if bool(bad.any()):
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in {int(bad.sum())} of {len(bad)} rows "
            f"(first: row {int(bad.nonzero()[0])}); remove or repair them"
        )


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
