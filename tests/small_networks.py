"""A small network, its data in every kind of loader, and measurements beside the slow reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import reference.metrics
from cases.metrics import ROWS
from neuralcollapse import Measurement

KEYS = [metric.key for metric in ROWS]


def network(num_classes: int = 3, *, seed: int = 0) -> nn.Sequential:
    """Inputs (N, 4), features of width 6 after BatchNorm, dropout in between."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 6), nn.BatchNorm1d(6),
            nn.Linear(6, num_classes),
        )  # fmt: skip


def data(count: int = 50, num_classes: int = 3, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % num_classes
    inputs = torch.randn(count, 4, generator=generator) + labels[:, None]
    return inputs, labels


def batches(size: int = 16, **options: Any) -> list[tuple[Tensor, Tensor]]:
    inputs, labels = data(**options)
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def features_of(model: nn.Sequential, inputs: Tensor) -> Tensor:
    modes = [module.training for module in model.modules()]
    model.eval()
    with torch.no_grad():
        features = model[:-1](inputs)
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return features


def expected_metrics(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, num_classes: int
) -> dict[str, float]:
    return reference.metrics.all_metrics(
        features.double().numpy(),
        labels.numpy(),
        num_classes,
        weight.detach().double().numpy(),
        None if bias is None else bias.detach().double().numpy(),
    )


def assert_metrics(measured: dict[str, float], expected: dict[str, float]) -> None:
    """Float32 features: residuals and decisions to 24 bits."""
    assert list(measured) == KEYS
    for key in KEYS:
        assert measured[key] == pytest.approx(expected[key], rel=1e-5, abs=1e-6), key


def assert_equal_measurements(one: Measurement, other: Measurement, relative: float = 1e-9) -> None:
    assert one.counts == other.counts
    assert one.accuracy == other.accuracy
    for key in KEYS:
        # Geometry of a perfect frame is 0 up to rounding; variability has digits however small.
        absolute = 0 if key in ("nc1", "nc1_trace_ratio", "cdnv") else 1e-12
        assert one[key] == pytest.approx(other[key], rel=relative, abs=absolute, nan_ok=True), key


LOADERS: dict[str, Callable[[], Any]] = {
    "list": lambda: batches(),
    "tuple of lists": lambda: tuple([x, y] for x, y in batches()),
    "one big batch": lambda: batches(50),
    "batches of one": lambda: batches(1),
    "generator": lambda: (batch for batch in batches()),
    "with more than labels": lambda: [(x, y, "name") for x, y in batches()],
    "DataLoader": lambda: DataLoader(TensorDataset(*data()), batch_size=7),
    "shuffled DataLoader": lambda: DataLoader(TensorDataset(*data()), batch_size=7, shuffle=True),
    "with an empty batch": lambda: [*batches(), (torch.zeros(0, 4), torch.zeros(0).long())],
    "int32 labels": lambda: [(x, y.int()) for x, y in batches()],
}


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())
