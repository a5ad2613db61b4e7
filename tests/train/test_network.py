"""The objective against its definition, and the network that a record gives back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from neuralcollapse import measure_features
from neuralcollapse.heads import CosineHead
from neuralcollapse.losses import CrossEntropy
from neuralcollapse.train.choices import HEAD_NAMES
from neuralcollapse.train.network import (
    Objective,
    fit_scale,
    load_network,
    make_loss,
    make_network,
)
from neuralcollapse.train.samples import TensorSamples
from train.runs import blobs, everything, method, trained

HEADS: list[dict[str, Any]] = [{"head": head} for head in HEAD_NAMES] + [{"bias": False}]


@pytest.mark.parametrize("options", HEADS, ids=str)
def test_feature_decay_is_half_of_it_times_all_squares_of_the_training_set(
    options: dict[str, Any],
) -> None:
    """On the whole training set as one batch, value and gradient are those of the definition."""
    data, decay = blobs(), 0.03
    config = method(feature_decay=decay, **options)
    torch.manual_seed(0)
    network = make_network(config, 4, (6,)).double()
    objective = Objective(network, CrossEntropy(), decay, len(data.train))
    inputs, labels = everything(data.train)
    loss, terms, _ = objective(inputs, labels)
    gradients = torch.autograd.grad(loss, list(network.parameters()))

    features = network.features(inputs)
    wanted_term = decay / 2 * sum(h @ h for h in features)
    entropy = torch.nn.functional.cross_entropy(network.head(features), labels)
    wanted = torch.autograd.grad(entropy + wanted_term, list(network.parameters()))
    # The decay is summed in float32, whose rounding is 1e-7 of each term.
    torch.testing.assert_close(terms["feature_decay"].double(), wanted_term, rtol=1e-5, atol=0)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_without_feature_decay_there_is_no_term() -> None:
    network = make_network(method(), 4, (6,))
    _, terms, _ = Objective(network, CrossEntropy(), 0.0, 96)(*everything(blobs().train))
    assert list(terms) == ["cross_entropy"]


@pytest.mark.parametrize("options", HEADS, ids=str)
def test_the_objective_counts_what_is_decided_right(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = make_network(method(**options), 4, (6,)).eval()
    inputs, labels = everything(blobs().train)
    _, _, correct = Objective(network, CrossEntropy(), 0.0, 96)(inputs, labels)
    assert int(correct) == int((network(inputs).argmax(1) == labels).sum())


def test_logit_adjustment_uses_the_counts_of_the_training_set() -> None:
    data = blobs((40, 20, 10, 2))  # validation and test hold six of each
    loss = make_loss(method(logit_adjustment=1.5), data)
    assert isinstance(loss, CrossEntropy)
    assert loss.log_prior is not None
    prior = torch.tensor([40, 20, 10, 2]) / 72
    torch.testing.assert_close(loss.log_prior, prior.log())  # float32
    assert loss.adjustment == 1.5
    plain = make_loss(method(), data)
    assert isinstance(plain, CrossEntropy)
    assert plain.log_prior is None


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({"loss": "squared-error", "true_weight": 3.0, "target": 5.0}, (3.0, 5.0)),
        ({"loss": "squared-error"}, (1.0, 1.0)),
    ],
)
def test_options_of_the_squared_error_reach_it(options: dict[str, Any], wanted: Any) -> None:
    loss: Any = make_loss(method(**options), blobs())
    assert (loss.true_weight, loss.target) == wanted


def test_options_of_heads_and_losses_reach_them() -> None:
    loss: Any = make_loss(method(label_smoothing=0.1), blobs())
    assert loss.label_smoothing == 0.1
    head = make_network(method(head="cosine", temperature=0.5), 4, (6,)).head
    assert isinstance(head, CosineHead)
    assert head.temperature == 0.5
    assert make_network(method(bias=False), 4, (6,)).head.bias is None


def test_the_frame_depends_on_the_seed_only() -> None:
    def vectors(seed: int) -> Tensor:
        return make_network(method(head="fixed", seed=seed), 4, (6,)).head.weight

    torch.manual_seed(3)
    first = vectors(0)
    torch.manual_seed(4)
    assert torch.equal(vectors(0), first)
    assert not torch.equal(vectors(1), first)


@pytest.mark.parametrize("num_classes, dim", [(4, 128), (128, 128), (200, 200)])
def test_features_are_128_wide_or_as_wide_as_there_are_classes(num_classes: int, dim: int) -> None:
    assert make_network(method(dim=None), num_classes, (6,)).head.dim == dim


@pytest.mark.parametrize(
    "shape, convolutional", [((6,), False), ((1, 8, 8), False), ((1, 28, 28), True)]
)
def test_the_backbone_is_chosen_by_the_inputs(shape: tuple[int, ...], convolutional: bool) -> None:
    network = make_network(method(), 4, shape)
    assert any(p.dim() == 4 for p in network.parameters()) == convolutional


@pytest.mark.parametrize("shape", [(6,), (3, 8, 8)])
def test_inputs_are_scaled_by_the_training_set(shape: tuple[int, ...]) -> None:
    data = blobs(shape=shape, noise=5.0)
    assert isinstance(data.train, TensorSamples)
    data.train.values[:, 0] = 3.0  # constant: must become zero, not NaN
    network = make_network(method(), 4, shape)
    fit_scale(network.scale, data)
    scaled = network.scale(everything(data.train)[0]).double()
    over = [0, 2, 3] if len(shape) == 3 else [0]
    wanted = torch.ones(shape[0], dtype=torch.float64)
    wanted[0] = 0
    torch.testing.assert_close(scaled.mean(over), torch.zeros_like(wanted), rtol=0, atol=1e-5)
    deviation = scaled.var(over, correction=0).sqrt()
    torch.testing.assert_close(deviation, wanted, rtol=1e-5, atol=1e-5)


def test_channels_last_gives_the_same_numbers() -> None:
    torch.manual_seed(0)
    network = make_network(method(backbone="cnn"), 4, (3, 16, 16)).eval()
    inputs = torch.randn(5, 3, 16, 16)
    plain = network(inputs)
    network.lay_channels_last()
    # Another order of sums in float32, through three convolutions.
    torch.testing.assert_close(network(inputs), plain, rtol=1e-4, atol=1e-5)
    assert all(
        p.is_contiguous(memory_format=torch.channels_last)
        for p in network.backbone.parameters()
        if p.dim() == 4
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head": "cosine"},
        {"head": "fixed", "frame": "orthogonal"},
        {"precision": "64"},
        {"backbone": "cnn"},
    ],
    ids=str,
)
def test_a_record_gives_the_trained_network_back(tmp_path: Path, options: dict[str, Any]) -> None:
    shape = (1, 8, 8) if "backbone" in options else (6,)
    data = blobs(shape=shape)
    run = trained(tmp_path / "run", data, **options)
    before = torch.get_rng_state()
    network = load_network(run)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in network.modules())
    for split, samples in (("train", data.train), ("test", data.test)):
        inputs, labels = everything(samples)
        with torch.no_grad():
            features, head = network.features(inputs), network.head
        measured = measure_features(features, labels, head.weight, head.bias)
        row = run.rows()[-1][split]
        assert measured.accuracy == row["accuracy"]
        # Batches of another size and layout: float32 rounding, in double precision far less.
        close = 1e-9 if options.get("precision") == "64" else 1e-4
        for key, value in row["metrics"].items():
            assert measured[key] == pytest.approx(value, rel=close, abs=close), key
    snapshot = run.snapshot(run.snapshot_epochs()[-1])
    with torch.no_grad():
        weight = network.head.weight.float()
    assert torch.equal(snapshot["weight"], weight)


def test_the_best_and_the_last_checkpoint_can_be_loaded(tmp_path: Path) -> None:
    data = blobs(noise=2.0)
    run = trained(tmp_path / "run", data, epochs=6)
    summary = run.summary()
    assert summary is not None
    best = summary["best_epoch"]
    assert run.checkpoint_epochs() == sorted({best, 6})
    inputs, labels = everything(data.validation)
    right = load_network(run, best)(inputs).argmax(1) == labels
    assert float(right.float().mean()) == pytest.approx(summary["best_validation_accuracy"])
    with pytest.raises(ValueError, match="epoch must be one of the checkpoints"):
        load_network(run, 99)
