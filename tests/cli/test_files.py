"""Files that several verbs take: each once, apart from each other, named where they do not fit."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import neuralcollapse.files
from cli.command import Outcome, run
from neuralcollapse.feature_files import shard_files
from neuralcollapse.shards import measure_shards

GENERATOR = np.random.default_rng(0)
LABELS = np.arange(60) % 4
MEANS = 3 * GENERATOR.standard_normal((4, 6))
FEATURES = MEANS[LABELS] + GENERATOR.standard_normal((60, 6))
ARRAYS: dict[str, dict[str, Any]] = {
    "train": {"features": FEATURES, "labels": LABELS},
    "test": {"features": FEATURES + 0.1, "labels": LABELS},
    "far": {"features": -FEATURES},
    "away": {"features": 5 + FEATURES[:40]},
    "head": {"weight": MEANS, "bias": np.zeros(4)},
    "nan": {"features": np.where(FEATURES > 4, np.nan, FEATURES), "labels": LABELS},
    "whole": {"features": (9 * FEATURES).astype(int), "labels": LABELS},
    "below": {"features": FEATURES, "labels": LABELS - 1},
    "hot": {"features": FEATURES, "labels": np.eye(4)[LABELS]},
    "fraction": {"features": FEATURES, "labels": LABELS + 0.5},
    "short": {"features": FEATURES, "labels": LABELS[1:]},
    "deep": {"features": FEATURES[:, None], "labels": LABELS},
    "empty": {"features": FEATURES[:0], "labels": LABELS[:0]},
    "words": {"features": np.array(["a"] * 60), "labels": LABELS},
    "narrow": {"features": FEATURES[:, :5], "labels": LABELS},
    "narrow_head": {"weight": MEANS[:, :5]},
    "nan_head": {"weight": MEANS * np.nan},
    "odd_head": {"weight": MEANS, "bias": np.zeros(3)},
    "small_head": {"weight": MEANS[:3]},
    "tiny": {"features": 1e-200 * FEATURES, "labels": LABELS},
    "huge": {"features": 1e200 * FEATURES, "labels": LABELS},
    "three": {"features": FEATURES[:45], "labels": np.arange(45) % 3},
    "fewer": {"features": FEATURES[:40], "labels": LABELS[:40]},
    "alone": {"features": FEATURES, "labels": np.zeros(60, dtype=int)},
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / f"{name}.npz" for name in ARRAYS}
    for name, held in ARRAYS.items():
        np.savez(paths[name], **held)
    paths["folder"] = tmp_path / "folder"
    (tmp_path / "folder").mkdir()
    return paths


Command = Callable[..., Outcome]


@pytest.fixture
def command(files: dict[str, Path]) -> Command:
    """The command line with names of files for their paths."""

    def go(*words: str) -> Outcome:
        return run(*(files.get(word, word) for word in words))

    return go


# --- once -----------------------------------------------------------------------------------------


def test_a_file_counts_once_by_whatever_path(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = files["train"].parent
    monkeypatch.chdir(folder)
    (folder / "link.npz").symlink_to(files["train"])
    again = [
        "train.npz",
        "./train.npz",
        files["train"],
        "link.npz",
        "tr*.npz",
        "folder/../train.npz",
    ]
    assert shard_files(again) == [Path("train.npz")]
    outcome = run("measure", *again, "--json")
    assert json.loads(outcome.assert_ok())["num_samples"] == 60
    assert outcome.err == "note: 1 file named more than once; it counts once\n"
    ranked = run("rank", *again, "--no-probe", "--json")
    assert len(json.loads(ranked.assert_ok())["ranking"]) == 1
    judged = run("ood", "train.npz", "test.npz", "far.npz", "fa*.npz", "--json")
    assert len(json.loads(judged.assert_ok())["outside"]) == 1
    assert judged.err == "note: 1 file named more than once; it counts once\n"


def test_python_refuses_a_file_given_twice(files: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"files must name each file once, got .*train.npz twice"):
        measure_shards([files["train"], files["test"], files["train"]])
    relative = os.path.relpath(files["train"])
    with pytest.raises(ValueError, match=r"twice, once as .*train.npz; .* shard_files"):
        measure_shards([files["train"], relative])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("ood train train far", "TEST must be another file than TRAIN"),
        ("ood train test test", "OUTSIDE must be another file than TRAIN and TEST"),
        ("ood train test far train", "OUTSIDE must be another file than TRAIN and TEST"),
        ("measure train --against train", "against must be another file than the one measured"),
        ("measure train --outsiders train", "outsiders must be another file than the one measured"),
    ],
)
def test_a_file_is_not_compared_with_itself(command: Command, words: str, told: str) -> None:
    command(*words.split()).assert_refused(told)


# --- several --------------------------------------------------------------------------------------


def test_outsiders_and_test_samples_may_lie_in_several_files(
    files: dict[str, Path], command: Command
) -> None:
    folder = files["train"].parent
    held = np.concatenate([ARRAYS["far"]["features"], ARRAYS["away"]["features"]])
    np.savez(folder / "all.npz", features=held)
    for name in ("far", "away"):
        np.savez(folder / f"out_{name}.npz", **ARRAYS[name])
    one = command("measure", "train", "--outsiders", str(folder / "all.npz"), "--json")
    two = command("measure", "train", "--outsiders", "far", "--outsiders", "away", "--json")
    glob = command("measure", "train", "--outsiders", str(folder / "out_*.npz"), "--json")
    wanted = json.loads(one.assert_ok())["metrics"]["nc5_orthogonality"]
    for outcome in (two, glob):
        found = json.loads(outcome.assert_ok())["metrics"]["nc5_orthogonality"]
        assert found == pytest.approx(wanted, rel=1e-12)  # sums of doubles in another order
    for half, rows in (("a", slice(0, 25)), ("b", slice(25, 60))):
        part = {name: values[rows] for name, values in ARRAYS["test"].items()}
        np.savez(folder / f"half_{half}.npz", **part)
    one = json.loads(command("measure", "train", "--against", "test", "--json").assert_ok())
    two = command("measure", "train", "--against", str(folder / "half_?.npz"), "--json")
    found = json.loads(two.assert_ok())["against"]
    assert found["files"] == [str(folder / f"half_{half}.npz") for half in "ab"]
    assert found["by_group"]["all"] == pytest.approx(one["against"]["by_group"]["all"], rel=1e-9)


# --- named ----------------------------------------------------------------------------------------

BAD = {
    "nan": "features must be finite",
    "whole": "features must be floating point, got int64",
    "below": "labels must",
    "hot": "labels must be 1-D with one class index per sample, got shape (60, 4); take",
    "fraction": "labels must be integers, got float64",
    "short": "labels and features must have the same length",
    "deep": "features must be 2-D",
    "empty": "at least one sample",
    "words": "features must be a tensor or a numeric array, got <U1 (can't convert np.ndarray of "
    "type numpy.str_)",
    "far": "must hold the array 'labels', it holds features",
    "folder": "got a folder; name the files in it",
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("verb", ["measure {}", "rank {}", "ood {} test far"])
def test_a_bad_file_is_named(command: Command, verb: str, name: str) -> None:
    stem = name if name == "folder" else f"{name}.npz"
    command(*verb.format(name).replace("far far", "far away").split()).assert_refused(
        stem, BAD[name]
    )


@pytest.mark.parametrize("name", ["nan", "whole", "deep", "empty", "words", "folder", "narrow"])
@pytest.mark.parametrize(
    "verb", ["measure train --outsiders {}", "measure train --against {}", "ood train test far {}"]
)
def test_a_bad_file_beside_is_named(command: Command, verb: str, name: str) -> None:
    told = BAD.get(name, "features must have 6 columns (as in")
    stem = name if name == "folder" else f"{name}.npz"
    command(*verb.format(name).split()).assert_refused(stem, told)


@pytest.mark.parametrize("verb", ["measure train", "ood train test far"])
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("narrow_head", "weight must have 6 columns (as the features have)"),
        ("nan_head", "weight must be finite"),
        ("odd_head", "bias must have shape (4,) (one per row of weight), got (3,)"),
        ("far", "must hold the array 'weight', it holds features"),
    ],
)
def test_a_bad_classifier_is_named(command: Command, verb: str, name: str, told: str) -> None:
    command(*verb.split(), "--classifier", name).assert_refused(f"{name}.npz", told)


def test_a_classifier_of_fewer_classes_detects_nothing(command: Command) -> None:
    command("ood", "train", "test", "far", "--classifier", "small_head").assert_refused(
        "small_head.npz: weight must have a row for each class of", "got 3 for labels up to 3"
    )


@pytest.mark.parametrize(
    "verb", ["measure {}", "measure {} train", "measure train --against {}", "ood {} test far"]
)
@pytest.mark.parametrize("name", ["tiny", "huge"])
def test_a_file_whose_squares_are_no_numbers_is_named(
    command: Command, verb: str, name: str
) -> None:
    size = {"tiny": "large", "huge": "small"}[name]
    command(*verb.format(name).split()).assert_refused(
        f"{name}.npz: ", f"features must be {size} enough for their squares"
    )


@pytest.mark.parametrize("verb", ["ood train huge far", "ood train test huge"])
def test_a_file_whose_scores_are_no_numbers_is_named(command: Command, verb: str) -> None:
    command(*verb.split()).assert_refused(
        "huge.npz: features must be small enough for their squares, got a score that is not finite"
    )


def test_a_classifier_of_many_files_says_that_it_decides_the_width(command: Command) -> None:
    command("measure", "train", "test", "--classifier", "narrow_head").assert_refused(
        "train.npz: features must have 5 columns (as weight has)"
    )


# --- one task -------------------------------------------------------------------------------------


def test_files_of_another_task_are_not_ranked(command: Command) -> None:
    told = command("rank", "train", "three").assert_refused("three.npz must hold the classes of")
    assert "got 3 for 4: class 3 is in" in told
    assert told.endswith("three.npz; rank files of one task")


def test_files_of_other_samples_are_remarked(command: Command) -> None:
    outcome = command("rank", "train", "fewer", "test", "--no-probe", "--json")
    (note,) = json.loads(outcome.assert_ok())["notes"]
    assert "fewer.npz holds 40 samples where" in note
    assert "train.npz holds 60" in note
    text = command("rank", "train", "fewer", "--no-probe").assert_ok()
    assert "note: " in text
    assert "their scores are of different samples" in " ".join(text.split())


def test_a_ranking_fits_into_80_columns_and_cuts_no_number(command: Command) -> None:
    result = json.loads(command("rank", "train", "fewer", "--json").assert_ok())
    above, below, *lines = command("rank", "train", "fewer").assert_ok().splitlines()[:4]
    assert above.split() == ["cdnv", "nearest", "linear"]
    assert below.split() == ["dim", "cdnv", "directional", "nc1", "vci", "mean", "probe", "file"]
    for line, entry in zip(lines, result["ranking"], strict=True):
        scores = entry["scores"]
        *cells, name = line.split()
        assert name == Path(entry["file"]).name
        assert cells[2:6] == [f"{scores[key]:.4g}" for key in [*scores][:4]]
        assert cells[6:] == [f"{scores[key]:.2%}" for key in [*scores][4:]]
    assert max(map(len, (above, below, *lines))) <= 80


def test_an_order_needs_its_score(command: Command) -> None:
    command("rank", "train", "--by", "linear_probe", "--no-probe").assert_refused(
        "--by linear_probe must come with the probe"
    )


# --- what is left out, and what is not lost -------------------------------------------------------


def test_a_detector_that_was_not_asked_for_is_left_out_with_its_reason(command: Command) -> None:
    result = json.loads(command("ood", "alone", "test", "far", "--json").assert_ok())
    assert set(result["left_out"]) == {"neco", "nci", "fdbd", "vim"}
    assert "number of classes minus one" in result["left_out"]["neco"]
    command("ood", "alone", "test", "far", "--detector", "neco").assert_refused(
        "detector neco on", "alone.npz: dim must lie in [1, 6]"
    )


def test_every_metric_has_an_interval(command: Command) -> None:
    assert "no interval" not in command("measure", "train", "--jackknife").assert_ok()
    found = json.loads(command("measure", "train", "--jackknife", "--json").assert_ok())
    assert {*found["intervals"]} - {"accuracy"} == {*found["metrics"]} - {*found["undefined"]}


@pytest.mark.parametrize("verb", ["measure train", "rank train", "ood train test far"])
def test_where_nothing_can_be_written_is_said_before_the_work(
    command: Command, files: dict[str, Path], verb: str
) -> None:
    command(*verb.split(), "--out", "folder").assert_refused("out must be a file, got the folder")
    nowhere = str(files["folder"] / "nowhere" / "out.json")
    command(*verb.split(), "--out", nowhere).assert_refused("out must lie in a folder that exists")


@pytest.mark.parametrize("verb", ["measure train", "rank train --no-probe", "ood train test far"])
def test_a_result_that_cannot_be_written_is_printed(
    command: Command, files: dict[str, Path], verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(neuralcollapse.files, "write_atomically", full)
    out = files["folder"] / "out.json"
    outcome = command(*verb.split(), "--json", "--out", str(out))
    assert outcome.code == 2
    assert "no space left" in outcome.err
    assert json.loads(outcome.out)


# --- what is not there ----------------------------------------------------------------------------


def test_an_engine_without_its_extra_is_one_sentence(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    command("measure", "train", "--engine", "ray").assert_refused(
        "the engine ray needs ray, which cannot be imported", "pip install 'neuralcollapse[ray]'"
    )


def test_measures_of_separation_without_their_extra_are_one_sentence(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("torchmetrics")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    command("ood", "train", "test", "far").assert_refused(
        "AUROC needs the extra torchmetrics", "pip install 'neuralcollapse[torchmetrics]'"
    )


def test_resuming_a_file_says_that_it_is_one(files: dict[str, Path]) -> None:
    outcome = run("train", "--resume", "--out", files["train"])
    outcome.assert_refused("train.npz must be a folder, got a file")
