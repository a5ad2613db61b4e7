"""Reports of more classes than d+1, where no simplex fits, and of runs with a given frame."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cases.metrics import ROWS
from neuralcollapse.report import figures, tables, wording, write_report
from neuralcollapse.report.history import read_histories
from neuralcollapse.report.verdict import verdict
from pages import Page, unpacked
from records import change_rows, undefine, write_record


@pytest.fixture
def run(tmp_path):
    """Six classes in three dimensions: a cross-polytope at the end, three orthogonal pairs."""
    return write_record(tmp_path / "run", num_classes=6, dim=3, target="uniform")


@pytest.fixture
def framed(tmp_path):
    config = {"frame": "code:energy=log"}
    return write_record(
        tmp_path / "framed", num_classes=6, dim=3, target="frame", config=config, seed=3
    )


def said_of(run) -> str:
    (history,) = read_histories([run])
    return " ".join(sentence.text for sentence in verdict(history))


def panels_of(*runs) -> list[str]:
    return [str(panel.key) for panel in figures.metric_panels(read_histories(runs))]


def test_the_figures_are_those_of_the_regime(run, tmp_path):
    simplex = write_record(tmp_path / "simplex", num_classes=4, dim=6)
    of_regime = {
        name: [row.key for row in ROWS if row.regime in ("any", name)]
        for name in ("simplex", "general")
    }
    assert panels_of(run) == of_regime["general"]
    assert panels_of(simplex) == of_regime["simplex"]
    assert panels_of(run, simplex) == [row.key for row in ROWS]
    assert "gnc2_energy_gap" in panels_of(run)
    assert "nc2_etf_distance" not in panels_of(run)


def test_the_verdict_speaks_of_uniformity(run):
    said = said_of(run)
    gap = run.rows()[-1]["train"]["metrics"]["gnc2_energy_gap"]
    assert f"log energy per pair {wording.shown(gap, 3)} above the least known" in said
    assert "No simplex of 6 classes fits into 3 dimensions" in said
    assert "the GNC2 numbers are primary" in said
    assert "from a simplex ETF (0 is exact" not in said


def test_a_better_arrangement_than_the_best_known_is_below_it(run):
    change_rows(run, lambda row: row["train"]["metrics"].update(gnc2_energy_gap=-0.0125))
    assert "log energy per pair 0.0125 below the least known" in said_of(run)


def test_a_gap_without_a_reference_says_what_to_do(tmp_path):
    run = write_record(tmp_path / "run", num_classes=6, dim=3, target="uniform")
    reason = "the least energy has no closed form"
    change_rows(run, lambda row: undefine(row, "gnc2_energy_gap", reason))
    assert f"is undefined: {reason}." in said_of(run)


def test_what_is_not_known_at_collapse_is_a_dash(run):
    (history,) = read_histories([run])
    values = history.target.values
    assert values["nc2_max_angle"] is None
    assert values["gnc2_log_variance"] is None
    assert values["gnc2_energy_gap"] == 0
    assert values["gnc2_margin"] == values["nc3_alignment"] == 1
    # Three of fifteen pairs at distance 2, the others at sqrt(2).
    assert values["gnc2_log_mean"] == pytest.approx(-(6 + 3) * math.log(2) / 15)
    assert values["hug_inter"] == pytest.approx((3 / 4 + 12 / 2) / 15)
    (line,) = [line for line in lines_of(history) if line.key == "nc2_max_angle"]
    assert line.at_collapse == "—"
    assert {wording.arrow(history, row.key) for row in ROWS} == {"↓", "↑"}


def lines_of(history) -> list[tables.Line]:
    return [
        line
        for line in tables.numbers([history], [tables.final_group(0, history)]).lines
        if line.key
    ]


def test_without_one_arrangement_there_is_no_heat_map_of_it(run, tmp_path):
    page = Page(write_report([run], tmp_path / "r.html"))
    grams = [attrs["data-gram"] for _, attrs in page.tags if "data-gram" in attrs]
    assert grams == ["means", "weight"]
    (shown,) = page.data("players")["runs"]
    assert shown["grams"]["target"] is None
    assert "no one arrangement to reach" in page.text
    assert "K > d+1" in page.text


def test_a_frame_shows_its_own_cosines(framed, tmp_path):
    page = Page(write_report([framed], tmp_path / "r.html"))
    (shown,) = page.data("players")["runs"]
    epochs = framed.snapshot_epochs()
    vectors = framed.snapshot(epochs[-1])["weight"].double().numpy()
    expected = [vectors[k] @ vectors[j] for k in range(6) for j in range(k + 1, 6)]
    target = unpacked(shown["grams"]["target"], shown["grams"]["scale"])
    np.testing.assert_allclose(target, expected, atol=6e-5)  # four decimals are kept
    assert sorted(target.round(3)) == [-1.0] * 3 + [0.0] * 12  # the cross-polytope
    assert "frame code:energy=log" in page.text


def test_the_values_at_a_frame_are_those_of_its_vectors(framed):
    (history,) = read_histories([framed])
    values = history.target.values
    assert values["gnc2_energy_gap"] == 0
    assert values["gnc2_margin"] == 1
    assert values["nc2_equiangle"] == pytest.approx(0.4, abs=1e-6)
    assert values["nc3_alignment"] == 1
    assert values["hug_intra"] == values["nc1"] == 0
    # Known here, unlike at collapse in general: an arrangement, and not any of the most uniform.
    assert wording.arrow(history, "nc2_equiangle") == "→"
    assert wording.arrow(history, "nc1") == "↓"
    assert "rows of the classifier" not in said_of(framed)  # from a simplex, which does not fit


def test_a_frame_that_is_a_simplex_is_asked_for_what_a_simplex_is(tmp_path):
    config = {"frame": "simplex.safetensors"}
    run = write_record(tmp_path / "run", num_classes=4, dim=6, target="frame", config=config)
    (history,) = read_histories([run])
    assert history.target.regime == "simplex"
    assert not history.target.elsewhere
    assert "lie" in said_of(run)
    assert "where its target" not in said_of(run)


def test_a_frame_in_the_regime_of_the_simplex_may_aim_elsewhere(tmp_path):
    run = write_record(tmp_path / "run", target="orthogonal")
    (history,) = read_histories([run])
    # Centred, an orthogonal frame is a simplex; the classifier itself is none.
    assert {"nc2w_max_angle", "nc2w_etf_distance", "nc3_alignment"} <= history.target.elsewhere
    assert not {"nc2_max_angle", "gnc2_energy_gap", "nc2w_equinorm"} & history.target.elsewhere


def test_both_regimes_side_by_side(run, framed, tmp_path):
    simplex = write_record(tmp_path / "simplex", num_classes=6, dim=8)
    page = Page(write_report([run, framed, simplex], tmp_path / "r.html"))
    targets = [shown["grams"]["target"] for shown in page.data("players")["runs"]]
    assert [target is None for target in targets] == [True, False, False]
    for panel in figures.metric_panels(read_histories([run, framed, simplex])):
        assert str(panel.key) in page.text
