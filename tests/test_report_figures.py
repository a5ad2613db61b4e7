"""The figures of a report: curves over the epochs, cosines, and features in three dimensions."""

from __future__ import annotations

import math
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from cases.metrics import ROWS
from neuralcollapse.record import Run
from neuralcollapse.report import figures, wording, write_report
from neuralcollapse.report.grams import gram_frames
from neuralcollapse.report.history import History, read_histories
from neuralcollapse.report.scene import chosen_points, projection, scene_frames
from neuralcollapse.report.snapshots import (
    MAX_CLASSES,
    MAX_STEPS,
    Snapshots,
    chosen,
    packed,
    read_snapshot,
    shown_epochs,
    slider_epochs,
)
from pages import Page, unpacked
from records import change_rows, undefine, write_record


def curve(panel: figures.Panel, label: str, split: str) -> dict:
    (trace,) = [t for t in drawn(panel)["data"] if t["meta"][:2] == [label, split]]
    return trace


def drawn(panel: figures.Panel) -> dict:
    assert panel.figure is not None
    return panel.figure


def panel_of(runs: list[Run], key: str) -> figures.Panel:
    (panel,) = [p for p in figures.metric_panels(read_histories(runs)) if p.key == key]
    return panel


def bare_history(path: Path, means: Tensor, features: Tensor, labels: Tensor) -> History:
    """A run with one snapshot, in which the classifier is the class means."""
    run = Run.create(path / "bare", {}, {})
    run.append({"epoch": 0, "train": {"counts": [1] * len(means)}})
    tensors = {"means": means, "weight": means, "features": features, "labels": labels}
    run.write_snapshot(0, {name: tensor.clone() for name, tensor in tensors.items()})
    return read_histories([run])[0]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_record(tmp_path / "plain")


# Curves.


def test_curves_are_the_record(run):
    trace = curve(panel_of([run], "nc1"), "plain", "train")
    assert trace["x"] == [0, 1, 2, 4]
    recorded = [row["train"]["metrics"]["nc1"] for row in run.rows()]
    assert trace["y"] == pytest.approx(recorded, rel=1e-4)  # five digits are kept
    assert trace["line"]["dash"] == "solid"
    assert curve(panel_of([run], "nc1"), "plain", "test")["line"]["dash"] == "dash"


def test_an_undefined_value_leaves_a_gap_with_its_reason(run):
    def change(row):
        if row["epoch"] in (1, 2):
            undefine(row, "nc1", "the means coincide")

    change_rows(run, change)
    panel = panel_of([run], "nc1")
    trace = curve(panel, "plain", "train")
    assert trace["y"][1:3] == [None, None]
    assert None not in (trace["y"][0], trace["y"][3])
    assert trace["connectgaps"] is False
    assert panel.notes == ("plain, train: no value at epochs 1 to 2 (the means coincide).",)


def test_a_metric_without_any_value_has_no_figure(run, tmp_path):
    def change(row):
        for split in ("train", "test"):
            undefine(row, "nc3_duality", "no classifier", split)

    change_rows(run, change)
    panel = panel_of([run], "nc3_duality")
    assert panel.figure is None
    assert panel.notes == ("plain, train; plain, test: no value at epochs 0 to 4 (no classifier).",)
    assert "no classifier" in Page(write_report([run], tmp_path / "r.html")).text


def test_a_split_that_was_never_measured_is_no_gap(tmp_path):
    run = write_record(tmp_path / "run", test=False)
    assert panel_of([run], "nc1").notes == ()


def test_metrics_that_vanish_have_a_logarithmic_axis(run):
    shown = [row.key for row in ROWS if row.regime != "general"]
    layouts = {key: panel_of([run], key).figure for key in shown}
    kinds = {
        key: figure["layout"]["yaxis"].get("type") for key, figure in layouts.items() if figure
    }
    assert kinds["nc1"] == kinds["nc2_etf_distance"] == "log"
    assert kinds["nc3_alignment"] is None
    assert kinds["nc4_disagreement"] is None


def test_zero_on_a_logarithmic_axis_is_drawn_at_its_lower_edge(run):
    def change(row):
        if row["epoch"] == 4:
            row["train"]["metrics"]["nc2w_equinorm"] = 0.0

    change_rows(run, change)
    panel = panel_of([run], "nc2w_equinorm")
    trace = curve(panel, "plain", "train")
    others = [y for t in drawn(panel)["data"] for y in t["y"] if y != trace["y"][-1]]
    assert 0 < trace["y"][-1] < min(others)
    assert trace["text"][-1] == "0"
    assert trace["marker"]["symbol"][-1] == "triangle-down-open"
    assert any("exactly 0" in note for note in panel.notes)


def test_the_value_at_collapse_is_drawn(tmp_path):
    simplex = write_record(tmp_path / "simplex")
    orthogonal = write_record(tmp_path / "orthogonal", target="orthogonal")

    def heights(runs):
        return [shape["y0"] for shape in drawn(panel_of(runs, "nc3_alignment"))["layout"]["shapes"]]

    assert heights([simplex]) == [1.0]
    # cos(e_k, e_k - 1/K) = sqrt((K-1)/K)
    both = heights([simplex, orthogonal])
    assert both == pytest.approx([math.sqrt(3 / 4), 1.0], rel=1e-4)


def test_an_orthogonal_classifier_is_not_asked_for_a_simplex(tmp_path):
    (history,) = read_histories([write_record(tmp_path / "run", target="orthogonal")])
    assert history.target.values["nc2w_max_angle"] == pytest.approx(1 / 3)
    assert history.target.values["nc2_max_angle"] == pytest.approx(0, abs=1e-9)
    assert history.target.values["nc2w_equinorm"] == 0
    assert wording.arrow(history, "nc2w_max_angle") == "→"
    assert wording.arrow(history, "nc1") == "↓"


def test_runs_differ_in_colour_and_many_runs_in_symbol(tmp_path):
    runs = [write_record(tmp_path / f"run{n}", epochs=(0, 1)) for n in range(9)]
    figure = panel_of(runs, "nc1").figure
    assert figure is not None
    looks = [(t["line"]["color"], t["marker"]["symbol"]) for t in figure["data"][::2]]
    assert len(set(looks)) == 9


def test_loss_terms_are_drawn_where_there_are_several(run, tmp_path):
    assert figures.terms_panel(read_histories([run])) is None
    change_rows(run, lambda row: row.update(terms={"pull": 0.5, "push": 0.25}))
    panel = figures.terms_panel(read_histories([run]))
    assert panel is not None
    assert panel.figure is not None
    assert [trace["meta"][1] for trace in drawn(panel)["data"]] == ["train, pull", "train, push"]


# Snapshots.


@given(st.lists(st.integers(), min_size=1, max_size=200, unique=True), st.integers(2, 50))
def test_chosen_items_are_few_and_hold_both_ends(items, limit):
    few = chosen(items, limit)
    assert len(few) == min(limit, len(items))
    assert (few[0], few[-1]) == (items[0], items[-1])
    assert few == [item for item in items if item in set(few)]


def test_the_slider_has_few_stops(tmp_path):
    runs = [
        write_record(tmp_path / "long", epochs=range(60)),
        write_record(tmp_path / "sparse", epochs=(3, 30)),
    ]
    histories = read_histories(runs)
    stops = slider_epochs(histories)
    assert len(stops) == MAX_STEPS
    assert (stops[0], stops[-1]) == (0, 59)
    shown = shown_epochs(histories[1], stops)
    # the latest snapshot up to the stop; before the first, the first
    assert shown == [30 if stop >= 30 else 3 for stop in stops]


@given(st.lists(st.floats(-2, 2) | st.just(math.nan), max_size=20))
def test_packed_numbers_come_back(values):
    back = unpacked(packed(torch.tensor(values, dtype=torch.float64), 2.0), 2.0)
    # half a step of 16 bits
    np.testing.assert_allclose(back, values, atol=0.51 * 2 / 32767)


def test_heat_maps_hold_the_cosines(run):
    (history,) = read_histories([run])
    snapshot = read_snapshot(history, 2)
    frames = gram_frames(Snapshots(history, [2]), [0, 1, 2, 3])
    means = snapshot.means.numpy() - snapshot.means.numpy().mean(0)
    for kind, vectors in (("means", means), ("weight", snapshot.weight.numpy())):
        (text,) = frames[kind]
        cosines = [
            vectors[k] @ vectors[j] / np.linalg.norm(vectors[k]) / np.linalg.norm(vectors[j])
            for k in range(4)
            for j in range(k + 1, 4)
        ]
        # four decimals are kept
        np.testing.assert_allclose(unpacked(text, frames["scale"]), cosines, atol=6e-5)
    np.testing.assert_allclose(unpacked(frames["target"], frames["scale"]), [-1 / 3] * 6, atol=6e-5)


def test_the_projection_is_orthonormal_and_shows_what_it_says(run):
    (history,) = read_histories([run])
    snapshots = Snapshots(history, [0, 4])
    directions = projection(snapshots.last, [0, 1, 2, 3])
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-9)
    frames = scene_frames(snapshots, [0, 1, 2, 3])
    # Four class means, centred, span three directions: at the last epoch all is seen.
    assert frames["share"][1] == pytest.approx(1.0)
    assert 0 < frames["share"][0] < 1
    shown = unpacked(frames["means"][1], frames["scale"]).reshape(4, 3) * frames["radius"][1]
    means = snapshots.last.means.numpy()
    centred = means - means.mean(0)
    np.testing.assert_allclose(shown @ shown.T, centred @ centred.T, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("num_classes, dim", [(2, 1), (2, 5), (3, 2), (5, 2), (12, 4)])
def test_few_classes_and_few_dimensions_can_be_projected(tmp_path, generator, num_classes, dim):
    labels = torch.arange(num_classes).repeat(4)
    means = torch.randn(num_classes, dim, generator=generator)
    noise = torch.randn(len(labels), dim, generator=generator)
    snapshots = Snapshots(bare_history(tmp_path, means, means[labels] + noise, labels), [0])
    classes = list(range(num_classes))
    directions = projection(snapshots.last, classes)
    assert directions.shape == (dim, 3)
    expected = torch.diag((torch.arange(3) < min(3, dim)).double())
    torch.testing.assert_close(directions.T @ directions, expected, atol=1e-9, rtol=0)
    (share,) = scene_frames(snapshots, classes)["share"]
    assert share <= 1 + 1e-4  # five digits are kept


def test_coinciding_class_means_can_be_projected(tmp_path):
    zeros, labels = torch.zeros(4, 6), torch.arange(4)
    snapshots = Snapshots(bare_history(tmp_path, zeros, zeros, labels), [0])
    frames = scene_frames(snapshots, [0, 1, 2, 3])
    assert frames["share"] == [0.0]
    assert np.isnan(unpacked(gram_frames(snapshots, [0, 1])["means"][0], 1)).all()


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 30))
def test_points_are_chosen_evenly_from_the_classes(labels, limit):
    classes = [0, 2, 3]
    picked = torch.tensor(labels, dtype=torch.int64)[
        chosen_points(torch.tensor(labels, dtype=torch.int64), classes, limit)
    ].tolist()
    available = [label for label in labels if label in classes]
    assert len(picked) == min(limit, len(available))
    assert set(picked) <= set(classes)
    for one in classes:
        for other in classes:
            # nobody has two more than another who had more to give
            if picked.count(other) < available.count(other):
                assert picked.count(one) <= picked.count(other) + 1


def test_absent_classes_are_left_out_and_named(tmp_path):
    run = write_record(tmp_path / "run", counts=[9, 0, 9, 9], classes=["ant", "bee", "cat", "dog"])
    page = Page(write_report([run], tmp_path / "r.html"))
    (shown,) = page.data("players")["runs"]
    assert shown["names"] == ["ant", "cat", "dog"]
    target = unpacked(shown["grams"]["target"], shown["grams"]["scale"])
    np.testing.assert_allclose(target, [-1 / 2] * 3, atol=6e-5)
    assert shown["notes"] == ["Left out, no training samples: bee."]
    assert "1 of 4 classes have no training sample and are left out: bee." in page.text


def test_many_classes_are_cut_with_a_note(tmp_path):
    run = write_record(tmp_path / "run", num_classes=104, dim=104, epochs=(0, 3), counts=[2] * 104)
    page = Page(write_report([run], tmp_path / "r.html"))
    (shown,) = page.data("players")["runs"]
    assert len(shown["names"]) == MAX_CLASSES
    assert shown["notes"] == ["Shown are the first 100 of 104 classes."]
    assert unpacked(shown["grams"]["means"][-1], 1).shape == (100 * 99 / 2,)


def test_pages_stay_small(tmp_path):
    plotly = pytest.importorskip("plotly.offline")
    run = write_record(
        tmp_path / "run", num_classes=10, dim=128, epochs=range(50), counts=[60] * 10
    )
    size = write_report([run], tmp_path / "r.html").stat().st_size
    # forty steps of 400 points, three coordinates and a label, in 16 bits as base64, make 170 kB
    assert size - len(plotly.get_plotlyjs().encode()) < 500_000


def test_a_run_without_snapshots_is_reported_without_them(run, tmp_path):
    for file in (run.path / "snapshots").iterdir():
        file.unlink()
    page = Page(write_report([run], tmp_path / "r.html"))
    assert page.data("players")["stops"] == []
    assert not any("data-gram" in attrs for _, attrs in page.tags)
    other = write_record(tmp_path / "other")
    assert "No snapshots were kept" in Page(write_report([run, other], tmp_path / "r.html")).text
