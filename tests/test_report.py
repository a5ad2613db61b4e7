"""The page: whole, self-contained, and every name in it is shown as it is."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from cases.metrics import ROWS
from neuralcollapse.record import Run
from neuralcollapse.report import figures, final_table, wording, write_report
from pages import Page
from records import change_rows, undefine, write_record

HOSTILE = (
    "<script>alert(1)</script>",
    "</script>",
    '"><img src=x onerror=alert(1)>',
    '<a href="http://x">x</a>',
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_record(tmp_path / "plain")


@pytest.fixture
def page(run: Run, tmp_path: Path) -> Page:
    return Page(write_report([run], tmp_path / "report.html"))


# The page as a whole.


def test_the_page_is_where_it_was_asked_for(run, tmp_path):
    path = tmp_path / "report.html"
    assert write_report([run], path) == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert write_report([run], str(path)) == path


def test_nothing_is_fetched(page):
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attrs.get(name)
            assert value is None or value.startswith("#") or value == "data:,", (tag, attrs)
        assert tag not in ("iframe", "object", "embed", "form", "base")
    for style in page.styles:
        assert "url(" not in style
        assert "@import" not in style


def test_plotly_is_there_once(page):
    assert sum("Copyright 2012-" in script and "Plotly" in script for script in page.scripts) == 1


def test_the_policy_admits_the_scripts_of_the_page_only(page):
    (policy,) = [
        attrs["content"]
        for tag, attrs in page.tags
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    allowed = re.search(r"script-src ([^;]*)", policy)
    assert allowed is not None
    assert "unsafe-inline" not in allowed[1]
    assert "http" not in policy
    programs = [
        text
        for text, (_, attrs) in zip(
            page.scripts, [t for t in page.tags if t[0] == "script"], strict=True
        )
        if "type" not in attrs
    ]
    assert len(programs) == 2
    for text in programs:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in allowed[1]


def test_every_figure_is_valid_plotly(page):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    drawn = page.data("figures")
    assert len(drawn) >= len([row for row in ROWS if row.regime != "general"]) + 2
    for figure in drawn.values():
        graph_objects.Figure(figure)


def test_every_figure_has_one_place(page):
    places = [a["data-figure"] for _, a in page.tags if "data-figure" in a]
    assert sorted(places) == sorted(page.data("figures"))


def test_every_metric_is_titled_and_explained(page):
    for row in ROWS:
        assert wording.title(row.key) != row.key
        assert row.key in page.text
        assert row.summary in page.text


def test_what_was_run_is_said(page):
    for said in ("plain", "cross entropy, linear head", "digits", "finished after 4 epochs"):
        assert said in page.text


def test_machine_paths_are_not_told(page, tmp_path):
    assert str(tmp_path) not in page.source


def test_pages_of_equal_runs_are_equal(run, tmp_path):
    first = write_report([run], tmp_path / "a.html").read_bytes()
    assert write_report([run], tmp_path / "b.html").read_bytes() == first


# Names.


@pytest.fixture
def hostile_page(tmp_path: Path) -> Page:
    run = write_record(
        tmp_path / '<b onclick=alert(1)>"run&amp;',
        classes=HOSTILE,
        counts=[30, 12, 12, 3],
        config={HOSTILE[0]: HOSTILE[1], "file": HOSTILE[2]},
        info={"method": HOSTILE[2], "data": HOSTILE[3], "versions": {HOSTILE[0]: HOSTILE[3]}},
    )
    change_rows(run, lambda row: undefine(row, "cdnv", HOSTILE[0]))
    change_rows(run, lambda row: row["train"]["conventions"].update({HOSTILE[1]: HOSTILE[2]}))
    change_rows(run, lambda row: row.update(terms={HOSTILE[0]: 1.0, HOSTILE[2]: 2.0}))
    run.write_summary({"status": HOSTILE[0], "epochs": HOSTILE[1], "best_epoch": HOSTILE[2]})
    return Page(write_report([run], tmp_path / "report.html"))


def test_hostile_names_make_no_tags(page, hostile_page):
    def kinds(a_page: Page) -> set[str]:
        return {tag for tag, _ in a_page.tags}

    assert kinds(hostile_page) <= kinds(page) | {"h4", "ol", "ul", "sup", "li"}
    assert not any("onerror" in attrs or "onclick" in attrs for _, attrs in hostile_page.tags)
    assert len(hostile_page.scripts) == len(page.scripts)
    assert len(hostile_page.data("figures")) > len([r for r in ROWS if r.regime != "general"])


def test_hostile_names_are_shown_as_they_are(hostile_page):
    for name in (*HOSTILE, '<b onclick=alert(1)>"run&amp;'):
        assert name in hostile_page.text


def test_plotly_is_given_no_tags(hostile_page):
    """plotly reads <b>, <a href> and entities in every label."""
    players = hostile_page.data("players")
    texts = [*players["runs"][0]["names"], *players["runs"][0]["ticks"]]
    for figure in hostile_page.data("figures").values():
        axis = figure["layout"].get("xaxis", {})
        texts += axis.get("ticktext", [])
        for trace in figure["data"]:
            texts += [trace["name"], *trace["text"]]
            texts += [text for text in trace["meta"] if isinstance(text, str)]
    assert any("&lt;" in text for text in texts)
    for text in texts:
        assert "<" not in text, text
        assert not re.search(r"&(?!lt;|gt;|amp;)", text), text


def test_a_folder_name_that_is_no_text(tmp_path):
    """Folder names are bytes; what does not decode becomes lone surrogates."""
    run = write_record(tmp_path / "run")
    odd = Run(run.path, run.config, {**run.info, "method": "bad \udcff byte"})
    path = write_report([odd], tmp_path / "report.html")
    assert "bad ? byte" in path.read_text(encoding="utf-8")


@given(st.text(max_size=20))
def test_literal_text_is_reversible_and_free_of_tags(text):
    escaped = figures.literal(text)
    assert not set("<>") & set(escaped)
    assert escaped.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == text


# Errors.


def test_no_runs():
    with pytest.raises(ValueError, match="runs must hold at least one run, got none"):
        write_report([], "report.html")
    with pytest.raises(ValueError, match="got none"):
        final_table([])


def test_the_same_run_twice(run, tmp_path):
    with pytest.raises(ValueError, match=r"runs must differ, got .*plain 2 times"):
        write_report([run, Run.open(run.path)], tmp_path / "r.html")


def test_a_run_without_measurements_leaves_the_old_page(run, tmp_path):
    page = write_report([run], tmp_path / "r.html")
    before = page.read_bytes()
    empty = Run.create(tmp_path / "empty", {}, {})
    with pytest.raises(ValueError, match="empty has no measured epoch yet; report it once"):
        write_report([run, empty], page)
    assert page.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_missing_folder(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_report([run], tmp_path / "nowhere" / "r.html")


@pytest.mark.parametrize("split, value", [("train", None), ("train", 3), ("test", {"metrics": 1})])
def test_a_damaged_measurement(run, tmp_path, split, value):
    change_rows(run, lambda row: row.update({split: value}))
    with pytest.raises(ValueError, match=f"epoch 0 holds no usable {split} measurement"):
        write_report([run], tmp_path / "r.html")


@pytest.mark.parametrize(
    "change, told",
    [
        ({"means": None}, "lacks the array 'means'"),
        ({"weight": torch.zeros(3, 6)}, "do not fit together"),
        ({"features": torch.zeros(2, 5)}, "do not fit together"),
        ({"labels": torch.tensor([0, 1, 9])}, "outside"),
    ],
)
def test_a_damaged_snapshot(run, tmp_path, change, told):
    good = {
        "means": torch.zeros(4, 6),
        "weight": torch.zeros(4, 6),
        "features": torch.zeros(3, 6),
        "labels": torch.tensor([0, 1, 2]),
    }
    run.write_snapshot(2, {k: v for k, v in (good | change).items() if v is not None})
    with pytest.raises(ValueError, match=f"snapshot of epoch 2 in .*{told}"):
        write_report([run], tmp_path / "r.html")


@pytest.mark.parametrize("module, name", [("jinja2", "jinja2"), ("plotly.offline", "plotly")])
def test_a_missing_extra_is_named(run, tmp_path, monkeypatch, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"{name} cannot be imported \(.+\); pip install") as told:
        write_report([run], tmp_path / "r.html")
    assert "'neuralcollapse[report]'" in str(told.value)
    assert not (tmp_path / "r.html").exists()
    assert "nc1 " in final_table([run])
