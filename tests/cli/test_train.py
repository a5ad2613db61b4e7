"""`neuralcollapse train`: options from anywhere, folders that are never lost, clean ends."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.command import run, stopped
from neuralcollapse.cli.main import app
from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.record import Run, find_runs
from neuralcollapse.train.config import TrainConfig
from train.runs import assert_same_run, plain_rows

# Two seconds for both methods, with their report.
SMALL = ["--limit", 100, "--width", 16, "--dim", 12, "--epochs", 2]
ONE = [*SMALL, "--loss", "cross-entropy"]

# A value for each option that is not its default, and none that contradicts another.
OTHER: dict[str, Any] = {
    "data": "npz",
    "data_root": "some/where.npz",
    "hierarchy": "cifar100",
    "distances": "path",
    "imbalance": "exponential:10",
    "limit": 77,
    "image_size": 48,
    "workers": 3,
    "loss": "squared-error",
    "label_smoothing": 0.1,
    "logit_adjustment": 0.5,
    "true_weight": 2.5,
    "target": 3.5,
    "head": "fixed",
    "bias": False,
    "temperature": 0.3,
    "frame": "orthogonal",
    "assign_after": 3,
    "backbone": "resnet18",
    "width": 5,
    "dim": 23,
    "epochs": 7,
    "batch_size": 30,
    "lr": 0.125,
    "momentum": 0.5,
    "weight_decay": 1e-3,
    "head_decay": "2e-3",
    "feature_decay": 1e-6,
    "augment": "crop",
    "seed": 11,
    "split_seed": 12,
    "validation_share": 0.3,
    "test_share": 0.4,
    "accelerator": "cpu",
    "devices": 2,
    "precision": "bf16",
    "measure_every": 4,
    "measure_samples": 50,
    "measure_layers": True,
    "normalize": True,
    "measure": False,
    "checkpoint_seconds": 2.5,
}


def flags(options: dict[str, Any]) -> list[str]:
    """Options as they are written on the command line."""
    words = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return words


def toml(path: Path, options: dict[str, Any], dashes: bool = False) -> Path:
    """Options as they are written in a file; JSON's scalars are TOML's."""
    lines = [
        f"{name.replace('_', '-') if dashes else name} = {json.dumps(value)}"
        for name, value in options.items()
    ]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TrainConfig, Path | None]]:
    """What training would have been started with; nothing is trained."""
    calls: list[tuple[TrainConfig, Path | None]] = []

    def note(config: TrainConfig, out: Path | None, overwrite: bool) -> None:
        calls.append((config, out))

    monkeypatch.setattr("neuralcollapse.cli.train._start", note)
    return calls


def contents(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


# --- options ------------------------------------------------------------------------------------


def test_every_option_has_another_value_here() -> None:
    defaults = dataclasses.asdict(TrainConfig())
    assert set(OTHER) == set(defaults)
    assert [name for name in OTHER if OTHER[name] == defaults[name]] == []


@pytest.mark.parametrize("dashes", [False, True], ids=["_", "-"])
def test_a_file_says_what_the_command_line_says(
    tmp_path: Path, asked: list[Any], dashes: bool
) -> None:
    run("train", *flags(OTHER)).assert_ok()
    run("train", "--config", toml(tmp_path / "run.toml", OTHER, dashes)).assert_ok()
    assert asked == [(TrainConfig(**OTHER), None)] * 2


def test_without_options_the_defaults_hold(asked: list[Any]) -> None:
    run("train").assert_ok()
    assert asked == [(TrainConfig(), None)]


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(
    tmp_path: Path, asked: list[Any]
) -> None:
    file = toml(tmp_path / "run.toml", {"lr": 0.2, "epochs": 3, "bias": False})
    run("train", "--config", file, "--lr", 0.3, "--bias").assert_ok()
    assert asked == [(TrainConfig(lr=0.3, epochs=3, bias=True), None)]


def test_the_file_may_name_the_folder(tmp_path: Path, asked: list[Any]) -> None:
    file = toml(tmp_path / "run.toml", {"out": "there", "epochs": 3})
    run("train", "--config", file).assert_ok()
    run("train", "--config", file, "--out", "here").assert_ok()
    assert asked == [(TrainConfig(epochs=3), Path("there")), (TrainConfig(epochs=3), Path("here"))]
    run("train", "--config", toml(file, {"out": 3})).assert_refused("out must be")


@pytest.mark.parametrize(
    "content, words",
    [
        ("epoch = 3", ["'epoch'", "did you mean epochs?"]),
        ("epochs = '3'", ["epochs must be int"]),
        ("lr = inf", ["lr must be finite"]),
        ("[train]\nlr = 0.1", ["'train'"]),
        ("lr = ", ["run.toml is not a readable TOML file"]),
        ("loss = 'dot-regression'\nhead = 'linear'", ["without bias"]),
        ("frame = 'simplex'\nhead = 'cosine'", ["frame must go with head=fixed"]),
    ],
)
def test_a_wrong_file_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(content)
    run("train", "--config", "run.toml").assert_refused(*words)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.toml"]


# --- a whole job --------------------------------------------------------------------------------


def test_without_a_choice_two_methods_are_trained_and_reported(tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="needs the extra report")
    out = tmp_path / "out"
    outcome = run("train", "--out", out, *SMALL)
    shown = outcome.assert_ok()
    runs = find_runs(out)
    assert [run.name for run in runs] == ["cross-entropy-linear", "dot-regression-simplex"]
    assert shown.rstrip().splitlines()[-1] == f"report: {out / 'report.html'}"
    assert all(run.name in shown for run in runs)
    page = (out / "report.html").read_text()
    assert all(run.name in page for run in runs)
    for record in runs:
        assert [row["epoch"] for row in record.rows()] == [0, 1, 2]
        assert (record.summary() or {})["status"] == "finished"
    # Progress is on standard error: a line for each measurement of each method.
    assert len(outcome.err.splitlines()) == 6
    assert "NC1" not in shown.splitlines()[0]


def test_a_choice_trains_one_method(tmp_path: Path) -> None:
    run("train", "--out", tmp_path / "out", *SMALL, "--head", "cosine").assert_ok()
    assert [run.name for run in find_runs(tmp_path / "out")] == ["cross-entropy-cosine"]


@pytest.mark.parametrize("given", [True, False], ids=["file", "of the data"])
def test_a_frame_of_the_hierarchy_reports_the_mistakes(tmp_path: Path, given: bool) -> None:
    tree = tmp_path / "tree.json"
    tree.write_text(run("hierarchy", "wordnet", "--json").assert_ok())
    arguments = ["--data", "wordnet:buckets=64", "--limit", 122, "--epochs", 1, "--width", 16]
    arguments += ["--loss", "frame-cosine", "--frame", "hierarchy:decay_rate=2"]
    arguments += ["--hierarchy", tree] if given else []
    shown = run("train", *arguments, "--out", tmp_path / "out").assert_ok()
    (line,) = [line for line in shown.splitlines() if line.startswith("mistake_severity ")]
    _, value, best, chance = line.split()
    assert float(best) < float(value)
    # The mean distance of two different classes, each as likely as the others.
    counts = Hierarchy.wordnet().pair_counts()
    mean = sum(distance * count for distance, count in counts.items()) / sum(counts.values())
    assert float(chance) == pytest.approx(mean, rel=1e-3)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for heading in ("Mistakes on the tree", "The tree with its mistakes", "What is taken for what"):
        assert heading in page


def test_by_default_the_next_free_folder_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "digits-2"):
        Path("runs", name).mkdir(parents=True)
    run("train", *ONE).assert_ok()
    run("train", *ONE).assert_ok()
    assert sorted(entry.name for entry in Path("runs").iterdir()) == [
        "digits",
        "digits-2",
        "digits-3",
        "digits-4",
    ]
    assert len(find_runs("runs/digits-3")) == len(find_runs("runs/digits-4")) == 1


def test_without_the_extra_report_the_record_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("plotly", "jinja2")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    outcome = run("train", "--out", tmp_path / "out", *ONE)
    assert outcome.code == 0
    assert "neuralcollapse[report]" in outcome.err.splitlines()[-1]
    assert (find_runs(tmp_path / "out")[0].summary() or {})["status"] == "finished"


# --- folders ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run."""
    out = tmp_path_factory.mktemp("finished") / "out"
    run("train", "--out", out, *ONE, "--measure-every", 1).assert_ok()
    return out


def test_a_folder_with_runs_is_not_written_over(finished: Path) -> None:
    before = contents(finished)
    for out in (finished, finished / "cross-entropy-linear"):
        run("train", "--out", out, *ONE).assert_refused(
            "already holds runs", "--resume", "--overwrite", "--out"
        )
    assert contents(finished) == before


def test_overwriting_is_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("train", "--out", out, *SMALL).assert_ok()
    (out / "notes.txt").write_text("mine")
    run("train", "--out", out, *ONE, "--seed", 1, "--overwrite").assert_ok()
    (record,) = find_runs(out)
    assert record.config["seed"] == 1
    assert (out / "notes.txt").read_text() == "mine"
    # What cannot be trained does not cost the old runs.
    before = contents(out)
    run("train", "--out", out, *ONE, "--overwrite", "--backbone", "nosuch").assert_refused()
    assert contents(out) == before


def test_resuming_what_is_finished_does_nothing(finished: Path) -> None:
    (record,) = find_runs(finished)
    before = {file: file.stat().st_mtime_ns for file in record.path.rglob("*")}
    outcome = run("train", "--resume", "--out", finished)
    assert "report: " in outcome.assert_ok()
    assert outcome.err == ""
    assert {file: file.stat().st_mtime_ns for file in record.path.rglob("*")} == before
    run("train", "--resume", "--out", finished, *ONE).assert_ok()  # the same options again


@pytest.mark.parametrize(
    "changed",
    [["--epochs", 9], ["--lr", 0.5], ["--no-bias"], ["--loss", "dot-regression"]],
    ids=str,
)
def test_resuming_with_another_option_is_refused(
    finished: Path, tmp_path: Path, changed: list[Any]
) -> None:
    before = contents(finished)
    name = changed[0].removeprefix("--no-").removeprefix("--")
    run("train", "--resume", "--out", finished, *changed).assert_refused(f"{name} must stay")
    value = {"--no-bias": "bias = false"}.get(changed[0], f"{name} = {json.dumps(changed[-1])}")
    (tmp_path / "run.toml").write_text(value)
    run("train", "--resume", "--out", finished, "--config", tmp_path / "run.toml").assert_refused(
        f"{name} must stay"
    )
    assert contents(finished) == before


def test_what_cannot_be_resumed(finished: Path, tmp_path: Path) -> None:
    run("train", "--resume").assert_refused("out must be given with --resume")
    run("train", "--resume", "--out", tmp_path).assert_refused("holds no run")
    run("train", "--resume", "--out", tmp_path / "nosuch").assert_refused("does not exist")
    before = contents(finished)
    run("train", "--resume", "--overwrite", "--out", finished).assert_refused("overwrite")
    assert contents(finished) == before


def test_data_that_changed_since_is_refused(tmp_path: Path) -> None:
    def write(number: int) -> None:
        generator = np.random.default_rng(0)
        labels = np.arange(number) % 3
        np.savez(tmp_path / "d.npz", features=generator.random((number, 4)), labels=labels)

    write(60)
    out = tmp_path / "out"
    options = [*ONE, "--data", "npz", "--data-root", tmp_path / "d.npz"]
    run("train", "--out", out, *options).assert_ok()
    (out / "cross-entropy-linear" / "summary.json").unlink()
    write(30)
    run("train", "--resume", "--out", out).assert_refused("data")


# --- what goes wrong ----------------------------------------------------------------------------


def npz(path: Path, **arrays: Any) -> list[Any]:
    np.savez(path / "d.npz", **arrays)
    return ["--data", "npz", "--data-root", path / "d.npz"]


LABELS = np.arange(40) % 4

WRONG: dict[str, tuple[Callable[[Path], list[Any]], str]] = {
    "data": (lambda path: ["--data", "mnits"], "data must be one of"),
    "no file": (lambda path: ["--data", "npz", "--data-root", path / "no.npz"], "does not exist"),
    "no folder": (
        lambda path: ["--data", "imagefolder", "--data-root", path / "no"],
        "is not a folder",
    ),
    "nan": (lambda path: npz(path, features=np.full((40, 3), np.nan), labels=LABELS), "finite"),
    "fractions": (lambda path: npz(path, features=np.ones((40, 3)), labels=LABELS / 2), "integers"),
    "no columns": (lambda path: npz(path, features=np.ones((40, 0)), labels=LABELS), "features"),
    "vectors": (
        lambda path: [*npz(path, features=np.ones((40, 3)), labels=LABELS), "--backbone", "cnn"],
        "use backbone=mlp",
    ),
    "small pictures": (
        lambda path: [*npz(path, images=np.ones((40, 4, 4)), labels=LABELS), "--backbone", "cnn"],
        "(1, 4, 4)",
    ),
    "cropped vectors": (
        lambda path: [*npz(path, features=np.ones((40, 3)), labels=LABELS), "--augment", "crop"],
        "augment must be none",
    ),
    "flipped digits": (lambda path: ["--augment", "crop-flip"], "augment must be none for digits"),
    "timm": (lambda path: ["--backbone", "timm:resnet18"], "neuralcollapse[vision]"),
    "backbone": (lambda path: ["--backbone", "vgg"], "backbone must be"),
    "frame": (lambda path: ["--frame", "simplex", "--dim", 5], "dim must be at least 9"),
    "choices": (lambda path: ["--head", "linear", "--frame", "simplex"], "frame must go with"),
    "smoothing": (lambda path: ["--label-smoothing", 2], "label_smoothing must be below 1"),
    "lr": (lambda path: ["--lr", -1], "lr must be"),
    "one by one": (lambda path: ["--batch-size", 1], "batch_size"),
    "seed": (lambda path: ["--seed", 2**64], "seed"),
    "limit": (lambda path: ["--limit", 3], "limit must be at least 10"),
    "tail": (lambda path: ["--imbalance", "exponential"], "imbalance must be"),
    "memory": (lambda path: ["--width", 10**12], "width"),
    "devices": (lambda path: ["--devices", 3], "batch_size must be a multiple"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "no folder":
        pytest.importorskip("PIL", reason="needs Pillow")
    monkeypatch.setitem(sys.modules, "timm", None)
    arguments, word = WRONG[name]
    given = arguments(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    run("train", "--out", tmp_path / "out", *SMALL, *given).assert_refused(word)
    assert sorted(tmp_path.rglob("*")) == before


def test_openml_without_the_internet_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sklearn.datasets

    def offline(name: str, **options: Any) -> None:
        raise OSError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", offline)
    out = tmp_path / "out"
    run("train", "--out", out, "--data", "openml:letter").assert_refused("needs the internet")
    assert not out.exists()


@pytest.mark.parametrize("place", ["file", "file/out"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    run("train", "--out", tmp_path / place, *ONE).assert_refused("file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.distributed)])
def test_an_unreadable_picture_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, workers: int
) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    for name, number in itertools.product("ab", range(12)):
        file = tmp_path / "pictures" / name / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (8, 8), (number, 0, 0)).save(file)
        if number == 5:
            file.write_bytes(b"no picture")
    pictures = ["--data", "imagefolder", "--data-root", tmp_path / "pictures", "--image-size", 8]
    out = tmp_path / "out"
    options = ["--width", 8, "--epochs", 1, "--loss", "cross-entropy", "--workers", workers]
    run("train", "--out", out, *pictures, *options).assert_refused("05.png is not a readable")
    assert find_runs(out, missing_ok=True) == []


def test_divergence_is_one_sentence_and_keeps_what_was_measured(tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = run("train", "--out", out, *ONE, "--lr", "1e30")
    assert outcome.code == 2
    assert outcome.out == ""
    *progress, last = outcome.err.splitlines()
    assert last.startswith("neuralcollapse: training diverged in epoch 1")
    assert "use a lower --lr than 1e+30" in last
    assert all(line.startswith("cross entropy, linear head: epoch 0/2") for line in progress)
    (record,) = find_runs(out)
    assert [row["epoch"] for row in record.rows()] == [0]
    run("report", out, "-o", tmp_path / "page.html").assert_ok()


HOSTILE: dict[str, tuple[str, str, str]] = {
    "config type": ("config.json", '"epochs": 2', '"epochs": "two"'),
    "config name": ("config.json", '"epochs"', '"epoch"'),
    "config format": ("config.json", "run.1", "run.9"),
    "data": ("config.json", '"data": "digits"', '"data": "../../etc/passwd"'),
    "another network": ("config.json", '"dim": 12', '"dim": 13'),
    "no epoch": ("measurements.jsonl", '"epoch"', '"epok"'),
    "infinite epoch": ("measurements.jsonl", '"epoch": 0', '"epoch": Infinity'),
    "state": ("checkpoints/epoch-000002.json", '"epoch": 2', '"epoch": []'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_record_is_one_sentence(finished: Path, tmp_path: Path, name: str) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(finished, out)
    path, old, new = HOSTILE[name]
    file = out / "cross-entropy-linear" / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    (out / "cross-entropy-linear" / "summary.json").unlink()
    run("train", "--resume", "--out", out).assert_refused()


# --- interrupted and killed ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.distributed
def test_stopped_by_ctrl_c_then_killed_then_resumed(tmp_path: Path) -> None:
    """Each in a process of its own, then here; compared with one that ran through."""
    # So long that the signal comes in time, also on a busy machine.
    options = [*SMALL, "--epochs", 1600, "--measure-every", 100, "--checkpoint-seconds", 0.1]
    out, whole = tmp_path / "out", tmp_path / "whole"

    def measured(number: int, method: str) -> Callable[[], bool]:
        file = out / method / "measurements.jsonl"
        return lambda: file.is_file() and file.read_bytes().count(b"\n") >= number

    first, second = "cross-entropy-linear", "dot-regression-simplex"
    stop = stopped(signal.SIGINT, measured(2, first), "train", "--out", out, *options)
    assert stop.code == 130
    assert stop.out == ""
    hint = f"interrupted; continue with: neuralcollapse train --resume --out {out}"
    assert stop.err.splitlines()[-1] == hint
    assert "Traceback" not in stop.err
    record = Run.open(out / first)
    assert (record.summary() or {})["status"] == "interrupted"
    assert len(record.rows()) >= 2
    assert Run.open(out / second).rows() == []

    kill = stopped(signal.SIGKILL, measured(2, second), "train", "--resume", "--out", out)
    assert kill.code == -signal.SIGKILL
    assert (Run.open(out / first).summary() or {})["status"] == "finished"
    assert Run.open(out / second).summary() is None

    assert "report: " in run("train", "--resume", "--out", out).assert_ok()
    run("train", "--out", whole, *options).assert_ok()
    for resumed, straight in zip(find_runs(out), find_runs(whole), strict=True):
        assert len(plain_rows(straight)) == 17
        assert_same_run(resumed, straight)


def test_the_verb_is_there() -> None:
    assert any(command.name == "train" for command in app.registered_commands)


def test_a_comparison_killed_before_its_second_folder_was_made_is_completed(
    tmp_path: Path,
) -> None:
    assert run("train", *SMALL, "--out", tmp_path).code == 0
    first, second = find_runs(tmp_path)
    rows = plain_rows(second)
    shutil.rmtree(second.path)
    assert run("train", "--resume", "--out", tmp_path).code == 0
    assert [found.name for found in find_runs(tmp_path)] == [first.name, second.name]
    assert plain_rows(Run.open(second.path)) == rows
