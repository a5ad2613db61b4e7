"""The record of a run: whole or absent, readable whatever happened, and never unpickled."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neuralcollapse
from neuralcollapse.record import Checkpoint, Run, find_runs

SOURCE = Path(neuralcollapse.__file__).parent


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {"lr": 0.1, "loss": None}, {"classes": ["<b>", "ö"]})


def checkpoint(epoch: int) -> Checkpoint:
    tensors = {"weight": torch.full((2, 3), float(epoch)), "step": torch.tensor(epoch)}
    return Checkpoint(epoch, tensors, {"epoch": epoch, "best": {"epoch": 1}})


def files(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


# --- configuration ------------------------------------------------------------------------------


def test_what_is_created_can_be_opened(run: Run) -> None:
    assert Run.at(run.path)
    again = Run.open(run.path)
    assert (again.config, again.info, again.name) == (run.config, run.info, "run")
    assert again.rows() == []
    assert again.checkpoint_epochs() == []
    assert again.snapshot_epochs() == []
    assert again.summary() is None


def test_a_run_is_not_made_over_another(run: Run) -> None:
    before = files(run.path)
    with pytest.raises(FileExistsError, match="already holds a run"):
        Run.create(run.path, {}, {})
    assert files(run.path) == before


def test_the_name_is_that_of_the_folder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path)
    assert Run.open(".").name == "run"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b"1" * 5000,
        b'{"format": "neuralcollapse.run.2", "config": {}, "info": {}}',
        b'{"format": "neuralcollapse.run.1"}',
        b'{"format": "neuralcollapse.run.1", "config": [], "info": {}}',
        b'{"format": "neuralcollapse.run.1", "config": {}, "info": "x"}',
    ],
    ids=lambda content: content[:60].decode(errors="replace"),
)
def test_a_hostile_configuration_is_refused_by_name(run: Run, content: bytes) -> None:
    (run.path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        Run.open(run.path)
    with pytest.raises(ValueError, match=r"config\.json"):
        find_runs(run.path.parent)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    assert not Run.at(tmp_path)
    for path in (tmp_path, tmp_path / "nosuch"):
        with pytest.raises(ValueError, match="holds no run"):
            Run.open(path)


def test_numbers_that_json_does_not_know_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Run.create(tmp_path / "run", {"lr": float("nan")}, {})
    assert not Run.at(tmp_path / "run")


# --- measured epochs ----------------------------------------------------------------------------


def test_rows_come_back_as_they_were_given(run: Run) -> None:
    rows = [
        {"epoch": e, "train": {"nc1": 0.1 / (e + 1), "text": "ö\n"}, "x": None} for e in range(3)
    ]
    for row in rows:
        run.append(row)
    assert run.rows() == Run.open(run.path).rows() == rows
    lines = (run.path / "measurements.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows


@given(epochs=st.lists(st.integers(0, 9), max_size=12))
@settings(max_examples=30)
def test_a_row_replaces_its_own_and_later_epochs(
    tmp_path_factory: pytest.TempPathFactory, epochs: list[int]
) -> None:
    """A resumed run measures again what was cut off."""
    run = Run.create(tmp_path_factory.mktemp("runs") / "run", {}, {})
    wanted: list[tuple[int, int]] = []
    for number, epoch in enumerate(epochs):
        run.append({"epoch": epoch, "number": number})
        wanted = [pair for pair in wanted if pair[0] < epoch] + [(epoch, number)]
    assert [(row["epoch"], row["number"]) for row in run.rows()] == wanted


def test_a_row_that_is_not_json_leaves_the_rows_as_they_were(run: Run) -> None:
    run.append({"epoch": 0})
    before = files(run.path)
    for value in (float("nan"), float("inf"), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            run.append({"epoch": 1, "value": value})
    assert files(run.path) == before


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[1]",
        b'"epoch"',
        b"7",
        b"null",
        b"{}",
        b'{"epoch": "x"}',
        b'{"epoch": null}',
        b'{"epoch": NaN}',
        b'{"epoch": Infinity}',
        b'{"epoch": ' + b"1" * 5000 + b"}",
        b"\xff\xfe",
        b"[" * 100_000,
    ],
    ids=lambda line: line[:30].decode(errors="replace"),
)
def test_a_damaged_line_is_named(run: Run, line: bytes) -> None:
    run.append({"epoch": 0})
    run.append({"epoch": 1})
    with (run.path / "measurements.jsonl").open("ab") as file:
        file.write(line + b'\n{"epoch": 3}\n')
    with pytest.raises(ValueError, match=r"measurements\.jsonl, line 3, is not a measured epoch"):
        run.rows()


# --- snapshots ----------------------------------------------------------------------------------


def test_snapshots_of_measured_epochs(run: Run) -> None:
    tensors = {"means": torch.randn(2, 3), "labels": torch.tensor([0, 1])}
    for epoch in (0, 5):
        run.write_snapshot(epoch, tensors)
    assert run.snapshot_epochs() == []  # not measured: left by a run that was cut off
    run.append({"epoch": 0})
    run.append({"epoch": 7})
    assert run.snapshot_epochs() == [0]
    kept = run.snapshot(0)
    assert sorted(kept) == ["labels", "means"]
    assert all(torch.equal(kept[name], tensors[name]) for name in tensors)
    with pytest.raises(ValueError, match=r"epoch-000003\.safetensors does not exist"):
        run.snapshot(3)


def test_snapshots_sort_by_number_beyond_six_digits(run: Run) -> None:
    for epoch in (999_999, 1_000_000, 2):
        run.write_snapshot(epoch, {"means": torch.zeros(1)})
    for epoch in (2, 999_999, 1_000_000):
        run.append({"epoch": epoch})
    assert run.snapshot_epochs() == [2, 999_999, 1_000_000]


# --- checkpoints --------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_bit_for_bit(run: Run) -> None:
    tensors = {
        "float": torch.randn(3, 4),
        "half": torch.randn(3).bfloat16(),
        "double": torch.tensor([0.1, float("nan"), -0.0], dtype=torch.float64),
        "layout": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "turned": torch.randn(3, 4).T,
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "bytes": torch.get_rng_state(),
    }
    run.write_checkpoint(Checkpoint(3, tensors, {"epoch": 3, "loss": 0.1}))
    kept = run.checkpoint(3)
    assert (kept.epoch, kept.state) == (3, {"epoch": 3, "loss": 0.1})
    assert sorted(kept.tensors) == sorted(tensors)
    for name, tensor in tensors.items():
        assert kept.tensors[name].dtype == tensor.dtype
        torch.testing.assert_close(kept.tensors[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_only_the_last_and_those_to_keep_stay(run: Run) -> None:
    for epoch in range(5):
        run.write_checkpoint(checkpoint(epoch), keep=(1,))
    assert run.checkpoint_epochs() == [1, 4]
    names = {file.name for file in (run.path / "checkpoints").iterdir()}
    assert names == {f"epoch-00000{e}.{kind}" for e in (1, 4) for kind in ("json", "safetensors")}


def test_half_a_checkpoint_is_none(run: Run) -> None:
    run.write_checkpoint(checkpoint(1))
    folder = run.path / "checkpoints"
    (folder / "epoch-000002.safetensors").write_bytes(b"whole, but without its state")
    (folder / "epoch-000003.json").write_text("{}")
    (folder / ".epoch-000004.json.x1").write_text("{")
    (folder / "epoch-000005.safetensors.tmp").write_bytes(b"")
    (folder / "epoch--00006.json").write_text("{}")
    assert run.checkpoint_epochs() == [1]
    run.write_checkpoint(checkpoint(4))
    assert run.checkpoint_epochs() == [4]


@pytest.mark.parametrize("fails_at", range(3))
def test_a_checkpoint_that_cannot_be_written_leaves_the_last(
    run: Run, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """A full disk, at the first or the second file or not at all."""
    run.write_checkpoint(checkpoint(1))
    replace, calls = os.replace, 0

    def failing(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > fails_at:
            raise OSError(28, "No space left on device")
        replace(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        if fails_at < 2:
            with pytest.raises(OSError, match="No space left"):
                run.write_checkpoint(checkpoint(2))
        else:
            run.write_checkpoint(checkpoint(2))
    last = run.checkpoint_epochs()[-1]
    assert last == (1 if fails_at < 2 else 2)
    assert torch.equal(run.checkpoint(last).tensors["weight"], checkpoint(last).tensors["weight"])
    assert [file for file in run.path.rglob("*") if file.name.startswith(".")] == []


# --- the end ------------------------------------------------------------------------------------


def test_the_summary_is_replaced(run: Run) -> None:
    run.write_summary({"status": "interrupted"})
    run.write_summary({"status": "finished", "epochs": 3})
    assert run.summary() == {"status": "finished", "epochs": 3}


@pytest.mark.parametrize("content", ["", "{", "[]", "5", "null", "{}", '{"status": 3}'])
def test_a_damaged_summary_is_named(run: Run, content: str) -> None:
    (run.path / "summary.json").write_text(content)
    with pytest.raises(ValueError, match=r"summary\.json"):
        run.summary()


# --- many runs ----------------------------------------------------------------------------------


def test_runs_are_found_alone_and_in_a_folder(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        Run.create(tmp_path / "runs" / name, {}, {})
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "runs" / "report.html").write_text("")
    assert [run.name for run in find_runs(tmp_path / "runs")] == ["a", "b", "c"]
    assert [run.name for run in find_runs(tmp_path / "runs" / "b")] == ["b"]


@pytest.mark.parametrize("name, words", [("", "holds no run"), ("nosuch", "does not exist")])
def test_where_there_is_no_run(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ValueError, match=rf"{words}; `neuralcollapse train --out .*` makes one"):
        find_runs(tmp_path / name)
    assert find_runs(tmp_path / name, missing_ok=True) == []


# --- nothing is unpickled -----------------------------------------------------------------------


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call with the last part of what is called and what it is called on."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found.append((ast.unparse(node.func), node))
    return found


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda f: f.stem)
def test_no_module_can_unpickle(file: Path) -> None:
    tree = ast.parse(file.read_text())
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        (node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert not imported & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for name, call in calls(tree):
        assert name not in {"torch.load", "pandas.read_pickle", "eval", "exec"}, call.lineno
        if name in {"np.load", "numpy.load"}:
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert options.get("allow_pickle") == "False", call.lineno
