"""Cuts, long tails and batches: exact numbers, no sample twice, nothing from the global state."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neuralcollapse.train.samples import (
    EpochOrder,
    TensorSamples,
    loader,
    seeded,
    stratified_cut,
    thinned,
)

SIZES = [(100, 16), (96, 32), (64, 64), (37, 8), (5, 4)]


def shares(num_samples: int, batch_size: int, seed: int | None, world: int) -> list[list[Tensor]]:
    """Batches of each process."""
    orders = [EpochOrder(num_samples, batch_size, seed, rank, world) for rank in range(world)]
    return [list(order) for order in orders]


def rejoined(parts: list[list[Tensor]]) -> list[list[int]]:
    """The joint batches, sorted."""
    steps = itertools.zip_longest(*parts, fillvalue=torch.empty(0, dtype=torch.int64))
    return [sorted(torch.cat(step).tolist()) for step in steps]


@pytest.mark.parametrize("num_samples, batch_size", SIZES)
@pytest.mark.parametrize("seed", [0, 5])
def test_processes_share_the_batches_of_one(num_samples: int, batch_size: int, seed: int) -> None:
    alone = [sorted(batch.tolist()) for batch in EpochOrder(num_samples, batch_size, seed)]
    for world in (2, 4):
        parts = shares(num_samples, batch_size, seed, world)
        assert rejoined(parts) == alone
        # Equal shares: the mean over processes of their mean losses is the mean over the batch.
        assert all(len({len(share) for share in step}) == 1 for step in zip(*parts, strict=True))


@pytest.mark.parametrize("num_samples, batch_size", SIZES)
def test_an_epoch_shows_no_sample_twice_and_leaves_out_less_than_a_batch(
    num_samples: int, batch_size: int
) -> None:
    order = EpochOrder(num_samples, batch_size, 0)
    batches = list(order)
    seen = torch.cat(batches).tolist()
    assert len(order) == len(batches)
    assert {len(batch) for batch in batches} == {batch_size}
    assert len(set(seen)) == len(seen)
    assert 0 <= num_samples - len(seen) < batch_size
    assert set(seen) <= set(range(num_samples))


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("num_samples, batch_size", [*SIZES, (4, 64), (7, 64), (9, 4)])
def test_without_a_seed_all_samples_come_once(
    num_samples: int, batch_size: int, world: int
) -> None:
    joint = rejoined(shares(num_samples, batch_size, None, world))
    assert sorted(itertools.chain(*joint)) == list(range(num_samples))
    assert joint == sorted(joint)
    assert all(shares(num_samples, batch_size, None, world))  # no process is left without


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    def epoch_of(seed: int, epoch: int) -> list[list[int]]:
        order = EpochOrder(50, 10, seed)
        order.epoch = epoch
        return [batch.tolist() for batch in order]

    first = epoch_of(0, 3)
    torch.manual_seed(123)
    assert epoch_of(0, 3) == first
    different = [epoch_of(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({str(order) for order in different}) == 9


def test_a_batch_larger_than_the_data_is_all_of_it() -> None:
    (batch,) = EpochOrder(6, 64, 0)
    assert sorted(batch.tolist()) == list(range(6))


def test_fewer_samples_than_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="a sample per device, got 3 for 4"):
        EpochOrder(3, 4, 0, 0, 4)


def test_loading_draws_nothing_from_the_global_generator() -> None:
    samples = TensorSamples(torch.randn(20, 3), torch.arange(20) % 4)
    before = torch.get_rng_state()
    batches = list(loader(samples, EpochOrder(20, 5, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    for (inputs, labels), positions in zip(batches, EpochOrder(20, 5, 0), strict=True):
        assert torch.equal(inputs, samples.values[positions])
        assert torch.equal(labels, samples.labels[positions])


@pytest.mark.parametrize(
    "stored, given", [("uint8", "float32"), ("float16", "float32"), ("float64", "float64")]
)
def test_inputs_come_in_full_precision(stored: str, given: str) -> None:
    samples = TensorSamples(torch.ones(3, 2).to(getattr(torch, stored)), torch.arange(3))
    assert samples.inputs(torch.tensor([2, 0])).dtype == getattr(torch, given)


def test_seeds_do_not_run_into_each_other() -> None:
    tuples = [(0,), (1,), (0, 1), (1, 0), (0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    # SeedSequence pads with zeros: (0,) and (0, 0) may be one, but equal lengths must differ.
    by_length = itertools.groupby(sorted(tuples, key=len), key=len)
    for _, same_length in by_length:
        same_length = list(same_length)
        draws = {float(torch.rand(1, generator=seeded(*seeds))) for seeds in same_length}
        assert len(draws) == len(same_length)


labelled = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(torch.tensor)


@given(labels=labelled, share=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_a_cut_takes_a_share_of_every_class(labels: Tensor, share: float, seed: int) -> None:
    kept, taken = stratified_cut(labels, share, seed)
    assert sorted([*kept.tolist(), *taken.tolist()]) == list(range(len(labels)))
    for k in labels.unique():
        total = int((labels == k).sum())
        number = int((labels[taken] == k).sum())
        assert number < total  # one is kept
        assert number == 0 if total == 1 else number >= 1
        if 1 <= share * total <= total - 1:
            assert abs(number - share * total) <= 0.5  # to the nearest whole sample


def test_a_cut_depends_on_its_seed_only() -> None:
    labels = torch.arange(100) % 4
    kept, taken = stratified_cut(labels, 0.25, 3)
    torch.manual_seed(9)
    again = stratified_cut(labels, 0.25, 3)
    assert torch.equal(kept, again[0])
    assert torch.equal(taken, again[1])
    assert not torch.equal(taken, stratified_cut(labels, 0.25, 4)[1])


def floor_of_power(number: int, ratio: int, k: int, steps: int) -> int:
    """The largest m with m <= number * ratio^(-k/steps), in whole numbers only."""
    low, high = 0, number
    while low < high:
        middle = (low + high + 1) // 2
        if middle**steps * ratio**k <= number**steps:
            low = middle
        else:
            high = middle - 1
    return low


# 1024 of 11 classes: 1024^(-2/10) is exactly 1/4, which a plain power misses by one digit.
@pytest.mark.parametrize(
    "num_classes, ratio, largest",
    [
        *((10, 100, 500), (10, 100, 131), (10, 10, 77), (3, 100, 1000), (2, 100, 700)),
        *((11, 1024, 16), (11, 1024, 1000), (5, 81, 81), (10, 1000, 40), (100, 50, 500)),
    ],
)
def test_a_long_tail_has_the_numbers_of_the_formula(
    num_classes: int, ratio: int, largest: int
) -> None:
    labels = torch.arange(num_classes).repeat(largest)
    counts = torch.bincount(labels[thinned(labels, num_classes, ratio, None)])
    wanted = [
        max(1, floor_of_power(largest, ratio, k, num_classes - 1)) for k in range(num_classes)
    ]
    assert counts.tolist() == wanted


def test_a_long_tail_takes_what_there_is() -> None:
    labels = torch.arange(3).repeat_interleave(torch.tensor([100, 5, 100]))
    counts = torch.bincount(labels[thinned(labels, 3, 100, None)])
    assert counts.tolist() == [100, 5, 1]  # wanted: 100, 10, 1


@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=6),
    ratio=st.sampled_from([1, 10, 100]),
    spare=st.integers(0, 200),
)
def test_a_limit_is_kept_and_no_class_is_lost(counts: list[int], ratio: int, spare: int) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    limit = len(counts) + spare
    kept = torch.bincount(labels[thinned(labels, len(counts), ratio, limit)], minlength=len(counts))
    assert int(kept.sum()) <= limit
    assert int(kept.min()) >= 1


@pytest.mark.parametrize("limit", [10, 70, 130, 290, 570, 580, 1000])
def test_a_limit_that_divides_evenly_is_met(limit: int) -> None:
    # 100 * (290 / 1000) is 28.999999999999996: a bare floor loses a sample of every class.
    labels = torch.arange(1000) % 10
    assert torch.bincount(labels[thinned(labels, 10, 1, limit)]).tolist() == [limit // 10] * 10


def test_a_smaller_limit_gives_a_subset() -> None:
    labels = torch.randint(5, (300,), generator=torch.Generator().manual_seed(0))
    small = set(thinned(labels, 5, 10, 40).tolist())
    large = set(thinned(labels, 5, 10, 90).tolist())
    assert small < large
