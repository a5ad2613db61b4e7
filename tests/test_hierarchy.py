"""Hierarchies against walks up the parents; every reader; every refusal in one sentence."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralcollapse import Hierarchy, check_distances
from neuralcollapse.hierarchy import DISTANCE_KINDS
from trees import NEWICK, aircraft, ancestors, at_random, by_hand, complete, height, hierarchies
from trees import slow_distances as reference

TREES = {
    **{name: by_hand(name) for name in NEWICK},
    "complete": complete(3, 3),
    **{f"random {seed}": at_random(seed) for seed in range(6)},
    "cifar100": Hierarchy.cifar100(),
}

# --- laws -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DISTANCE_KINDS)
@pytest.mark.parametrize("name", TREES)
def test_distances_are_those_of_the_definition(name: str, kind: Any) -> None:
    tree = TREES[name]
    found = tree.distances(kind)
    wanted = reference(tree, kind)
    assert found.dtype == torch.float64
    assert np.array_equal(found.numpy(), wanted)
    assert torch.equal(tree.distances(kind, dtype=torch.int16).double(), found)
    first, second = np.indices(wanted.shape).reshape(2, -1)
    assert np.array_equal(tree.pair_distances(first, second, kind), wanted.ravel())
    values, counts = np.unique(wanted[np.triu_indices(len(wanted), 1)], return_counts=True)
    assert tree.pair_counts(kind) == dict(zip(values.astype(int), counts, strict=True))


@pytest.mark.parametrize("name", TREES)
def test_the_arrays_describe_one_tree(name: str) -> None:
    tree = TREES[name]
    nodes = range(tree.num_nodes)
    assert tree.parent[0] == -1
    assert all(tree.parent[node] < node for node in nodes)
    assert tree.depth.tolist() == [len(ancestors(tree, node)) - 1 for node in nodes]
    assert tree.height.tolist() == [height(tree, node) for node in nodes]
    assert tree.total_height == tree.height[0] == max(tree.depth)
    assert tree.classes == tuple(tree.nodes[node] for node in tree.node_of_class)
    assert len({*tree.nodes}) == tree.num_nodes
    assert tree.levels.shape == (tree.num_classes, tree.total_height + 1)
    for node, row in zip(tree.node_of_class.tolist(), tree.levels.tolist(), strict=True):
        path = ancestors(tree, node)[::-1]
        assert row == path + [node] * (tree.total_height + 1 - len(path))
    assert tree.level_sizes == tuple(len({*column}) for column in tree.levels.T.tolist())


@pytest.mark.parametrize("name", TREES)
def test_the_first_two_distances_are_ultrametric_and_agree_on_equal_depths(name: str) -> None:
    tree = TREES[name]
    height, depth, path = (tree.distances(kind) for kind in DISTANCE_KINDS)
    for matrix in (height, depth):
        through = torch.maximum(matrix[:, :, None], matrix[None]).amin(1)
        assert bool((matrix <= through).all())
    assert bool((depth >= height).all())
    if len({*tree.depth[tree.node_of_class].tolist()}) == 1:
        assert torch.equal(height, depth)
        assert torch.equal(2 * height, path)


@given(hierarchies())
def test_every_tree_is_read_back_from_every_form(tree: Hierarchy) -> None:
    again = Hierarchy.from_json(tree.to_json())
    assert again == tree
    assert hash(again) == hash(tree)
    pairs = [
        (tree.nodes[p], name) for name, p in zip(tree.nodes, tree.parent, strict=True) if p >= 0
    ]
    assert Hierarchy.from_pairs(pairs, tree.classes) == tree
    assert Hierarchy.from_pairs(pairs[::-1], tree.classes) == tree
    graph = SimpleNamespace(is_directed=lambda: True, nodes=tree.nodes[::-1], edges=pairs)
    assert Hierarchy.from_networkx(graph, tree.classes) == tree
    rows = [[tree.nodes[node] for node in ancestors(tree, n)[::-1]] for n in tree.node_of_class]
    if len({row[0] for row in rows}) == 1 and all(len(row) > 1 for row in rows):
        assert Hierarchy.from_levels(rows) == tree
    assert Hierarchy.from_newick(newick(tree), tree.classes) == tree
    assert Hierarchy.from_dict(nested(tree, 0), tree.classes) == tree
    assert (
        Hierarchy.from_json(json.dumps(nested(tree, 0))).nodes
        == Hierarchy.from_dict(nested(tree, 0)).nodes
    )
    assert tree.subset(tree.classes) == tree


def children(tree: Hierarchy, node: int) -> list[int]:
    return [child for child in range(tree.num_nodes) if tree.parent[child] == node]


def newick(tree: Hierarchy) -> str:
    def write(node: int) -> str:
        below = children(tree, node)
        inner = f"({','.join(write(child) for child in below)})" if below else ""
        return f"{inner}'{tree.nodes[node]}':{node}.5[comment]"

    return write(0) + ";"


def nested(tree: Hierarchy, node: int) -> dict[str, Any]:
    below = children(tree, node)
    return {tree.nodes[node]: {k: v for child in below for k, v in nested(tree, child).items()}}


@given(hierarchies(), st.data())
def test_a_subset_keeps_depths_and_paths(tree: Hierarchy, data: st.DataObject) -> None:
    chosen = data.draw(
        st.lists(st.integers(0, tree.num_classes - 1), min_size=1, unique=True), label="chosen"
    )
    part = tree.subset([tree.classes[label] for label in chosen])
    assert part.classes == tuple(tree.classes[label] for label in chosen)
    rows = np.ix_(chosen, chosen)
    assert np.array_equal(part.distances("path").numpy(), tree.distances("path").numpy()[rows])
    lost = tree.total_height - part.total_height
    wanted = tree.distances("root_depth").numpy()[rows] - lost
    np.fill_diagonal(wanted, 0)
    assert np.array_equal(part.distances("root_depth").numpy(), wanted)


def test_equality_is_by_content() -> None:
    tree = by_hand("ragged")
    assert tree == copy.deepcopy(tree)
    assert len({tree, copy.copy(tree)}) == 1
    assert tree != Hierarchy.from_newick("((b,a),((c,d),e));")  # other labels
    assert tree != tree.subset([*"abcd"])
    assert tree != "tree"
    with pytest.raises(dataclasses.FrozenInstanceError):
        tree.nodes = ()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="read-only"):
        tree.parent[0] = 3
    for array in (tree.node_of_class, tree.depth, tree.height, tree.levels):
        assert not array.flags.writeable
    assert "5 classes" in repr(tree)


# --- numbers --------------------------------------------------------------------------------------


def test_conventions_part_on_ragged_trees() -> None:
    tree = by_hand("ragged")
    assert tree.total_height == 3
    assert [float(tree.distances(kind)[0, 1]) for kind in DISTANCE_KINDS] == [1, 2, 2]
    small = Hierarchy.from_newick("((a,b),c);")
    assert small.distances().tolist() == small.distances("root_depth").tolist()
    assert small.distances().tolist() == [[0, 1, 2], [1, 0, 2], [2, 2, 0]]


def test_an_extended_leaf_is_as_far_as_published() -> None:
    """n07831146 and n07836838 of tieredImageNet-H: one parent at depth 5, H = 12: 7, and not 1."""
    below = "x"
    for _ in range(11):
        below = f"({below})"
    tree = Hierarchy.from_newick(f"((((((n07831146,n07836838))))),{below});")
    assert (tree.total_height, tree.num_classes) == (12, 3)
    assert tree.distances("root_depth")[0, 1] == 7
    assert tree.distances("lca_height")[0, 1] == 1


def test_single_children_count() -> None:
    tree = by_hand("chain")
    assert tree.classes == ("c", "a", "b")
    assert tree.total_height == 4
    assert tree.distances()[1, 2] == 1
    assert tree.distances("root_depth")[1, 2] == 3
    assert tree.distances("path")[0, 1] == 6


def test_an_inner_class_is_the_common_ancestor_of_what_is_below() -> None:
    tree = Hierarchy.from_pairs(
        [("all", "dog"), ("dog", "poodle"), ("all", "cat")], ["poodle", "dog", "cat"]
    )
    assert tree.distances().tolist() == [[0, 1, 2], [1, 0, 2], [2, 2, 0]]
    assert tree.distances("path").tolist() == [[0, 1, 3], [1, 0, 2], [3, 2, 0]]


def test_cifar100_has_the_published_pair_counts() -> None:
    tree = Hierarchy.cifar100()
    assert tree.level_sizes == (1, 2, 4, 8, 20, 100)
    for kind in ("lca_height", "root_depth"):
        assert tree.pair_counts(kind) == {1: 200, 2: 525, 3: 1050, 4: 900, 5: 2275}
    assert list(tree.classes) == sorted(tree.classes)
    # Labels 0, 51 and 99 of the data set, and that apples are fruit and worms are not.
    assert [tree.classes[label] for label in (0, 51, 99)] == ["apple", "mushroom", "worm"]
    label = tree.classes.index
    assert tree.distances()[label("apple"), label("pear")] == 1
    assert tree.distances()[label("apple"), label("worm")] == 4
    parents = {tree.nodes[node] for node in tree.levels[:, 4]}
    assert len(parents) == 20
    assert "non-insect_invertebrates" in parents


def test_aircraft_has_the_published_pair_counts() -> None:
    assert aircraft().level_sizes == (1, 30, 70, 100)
    assert aircraft().pair_counts() == {1: 62, 2: 333, 3: 4555}


@pytest.mark.parametrize(
    "tree, mistakes, five, twenty",
    [(Hierarchy.cifar100(), 3.914, 0.8, 2.0625), (aircraft(), 2.908, 1.632, 2.415)],
    ids=["cifar100", "aircraft"],
)
def test_the_headroom_is_as_published(
    tree: Hierarchy, mistakes: float, five: float, twenty: float
) -> None:
    """Uniformly random mistakes, and the 5 and 20 nearest classes, the right one among them."""
    distances = tree.distances()
    assert float(distances.sum() / (100 * 99)) == pytest.approx(mistakes, abs=5e-4)
    nearest = distances.sort(1).values.mean(0)
    assert float(nearest[:5].mean()) == pytest.approx(five, abs=5e-4)
    assert float(nearest[:20].mean()) == pytest.approx(twenty, abs=5e-4)


def test_fashion_mnist_is_in_the_order_of_its_labels() -> None:
    tree = Hierarchy.fashion_mnist()
    assert tree.classes[::9] == ("T-shirt/top", "Ankle boot")
    assert tree.level_sizes == (1, 2, 6, 10)
    label = tree.classes.index
    assert tree.distances()[label("Sneaker"), label("Ankle boot")] == 1
    assert tree.distances()[label("Coat"), label("Pullover")] == 2
    assert tree.distances()[label("Bag"), label("Shirt")] == 3


def test_ten_thousand_classes() -> None:
    labels = np.random.default_rng(0).permutation(10_000)
    rows = [[f"a{i % 7}", f"b{i % 91}", f"c{i % 1001}", f"x{i}"] for i in labels]
    tree = Hierarchy.from_levels(rows)
    small = tree.distances(dtype=torch.int16)
    first, second = np.random.default_rng(1).integers(10_000, size=(2, 50_000))
    assert np.array_equal(small.numpy()[first, second], tree.pair_distances(first, second))
    total = sum(value * count for value, count in tree.pair_counts().items())
    assert int(small.sum(dtype=torch.int64)) == 2 * total


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


# --- the check of a matrix ------------------------------------------------------------------------


def test_the_check_tells_what_a_matrix_is() -> None:
    check = check_distances(by_hand("ragged").distances())
    assert check.symmetric
    assert check.zero_diagonal
    assert check.ultrametric
    assert check.positive_semidefinite
    off = torch.tensor([[0.0, 1, 2], [1, 0, 3], [2, 3.5, 1]])
    check = check_distances(off)
    assert (check.asymmetry, check.diagonal) == (0.5, 1)
    assert not check.symmetric
    assert not check.zero_diagonal
    assert not check.ultrametric
    assert "symmetric: no, off by 0.5" in str(check)


def test_a_violation_is_the_excess_over_the_best_path() -> None:
    matrix = np.array([[0.0, 1, 5], [1, 0, 2], [5, 2, 0]])
    check = check_distances(matrix)
    # From 0 to 2 by way of 1 the longest step is 2.
    assert check.ultrametric_violation == 3
    assert not check.ultrametric
    assert check_distances(np.zeros((1, 1))).ultrametric


def test_the_eigenvalue_is_that_of_the_similarities() -> None:
    # The shortest paths of the complete bipartite graph K(3, 3) are no distances of vectors.
    matrix = np.full((6, 6), 2.0)
    matrix[:3, 3:] = matrix[3:, :3] = 1
    np.fill_diagonal(matrix, 0)
    rate = 0.4
    near, far = np.exp(-rate / 2), np.exp(-rate)
    # By hand: the sides against each other.
    wanted = 1 + 2 * far - 3 * near
    check = check_distances(matrix, rate)
    assert check.smallest_eigenvalue == pytest.approx(wanted, abs=1e-12)
    assert not check.positive_semidefinite
    assert check_distances(matrix, 5.0).positive_semidefinite


# --- refusals -------------------------------------------------------------------------------------

P: Any = Hierarchy.from_pairs
L, D, N = (
    Hierarchy.from_levels,
    Hierarchy.from_dict,
    Hierarchy.from_newick,
)
S = Hierarchy.from_similarity
REFUSED: dict[str, tuple[Any, str]] = {
    "two parents": (
        lambda: P([("r", "x"), ("r", "y"), ("y", "x")]),
        "must have one parent, got 'x' under 'r' and 'y'; choose",
    ),
    "cycle": (
        lambda: P([("a", "b"), ("b", "c"), ("c", "a")]),
        "no cycle, got 'c' in 'b' in 'a' in 'c'; leave",
    ),
    "cycle apart": (
        lambda: P([("r", "x"), ("a", "b"), ("b", "c"), ("c", "a")]),
        "no cycle, got 'b' in 'a' in 'c' in 'b'",
    ),
    "long cycle": (
        lambda: P([("r", "s"), *((str(i), str((i + 1) % 50)) for i in range(50))]),
        r"no cycle, got '\d+' in '\d+' in '\d+' in '\d+' and so on",
    ),
    "own parent": (lambda: P([("r", "r")]), "no cycle, got node 'r' as its own parent"),
    "two roots": (
        lambda: P([("a", "x"), ("b", "y")]),
        "one root, got 2: 'a', 'b'; give them a common parent",
    ),
    "pair twice": (lambda: P([("r", "x"), ("r", "x")]), r"\('r', 'x'\) twice"),
    "no pair": (lambda: P([]), "at least one pair"),
    "three in a pair": (lambda: P([tuple("abc")]), "got 3 entries in 'a', 'b', 'c'"),
    "leaf without class": (
        lambda: P([("r", "x"), ("r", "y")], ["x"]),
        r"every leaf of a hierarchy must be a class, got 'y' .*\.subset\(classes\)",
    ),
    "missing class": (
        lambda: P([("r", "x"), ("r", "y")], ["x", "y", "z"]),
        "every class must be a node of the hierarchy, got 'z'",
    ),
    "class twice": (
        lambda: P([("r", "x"), ("r", "y")], ["x", "y", "x"]),
        "classes must be different, got 'x' more than once",
    ),
    "no class": (lambda: N("(a,b);").subset([]), "at least one class"),
    "row twice": (lambda: L([["a", "x"], ["a", "x"]]), "got class 'x' again in row 1"),
    "hole": (lambda: L([["a", "x"], ["", "x"]]), "empty cell before 'x' in row 1"),
    "empty row": (lambda: L([["a"], [None, ""]]), "row 1 empty"),
    "no row": (lambda: L([]), "at least one row"),
    "siblings": (lambda: D(["a", "a"]), "siblings must have different names, got 'a'"),
    "siblings in JSON": (
        lambda: Hierarchy.from_json('{"a": 1, "a": 2}'),
        "siblings must have different names, got 'a'",
    ),
    "empty dict": (lambda: D({}), "at least one node"),
    "NUL": (lambda: D({"a": {"b\0c": None}}), "no control characters, got 'b.x00c'"),
    "half a pair of surrogates": (lambda: D(["\ud800"]), "no control characters"),
    "empty name": (lambda: P([("r", " ")]), "must not be empty"),
    "no end": (lambda: N("((a,b)"), "must end with ';'"),
    "open bracket": (lambda: N("((a,b);"), "must close what it opens"),
    "too many closed": (lambda: N("(a,b));"), "at character 6"),
    "two names": (lambda: N("(a'b',c);"), "one name a node, got 'b' at character 3"),
    "unnamed leaf": (lambda: N("(a,);"), "every leaf in Newick must have a name"),
    "open quote": (lambda: N("('a,b);"), "close the quote at character 2"),
    "open comment": (lambda: N("(a[,b);"), "close the comment at character 3"),
    "two trees": (lambda: N("(a,b);(c,d);"), "one tree"),
    "deep names": (lambda: N("(" * 5000 + "a" + ")x" * 5000 + ";"), "once more than 1000 levels"),
    "deep JSON": (lambda: Hierarchy.from_json("[" * 100_000), "nested that deeply"),
    "no JSON": (lambda: Hierarchy.from_json("{"), "must be JSON"),
    "own JSON cut": (
        lambda: Hierarchy.from_json('{"format": "neuralcollapse hierarchy"}'),
        "must hold 'nodes'",
    ),
    "parents out of range": (
        lambda: Hierarchy(("a",), np.array([5]), np.array([0])),
        r"parent must lie in \[-1, 1\)",
    ),
    "names alike": (
        lambda: Hierarchy(("a", "b", "b"), np.array([-1, 0, 0]), np.array([1, 2])),
        "different names, got 'b' twice",
    ),
    "lengths": (
        lambda: Hierarchy(("a", "b"), np.array([-1]), np.array([0])),
        "one entry per node, got 1 for 2",
    ),
    "kind": (lambda: by_hand("flat").distances("lca"), "kind must be one of lca_height"),  # pyright: ignore[reportArgumentType]
    "label": (lambda: by_hand("flat").pair_distances([0], [5]), r"second must lie in \[0, 5\)"),
    "no folder": (lambda: Hierarchy.from_folder("no/such/folder"), "must be an existing folder"),
    "no file": (lambda: Hierarchy.from_file("no/such.csv"), "no/such.csv does not exist"),
    "no square": (lambda: S(np.ones((2, 3))), r"shape \(K, K\) for kind='similarity'"),
    "one class": (lambda: S(np.ones((1, 1))), "at least two classes"),
    "NaN": (lambda: S(np.full((3, 3), np.nan)), "must be finite"),
    "absent class": (lambda: S(np.diag([1, 0, 1]), kind="confusion"), "got none in row 1"),
    "mean at the mean": (lambda: S(np.ones((3, 2)), kind="means"), "got row 0 equal to it"),
    "names too few": (lambda: S(np.eye(3), ["a"]), "got 1 names for 3 rows"),
    "negative": (lambda: check_distances([[0, -1], [-1, 0]]), "must not be negative, got -1"),
    "infinite": (lambda: check_distances([[0, np.inf], [1, 0]]), "must be finite, got inf"),
    "not square": (lambda: check_distances(np.ones((2, 3))), "square matrix"),
}
WRONG_TYPES: dict[str, Any] = {
    "pairs of a number": lambda: P(3),  # pyright: ignore[reportArgumentType]
    "pairs of text": lambda: P("ab"),  # pyright: ignore[reportArgumentType]
    "pair of text": lambda: P(["ab"]),  # pyright: ignore[reportArgumentType]
    "name of None": lambda: P([("a", None)]),  # pyright: ignore[reportArgumentType]
    "name of bool": lambda: P([("a", True)]),  # pyright: ignore[reportArgumentType]
    "name of list": lambda: P([("a", ["b"])]),  # pyright: ignore[reportArgumentType]
    "table of text": lambda: L("ab"),
    "row of text": lambda: L(["ab"]),
    "array of one dimension": lambda: L(np.arange(3)),
    "fraction": lambda: L([[0.5]]),
    "leaf of a number": lambda: D({"a": 3}),
    "leaf of text": lambda: D({"a": "b"}),
    "list of lists": lambda: D([["a"]]),
    "newick of bytes": lambda: N(b"(a,b);"),  # pyright: ignore[reportArgumentType]
    "graph of a dict": lambda: Hierarchy.from_networkx({}),
    "folder of a number": lambda: Hierarchy.from_folder(3),  # pyright: ignore[reportArgumentType]
    "parents of text": lambda: Hierarchy(("a",), ["x"], [0]),  # pyright: ignore[reportArgumentType]
    "nodes of text": lambda: Hierarchy("abc", [-1, 0, 0], [1, 2]),  # pyright: ignore[reportArgumentType]
    "classes of text": lambda: by_hand("flat").subset("abc"),  # pyright: ignore[reportArgumentType]
    "similarity of text": lambda: S("abc"),
    "distances of text": lambda: check_distances("abc"),
    "levels of a fraction": lambda: S(np.eye(3), levels=1.5),  # pyright: ignore[reportArgumentType]
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_tree_is_refused_in_one_sentence(name: str) -> None:
    build, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        build()
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_other_types_are_refused(name: str) -> None:
    with pytest.raises(TypeError) as caught:
        WRONG_TYPES[name]()
    assert " must be " in str(caught.value)


def test_depth_costs_no_stack() -> None:
    deep: dict[str, Any] = {}
    for level in range(4000):
        deep = {f"n{level}": deep}
    assert Hierarchy.from_dict(deep).total_height == 3999
    text = "(" * 4000 + "a" + ")" * 4000 + ";"
    assert Hierarchy.from_newick(text).total_height == 4000
    # What holds the dict lets go of it level by level.
    while deep:
        _, deep = deep.popitem()


def tree_or_message(build: Any, value: Any) -> tuple[Hierarchy | None, str]:
    try:
        return build(value), ""
    except (ValueError, TypeError) as error:
        return None, str(error)


@settings(max_examples=300)
@given(st.text(alphabet="ab()[]',;: \0\n\u00e9", max_size=30))
def test_any_text_is_a_newick_tree_or_a_value_error(text: str) -> None:
    tree, message = tree_or_message(Hierarchy.from_newick, text)
    assert "\n" not in message
    assert tree is None or tree.num_classes >= 1


def test_a_dict_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuralcollapse.hierarchy.formats.MOST_NESTED", 10_000)
    endless: dict[str, Any] = {"a": None}
    endless["b"] = endless
    doubled: Any = None
    for _ in range(60):
        doubled = {"a": doubled, "b": doubled}
    for tree in (endless, doubled):
        with pytest.raises(ValueError, match="at most 10000 nodes, got more; does a dict"):
            Hierarchy.from_dict(tree)


SIMPLE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3)
)
ANYTHING = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("build", [P, L, D, N, S, Hierarchy.from_networkx, Hierarchy.from_json])
@settings(max_examples=60)
@given(value=ANYTHING)
def test_anything_is_a_tree_or_an_error_of_the_caller(build: Any, value: Any) -> None:
    tree, message = tree_or_message(build, value)
    assert "\n" not in message
    assert len(message) < 500
    assert tree is None or Hierarchy.from_json(tree.to_json()) == tree


@settings(max_examples=60)
@given(
    content=st.one_of(
        st.binary(max_size=40), st.text(max_size=40).map(lambda t: t.encode("utf-8", "replace"))
    )
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".nwk", ".txt"])
def test_any_file_is_a_tree_or_an_error_that_names_it(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / f"any{suffix}"
    file.write_bytes(content)
    tree, message = tree_or_message(Hierarchy.from_file, file)
    assert "\n" not in message
    assert (str(file) in message) == (tree is None)


def test_importing_hierarchies_brings_no_torch() -> None:
    code = "import sys, neuralcollapse.hierarchy; print({'torch', 'scipy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
