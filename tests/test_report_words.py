"""What a report says: verdicts, tables of numbers and options, and the table for the terminal."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from cases.metrics import ROWS
from neuralcollapse.geometry import simplex_gram
from neuralcollapse.record import Run
from neuralcollapse.report import final_table, tables, wording, write_report
from neuralcollapse.report.history import read_histories
from neuralcollapse.report.verdict import verdict
from pages import Page
from records import change_rows, undefine, write_record


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_record(tmp_path / "plain")


# Words and tables.


def test_the_verdict_is_computed(run):
    (history,) = read_histories([run])
    said = " ".join(sentence.text for sentence in verdict(history))
    first, last = (run.rows()[n]["train"]["metrics"]["nc1"] for n in (0, -1))
    assert f"NC1 fell from {first:.3g} at epoch 0 to " in said
    assert wording.shown(last, 3) in said
    assert "Accuracy: train 100\u00a0%" in said
    assert "Validation accuracy was best at epoch 2" in said


def test_the_verdict_moves_with_the_numbers(run):
    change_rows(run, lambda row: row["train"]["metrics"].update(nc1=0.1 + row["epoch"]))
    change_rows(run, lambda row: undefine(row, "nc3_alignment", "a row is zero"))
    change_rows(run, lambda row: row["train"]["metrics"].update(nc4_disagreement=0.125))
    (history,) = read_histories([run])
    said = " ".join(sentence.text for sentence in verdict(history))
    assert "NC1 rose from 0.1 at epoch 0 to 4.1 at epoch 4" in said
    assert "alignment of classifier and class means is undefined: a row is zero." in said
    assert "On 12.5\u00a0% of the training samples" in said


def test_too_many_classes_for_the_dimension_is_said(run, tmp_path):
    crowded = Run.create(tmp_path / "crowded", {}, {})
    row = run.rows()[-1]
    row["train"]["counts"] = [1] * 5
    crowded.append(row)
    vectors = torch.eye(5)[:, :3]
    labels = torch.arange(5)
    crowded.write_snapshot(
        4, {"means": vectors, "weight": vectors, "features": vectors, "labels": labels}
    )
    (history,) = read_histories([crowded])
    said = " ".join(sentence.text for sentence in verdict(history))
    # The nearest Gram matrix of rank 3 to I - J/5 loses one of four equal eigenvalues.
    assert f"cannot fall below {math.sqrt(2 - 2 * math.sqrt(3 / 4)):.3g}" in said
    nearest = torch.linalg.eigh(simplex_gram(5))
    gram = nearest.eigenvectors[:, -3:] @ nearest.eigenvectors[:, -3:].T
    target = simplex_gram(5)
    floor = (gram / gram.norm() - target / target.norm()).norm()
    assert float(floor) == pytest.approx(math.sqrt(2 - 2 * math.sqrt(3 / 4)))


@pytest.mark.parametrize(
    "status, said",
    [
        ("finished", "finished after 4 epochs, 12.5 s"),
        ("interrupted", "interrupted at epoch 4"),
        (None, "not finished; last measured at epoch 4"),
    ],
)
def test_how_the_run_ended_is_said(tmp_path, status, said):
    (history,) = read_histories([write_record(tmp_path / "run", status=status)])
    assert history.status == said


@pytest.mark.parametrize(
    "value, said",
    [
        (None, "—"),
        (1, "100\u00a0%"),
        (0, "0\u00a0%"),
        (0.9996, "99.96\u00a0%"),
        (0.0004, "0.04\u00a0%"),
        (0.5, "50\u00a0%"),
    ],
)
def test_a_share_is_whole_only_where_nothing_is_missing(value, said):
    assert wording.share(value) == said


@pytest.mark.parametrize(
    "value, said", [(None, "—"), (0.0, "0"), (1.5e-8, "1.5e-8"), (0.99999, "0.99999"), (1.0, "1")]
)
def test_numbers_are_short_and_exact_near_one(value, said):
    assert wording.shown(value) == said


def test_the_selected_epoch_stands_beside_the_last(run):
    (history,) = read_histories([run])
    group = tables.selected_group(0, history)
    assert group is not None
    assert group.row["epoch"] == 2
    unfinished = Run.open(run.path)
    (run.path / "summary.json").unlink()
    (history,) = read_histories([unfinished])
    # Without a summary the first epoch of the best validation accuracy.
    assert history.selected is not None
    assert history.selected["epoch"] == 2


def test_undefined_numbers_have_footnotes(run, tmp_path):
    change_rows(run, lambda row: undefine(row, "nc1", "the means coincide"))
    change_rows(run, lambda row: undefine(row, "cdnv", "the means coincide"))
    (history,) = read_histories([run])
    table = tables.numbers([history], [tables.final_group(0, history)])
    cells = {line.key: line.cells for line in table.lines}
    assert cells["nc1"][0].text == "—"
    assert [cell.note for cell in cells["nc1"]] == [1, None]
    assert cells["cdnv"][0].note == 1
    assert table.notes == ["the means coincide"]
    page = Page(write_report([run], tmp_path / "r.html"))
    assert any(attrs.get("href") == "#note-1" for _, attrs in page.tags)
    assert any(attrs.get("id") == "note-1" for _, attrs in page.tags)


def test_options_that_differ_come_first_and_are_marked(tmp_path):
    runs = [
        write_record(tmp_path / "a", config={"loss": "cross-entropy", "same": 1}),
        write_record(tmp_path / "b", config={"loss": "squared-error", "same": 1, "extra": None}),
    ]
    rows = tables.options(read_histories(runs))
    by_name = {row.name: row for row in rows}
    assert by_name["loss"].differs
    assert by_name["extra"].values == ["—", "null"]
    assert not by_name["same"].differs
    assert [row.differs for row in rows] == sorted((row.differs for row in rows), reverse=True)
    page = Page(write_report(runs, tmp_path / "r.html"))
    assert "Options that differ: loss, extra." in page.text


def test_conventions_are_said_once_unless_they_differ(run, tmp_path):
    other = write_record(tmp_path / "other")
    ((where, words),) = wording.same_conventions(read_histories([run, other]))
    assert where == "every measurement"
    assert words["global mean"] == "mean of the class means"
    change_rows(other, lambda row: row["test"]["conventions"].update(features="unit length"))
    places = [where for where, _ in wording.same_conventions(read_histories([run, other]))]
    assert places == ["plain, train; plain, test; other, train", "other, test"]


def test_class_counts_are_drawn_where_they_differ(tmp_path):
    even = write_record(tmp_path / "even")
    uneven = write_record(tmp_path / "uneven", counts=[40, 20, 10, 5])
    assert not any(
        name.startswith("counts")
        for name in Page(write_report([even], tmp_path / "r.html")).data("figures")
    )
    page = Page(write_report([even, uneven], tmp_path / "r.html"))
    assert page.data("figures")["counts-1"]["data"][0]["y"] == [40, 20, 10, 5]
    assert "uneven: train 75 samples in 4 classes (5 to 40 each)" in page.text


def test_runs_of_different_data_stand_side_by_side(tmp_path):
    runs = [
        write_record(tmp_path / "few", num_classes=3, dim=2),
        write_record(tmp_path / "many", num_classes=12, dim=20, info={"data": "letters"}),
    ]
    page = Page(write_report(runs, tmp_path / "r.html"))
    assert "2 runs on digits, letters" in page.text
    assert [len(run["names"]) for run in page.data("players")["runs"]] == [3, 12]


def test_equal_folder_names_are_told_apart(tmp_path):
    paths = [tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "other"]
    runs = [write_record(path, epochs=(0, 1)) for path in paths]
    assert [h.label for h in read_histories(runs)] == ["x/run", "y/run", "other"]
    deep = write_record(tmp_path / "z" / "y" / "run", epochs=(0, 1))
    labels = [h.label for h in read_histories([*runs, deep])]
    assert len(set(labels)) == 4


def test_a_single_measured_epoch_is_enough(tmp_path):
    run = write_record(tmp_path / "run", epochs=(0,), status=None, validation=False, test=False)
    page = Page(write_report([run], tmp_path / "r.html"))
    assert "at epoch 0 on the training samples" in page.text
    assert "final, epoch 0" in final_table([run])


# The terminal.


def test_the_table_for_the_terminal_fits(tmp_path):
    long = write_record(tmp_path / ("long" * 20), target="orthogonal")
    other = write_record(tmp_path / "other")
    for runs in ([long], [long, other], [long, other, write_record(tmp_path / "third")]):
        text = final_table(runs)
        assert max(map(len, text.splitlines())) <= 100
        for row in ROWS:
            assert f"\n{row.key} " in text
    assert final_table([other]).isascii()


def test_the_table_for_the_terminal_holds_the_numbers(run):
    text = final_table([run])
    (line,) = [x for x in text.splitlines() if x.startswith("nc1 ")]
    final, selected = run.rows()[-1], run.rows()[-2]
    expected = [
        wording.shown(row[split]["metrics"]["nc1"])
        for row in (final, selected)
        for split in ("train", "test")
    ]
    assert line.split()[-5:] == ["0", *expected]


def test_the_table_for_the_terminal_says_why_a_number_is_missing(run):
    change_rows(run, lambda row: undefine(row, "nc1", "coinciding \x1b[31mmeans"))
    text = final_table([run])
    assert "[1] coinciding ?[31mmeans" in text
    assert "\x1b" not in text
