"""Processes that compute together, and what some tests run in them.

A module, so that the processes can import it. They come from a server that has imported torch
already (conftest.py has it), so each starts in a tenth of a second.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from neuralcollapse import ClassStatistics, jackknife_intervals, measure, measure_features
from neuralcollapse.dealing import merged
from neuralcollapse.metrics.variability import Weighting
from neuralcollapse.second_look import SecondLook, look_at_parts

# Seconds; reached only by processes that wait for each other for ever.
LONGEST = 200.0

# Called with the rank, the number of processes, and the folder.
Share = Callable[[int, int, str], Any]


def run_processes(share: Share, folder: Path, num_processes: int = 2) -> None:
    """Call `share` in processes of one gloo group; an exception in one of them is raised here."""
    context: Any = start_processes(
        in_group, (num_processes, str(folder), share), num_processes, False, False, "forkserver"
    )
    end = time.monotonic() + LONGEST
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < end, f"{share.__name__} did not end in {LONGEST:g} s"
    finally:
        for process in context.processes:
            process.kill()


def in_group(rank: int, num_processes: int, folder: str, share: Share) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=num_processes)
    share(rank, num_processes, folder)
    dist.destroy_process_group()


def merge_shares(rank: int, num_processes: int, _: str) -> None:
    """In turns, uneven parts, all or none, or not even a batch; batches are padded."""
    labels = torch.arange(43) % 5
    labels[42] = 5  # a class of one sample, which all processes but one have not seen
    generator = torch.Generator().manual_seed(0)
    features = 30 + 1e-2 * torch.randn(43, 8, generator=generator) + labels[:, None].float().cos()
    head = torch.nn.Linear(8, 7)  # and a class that nobody has seen
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
    torch.nn.init.zeros_(head.bias)
    whole = measure(head, [(features, labels)])
    everything = ClassStatistics.from_features(features, labels, 7)
    cuts = [0, *(5 * j * j for j in range(1, num_processes)), 43]
    turns, first = slice(rank, None, num_processes), slice(0, 43 * (rank == 0))
    uneven = slice(min(43, cuts[rank]), min(43, cuts[rank + 1]))
    for own, batches in ((turns, 1), (uneven, 1), (first, 1), (first, rank == 0)):
        x, y = features[own], labels[own]
        padded = torch.cat([x, torch.ones(3, 8)]), torch.cat([y, torch.full((3,), -100)])
        parts = measure(head, [padded] * batches, distributed=True)
        statistics = ClassStatistics.from_features(x, y, 7).merge_processes()
        assert torch.equal(statistics.counts, everything.counts)
        assert statistics.means[6].isnan().all()
        assert (statistics.means[:6] - everything.means[:6]).abs().max() < 1e-12
        assert statistics.scatter is not None
        assert everything.scatter is not None
        difference = (statistics.scatter - everything.scatter).abs().max()
        assert difference < 1e-6 * everything.scatter.trace(), difference
        gathered = [torch.empty_like(statistics.scatter) for _ in range(num_processes)]
        dist.all_gather(gathered, statistics.scatter)
        assert all(torch.equal(one, gathered[0]) for one in gathered)
        assert parts.counts == whole.counts
        assert parts.accuracy == whole.accuracy
        for key, value in whole.metrics.items():
            same = math.isnan(value) and math.isnan(parts[key])
            close = abs(parts[key] - value) <= 1e-6 * abs(value) + 1e-9
            assert same or close, (key, value, parts[key])
        narrow = measure(head, [padded] * batches, distributed=True, scatter=False)
        assert abs(narrow["nc1"] - whole["nc1"]) <= 1e-6 * whole["nc1"]
    same = ClassStatistics.from_features(torch.full((3, 8), 0.1), torch.zeros(3).long(), 7)
    assert same.merge_processes().spread.tolist() == [0] * 7
    if num_processes > 1:
        with pytest.raises(ValueError, match=r"must be of one kind, got \(7, 8\).*; \(8, 8\)"):
            ClassStatistics.from_features(features, labels, 7 + rank).merge_processes()


def look_at_shares(rank: int, *_: Any) -> None:
    """What needs a second look at every second sample, or all or none, beside one process's."""
    labels = torch.arange(42) % 4
    features = torch.randn(42, 6, generator=torch.Generator().manual_seed(0)) + labels[:, None]
    head = torch.nn.Linear(6, 4)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    whole = measure(head, [(features, labels)])
    for own in (slice(rank, None, 2), slice(0, 42 * (rank == 0))):
        parts = measure(head, [(features[own], labels[own])], distributed=True)
        for key in ("hug_intra", "hug_inter", "gnc2_energy_gap", "gnc2_margin", "nc4_disagreement"):
            assert abs(parts[key] - whole[key]) <= 1e-6, (key, whole[key], parts[key])
        assert parts.accuracy == whole.accuracy
        given = measure(head, [(features[own], labels[own])], means=whole, distributed=True)
        assert given["nc4_disagreement"] == whole["nc4_disagreement"]
        assert given.accuracy == whole.accuracy
    assert whole["hug_intra"] > 0.1


def collect_shares(rank: int, *_: Any) -> None:
    """torchmetrics on a third and the rest, on all and none, on half of the classes each."""
    from torchmetrics import MetricCollection

    from neuralcollapse.integrations.torchmetrics import NeuralCollapse

    labels = torch.arange(41) % 4
    features = torch.randn(41, 6, generator=torch.Generator().manual_seed(0)).double()
    features = features + labels[:, None]
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    whole = measure_features(features, labels, weight)
    third, first, classes = torch.arange(41) % 3 == 0, torch.arange(41) >= 0, labels < 2
    for split in (third, first, classes):
        own = split if rank == 0 else ~split
        metric = NeuralCollapse(4, 6, weight=weight)
        both = MetricCollection([metric])
        for x, y in zip(features[own].split(5), labels[own].split(5), strict=True):
            both.update(x, y)
        for _again in range(2):
            values = both.compute()
            for key, value in values.items():
                assert abs(value - whole[key]) <= 1e-9 * abs(whole[key]) + 1e-12, (key, value)
        assert metric.statistics.num_samples == int(own.sum())
        both.update(features[:1], labels[:1])  # on with the local state


def collect_intervals(rank: int, *_: Any) -> None:
    """torchmetrics with intervals, beside measuring in the same processes."""
    from neuralcollapse.integrations.torchmetrics import NeuralCollapse

    labels = torch.arange(130) % 4
    features = torch.randn(130, 6, generator=torch.Generator().manual_seed(0)).double()
    features += 2 * torch.eye(4, 6)[labels]
    head = torch.nn.Linear(6, 4).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    for shares in ((slice(0, 90), slice(90, 130)), (slice(0, 130), slice(0, 0))):
        own = shares[rank]
        wanted = measure(head, [(features[own], labels[own])], distributed=True, jackknife=True)
        metric = NeuralCollapse(4, 6, weight=head, jackknife=True)
        for x, y in zip(features[own].split(7), labels[own].split(7), strict=True):
            metric.update(x, y)
        values = metric.compute()
        for key, one in wanted.intervals.items():
            if key not in values:
                continue
            for name, value in ((f"{key}_low", one.low), (f"{key}_high", one.high)):
                close = abs(float(values[name]) - value) <= 1e-7 * abs(value) + 1e-9
                assert close, (name, float(values[name]), value)
        assert float(values["nc1_low"]) < wanted["nc1"] < float(values["nc1_high"])


def intervals_of_shares(rank: int, *_: Any) -> None:
    """Intervals of a loader of two processes are those of the parts of both, put together."""
    labels = torch.arange(130) % 4
    labels[-1] = 4  # a class of one sample, which one process has
    features = torch.randn(130, 6, generator=torch.Generator().manual_seed(0)).double()
    features += 2 * torch.eye(5, 6)[labels]
    head = torch.nn.Linear(6, 5).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    for shares in ((slice(0, 90), slice(90, 130)), (slice(0, 130), slice(0, 0))):
        parts: list[list[int]] = [[] for _ in range(20)]
        for process, share in enumerate(shares):
            turns = [7 * k + 10 * process for k in range(5)]
            for row in range(*share.indices(130)):
                label = int(labels[row])
                parts[turns[label] % 20].append(row)
                turns[label] += 1
        cut = [ClassStatistics.from_features(features[own], labels[own], 5) for own in parts]
        own = shares[rank]
        choices: list[tuple[bool, Weighting | None]] = [(True, "balanced"), (False, None)]
        for scatter, weighting in choices:
            look = SecondLook(
                merged(cut if scatter else [replace(part, scatter=None) for part in cut]),
                head.weight.detach(),
                None if head.bias is None else head.bias.detach(),
                normalize=False,
                global_mean="class",
                weighting=weighting,
                parts=cut,
            )
            totals = []
            for place, rows in enumerate(parts):
                look.update(features[rows], labels[rows], place)
                totals.append(look.take())
            known = look_at_parts(look, totals).known_without
            wanted = jackknife_intervals(cut, head.weight, known=known, weighting=weighting)
            found = measure(
                head,
                [(features[own], labels[own])],
                distributed=True,
                jackknife=True,
                scatter=scatter,
                weighting=weighting,
            )
            assert {*wanted} - {*found.intervals} == (set() if scatter else {"vci"})
            for key, interval in found.intervals.items():
                for end in ("value", "low", "high"):
                    value = getattr(wanted[key], end)
                    close = abs(getattr(interval, end) - value) <= 1e-7 * abs(value) + 1e-9
                    assert close, (key, end, wanted[key], interval)
