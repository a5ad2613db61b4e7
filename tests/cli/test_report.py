"""`neuralcollapse report`: writes the page and says where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.command import run
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
