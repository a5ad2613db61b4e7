"""One pass, in place, mergeable: the statistics against two passes in float64, however cut."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import reference.metrics
from cases.worlds import World, simplex_vertices, world, world_cases
from neuralcollapse import ClassStatistics, StatisticsAccumulator, cdnv, nc1, nc1_trace_ratio
from processes import merge_shares, run_processes


def accumulated(
    batches: Sequence[tuple[Tensor, Tensor]], num_classes: int, **options: Any
) -> ClassStatistics:
    accumulator = StatisticsAccumulator(num_classes, batches[0][0].shape[1], **options)
    for features, labels in batches:
        accumulator.update(features, labels)
    return accumulator.result()


def in_batches(features: Tensor, labels: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(features.split(size), labels.split(size), strict=True))


def assert_same(one: ClassStatistics, other: ClassStatistics, relative: float) -> None:
    """Equal counts; squares equal to `relative` of their size, means to that of the spread.

    The scatter is equal to the same part of its trace.
    """
    assert torch.equal(one.counts, other.counts)
    seen = one.seen
    torch.testing.assert_close(one.spread, other.spread, rtol=relative, atol=1e-30)
    assert bool(one.means[~seen].isnan().all())
    assert bool(other.means[~seen].isnan().all())
    if not bool(seen.any()):
        return
    # Means can differ by what their own last digit holds, and by rounding of the residuals.
    deviation = float((other.spread[seen] / other.counts[seen]).max().sqrt())
    size = float(other.means[seen].abs().max())
    rounding = torch.finfo(one.means.dtype).eps
    torch.testing.assert_close(
        one.means[seen], other.means[seen], rtol=0, atol=relative * deviation + 4 * rounding * size
    )
    assert (one.scatter is None) == (other.scatter is None)
    if one.scatter is not None and other.scatter is not None:
        # No entry of a positive semi-definite matrix is larger than its trace.
        torch.testing.assert_close(
            one.scatter, other.scatter, rtol=0, atol=relative * float(other.scatter.trace()) + 1e-30
        )


def two_passes(features: Tensor, labels: Tensor, num_classes: int) -> ClassStatistics:
    """The slow reference in the form of ClassStatistics."""
    m = reference.metrics.moments(features.double().numpy(), labels.numpy(), num_classes)
    counts = torch.zeros(num_classes, dtype=torch.int64)
    means = torch.full((num_classes, features.shape[1]), math.nan, dtype=torch.float64)
    spread = torch.zeros(num_classes, dtype=torch.float64)
    counts[m.seen] = torch.from_numpy(m.counts)
    means[m.seen] = torch.from_numpy(m.means)
    spread[m.seen] = torch.from_numpy(m.spread * m.counts)
    return ClassStatistics(counts, means, spread, torch.from_numpy(m.within * m.total))


def assert_equal_variability(
    statistics: ClassStatistics, features: Tensor, labels: Tensor, relative: float = 1e-6
) -> None:
    """NC1 and its relatives against the slow reference; values of 1e-13 are values."""
    m = reference.metrics.moments(features.double().numpy(), labels.numpy(), len(statistics.counts))
    for value, expected in (
        (nc1(statistics), reference.metrics.nc1(m)),
        (nc1_trace_ratio(statistics), reference.metrics.nc1_trace_ratio(m)),
        (cdnv(statistics), reference.metrics.cdnv(m)),
    ):
        assert expected > 0
        assert float(value) == pytest.approx(expected, rel=relative, abs=0)


def tight_world(noise: float = 1e-5, size: float = 30.0, seed: int = 0) -> World:
    """Means of norm 30 around an offset of 30, within-class deviation 1e-5, shuffled."""
    w = world("tight", size * simplex_vertices(5, 16, 3) + size, 60, noise, seed=seed)
    order = torch.randperm(len(w.labels), generator=torch.Generator().manual_seed(seed))
    return w.replace(features=w.features[order], labels=w.labels[order])


# --- against the definition ---------------------------------------------------------------------


@pytest.mark.parametrize("w", **world_cases)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_one_pass_equals_two_passes(w: World, dtype: torch.dtype) -> None:
    """On the same rounded numbers: half precision is accumulated in float32 or better."""
    features = w.features.to(dtype)
    expected = two_passes(features, w.labels, w.num_classes)
    statistics = ClassStatistics.from_features(features, w.labels, w.num_classes)
    assert_same(statistics, expected, 1e-12 if dtype == torch.float64 else 5e-7)
    assert statistics.scatter is not None
    assert float(statistics.scatter.trace()) == pytest.approx(
        float(statistics.spread.sum()), rel=5e-7, abs=1e-30
    )
    torch.testing.assert_close(statistics.scatter, statistics.scatter.T, rtol=0, atol=0)


@pytest.mark.parametrize("global_mean", ["class", "sample"])
@pytest.mark.parametrize("w", **world_cases)
def test_the_views_follow_their_definitions(w: World, global_mean: Any) -> None:
    statistics = w.statistics()
    m = reference.metrics.moments(w.features.numpy(), w.labels.numpy(), w.num_classes)
    assert statistics.num_classes == w.num_classes
    assert statistics.dim == w.features.shape[1]
    assert statistics.num_samples == len(w.labels)
    assert statistics.seen.nonzero().flatten().tolist() == m.seen
    size = np.abs(m.means).max()

    def close(value: Tensor, expected: np.ndarray, scale: float) -> None:
        torch.testing.assert_close(
            value, torch.from_numpy(np.asarray(expected)), rtol=1e-12, atol=1e-14 * scale
        )

    close(statistics.variances, m.spread, 0)
    close(statistics.within_covariance, m.within, float(np.trace(m.within)) * 100)
    # 2.3 (1): the incumbent's mean over samples raises.
    close(statistics.global_mean(global_mean), m.centre(global_mean), size)
    close(statistics.centred_means(global_mean), m.centred(global_mean), size)


@pytest.mark.parametrize("batch", [1, 7, 64, 300])
@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-5, 3e-6])
def test_near_total_collapse_in_float32(noise: float, batch: int) -> None:
    """The demand of the issue: deviation 1e-5 beside means of 30 gives NC1 to 1e-4 relative."""
    w = tight_world(noise)
    features = w.features.float()
    for dtype in (torch.float64, torch.float32):
        statistics = accumulated(in_batches(features, w.labels, batch), 5, dtype=dtype)
        assert_equal_variability(statistics, features, w.labels)


@pytest.mark.parametrize("distance", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("first", [True, False])
def test_an_outlier_is_no_bad_anchor(distance: float, first: bool) -> None:
    """The first sample of a class anchors it; an outlier there must not drown the others."""
    w = tight_world(1e-5)
    features = w.features.float()
    centred = torch.from_numpy(simplex_vertices(5, 16, 3))
    across = torch.linalg.svd(centred).Vh[-1].float()
    outliers = features.new_zeros(5, 16)
    for k in range(5):
        outliers[k] = features[w.labels == k][0] + distance * across
    position = 0 if first else 150
    features = torch.cat([features[:position], outliers, features[position:]])
    labels = torch.cat([w.labels[:position], torch.arange(5), w.labels[position:]])
    expected = two_passes(features, labels, 5)
    for size in (1, 5, 305):
        statistics = accumulated(in_batches(features, labels, size), 5)
        assert_same(statistics, expected, 1e-6)


def test_a_long_stream_does_not_drift() -> None:
    """60,000 rows in float32: sums of the residuals are kept in double."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (60_000,), generator=generator)
    means = 5 * torch.randn(10, 8, generator=generator)
    features = means[labels] + torch.randn(60_000, 8, generator=generator)
    residuals = torch.zeros(10, 8, dtype=torch.float64)
    residuals.index_add_(0, labels, features.double())
    exact_means = residuals / torch.bincount(labels)[:, None]
    gaps = features.double() - exact_means[labels]
    exact = ClassStatistics(
        torch.bincount(labels, minlength=10),
        exact_means,
        torch.zeros(10, dtype=torch.float64).index_add_(0, labels, gaps.square().sum(1)),
        gaps.T @ gaps,
    )
    assert_same(accumulated(in_batches(features, labels, 512), 10), exact, 2e-7)
    # Sums in float32 add the rounding of 6,000 additions per class.
    single = accumulated(in_batches(features, labels, 512), 10, dtype=torch.float32)
    assert_same(single.to(dtype=torch.float64), exact, 1e-4)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale_of_features_does_not_matter(scale: float) -> None:
    w = world("noisy", simplex_vertices(5, 8), 12, 0.3)
    small = ClassStatistics.from_features((scale * w.features).float(), w.labels, 5)
    expected = two_passes((scale * w.features).float(), w.labels, 5)
    assert_same(small, expected, 5e-7)


@pytest.mark.parametrize("scatter", [True, False])
def test_squares_that_overflow_are_reported(scatter: bool) -> None:
    """1e25 is a float32 whose square is not; double precision takes it."""
    w = world("noisy", simplex_vertices(5, 8), 12, 0.3)
    large = 1e25 * w.features
    with pytest.raises(ValueError, match=r"features .*overflow.*float64"):
        accumulated([(large.float(), w.labels)], 5, scatter=scatter)
    assert float(cdnv(accumulated([(large, w.labels)], 5, scatter=scatter))) == pytest.approx(
        float(cdnv(w.statistics())), rel=1e-9
    )


# --- cuts, order, merges ------------------------------------------------------------------------


@pytest.mark.parametrize("w", **world_cases)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_size_and_order_do_not_matter(w: World, dtype: torch.dtype) -> None:
    features, labels = w.features.to(dtype), w.labels
    whole = ClassStatistics.from_features(features, labels, w.num_classes)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    for size in (1, 7, 64, len(labels)):
        parts = accumulated(in_batches(features, labels, size), w.num_classes)
        assert_same(parts, whole, tolerance)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(5))
    for reordered in (order, torch.arange(len(labels)).flip(0)):
        other = accumulated(in_batches(features[reordered], labels[reordered], 7), w.num_classes)
        assert_same(other, whole, tolerance)


@pytest.mark.parametrize("num_parts", [2, 8])
def test_sums_in_float32_merge_as_well(num_parts: int) -> None:
    """Means of 30 kept in float32 would lose the gaps of 1e-6 between parts."""
    w = tight_world(1e-5)
    features = w.features.float()
    parts = [
        accumulated([(features[i::num_parts], w.labels[i::num_parts])], 5, dtype=torch.float32)
        for i in range(num_parts)
    ]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert_equal_variability(merged, features, w.labels)


CUTS = st.lists(st.integers(0, 300), max_size=8).map(sorted)
TIGHT = tight_world(1e-5)


@given(cuts=CUTS, seed=st.integers(0, 1000), dtype=st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=60)
def test_any_cut_and_any_merge_tree_give_the_same(
    cuts: list[int], seed: int, dtype: torch.dtype
) -> None:
    """Empty parts, parts of one sample and parts without some classes are among them."""
    features = TIGHT.features.to(dtype)
    whole = ClassStatistics.from_features(features, TIGHT.labels, 5)
    parts = []
    for start, stop in itertools.pairwise([0, *cuts, 300]):
        parts.append(
            ClassStatistics.from_features(features[start:stop], TIGHT.labels[start:stop], 5)
        )
    rng = np.random.default_rng(seed)
    while len(parts) > 1:
        one = parts.pop(rng.integers(len(parts)))
        other = parts.pop(rng.integers(len(parts)))
        parts.append(one.merge(other))
    # Means of 30 hold a deviation of 1e-5 to 1e-9 of it, and parts differ by such roundings.
    assert_same(parts[0], whole, 1e-6 if dtype == torch.float32 else 1e-7)
    assert float(nc1(parts[0])) == pytest.approx(float(nc1(whole)), rel=1e-6, abs=0)


@given(cuts=CUTS)
@settings(max_examples=20)
def test_any_batches_in_one_accumulator_give_the_same(cuts: list[int]) -> None:
    features = TIGHT.features.float()
    batches = [
        (features[start:stop], TIGHT.labels[start:stop])
        for start, stop in itertools.pairwise([0, *cuts, 300])
    ]
    whole = ClassStatistics.from_features(features, TIGHT.labels, 5)
    assert_same(accumulated(batches, 5), whole, 1e-6)


@pytest.mark.parametrize("w", **world_cases)
@pytest.mark.parametrize("num_shards", [2, 8])
def test_merged_shards_in_float64_are_exact(w: World, num_shards: int) -> None:
    """6.6: relative 1e-12; a share of counts in float32 gives 1e-8."""
    shards = [
        ClassStatistics.from_features(
            w.features[i::num_shards], w.labels[i::num_shards], w.num_classes
        )
        for i in range(num_shards)
    ]
    merged = shards[0]
    for shard in shards[1:]:
        merged = merged.merge(shard)
    # "far and tight": means of 60 hold the gap of 1e-5 between shards to 1e-9 of it.
    tolerance = 1e-9 if w.name == "far and tight" else 1e-12
    assert_same(merged, w.statistics(), tolerance)


def test_merging_classes_that_only_one_has_seen() -> None:
    w = world("noisy", simplex_vertices(6, 8, 2), 9, 0.3)
    low, high = w.labels < 3, w.labels >= 3
    one, other = (
        ClassStatistics.from_features(w.features[part], w.labels[part], 6) for part in (low, high)
    )
    for merged in (one.merge(other), other.merge(one)):
        assert_same(merged, w.statistics(), 1e-14)


def test_merging_with_nothing_changes_nothing() -> None:
    statistics = world("noisy", simplex_vertices(4, 5), [3, 1, 0, 4], 0.3).statistics()
    nothing = StatisticsAccumulator(4, 5).result()
    assert nothing.num_samples == 0
    assert bool(nothing.means.isnan().all())
    for merged in (statistics.merge(nothing), nothing.merge(statistics)):
        assert_same(merged, statistics, 0)
    assert nothing.merge(nothing).num_samples == 0


def test_merging_singles() -> None:
    """Two samples apart by 2 in one direction: scatter 2, spread 2."""
    one = ClassStatistics.from_features(torch.tensor([[0.0, 1.0]]), torch.tensor([0]), 1)
    other = ClassStatistics.from_features(torch.tensor([[2.0, 1.0]]), torch.tensor([0]), 1)
    merged = one.merge(other)
    assert merged.means.tolist() == [[1, 1]]
    assert merged.spread.tolist() == [2]
    assert merged.scatter is not None
    assert merged.scatter.tolist() == [[2, 0], [0, 0]]


def test_merge_leaves_both_sides_alone_and_ignores_autocast() -> None:
    w = world("noisy", simplex_vertices(4, 6), 50, 0.3)
    halves = [
        accumulated([(w.features[i::2].float(), w.labels[i::2])], 4, dtype=torch.float32)
        for i in range(2)
    ]
    copies = [half.to(dtype=torch.float64) for half in halves]
    with torch.autocast("cpu", torch.bfloat16):
        merged = halves[0].merge(halves[1])
    for half, copy in zip(halves, copies, strict=True):
        assert_same(half.to(dtype=torch.float64), copy, 0)
    assert_same(merged.to(dtype=torch.float64), copies[0].merge(copies[1]), 1e-6)


def test_an_accumulator_merges_too_and_goes_on() -> None:
    w = world("noisy", simplex_vertices(4, 6), 30, 0.3)
    one, other = StatisticsAccumulator(4, 6), StatisticsAccumulator(4, 6)
    one.update(w.features[:50], w.labels[:50])
    other.update(w.features[50:], w.labels[50:])
    assert_same(one.merge(other), w.statistics(), 1e-12)
    assert_same(one.merge(other.result()), w.statistics(), 1e-12)
    # A result is a snapshot: what comes later does not change it.
    early = one.result()
    before = early.means.nan_to_num(0.0)
    assert early.num_samples == one.num_samples == 50
    one.update(w.features[50:], w.labels[50:])
    assert_same(one.result(), w.statistics(), 1e-12)
    assert torch.equal(early.means.nan_to_num(0.0), before)
    assert_same(one.result(), one.result(), 0)


def test_parts_of_different_precision_merge_without_loss() -> None:
    w = tight_world(1e-3)
    double = ClassStatistics.from_features(w.features[:150], w.labels[:150], 5)
    single = accumulated([(w.features[150:].float(), w.labels[150:])], 5, dtype=torch.float32)
    one, other = double.merge(single), single.merge(double)
    assert one.means.dtype == other.means.dtype == torch.float64
    assert_same(one, other, 1e-9)


MISMATCHES: dict[str, tuple[Callable[[ClassStatistics], Any], type[Exception], str]] = {
    "classes": (
        lambda s: s.merge(StatisticsAccumulator(3, 2).result()),
        ValueError,
        r"equal \(num_classes, dim\), got \(2, 2\) and \(3, 2\)",
    ),
    "width": (
        lambda s: s.merge(StatisticsAccumulator(2, 3).result()),
        ValueError,
        r"equal \(num_classes, dim\), got \(2, 2\) and \(2, 3\)",
    ),
    "scatter": (
        lambda s: s.merge(StatisticsAccumulator(2, 2, scatter=False).result()),
        ValueError,
        "must both hold the scatter or both lack it.*same scatter=",
    ),
    "kind": (
        lambda s: s.merge({"counts": 3}),  # pyright: ignore[reportArgumentType]
        TypeError,
        "other must be ClassStatistics, got dict",
    ),
}


@pytest.mark.parametrize("mismatch", MISMATCHES)
def test_merging_what_does_not_fit_is_refused(mismatch: str) -> None:
    attempt, error, message = MISMATCHES[mismatch]
    statistics = ClassStatistics.from_features(torch.eye(2), torch.tensor([0, 1]), 2)
    with pytest.raises(error, match=message):
        attempt(statistics)


# --- input --------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels_dtype", [torch.int8, torch.int16, torch.int32, torch.uint8])
def test_any_integer_labels_will_do(labels_dtype: torch.dtype) -> None:
    w = world("noisy", simplex_vertices(4, 6), 10, 0.3)
    other = ClassStatistics.from_features(w.features, w.labels.to(labels_dtype), 4)
    assert_same(other, w.statistics(), 0)


def test_layout_does_not_matter() -> None:
    """2.3 (5): batches of one sample; transposed, strided and expanded input."""
    w = world("noisy", simplex_vertices(4, 6), 10, 0.3)
    features, labels = w.features, w.labels
    strided = torch.zeros(40, 12, dtype=torch.float64)
    strided[:, ::2] = features
    spaced = torch.zeros(80, dtype=torch.int64)
    spaced[1::2] = labels
    for view in (features.T.contiguous().T, strided[:, ::2]):
        assert not view.is_contiguous()
        assert_same(ClassStatistics.from_features(view, spaced[1::2], 4), w.statistics(), 1e-14)
    same = ClassStatistics.from_features(features[:1].expand(8, 6), labels[:1].expand(8), 4)
    assert same.spread.tolist() == [0, 0, 0, 0]
    assert same.num_samples == 8


def test_input_is_read_only_and_gradients_stay_out() -> None:
    w = world("noisy", simplex_vertices(4, 6), 10, 0.3)
    features = w.features.clone().requires_grad_()
    labels = w.labels.clone()
    statistics = ClassStatistics.from_features(features, labels, 4)
    assert torch.equal(features, w.features)
    assert torch.equal(labels, w.labels)
    assert not statistics.means.requires_grad
    assert statistics.scatter is not None
    assert not statistics.scatter.requires_grad
    with torch.inference_mode():
        inference = ClassStatistics.from_features(w.features, labels, 4)
    assert_same(inference, statistics, 0)


def test_precision_can_widen_on_the_way() -> None:
    """A stream that turns from bfloat16 to float64 loses nothing that it had."""
    w = tight_world(1e-3)
    kinds = [torch.bfloat16, torch.float32, torch.float64, torch.float32]
    batches = [
        (part.to(kind), labels)
        for part, labels, kind in zip(w.features.split(75), w.labels.split(75), kinds, strict=True)
    ]
    expected = two_passes(torch.cat([f.double() for f, _ in batches]), w.labels, 5)
    assert_same(accumulated(batches, 5), expected, 1e-6)
    doubles = [(f.double(), labels) for f, labels in batches]
    assert_same(accumulated(doubles, 5), expected, 1e-9)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_the_sums(kind: torch.dtype) -> None:
    w = tight_world(1e-5)
    features = w.features.float()
    outside = accumulated(in_batches(features, w.labels, 64), 5)
    with torch.autocast("cpu", kind):
        inside = accumulated(in_batches(features, w.labels, 64), 5)
    assert_same(inside, outside, 0)
    assert float(nc1(inside)) == float(nc1(outside))


def test_an_empty_batch_changes_nothing() -> None:
    accumulator = StatisticsAccumulator(3, 2)
    accumulator.update(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    assert accumulator.num_samples == 0
    accumulator.update(torch.ones(1, 2), torch.tensor([1]))
    accumulator.update(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    assert accumulator.result().counts.tolist() == [0, 1, 0]


@pytest.mark.parametrize("distance", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_scatter_a_first_sample_apart_costs_few_digits(
    distance: float, dtype: torch.dtype
) -> None:
    """The anchor is the outlier: its own square is most of the spread, and bounds what is lost."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1000, 8, generator=generator)
    features[0] += distance
    labels = torch.zeros(1000, dtype=torch.int64)
    light = accumulated(in_batches(features, labels, 64), 1, scatter=False, dtype=dtype)
    truth = two_passes(features, labels, 1)
    # n + 1 roundings of 6e-8, one a sample, at random: times the root of n. Sums in float32 add
    # theirs, of the same size, at every sample.
    bound = 4e-6 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(light.spread, truth.spread, rtol=bound, atol=0)


def test_without_scatter_equal_samples_have_no_spread() -> None:
    features = torch.full((50, 3), 0.1)
    light = accumulated([(features, torch.zeros(50).long())], 2, scatter=False)
    assert light.spread.tolist() == [0, 0]
    assert light.means[0].tolist() == pytest.approx([0.1] * 3, rel=1e-7)


def test_without_scatter_everything_else_is_the_same() -> None:
    w = tight_world(1e-5)
    batches = in_batches(w.features.float(), w.labels, 64)
    full, light = accumulated(batches, 5), accumulated(batches, 5, scatter=False)
    assert light.scatter is None
    # Squares to the anchor rather than to the running mean: float32 rounding, averaged.
    torch.testing.assert_close(light.spread, full.spread, rtol=1e-6, atol=0)
    assert torch.equal(light.means, full.means)
    assert float(cdnv(light)) == pytest.approx(float(cdnv(full)), rel=1e-6)
    with pytest.raises(ValueError, match=r"within_covariance needs.*scatter=True"):
        _ = light.within_covariance


def features_with(position: tuple[int, int], value: float) -> Tensor:
    features = torch.ones(4, 3)
    features[position] = value
    return features


GOOD_LABELS = torch.tensor([0, 1, 1, 0])
# features, labels, error, and what the message must say: argument, rule, what was given, remedy.
BAD_INPUT: dict[str, tuple[Any, Any, type[Exception], list[str]]] = {
    "nan": (
        features_with((2, 1), math.nan),
        GOOD_LABELS,
        ValueError,
        ["features must be finite", "1 of 4 rows", "first: row 2", "remove or repair"],
    ),
    "infinite": (
        features_with((0, 0), -math.inf),
        GOOD_LABELS,
        ValueError,
        ["features must be finite", "first: row 0"],
    ),
    "opposite infinities": (
        features_with((0, 0), -math.inf) + features_with((1, 1), math.inf),
        GOOD_LABELS,
        ValueError,
        ["features must be finite", "2 of 4 rows"],
    ),
    "1-based labels": (
        torch.ones(4, 3),
        torch.tensor([1, 2, 1, 2]),
        ValueError,
        ["labels must lie in [0, 2)", "from 1 to 2", "1-based"],
    ),
    "too large a label": (
        torch.ones(4, 3),
        torch.tensor([0, 2, 1, 7]),
        ValueError,
        ["labels must lie in [0, 2)", "from 0 to 7", "num_classes >= 8"],
    ),
    "ignore index": (
        torch.ones(4, 3),
        torch.tensor([0, -100, 1, 1]),
        ValueError,
        ["labels must lie in [0, 2)", "from -100 to 1", "ignore index"],
    ),
    "float labels": (
        torch.ones(4, 3),
        torch.tensor([0.0, 1.0, 1.0, 0.0]),
        TypeError,
        ["labels must be integers", "float32", ".long()"],
    ),
    "boolean labels": (
        torch.ones(4, 3),
        torch.tensor([False, True, True, False]),
        TypeError,
        ["labels must be integers", "bool"],
    ),
    "labels in a column": (
        torch.ones(4, 3),
        torch.tensor([[0], [1], [1], [0]]),
        ValueError,
        ["labels must be 1-D", "got shape (4, 1)"],
    ),
    "one-hot labels": (
        torch.ones(4, 3),
        torch.eye(2, dtype=torch.int64)[GOOD_LABELS],
        ValueError,
        ["labels must be 1-D", "got shape (4, 2)"],
    ),
    "no list of labels": (
        torch.ones(4, 3),
        [0, 1, 1, 0],
        TypeError,
        ["labels must be a torch.Tensor", "list", "torch.as_tensor"],
    ),
    "too few labels": (
        torch.ones(4, 3),
        torch.tensor([0, 1, 1]),
        ValueError,
        ["labels and features must have the same length", "3 labels", "4 rows"],
    ),
    "integer features": (
        torch.ones(4, 3, dtype=torch.int64),
        GOOD_LABELS,
        TypeError,
        ["features must be floating point", "int64", ".float()"],
    ),
    "complex features": (
        torch.ones(4, 3, dtype=torch.complex64),
        GOOD_LABELS,
        TypeError,
        ["features must be floating point", "complex64"],
    ),
    "images": (
        torch.ones(4, 3, 2, 2),
        GOOD_LABELS,
        ValueError,
        ["features must be 2-D", "got shape (4, 3, 2, 2)"],
    ),
    "one vector": (
        torch.ones(3),
        torch.tensor([0]),
        ValueError,
        ["features must be 2-D", "got shape (3,)"],
    ),
    "wrong width": (
        torch.ones(4, 5),
        GOOD_LABELS,
        ValueError,
        ["features must have 3 columns", "got shape (4, 5)"],
    ),
    "numpy features": (
        np.ones((4, 3)),
        GOOD_LABELS,
        TypeError,
        ["features must be a torch.Tensor", "ndarray", "torch.as_tensor"],
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
@pytest.mark.parametrize("fresh", [True, False])
def test_bad_input_is_named_and_leaves_the_accumulator_as_it_was(name: str, fresh: bool) -> None:
    features, labels, error, fragments = BAD_INPUT[name]
    accumulator = StatisticsAccumulator(2, 3)
    if not fresh:
        accumulator.update(torch.eye(5, 3), torch.tensor([0, 0, 1, 1, 0]))
    before = accumulator.result()
    with pytest.raises(error) as caught:
        accumulator.update(features, labels)
    for fragment in fragments:
        assert fragment in str(caught.value)
    after = accumulator.result()
    assert_same(after, before, 0)
    good = torch.arange(12.0).reshape(4, 3)
    accumulator.update(good, GOOD_LABELS)
    assert accumulator.num_samples == before.num_samples + 4
    assert_same(
        accumulator.result(),
        before.merge(ClassStatistics.from_features(good, GOOD_LABELS, 2)),
        1e-6,
    )


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((0, 3), ValueError, "num_classes must be at least 1, got 0"),
        ((3, -1), ValueError, "dim must be at least 1, got -1"),
        ((2.0, 3), TypeError, "num_classes must be an integer, got 2.0 of type float"),
        ((True, 3), TypeError, "num_classes must be an integer"),
        ((3, "4"), TypeError, "dim must be an integer, got '4' of type str"),
    ],
)
def test_bad_sizes_are_named(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        StatisticsAccumulator(*arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_sums_in_half_precision_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"dtype must be torch.float32 or torch.float64, got"):
        StatisticsAccumulator(2, 2, dtype=dtype)


def test_bad_global_mean_is_named() -> None:
    statistics = ClassStatistics.from_features(torch.eye(2), torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match="global_mean must be one of class, sample, got 'median'"):
        statistics.global_mean("median")  # pyright: ignore[reportArgumentType]


def test_statistics_are_frozen() -> None:
    statistics = ClassStatistics.from_features(torch.eye(2), torch.tensor([0, 1]), 2)
    with pytest.raises(AttributeError):
        statistics.counts = torch.zeros(2)  # pyright: ignore[reportAttributeAccessIssue]


def test_other_types_and_devices() -> None:
    w = world("noisy", simplex_vertices(4, 6), [5, 0, 5, 5], 0.3)
    single = w.statistics().to(dtype=torch.float32)
    assert single.counts.dtype == torch.int64
    assert single.scatter is not None
    assert {single.means.dtype, single.spread.dtype, single.scatter.dtype} == {torch.float32}
    assert_same(single.to("cpu", torch.float64), w.statistics(), 1e-6)


# --- memory -------------------------------------------------------------------------------------


class Allocations(TorchDispatchMode):
    """The largest storage that any torch operation returned and did not share with its input."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = {t.untyped_storage().data_ptr() for t in tensors_in((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            if tensor.untyped_storage().data_ptr() not in given:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def test_allocations_are_seen() -> None:
    """The instrument itself."""
    with Allocations() as seen:
        torch.zeros(1000, dtype=torch.float64).add_(1).view(10, 100)[3].sum()
    assert seen.largest == 8000
    kept = torch.zeros(1000)
    with Allocations() as seen:
        kept.add_(1).view(10, 100)[3].mul_(2)
    assert seen.largest == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_update_allocates_rows_of_the_batch_only(dtype: torch.dtype) -> None:
    """No one-hot matrix, no K x K array and no copy of K x d: K = 200,000, batches of 64."""
    num_classes, dim, batch = 200_000, 32, 64
    accumulator = StatisticsAccumulator(num_classes, dim, scatter=False)
    generator = torch.Generator().manual_seed(0)

    def update() -> None:
        features = torch.randn(batch, dim, generator=generator).to(dtype)
        labels = torch.randint(num_classes, (batch,), generator=generator)
        accumulator.update(features, labels)

    update()  # the first batch makes the anchors
    with Allocations() as seen:
        for _ in range(3):
            update()
    assert seen.largest <= 8 * batch * dim
    assert accumulator.num_samples == 4 * batch


def test_an_update_with_scatter_allocates_no_more_than_that() -> None:
    num_classes, dim, batch = 20_000, 32, 1024
    accumulator = StatisticsAccumulator(num_classes, dim)
    labels = torch.arange(batch)
    accumulator.update(torch.ones(batch, dim), labels)
    with Allocations() as seen:
        for _ in range(6):  # past a flush of the float32 products
            accumulator.update(torch.ones(batch, dim), labels)
    assert seen.largest <= 8 * batch * dim  # the check for finite values may look at the whole


def test_a_result_holds_class_rows_only() -> None:
    """A few arrays of K x d, nothing of K x K."""
    num_classes, dim = 50_000, 8
    accumulator = StatisticsAccumulator(num_classes, dim)
    accumulator.update(torch.ones(64, dim), torch.arange(64))
    with Allocations() as seen:
        one = accumulator.result()
        one.merge(one)
    assert seen.largest <= 8 * (num_classes + 1) * dim


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scatter", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_file_gives_back_every_bit(tmp_path: Path, scatter: bool, dtype: torch.dtype) -> None:
    w = world("noisy", simplex_vertices(4, 6), [5, 0, 1, 5], 0.3)
    statistics = accumulated([(w.features, w.labels)], 4, scatter=scatter, dtype=dtype)
    path = tmp_path / "train.safetensors"
    statistics.save(path)
    again = ClassStatistics.load(str(path))
    for name in ("counts", "means", "spread", "scatter"):
        one, other = getattr(statistics, name), getattr(again, name)
        if one is None:
            assert other is None
        else:
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    assert_same(again.merge(statistics), statistics.merge(statistics), 0)
    assert [p.name for p in tmp_path.iterdir()] == ["train.safetensors"]


FORMAT = {"format": "neuralcollapse.ClassStatistics.1"}


def stored(**changes: Tensor | None) -> dict[str, Tensor]:
    """The arrays of two classes in three dimensions, with changes; None leaves one out."""
    arrays: dict[str, Tensor | None] = {
        "counts": torch.tensor([3, 2]),
        "means": torch.zeros(2, 3, dtype=torch.float64),
        "spread": torch.ones(2, dtype=torch.float64),
        "scatter": torch.eye(3, dtype=torch.float64),
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def test_the_hostile_files_start_from_a_good_one(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    safetensors.torch.save_file(stored(), path, FORMAT)
    assert ClassStatistics.load(path).num_samples == 5


HOSTILE: dict[str, dict[str, Tensor]] = {
    "no counts": stored(counts=None),
    "no means": stored(means=None),
    "counts too short": stored(counts=torch.tensor([3])),
    "counts in a column": stored(counts=torch.tensor([[3], [2]])),
    "means in one row": stored(means=torch.zeros(3, dtype=torch.float64)),
    "scatter of another width": stored(scatter=torch.eye(4, dtype=torch.float64)),
    "scatter not square": stored(scatter=torch.zeros(3, 4, dtype=torch.float64)),
    "no class": stored(
        counts=torch.zeros(0, dtype=torch.int64),
        means=torch.zeros(0, 3, dtype=torch.float64),
        spread=torch.zeros(0, dtype=torch.float64),
    ),
    "counts with a fraction": stored(counts=torch.tensor([3.5, 2.0])),
    "negative counts": stored(counts=torch.tensor([3, -2])),
    "boolean counts": stored(counts=torch.tensor([True, True])),
    "integer means": stored(means=torch.zeros(2, 3, dtype=torch.int64)),
    "mean not a number": stored(means=torch.full((2, 3), math.nan, dtype=torch.float64)),
    "infinite mean": stored(means=torch.full((2, 3), math.inf, dtype=torch.float64)),
    "negative spread": stored(spread=torch.tensor([1.0, -1.0], dtype=torch.float64)),
    "spread not a number": stored(spread=torch.tensor([1.0, math.nan], dtype=torch.float64)),
    "scatter not a number": stored(scatter=torch.full((3, 3), math.nan, dtype=torch.float64)),
    "types that do not fit": stored(spread=torch.ones(2, dtype=torch.float32)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_with_impossible_arrays_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.safetensors"
    safetensors.torch.save_file(HOSTILE[name], path, FORMAT)
    with pytest.raises(ValueError, match=r"hostile\.safetensors"):
        ClassStatistics.load(path)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "pt"}, {"format": "neuralcollapse.ClassStatistics.99"}):
        safetensors.torch.save_file(stored(), path, metadata)
        with pytest.raises(ValueError, match=r"does not hold class statistics.*save"):
            ClassStatistics.load(path)
    torch.save(stored(), path)  # a pickle under a false name
    with pytest.raises(ValueError, match=r"other\.safetensors"):
        ClassStatistics.load(path)
    with pytest.raises(ValueError, match=r"absent\.safetensors does not exist"):
        ClassStatistics.load(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match=str(tmp_path)):
        ClassStatistics.load(tmp_path)


@given(data=st.data())
@settings(max_examples=60)
def test_damaged_files_are_refused_with_a_value_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Truncated anywhere, or any byte of the header changed: an error that names the file."""
    folder = tmp_path_factory.mktemp("damaged")
    good = folder / "good.safetensors"
    ClassStatistics.from_features(torch.eye(3), torch.tensor([0, 1, 1]), 2).save(good)
    content = good.read_bytes()
    bad = folder / "bad.safetensors"
    if data.draw(st.booleans(), label="truncate"):
        bad.write_bytes(content[: data.draw(st.integers(0, len(content) - 1), label="length")])
        with pytest.raises(ValueError, match=r"bad\.safetensors"):
            ClassStatistics.load(bad)
    else:
        at = data.draw(st.integers(0, 200), label="position")
        byte = data.draw(st.integers(0, 255), label="byte")
        bad.write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
        message = "bad.safetensors"
        try:
            ClassStatistics.load(bad)  # a change of a number gives another number
        except ValueError as error:
            message = str(error)
        assert "bad.safetensors" in message


# --- processes ----------------------------------------------------------------------------------


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_processes_merge_into_what_one_process_has(tmp_path: Path, num_processes: int) -> None:
    """Also where one process has no sample at all: the others must not wait for it for ever."""
    run_processes(merge_shares, tmp_path, num_processes)


def test_a_single_process_merges_with_nobody() -> None:
    statistics = ClassStatistics.from_features(torch.eye(2), torch.tensor([0, 1]), 2)
    assert statistics.merge_processes() is statistics


# --- devices ------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_with_reduced_products_allowed() -> None:
    w = tight_world(1e-5)
    features = w.features.float()
    expected = two_passes(features, w.labels, 5)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cuda", torch.bfloat16):
            statistics = accumulated(
                in_batches(features.cuda(), w.labels.cuda(), 64), 5, device="cuda"
            )
    finally:
        torch.set_float32_matmul_precision("highest")
    assert_same(statistics.to("cpu"), expected, 1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["nan", "infinite", "too large a label", "ignore index"])
def test_a_gpu_reports_bad_values_at_the_end(name: str) -> None:
    features, labels, error, _ = BAD_INPUT[name]
    accumulator = StatisticsAccumulator(2, 3, device="cuda")
    accumulator.update(features.cuda(), labels.cuda())
    with pytest.raises(error, match="must"):
        accumulator.result()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("scatter", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_update_does_not_wait_for_a_gpu(scatter: bool, dtype: torch.dtype) -> None:
    accumulator = StatisticsAccumulator(10, 300, scatter=scatter, device="cuda")
    features = torch.randn(5000, 300, device="cuda").to(dtype)
    labels = torch.randint(10, (5000,), device="cuda")
    accumulator.update(features, labels)  # the first batch makes the anchors
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        accumulator.update(features, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert accumulator.num_samples == 10_000
