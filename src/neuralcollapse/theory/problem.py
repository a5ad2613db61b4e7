"""The minimisation that a prediction is about, with its arguments checked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuralcollapse.scalars import check_choice, check_integer, check_number

Array = NDArray[np.float64]

Loss = Literal["mse", "ce", "label_smoothing", "focal", "cdt", "ldt", "weighted_mse"]
LOSS_CHOICES = ("mse", "ce", "label_smoothing", "focal", "cdt", "ldt", "weighted_mse")
SQUARED = ("mse", "weighted_mse")


@dataclass(frozen=True, eq=False)
class Problem:
    """What is minimised over the linear layers, the features of all samples, and the bias.

        mean loss(W_M ... W_1 h_i + b) + sum_j(weight_decay_j / 2 * norm(W_j)^2)
            + feature_decay / 2 * sum_i(norm(h_i)^2) + bias_decay / 2 * norm(b)^2

    with half the squared distance to the target as squared error.

    Attributes:
        counts: (K,), samples per class.
        loss: which one.
        weight_decay: of each linear layer, the one next to the features first.
        feature_decay: of the features.
        bias: "none", "free", or the decay of the bias.
        width: the least of the widths that limits the rank, or None.
        activation: "relu" where features must not be negative.
        class_weights: (K,), factor of each class's loss, or None.
        targets: (K, C), what each class's outputs should be, or None for one-hot.
        label_smoothing: share of the target spread over all classes.
        focal_power: exponent of the focal loss.
        class_scales: (K,), what CDT and LDT multiply logits with, or None.
    """

    counts: Array
    loss: Loss
    weight_decay: tuple[float, ...]
    feature_decay: float
    bias: Literal["none", "free"] | float = "none"
    width: int | None = None
    activation: Literal["linear", "relu"] = "linear"
    class_weights: Array | None = None
    targets: Array | None = None
    label_smoothing: float = 0.0
    focal_power: float = 0.0
    class_scales: Array | None = None

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.counts)

    @property
    def num_samples(self) -> float:
        """N."""
        return float(self.counts.sum())

    @property
    def depth(self) -> int:
        """M, the number of linear layers."""
        return len(self.weight_decay)

    @property
    def decays(self) -> tuple[float, ...]:
        """Those of the layers and, last, of the features."""
        return (*self.weight_decay, self.feature_decay)

    @property
    def nuclear_decay(self) -> float:
        """sqrt(weight_decay * feature_decay), the price of the nuclear norm of the logits."""
        return math.sqrt(self.weight_decay[0] * self.feature_decay)

    @property
    def balanced(self) -> bool:
        """Whether all classes have equal counts."""
        return bool((self.counts == self.counts[0]).all())


def checked_counts(counts: Any) -> Array:
    """(K,), counts as floats if they are at least two positive integers."""
    if isinstance(counts, Tensor | np.ndarray):
        counts = counts.tolist()
    if isinstance(counts, str | bytes) or not hasattr(counts, "__len__"):
        raise TypeError(
            f"counts must be a sequence of samples per class, got {type(counts).__name__}; "
            "write [500] * 10 for ten classes of 500"
        )
    counts = list(counts)
    if len(counts) < 2:
        raise ValueError(
            f"counts must name at least two classes, got {len(counts)}; with one class there is "
            "nothing to tell apart"
        )
    if not all(type(count) is int and count > 0 for count in counts):
        counts = [_checked_count(k, count) for k, count in enumerate(counts)]
    return np.array(counts, dtype=np.float64)


def _checked_count(k: int, count: Any) -> int:
    if isinstance(count, float) and count.is_integer():
        count = int(count)
    return check_integer(f"counts[{k}]", count, 1, "leave out classes without samples")


def checked_decay(name: str, value: Any) -> float:
    """`value` if it is above zero."""
    value = check_number(name, value, minimum=0)
    if value == 0:
        raise ValueError(
            f"{name} must be above 0, got 0; without decay there is no finite optimum (the "
            "directions that cross entropy then tends to are in `vanishing_decay`)"
        )
    return value


def checked_decays(weight_decay: Any, depth: int) -> tuple[float, ...]:
    """One decay per layer."""
    if not isinstance(weight_decay, Sequence | np.ndarray | Tensor) or isinstance(
        weight_decay, str
    ):
        return (checked_decay("weight_decay", weight_decay),) * depth
    values = tuple(
        checked_decay(f"weight_decay[{j}]", float(value)) for j, value in enumerate(weight_decay)
    )
    if len(values) != depth:
        raise ValueError(
            f"weight_decay must be one number or one per layer (depth={depth}), got {len(values)}"
        )
    return values


def checked_per_class(name: str, values: Any, num_classes: int) -> Array:
    """(K,), positive finite numbers, one per class."""
    if isinstance(values, Tensor):
        values = values.tolist()
    if isinstance(values, str) or not hasattr(values, "__len__"):
        raise TypeError(f"{name} must be a sequence of numbers, got {type(values).__name__}")
    if len(values) != num_classes:
        raise ValueError(f"{name} must have one entry per class ({num_classes}), got {len(values)}")
    return np.array(
        [
            check_number(f"{name}[{k}]", float(value), minimum=0, exclusive=True)
            for k, value in enumerate(values)
        ]
    )


def checked_targets(targets: Any, num_classes: int) -> Array:
    """(K, C), finite."""
    array = torch.as_tensor(targets).detach().double().cpu().numpy()
    if array.ndim != 2 or len(array) != num_classes or not array.shape[1]:
        raise ValueError(
            f"targets must have one row per class ({num_classes} rows), got shape {array.shape}; "
            "for regression count every sample as a class of its own"
        )
    if not np.isfinite(array).all():
        raise ValueError("targets must be finite, got NaN or infinity; remove those rows")
    return array


def checked_width(dim: Any, widths: Any, depth: int) -> int | None:
    """The least width, or None where none is given."""
    given = [] if dim is None else [check_integer("dim", dim, 1)]
    if widths is not None:
        if not hasattr(widths, "__len__") or len(widths) != depth - 1:
            count = len(widths) if hasattr(widths, "__len__") else widths
            raise ValueError(
                f"widths must name the {depth - 1} widths between the {depth} linear layers, got "
                f"{count}; the width of the features is dim"
            )
        given += [check_integer(f"widths[{j}]", width, 1) for j, width in enumerate(widths)]
    return min(given, default=None)


def checked_bias(bias: Any) -> Literal["none", "free"] | float:
    """ "none", "free" or a decay; a decay of zero is a free bias."""
    if isinstance(bias, str):
        return check_choice("bias", bias, ("none", "free"))
    if bias is None or isinstance(bias, bool):
        raise TypeError(f"bias must be 'none', 'free' or its decay, got {bias!r}")
    decay = check_number("bias", bias, minimum=0)
    return decay if decay else "free"
