"""The mistakes of a report: numbers beside their bounds, the tree, the confusion in its order."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from neuralcollapse import Hierarchy
from neuralcollapse.record import Run
from neuralcollapse.report import final_table, write_report
from neuralcollapse.report.figures import Panel, mistake_panels
from neuralcollapse.report.history import read_histories
from neuralcollapse.report.mistake_figures import (
    MOST_GROUPS,
    confusion_panel,
    needs_width,
    tree_order,
    tree_panel,
)
from neuralcollapse.report.mistake_view import mistake_view
from pages import Page, unpacked
from records import change_rows, write_record

# Labels that do not stand in the order of the tree: 0 and 2 are siblings, 3 is a shallow leaf.
TREE = Hierarchy.from_newick("((0,2)even,(1)odd,3)all;", classes=["0", "1", "2", "3"])
# True, decided, how often; 30 mistakes, 20 of them at "even" and 10 at the root.
CONFUSION = np.array(
    [[0, 0, 30], [0, 2, 12], [0, 3, 8], [1, 1, 5], [1, 0, 2], [2, 0, 8], [3, 3, 9]]
)


def drawn(panel: Panel) -> dict:
    assert panel.figure is not None
    return panel.figure


def texts(trace: dict) -> dict[str, str]:
    """What is written on each node; with plain spaces."""
    plain = [text.replace("\u00a0", " ") for text in trace["text"]]
    return dict(zip(trace["labels"], plain, strict=True))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_record(
        tmp_path / "framed",
        hierarchy=TREE,
        target="frame",
        noise=6.0,
        config={"frame": "hierarchy:decay_rate=2", "loss": "frame-cosine"},
    )


def test_mistakes_meet_at_the_lowest_common_ancestor() -> None:
    (trace,) = drawn(tree_panel("tree", TREE, CONFUSION))["data"]
    told = texts(trace)
    assert told == {
        "all": "33.3 %", "even": "66.7 %", "odd": "0 %",
        "0": "40 %", "1": "28.6 %", "2": "100 %", "3": "0 %",
    }  # fmt: skip
    above = dict(zip(trace["ids"], trace["parents"], strict=True))
    labels = dict(zip(trace["ids"], trace["labels"], strict=True))
    edges = {(labels[top] if top else "", labels[own]) for own, top in above.items()}
    assert edges == {
        ("", "all"), ("all", "even"), ("all", "odd"), ("all", "3"),
        ("even", "0"), ("even", "2"), ("odd", "1"),
    }  # fmt: skip
    # A sector is as large as there are classes below it.
    assert dict(zip(trace["labels"], trace["values"], strict=True)) == {
        "all": 4, "even": 2, "odd": 1, "0": 1, "1": 1, "2": 1, "3": 1,
    }  # fmt: skip
    # The deeper the colour the more mistakes: green falls from pale to red.
    green = {
        label: int(re.findall(r"\d+", colour)[1])
        for label, colour in zip(trace["labels"], trace["marker"]["colors"], strict=True)
    }
    assert green["even"] < green["all"] < green["odd"]


def test_a_class_may_be_an_inner_node() -> None:
    tree = Hierarchy.from_pairs([("animal", "dog"), ("dog", "poodle")], ["dog", "poodle"])
    (trace,) = drawn(tree_panel("tree", tree, np.array([[1, 0, 3], [0, 0, 1]])))["data"]
    told = texts(trace)
    assert told == {"animal": "0 %", "dog": "100 %", "poodle": "100 %"}


def test_nothing_wrong_is_said() -> None:
    panel = tree_panel("tree", TREE, CONFUSION[[0, 3]])
    assert panel.notes == ("Nothing was decided wrong.",)
    assert set(texts(drawn(panel)["data"][0]).values()) == {"0 %", ""}  # two classes have no sample


def test_confusion_stands_in_the_order_of_the_tree() -> None:
    assert tree_order(TREE) == [0, 2, 1, 3]
    figure = drawn(confusion_panel("confusion", TREE, CONFUSION))
    (trace,) = figure["data"]
    assert trace["x"] == trace["y"] == ["0", "2", "1", "3"]
    assert trace["z"] == [
        [None, 0.24, 0.0, 0.16],
        [1.0, None, 0.0, 0.0],
        [0.28571, 0.0, None, 0.0],
        [0.0, 0.0, 0.0, None],
    ]
    # Lines after "even" (two classes) and after "odd" (one more).
    assert {line["x0"] for line in figure["layout"]["shapes"] if line["x0"] == line["x1"]} == {
        1.5,
        2.5,
    }


def test_many_classes_are_grouped() -> None:
    """300 classes in 60 groups: groups are confused, what happens inside one is on the diagonal."""
    rows = [[f"group {k // 5}", f"class {k}"] for k in range(300)]
    tree = Hierarchy.from_levels(rows)
    confusion = np.array([[0, 1, 4], [0, 299, 6]])
    panel = confusion_panel("confusion", tree, confusion)
    (trace,) = drawn(panel)["data"]
    assert len(trace["x"]) == 60 <= MOST_GROUPS
    assert trace["z"][0][59] == 0.6
    assert np.nansum(np.array(trace["z"], dtype=float)) == pytest.approx(0.6)
    assert panel.notes == ("Shown are 60 groups of the 300 classes.",)
    assert drawn(tree_panel("tree", tree, confusion))["data"][0]["maxdepth"] == 2


def test_deep_and_broad_trees_have_the_width_of_the_page() -> None:
    broad = Hierarchy.from_levels([[str(k)] for k in range(31)])
    deep = Hierarchy.from_newick("((((((a,b))))),c);")
    assert [needs_width(tree) for tree in (TREE, broad, deep)] == [False, True, True]
    # Every group has its name at the axes, however many are shown.
    many = Hierarchy.from_levels([[str(k)] for k in range(MOST_GROUPS)])
    layout = drawn(confusion_panel("confusion", many, np.array([[0, 1, 1]])))["layout"]
    assert layout["xaxis"]["ticktext"] == layout["yaxis"]["ticktext"] == list(many.classes)


def test_names_are_as_long_as_their_column_and_without_numbers_of_synsets() -> None:
    tree = Hierarchy.wordnet()
    confusion = np.array([[0, 1, 1]])
    (trace,) = drawn(tree_panel("tree", tree, confusion))["data"]
    assert trace["labels"][0] == "entity"
    assert "natural obje…" in trace["labels"]
    assert "<b>natural object n00019128</b>" in trace["hovertext"][tree.node_of_class[1]]
    ticks = drawn(confusion_panel("confusion", tree, confusion))["layout"]["xaxis"]["ticktext"]
    assert ticks[:2] == ["causal agent", "natural object"]


def test_letters_stand_out_from_their_sectors() -> None:
    """By the contrast of relative luminances (WCAG): 3 to 1 at least."""

    def luminance(colour: list[int]) -> float:
        parts = [c / 255 for c in colour]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    leaves = ",".join(f"l{k}" for k in range(50))
    tree = Hierarchy.from_newick(f"({leaves});")
    # Every share of one class that is taken for another, and with it every shade.
    wrong = np.array([[k, (k + 1) % 50, 2 * k] for k in range(50)])
    right = np.array([[k, k, 98 - 2 * k + 1] for k in range(50)])
    (trace,) = drawn(tree_panel("tree", tree, np.concatenate([wrong, right])))["data"]
    letters = trace["textfont"]["color"]
    for colour, letter in zip(trace["marker"]["colors"], letters, strict=True):
        ground = luminance([int(part) for part in re.findall(r"\d+", colour)])
        ink = luminance([int(letter[at : at + 2], 16) for at in (1, 3, 5)])
        high, low = max(ground, ink), min(ground, ink)
        assert (high + 0.05) / (low + 0.05) >= 3


def test_the_terminal_shows_bounds_beside_every_value(run: Run, tmp_path: Path) -> None:
    text = final_table([run])
    found = run.rows()[-1]["mistakes"]["test"]
    (line,) = [x for x in text.splitlines() if x.startswith("hierarchical_distance@1 ")]
    sides = [found[side]["hierarchical_distance@1"] for side in ("values", "best", "chance")]
    assert [float(word) for word in line.split()[1:]] == pytest.approx(sides, rel=1e-3)
    for key in (*found["values"], "frame_deviation"):
        assert f"\n{key} " in text
    assert "distance lca_height" in text
    # Beside a run without a hierarchy, and beside another with one.
    plain = write_record(tmp_path / "plain")
    other = write_record(tmp_path / "other", hierarchy=TREE)
    assert "mistakes" not in final_table([plain])
    assert final_table([plain, run]).count("mistake_severity") == 1
    three = final_table([run, other, plain])
    assert max(map(len, three.splitlines())) <= 100
    assert three.isascii()
    (line,) = [x for x in three.splitlines() if x.startswith("mistake_severity ")]
    assert len(line.split()) == 7


def test_the_table_has_every_value_with_its_bounds(run: Run) -> None:
    (history,) = read_histories([run])
    view = mistake_view([history])
    assert view is not None
    found = run.rows()[-1]["mistakes"]["test"]
    assert [key for key, _ in view.keys] == [*found["values"], "frame_deviation", "frame_spread"]
    (column,) = view.columns
    value, best, chance = column.cells["hierarchical_distance@1"]
    for text, side in ((value, "values"), (best, "best"), (chance, "chance")):
        assert float(text) == pytest.approx(found[side]["hierarchical_distance@1"], rel=1e-3)
    assert column.cells["frame_spread"] == ("—", "0", "—")
    assert f"{found['num_mistakes']} of 20 wrong; distance lca_height" in column.caption
    bars = drawn(view.histogram)["data"]
    assert sum(bars[0]["y"]) == pytest.approx(1, abs=1e-4)  # five digits each
    # Of 6 pairs one is of siblings.
    assert bars[-1]["x"] == [1, 2]
    assert bars[-1]["y"] == [0.16667, 0.83333]


def test_curves_follow_the_record(run: Run) -> None:
    panels = {panel.name: panel for panel in mistake_panels(read_histories([run]))}
    assert list(panels) == ["mistake_severity", "hierarchical_distance_at_1", "frame_deviation"]
    (trace,) = drawn(panels["hierarchical_distance_at_1"])["data"]
    values = [row["mistakes"]["test"]["values"]["hierarchical_distance@1"] for row in run.rows()]
    assert trace["y"] == pytest.approx(values, rel=1e-4)
    assert drawn(panels["frame_deviation"])["data"][0]["y"] == [0.5, 0.375, 0.25, 0.0]


def test_raw_means_stand_beside_a_hierarchy_frame(run: Run, tmp_path: Path) -> None:
    """And centred ones beside another fixed frame; the order is the tree's."""
    plain = write_record(tmp_path / "plain", target="frame", config={"frame": "code"})
    page = Page(write_report([run, plain], tmp_path / "report.html"))
    for place, (own, raw) in enumerate(((run, True), (plain, False))):
        player = page.data("players")["runs"][place]
        assert player["raw"] is raw
        assert player["order"] == ([0, 2, 1, 3] if raw else None)
        means = own.snapshot(4)["means"].double()
        means = means if raw else means - means.mean(0)
        units = means / means.norm(dim=1, keepdim=True)
        expected = (units @ units.T)[torch.triu_indices(4, 4, 1).unbind()]
        found = unpacked(player["grams"]["means"][-1], player["grams"]["scale"])
        assert found == pytest.approx(expected.numpy(), abs=1e-3)  # packed with four decimals
    assert "Class means, raw" in page.text
    assert "Class means, centred" in page.text
    assert "mistake_severity" in page.text
    assert {"severities", "tree-0", "confusion-0"} <= set(page.data("figures"))


def test_without_a_hierarchy_there_is_no_section(tmp_path: Path) -> None:
    page = Page(write_report([write_record(tmp_path / "plain")], tmp_path / "report.html"))
    assert "Mistakes on the tree" not in page.text
    assert mistake_view(read_histories([Run.open(tmp_path / "plain")])) is None


def test_a_run_without_snapshots_says_so(run: Run) -> None:
    for file in (run.path / "snapshots").iterdir():
        file.unlink()
    view = mistake_view(read_histories([run]))
    assert view is not None
    assert view.trees[0].missing == "What is taken for what was not recorded."


@pytest.mark.parametrize("content", [{"format": "other"}, [1], {"a": ["b", "c"]}])
def test_a_damaged_hierarchy_is_refused(run: Run, content: object) -> None:
    damaged = Run(run.path, run.config, {**run.info, "hierarchy": content})
    with pytest.raises(ValueError, match=r"config\.json holds a damaged hierarchy"):
        mistake_view(read_histories([damaged]))


@pytest.mark.parametrize("pairs", [torch.zeros(2, 2).long(), torch.tensor([[0, 4, 1]])])
def test_a_damaged_confusion_is_refused(run: Run, pairs: torch.Tensor) -> None:
    run.write_snapshot(4, {**run.snapshot(4), "test_confusion": pairs})
    with pytest.raises(ValueError, match="holds a damaged confusion"):
        mistake_view(read_histories([run]))


def test_undefined_severity_leaves_a_gap(run: Run) -> None:
    def right(row: dict) -> None:
        row["mistakes"]["test"]["values"]["mistake_severity"] = None

    change_rows(run, right)
    names = [panel.name for panel in mistake_panels(read_histories([run]))]
    assert "mistake_severity" not in names
    view = mistake_view(read_histories([run]))
    assert view is not None
    assert view.columns[0].cells["mistake_severity"][0] == "—"
