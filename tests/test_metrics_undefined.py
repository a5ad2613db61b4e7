"""What is undefined is nan with a reason, and arguments that do not fit are refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import neuralcollapse as nc
import neuralcollapse.metrics.decision
import neuralcollapse.metrics.pairs
from cases.metrics import ROWS
from metric_values import GLOBAL_MEANS, KEYS, OPTIONAL, by_name, of_features
from neuralcollapse import ClassStatistics
from neuralcollapse.metrics import equiangle, equinorm, etf_distance, evaluate, max_angle
from neuralcollapse.statistics import GlobalMean


@pytest.mark.parametrize("classes", [[], [3]])
def test_fewer_than_two_classes_are_undefined_with_a_reason(classes: list[int]) -> None:
    labels = torch.tensor(classes * 5, dtype=torch.int64)
    features = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(0))
    statistics = ClassStatistics.from_features(features, labels, 4)
    known = of_features(statistics, features, labels, torch.eye(4, 3))
    assert all(math.isnan(float(value)) for value in known.values())
    values, reasons = evaluate(statistics, torch.eye(4, 3), known=known)
    for metric in ROWS:
        if "statistics" in metric.needs:
            assert math.isnan(values[metric.key]), metric.key
            reason = reasons[metric.key]
            assert f"two classes with samples, got {len(classes)} of 4" in reason
    assert all(math.isnan(values[key]) == (key in reasons) for key in values)


# 0.1 has no exact binary form: the mean of several equal means differs from them by rounding.
POINTS = {
    "zero": torch.zeros(4),
    "exact": torch.tensor([1.0, 2.0, 0.5, 4.0]),
    "inexact": torch.tensor([0.1, 0.7, -0.3, 1e5], dtype=torch.float64),
    "random": torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
}


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("num_classes", [2, 3, 7, 10])
@pytest.mark.parametrize("global_mean", GLOBAL_MEANS)
def test_a_network_that_says_the_same_for_all_is_undefined_not_collapsed(
    point: str, num_classes: int, global_mean: GlobalMean
) -> None:
    """All features equal: no variability, but no geometry either; 0 would look perfect."""
    labels = torch.arange(3 * num_classes) % num_classes
    labels[-1] = 0
    features = POINTS[point].expand(len(labels), 4)
    statistics = ClassStatistics.from_features(features, labels, num_classes)
    weight = torch.randn(num_classes, 4, generator=torch.Generator().manual_seed(1))
    known = of_features(statistics, features, labels, weight, None, global_mean)
    known["nc4_disagreement"] = "not asked for"
    values, reasons = evaluate(statistics, weight, global_mean=global_mean, known=known)
    for metric in ROWS:
        if "statistics" in metric.needs:
            assert math.isnan(values[metric.key]), f"{metric.key} = {values[metric.key]}"
        if "statistics" in metric.needs and metric.key != "nc4_disagreement":
            assert "coincide" in reasons[metric.key]


def test_two_classes_on_one_spot_are_infinitely_variable() -> None:
    features = torch.tensor([[0.0], [2.0], [0.0], [2.0], [5.0]])
    statistics = ClassStatistics.from_features(features, torch.tensor([0, 0, 1, 1, 2]), 3)
    assert float(nc.cdnv(statistics)) == math.inf
    values, reasons = evaluate(statistics)
    assert math.isnan(values["cdnv"])
    assert "coincide" in reasons["cdnv"]
    assert "coincide" not in reasons.get("nc1", "")
    assert math.isfinite(values["nc1"])


def test_every_undefined_metric_says_why() -> None:
    w = by_name("noisy")
    bare = nc.StatisticsAccumulator(5, 8, scatter=False)
    bare.update(w.features, w.labels)
    values, reasons = evaluate(bare.result())
    assert {key for key in values if math.isnan(values[key])} == set(reasons)
    assert {*KEYS} - {*values} == OPTIONAL
    assert "scatter" in reasons["nc1"]
    assert "classifier" in reasons["nc3_duality"]
    assert math.isfinite(values["nc1_trace_ratio"])
    _, reasons = evaluate(w.statistics(), w.weight)
    assert set(reasons) == {"nc4_disagreement", "hug_intra", "cdnv_directional"}
    assert all("features" in reason for reason in reasons.values())


@pytest.mark.parametrize(
    "row, fragment", [(torch.zeros(8), "zero"), (torch.full((8,), math.nan), "finite")]
)
def test_a_broken_row_of_the_classifier_is_named(row: Tensor, fragment: str) -> None:
    w = by_name("noisy")
    weight = w.weight.clone()
    weight[3] = row
    values, reasons = evaluate(w.statistics(), weight)
    assert math.isnan(values["nc2w_max_angle"])
    for key in ("nc2w_max_angle", "nc3_alignment"):
        assert fragment in reasons[key]
        assert "3" in reasons[key]
    assert math.isfinite(values["nc2_max_angle"])


@pytest.mark.parametrize("function", [equinorm, equiangle, max_angle, etf_distance])
@pytest.mark.parametrize("num_vectors", [0, 1])
def test_fewer_than_two_vectors_have_no_geometry(
    function: Callable[[Tensor], Tensor], num_vectors: int
) -> None:
    assert math.isnan(float(function(torch.ones(num_vectors, 3))))


@pytest.mark.parametrize("function", [equinorm, equiangle, max_angle, etf_distance])
@pytest.mark.parametrize("num_vectors", [3, 9])
def test_zero_vectors_have_no_geometry(
    function: Callable[[Tensor], Tensor], num_vectors: int
) -> None:
    assert math.isnan(float(function(torch.zeros(num_vectors, 3))))


def test_arguments_that_do_not_fit_are_refused() -> None:
    w = by_name("noisy")
    statistics, features = w.statistics(), w.features
    for metric in (nc.nc3_duality, nc.nc3_alignment, nc.gnc3_alignment_spread):
        with pytest.raises(ValueError, match=r"weight must have 8 columns.*got shape \(5, 7\)"):
            metric(statistics, w.weight[:, :7])
        with pytest.raises(ValueError, match=r"weight must have 5 rows.*got shape \(4, 8\)"):
            metric(statistics, w.weight[:4])
    with pytest.raises(ValueError, match="features must have 8 columns"):
        nc.nc4_disagreement(statistics, features[:, :3], w.weight)
    with pytest.raises(ValueError, match="features must have 8 columns"):
        nc.hug_intra(statistics, features[:, :3], w.labels)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 5\), got values from 1 to 5"):
        nc.hug_intra(statistics, features, w.labels + 1)
    with pytest.raises(ValueError, match="labels"):
        nc.hug_intra(statistics, features, w.labels[:-1])
    with pytest.raises(ValueError, match="power must be finite and above -2, got -2"):
        nc.gnc2_energy_gap(statistics, power=-2)
    with pytest.raises(ValueError, match=r"bias must have shape \(5,\)"):
        nc.nc4_disagreement(statistics, features, w.weight, w.bias[:3])
    with pytest.raises(TypeError, match=r"weight must be floating point, got int64.*\.float"):
        nc.nc2w_equinorm(w.weight.long())
    with pytest.raises(ValueError, match="global_mean must be one of class, sample, got 'mean'"):
        nc.nc2_equinorm(statistics, global_mean="mean")  # pyright: ignore[reportArgumentType]
    bare = nc.StatisticsAccumulator(5, 8, scatter=False)
    bare.update(features, w.labels)
    with pytest.raises(ValueError, match="scatter=True"):
        nc.nc1(bare.result())
