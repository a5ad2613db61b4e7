"""Small runs for tests: blobs that a tiny network learns in seconds, and how runs compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuralcollapse.record import Run
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.data import Data
from neuralcollapse.train.loop import create_run, train
from neuralcollapse.train.samples import AbstractSamples, TensorSamples

SMALL: Mapping[str, Any] = {
    "data": "npz",
    "loss": "cross-entropy",
    "epochs": 4,
    "batch_size": 16,
    "width": 16,
    "dim": 8,
    "measure_every": 1,
}


def blobs(
    counts: Sequence[int] = (24, 24, 24, 24),
    shape: tuple[int, ...] = (6,),
    *,
    noise: float = 1.0,
    seed: int = 0,
    test_seed: int = 7,
) -> Data:
    """Normal clouds around class means; `counts` is of training, 6 each for validation and test."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(len(counts), *shape, generator=generator)

    def part(numbers: Sequence[int], seed: int) -> TensorSamples:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(len(numbers)).repeat_interleave(torch.tensor(numbers))
        labels = labels[torch.randperm(len(labels), generator=generator)]
        spread = noise * torch.randn(len(labels), *shape, generator=generator)
        return TensorSamples(means[labels] + spread, labels)

    few = [6] * len(counts)
    names = tuple(f"blob {k}" for k in range(len(counts)))
    return Data(part(counts, seed + 1), part(few, seed + 2), part(few, test_seed), names)


def everything(samples: AbstractSamples) -> tuple[Tensor, Tensor]:
    """All inputs and labels."""
    return samples[torch.arange(len(samples))]


def method(**options: Any) -> TrainConfig:
    """A small configuration with loss, head and frame chosen."""
    return TrainConfig(**{**SMALL, **options}).methods()[0]


def started(path: Path, data: Data, **options: Any) -> Run:
    """A new run that has not been trained."""
    return create_run(path, method(**options), data)


def trained(path: Path, data: Data, **options: Any) -> Run:
    """A run trained to its end in this process."""
    run = started(path, data, **options)
    assert train(run, data, progress=False) == "finished"
    return run


def plain_rows(run: Run) -> list[dict[str, Any]]:
    """What was measured, without the time it took."""
    return [{name: row[name] for name in row if name != "seconds"} for row in run.rows()]


def assert_same_tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """The same names and the same bits."""
    assert list(one) == list(other)
    differing = [name for name in one if not _same_bits(one[name], other[name])]
    assert differing == []


def assert_same_run(one: Run, other: Run) -> None:
    """All that the other run holds this one holds bit for bit, but for the time it took."""
    assert plain_rows(one) == plain_rows(other)
    assert one.snapshot_epochs() == other.snapshot_epochs()
    for epoch in one.snapshot_epochs():
        assert_same_tensors(one.snapshot(epoch), other.snapshot(epoch))
    # A run killed while it removed old checkpoints may keep one more.
    assert set(one.checkpoint_epochs()) >= set(other.checkpoint_epochs())
    for epoch in other.checkpoint_epochs():
        mine, theirs = one.checkpoint(epoch), other.checkpoint(epoch)
        assert_same_tensors(mine.tensors, theirs.tensors)
        assert timeless(mine.state) == timeless(theirs.state)
    assert timeless(one.summary()) == timeless(other.summary())


def timeless(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Without "seconds"."""
    assert values is not None
    return {name: value for name, value in values.items() if name != "seconds"}


def leaves(value: Any) -> Iterator[float]:
    """All numbers inside nested plain values, in order."""
    if isinstance(value, Mapping):
        for name in value:
            yield from leaves(value[name])
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, int | float):
        yield float(value)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(
        one.contiguous().view(torch.uint8) if one.dim() else one,
        other.contiguous().view(torch.uint8) if other.dim() else other,
    )
