"""Layers in the report: drawn where a run measured them, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuralcollapse.depth import LayerMeasurement, depth_profile
from neuralcollapse.record import Run
from neuralcollapse.report.depth import depth_panels
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
    panels = depth_panels(read_histories([plain, deep]))
    assert [panel.name for panel in panels] == [
        "depth_nc1", "depth_vci", "depth_features_effective_rank"
    ]  # fmt: skip
    first = panels[0]
    assert first.figure is not None
    curve, law = first.figure["data"]
    assert curve["y"] == [8, 4, 2, 1]
    assert law["y"] == pytest.approx([8, 4, 2, 1])
    assert "&lt;b&gt;" in curve["text"][0]
    assert "factor 0.5 from layer to layer (R² 1)" in first.notes[0]
    assert "the tunnel begins at <b>3</b>" in first.notes[0]
    json.dumps([panel.figure for panel in panels], allow_nan=False)


def test_without_layers_nothing_is_drawn(tmp_path: Path) -> None:
    assert depth_panels(read_histories([write_record(tmp_path / "plain")])) == []


def test_zero_and_undefined_are_gaps(tmp_path: Path) -> None:
    run = with_layers(tmp_path / "deep", [8, 0.0, float("nan"), 1])
    figure = depth_panels(read_histories([run]))[0].figure
    assert figure is not None
    assert len(figure["data"]) == 1  # no law
    assert figure["data"][0]["y"] == [8, None, None, 1]
