"""`neuralcollapse data`: what there is, and what one of them holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cli.command import run
from neuralcollapse.train.data import DATA_SETS


def cells(table: str) -> list[list[str]]:
    """The rows of a table as the texts between its bars."""
    lines = [line for line in table.splitlines() if line.startswith(("│", "┃"))]
    return [[c.strip() for c in line.replace("┃", "│").split("│")[1:-1]] for line in lines]


def test_every_data_set_is_listed_with_what_it_needs() -> None:
    outcome = run("data")
    rows = cells(outcome.assert_ok())
    assert outcome.err == ""
    assert [row[0] for row in rows if row[0]] == ["name", *(row.name for row in DATA_SETS)]
    text = " ".join(" ".join(row) for row in rows)
    for word in ("digits", "dataset-fashion-mnist", "--data-root FILE.npz", "the internet"):
        assert word in text


def test_digits_are_described() -> None:
    shown = run("data", "digits").assert_ok()
    assert "digits: 10 classes, inputs of shape (1, 8, 8)" in shown
    head, *body = cells(shown)
    assert head == ["class", "train", "validation", "test"]
    numbers = np.array([[int(cell) for cell in row[1:]] for row in body])
    assert [row[0] for row in body] == [*"0123456789", "all"]
    assert numbers[:-1].sum(0).tolist() == numbers[-1].tolist()
    assert numbers[-1].sum() == 1797


def test_names_of_classes_are_shown_as_they_are(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    for name in ("[red]bold", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            image.new("RGB", (4, 4)).save(tmp_path / name / f"{number}.png")
    assert "[red]bold" in run("data", "imagefolder", "--data-root", tmp_path).assert_ok()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nosuch"], ["nosuch", "digits", "fashion-mnist", "imagefolder"]),
        (["npz"], ["--data-root FILE.npz"]),
        (["npz", "--data-root", "nosuch.npz"], ["nosuch.npz does not exist"]),
        (["imagefolder"], ["--data-root FOLDER"]),
        (["openml"], ["openml:letter"]),
    ],
    ids=str,
)
def test_what_is_missing_is_said_in_a_sentence(arguments: list[str], words: list[str]) -> None:
    run("data", *arguments).assert_refused(*words)
