"""Every metric against the slow reference and against exact numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

import neuralcollapse as nc
import neuralcollapse.metrics.decision
import neuralcollapse.metrics.pairs
from cases.worlds import (
    World,
    collapsed,
    cross_polytope,
    harmonic_frame,
    simplex_vertices,
    world,
    world_cases,
)
from metric_values import GLOBAL_MEANS, all_values, assert_equal_values, by_name, reference_values
from neuralcollapse import METRICS, ClassStatistics
from neuralcollapse.metrics import etf_distance
from neuralcollapse.statistics import GlobalMean

# --- references ---------------------------------------------------------------------------------


@pytest.mark.parametrize("global_mean", GLOBAL_MEANS)
@pytest.mark.parametrize("w", **world_cases)
def test_every_metric_equals_the_slow_reference(w: World, global_mean: GlobalMean) -> None:
    assert_equal_values(all_values(w, global_mean), reference_values(w, global_mean))


@pytest.mark.parametrize("w", **world_cases)
def test_float32_features_lose_no_more_than_their_residuals(w: World) -> None:
    """The reference sees the same float32 numbers; residuals are summed with 24 bits."""
    single = w.replace(features=w.features.float().double())
    # 2^-24 = 6e-8 per residual, more where a pseudo-inverse or a small variance amplifies it.
    assert_equal_values(
        all_values(single, dtype=torch.float32),
        reference_values(single),
        relative=1e-4 if w.name == "steep hierarchy" else 2e-6,
        absolute=1e-6,
    )


@pytest.mark.parametrize("w", **world_cases)
def test_float64_is_kept(w: World) -> None:
    """Published tools round float64 to float32 inside; 1e-8 would then be 1e-7."""
    nudged = w.replace(features=w.features * (1 + 1e-10))
    for key in ("nc1_trace_ratio", "cdnv"):
        assert all_values(nudged)[key] == pytest.approx(all_values(w)[key], rel=1e-7, abs=1e-30)
    assert w.statistics().means.dtype == torch.float64


def test_values_are_scalars_in_float64() -> None:
    w = by_name("noisy")
    statistics = w.statistics(torch.float32)
    weight, features, bias = w.weight.float(), w.features.float(), w.bias.float()
    given = {
        "statistics": statistics, "features": features, "labels": w.labels, "weight": weight,
        "outsiders": features,
    }  # fmt: skip
    for metric in METRICS:
        value = metric.function(*[given[need] for need in metric.needs if need in given])
        assert value.dtype == torch.float64, metric.key
        assert value.shape == (), metric.key
    assert nc.nc4_disagreement(statistics, features, weight, bias).dtype == torch.float64


# --- exact numbers ------------------------------------------------------------------------------


def test_two_classes_by_hand() -> None:
    """Four points, every number in closed form."""
    values = all_values(by_name("by hand"))
    assert values["nc1"] == pytest.approx(0.125, rel=1e-14)
    assert values["nc1_trace_ratio"] == pytest.approx(0.375, rel=1e-14)
    assert values["cdnv"] == pytest.approx(0.09375, rel=1e-14)
    assert values["nc3_duality"] == pytest.approx(math.sqrt(2 - math.sqrt(2)), rel=1e-14)
    assert values["nc3_alignment"] == pytest.approx(1 / math.sqrt(2), rel=1e-14)
    assert values["nc4_disagreement"] == 0.25  # (-1, 1) lies on the line where both logits are 0
    for key in ("nc2_equinorm", "nc2_equiangle", "nc2_max_angle", "nc2_etf_distance"):
        assert values[key] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("num_classes", [2, 3, 4, 10, 100])
@pytest.mark.parametrize("spare", [0, 3])
def test_perfect_collapse_is_zero(num_classes: int, spare: int) -> None:
    """Scale, rotation and a common offset do not matter."""
    values = all_values(collapsed(num_classes, num_classes - 1 + spare, count=2))
    for metric in METRICS:
        # The offset has norm up to 30 beside vertices of length 3: rounding of the input.
        target = metric.collapse_value(num_classes, num_classes - 1 + spare)
        if "outsiders" in metric.needs and not spare:
            continue  # no direction is left for them
        assert values[metric.key] == pytest.approx(target, abs=1e-12), metric.key


@pytest.mark.parametrize(
    "dim, std_cosine, deviation, distance",
    [
        (3, 0.4, 0.32, 0.6714213740394577),
        (16, 0.17668469596940845, 0.06243496357960456, 0.7504382611419815),
    ],
)
def test_cross_polytope(dim: int, std_cosine: float, deviation: float, distance: float) -> None:
    """K = 2 d vectors, equal norms, two angles."""
    values = all_values(world("cross-polytope", 5 * cross_polytope(dim) + 1, 2, 0.0))
    assert values["nc2_equinorm"] == pytest.approx(0, abs=1e-13)
    assert values["nc2_equiangle"] == pytest.approx(std_cosine, rel=1e-12)
    assert values["nc2_max_angle"] == pytest.approx(deviation, rel=1e-12)
    assert values["nc2_etf_distance"] == pytest.approx(distance, rel=1e-12)


@pytest.mark.parametrize(
    "num_classes, dim, floor",
    [
        (100, 64, 0.6260507),
        (1000, 512, 0.7537907),
        pytest.param(10000, 512, 1.2439570, marks=pytest.mark.slow),
    ],
)
def test_tight_frames_reach_the_floor_of_the_etf_distance(
    num_classes: int, dim: int, floor: float
) -> None:
    """For K > d + 1 nothing comes nearer than sqrt(2 - 2 sqrt(d / (K - 1)))."""
    frame = torch.from_numpy(harmonic_frame(num_classes, dim))
    assert float(etf_distance(frame)) == pytest.approx(floor, abs=1e-7)
    bent = frame + 0.1 * torch.randn(frame.shape, generator=torch.Generator().manual_seed(0))
    assert float(etf_distance(bent)) > floor + 1e-5


def average_over(repeats: int, value: Callable[[int], list[float]]) -> tuple[np.ndarray, ...]:
    """(means, standard errors) over seeds."""
    values = np.array([value(seed) for seed in range(repeats)])
    return values.mean(0), values.std(0, ddof=1) / math.sqrt(repeats)


def noise_statistics(means: np.ndarray, count: int, scale: float, seed: int) -> ClassStatistics:
    return world("noise", means, count, scale, seed=seed).statistics()


@pytest.mark.parametrize(
    "num_classes, dim, count, repeats", [(10, 64, 20, 100), (5, 32, 50, 100), (40, 16, 30, 60)]
)
def test_pure_noise(num_classes: int, dim: int, count: int, repeats: int) -> None:
    """Gaussian features without any class; NC1 is then far from 1."""

    def values(seed: int) -> list[float]:
        statistics = noise_statistics(np.zeros((num_classes, dim)), count, 1.0, seed)
        metrics = (nc.nc1, nc.nc1_trace_ratio, nc.cdnv)
        return [float(metric(statistics)) for metric in metrics]

    total = num_classes * count
    if num_classes - 1 < dim:
        nc1 = (count - 1) * (num_classes - 1) / (dim - num_classes)
    else:
        nc1 = (count - 1) * dim / (num_classes - dim - 2)
    ratio = dim * (total - num_classes) / (dim * (num_classes - 1) - 2)
    cdnv = (count - 1) * dim / (2 * (dim - 2))
    averages, errors = average_over(repeats, values)
    expected = np.array([nc1, ratio, cdnv])
    # The test must be able to fail: errors of a few per cent, and four of them as tolerance.
    assert (errors < 0.02 * expected).all()
    assert (abs(averages - expected) < 4 * errors).all(), (averages, expected, errors)


@pytest.mark.parametrize(
    "count, repeats, mean", [(5, 150, 0.008950), (20, 60, 0.010775), (100, 20, 0.011252)]
)
def test_noise_on_a_simplex(count: int, repeats: int, mean: float) -> None:
    """K = 10, d = 64, s = 0.3; population NC1 = s^2 (K-1)^2 / (d K) and ratio s^2."""
    vertices, scale = simplex_vertices(10, 64), 0.3 / math.sqrt(64)

    def values(seed: int) -> list[float]:
        statistics = noise_statistics(vertices, count, scale, seed)
        return [float(nc.nc1(statistics)), float(nc.nc1_trace_ratio(statistics))]

    averages, errors = average_over(repeats, values)
    assert errors[0] < 0.01 * mean
    # `mean` is itself an average of a Monte Carlo, printed with four digits.
    assert abs(averages[0] - mean) < 4 * errors[0] + 1e-5, (averages, errors)
    if count == 100:
        assert averages[0] == pytest.approx(0.09 * 81 / 640, rel=0.02)
        assert averages[1] == pytest.approx(0.09, rel=0.02)


def test_many_samples_reach_the_population_value() -> None:
    """At n = 1000: 0.011387 of 0.011391."""
    statistics = noise_statistics(simplex_vertices(10, 64), 1000, 0.3 / 8, seed=0)
    assert float(nc.nc1(statistics)) == pytest.approx(0.011387, rel=0.01)


# --- devices --------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("w", **world_cases)
def test_every_metric_on_a_gpu(w: World) -> None:
    on_gpu = w.replace(
        features=w.features.cuda(), labels=w.labels.cuda(), weight=w.weight.cuda(),
        bias=w.bias.cuda(),
    )  # fmt: skip
    assert_equal_values(all_values(on_gpu), all_values(w), 1e-6, 1e-9)
