"""Training: it collapses, repeats bit for bit, selects on validation, and fails in a sentence."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cases.metrics import ROWS
from neuralcollapse import Measurement, measure_features
from neuralcollapse.losses import CrossEntropy
from neuralcollapse.record import Run
from neuralcollapse.train.choices import FRAME_NAMES, HEAD_NAMES, LOSS_NAMES
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.data import Data, load_data
from neuralcollapse.train.loop import check_trainable, create_run, train
from neuralcollapse.train.network import load_network
from neuralcollapse.train.progress import TrainingProgress
from train.runs import (
    assert_same_run,
    assert_same_tensors,
    blobs,
    everything,
    leaves,
    method,
    plain_rows,
    started,
    timeless,
    trained,
)

# Every loss with the head that is usual for it, every head with cross entropy, every frame.
COMBINATIONS = [
    *({"loss": loss, "bias": False} for loss in LOSS_NAMES),
    *({"head": head, "bias": False} for head in HEAD_NAMES),
    *({"frame": frame} for frame in FRAME_NAMES),
    {"loss": "hug:measure=mhs,inter_weight=2", "head": "class-mean:momentum=0,through_batch=true"},
    {"loss": "hug:measure=mgd,detach_proxies=false", "head": "rotated"},
    {"loss": "normalized-cross-entropy", "head": "class-mean", "temperature": 0.2},
    {"loss": "squared-error", "head": "deep-linear:3", "head_decay": "1e-3,2e-3,1e-3"},
    {"frame": "code:energy=log", "dim": 3},
]
TERMS = {
    "cross-entropy": ["cross_entropy"],
    "squared-error": ["squared_error"],
    "dot-regression": ["dot_regression"],
    "hug": ["inter", "intra"],
    "normalized-cross-entropy": ["normalized_cross_entropy"],
    "frame-cosine": ["cross_entropy", "frame_cosine"],
    "hierarchical-cross-entropy": ["hierarchical_cross_entropy"],
    "soft-labels": ["soft_labels"],
    "barz-denzler": ["correlation"],
}
TREE = "((blob 0,blob 1),(blob 2,blob 3));"


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, nc1, angle",
    # Dot regression is indifferent to lengths and comes to rest earlier.
    [
        (config, *limits)
        for config, limits in zip(
            TrainConfig().methods(), ((0.02, 0.01), (0.06, 0.03)), strict=True
        )
    ],
    ids=["learned", "fixed"],
)
def test_the_main_job_collapses(
    tmp_path: Path, config: TrainConfig, nc1: float, angle: float
) -> None:
    """The defaults on digits: with cross entropy NC1 falls below 0.02, angles below 0.01."""
    data = load_data(config)
    run = create_run(tmp_path / "run", config, data)
    assert train(run, data, progress=False) == "finished"
    rows = run.rows()
    first, last = rows[0]["train"]["metrics"], rows[-1]["train"]["metrics"]
    assert last["nc1"] < nc1
    assert last["nc2_max_angle"] < angle
    assert last["nc3_alignment"] > 0.99
    assert last["nc4_disagreement"] == 0
    assert first["nc1"] > 10 * last["nc1"]
    assert rows[-1]["train"]["accuracy"] == 1
    assert rows[-1]["test"]["accuracy"] > 0.96
    summary = run.summary()
    assert summary is not None
    assert summary["status"] == "finished"
    assert summary["seconds"] < 120


@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_every_method_learns(tmp_path: Path, options: dict[str, Any]) -> None:
    data = blobs(noise=0.3)
    tree = tmp_path / "tree.nwk"
    tree.write_text(TREE, encoding="utf-8")
    given = {"hierarchy": str(tree), **options}
    run = trained(tmp_path / "run", data, epochs=6, measure_every=6, **given)
    first, last = run.rows()
    assert [row["epoch"] for row in (first, last)] == [0, 6]
    assert all(np.isfinite(list(leaves(last))))
    assert last["train"]["accuracy"] > 0.7 > first["train"]["accuracy"]
    assert last["train"]["metrics"]["nc1"] < first["train"]["metrics"]["nc1"]
    loss = options.get("loss", "cross-entropy").partition(":")[0]
    assert list(last["terms"]) == TERMS[loss]
    assert sum(last["terms"].values()) == pytest.approx(last["loss"], rel=1e-5)  # float32


def test_a_row_says_what_was_measured(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", blobs(), feature_decay=1e-4)
    for row in run.rows():
        for split, number in (("train", 96), ("test", 24)):
            part = Measurement.from_dict(row[split])
            assert part.conventions["split"] == split
            assert sum(part.counts) == number
            assert list(part.metrics) == [metric.key for metric in ROWS]
        assert set(row["validation"]) >= {"accuracy"}
    assert run.rows()[0]["loss"] is None
    assert set(run.rows()[-1]["terms"]) == {"cross_entropy", "feature_decay"}
    assert [row["epoch"] for row in run.rows()] == run.snapshot_epochs() == [0, 1, 2, 3, 4]


def test_the_learning_rate_falls_to_zero_along_a_cosine(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", blobs(), epochs=4, lr=0.2)  # 6 steps an epoch
    for row in run.rows()[1:]:
        last_step = 6 * row["epoch"] - 1
        assert row["lr"] == pytest.approx(0.1 * (1 + np.cos(np.pi * last_step / 24)))


def farthest_from(originals: Tensor, rows: Tensor) -> float:
    """Distance of the row that is farthest from its nearest original; no products, exact."""
    distances = torch.cdist(rows, originals, compute_mode="donot_use_mm_for_euclid_dist")
    return float(distances.amin(1).max())


class Watched(nn.Module):
    """A backbone that counts calls and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[tuple[bool, torch.dtype, Tensor]] = []
        self.layer = nn.Linear(64, 8)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.norm(self.layer(inputs.flatten(1)))
        self.inputs.append((self.training, features.dtype, inputs.detach().clone()))
        return features


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """The backbone of every network that is made from now on."""
    backbone = Watched()
    monkeypatch.setattr(
        "neuralcollapse.train.network.make_backbone", lambda *_: backbone, raising=True
    )
    return backbone


def test_measured_in_evaluation_mode_without_augmentation(tmp_path: Path, watched: Watched) -> None:
    data = blobs(shape=(1, 8, 8))
    trained(tmp_path / "run", data, epochs=1, augment="crop-flip")
    inputs, _ = everything(data.train)
    originals = ((inputs - inputs.mean()) / inputs.std(correction=0)).flatten(1)

    def distance(inputs: Tensor) -> float:
        return farthest_from(originals, inputs.flatten(1))

    in_training = [inputs for training, _, inputs in watched.inputs if training]
    measured = [i for training, _, i in watched.inputs if not training and len(i) == 96]
    assert len(in_training) == 6
    assert min(distance(inputs) for inputs in in_training) > 1
    assert measured
    assert max(distance(inputs) for inputs in measured) < 1e-3
    shown = torch.cat(in_training)
    assert len(shown) == 96


def test_bf16_trains_in_halves_and_measures_in_float32(tmp_path: Path, watched: Watched) -> None:
    trained(tmp_path / "run", blobs(shape=(1, 8, 8)), epochs=1, precision="bf16")
    kinds = {training: set() for training in (True, False)}
    for training, dtype, _ in watched.inputs:
        kinds[training].add(dtype)
    assert kinds == {True: {torch.bfloat16}, False: {torch.float32}}


def test_bf16_with_channels_last_learns_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts: list[bool] = []
    forward = nn.Conv2d.forward

    def watching(self: nn.Conv2d, inputs: Tensor) -> Tensor:
        layouts.append(inputs.is_contiguous(memory_format=torch.channels_last))
        return forward(self, inputs)

    monkeypatch.setattr(nn.Conv2d, "forward", watching)
    data = blobs(shape=(3, 16, 16), noise=0.5)
    options: dict[str, Any] = {"backbone": "cnn", "width": 4, "epochs": 3}
    half = trained(tmp_path / "half", data, precision="bf16", **options)
    assert layouts
    assert all(layouts)
    full = trained(tmp_path / "full", data, **options)
    one, other = half.rows()[-1], full.rows()[-1]
    assert one["train"]["accuracy"] > 0.9
    assert one["loss"] != other["loss"]  # it did train in bf16
    assert one["loss"] == pytest.approx(other["loss"], rel=0.1)  # bfloat16 has 3 digits


def test_doubles_are_trained_and_measured_in_double(tmp_path: Path, watched: Watched) -> None:
    trained(tmp_path / "run", blobs(shape=(1, 8, 8)), epochs=1, precision="64")
    assert {dtype for _, dtype, _ in watched.inputs} == {torch.float64}
    assert torch.get_default_dtype() == torch.float32


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    data = blobs(shape=(1, 8, 8))
    options: dict[str, Any] = {"backbone": "cnn", "width": 4, "augment": "crop"}
    one = trained(tmp_path / "one", data, **options)
    torch.manual_seed(77)  # what the caller does with his generator is his
    other = trained(tmp_path / "other", data, **options)
    assert_same_run(one, other)
    different = trained(tmp_path / "different", data, seed=1, **options)
    assert plain_rows(different)[0] != plain_rows(one)[0]
    assert plain_rows(different)[-1] != plain_rows(one)[-1]


def test_the_callers_world_stays_as_it_was(tmp_path: Path) -> None:
    def world() -> list[Any]:
        return [
            torch.get_rng_state().tolist(),
            str(np.random.get_state()),  # noqa: NPY002 - the state that others use
            random.getstate(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
        ]

    before = world()
    data = blobs()
    for number, options in enumerate(({}, {"precision": "bf16"}, {"head": "fixed"})):
        config = method(**options)
        check_trainable(config, data)
        trained(tmp_path / str(number), data, **options)
    assert world() == before


def test_without_measuring_only_the_end_is_measured(tmp_path: Path) -> None:
    data = blobs()
    silent = trained(tmp_path / "silent", data, measure=False)
    often = trained(tmp_path / "often", data)
    assert plain_rows(silent) == plain_rows(often)[-1:]
    assert_same_tensors(silent.checkpoint(4).tensors, often.checkpoint(4).tensors)


@pytest.mark.parametrize("noise", [2.5, 0.3])
def test_selection_is_on_validation(tmp_path: Path, noise: float) -> None:
    run = trained(tmp_path / "run", blobs(noise=noise), epochs=12, lr=0.3)
    accuracies = [row["validation"]["accuracy"] for row in run.rows()]
    assert len(set(accuracies)) > 2  # there is something to select
    assert noise > 1 or accuracies.count(1.0) > 1  # and where all is easy, equals
    summary = run.summary()
    assert summary is not None
    best = accuracies.index(max(accuracies))  # the first of equals
    assert summary["best_epoch"] == run.rows()[best]["epoch"]
    assert summary["best_validation_accuracy"] == max(accuracies)
    assert summary["best_test_accuracy"] == run.rows()[best]["test"]["accuracy"]


def test_the_test_set_decides_nothing(tmp_path: Path) -> None:
    """With another test set all else is the same: weights, selection, what is kept."""
    one = trained(tmp_path / "one", blobs(noise=2.5), epochs=6)
    other = trained(tmp_path / "other", blobs(noise=2.5, test_seed=99), epochs=6)
    for row, same in zip(plain_rows(one), plain_rows(other), strict=True):
        assert row["test"] != same["test"]
        assert {**row, "test": None} == {**same, "test": None}
    assert one.checkpoint_epochs() == other.checkpoint_epochs()
    for epoch in one.checkpoint_epochs():
        assert_same_tensors(one.checkpoint(epoch).tensors, other.checkpoint(epoch).tensors)
    summaries = [timeless(run.summary()) for run in (one, other)]
    for summary in summaries:
        summary.pop("best_test_accuracy")
    assert summaries[0] == summaries[1]


def test_measuring_a_part_says_so(tmp_path: Path) -> None:
    data = blobs((40, 40, 40, 3))
    run = trained(tmp_path / "run", data, measure_samples=20)
    row = run.rows()[-1]
    assert row["train"]["counts"] == [5, 5, 5, 3]
    assert row["train"]["conventions"]["split"] == "train, 18 of 123 samples"
    assert row["test"]["counts"] == [5, 5, 5, 5]
    whole = trained(tmp_path / "whole", data)
    assert_same_tensors(run.checkpoint(4).tensors, whole.checkpoint(4).tensors)


def test_features_of_a_snapshot_are_spread_over_the_classes(tmp_path: Path) -> None:
    data = blobs((300, 300, 30, 3))
    run = trained(tmp_path / "run", data, epochs=1)
    snapshot = run.snapshot(1)
    assert torch.bincount(snapshot["labels"]).tolist() == [100, 100, 30, 3]
    network = load_network(run)
    with torch.no_grad():
        features = network.features(data.train.inputs(torch.arange(len(data.train))))
    measured = measure_features(features, data.train.labels)
    assert measured.statistics is not None
    # Other batch sizes: float32 rounding.
    torch.testing.assert_close(snapshot["means"], measured.statistics.means.float())
    assert farthest_from(features, snapshot["features"]) < 1e-4


def test_logit_adjustment_helps_rare_classes(tmp_path: Path) -> None:
    """Trained on a long tail, adjusted logits are less for frequent classes."""
    data = blobs((200, 8), (4,), noise=1.5)
    plain = trained(tmp_path / "plain", data, dim=2, epochs=6)
    adjusted = trained(tmp_path / "adjusted", data, dim=2, epochs=6, logit_adjustment=1.0)

    def said_rare(run: Run) -> int:
        inputs = data.train.inputs(torch.arange(208))
        return int((load_network(run)(inputs).argmax(1) == 1).sum())

    assert said_rare(adjusted) > said_rare(plain)


def test_weight_decay_is_that_of_the_options(tmp_path: Path, watched: Watched) -> None:
    """Without a gradient of the loss every weight shrinks by lr * decay a step."""
    data = blobs(shape=(1, 8, 8))
    options: dict[str, Any] = {"momentum": 0.0, "lr": 0.1, "weight_decay": 0.3, "epochs": 1}
    run = started(tmp_path / "run", data, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CrossEntropy, "terms", lambda self, h, y, w, b: {"zero": 0 * h.sum()})
        train(run, data, progress=False)
    start = run.checkpoint(0) if 0 in run.checkpoint_epochs() else None
    assert start is not None  # the first of equally good epochs is kept
    factor = 1.0
    for step in range(6):
        factor *= 1 - 0.3 * 0.1 * (1 + np.cos(np.pi * step / 6)) / 2
    name = "objective.network.backbone.layer.weight"
    before, after = start.tensors[name], run.checkpoint(1).tensors[name]
    torch.testing.assert_close(after, before * factor, rtol=1e-5, atol=1e-7)


# --- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [16, 96])  # 96: one step an epoch, whose loss is finite
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("lr", [1e6, 1e30])
def test_divergence_is_one_sentence_and_the_record_is_whole(
    tmp_path: Path, lr: float, every: int, batch_size: int
) -> None:
    data = blobs()
    options: dict[str, Any] = {"measure_every": every, "checkpoint_seconds": 0.0}
    options |= {"batch_size": batch_size, "lr": lr, "loss": "squared-error"}
    run = started(tmp_path / "run", data, **options)
    with pytest.raises(ValueError, match="use a lower --lr than") as caught:
        train(run, data, progress=False)
    assert "\n" not in str(caught.value)
    again = Run.open(run.path)
    assert again.rows()[0]["epoch"] == 0
    for epoch in again.checkpoint_epochs():
        assert all(bool(t.isfinite().all()) for t in again.checkpoint(epoch).tensors.values())
    assert (again.summary() or {}).get("status") != "finished"


def test_ctrl_c_leaves_a_whole_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = blobs()
    whole = trained(tmp_path / "whole", data, epochs=6)
    for moment in range(1, 6):
        run = started(tmp_path / str(moment), data, epochs=6)
        with monkeypatch.context() as patch:
            epochs = itertools.count(1)

            def interrupt(self: Any, state: Any, epochs: Any = epochs, last: int = moment) -> None:
                if next(epochs) == last:
                    raise KeyboardInterrupt

            patch.setattr(TrainingProgress, "epoch", interrupt)
            assert train(run, data, progress=False) == "interrupted"
        summary = Run.open(run.path).summary()
        assert summary is not None
        assert summary["status"] == "interrupted"
        assert [row["epoch"] for row in run.rows()] == list(range(moment))
        assert train(run, data, progress=False) == "finished"
        assert_same_run(run, whole)


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    data = blobs()
    run = trained(tmp_path / "run", data)
    before = {file: file.stat().st_mtime_ns for file in run.path.rglob("*")}
    assert train(run, data, progress=False) == "finished"
    assert {file: file.stat().st_mtime_ns for file in run.path.rglob("*")} == before


@pytest.mark.parametrize(
    "options, words",
    [
        ({"batch_size": 1}, "batch_size .* at least 2"),
        ({"augment": "crop"}, "augment must be none"),
        ({"backbone": "cnn"}, "must be given images"),
        ({"backbone": "nosuch"}, "backbone must be"),
        ({"head": "fixed", "frame": "simplex", "dim": 2}, "dim must be at least 3"),
        ({"head": "fixed", "frame": "orthogonal", "dim": 3}, "dim must be at least 4"),
        ({"label_smoothing": 1.0}, "label_smoothing must be below 1"),
        ({"loss": "squared-error", "target": 0.0}, "target must be"),
        ({"loss": "squared-error", "true_weight": -1.0}, "true_weight must be"),
        ({"head": "cosine", "temperature": 0.0}, "temperature must be"),
        ({"logit_adjustment": float("nan")}, "adjustment must be"),
        ({"width": 10**12}, "width"),
        ({"dim": 10**12}, "dim"),
        ({"devices": 32, "batch_size": 32}, "devices must be at most 24"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_refused_beforehand(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        check_trainable(method(**options), blobs())
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="accelerator=cuda with devices=1 cannot be had here"):
        check_trainable(method(accelerator="cuda"), blobs())


@pytest.mark.parametrize("backbone", ["cnn", "resnet18"])
def test_pictures_that_are_too_small_are_refused(backbone: str) -> None:
    data = blobs(shape=(1, 4, 4))
    config = method(backbone=backbone, width=4)
    if backbone == "resnet18":  # its strides leave one pixel
        check_trainable(config, data)
        return
    with pytest.raises(ValueError, match=r"inputs of shape \(1, 4, 4\)"):
        check_trainable(config, data)


def test_without_fabric_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lightning_fabric", None)
    with pytest.raises(ValueError, match=r"pip install 'neuralcollapse\[train\]'"):
        check_trainable(method(), blobs())


def test_a_run_goes_on_with_its_own_data_only(tmp_path: Path) -> None:
    data = blobs()
    run = started(tmp_path / "run", data)
    smaller = Data(data.train.subset(torch.arange(90)), data.validation, data.test, data.classes)
    with pytest.raises(ValueError, match="data"):
        train(run, smaller, progress=False)
