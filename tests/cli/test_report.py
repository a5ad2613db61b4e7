"""`neuralcollapse report`: writes the page of runs or measurements and says where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cli.command import run
from neuralcollapse import measure_features
from records import write_record

pytest.importorskip("plotly", reason="needs the extra report")
pytest.importorskip("jinja2", reason="needs the extra report")


def test_one_page_of_runs_alone_and_in_folders(tmp_path: Path) -> None:
    for name in ("runs/a", "runs/b", "alone"):
        write_record(tmp_path / name, epochs=(0, 1))
    page = tmp_path / "page.html"
    shown = run("report", tmp_path / "runs", tmp_path / "alone", "-o", page).assert_ok()
    assert shown == f"{page}\n"
    text = page.read_text()
    assert all(f">{name}<" in text or f'"{name}"' in text for name in ("a", "b", "alone"))


def test_by_default_it_is_written_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(tmp_path / "run", epochs=(0, 1))
    monkeypatch.chdir(tmp_path)
    assert run("report", "run").assert_ok() == "report.html\n"
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("name", ["nosuch", "empty", "file"])
def test_where_there_is_no_run_nothing_is_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.iterdir())
    run("report", tmp_path / name, "-o", tmp_path / "page.html").assert_refused(name)
    assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_run_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    record = write_record(tmp_path / "run", epochs=(0, 1))
    (record.path / "measurements.jsonl").write_text("{")
    run("report", record.path, "-o", tmp_path / "page.html").assert_refused("line 1")
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    record = write_record(tmp_path / "run", epochs=(0, 1))
    run("report", record.path, "-o", tmp_path / "nosuch" / "page.html").assert_refused("nosuch")


def save_features(path: Path, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(40) % 4
    features = torch.eye(4)[labels] + 0.2 * torch.randn(40, 4, generator=generator)
    np.savez(path, features=features.numpy(), labels=labels.numpy(), weight=np.eye(4))
    return path


def test_what_measure_writes_is_drawn(tmp_path: Path) -> None:
    for seed, name in enumerate(("train", "test")):
        features = save_features(tmp_path / f"{name}.npz", seed)
        run("measure", features, "--split", name, "-o", tmp_path / f"{name}.json").assert_ok()
    features = tmp_path / "train.npz"
    sure = tmp_path / "sure.json"
    run("measure", features, "--jackknife", "-o", sure).assert_ok()
    files = [tmp_path / "train.json", tmp_path / "test.json", sure]
    page = tmp_path / "page.html"
    assert run("report", *files, "-o", page).assert_ok() == f"{page}\n"
    text = page.read_text()
    assert "Compares train, test and sure" in text
    assert "train.npz" in text
    assert str(tmp_path) not in text


def test_runs_beside_a_measurement(tmp_path: Path) -> None:
    write_record(tmp_path / "runs" / "own", epochs=(0, 1))
    measure_features(torch.eye(3).repeat(2, 1), torch.arange(3).repeat(2)).save(tmp_path / "m.json")
    page = tmp_path / "page.html"
    run("report", tmp_path / "m.json", tmp_path / "runs", "-o", page).assert_ok()
    assert "Compares m, own (train) and own (test)" in page.read_text()
    refused = run("report", tmp_path / "m.json", tmp_path / "runs", "--predict", "-o", page)
    refused.assert_refused("--predict must go with runs alone", "m.json")


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("nosuch.json", None, "does not exist"),
        ("other.json", '{"auroc": 1}', "holds no measurement"),
        ("broken.json", "{", "not valid JSON"),
        ("list.json", "[]", "holds no measurement"),
        ("train.npz", "PK", "got features; measure them first: neuralcollapse measure"),
    ],
)
def test_a_file_without_a_measurement(
    tmp_path: Path, name: str, content: str | None, told: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    run("report", tmp_path / name, "-o", tmp_path / "page.html").assert_refused(name, told)
    assert not (tmp_path / "page.html").exists()
