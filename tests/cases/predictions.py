"""What `predict` is asked: a row or more for every closed form and program."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class PredictionCase:
    """What `predict` is asked, and `unconstrained` then judges from some random starts."""

    name: str
    arguments: Mapping[str, Any]
    starts: int = 2


BALANCED_COUNTS, STEP_COUNTS = (6,) * 4, (9, 9, 2, 2)
TAIL_COUNTS, DYING_COUNTS = (20, 10, 5, 3), (30, 12, 5, 4, 2)
_FACTORS = (1.5, 0.7, 1.2, 0.8, 1.1, 0.9)


def with_targets(classes: int) -> dict[str, Any]:
    """Two targets coincide, one is zero: not one-hot, not of full rank."""
    generator = torch.Generator().manual_seed(classes)
    targets = torch.randn(classes, classes, generator=generator, dtype=torch.float64)
    targets[1], targets[2] = targets[0], 0
    return {"targets": targets}


def with_scales(classes: int) -> dict[str, Any]:
    return {"class_scales": _FACTORS[:classes]}


def with_weights(classes: int) -> dict[str, Any]:
    return {"class_weights": _FACTORS[:classes]}


def prediction_grid(
    losses: Sequence[str],
    counts: Sequence[Sequence[int]],
    decays: Sequence[float],
    biases: Sequence[Any],
    depths: Sequence[int] = (1,),
    options: Callable[[int], dict[str, Any]] = lambda classes: {},
    starts: int = 2,
) -> Iterator[PredictionCase]:
    """All combinations; the features are decayed a little less than the layers."""
    for loss, sizes, decay, bias, depth in itertools.product(
        losses, counts, decays, biases, depths
    ):
        arguments = {
            "loss": loss, "counts": sizes, "weight_decay": decay, "feature_decay": 0.8 * decay,
            "bias": bias, "depth": depth, **options(len(sizes)),
        }  # fmt: skip
        kind = "targets" if "targets" in arguments else loss
        given = "".join(f"-{key}" for key in arguments if key == "activation")
        name = f"{kind}{given}-{'.'.join(map(str, sizes))}-depth{depth}-{decay}-{bias}"
        yield PredictionCase(name, arguments, starts)


# A row or more for every closed form and program, on both sides of where classes die or merge.
PREDICTION_CASES: tuple[PredictionCase, ...] = (
    *prediction_grid(["mse"], [TAIL_COUNTS], [0.02], ["none", "free"], [1, 2, 3]),
    *prediction_grid(["mse"], [BALANCED_COUNTS], [0.02, 0.2], [0.05, "none", "free"]),
    *prediction_grid(["mse"], [STEP_COUNTS], [0.02], [0.05]),
    *prediction_grid(["mse"], [DYING_COUNTS], [0.06], ["none", "free"], [1, 2, 3]),
    *prediction_grid(["mse"], [TAIL_COUNTS], [0.001], ["none"], [6]),
    *prediction_grid(["ce"], [BALANCED_COUNTS], [0.02, 0.2], ["none"]),
    *prediction_grid(["ce"], [STEP_COUNTS, DYING_COUNTS], [0.005, 0.06], ["none", "free", 0.05]),
    *prediction_grid(
        ["label_smoothing"], [BALANCED_COUNTS, TAIL_COUNTS], [0.02, 0.2], ["none"],
        options=lambda _: {"label_smoothing": 0.1},
    ),
    *prediction_grid(
        ["focal"], [BALANCED_COUNTS], [0.005, 0.2], ["none"],
        options=lambda _: {"focal_power": 2.0},
    ),
    *prediction_grid(
        ["cdt", "ldt"], [TAIL_COUNTS], [0.02, 0.06], ["none", "free"], options=with_scales
    ),
    *prediction_grid(
        ["weighted_mse"], [TAIL_COUNTS], [0.02, 0.06], ["none", "free"], options=with_weights
    ),
    *prediction_grid(
        ["mse"], [TAIL_COUNTS], [0.02], ["none", "free"], [1, 2], options=with_targets
    ),
    # Many local minima: more starts.
    *prediction_grid(
        ["ce"], [BALANCED_COUNTS, DYING_COUNTS], [0.02, 0.06], ["none"],
        options=lambda _: {"activation": "relu"}, starts=8,
    ),
    *prediction_grid(
        ["ce"], [TAIL_COUNTS], [0.005, 0.06], [1.0],
        options=lambda _: {"activation": "relu"}, starts=8,
    ),
    *prediction_grid(
        ["mse", "label_smoothing"], [BALANCED_COUNTS], [0.02], ["free"],
        options=lambda _: {"activation": "relu"}, starts=8,
    ),
    *prediction_grid(["ce"], [(2, 2, 2)], [1e-3], ["none"], [3], starts=8),
)  # fmt: skip
