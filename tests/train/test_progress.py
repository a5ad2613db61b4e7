"""What a run shows: loss, accuracy and NC1; a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from neuralcollapse.train.loop import train
from train.runs import blobs, started


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = blobs()
    run = started(tmp_path / "run", data)
    train(run, data)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    rows = run.rows()
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert line.startswith(f"cross entropy, linear head: epoch {row['epoch']}/4 ")
        assert f"NC1 {row['train']['metrics']['nc1']:.2e}" in line
        assert f"accuracy {row['train']['accuracy']:.4f}" in line
        assert f"test accuracy {row['test']['accuracy']:.4f}" in line
        assert ("loss" in line) == (row["loss"] is not None)


def test_a_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    for name, value in (("COLUMNS", "140"), ("TERM", "xterm-256color")):
        monkeypatch.setenv(name, value)
    data = blobs()
    run = started(tmp_path / "run", data, epochs=3)
    train(run, data)
    shown = screen.getvalue()
    for word in ("cross entropy, linear head", "3/3", "loss ", "accuracy ", "NC1 "):
        assert word in shown


def test_nothing_where_it_is_not_wanted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = blobs()
    train(started(tmp_path / "run", data, epochs=1), data, progress=False)
    assert capfd.readouterr() == ("", "")
