"""Statistics are the same however the samples are cut, ordered, merged or shared by processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cases.worlds import World, simplex_vertices, world, world_cases
from neuralcollapse import ClassStatistics, StatisticsAccumulator, nc1
from passes import accumulated, assert_equal_variability, assert_same, in_batches, tight_world
from processes import merge_shares, run_processes

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
    """Relative 1e-12; a share of counts in float32 gives 1e-8."""
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
