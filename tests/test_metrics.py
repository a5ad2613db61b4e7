"""Every metric against the slow reference, against exact numbers, and against what it must see."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import neuralcollapse as nc
import neuralcollapse.metrics.decision
import neuralcollapse.metrics.pairs
import reference.metrics
from cases import (
    BREAKS,
    HARMLESS,
    METRIC_CASES,
    ROWS,
    WORLDS,
    World,
    collapsed,
    cross_polytope,
    harmonic_frame,
    rotation,
    simplex_vertices,
    world,
    world_cases,
)
from neuralcollapse import METRICS, ClassStatistics
from neuralcollapse.metrics import (
    NearestMean,
    equiangle,
    equinorm,
    etf_distance,
    evaluate,
    linear_decision,
    max_angle,
)
from neuralcollapse.metrics.decision import DualDecisions
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
    """2.3 (10): published tools round float64 to float32 inside; 1e-8 would then be 1e-7."""
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
    """6.1: four points, every number in closed form."""
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
    """6.2: scale, rotation and a common offset do not matter."""
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
    """6.2: K = 2 d vectors, equal norms, two angles."""
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
    """6.2: for K > d + 1 nothing comes nearer than sqrt(2 - 2 sqrt(d / (K - 1)))."""
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
    """6.3: Gaussian features without any class; NC1 is then far from 1."""

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
    """6.4: K = 10, d = 64, s = 0.3; population NC1 = s^2 (K-1)^2 / (d K) and ratio s^2."""
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
    """6.4 at n = 1000: 0.011387 of 0.011391."""
    statistics = noise_statistics(simplex_vertices(10, 64), 1000, 0.3 / 8, seed=0)
    assert float(nc.nc1(statistics)) == pytest.approx(0.011387, rel=0.01)


# --- what each metric sees ------------------------------------------------------------------------


@pytest.mark.parametrize("break_name", BREAKS)
@pytest.mark.parametrize("key", KEYS)
def test_a_metric_moves_when_its_property_breaks_and_only_then(key: str, break_name: str) -> None:
    """The table of what each metric is blind to; a metric that is always 0 cannot pass."""
    whole = all_values(collapsed())[key]
    broken = all_values(BREAKS[break_name](collapsed()))[key]
    if break_name in METRIC_CASES[key].sees:
        # The smallest is a step of 1 between means 4.9 apart, at 35 degrees, in half of the pairs.
        assert abs(broken - whole) > 0.013, f"{key} does not see {break_name}"
    else:
        assert broken == pytest.approx(whole, abs=1e-12), f"{key} sees {break_name}"


@pytest.mark.parametrize("key", KEYS)
def test_every_metric_gets_worse_in_its_own_direction(key: str) -> None:
    metric = next(metric for metric in METRICS if metric.key == key)
    assert METRIC_CASES[key].sees
    for break_name in METRIC_CASES[key].sees:
        broken = all_values(BREAKS[break_name](collapsed()))[key]
        target = metric.collapse_value(4, 6)
        worse = broken > target if metric.better == "lower" else broken < target
        assert worse, f"{key} gets better from {break_name}"


@pytest.mark.parametrize("change", HARMLESS)
def test_no_metric_sees_a_harmless_change(change: str) -> None:
    for start in (collapsed(), by_name("noisy"), by_name("long tail")):
        if change == "a common offset with its bias":
            start = start.replace(outsiders=None)  # NC5 is an angle seen from the origin
        before = all_values(start)
        # "noisy" has a random bias: scaled with the features its decisions stay.
        assert_equal_values(all_values(HARMLESS[change](start)), before, 1e-10, 1e-12)


def test_signed_deviations_would_see_nothing() -> None:
    """1.3 (7): the mean cosine of centred means of equal norm is -1/(K-1) however they lie."""
    antipodal = world("two poles", cross_polytope(4)[[0, 0, 0, 4, 4, 4]], 4, 0.05, in_pairs=True)
    means = antipodal.statistics().centred_means()
    cosines = reference.metrics.cosines(means.numpy())
    assert sum(c + 1 / 5 for c in cosines) / len(cosines) == pytest.approx(0, abs=1e-12)
    values = all_values(antipodal)
    # Cosines of +1 (6 pairs) and -1 (9 pairs) where all should be -1/5.
    assert values["nc2_max_angle"] == pytest.approx((6 * 1.2 + 9 * 0.8) / 15, rel=1e-12)
    assert values["nc2_equiangle"] == pytest.approx(math.sqrt(1 - 0.04), rel=1e-12)
    assert values["nc2_etf_distance"] > 0.5
    assert values["nc2_equinorm"] == pytest.approx(0, abs=1e-12)


def test_an_absent_class_is_not_a_zero_mean() -> None:
    """2.3 (6): two of twelve classes empty, far from the origin; as if there were only ten."""
    full = world("ten", 2 + simplex_vertices(10, 16), 8, 0.2, seed=3)
    spread = torch.tensor([0, 1, 2, 4, 5, 6, 7, 8, 9, 10])
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 16, generator=generator, dtype=torch.float64)
    bias = torch.full((12,), -1e3, dtype=torch.float64)
    weight[spread], bias[spread] = full.weight, full.bias
    gaps = full.replace(labels=spread[full.labels], num_classes=12, weight=weight, bias=bias)
    for global_mean in GLOBAL_MEANS:
        dense, sparse = all_values(full, global_mean), all_values(gaps, global_mean)
        assert_equal_values(sparse, dense, 1e-12)
    as_zeros = full.statistics().seen_means
    as_zeros = torch.cat([as_zeros, torch.zeros(2, 16)])
    wrong = etf_distance(as_zeros - as_zeros.mean(0))
    assert abs(float(wrong) - all_values(gaps)["nc2_etf_distance"]) > 0.05


def test_a_class_never_seen_can_be_chosen_but_cannot_be_nearest() -> None:
    w = by_name("classes 2 and 5 unseen")
    bias = w.bias.clone()
    bias[2] = 1e3
    everywhere = nc.nc4_disagreement(w.statistics(), w.features, w.weight, bias)
    assert float(everywhere) == 1
    assert set(NearestMean(w.statistics())(w.features).tolist()) == {0, 1, 3, 4}


def test_the_bias_decides_for_nc4() -> None:
    """2.3 (9): the incumbent has no bias argument."""
    # An offset of the features along one row, which the bias takes back.
    w = collapsed()
    w = w.replace(features=w.features + w.weight[0], bias=w.bias - w.weight @ w.weight[0])
    without = nc.nc4_disagreement(w.statistics(), w.features, w.weight)
    with_bias = nc.nc4_disagreement(w.statistics(), w.features, w.weight, w.bias)
    assert float(with_bias) == 0
    assert float(without) == 0.75


def test_nc4_is_blind_to_who_is_right() -> None:
    w = collapsed()
    turned = w.replace(labels=(w.labels + 1) % 4, weight=w.weight[[3, 0, 1, 2]])
    turned = turned.replace(bias=w.bias[[3, 0, 1, 2]])
    assert all_values(turned)["nc4_disagreement"] == 0


# --- invariances --------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 1e3])
@pytest.mark.parametrize("w", **world_cases)
def test_scale_of_features_does_not_matter(w: World, scale: float) -> None:
    scaled = w.replace(features=scale * w.features, bias=scale * w.bias)
    assert_equal_values(all_values(scaled), all_values(w), 1e-6)


@pytest.mark.parametrize("w", **world_cases)
def test_rotation_does_not_matter(w: World) -> None:
    turn = torch.from_numpy(rotation(w.features.shape[1], 77))
    turned = w.replace(features=w.features @ turn, weight=w.weight @ turn)
    if w.outsiders is not None:
        turned = turned.replace(outsiders=w.outsiders @ turn)
    before, after = all_values(w), all_values(turned)
    # One sample of the four-point world lies on the border of the decision.
    if w.name == "by hand":
        before["nc4_disagreement"] = after["nc4_disagreement"]
    if w.name == "means in a plane":
        # Rotated, the four directions that the means do not span are there as rounding; the
        # pseudo-inverse must still leave them out.
        assert after["nc1"] == pytest.approx(before["nc1"], rel=1e-8)
    assert_equal_values(after, before, 1e-6, 1e-12)


@pytest.mark.parametrize("w", **world_cases)
def test_a_common_offset_does_not_matter(w: World) -> None:
    offset = torch.linspace(-3, 5, w.features.shape[1], dtype=torch.float64)
    w = w.replace(outsiders=None)  # NC5 is an angle seen from the origin
    moved = w.replace(features=w.features + offset, bias=w.bias - w.weight @ offset)
    before, after = all_values(w), all_values(moved)
    if w.name == "by hand":
        before["nc4_disagreement"] = after["nc4_disagreement"]
    assert_equal_values(after, before, 1e-5, 1e-12)


@pytest.mark.parametrize("w", **world_cases)
def test_names_and_order_of_classes_do_not_matter(w: World) -> None:
    order = torch.randperm(w.num_classes, generator=torch.Generator().manual_seed(1))
    renamed = torch.empty_like(order)
    renamed[order] = torch.arange(w.num_classes)
    shuffle = torch.randperm(len(w.labels), generator=torch.Generator().manual_seed(2))
    other = w.replace(
        features=w.features[shuffle],
        labels=renamed[w.labels][shuffle],
        weight=w.weight[order],
        bias=w.bias[order],
    )
    before, after = all_values(w), all_values(other)
    if w.name == "by hand":
        before["nc4_disagreement"] = after["nc4_disagreement"]
    assert_equal_values(after, before, 1e-6)


@pytest.mark.parametrize("w", **world_cases)
def test_balanced_classes_have_one_global_mean(w: World) -> None:
    counts = w.statistics().counts
    counts = counts[counts > 0]
    one, other = all_values(w, "class"), all_values(w, "sample")
    if bool((counts == counts[0]).all()):
        assert_equal_values(one, other, 1e-9)
    else:
        assert one["nc2_etf_distance"] != pytest.approx(other["nc2_etf_distance"], rel=1e-3)


def test_the_metrics_leave_their_arguments_alone() -> None:
    w = by_name("long tail")
    statistics = w.statistics()
    assert statistics.scatter is not None
    given = [statistics.means, statistics.spread, statistics.scatter, w.weight, w.features, w.bias]
    before = [tensor.clone() for tensor in given]
    evaluate(statistics, w.weight)
    nc.nc4_disagreement(statistics, w.features, w.weight, w.bias)
    for tensor, copy in zip(given, before, strict=True):
        torch.testing.assert_close(tensor, copy, rtol=0, atol=0)


# --- numerics -----------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 3, 7])
@pytest.mark.parametrize("w", **world_cases)
def test_blockwise_sweeps_equal_the_dense_ones(
    w: World, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2.3 (3): the incumbent raises where one class is left for the last tile."""
    dense = all_values(w)
    monkeypatch.setattr(neuralcollapse.metrics.pairs, "_BLOCK", block)
    monkeypatch.setattr(neuralcollapse.metrics.decision, "_BLOCK_SCORES", block)
    assert_equal_values(all_values(w), dense, 1e-12)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6, 1e-8])
def test_cdnv_of_means_that_nearly_coincide(gap: float) -> None:
    """3.3: squared distances from inner products lose their digits below 1e-4."""
    means = 8 * simplex_vertices(6, 64, 3)
    means[1] = means[0] + gap * rotation(64, 4)[0]
    w = world("near", means, 4, 1e-3, in_pairs=True, seed=5)
    # The input itself is rounded to 1e-16 * 8: the gap holds that many digits, no more.
    tolerance = max(1e-9, 1e-14 / gap)
    expected = reference_values(w)["cdnv"]
    assert all_values(w)["cdnv"] == pytest.approx(expected, rel=tolerance, abs=0)


@pytest.mark.parametrize("w", **world_cases)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_variability_is_never_negative(w: World, dtype: torch.dtype) -> None:
    """2.4: "NC is negative?"; the float32 inverse of a covariance of rank K-1 gave -187."""
    values = all_values(w, dtype=dtype)
    assert values["nc1"] >= 0
    assert values["nc1_trace_ratio"] >= 0
    assert values["cdnv"] >= 0
    assert bool((w.statistics(dtype).spread >= 0).all())


@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-5, 1e-7])
def test_nc1_in_many_dimensions_near_total_collapse(noise: float) -> None:
    """3.5: K = 10, d = 512, float32 features; the published routes give -187, 2e7 or 6 % of it."""
    w = world("flat", simplex_vertices(10, 512, 1) + 1, 6, noise / 512**0.5, seed=2)
    single = w.replace(features=w.features.float().double())
    expected = reference_values(single)["nc1"]
    nc1 = all_values(single, dtype=torch.float32)["nc1"]
    assert nc1 == pytest.approx(expected, rel=1e-4, abs=0)


def test_nc1_sees_directions_that_the_means_hardly_span() -> None:
    """2.3 (8): a pseudo-inverse in float32 drops them and is 94 % low."""
    w = by_name("steep hierarchy")
    m = reference.metrics.moments(w.features.numpy(), w.labels.numpy(), w.num_classes)
    singular = np.linalg.svd(m.centred(), compute_uv=False)
    assert singular[4] / singular[0] < 1e-4
    directions = np.linalg.svd(m.centred())[2]
    smallest = float(directions[4] @ m.within @ directions[4]) / singular[4] ** 2
    assert smallest > 0.5 * all_values(w)["nc1"]


def test_nc1_leaves_out_directions_that_the_means_do_not_span() -> None:
    w = by_name("means in a plane")
    louder = w.features.clone()
    louder[:, 2:] *= 100
    assert all_values(w.replace(features=louder))["nc1"] == pytest.approx(all_values(w)["nc1"])
    assert all_values(w.replace(features=louder))["nc1_trace_ratio"] > 100


@pytest.mark.parametrize("offset", [0.0, 10.0, 1e3, 1e5])
def test_nc1_takes_the_rounding_of_an_offset_for_no_direction(offset: float) -> None:
    """Rotated and moved, a plane of means is one up to 1e-16 of the offset; NC1 was 7e26."""
    w = by_name("means in a plane")
    moved = w.replace(features=w.features @ torch.from_numpy(rotation(8, 5)) + offset)
    assert all_values(moved)["nc1"] == pytest.approx(all_values(w)["nc1"], rel=1e-8)


@pytest.mark.parametrize("offset", [0.0, 700.0, 7000.0, 1e6])
def test_nearest_means_far_from_the_origin(offset: float) -> None:
    """2.3 (9): |x|^2 + |m|^2 - 2 x m in float32 is right for 12.6 % at 7000 class distances."""
    w = world("far", simplex_vertices(10, 16, 2) + offset, 20, 0.3, seed=3)
    features = w.features.float()
    statistics = ClassStatistics.from_features(features, w.labels, 10)
    exact = torch.cdist(
        features.double(), statistics.means, compute_mode="donot_use_mm_for_euclid_dist"
    )
    nearest, second = exact.sort(dim=1).values[:, :2].unbind(1)
    # Samples closer to the border than float32 can tell are nobody's.
    clear = second - nearest > 1e-5 * second
    assert clear.sum() > 0.9 * len(clear)
    assert torch.equal(NearestMean(statistics)(features)[clear], exact.argmin(1)[clear])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_classifiers_and_parameters(dtype: torch.dtype) -> None:
    """2.3 (4): the incumbent raises on bfloat16 weights and on weights that require gradients."""
    w = by_name("noisy")
    rounded = w.replace(
        features=w.features.to(dtype).double(),
        weight=w.weight.to(dtype).double(),
        bias=w.bias.to(dtype).double(),
    )
    weight = torch.nn.Parameter(rounded.weight.to(dtype))
    bias = torch.nn.Parameter(rounded.bias.to(dtype))
    features = rounded.features.to(dtype).requires_grad_()
    statistics = ClassStatistics.from_features(features, w.labels, w.num_classes)
    assert not nc.hug_intra(statistics, features, w.labels).requires_grad
    assert not nc.cdnv_directional(statistics, features, w.labels).requires_grad
    known = of_features(statistics, features, w.labels, weight, bias)
    values, _ = evaluate(statistics, weight, known=known)
    assert_equal_values(values, reference_values(rounded), 1e-5, 1e-6)


def test_decisions_ignore_autocast() -> None:
    """Eight bits would decide half of these pairs by rounding."""
    means = torch.tensor([[1.0, 0.0], [1.001, 0.0]])
    features, labels = means.repeat(50, 1), torch.arange(2).repeat(50)
    features = features + torch.randn(100, 2, generator=torch.Generator().manual_seed(0)) * 1e-5
    statistics = ClassStatistics.from_features(features, labels, 2)
    weight, bias = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0.0, -1.0005])
    with torch.autocast("cpu", torch.bfloat16):
        value = nc.nc4_disagreement(statistics, features, weight, bias)
        chosen, nearest = DualDecisions(statistics, weight, bias)(features)
    assert float(value) == 0
    assert torch.equal(chosen, labels)
    assert torch.equal(nearest, labels)


def test_ties_go_to_the_first_class() -> None:
    statistics = ClassStatistics.from_features(torch.eye(2), torch.tensor([0, 1]), 2)
    assert NearestMean(statistics)(torch.ones(1, 2)).tolist() == [0]
    assert linear_decision(torch.ones(1, 2), torch.ones(3, 2)).tolist() == [0]


# --- undefined and refused ------------------------------------------------------------------------


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


# --- devices --------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("w", **world_cases)
def test_every_metric_on_a_gpu(w: World) -> None:
    on_gpu = w.replace(
        features=w.features.cuda(), labels=w.labels.cuda(), weight=w.weight.cuda(),
        bias=w.bias.cuda(),
    )  # fmt: skip
    assert_equal_values(all_values(on_gpu), all_values(w), 1e-6, 1e-9)


@pytest.mark.parametrize("num_vectors, dim", [(9, 8), (200, 8), (700, 5)])
def test_the_variation_of_angles_takes_no_pairs_where_it_has_many_digits(
    num_vectors: int, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = torch.randn(num_vectors, dim, generator=torch.Generator().manual_seed(0)) + 0.3
    units = vectors.double() / vectors.double().norm(dim=1, keepdim=True)
    above = torch.ones(num_vectors, num_vectors).triu(1).bool()
    cosines = (units @ units.T)[above]
    monkeypatch.setattr("neuralcollapse.metrics.angles.pair_blocks", None)
    # Of a variance 1e-4 of its terms, 12 digits are left.
    assert float(equiangle(vectors)) == pytest.approx(float(cosines.std(correction=0)), rel=1e-11)


def test_angles_that_hardly_vary_are_taken_pair_by_pair() -> None:
    """More vectors than dimensions: all alike, nearly alike, and a simplex of d + 1."""
    alike = torch.ones(50, 3, dtype=torch.float64)
    assert float(equiangle(alike)) < 1e-15
    generator = torch.Generator().manual_seed(0)
    near = alike + 1e-6 * torch.randn(50, 3, generator=generator, dtype=torch.float64)
    units = near / near.norm(dim=1, keepdim=True)
    first, second = torch.triu_indices(50, 50, 1)
    # 1 - cos = |u - v|^2 / 2 keeps the digits that the cosine, near 1, has lost.
    gaps = (units[first] - units[second]).square().sum(1) / 2
    # Cosines near 1 are rounded by 1e-16, their differences here are 1e-12.
    assert float(equiangle(near)) == pytest.approx(float(gaps.std(correction=0)), rel=1e-3)
    assert float(equiangle(torch.as_tensor(simplex_vertices(8, 7)))) < 1e-14
