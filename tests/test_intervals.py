"""Intervals of `measure` and `measure_features`: against parts cut by hand, and of little data.

`test_jackknife.py` has the formula, `test_shards.py` the files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuralcollapse import (
    ClassStatistics,
    Interval,
    Measurement,
    jackknife_intervals,
    measure,
    measure_features,
)
from neuralcollapse.dealing import MOST_PARTS, Dealer, first_part
from neuralcollapse.second_look import SecondLook
from passes import parts_by_hand
from processes import intervals_of_shares, run_processes

CLASSES, DIM = 4, 6
# Of features, which `test_intervals_of_features.py` judges.
OF_FEATURES = {"accuracy", "nc4_disagreement", "hug_intra", "cdnv_directional"}


def noisy(counts: list[int], *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Doubles around random means, in random order."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    means = 3 * torch.randn(len(counts), DIM, generator=generator).double()
    return means[labels] + torch.randn(len(labels), DIM, generator=generator).double(), labels


def head(num_classes: int = CLASSES) -> nn.Linear:
    layer = nn.Linear(DIM, num_classes).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=generator)
    return layer


def statistics_of(features: Tensor, labels: Tensor, parts: list[int]) -> list[ClassStatistics]:
    cut = torch.tensor(parts)
    return [
        ClassStatistics.from_features(features[cut == j], labels[cut == j], CLASSES)
        for j in range(20)
    ]


def assert_close(found: dict[str, Interval], wanted: dict[str, Interval]) -> None:
    # A pseudo-value is 20 times a difference of values that merging rounds otherwise.
    assert {*found} == {*wanted}
    for key, one in wanted.items():
        for end in ("value", "low", "high"):
            value = getattr(one, end)
            assert getattr(found[key], end) == pytest.approx(value, rel=1e-7, abs=1e-9), (key, end)


@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"global_mean": "sample"}])
@pytest.mark.parametrize("size", [7, 64, 1000])
def test_they_are_those_of_parts_cut_by_hand(options: dict[str, Any], size: int) -> None:
    """In batches of any size, of a model and of its features."""
    features, labels = noisy([70, 50, 90, 33])
    layer = head()
    batches = list(zip(features.split(size), labels.split(size), strict=True))
    found = measure(layer, batches, jackknife=True, **options)
    shown = features / features.norm(dim=1, keepdim=True) if "normalize" in options else features
    parts = statistics_of(shown, labels, parts_by_hand(labels))
    more = {key: value for key, value in options.items() if key == "global_mean"}
    wanted = jackknife_intervals(parts, layer.weight, **more)
    assert {*found.intervals} - {*wanted} == OF_FEATURES
    assert_close({key: found.intervals[key] for key in wanted}, wanted)
    whole = measure_features(features, labels, layer.weight, layer.bias, jackknife=True, **options)
    assert_close(whole.intervals, found.intervals)


@pytest.mark.parametrize("options", [{}, {"scatter": False}, {"weighting": "balanced"}])
def test_the_values_are_those_without(options: dict[str, Any]) -> None:
    features, labels = noisy([70, 50, 90, 33])
    layer = head()
    batches = list(zip(features.split(50), labels.split(50), strict=True))
    plain = measure(layer, batches, outsiders=batches, **options)
    found = measure(layer, batches, outsiders=batches, jackknife=True, **options)
    assert plain.intervals == {}
    assert found.counts == plain.counts
    assert found.accuracy == plain.accuracy
    assert found.undefined == plain.undefined
    for key, value in plain.metrics.items():
        # Sums in another order, in double precision.
        assert found[key] == pytest.approx(value, rel=1e-10, abs=1e-13, nan_ok=True), key
    for key, interval in found.intervals.items():
        value = found.accuracy if key == "accuracy" else found[key]
        assert interval.value == pytest.approx(value, rel=1e-10, abs=1e-13), key
    lacking = {*plain.metrics} - {*found.intervals}
    assert lacking == ({"vci"} if options == {"scatter": False} else set())


def test_that_of_accuracy_is_of_its_shares() -> None:
    features, labels = noisy([70, 50, 90, 33])
    layer = head()
    found = measure_features(features, labels, layer.weight, jackknife=True).intervals
    cut = torch.tensor(parts_by_hand(labels))
    right = (features @ layer.weight.detach().T).argmax(1) == labels
    rates = [float(right[cut != j].double().mean()) for j in range(20)]
    known = {"accuracy": [float(right.double().mean()), *rates]}
    parts = statistics_of(features, labels, cut.tolist())
    wanted = jackknife_intervals(parts, known=known)["accuracy"]
    assert found["accuracy"].low == pytest.approx(wanted.low, rel=1e-9)
    assert found["accuracy"].high == pytest.approx(wanted.high, rel=1e-9)


def test_given_means_decide_by_part_too() -> None:
    """In the one pass, of a loader that runs once; the means given are held."""
    features, labels = noisy([70, 50, 90, 33])
    layer = head()
    batches = list(zip(features.split(50), labels.split(50), strict=True))
    wanted = measure(layer, batches, jackknife=True)
    found = measure(layer, iter(batches), means=wanted, jackknife=True)
    assert found["nc4_disagreement"] == wanted["nc4_disagreement"]
    again = measure_features(
        features, labels, layer.weight, layer.bias, means=wanted, jackknife=True
    )
    assert_close(found.intervals, again.intervals)


def test_one_pass_and_a_loader_that_runs_once() -> None:
    features, labels = noisy([70, 50, 90, 33])
    layer, passes = head(), []

    class Loader:
        def __iter__(self) -> Iterator[Any]:
            passes.append(1)
            return zip(features.split(50), labels.split(50), strict=True)

    wanted = measure(layer, Loader(), jackknife=True)
    assert len(passes) == 1
    assert_close(measure(layer, iter(Loader()), jackknife=True).intervals, wanted.intervals)


def test_features_that_do_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader runs again, as without; where it cannot, statistics alone have intervals."""
    features, labels = noisy([70, 50, 90, 33])
    batches = list(zip(features.split(50), labels.split(50), strict=True))
    wanted = measure(head(), batches, jackknife=True).intervals
    monkeypatch.setattr("neuralcollapse.measuring._KEPT_BYTES", 1000)
    assert_close(measure(head(), batches, jackknife=True).intervals, wanted)
    once = measure(head(), iter(batches), jackknife=True).intervals
    assert_close(once, {key: one for key, one in wanted.items() if key not in OF_FEATURES})


@pytest.mark.parametrize("order", ["sorted", "cycle", "shuffled"])
@pytest.mark.parametrize("size", [1, 32, 1000])
def test_parts_hold_as_much_of_every_class(order: str, size: int) -> None:
    """Whatever the order: dealt by rows, a cycle of 20 classes would put each into one part."""
    labels = torch.arange(20).repeat(45)
    if order == "sorted":
        labels = labels.sort().values
    if order == "shuffled":
        labels = labels[torch.randperm(900, generator=torch.Generator().manual_seed(0))]
    dealer, counts = Dealer(20), torch.zeros(MOST_PARTS, 20, dtype=torch.int64)
    batches = [(own[:, None].double(), own, None) for own in labels.split(size)]
    for part, features, own in dealer.dealt(batches):
        assert torch.equal(features[:, 0].long(), own)
        counts[part] += own.bincount(minlength=20)
    assert counts.sum(0).tolist() == [45] * 20
    assert counts.unique().tolist() == [2, 3]
    sizes = counts.sum(1)
    assert int(sizes.max() - sizes.min()) <= 5  # of 45: classes begin with different parts


def test_processes_begin_with_different_parts() -> None:
    for count in (1, 2, 3, 8, 20):
        assert len({first_part(rank, count) for rank in range(count)}) == count
    assert all(0 <= first_part(rank, 64) < MOST_PARTS for rank in range(64))


class Tokens(nn.Module):
    """Features (N, T, d) that go into a classifier of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.head = head()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs)


@pytest.mark.parametrize("size", [5, 60])
def test_sequences_are_dealt_as_a_whole(size: int) -> None:
    """Tokens of a sequence are alike: dealt apart they would make intervals too narrow."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (60, 8), generator=generator)
    labels[:, -1] = -100
    features = torch.eye(CLASSES, DIM).double()[labels.clamp(min=0)] * 30
    features += torch.randn(60, 1, DIM, generator=generator)
    features += 0.1 * torch.randn(60, 8, DIM, generator=generator)
    batches = list(zip(features.split(size), labels.split(size), strict=True))
    found = measure(Tokens(), batches, num_classes=CLASSES, jackknife=True)
    kept = (labels != -100).flatten()
    own = torch.arange(60).repeat_interleave(8)[kept] % 20
    flat, tokens = features.flatten(0, 1)[kept], labels.flatten()[kept]
    wanted = jackknife_intervals(statistics_of(flat, tokens, own.tolist()), head().weight)
    assert_close({key: found.intervals[key] for key in wanted}, wanted)
    apart = measure_features(flat, tokens, jackknife=True).intervals["nc1_trace_ratio"]
    whole = found.intervals["nc1_trace_ratio"]
    # Noise is that of 60 sequences and not of 420 tokens; of 20 parts, either is sure to a fifth.
    assert whole.standard_error > 1.5 * apart.standard_error


def test_few_samples_a_class_and_a_single_one() -> None:
    """Three a class: in as many parts. A class of one is in all that is left, and told."""
    features, labels = noisy([3, 3, 3, 1])
    found = measure_features(features, labels, jackknife=True)
    assert found.conventions["intervals"] == "95 %, by leaving out one of 9 parts of the data"
    assert any("1 class with a single sample" in note for note in found.notes)
    assert all(math.isfinite(one.standard_error) for one in found.intervals.values())
    cut = torch.tensor(parts_by_hand(labels))
    single = labels == 3
    left = sorted({*cut[~single].tolist()})
    assert len(left) == 9
    for key in ("nc1", "cdnv", "nc2_etf_distance"):
        value, wanted = found[key], 0.0
        sizes = [int(((cut == j) & ~single).sum()) for j in left]
        without = [
            measure_features(features[(cut != j) | single], labels[(cut != j) | single], None)[key]
            for j in left
        ]
        ratios = [9 / size for size in sizes]
        centre = sum((1 - 1 / h) * (value - w) for h, w in zip(ratios, without, strict=True))
        for h, w in zip(ratios, without, strict=True):
            wanted += ((h - 1) * (value - w) - centre) ** 2 / (h - 1) / len(left)
        assert found.intervals[key].standard_error == pytest.approx(wanted**0.5, rel=1e-6), key
    assert "hug_intra" in found.intervals


def test_a_class_of_one_sample_has_no_distance_to_itself() -> None:
    features, labels = noisy([8, 8, 8, 1])
    statistics = ClassStatistics.from_features(features, labels, CLASSES)
    look = SecondLook(statistics, None, None, normalize=False, global_mean="class")
    look.update(features, labels)
    with_it = look.result().known["hug_intra"]
    look.take()
    look.update(features[labels < 3], labels[labels < 3])
    # Its feature is its mean, but for the rounding of the directions.
    assert look.result().known["hug_intra"] == pytest.approx(with_it, rel=1e-7)


@pytest.mark.parametrize("counts", [[1], [1, 1, 1, 1]])
def test_nothing_to_leave_out_is_refused(counts: list[int]) -> None:
    features, labels = noisy(counts)
    with pytest.raises(ValueError, match="jackknife must have two parts to leave out, got 0 parts"):
        measure_features(features, labels, jackknife=True)
    with pytest.raises(ValueError, match="jackknife must have two parts to leave out"):
        measure(head(), [(features, labels)], jackknife=True)
    assert measure_features(features, labels).counts == tuple(counts)


def test_one_class_has_intervals_of_its_decisions_alone() -> None:
    features, labels = noisy([40])
    found = measure(head(), [(features, labels)], jackknife=True)
    assert {*found.intervals} == {"accuracy"}
    assert "95 %" in str(found)


def test_bad_samples_are_named_as_without() -> None:
    features, labels = noisy([20, 20, 20, 20])
    labels[3] = 4
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 4\)"):
        measure(head(), [(features, labels)], jackknife=True)
    labels[3], features[5, 0] = 3, math.nan
    with pytest.raises(ValueError, match="features must be finite"):
        measure_features(features, labels, jackknife=True)
    with pytest.raises(ValueError, match="loader must yield at least one sample"):
        measure(head(), [], jackknife=True)


def test_they_are_saved_and_shown(tmp_path: Path) -> None:
    features, labels = noisy([70, 50, 90, 33])
    found = measure(head(), [(features, labels)], jackknife=True)
    found.save(tmp_path / "measurement.json")
    again = Measurement.load(tmp_path / "measurement.json")
    assert again.intervals == found.intervals
    assert again.to_dict() == found.to_dict()
    assert str(again) == str(found)
    one = found.intervals["cdnv"]
    (line,) = [line for line in str(found).splitlines() if line.startswith("cdnv ")]
    assert f"{one.value:.6g}" in line
    assert f"+-{one.high - one.value:.3g}" in line
    (line,) = [line for line in str(found).splitlines() if line.startswith("accuracy")]
    assert "+-" in line
    assert "no interval" not in str(found)
    assert "no interval: nc1" in str(replace(found, intervals={"cdnv": one}))
    plain = measure(head(), [(features, labels)])
    assert "intervals" not in plain.to_dict()
    assert "95 %" not in str(plain)
    damaged = found.to_dict() | {"intervals": {"cdnv": {"value": 1.0}}}
    with pytest.raises(ValueError, match="not a measurement"):
        Measurement.from_dict(damaged)


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_leave_out_parts_of_both(tmp_path: Path) -> None:
    run_processes(intervals_of_shares, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("each, least", [(3, 0.93), (10, 0.92), (100, 0.92)])
def test_they_hold_the_truth_about_as_often_as_they_say(each: int, least: float) -> None:
    """The trace ratio without bias, of ten classes; for few samples they are on the wide side."""
    generator = torch.Generator().manual_seed(2)
    means = 4 * torch.eye(10).double()
    labels = torch.arange(10 * each) % 10
    truth, held, runs = 10 / (16 * 0.9), 0, 200
    for _ in range(runs):
        features = means[labels] + torch.randn(len(labels), 10, generator=generator)
        parts = statistics_of_ten(features, labels)
        one = jackknife_intervals(parts, metrics=["nc1_trace_unbiased"])["nc1_trace_unbiased"]
        held += one.low <= truth <= one.high
    assert held / runs >= least


def statistics_of_ten(features: Tensor, labels: Tensor) -> list[ClassStatistics]:
    cut = torch.tensor(parts_by_hand(labels))
    return [
        ClassStatistics.from_features(features[cut == j], labels[cut == j], 10) for j in range(20)
    ]
