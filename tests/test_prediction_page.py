"""Pages of predictions: every case draws, nothing is fetched, many classes stay small."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from neuralcollapse.report import write_prediction, write_report
from neuralcollapse.report.prediction_figures import prediction_panels
from neuralcollapse.theory import Prediction, predict
from neuralcollapse.theory.modes import jump_level, mode_scale, spinodal_level
from pages import Page
from records import write_record

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
HOSTILE = '</script><img src="x" onerror="document.hacked=1">&amp;'
MOST_OWN = 600_000  # bytes of a page beside plotly.js

CASES: dict[str, dict[str, Any]] = {
    "balanced": {"counts": [20] * 4, "bias": "free"},
    "tail": {"counts": [30, 12, 5, 4, 2], "weight_decay": 0.02, "feature_decay": 0.08},
    "deep": {"counts": [30, 12, 5], "depth": 3},
    "everything dead": {"counts": [3, 2], "weight_decay": 9.0, "feature_decay": 9.0, "depth": 2},
    "cross entropy": {"counts": [30, 12, 5, 5], "loss": "ce"},
    "deep cross entropy": {"counts": [4] * 4, "loss": "ce", "depth": 2},
    "smoothed": {"counts": [30, 12, 5], "loss": "label_smoothing", "bias": 0.1},
    "targets": {"counts": [1, 1, 1], "targets": torch.eye(3)[:, :2]},
    "many": {"counts": [9] * 1500},
    "many of a tail": {"counts": list(range(1, 1501))},
}


def made(case: str) -> Prediction:
    options = {"weight_decay": 5e-3, "feature_decay": 1e-3, **CASES[case]}
    return predict(options.pop("counts"), **options)


def panels(case: str) -> dict[str, Any]:
    return {
        panel.name.removeprefix("prediction-"): panel for panel in prediction_panels(made(case))
    }


@pytest.mark.parametrize("case", CASES)
def test_every_case_makes_a_page_of_valid_figures_that_fetches_nothing(tmp_path: Path, case: str):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    from plotly.offline import get_plotlyjs

    page = Page(write_prediction(made(case), tmp_path / "p.html"))
    figures = page.data("figures")
    assert figures
    for figure in figures.values():
        graph_objects.Figure(figure)
    places = [str(attrs["data-figure"]) for _, attrs in page.tags if "data-figure" in attrs]
    assert sorted(places) == sorted(figures)
    assert not [attrs for _, attrs in page.tags if "src" in attrs]
    links = [attrs["href"] or "" for _, attrs in page.tags if "href" in attrs]
    assert all(link.startswith(("data:", "#")) for link in links)
    assert len(page.source.encode()) - len(get_plotlyjs().encode()) < MOST_OWN
    assert "NaN" not in page.scripts[0]


def test_of_many_classes_matrices_are_left_out_and_the_table_is_cut(tmp_path: Path):
    page = Page(write_prediction(made("many of a tail"), tmp_path / "p.html"))
    assert not [name for name in page.data("figures") if "gram" in name]
    assert "The first 200 of 1500 classes" in page.text
    norms = page.data("figures")["prediction-norms"]
    assert [len(trace["x"]) for trace in norms["data"][:2]] == [400, 400]
    assert (norms["data"][0]["x"][0], norms["data"][0]["x"][-1]) == (1, 1500)
    assert "400 of 1500 classes" in page.text


def test_the_figures_of_each_case():
    assert {"norms", "phases", "gram-classifier-predicted"} <= set(panels("tail"))
    assert "wells" in panels("deep")
    assert "path" in panels("cross entropy")
    for case, absent in (("tail", "wells"), ("balanced", "path"), ("deep cross entropy", "phases")):
        assert absent not in panels(case)


def test_the_norms_are_those_of_the_prediction_with_the_threshold():
    figure = panels("tail")["norms"].figure
    classifier = figure["data"][0]
    assert classifier["x"] == [2, 4, 5, 12, 30]
    assert classifier["y"] == pytest.approx([0, 0, 0.23214, 2.6882, 6.7145], rel=1e-4)
    line = figure["data"][-1]
    assert line["x"] == [pytest.approx(4.4944, rel=1e-4)] * 2
    norms = [y for trace in figure["data"][:2] for y in trace["y"] if y]
    assert line["y"] == [min(norms), max(norms)]


def test_what_the_threshold_means_is_said(tmp_path: Path):
    for case, said in (
        ("tail", "classes of up to 4.494 samples do not survive"),
        ("cross entropy", "equal classes of up to 0.01352 samples merge"),
    ):
        assert said in Page(write_prediction(made(case), tmp_path / "p.html")).text


def test_a_threshold_far_below_all_counts_is_said_and_not_drawn():
    far = predict([500, 400], weight_decay=1e-5, feature_decay=1e-5)
    near = predict([500, 400], weight_decay=5e-3, feature_decay=5e-3)
    for prediction, drawn in ((far, False), (near, True)):
        (panel,) = [panel for panel in prediction_panels(prediction) if "norms" in panel.name]
        assert panel.figure is not None
        names = [trace["name"] for trace in panel.figure["data"]]
        assert any(name.startswith("n*") for name in names) == drawn
        assert f"n* = {prediction.threshold:.4g} samples" in panel.subtitle
        assert ("lies outside" in panel.subtitle) != drawn


@pytest.mark.parametrize("case", ["tail", "deep", "balanced"])
def test_the_phase_diagram_agrees_with_the_theory(case: str):
    """Each cell, against predictions for counts stretched by its ratio."""
    prediction = made(case)
    heat, star = panels(case)["phases"].figure["data"]
    most, least = int(prediction.counts.max()), int(prediction.counts.min())
    assert star["x"] == [pytest.approx(most / least, rel=1e-4)]
    assert prediction.weight_decay is not None
    assert prediction.feature_decay is not None
    assert star["y"] == [pytest.approx(prediction.weight_decay[0], rel=1e-4)]
    classes = prediction.num_classes
    for column, ratio in list(enumerate(heat["x"]))[::12]:
        if most == least:
            sizes = [most * ratio ** (-k / (classes - 1)) for k in range(classes)]
        else:
            sizes = [most * (most / n) ** (-torch.log(torch.tensor(ratio)).item()
                     / torch.log(torch.tensor(most / least)).item())
                     for n in prediction.counts.tolist()]  # fmt: skip
        for row, decay in list(enumerate(heat["y"]))[::6]:
            multiple = decay / prediction.weight_decay[0]
            decays = [multiple * d for d in (*prediction.weight_decay, prediction.feature_decay)]
            level = mode_scale(decays, sum(sizes)) / min(sizes)
            # Cells at a border may be rounded to either side.
            borders = (jump_level(prediction.depth), spinodal_level(prediction.depth))
            if all(abs(level / border - 1) > 1e-3 for border in borders):
                assert heat["z"][row][column] == sum(level >= border for border in borders)


def test_the_star_lies_where_the_status_of_the_rarest_says():
    for case, dead in (("tail", True), ("deep", False)):
        heat, star = panels(case)["phases"].figure["data"]
        column = min(range(len(heat["x"])), key=lambda i: abs(heat["x"][i] / star["x"][0] - 1))
        row = min(range(len(heat["y"])), key=lambda i: abs(heat["y"][i] / star["y"][0] - 1))
        assert (heat["z"][row][column] == 2) == dead


def test_the_wells_are_level_at_the_threshold_and_flat_at_the_spinodal():
    rarest, threshold, spinodal = panels("deep")["wells"].figure["data"]
    assert "5 samples" in rarest["name"]

    def inner(trace: dict[str, Any]) -> float:
        return min(y for x, y in zip(trace["x"], trace["y"], strict=True) if y and x > 0.2)

    assert inner(rarest) < 1
    # A grid of 300 points misses the minimum by little.
    assert inner(threshold) == pytest.approx(1, abs=1e-3)
    assert inner(spinodal) > 1
    values = [y for x, y in zip(spinodal["x"], spinodal["y"], strict=True) if y and x > 0.01]
    assert all(b > a - 1e-4 for a, b in itertools.pairwise(values))


def test_the_path_comes_nearer_to_seli():
    seli = panels("cross entropy")["path"].figure["data"][1]
    assert seli["name"] == "from SELI"
    known = [value for value in seli["y"] if value is not None]
    assert known[-1] < 0.5 * known[0]


def reported(folder: Path, **changes: Any) -> Page:
    """The report of a run beside its prediction."""
    config = {"loss": "squared-error", "head": "linear", "bias": False, "weight_decay": 0.05}
    run = write_record(
        folder / "run",
        counts=[20, 9, 5, 9],
        classes=[HOSTILE, "dog", "bird", "fish"],
        config={**config, **changes},
    )
    return Page(write_report([run], folder / "r.html", predict=True))


def test_a_report_shows_prediction_beside_measurement(tmp_path: Path):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    page = reported(tmp_path)
    figures = {n: f for n, f in page.data("figures").items() if n.startswith("prediction-0")}
    for figure in figures.values():
        graph_objects.Figure(figure)
    names = {name.removeprefix("prediction-0-") for name in figures}
    assert {"distances-weight", "distances-means", "ratios", "norms"} <= names
    for what in ("classifier", "class-means"):
        kinds = ("predicted", "measured", "measured-less-predicted")
        assert {f"gram-{what}-{kind}" for kind in kinds} <= names
    targets = [trace["name"] for trace in figures["prediction-0-distances-weight"]["data"]]
    assert targets == ["from predicted", "from simplex ETF", "from orthogonal frame"]
    assert "verdict" in page.text
    assert HOSTILE in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]


def test_a_run_of_a_class_that_theory_lets_die_says_so(tmp_path: Path):
    page = reported(tmp_path, weight_decay=0.4)
    # n* = 43 * 0.16 = 6.88: the class of five.
    assert "dead by theory, alive in training" in page.text


def test_a_run_without_a_prediction_says_why(tmp_path: Path):
    page = reported(tmp_path, loss="hug", head="cosine")
    assert "No prediction: loss must be cross-entropy or squared-error" in page.text


def test_features_of_unit_length_are_not_compared(tmp_path: Path):
    page = reported(tmp_path, normalize=True)
    assert "measured at unit length" in page.text
    assert "prediction-0-ratios" not in page.data("figures")


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor chrome is installed")
@pytest.mark.parametrize("case", ["deep", "cross entropy", "report"])
def test_a_browser_draws_every_figure_without_errors(tmp_path: Path, case: str):
    if case == "report":
        reported(tmp_path)
        path = tmp_path / "r.html"
    else:
        path = write_prediction(made(case), tmp_path / "p.html")
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--window-size=1280,2000",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=60000", "--dump-dom",
        path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    root = re.search(r"<html[^>]*>", done.stdout)
    assert root, done.stderr[-2000:]
    assert "data-ready" in root[0]
    assert "data-errors" not in root[0] or 'data-errors=""' in root[0], root[0]
    places = re.findall(r"<div[^>]* data-figure=[^>]*>", done.stdout)
    assert len(places) >= 5
    assert all("data-drawn" in place for place in places)
