"""NC1 by two routes that must agree, and what is said of the matrix it inverts."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch

import reference.metrics
from cases.worlds import World, simplex_vertices, world, world_cases
from neuralcollapse import ClassStatistics, measure_features, nc1
from neuralcollapse.metrics.whitened import WhitenedSpread, between_condition


@pytest.mark.parametrize("global_mean", ["class", "sample"])
@pytest.mark.parametrize("w", **world_cases)
def test_both_routes_to_nc1_agree(w: World, global_mean: Any) -> None:
    full = ClassStatistics.from_features(w.features, w.labels, w.num_classes)
    light = ClassStatistics.from_features(w.features, w.labels, w.num_classes, scatter=False)
    spread = WhitenedSpread(light, global_mean=global_mean)
    for features, labels in zip(w.features.split(7), w.labels.split(7), strict=True):
        spread.update(features, labels)
    expected = float(nc1(full, global_mean=global_mean))
    if math.isnan(expected):
        assert math.isnan(float(spread.result()))
    else:
        # The world's own rounding, where it is collapsed: squares of 1e-16 relative to the means.
        assert float(spread.result()) == pytest.approx(expected, rel=1e-9, abs=1e-25)


def test_near_total_collapse_keeps_its_digits() -> None:
    """Deviation 1e-5 beside means of 30, in float32, against two passes in float64."""
    w = world("tight", 30 * simplex_vertices(5, 16, 3) + 30, 60, 1e-5)
    features = w.features.float()
    found = measure_features(features, w.labels, scatter=False)
    m = reference.metrics.moments(features.double().numpy(), w.labels.numpy(), 5)
    # The class means are those of an accumulator in float32 with sums in double.
    assert found["nc1"] == pytest.approx(reference.metrics.nc1(m), rel=1e-6)
    assert found.statistics is not None
    assert found.statistics.scatter is None
    assert "second look" in found.conventions["nc1"]


def test_wide_features_take_the_second_route_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    from neuralcollapse import dealing

    w = world("noisy", simplex_vertices(5, 8), 12, 0.3)
    whole = measure_features(w.features, w.labels)
    monkeypatch.setattr(dealing, "_SCATTER_BYTES", 8 * 8 * 8 - 1)
    wide = measure_features(w.features, w.labels)
    assert whole.statistics is not None
    assert wide.statistics is not None
    assert whole.statistics.scatter is not None
    assert wide.statistics.scatter is None
    assert "without scatter" in wide.undefined["vci"]
    for key, value in whole.metrics.items():
        if key != "vci":
            assert wide[key] == pytest.approx(value, rel=1e-9, nan_ok=True), key


def test_rank_and_condition_are_those_of_the_covariance() -> None:
    stretch = torch.tensor([1.0, 2.0, 5.0, 100.0], dtype=torch.float64)
    means = torch.cat([torch.diag(stretch), -torch.diag(stretch)])
    for repeat in (1, 3):  # K > d, and K of few directions
        features = means.repeat(repeat, 1)
        statistics = ClassStatistics.from_features(features, torch.arange(len(features)), 24)
        rank, condition = between_condition(statistics)
        assert rank == 4
        assert condition == pytest.approx(100.0**2, rel=1e-9)
    flat = ClassStatistics.from_features(means[:, 3:].repeat(1, 9), torch.arange(8), 8)
    assert between_condition(flat) == (1, math.inf)
    simplex = ClassStatistics.from_features(
        torch.from_numpy(simplex_vertices(5, 8)), torch.arange(5), 5
    )
    rank, condition = between_condition(simplex)
    assert rank == 4
    assert condition == pytest.approx(1, rel=1e-9)
    same = ClassStatistics.from_features(torch.ones(4, 3), torch.arange(4), 4)
    assert between_condition(same)[0] == 0
    assert math.isnan(between_condition(same)[1])


def test_the_condition_is_said() -> None:
    w = world("noisy", simplex_vertices(5, 8), 12, 0.3)
    found = measure_features(w.features, w.labels)
    assert any("rank 4, condition " in note for note in found.notes)
    assert "note: between-class covariance: rank 4" in str(found)
    assert measure_features(w.features, torch.zeros(len(w.labels), dtype=torch.int64)).notes == ()


WIDE = """
import torch
from neuralcollapse import measure_features
labels = torch.arange(1000) % 10
features = torch.randn(1000, 50176)
features += 3 * torch.randn(10, 50176)[labels]
found = measure_features(features, labels)
assert 0 < found["nc1"] < 1, found["nc1"]
# The peak of this program alone: getrusage counts what its parent held when it was started.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_a_flattened_convolutional_layer_fits_into_a_gigabyte() -> None:
    """64 x 28 x 28 = 50,176 wide: a (d, d) array alone would take 20 GB."""
    done = subprocess.run([sys.executable, "-c", WIDE], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.0
