"""Measuring leaves model, hooks, devices and random numbers as they were."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from cases.worlds import collapsed
from neuralcollapse import measure, measure_features
from small_networks import LOADERS, assert_equal_measurements, batches, data, hooks_of, network


def mixed_modes(model: nn.Module) -> list[bool]:
    """Every other module in evaluation mode, as somebody who freezes BatchNorm has it."""
    for index, module in enumerate(model.modules()):
        module.training = index % 2 == 0
    return [module.training for module in model.modules()]


def breaking_loader() -> Iterator[tuple[Tensor, Tensor]]:
    yield from batches()[:2]
    raise OSError("the disk is gone")


def breaking_labels() -> list[tuple[Tensor, Tensor]]:
    return [(inputs, labels + 1) for inputs, labels in batches()]


BROKEN: dict[str, tuple[Callable[[], Any], type[Exception]]] = {
    "nothing": (batches, KeyError),
    "the loader": (breaking_loader, OSError),
    "the labels": (breaking_labels, ValueError),
    "the model": (lambda: [(torch.zeros(3, 5), torch.zeros(3).long())], ValueError),
    "no data": (lambda: [], ValueError),
}


@pytest.mark.parametrize("what", BROKEN)
def test_the_model_is_afterwards_as_it_was(what: str) -> None:
    loader, error = BROKEN[what]
    model = network()
    modes = mixed_modes(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    identities = [id(p) for p in model.parameters()]
    hooks = hooks_of(model)
    if what == "nothing":
        measure(model, loader())
    else:
        with pytest.raises(error):
            measure(model, loader())
    assert [module.training for module in model.modules()] == modes
    assert hooks_of(model) == hooks
    assert [id(p) for p in model.parameters()] == identities
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()
    for name, value in model.state_dict().items():  # BatchNorm's buffers among them
        assert torch.equal(value, before[name]), name


def test_other_hooks_stay() -> None:
    model = network()
    calls: list[int] = []
    model[-1].register_forward_pre_hook(lambda *_: calls.append(1))
    measure(model, batches())
    assert len(calls) == len(batches())
    assert hooks_of(model) == 1


@pytest.mark.parametrize("loader", ["list", "DataLoader", "shuffled DataLoader"])
def test_measuring_draws_no_random_number(loader: str) -> None:
    """Training goes on the same whether it was measured or not."""
    batches_of = LOADERS[loader]()
    before = torch.get_rng_state()
    measure(network(), batches_of)
    assert torch.equal(torch.get_rng_state(), before)
    w = collapsed()
    measure_features(w.features, w.labels, w.weight, w.bias)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_result_does_not_follow_the_model() -> None:
    model = network()
    measurement = measure(model, batches())
    assert measurement.weight is not None
    before, values = measurement.weight.clone(), dict(measurement.metrics)
    with torch.no_grad():
        head = model[-1]
        assert isinstance(head, nn.Linear)
        head.weight.add_(1)
    assert torch.equal(measurement.weight, before)
    assert measurement.metrics == values


class Elsewhere(nn.Module):
    """A model that records where it was asked to go."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.places: list[str] = []

    def to(self, device: Any) -> Elsewhere:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.places.append(str(device))
        if str(device) == "cuda":
            raise RuntimeError("no such device")
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs)


def test_the_device_is_restored_when_moving_fails() -> None:
    model = Elsewhere()
    modes = mixed_modes(model)
    with pytest.raises(ValueError, match="no such device"):
        measure(model, batches(), device="cuda")
    assert model.places == ["cuda", "cpu"]
    assert [module.training for module in model.modules()] == modes
    assert hooks_of(model) == 0
    measure(model, batches(), device="cpu")
    assert model.places == ["cuda", "cpu"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_measures_the_same_and_the_model_comes_back() -> None:
    model = network()
    expected = measure(model, batches())
    measured = measure(model, batches(), device="cuda")
    assert next(model.parameters()).device.type == "cpu"
    assert_equal_measurements(measured, expected, 1e-4)
    assert_equal_measurements(measure(model.cuda(), batches()), expected, 1e-4)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """A data set without a length, whose DataLoader has a `__len__` that raises."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(*data(), strict=True)


@pytest.mark.parametrize("name", ["list", "generator", "stream"])
def test_the_progress_bar_is_on_standard_error_of_a_terminal_only(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loader() -> Any:
        return DataLoader(Stream(), batch_size=8) if name == "stream" else LOADERS[name]()

    measure(network(), loader())
    assert capsys.readouterr() == ("", "")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with_bar = measure(network(), loader())
    shown = terminal.getvalue()
    quiet = measure(network(), loader(), progress=False)
    assert "measuring" in shown
    assert terminal.getvalue() == shown
    assert_equal_measurements(with_bar, quiet)
    assert capsys.readouterr().out == ""
