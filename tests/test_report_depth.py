"""Layers in the report: drawn where a run measured them, and nowhere else."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neuralcollapse.layers import LayerMeasurement, SeparationLaw, depth_profile
from neuralcollapse.record import Run
from neuralcollapse.report.depth import Depth, depth_notes, depth_panels, depths_of_runs
from neuralcollapse.report.figures import Panel
from neuralcollapse.report.history import read_histories
from records import write_record


def with_layers(path: Path, values: list[float]) -> Run:
    run = write_record(path)
    layers = [
        LayerMeasurement(f"<b>{n}</b>", 4, {"nc1": v, "vci": v / 9, "features_effective_rank": 3.0})
        for n, v in enumerate(values)
    ]
    file = path / "measurements.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[-1]["train"]["depth"] = depth_profile(layers).to_dict()
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_layers_are_drawn_with_their_law(tmp_path: Path) -> None:
    plain, deep = write_record(tmp_path / "plain"), with_layers(tmp_path / "deep", [8, 4, 2, 1])
    depths = depths_of_runs(read_histories([plain, deep]))
    panels = depth_panels(depths)
    assert [panel.name for panel in panels] == [
        "depth_nc1", "depth_vci", "depth_features_effective_rank"
    ]  # fmt: skip
    first = panels[0]
    assert first.figure is not None
    curve, law, ring = first.figure["data"]
    assert curve["y"] == [8, 4, 2, 1]
    assert law["y"] == pytest.approx([8, 4, 2, 1])
    assert "&lt;b&gt;" in curve["text"][0]
    assert (ring["x"], ring["y"]) == ([3], [1])
    # The page hides curves by place and split: the second run, training samples.
    assert [trace["meta"][2:] for trace in (curve, law, ring)] == [[1, "train"]] * 3
    (note,) = depth_notes(depths)
    assert "deep, epoch 4" in note
    assert "factor 0.5 from layer to layer (dotted, R² 1)" in note
    assert "the tunnel begins at <b>3</b>" in note
    json.dumps([panel.figure for panel in panels], allow_nan=False)


def test_a_law_that_is_not_there_is_told(tmp_path: Path) -> None:
    depths = depths_of_runs(read_histories([with_layers(tmp_path / "two", [8, 4])]))
    (note,) = depth_notes(depths)
    assert "there is no separation law, it needs 3 layers, got 2" in note


def test_without_layers_nothing_is_drawn(tmp_path: Path) -> None:
    assert depth_panels(depths_of_runs(read_histories([write_record(tmp_path / "plain")]))) == []


def test_zero_and_undefined_are_gaps(tmp_path: Path) -> None:
    run = with_layers(tmp_path / "deep", [8, 0.0, float("nan"), 1])
    figure = depth_panels(depths_of_runs(read_histories([run])))[0].figure
    assert figure is not None
    assert len(figure["data"]) == 1  # no law, and no ring where there is no height
    assert figure["data"][0]["y"] == [8, None, None, 1]


def of_layers(names: list[str], *, wide: bool = False) -> Depth:
    """Layers that separate by a half each; wide ones are too wide for a scatter."""
    gone = math.nan if wide else 1.0
    layers = [
        LayerMeasurement(
            name, 4, {"nc1": gone * 0.5**n, "nc1_trace_ratio": 3 * 0.5**n, "vci": gone / (n + 2)}
        )
        for n, name in enumerate(names)
    ]
    return Depth(0, "own", "", depth_profile(layers))


def figure_of(panel: Panel) -> dict[str, Any]:
    assert panel.figure is not None
    return panel.figure


def test_layers_too_wide_for_a_scatter_are_drawn_by_their_traces() -> None:
    (panel,) = depth_panels([of_layers(["a", "b", "c"], wide=True)])
    assert panel.name == "depth_nc1_trace_ratio"
    curve, law = figure_of(panel)["data"]
    assert curve["y"] == [3, 1.5, 0.75]
    assert law["y"] == pytest.approx(curve["y"])
    names = [panel.name for panel in depth_panels([of_layers(["a", "b", "c"])])]
    assert names == ["depth_nc1", "depth_vci"]


def test_layers_are_named_where_all_have_the_same() -> None:
    def axis(*depths: Depth) -> dict[str, Any]:
        return figure_of(depth_panels(depths)[0])["layout"]["xaxis"]

    one, other = of_layers(["a", "<b>", "c"]), of_layers(["a", "b", "c"])
    assert axis(one, one)["ticktext"] == ["a", "&lt;b&gt;", "c"]
    assert "ticktext" not in axis(one, other)
    many = axis(of_layers([str(n) for n in range(50)]))
    assert many["ticktext"] == [str(place) for place in many["tickvals"]]
    assert len(many["ticktext"]) <= 12
    assert many["tickangle"] == 0
    long = of_layers(["backbone.0.conv1.weight", "b", "c"])
    layout = figure_of(depth_panels([long])[0])["layout"]
    assert layout["xaxis"]["tickangle"] == -90
    assert layout["xaxis"]["ticktext"][0] == "backbone.0.co…"
    assert layout["height"] > figure_of(depth_panels([one])[0])["layout"]["height"]


def test_a_law_that_overflows_is_left_out() -> None:
    depth = of_layers(["a", "b", "c"])
    law = SeparationLaw("nc1", 1e300, 1.0, 1e300)
    wild = replace(depth, profile=replace(depth.profile, law=law))
    assert [trace["mode"] for trace in figure_of(depth_panels([wild])[0])["data"]] == [
        "lines+markers",
        "markers",
    ]
