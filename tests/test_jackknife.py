"""Intervals against leaving out one part of the data by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from neuralcollapse import ClassStatistics, cdnv, jackknife_intervals, nc1, nc3_duality
from neuralcollapse.jackknife import _standard_error

GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.arange(300) % 3
FEATURES = 2 * torch.eye(3, 5)[LABELS] + torch.randn(300, 5, generator=GENERATOR)
FEATURES = FEATURES.double()
WEIGHT = torch.eye(3, 5).double()
SIZES = [10, 50, 30, 25, 35, 45, 15, 20, 30, 40]


def part(features: Tensor, labels: Tensor) -> ClassStatistics:
    return ClassStatistics.from_features(features, labels, 3)


def parts_of(sizes: list[int]) -> list[ClassStatistics]:
    pieces = zip(FEATURES.split(sizes), LABELS.split(sizes), strict=True)
    return [part(*piece) for piece in pieces]


@pytest.mark.parametrize("sizes", [[30] * 10, SIZES, [150, 150]])
def test_the_intervals_are_those_of_leaving_out_by_hand(sizes: list[int]) -> None:
    intervals = jackknife_intervals(parts_of(sizes), WEIGHT)
    whole = part(FEATURES, LABELS)
    for key, function in {"nc1": nc1, "cdnv": cdnv}.items():
        value = float(function(whole))
        pseudo, without = [], []
        for j, size in enumerate(sizes):
            kept = torch.ones(300, dtype=torch.bool)
            kept[sum(sizes[:j]) : sum(sizes[: j + 1])] = False
            left = float(function(part(FEATURES[kept], LABELS[kept])))
            without.append(left)
            pseudo.append(300 / size * value - (300 / size - 1) * left)
        mean = sum(value - (1 - n / 300) * w for n, w in zip(sizes, without, strict=True))
        squares = [(p - mean) ** 2 / (300 / n - 1) for p, n in zip(pseudo, sizes, strict=True)]
        interval = intervals[key]
        assert interval.value == pytest.approx(value, rel=1e-12)
        assert interval.standard_error == pytest.approx(
            math.sqrt(sum(squares) / len(sizes)), rel=1e-6
        )
    assert intervals["nc3_duality"].value == pytest.approx(float(nc3_duality(whole, WEIGHT)))


def test_of_a_mean_it_is_the_standard_error_of_the_mean() -> None:
    """Equal parts: the deviation of their means over the root of their number, exactly."""
    values = [1.0, 4.0, 2.0, 8.0, 5.0]
    mean = sum(values) / 5
    without = [(5 * mean - value) / 4 for value in values]
    wanted = math.sqrt(sum((value - mean) ** 2 for value in values) / 4 / 5)
    assert _standard_error(mean, without, [7] * 5) == pytest.approx(wanted, rel=1e-12)


def test_the_reach_is_students() -> None:
    """Ten parts: 2.262 standard errors at 95 %, 1.833 at 90 % (tables)."""
    for confidence, quantile in ((0.95, 2.262), (0.9, 1.833)):
        one = jackknife_intervals(parts_of(SIZES), confidence=confidence)["cdnv"]
        assert (one.high - one.value) / one.standard_error == pytest.approx(quantile, abs=5e-4)
        assert one.high - one.value == pytest.approx(one.value - one.low)


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """CDNV of two classes at distance 4 in 4 dimensions with unit noise: 4 / 16."""
    generator = torch.Generator().manual_seed(1)
    held = 0
    for _ in range(200):
        features = torch.randn(200, 4, generator=generator)
        labels = torch.arange(200) % 2
        features[:, 0] += 4 * labels
        parts = [
            ClassStatistics.from_features(features[j * 20 :][:20], labels[j * 20 :][:20], 2)
            for j in range(10)
        ]
        one = jackknife_intervals(parts, metrics=["cdnv"])["cdnv"]
        held += one.low <= 0.25 <= one.high
    # 95 % of 200 with a deviation of 3: four of them either way, and the bias of 1 % of CDNV.
    assert held >= 178


def test_parts_that_are_empty_or_lack_a_class() -> None:
    empty = part(FEATURES[:0], LABELS[:0])
    parts = parts_of([30] * 10)
    assert jackknife_intervals([*parts, empty])["nc1"] == jackknife_intervals(parts)["nc1"]
    by_class = [part(FEATURES[k == LABELS], LABELS[k == LABELS]) for k in range(3)]
    assert "cdnv" in jackknife_intervals(by_class)
    two = jackknife_intervals(by_class[:2])  # without either, one class is left
    assert "cdnv" not in two


def test_what_has_no_interval() -> None:
    intervals = jackknife_intervals(parts_of(SIZES))
    assert not {"nc4_disagreement", "hug_intra", "nc3_duality"} & {*intervals}


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="parts must be at least two with samples, got 1"):
        jackknife_intervals(parts_of([300]))
    with pytest.raises(ValueError, match="parts must be at least two with samples, got 0"):
        jackknife_intervals([])
    wider = ClassStatistics.from_features(FEATURES, LABELS, 4)
    with pytest.raises(ValueError, match="must have equal"):
        jackknife_intervals([*parts_of([300]), wider])
    with pytest.raises(ValueError, match="confidence must be below 1"):
        jackknife_intervals(parts_of(SIZES), confidence=95)
    with pytest.raises(ValueError, match="metrics must be keys of METRICS, got 'nc9'"):
        jackknife_intervals(parts_of(SIZES), metrics=["nc9"])
    with pytest.raises(ValueError, match="known must hold the value of all data and one without"):
        jackknife_intervals(parts_of(SIZES), known={"nc4_disagreement": [0.1] * 10})


def test_known_values_of_parts_without_samples_count_for_nothing() -> None:
    empty = part(FEATURES[:0], LABELS[:0])
    values = [0.3, *(0.3 + 0.01 * j for j in range(10))]
    plain = jackknife_intervals(parts_of(SIZES), known={"nc4_disagreement": values})
    wide = jackknife_intervals(
        [empty, *parts_of(SIZES)], known={"nc4_disagreement": [values[0], 7.0, *values[1:]]}
    )
    assert wide["nc4_disagreement"] == plain["nc4_disagreement"]
    others = jackknife_intervals(parts_of(SIZES), metrics=["nc1"], known={"hug_intra": values})
    assert {*others} == {"nc1"}
