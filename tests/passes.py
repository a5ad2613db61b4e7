"""Statistics accumulated batch by batch, and the same in two passes over float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import reference.metrics
from cases.worlds import World, simplex_vertices, world
from neuralcollapse import ClassStatistics, StatisticsAccumulator, cdnv, nc1, nc1_trace_ratio


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


def parts_by_hand(labels: Tensor) -> list[int]:
    """A loop: every class's samples in turns, class k beginning with part 7 k."""
    turns: dict[int, int] = {}
    parts = []
    for label in map(int, labels):
        turn = turns.get(label, 7 * label)
        turns[label] = turn + 1
        parts.append(turn % 20)
    return parts
