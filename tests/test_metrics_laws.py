"""What each metric sees, what it is blind to, and what no metric may see."""

from __future__ import annotations

import math

import pytest
import torch

import neuralcollapse as nc
import neuralcollapse.metrics.decision
import neuralcollapse.metrics.pairs
import reference.metrics
from cases.metrics import BREAKS, HARMLESS, METRIC_CASES
from cases.worlds import (
    World,
    collapsed,
    cross_polytope,
    rotation,
    simplex_vertices,
    world,
    world_cases,
)
from metric_values import GLOBAL_MEANS, KEYS, all_values, assert_equal_values, by_name
from neuralcollapse import METRICS
from neuralcollapse.metrics import NearestMean, etf_distance, evaluate

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
    """The mean cosine of centred means of equal norm is -1/(K-1) however they lie."""
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
    """Two of twelve classes empty, far from the origin; as if there were only ten."""
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
    """The incumbent has no bias argument."""
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
