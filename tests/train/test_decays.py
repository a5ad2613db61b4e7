"""Decays of their own for the layers of the head, and the decay of the features under batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from neuralcollapse.heads import DeepLinearHead
from neuralcollapse.record import Run
from neuralcollapse.train import loop
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.loop import check_trainable, create_run, train
from neuralcollapse.train.network import Objective, make_loss, make_network, parameter_groups
from train.runs import assert_same_run, blobs, everything, method, started, trained

DEEP: dict[str, Any] = {"head": "deep-linear:3", "head_decay": "1e-3,2e-3,3e-3"}


def objective_of(**options: Any) -> tuple[Objective, Any]:
    config, data = method(**options), blobs()
    torch.manual_seed(0)
    network = make_network(config, data.num_classes, data.input_shape)
    loss = make_loss(config, data)
    return Objective(network, loss, config.feature_decay, len(data.train)), config


def test_each_layer_has_its_decay_and_every_parameter_one():
    objective, config = objective_of(**DEEP, weight_decay=0.5)
    head = objective.network.head
    assert isinstance(head, DeepLinearHead)
    groups = parameter_groups(objective, config)
    found = {id(value): group["weight_decay"] for group in groups for value in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    assert set(found) == {id(value) for value in objective.parameters()}
    assert [found.pop(id(layer)) for layer in head.layers] == [1e-3, 2e-3, 3e-3]
    # The bias of the head is none of its layers.
    assert set(found.values()) == {0.5}


@pytest.mark.parametrize(
    ("head", "decay", "expected"),
    [("deep-linear:2", "7e-3", [7e-3] * 2), ("linear", "7e-3", [7e-3])],
)
def test_one_number_is_for_every_layer(head, decay, expected):
    objective, config = objective_of(head=head, head_decay=decay)
    groups = parameter_groups(objective, config)
    assert [group["weight_decay"] for group in groups[1:]] == expected


def test_without_a_decay_of_the_head_there_is_one_group():
    objective, config = objective_of(head="deep-linear:2")
    (group,) = parameter_groups(objective, config)
    assert group["weight_decay"] == config.weight_decay


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "deep-linear:3", "head_decay": "1e-3,2e-3"}, r"one per learned layer .* \(3 of"),
        ({"head": "linear", "head_decay": "1e-3,2e-3"}, r"one per learned layer .* \(1 of"),
    ],
)
def test_decays_that_do_not_fit_the_head_are_refused_before_training(options, message):
    with pytest.raises(ValueError, match=message):
        check_trainable(method(**options), blobs())


@pytest.mark.parametrize("text", ["x", "1e-3,,2e-3", "-1", "nan", "inf", ""])
def test_malformed_decays_are_refused(text):
    with pytest.raises(ValueError, match="head_decay"):
        method(head="deep-linear:2", head_decay=text)


def test_decay_alone_shrinks_each_layer_at_its_rate():
    objective, config = objective_of(**DEEP, weight_decay=0.5)
    optimizer = torch.optim.SGD(parameter_groups(objective, config), lr=0.1)
    before = [value.detach().clone() for value in objective.parameters()]
    for value in objective.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    head = objective.network.head
    assert isinstance(head, DeepLinearHead)
    rates = dict(zip(map(id, head.layers), [1e-3, 2e-3, 3e-3], strict=True))
    for old, value in zip(before, objective.parameters(), strict=True):
        torch.testing.assert_close(value.detach(), old * (1 - 0.1 * rates.get(id(value), 0.5)))


@pytest.mark.parametrize("size", [1, 8, 96])
def test_the_decay_of_features_does_not_depend_on_the_batches(size):
    objective, _ = objective_of(feature_decay=0.01)
    inputs, labels = everything(blobs().train)
    # Features must be those of the sample alone.
    objective.double().eval()
    batches = zip(inputs.double().split(size), labels.split(size), strict=True)
    terms = [objective(*batch)[1]["feature_decay"] for batch in batches]
    with torch.no_grad():
        features = objective.network.features(inputs.double())
    expected = 0.01 / 2 * features.square().sum()
    torch.testing.assert_close(torch.stack(terms).mean(), expected)


def test_a_resumed_run_of_several_groups_has_the_same_bits(tmp_path: Path, monkeypatch):
    data = blobs()
    options = {**DEEP, "feature_decay": 1e-4, "checkpoint_seconds": 0.0}
    whole = trained(tmp_path / "whole", data, **options)
    cut = started(tmp_path / "cut", data, **options)
    append = Run.append

    def stop(run: Run, row: Any) -> None:
        append(run, row)
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Run, "append", stop)
        assert train(cut, data, progress=False) == "interrupted"
    assert train(cut, data, progress=False) == "finished"
    assert_same_run(cut, whole)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_come_to_what_one_does(tmp_path: Path, monkeypatch):
    def two_quick_devices(config: TrainConfig) -> Fabric:
        # The processes come from a server that has the imports behind it.
        ddp = DDPStrategy(start_method="forkserver")
        return Fabric(accelerator="cpu", strategy=ddp, devices=config.devices, precision="64-true")

    data = blobs()
    options = {**DEEP, "feature_decay": 1e-4, "precision": "64", "accelerator": "cpu"}
    runs = []
    for devices in (1, 2):
        run = create_run(tmp_path / str(devices), method(**options, devices=devices), data)
        if devices > 1:
            monkeypatch.setattr(loop, "_fabric", two_quick_devices)
        assert train(run, data, progress=False) == "finished"
        runs.append(run)
    one, two = (run.snapshot(4) for run in runs)
    for name in ("means", "weight"):
        # The order of sums differs; float64 keeps that far below what float32 snapshots show.
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6)
