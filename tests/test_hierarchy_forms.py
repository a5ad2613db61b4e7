"""Hierarchies are read from tables, nested names, Newick, graphs, folders, files and likeness."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from neuralcollapse import Hierarchy
from trees import at_random, complete

# --- forms ----------------------------------------------------------------------------------------


def test_levels_take_arrays_frames_and_early_ends() -> None:
    rows = [["cat", "lion"], ["cat", None], ["dog", float("nan")], ["bird", ""]]
    tree = Hierarchy.from_levels(rows)
    assert tree.classes == ("lion", "cat", "dog", "bird")
    assert tree.nodes[0] == "root"
    assert Hierarchy.from_levels(np.array(rows, dtype=object)) == tree
    frame = SimpleNamespace(to_numpy=lambda: np.array(rows, dtype=object))
    assert Hierarchy.from_levels(frame) == tree
    numbers = Hierarchy.from_levels(torch.tensor([[7, 0], [7, 1]]))
    assert numbers.nodes == ("7", "0", "1")
    assert Hierarchy.from_levels(np.array([[7.0, 0.0], [7.0, np.nan]])).nodes == ("7", "0")


def test_the_root_that_is_put_above_has_a_free_name() -> None:
    assert Hierarchy.from_levels([["root"], ["root_"]]).nodes == ("root__", "root", "root_")
    assert Hierarchy.from_levels([["a"], ["b"]], root="top").nodes[0] == "top"
    assert Hierarchy.from_dict(["a", "b"], root="top").nodes[0] == "top"


def test_repeated_names_become_paths() -> None:
    tree = Hierarchy.from_levels([["cat", "lion"], ["star sign", "lion"], ["cat", "lynx"]])
    assert tree.classes == ("cat/lion", "star sign/lion", "lynx")
    with pytest.raises(ValueError, match="say which: 'cat/lion', 'star sign/lion'"):
        tree.subset(["lion"])
    assert Hierarchy.from_newick("((a,b)x,(a,c)y)top;").classes == ("x/a", "b", "y/a", "c")
    # A single child of its parent's name.
    assert Hierarchy.from_newick("((a)a,b)top;").classes == ("a/a", "b")


def test_nested_forms_are_one_tree() -> None:
    forms = [
        {"animal": {"cat": {"lion": None, "lynx": {}}, "dog": []}},
        {"animal": [{"cat": ["lion", "lynx"]}, "dog"]},
        {"animal": {"cat": ["lion", "lynx"], "dog": None}},
        {
            "name": "animal",
            "children": [
                {"name": "cat", "children": [{"name": "lion"}, {"name": "lynx"}]},
                {"name": "dog"},
            ],
        },
    ]
    trees = [Hierarchy.from_dict(form) for form in forms]
    assert len({*trees}) == 1
    assert trees[0] == Hierarchy.from_newick("((lion,lynx)cat,dog)animal;")


def test_newick_takes_lengths_comments_quotes_and_unnamed_nodes() -> None:
    tree = Hierarchy.from_newick(" ( 'it''s, (a)':0.1 , b[x;(]:1e-5 )[top] ; \n")
    assert tree.classes == ("it's, (a)", "b")
    assert tree.nodes[0] == "node 1"
    assert Hierarchy.from_newick("(('node 1',b),c);").nodes == (
        "node 2",
        "node 3",
        "c",
        "node 1",
        "b",
    )
    assert Hierarchy.from_newick("only;").classes == ("only",)


def test_folders(tmp_path: Path) -> None:
    for path in ("b/x", "b/y", "a", ".hidden/z"):
        (tmp_path / "data" / path).mkdir(parents=True)
    (tmp_path / "data" / "a" / "image.png").touch()
    (tmp_path / "data" / "b" / "link").symlink_to(tmp_path)
    tree = Hierarchy.from_folder(tmp_path / "data")
    assert tree.nodes == ("data", "a", "b", "x", "y")
    assert tree.classes == ("a", "x", "y")


FILES = {
    "levels.csv": '# genus, species\ncat,lion\n"cat",lynx\ndog,\n',
    "levels.tsv": "cat\tlion\ncat\tlynx\ndog\n",
    "tree.json": '{"root": {"cat": ["lion", "lynx"], "dog": null}}',
    "tree.nwk": "((lion,lynx)cat,dog)root;",
    "tree.txt": "((lion,lynx)cat,dog)root;",
    "pairs.txt": "root cat\ncat lion\n\n# felines\ncat lynx\nroot dog\n",
    "commas.txt": "root, cat\ncat,lion\ncat,lynx\nroot,dog",
    "isa": "root\tcat\ncat\tlion\ncat\tlynx\nroot\tdog",
}


@pytest.mark.parametrize("name", FILES)
def test_files_by_their_ending(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text("\ufeff" + FILES[name], encoding="utf-8")
    assert Hierarchy.from_file(file) == Hierarchy.from_newick("((lion,lynx)cat,dog)root;")


def test_headers_orders_and_own_json(tmp_path: Path) -> None:
    table = tmp_path / "levels.csv"
    table.write_text("genus,species\ncat,lion\ndog,wolf\n")
    assert Hierarchy.from_file(table, header=True).classes == ("lion", "wolf")
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("lion cat\nlynx cat\n")
    assert Hierarchy.from_file(pairs, order="child-parent").classes == ("lion", "lynx")
    tree = at_random(3)
    (tmp_path / "own.json").write_text(tree.to_json())
    assert Hierarchy.from_file(tmp_path / "own.json") == tree
    assert (
        Hierarchy.from_file(tmp_path / "own.json", tree.classes[::-1]).classes == tree.classes[::-1]
    )


def test_networkx_itself() -> None:
    networkx = pytest.importorskip("networkx")
    graph = networkx.DiGraph([("r", "x"), ("r", "y"), ("x", 1), ("x", 2)])
    assert Hierarchy.from_networkx(graph).classes == ("y", "1", "2")
    assert Hierarchy.from_networkx(networkx.DiGraph({"r": {}})).classes == ("r",)
    with pytest.raises(ValueError, match="graph must be directed"):
        Hierarchy.from_networkx(graph.to_undirected())


# --- learned --------------------------------------------------------------------------------------


@pytest.mark.parametrize("linkage", ["average", "complete", "single"])
def test_an_ultrametric_is_learned_back(linkage: Any) -> None:
    tree = Hierarchy.cifar100()
    distances = tree.distances()
    learned = Hierarchy.from_similarity(distances, tree.classes, kind="distance", linkage=linkage)
    assert torch.equal(learned.distances(), distances)
    assert learned.classes == tree.classes
    alike = Hierarchy.from_similarity(-distances, tree.classes, linkage=linkage)
    assert alike == learned


def test_a_tree_shows_in_confusions_and_in_means() -> None:
    tree = complete(3, 2)
    distances = tree.distances().numpy()
    counts = np.array([1000, 60, 3])[distances.astype(int)]
    # Rows of other sizes are the same shares.
    confusion = counts * np.arange(1, 10)[:, None]
    learned = Hierarchy.from_similarity(confusion, kind="confusion")
    assert np.array_equal(learned.distances().numpy(), distances)
    rng = np.random.default_rng(0)
    above = rng.standard_normal((3, 50)).repeat(3, 0)
    means = 5 + above + 0.3 * rng.standard_normal((9, 50))
    learned = Hierarchy.from_similarity(torch.from_numpy(means), kind="means", levels=2)
    assert np.array_equal(learned.distances().numpy(), distances)


def test_classes_that_are_all_alike_give_a_flat_tree() -> None:
    assert Hierarchy.from_similarity(np.ones((5, 5))).level_sizes == (1, 5)
    assert Hierarchy.from_similarity(np.eye(2)).level_sizes == (1, 2)


def test_levels_bound_the_height() -> None:
    means = np.random.default_rng(0).standard_normal((60, 8))
    deep = Hierarchy.from_similarity(means, kind="means")
    assert deep.num_nodes == 119
    for levels in (1, 2, 5):
        assert Hierarchy.from_similarity(means, kind="means", levels=levels).total_height <= levels
