"""Loaders of every kind give the numbers that a loader of pairs gives."""

from __future__ import annotations

from collections import UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuralcollapse import measure
from neuralcollapse.batches import labelled_samples, split_batch

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(30, 4, generator=GENERATOR)
LABELS = torch.arange(30) % 3
MODEL = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
Pair = namedtuple("Pair", "target image")  # labels first: the names decide, not the places


@dataclass
class Sample:
    image: Tensor
    target: Tensor
    index: int = 0


class Named(nn.Module):
    """Called by name, as transformers are."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = MODEL

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        assert attention_mask is not None
        return self.inner(input_ids * attention_mask)


class Wrapper(nn.Module):
    """Passes on what it is given, as DistributedDataParallel does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.module(*inputs, **named)


class Two(nn.Module):
    """Two arguments without telling names."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = MODEL

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.inner(left * right)


ONES = torch.ones(30, 1)
KINDS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "pair": (lambda: MODEL, (INPUTS, LABELS)),
    "list": (lambda: MODEL, [INPUTS, LABELS, "path.png"]),
    "column of labels": (lambda: MODEL, (INPUTS, LABELS[:, None])),
    "one-hot floats": (lambda: MODEL, (INPUTS, torch.eye(3)[LABELS])),
    "one-hot integers": (lambda: MODEL, (INPUTS, torch.eye(3, dtype=torch.int64)[LABELS])),
    "one-hot bools": (lambda: MODEL, (INPUTS, torch.eye(3)[LABELS].bool())),
    "dictionary": (lambda: MODEL, {"image": INPUTS, "label": LABELS}),
    "more than needed": (lambda: MODEL, {"id": LABELS, "image": INPUTS, "label": LABELS}),
    "any name, one tensor": (lambda: MODEL, {"spectrum": INPUTS, "y": LABELS, "path": "a"}),
    "mapping": (lambda: MODEL, UserDict({"x": INPUTS, "targets": LABELS})),
    "dataclass": (lambda: MODEL, Sample(INPUTS, LABELS)),
    "named tuple": (lambda: MODEL, Pair(LABELS, INPUTS)),
    "names of forward": (
        Named,
        {"input_ids": INPUTS, "attention_mask": ONES, "labels": LABELS, "text": ["a"] * 30},
    ),
    "wrapped": (
        lambda: Wrapper(Named()),
        {"input_ids": INPUTS, "attention_mask": ONES, "labels": LABELS},
    ),
    "wrapped, one tensor": (lambda: Wrapper(MODEL), {"image": INPUTS, "labels": LABELS}),
    "dictionary and labels": (Named, ({"input_ids": INPUTS, "attention_mask": ONES}, LABELS)),
    "several inputs": (Two, ((INPUTS, ONES), LABELS)),
}


@pytest.mark.parametrize("name", KINDS)
def test_any_kind_of_batch_is_measured(name: str) -> None:
    make, batch = KINDS[name]
    wanted = measure(MODEL, [(INPUTS, LABELS)])
    measured = measure(make(), [batch], num_classes=3)
    assert measured.metrics == wanted.metrics
    assert measured.accuracy == wanted.accuracy


@pytest.mark.parametrize("index", [-100, 7])
def test_ignored_samples_count_for_nothing(index: int) -> None:
    labels = LABELS.clone()
    labels[::5] = index
    kept = labels != index
    wanted = measure(MODEL, [(INPUTS[kept], LABELS[kept])])
    measured = measure(MODEL, [(INPUTS, labels)], ignore_index=index)
    assert measured.counts == wanted.counts
    # The network runs on other batches, whose products may round otherwise in float32.
    for key, value in measured.metrics.items():
        assert value == pytest.approx(wanted[key], rel=1e-5, abs=1e-6, nan_ok=True), key


@pytest.mark.parametrize("index", [-100, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_rows_of_the_ignored_label_among_one_hot_ones(index: int, dtype: torch.dtype) -> None:
    labels, one_hot = LABELS.clone(), torch.eye(3)[LABELS].to(dtype)
    labels[::5], one_hot[::5] = index, index
    wanted = measure(MODEL, [(INPUTS, labels)], ignore_index=index)
    measured = measure(MODEL, [(INPUTS, one_hot)], ignore_index=index)
    assert measured.counts == wanted.counts
    assert measured.metrics == wanted.metrics
    one_hot[0, 0] = 0
    with pytest.raises(ValueError, match="must be one-hot, got rows"):
        measure(MODEL, [(INPUTS, one_hot)], ignore_index=index)


def test_every_token_is_a_sample() -> None:
    labels = LABELS.reshape(6, 5).clone()
    labels[:, -1] = -100
    kept = labels.flatten() >= 0
    wanted = measure(MODEL, [(INPUTS[kept], LABELS[kept])])
    measured = measure(MODEL, [(INPUTS.reshape(6, 5, 4), labels)])
    assert measured.counts == wanted.counts
    for key, value in measured.metrics.items():
        assert value == pytest.approx(wanted[key], rel=1e-5, abs=1e-6, nan_ok=True), key


def test_tokens_with_other_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"give labels of shape \(6, 5\)"):
        measure(MODEL, [(INPUTS.reshape(6, 5, 4), torch.zeros(6, 4, dtype=torch.long))])


def test_as_many_samples_as_classes_are_not_taken_for_one_hot() -> None:
    """Square labels of tokens: their shape is that of the features."""
    labels = torch.tensor([[0, 1], [1, 0]])
    _, read = labelled_samples(torch.zeros(2, 2, 5), labels, 2, None)
    assert read.tolist() == [0, 1, 1, 0]


BAD = {
    "no labels": ({"image": INPUTS}, "got dict of image"),
    "empty": ({}, "got dict of nothing"),
    "labels no tensor": ({"image": INPUTS, "labels": [1, 2]}, "got dict of image, labels"),
    "one": ((INPUTS,), "got tuple"),
    "text": ("batch", "got str"),
    "strings": ((["a", "b"], LABELS), r"got \(list, Tensor"),
}


@pytest.mark.parametrize("name", BAD)
def test_other_batches_give_one_sentence(name: str) -> None:
    batch, message = BAD[name]
    with pytest.raises(TypeError, match=f"loader must yield .*{message}"):
        split_batch(batch)
