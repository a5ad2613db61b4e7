"""Hierarchies: laws of their distances, published numbers, and the check of a matrix."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
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


def test_importing_hierarchies_brings_no_torch() -> None:
    code = "import sys, neuralcollapse.hierarchy; print({'torch', 'scipy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
