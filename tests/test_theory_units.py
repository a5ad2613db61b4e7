"""Decays and counts of a training run in the units of theory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from neuralcollapse.theory import from_training, predict
from reference.theory import Point, realised


def training_objective(point: Point, loss: Any, weight_decay: float, penalty: float) -> Tensor:
    """As a training script would write it, for a full batch."""
    value = loss(point.logits, point.labels)
    value = value + weight_decay / 2 * point.layers[0].square().sum()
    return value + penalty / 2 * point.features.square().sum()


SETTINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "nn.MSELoss": (
        lambda z, y: torch.nn.MSELoss()(z, torch.eye(4).double()[y]),
        {"loss": "mse", "reduction": "mean", "num_classes": 4},
    ),
    "half of nn.MSELoss": (
        lambda z, y: 0.5 * torch.nn.MSELoss()(z, torch.eye(4).double()[y]),
        {"loss": "mse", "reduction": "mean", "num_classes": 4, "loss_scale": 0.5},
    ),
    "nn.MSELoss, sum": (
        lambda z, y: torch.nn.MSELoss(reduction="sum")(z, torch.eye(4).double()[y]),
        {"loss": "mse", "reduction": "sum"},
    ),
    "sum over outputs": (
        lambda z, y: (z - torch.eye(4).double()[y]).square().sum(1).mean(),
        {"loss": "mse", "reduction": "sample"},
    ),
    "nn.CrossEntropyLoss": (
        lambda z, y: torch.nn.CrossEntropyLoss()(z, y),
        {"loss": "ce", "reduction": "mean"},
    ),
    "nn.CrossEntropyLoss, sum": (
        lambda z, y: torch.nn.CrossEntropyLoss(reduction="sum")(z, y),
        {"loss": "ce", "reduction": "sum"},
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_training_script_is_stationary_where_the_theory_says(name: str) -> None:
    loss, options = SETTINGS[name]
    counts = [20, 9, 4, 4]
    scale = 37.0 if options["reduction"] == "sum" else 1.0
    weight_decay, penalty = 0.004 * scale, 0.002 * scale
    decays = from_training(
        weight_decay=weight_decay,
        feature_decay=penalty,
        batch_size=37,
        num_samples=37,
        **options,
    )
    prediction = predict(
        counts,
        loss=options["loss"],
        weight_decay=decays.weight_decay,
        feature_decay=decays.feature_decay,
    )
    assert prediction.rank == (4 if options["loss"] == "mse" else 3)
    point = realised(prediction)
    variables = [point.layers[0].requires_grad_(), point.features.requires_grad_()]
    objective = training_objective(point, loss, weight_decay, penalty)
    for gradient in torch.autograd.grad(objective, variables):
        assert float(gradient.norm()) < 1e-7 * scale


def test_penalties_on_batches() -> None:
    common: dict[str, Any] = {
        "weight_decay": 1e-4,
        "feature_decay": 1e-3,
        "batch_size": 50,
        "num_samples": 1000,
    }
    summed = from_training("ce", **common)
    assert summed.feature_decay == pytest.approx(1e-3 * 50 / 1000)
    mean = from_training("ce", feature_reduction="batch_mean", **common)
    assert mean.feature_decay == pytest.approx(1e-3 / 1000)
    whole = from_training("ce", feature_reduction="training_set", **common)
    assert whole.feature_decay == 1e-3
    assert whole.weight_decay == (1e-4,)
    deep = from_training("ce", depth=3, **common)
    assert deep.weight_decay == (1e-4,) * 3
    # Under a loss summed over the batch everything is relative to that sum.
    total = from_training("ce", reduction="sum", **common)
    assert total.feature_decay == pytest.approx(1e-3 / 1000)
    assert not total.warnings


def test_where_the_units_do_not_apply() -> None:
    common: dict[str, Any] = {
        "weight_decay": 1e-3,
        "feature_decay": 1e-3,
        "batch_size": 50,
        "num_samples": 1000,
    }
    (warning,) = from_training("ce", optimizer="AdamW", **common).warnings
    assert "heuristic" in warning
    with pytest.raises(ValueError, match=r"normalization must be 'none'.*fixes the length"):
        from_training("ce", normalization="batch", **common)
    with pytest.raises(ValueError, match=r"feature_decay must be above 0, got None.*effective_f"):
        from_training("ce", weight_decay=1e-3)
    with pytest.raises(ValueError, match="num_classes must be given for the mean over all entries"):
        from_training("mse", **common)
    with pytest.raises(ValueError, match="num_samples must be given"):
        from_training("ce", weight_decay=1e-3, feature_decay=1e-3)
    with pytest.raises(ValueError, match="batch_size must be at most num_samples"):
        from_training("ce", **{**common, "num_samples": 20})
    with pytest.raises(ValueError, match="weight_decay must be above 0, got 0"):
        from_training("ce", feature_decay=1e-3)
    with pytest.raises(ValueError, match="optimizer must be one of"):
        from_training("ce", optimizer="lion", **common)
