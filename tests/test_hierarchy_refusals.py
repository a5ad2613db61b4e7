"""What is no tree is refused in one sentence, whatever it is and however deep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralcollapse import Hierarchy, check_distances
from trees import by_hand

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
