"""Pages of saved measurements: what they say, what they draw, and what they refuse."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuralcollapse import Measurement, measure_features, measure_shards
from neuralcollapse.depth import LayerMeasurement, depth_profile
from neuralcollapse.jackknife import Interval
from neuralcollapse.metrics import METRICS
from neuralcollapse.record import Run
from neuralcollapse.report import write_measurements
from neuralcollapse.report.figures import Panel
from neuralcollapse.report.measured import Measured, read_measured
from neuralcollapse.report.measured_figures import (
    class_counts_panel,
    distance_panel,
    ratio_panel,
)
from neuralcollapse.report.verdict import measured_verdict
from pages import Page
from records import write_record

pytest.importorskip("plotly", reason="needs the extra report")
pytest.importorskip("jinja2", reason="needs the extra report")

HOSTILE = '</script><img src="x" onerror="document.hacked=1"><a href="http://x">x</a>&amp;'
MOST_OWN = 400_000  # bytes of a page beside plotly.js


def measured(
    *, classes: int = 4, dim: int = 6, noise: float = 0.2, counts: Sequence[int] = (), seed: int = 0
) -> Measurement:
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(classes, dim, generator=generator)
    labels = torch.arange(classes).repeat_interleave(torch.tensor(counts or [9] * classes))
    features = means[labels] + noise * torch.randn(len(labels), dim, generator=generator)
    return measure_features(features, labels, means, num_classes=classes, split=f"part {seed}")


def collapsed() -> Measurement:
    """Onto a simplex that float64 holds exactly: rows of the identity, less their mean."""
    vectors = torch.eye(4, dtype=torch.float64) - 0.25
    return measure_features(vectors.repeat(5, 1), torch.arange(4).repeat(5), vectors)


def with_depth(one: Measurement) -> Measurement:
    layers = [LayerMeasurement(f"layer{n}", 6, {"nc1": 0.5**n, "vci": 0.4**n}) for n in range(1, 5)]
    return replace(one, depth=depth_profile(layers))


def as_measured(label: str, one: Measurement, **more: Any) -> Measured:
    return Measured(label, one, **more)


def figure_of(panel: Panel | None) -> dict[str, Any]:
    assert panel is not None
    assert panel.figure is not None
    return panel.figure


def rows_of(figure: dict[str, Any], trace: int = 0) -> dict[str, float | None]:
    """What a trace draws, by the name of the row."""
    return dict(zip(figure["layout"]["yaxis"]["ticktext"], figure["data"][trace]["x"], strict=True))


def page_of(tmp_path: Path, measurements: Any = None, **labelled: Measurement) -> Page:
    return Page(write_measurements(measurements or labelled, tmp_path / "p.html"))


# The page.


def test_a_saved_measurement_comes_back_whole(tmp_path: Path) -> None:
    one = with_depth(measured())
    one.save(tmp_path / "own.json")
    page = page_of(tmp_path, [tmp_path / "own.json"])
    assert "Neural collapse: own" in page.text
    for row in METRICS:
        if row.key in one.metrics:
            assert row.key in page.text
            assert row.summary in page.text
    for name, value in one.conventions.items():
        assert name.replace("_", " ") in page.text
        assert value in page.text
    for note in one.notes:
        assert note in page.text
    assert "36 samples in 4 classes (9 each), 6 wide" in page.text
    assert set(page.data("figures")) == {"distance", "depth_nc1", "depth_vci"}


def test_a_file_and_the_measurement_make_the_same_page(tmp_path: Path) -> None:
    one = with_depth(measured())
    one.save(tmp_path / "own.json")
    first = write_measurements([tmp_path / "own.json"], tmp_path / "a.html").read_bytes()
    assert write_measurements({"own": one}, tmp_path / "b.html").read_bytes() == first


def test_every_figure_is_valid_plotly_has_one_place_and_nothing_is_fetched(tmp_path: Path) -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    page = page_of(
        tmp_path,
        train=with_depth(measured()),
        test=with_depth(measured(seed=1, counts=[3, 9, 5, 1])),
    )
    figures = page.data("figures")
    assert {"distance", "ratio", "counts", "depth_nc1"} <= set(figures)
    for figure in figures.values():
        graph_objects.Figure(figure)
    places = [attrs["data-figure"] or "" for _, attrs in page.tags if "data-figure" in attrs]
    assert sorted(places) == sorted(figures)
    for tag, attrs in page.tags:
        assert "src" not in attrs
        assert tag not in ("iframe", "object", "embed", "form", "base")
        assert (attrs.get("href") or "#").startswith(("#", "data:"))
    policies = [attrs.get("content") or "" for tag, attrs in page.tags if tag == "meta"]
    assert any("default-src 'none'" in policy for policy in policies)


def test_differences_come_first(tmp_path: Path) -> None:
    one, other = measured(), measured(seed=1)
    odd = replace(other, conventions=other.conventions | {"global_mean": "mean of all samples"})
    page = page_of(tmp_path, a=one, b=other, c=odd)
    assert "Compares a, b and c. They differ in: split, global mean." in page.text
    assert "Measured under different conventions (global mean)" in page.text
    table = page.text[page.text.index("Conventions and notes") :]
    assert table.index("global mean differs") < table.index("standard deviation")
    assert "different conventions" not in page_of(tmp_path, a=one, b=other).text


def test_notes_of_some_come_before_notes_of_all(tmp_path: Path) -> None:
    one, other = (
        replace(measured(), notes=("of all", "own")),
        replace(measured(), notes=("of all",)),
    )
    text = page_of(tmp_path, a=one, b=other).text
    assert text.index("a: own") < text.index("All: of all")


def test_another_shape_is_said(tmp_path: Path) -> None:
    text = page_of(tmp_path, a=measured(), b=measured(classes=3)).text
    assert "Numbers of classes or widths differ" in text
    assert "by K, d" in text
    assert "collapse 3" in text  # the effective rank of 4 classes
    assert "collapse 2" in text


def test_labels_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        measured().save(tmp_path / name / "m.json")
    measured().save(tmp_path / "other.json")
    found = read_measured([tmp_path / "a/m.json", tmp_path / "b/m.json", tmp_path / "other.json"])
    assert [one.label for one in found] == ["a/m", "b/m", "other"]
    page = page_of(tmp_path, [tmp_path / "a/m.json", tmp_path / "b/m.json"])
    assert str(tmp_path) not in page.source


def test_hostile_names_are_shown_and_make_no_tags(tmp_path: Path) -> None:
    plain = with_depth(measured(counts=[1, 2, 3, 4]))
    assert plain.depth is not None
    layers = tuple(replace(layer, name=HOSTILE + layer.name) for layer in plain.depth.layers)
    hostile = replace(
        plain,
        conventions={HOSTILE: HOSTILE},
        notes=(HOSTILE,),
        metrics=plain.metrics | {"nc1": math.nan},
        undefined={"nc1": HOSTILE},
        depth=depth_profile(layers),
    )
    page = Page(write_measurements({HOSTILE: hostile, "b": plain}, tmp_path / "p.html"))
    assert HOSTILE in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert len(page.scripts) == 4
    for figure in page.data("figures").values():
        for trace in figure["data"]:
            shown = [trace["name"], *trace.get("text", ()), *trace["meta"][:2]]
            assert not [text for text in shown if "<" in text]


# What is drawn.


def test_distances_are_those_from_the_value_at_collapse() -> None:
    one = as_measured("own", measured())
    drawn = rows_of(figure_of(distance_panel([one])))
    assert drawn["nc1"] == pytest.approx(one.measurement["nc1"], rel=1e-4)  # drawn to 5 digits
    assert drawn["nc3_alignment"] == pytest.approx(1 - one.measurement["nc3_alignment"], rel=1e-4)
    assert drawn["effective_rank"] == pytest.approx(3 - one.measurement["effective_rank"], rel=1e-4)
    assert "gnc2_energy_gap" not in drawn  # of more classes than d+1


def test_ratios_are_those_of_the_distances() -> None:
    one, other = as_measured("one", measured()), as_measured("other", measured(noise=0.5))
    drawn = rows_of(figure_of(ratio_panel([one, other])))
    for key in ("nc1", "nc3_alignment"):
        near, far = one.distance(key, one.value(key)), other.distance(key, other.value(key))
        assert near is not None
        assert far is not None
        assert drawn[key] == pytest.approx(far / near, rel=1e-4)
    assert ratio_panel([one]) is None


def test_what_has_collapsed_is_drawn_at_the_edge() -> None:
    both = [as_measured("noisy", measured()), as_measured("collapsed", collapsed())]
    panel = distance_panel(both)
    figure = figure_of(panel)
    lowest = min(x for trace in figure["data"] for x in trace["x"] if x is not None)
    place = [trace["name"] for trace in figure["data"]].index("collapsed")
    assert rows_of(figure, place)["nc1"] == lowest
    row = figure["layout"]["yaxis"]["ticktext"].index("nc1")
    assert figure["data"][place]["marker"]["symbol"][row] == "triangle-left-open"
    assert any("less than 1e-7" in note for note in panel.notes)
    ratios = figure_of(ratio_panel(both))
    assert rows_of(ratios)["nc1"] == min(x for x in ratios["data"][0]["x"] if x is not None)
    # Nothing is a multiple of zero.
    assert ratio_panel(both[::-1]) is None


def test_dots_of_a_row_do_not_hide_each_other() -> None:
    same = [as_measured(str(n), measured()) for n in range(7)]
    figure = figure_of(distance_panel(same))
    heights = [trace["y"][3] for trace in figure["data"] if trace["marker"]["size"] == 9]
    dots = sorted(set(heights))
    assert len(dots) == 7
    assert all(2.5 < height < 3.5 for height in dots)


def test_noise_is_drawn_where_it_is_known() -> None:
    one = as_measured("own", measured())
    figure = figure_of(distance_panel([one]))
    drawn = rows_of(figure, 1)
    assert drawn["cdnv"] == pytest.approx(one.measurement.null["cdnv"], rel=1e-4)
    assert drawn["nc3_duality"] is None
    normal = replace(one.measurement, conventions={"features": "scaled to unit length"})
    assert len(figure_of(distance_panel([as_measured("own", normal)]))["data"]) == 1


def test_an_interval_reaches_from_end_to_end_and_not_beyond_the_edge() -> None:
    one = measured()
    value = one["nc3_alignment"]
    intervals = {
        "nc3_alignment": Interval(value, 0.0, value - 0.01, value + 0.02),
        "nc1": Interval(one["nc1"], 0.0, -1.0, 3.0),
    }
    figure = figure_of(distance_panel([as_measured("own", replace(one, intervals=intervals))]))
    keys, trace = figure["layout"]["yaxis"]["ticktext"], figure["data"][0]
    place = keys.index("nc3_alignment")
    # The distance is 1 - value, so that the ends change places.
    assert trace["error_x"]["array"][place] == pytest.approx(0.01)
    assert trace["error_x"]["arrayminus"][place] == pytest.approx(min(0.02, 1 - value), rel=1e-3)
    place = keys.index("nc1")
    assert trace["x"][place] + trace["error_x"]["array"][place] == pytest.approx(3, rel=1e-4)
    assert trace["x"][place] - trace["error_x"]["arrayminus"][place] > 0
    assert trace["error_x"]["array"][keys.index("vci")] == 0


def test_counts_are_bars_of_few_classes_and_a_curve_of_many() -> None:
    few = as_measured("few", measured(counts=[1, 2, 3, 4]))
    same = as_measured("same", measured(counts=[1, 2, 3, 4], seed=1))
    (trace,) = figure_of(class_counts_panel([few, same]))["data"]
    assert (trace["type"], trace["y"], trace["name"]) == ("bar", [1, 2, 3, 4], "few, same")
    assert class_counts_panel([as_measured("equal", measured())]) is None
    counts = tuple(range(200_000))
    many = as_measured("many", Measurement({}, {}, {}, counts))
    figure = figure_of(class_counts_panel([many]))
    (trace,) = figure["data"]
    assert len(trace["x"]) <= 400
    assert (trace["x"][0], trace["x"][-1]) == (1, 200_000)
    assert (trace["y"][0], trace["y"][-1]) == (199_999, None)
    assert figure["layout"]["yaxis"]["type"] == "log"


# Worlds at the border.


def test_one_class_seen(tmp_path: Path) -> None:
    one = measure_features(torch.randn(5, 3), torch.zeros(5, dtype=torch.int64), num_classes=3)
    page = page_of(tmp_path, own=one)
    assert "needs two classes with samples, got 1 of 3" in page.text
    assert "5 samples in 1 of 3 classes" in page.text
    assert "2 of 3 classes have no sample and are left out: 1, 2." in page.text
    assert page.data("figures").keys() == {"counts"}
    assert "No value was recorded." in page.text


def test_all_undefined(tmp_path: Path) -> None:
    gone = dict.fromkeys(measured().metrics, math.nan)
    one = replace(measured(), metrics=gone, undefined=dict.fromkeys(gone, "for a reason"))
    page = page_of(tmp_path, a=one, b=one)
    assert page.data("figures") == {}
    # One footnote, and five sentences in each of the two verdicts.
    assert page.text.count("for a reason") == 1 + 2 * 5
    assert "NaN" not in page.scripts[0]


def test_a_thousand_classes_of_a_long_tail(tmp_path: Path) -> None:
    from plotly.offline import get_plotlyjs

    counts = [max(1, round(50 * 0.99**k)) for k in range(1000)]
    page = page_of(tmp_path, own=measured(classes=1000, dim=16, counts=counts))
    assert "gnc2 rows, since no simplex fits" in page.text
    assert "No simplex of 1000 classes fits into 16 dimensions" in page.text
    assert f"floor {math.sqrt(2 - 2 * math.sqrt(16 / 999)):.4g}" in page.text
    assert "nc2_etf_distance" not in page.data("figures")["distance"]["layout"]["yaxis"]["ticktext"]
    assert len(page.source.encode()) - len(get_plotlyjs().encode()) < MOST_OWN


def test_without_a_classifier_and_without_layers(tmp_path: Path) -> None:
    features, labels = torch.randn(9, 4), torch.arange(9) % 3
    page = page_of(
        tmp_path, a=measure_features(features, labels), b=with_depth(measured(classes=3, dim=4))
    )
    assert "No classifier was given." in page.text
    assert "no classifier weight was given" in page.text
    assert "Without layers: a." in page.text
    assert "depth_nc1" in page.data("figures")


def test_layers_are_laid_over_each_other(tmp_path: Path) -> None:
    page = page_of(tmp_path, a=with_depth(measured()), b=with_depth(measured(seed=1)))
    traces = page.data("figures")["depth_nc1"]["data"]
    # A curve, its law and the ring at the tunnel, each.
    assert [trace["meta"][2] for trace in traces] == [0, 0, 0, 1, 1, 1]
    assert "a, pooled by mean: nc1 goes by the factor 0.5" in page.text
    assert "the tunnel begins at layer3 (ring)" in page.text


def test_a_metric_of_another_version_is_shown_without_a_target(tmp_path: Path) -> None:
    one = measured()
    text = page_of(tmp_path, own=replace(one, metrics=one.metrics | {"nc9_later": 1.25})).text
    assert "nc9_later" in text
    assert "1.25" in text


def test_noise_is_told_where_nc1_is_near_it() -> None:
    def said(one: Measurement) -> str:
        return " ".join(sentence.text for sentence in measured_verdict(as_measured("own", one)))

    assert "pure noise without classes would give" in said(measured(noise=50.0))
    assert "pure noise" not in said(measured(noise=0.01))


# What the command writes.


def test_intervals_files_and_what_was_left_out_are_shown(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(3, 5, generator=generator)
    for number in range(3):
        labels = torch.arange(30) % 3
        features = means[labels] + 0.3 * torch.randn(30, 5, generator=generator)
        np.savez(tmp_path / f"{number}.npz", features=features.numpy(), labels=labels.numpy())
    (tmp_path / "bad.npz").write_text("no archive")
    files = [tmp_path / name for name in ("0.npz", "1.npz", "2.npz", "bad.npz")]
    shards = measure_shards(files, skip_bad=True, jackknife=True)
    page = page_of(tmp_path, {"shards": shards})
    interval = shards.intervals["cdnv"]
    assert f"{interval.low:.4g} to {interval.high:.4g}" in page.text
    assert "0.npz, 1.npz, 2.npz" in page.text
    assert "1: bad.npz" in page.text
    assert "error_x" in page.data("figures")["distance"]["data"][0]
    assert str(tmp_path) not in page.source


def test_what_else_a_file_holds(tmp_path: Path) -> None:
    means = {"train_cdnv": 0.25, "transfer": None}
    empty = dict.fromkeys(means)
    values = measured().to_dict() | {
        "file": str(tmp_path / "features.npz"),
        "against": {"by_group": {"all": means, "tail": empty}},
        "wrong_labels": {"samples": 3, "position": 0.5},
        "intervals": {"nc1": {"value": 0.1, "standard_error": 0.01, "low": 0.0625, "high": 0.1875}},
    }
    (tmp_path / "m.json").write_text(json.dumps(values))
    page = page_of(tmp_path, [tmp_path / "m.json"])
    for said in ("features.npz", "train cdnv", "0.0625 to 0.1875", "samples 3, position 0.5"):
        assert said in page.text
    assert "tail" not in page.text[page.text.index("training against test samples") :][:300]


# Runs beside measurements.


def test_a_run_stands_with_its_last_epoch(tmp_path: Path) -> None:
    run = write_record(tmp_path / "run", epochs=(0, 3))
    measured().save(tmp_path / "own.json")
    found = read_measured([run, tmp_path / "own.json"])
    assert [one.label for one in found] == ["run (train)", "run (test)", "own"]
    assert found[0].value("nc1") == run.rows()[-1]["train"]["metrics"]["nc1"]
    page = page_of(tmp_path, [run, tmp_path / "own.json"])
    assert "cross entropy, linear head; digits; train; epoch 3" in page.text
    lead = page.text[page.text.index("They differ in") :].partition(".")[0]
    assert "samples" in lead
    assert "epoch" not in lead


def test_a_run_without_test_samples(tmp_path: Path) -> None:
    run = write_record(tmp_path / "run", test=False)
    assert [one.label for one in read_measured([run])] == ["run (train)"]


# Errors.


def refused(tmp_path: Path, measurements: Any, match: str, kind: type = ValueError) -> None:
    with pytest.raises(kind, match=match):
        write_measurements(measurements, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_none_at_all(tmp_path: Path) -> None:
    refused(tmp_path, [], "measurements must hold at least one measurement, got none")
    refused(tmp_path, {}, "got none")


def test_things_that_are_no_measurements(tmp_path: Path) -> None:
    refused(tmp_path, "m.json", "measurements must be a list, got 'm.json'", TypeError)
    refused(tmp_path, [measured()], "a mapping of labels .* got Measurement in a list", TypeError)
    refused(tmp_path, {"a": 3}, "must be measurements, got int for 'a'", TypeError)


@pytest.mark.parametrize(
    "content, told",
    [
        ("{", "m.json is not valid JSON"),
        ("[1, 2]", "m.json holds no measurement; `Measurement.save` and"),
        ("3", "m.json holds no measurement"),
        ('{"a": 1}', "m.json holds no measurement: .*KeyError.*metrics"),
        ('{"metrics": {"nc1": "much"}}', "m.json holds no measurement"),
    ],
)
def test_a_file_of_something_else(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "m.json").write_text(content)
    refused(tmp_path, [tmp_path / "m.json"], told)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"counts": []}, "damaged measurement: its counts"),
        ({"counts": [0, 0]}, "damaged measurement: its counts"),
        ({"counts": [3, -1]}, "damaged measurement: its counts"),
        ({"counts": [10**30]}, "damaged measurement: its counts"),
        ({"counts": ["many"]}, "holds no measurement"),
        ({"counts": [math.inf]}, "holds no measurement"),
        ({"dim": math.inf}, "holds no measurement"),
        ({"intervals": {"nc1": {"value": 10**400}}}, "holds no measurement: .*OverflowError"),
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"intervals": [1]}, "holds no measurement"),
        ({"intervals": {"nc1": {"value": 1}}}, "holds no measurement: .*KeyError"),
        ({"against": 3}, "damaged measurement"),
        ({"depth": {"layers": 3}}, "holds no measurement: .*depth profile"),
    ],
)
def test_a_damaged_measurement(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    (tmp_path / "m.json").write_text(json.dumps(measured().to_dict() | change))
    refused(tmp_path, [tmp_path / "m.json"], f"m.json .*{told}")


def test_numbers_that_are_not_finite_are_undefined(tmp_path: Path) -> None:
    values = measured().to_dict()
    values["metrics"]["cdnv"] = math.inf
    values["metrics"]["nc1"] = None
    (tmp_path / "m.json").write_text(json.dumps(values))
    (one,) = read_measured([tmp_path / "m.json"])
    assert one.value("cdnv") is None
    assert one.why_undefined("cdnv") == "not recorded"
    assert one.why_undefined("nosuch") == "not measured"
    page_of(tmp_path, [tmp_path / "m.json"])


def test_a_missing_file_a_folder_and_the_same_file_twice(tmp_path: Path) -> None:
    refused(tmp_path, [tmp_path / "nosuch.json"], "nosuch.json does not exist")
    refused(tmp_path, [tmp_path], "is a folder, and not the file of a measurement")
    measured().save(tmp_path / "m.json")
    twice = [tmp_path / "m.json", tmp_path / "." / "m.json"]
    refused(tmp_path, twice, r"measurements must differ, got .*m.json 2 times")


def test_a_file_of_a_run_points_to_the_run(tmp_path: Path) -> None:
    run: Run = write_record(tmp_path / "run")
    for name in ("config.json", "measurements.jsonl"):
        refused(
            tmp_path, [run.path / name], f"{name} is part of a run and holds no measurement; use"
        )
    refused(tmp_path, [run.path / "nosuch.json"], "nosuch.json does not exist")


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_measurements({"a": measured()}, tmp_path / "nosuch" / "page.html")
