"""A loader that draws at random is run through again alike, and is afterwards as it was."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from neuralcollapse import measure, measuring
from neuralcollapse.draws import Draws
from small_networks import data, network

INPUTS, LABELS = data(50)
DATA = TensorDataset(INPUTS, LABELS)


class Augmented(Dataset[Any]):
    """Samples with noise that is drawn anew whenever they are asked for."""

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return INPUTS[index] + torch.randn(4), LABELS[index]


class Library(Dataset[Any]):
    """Augmentation as libraries do it that draw from Python and NumPy."""

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return random.random() * INPUTS[index] + np.random.rand(), LABELS[index]  # noqa: NPY002


class Some:
    """The first two batches of a loader, another two at every pass of one that shuffles."""

    def __init__(self, loader: Any):
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self.loader, 2)


def own() -> torch.Generator:
    return torch.Generator().manual_seed(3)


RANDOM: dict[str, Callable[[], Any]] = {
    "shuffled": lambda: DataLoader(DATA, 8, shuffle=True),
    "shuffled by its own generator": lambda: DataLoader(DATA, 8, shuffle=True, generator=own()),
    "a sampler with a generator": lambda: DataLoader(
        DATA, 8, sampler=WeightedRandomSampler([1.0] * 50, 40, generator=own())
    ),
    "a sampler of batches": lambda: DataLoader(
        DATA, batch_sampler=BatchSampler(RandomSampler(DATA, generator=own()), 8, False)
    ),
    "augmentation": lambda: DataLoader(Augmented(), 8, shuffle=True),
    "augmentation by others": lambda: DataLoader(Library(), 8, shuffle=True),
    "behind another": lambda: Some(DataLoader(DATA, 8, shuffle=True, generator=own())),
}


def seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)


def inputs_of(loader: Any) -> Tensor:
    return torch.cat([inputs for inputs, _ in loader])


@pytest.mark.parametrize("kind", RANDOM)
def test_every_pass_is_the_same(kind: str) -> None:
    loader = RANDOM[kind]()
    assert not torch.equal(inputs_of(loader), inputs_of(loader))
    with Draws(loader) as draws:
        first = inputs_of(loader)
        draws.rewind()
        assert torch.equal(inputs_of(loader), first)
    assert torch.equal(inputs_of(loader), first)


@pytest.mark.parametrize("kind", RANDOM)
def test_training_goes_on_as_if_nobody_had_measured(kind: str) -> None:
    seed()
    loader = RANDOM[kind]()
    wanted = [inputs_of(loader) for _ in range(2)]
    seed()
    loader = RANDOM[kind]()
    assert torch.equal(inputs_of(loader), wanted[0])
    measure(network(), loader, progress=False)
    assert torch.equal(inputs_of(loader), wanted[1])


@pytest.mark.parametrize("kind", RANDOM)
def test_a_second_look_is_at_the_same_samples(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether their features are kept or computed again, with 20 parts as without."""
    found = []
    for kept_bytes in (1 << 30, 0):
        monkeypatch.setattr(measuring, "_KEPT_BYTES", kept_bytes)
        seed()
        found.append(measure(network(), RANDOM[kind](), jackknife=True, progress=False))
    kept, again = found
    assert again.metrics == pytest.approx(kept.metrics, nan_ok=True)
    assert {key: vars(one) for key, one in again.intervals.items()} == {
        key: pytest.approx(vars(one)) for key, one in kept.intervals.items()
    }


def test_an_error_leaves_the_generator_alone_too() -> None:
    generator = own()
    loader = DataLoader(DATA, 8, shuffle=True, generator=generator)
    state = generator.get_state()
    with pytest.raises(ValueError, match="labels must lie in"):
        measure(network(2), loader, progress=False)
    assert torch.equal(generator.get_state(), state)
