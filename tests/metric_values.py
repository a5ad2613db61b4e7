"""Values of every metric through the table, beside those of the slow reference."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import neuralcollapse as nc
import neuralcollapse.metrics.decision
import neuralcollapse.metrics.pairs
import reference.metrics
from cases.metrics import ROWS
from cases.worlds import WORLDS, World
from neuralcollapse import METRICS, ClassStatistics
from neuralcollapse.metrics import evaluate
from neuralcollapse.statistics import GlobalMean

KEYS = [metric.key for metric in METRICS]


# Of features from outside of the classes: left out where there are none.
OPTIONAL = {*KEYS} - {metric.key for metric in ROWS}
GLOBAL_MEANS: list[GlobalMean] = ["class", "sample"]


# The reference and the library both work in float64, in a different order of the operations. The
# worlds lose up to 7 digits of 16 to the ratio of their means to their noise.
RELATIVE = 1e-8


# Where the exact value is 0 (angles of a perfect frame), rounding leaves this.
ABSOLUTE = 1e-13


# Ratios of squares near 1e-13 are values like any other: they get a relative tolerance only.
VARIABILITY = ("nc1", "nc1_trace_ratio", "cdnv")


def by_name(name: str) -> World:
    return next(w for w in WORLDS if w.name == name)


def all_values(
    w: World, global_mean: GlobalMean = "class", dtype: torch.dtype = torch.float64
) -> dict[str, float]:
    """Every metric of the table, through the table."""
    statistics = w.statistics(dtype)
    features = w.features.to(dtype)
    known = of_features(statistics, features, w.labels, w.weight, w.bias, global_mean)
    if w.outsiders is not None:
        known["nc5_orthogonality"] = float(nc.nc5_orthogonality(statistics, w.outsiders.to(dtype)))
    values, _ = evaluate(statistics, w.weight, global_mean=global_mean, known=known)
    return values


def of_features(
    statistics: ClassStatistics,
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    global_mean: GlobalMean = "class",
) -> dict[str, float | str]:
    """The metrics that look at the features again."""
    return {
        "nc4_disagreement": float(nc.nc4_disagreement(statistics, features, weight, bias)),
        "hug_intra": float(nc.hug_intra(statistics, features, labels, global_mean=global_mean)),
        "cdnv_directional": float(nc.cdnv_directional(statistics, features, labels)),
    }


def reference_values(w: World, global_mean: str = "class") -> dict[str, float]:
    return reference.metrics.all_metrics(
        w.features.numpy(), w.labels.numpy(), w.num_classes, w.weight.numpy(), w.bias.numpy(),
        global_mean, None if w.outsiders is None else w.outsiders.numpy(),
    )  # fmt: skip


def assert_equal_values(
    values: dict[str, float],
    expected: dict[str, float],
    relative: float = RELATIVE,
    absolute: float = ABSOLUTE,
) -> None:
    assert [key for key in KEYS if key in values] == list(values)
    assert {*KEYS} - {*values} <= OPTIONAL
    assert set(values) == set(expected)
    for key, value in values.items():
        wanted = expected[key]
        if not math.isfinite(wanted):  # the table turns an infinite value into nan with a reason
            assert math.isnan(value), f"{key}: {value}, not nan"
        else:
            bound = relative * abs(wanted) + (1e-28 if key in VARIABILITY else absolute)
            assert abs(value - wanted) <= bound, f"{key}: {value!r}, reference {wanted!r}"
