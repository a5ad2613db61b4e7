"""One list of options, for the command line, TOML files and the record."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuralcollapse.train.choices import FRAME_NAMES, HEAD_NAMES, LOSS_NAMES
from neuralcollapse.train.config import (
    TrainConfig,
    imbalance_ratio,
    measured_epochs,
    read_toml,
)

FIELDS = dataclasses.fields(TrainConfig)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_option_is_explained(field: dataclasses.Field[Any]) -> None:
    assert field.metadata["help"].endswith(".")
    assert field.metadata["group"] in {"Data", "Method", "Network", "Optimisation", "Record"}


def test_the_options_of_the_issue_are_there() -> None:
    names = {field.name for field in FIELDS}
    asked = "data loss frame head backbone epochs batch_size lr weight_decay feature_decay seed"
    assert names >= {*asked.split(), "accelerator", "devices", "precision", "data_root"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "squared-error", "bias": False, "limit": 50, "dim": 12, "precision": "bf16"},
        {"data": "openml:letter", "imbalance": "exponential:100", "measure": False},
    ],
    ids=str,
)
def test_plain_values_give_the_same_configuration_back(options: dict[str, Any]) -> None:
    config = TrainConfig(**options)
    assert TrainConfig.from_values(config.to_values()) == config
    for chosen in config.methods():
        assert TrainConfig.from_values(chosen.to_values()) == chosen


def test_names_may_be_written_as_on_the_command_line() -> None:
    assert TrainConfig.from_values({"batch-size": 8}) == TrainConfig(batch_size=8)


@pytest.mark.parametrize(
    "name, close",
    [("epoch", "epochs"), ("learning_rate", None), ("batchsize", "batch_size"), ("hed", "head")],
)
def test_an_unknown_option_is_refused_with_the_closest_name(name: str, close: str | None) -> None:
    with pytest.raises(ValueError, match=f"there is no option '{name}'") as caught:
        TrainConfig.from_values({name: 1})
    assert ("did you mean" in str(caught.value)) == (close is not None)
    assert close is None or f"did you mean {close}?" in str(caught.value)


@pytest.mark.parametrize(
    "name, value",
    [
        ("epochs", 1.5),
        ("epochs", "10"),
        ("epochs", True),
        ("epochs", None),
        ("lr", "0.1"),
        ("lr", True),
        ("lr", [0.1]),
        ("bias", 1),
        ("bias", "yes"),
        ("data", 3),
        ("loss", 3),
        ("limit", 2.0),
        ("precision", 3.2),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be "):
        TrainConfig.from_values({name: value})


def test_whole_numbers_pass_for_fractions_and_for_precisions() -> None:
    config = TrainConfig.from_values({"lr": 1, "precision": 64})
    assert (config.lr, type(config.lr), config.precision) == (1.0, float, "64")


@pytest.mark.parametrize(
    "name, value",
    [
        *itertools.product(["epochs", "batch_size", "devices", "image_size"], [0, -1]),
        *itertools.product(["workers", "measure_every", "seed", "split_seed"], [-1]),
        *itertools.product(["limit", "width", "dim", "measure_samples"], [0, -1]),
        *itertools.product(
            ["momentum", "weight_decay", "feature_decay", "checkpoint_seconds", "lr"],
            [-0.1, float("nan"), float("inf")],
        ),
        *itertools.product(["validation_share", "test_share"], [0.0, 1.0, -0.1, float("nan")]),
        ("lr", 0.0),
        *itertools.product(["loss", "head", "frame", "augment", "accelerator"], ["nosuch", ""]),
        *itertools.product(["precision"], ["16", "float32", ""]),
        *itertools.product(
            ["imbalance"],
            ["", "exponential", "exponential:", "exponential:x", "exponential:0.5"],
        ),
        *itertools.product(
            ["imbalance"],
            ["exponential:inf", "exponential:nan", "step:10"],
        ),
        ("augment", "crop"),  # of digits
    ],
)
def test_a_value_against_the_rules_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be "):
        TrainConfig.from_values({name: value})


def test_a_seed_must_fit_a_generator() -> None:
    # torch takes 64 bits; a larger one came out as an overflow after the folder was made.
    with pytest.raises(ValueError, match=r"^seed must "):
        TrainConfig(seed=2**64)


def test_the_batch_must_divide_among_the_devices() -> None:
    with pytest.raises(ValueError, match="batch_size must be a multiple of devices=3, got 64"):
        TrainConfig(devices=3)


def test_without_a_choice_two_methods_are_compared() -> None:
    learned, fixed = TrainConfig().methods()
    assert (learned.loss, learned.head, learned.frame) == ("cross-entropy", "linear", None)
    assert (fixed.loss, fixed.head, fixed.frame) == ("dot-regression", "fixed", "simplex")
    assert learned.slug != fixed.slug
    others = {field.name for field in FIELDS} - {"loss", "head", "frame"}
    assert all(getattr(learned, name) == getattr(fixed, name) for name in others)


@pytest.mark.parametrize("loss", [None, *LOSS_NAMES])
def test_every_choice_is_resolved_or_refused(loss: str | None) -> None:
    heads, frames = (None, *HEAD_NAMES), (None, *FRAME_NAMES)
    for head, frame, bias in itertools.product(heads, frames, (True, False)):
        _resolved_or_refused(loss, head, frame, bias)


def _resolved_or_refused(loss: str | None, head: str | None, frame: str | None, bias: bool) -> None:
    config = TrainConfig(loss=loss, head=head, frame=frame, bias=bias, hierarchy="fashion-mnist")
    if loss is None and head is None and frame is None:
        assert len(config.methods()) == 2
        return
    contradicts = frame is not None and head not in (None, "fixed", "rotated", "nearest-frame")
    of_cosines = ("dot-regression", "hug", "normalized-cross-entropy", "barz-denzler")
    biased_cosine = loss in of_cosines and head in ("linear", "deep-linear") and bias
    if contradicts or biased_cosine:
        with pytest.raises(ValueError, match=r"must (go with|have)") as caught:
            config.methods()
        assert "\n" not in str(caught.value)
        return
    (chosen,) = config.methods()
    # What was asked for stays, and nothing is left open.
    for name, asked in (("loss", loss), ("head", head), ("frame", frame)):
        assert asked is None or getattr(chosen, name) == asked
    assert chosen.loss in LOSS_NAMES
    assert chosen.head in HEAD_NAMES
    assert (chosen.frame is not None) == (chosen.head in ("fixed", "rotated", "nearest-frame"))
    assert chosen.methods() == (chosen,)
    assert chosen.slug
    assert chosen.label


@pytest.mark.parametrize("given", [{"loss": "soft-labels"}, {"frame": "hierarchy:decay_rate=3"}])
def test_a_hierarchy_must_be_given_where_one_is_needed(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"hierarchy must be given with .*; pass a file or cifar"):
        TrainConfig.from_values(given).methods()
    (chosen,) = TrainConfig.from_values({**given, "hierarchy": "cifar100"}).methods()
    assert chosen.hierarchy == "cifar100"
    # Data that bring one need none given, and another one given comes first.
    (chosen,) = TrainConfig.from_values({**given, "data": "wordnet:buckets=64"}).methods()
    assert chosen.hierarchy == "wordnet"
    (chosen,) = TrainConfig.from_values({**given, "data": "wordnet", "hierarchy": "t"}).methods()
    assert chosen.hierarchy == "t"
    # Where no method needs one, nothing is added.
    (chosen,) = TrainConfig(data="wordnet", loss="cross-entropy").methods()
    assert chosen.hierarchy is None


CHOSEN: list[tuple[dict[str, str], str, str]] = [
    ({"loss": "hug:measure=mhs"}, "hug:measure=mhs, cosine head", "hug-measure-mhs-cosine"),
    ({"loss": "normalized-cross-entropy"}, "normalized cross entropy, cosine head", ""),
    ({"head": "class-mean:momentum=0.5"}, "cross entropy, class mean:momentum=0.5 head", ""),
    (
        {"loss": "hug", "head": "rotated", "frame": "a/b/my code.safetensors"},
        "hug, rotated my code.safetensors frame",
        "hug-rotated-my-code",
    ),
    ({"head": "fixed:scale=2"}, "", "cross-entropy-fixed-scale-2-simplex"),
]


@pytest.mark.parametrize("given, label, slug", CHOSEN)
def test_options_of_a_choice_are_part_of_its_name(
    given: dict[str, str], label: str, slug: str
) -> None:
    (chosen,) = TrainConfig.from_values(given).methods()
    assert chosen.label == label or not label
    assert chosen.slug == slug or not slug


REFUSED_CHOICES: list[tuple[dict[str, Any], str]] = [
    ({"loss": "hugs"}, "loss must be one of cross-entropy, .*, got 'hugs'"),
    ({"loss": "hug:meassure=mhs"}, "loss 'hug' has no option 'meassure'; it takes class_balanced"),
    ({"loss": "hug:inter_weight=much"}, "loss option inter_weight must be a number, got 'much'"),
    ({"loss": "hug:"}, "loss must be written name"),
    ({"head": "cosine:3"}, "head 'cosine' takes no value"),
    ({"frame": "etf"}, "frame must be one of simplex, orthogonal.*, got 'etf'"),
    ({"assign_after": 0}, "assign_after must be at least 1"),
]


@pytest.mark.parametrize("given, message", REFUSED_CHOICES)
def test_choices_that_make_no_sense_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_values(given)


def test_only_a_frame_can_be_assigned() -> None:
    with pytest.raises(
        ValueError, match="assign_after must go with a frame that stays, got head=linear"
    ):
        TrainConfig(loss="cross-entropy", assign_after=3).methods()
    assert TrainConfig(frame="simplex", assign_after=3).methods()[0].assign_after == 3


def test_methods_differ_in_name() -> None:
    chosen = [
        TrainConfig(loss=loss, head=head, bias=False, hierarchy="cifar100").methods()[0]
        for loss in LOSS_NAMES
        for head in HEAD_NAMES
    ] + [
        TrainConfig(loss=loss, frame="orthogonal", hierarchy="cifar100").methods()[0]
        for loss in LOSS_NAMES
    ]
    assert len({config.slug for config in chosen}) == len({c.label for c in chosen}) == len(chosen)


@given(
    epochs=st.integers(1, 600),
    every=st.integers(0, 50),
    during=st.booleans(),
)
def test_the_last_epoch_is_always_measured(epochs: int, every: int, during: bool) -> None:
    config = TrainConfig(epochs=epochs, measure_every=every, measure=during)
    measured = measured_epochs(config)
    assert measured[-1] == epochs
    assert list(measured) == sorted(set(measured))
    assert measured[0] >= 0
    if not during:
        assert measured == (epochs,)
    elif every:
        assert set(measured) == {*range(0, epochs + 1, every), epochs}
    else:
        assert measured[:4] == tuple(e for e in (0, 1, 2, 3) if e <= epochs)[:4]
        gaps = [b - a for a, b in itertools.pairwise(measured)]
        assert max(gaps) <= max(5, epochs // 20)
        assert len(measured) <= 30  # never a burden


@pytest.mark.parametrize(
    "spec, ratio", [("none", 1.0), ("exponential:1", 1.0), ("exponential:100", 100.0)]
)
def test_imbalance_is_a_ratio(spec: str, ratio: float) -> None:
    assert imbalance_ratio(spec) == ratio


@pytest.mark.parametrize(
    "content",
    [b"lr = ", b"\xff\xfe", b"lr = 1\nlr = 2", b"a = " + b"[" * 100_000],
    ids=["unfinished", "not text", "twice", "deep"],
)
def test_a_malformed_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.toml is not a readable TOML file"):
        read_toml(file)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nosuch.toml does not exist"):
        read_toml(tmp_path / "nosuch.toml")
    with pytest.raises(ValueError, match="is not a readable TOML file"):
        read_toml(tmp_path)
