"""`neuralcollapse hierarchy`: the tree, its numbers, one JSON object; bad input is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.command import in_process, run
from neuralcollapse import Hierarchy

TABLE = "cat,lion\ncat,lynx\ndog\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "levels.csv"
    file.write_text(TABLE)
    return file


def test_the_tree_its_height_levels_and_pairs_are_printed(table: Path) -> None:
    text = run("hierarchy", table).assert_ok()
    lines = text.splitlines()
    assert lines[0] == "root"
    for name, label in (("lion", 0), ("lynx", 1), ("dog", 2)):
        (line,) = [line for line in lines if name in line]
        assert line.split()[-1] == str(label)
    assert lines.index("│   ├── lion  0") > lines.index("├── cat")
    assert "3 classes, 5 nodes, height 2" in lines
    assert "groups at depth 0 to 2: 1, 2, 3" in lines
    rows = [line.strip("│ ").split("│") for line in lines if "%" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["1", "1", "33.3%"],
        ["2", "2", "66.7%"],
    ]


@pytest.mark.parametrize("kind", ["lca_height", "root_depth", "path"])
def test_json_holds_the_same_and_the_tree(table: Path, kind: str) -> None:
    outcome = run("hierarchy", table, "--json", "--distances", kind)
    assert outcome.err == ""
    assert len(outcome.assert_ok().splitlines()) == 1
    facts = json.loads(outcome.out)
    tree = Hierarchy.from_file(table)
    assert Hierarchy.from_dict(facts["hierarchy"]) == tree
    assert facts["distances"] == kind
    counts = {int(value): count for value, count in facts["pair_counts"].items()}
    assert counts == tree.pair_counts(kind)  # pyright: ignore[reportArgumentType]
    assert facts["level_sizes"] == [1, 2, 3]
    assert (facts["num_classes"], facts["num_nodes"], facts["total_height"]) == (3, 5, 2)
    # What is printed is a hierarchy file.
    kept = table.with_name("kept.json")
    kept.write_text(outcome.out)
    assert Hierarchy.from_file(kept) == tree


def test_built_in_trees_folders_headers_and_orders(tmp_path: Path) -> None:
    counts = json.loads(run("hierarchy", "cifar100", "--json").assert_ok())["pair_counts"]
    assert counts == {"1": 200, "2": 525, "3": 1050, "4": 900, "5": 2275}
    assert "Ankle boot  9" in run("hierarchy", "fashion-mnist").assert_ok()
    assert "bird n01503061" in run("hierarchy", "wordnet").assert_ok()
    assert "Greek Γ" in run("hierarchy", "glyphs").assert_ok()
    for name in ("a/x", "a/y", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
    assert "3 classes, 5 nodes" in run("hierarchy", tmp_path / "data").assert_ok()
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("child parent\nlion cat\nlynx cat\n")
    text = run("hierarchy", pairs, "--header", "--order", "child-parent").assert_ok()
    assert text.splitlines()[0] == "cat"


def test_large_trees_are_drawn_in_part() -> None:
    text = run("hierarchy", "cifar100", "--max-nodes", 20).assert_ok()
    assert "level 1: 0" in text
    assert "beaver" not in text
    assert "115 more nodes" in text


def test_names_are_not_markup(tmp_path: Path) -> None:
    file = tmp_path / "tree.json"
    file.write_text('{"[red]r[/red]": ["[/]", ":cat:"]}')
    text = run("hierarchy", file).assert_ok()
    assert "[red]r[/red]" in text
    assert "[/]" in text
    assert ":cat:" in text


BAD = {
    "missing.csv": (None, "does not exist"),
    "empty.csv": (b"", "at least one row"),
    "twice.csv": (b"a,b\na,b\n", "got class 'b' again in row 1"),
    "quote.csv": (b'"a,b\n', "not valid CSV"),
    "dag.txt": (b"r x\nr y\ny x\n", "'x' under 'r' and 'y'"),
    "three.txt": (b"a b c\n", "got 3 in line 1"),
    "cycle.txt": (b"r s\na b\nb a\n", "no cycle"),
    "roots.txt": (b"a x\nb y\n", "one root, got 2: 'a', 'b'"),
    "deep.json": (b"[" * 100_000, "nested that deeply"),
    "number.json": (b"3", "must be a dict, a list or None, got 3 below the top"),
    "bytes.nwk": (b"\xff\xfe", "must be text in UTF-8"),
    "nul.nwk": (b"(a\0,b);", "no control characters"),
    "pickle.txt": (b"\x80\x04K\x03.", "must be text in UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    for options in ([], ["--json"]):
        run("hierarchy", file, *options).assert_refused(name, message)


def test_bad_options_are_one_sentence(table: Path, tmp_path: Path) -> None:
    run("hierarchy", table, "--distances", "lca").assert_refused("--distances")
    run("hierarchy", table, "--max-nodes", 0).assert_refused("--max-nodes")
    run("hierarchy").assert_refused("Missing argument")
    (tmp_path / "empty").mkdir()
    run("hierarchy", tmp_path / "empty").assert_refused("must hold one folder per class")


def test_in_a_process_of_its_own(table: Path) -> None:
    assert "3 classes" in in_process("hierarchy", table).assert_ok()
