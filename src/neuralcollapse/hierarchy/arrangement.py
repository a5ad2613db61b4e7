"""From a list of parents to a checked tree in one order that depends on its content alone."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Longer paths are not spelled out to tell nodes of one name apart.
LONGEST_PATH = 1000
SHOWN = 3


@dataclass(frozen=True, eq=False)
class Arrangement:
    """A tree, level by level; siblings in the order of the first class at or below them.

    Attributes:
        order: (V,), the given node that stands at each place.
        parent: (V,), -1 at the root.
        depth: (V,), edges to the root.
        height: (V,), edges to the deepest node below.
        start, stop: (V,), the classes at or below a node stand at the places [start, stop) of the
            depth-first order of classes, a class at an inner node before the classes below it.
    """

    order: np.ndarray
    parent: np.ndarray
    depth: np.ndarray
    height: np.ndarray
    start: np.ndarray
    stop: np.ndarray


def check_name(name: Any, what: str = "a node") -> str:
    """Return `name` if it can be the name of a node."""
    if isinstance(name, bool) or not isinstance(name, str | int | np.integer):
        raise TypeError(
            f"the name of {what} must be text, got {shown(name)} of type {type(name).__name__}"
        )
    name = str(name)
    if not name.strip():
        raise ValueError(f"the name of {what} must not be empty, got {name!r}; give it a name")
    # Control characters (NUL and line breaks among them) and halves of surrogate pairs.
    if any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in name):
        raise ValueError(
            f"the name of {what} must hold no control characters, got {shown(name)}; "
            "is this a text file in UTF-8?"
        )
    return name


def shown(value: Any, longest: int = 60) -> str:
    """How a value looks in a message: at most `longest` characters, whatever it is."""
    if isinstance(value, str | int | float | np.generic | type(None)):
        try:
            text = repr(value)
        except ValueError:  # an integer of more than 4300 digits
            text = "a very large integer"
    else:
        text = f"a {type(value).__name__}"
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def listed(names: Sequence[str]) -> str:
    """The first few names, quoted."""
    text = ", ".join(shown(name) for name in names[:SHOWN])
    return f"{text}, ..." if len(names) > SHOWN else text


def check_parents(parent: np.ndarray, names: Sequence[str]) -> int:
    """Return the root if `parent` is a tree."""
    for node in np.flatnonzero(parent == np.arange(len(parent)))[:1].tolist():
        raise ValueError(
            f"a hierarchy must have no cycle, got node {shown(names[node])} as its own parent; "
            "leave that pair out"
        )
    (roots,) = np.nonzero(parent < 0)
    if len(roots) > 1:
        raise ValueError(
            f"a hierarchy must have one root, got {len(roots)}: "
            f"{listed([names[root] for root in roots.tolist()])}; "
            "give them a common parent"
        )
    reached = parent.copy()
    # Every round doubles how far up each node looks; without a cycle all see past the root.
    for _ in range(max(1, len(parent)).bit_length()):
        reached = np.where(reached < 0, -1, reached[reached])
    if (reached >= 0).any():
        node = int(reached[reached >= 0][0])
        circle = [node]
        while parent[circle[-1]] != node and len(circle) <= SHOWN:
            circle.append(int(parent[circle[-1]]))
        text = " in ".join(shown(names[place]) for place in circle)
        raise ValueError(
            f"a hierarchy must have no cycle, got {text} "
            f"{'in ' + shown(names[node]) if parent[circle[-1]] == node else 'and so on'}; "
            "leave one of these pairs out"
        )
    return int(roots[0])


def check_classes(parent: np.ndarray, node_of_class: np.ndarray, names: Sequence[str]) -> None:
    """Raise unless classes are different nodes and every leaf is one."""
    values, counts = np.unique(node_of_class, return_counts=True)
    if (counts > 1).any():
        twice = shown(names[int(values[counts > 1][0])])
        raise ValueError(f"classes must be different, got {twice} more than once; leave one out")
    is_leaf = np.ones(len(parent), bool)
    is_leaf[parent[parent >= 0]] = False
    is_leaf[node_of_class] = False
    if is_leaf.any():
        idle = [names[node] for node in np.flatnonzero(is_leaf).tolist()]
        raise ValueError(
            f"every leaf of a hierarchy must be a class, got {listed(idle)} without one "
            f"({len(idle)} in all); add to classes what is missing there, or build the hierarchy "
            "without classes and take .subset(classes)"
        )


def arrange(parent: np.ndarray, node_of_class: np.ndarray) -> Arrangement:
    """The tree of `parent`, which has passed the checks above, in its one order."""
    num_nodes = len(parent)
    depth = depths(parent)
    by_depth = np.argsort(depth, kind="stable")
    edges = np.searchsorted(depth[by_depth], np.arange(depth.max() + 2))
    spans = list(itertools.pairwise(edges.tolist()))
    # The first class at or below each node, and how many there are.
    first = np.full(num_nodes, len(node_of_class))
    first[node_of_class] = np.arange(len(node_of_class))
    own = np.zeros(num_nodes, int)
    own[node_of_class] = 1
    size, height = own.copy(), np.zeros(num_nodes, int)
    for low, high in reversed(spans[1:]):
        level = by_depth[low:high]
        np.minimum.at(first, parent[level], first[level])
        np.add.at(size, parent[level], size[level])
        np.maximum.at(height, parent[level], height[level] + 1)
    order, rank = np.empty(num_nodes, int), np.empty(num_nodes, int)
    start = np.zeros(num_nodes, int)
    for low, high in spans:
        level = by_depth[low:high]
        if low > 0:
            level = level[np.lexsort((first[level], rank[parent[level]]))]
            above = parent[level]
            # Classes of the siblings before: the running sum less that at the first sibling.
            before = np.cumsum(size[level]) - size[level]
            opens = np.flatnonzero(np.r_[True, above[1:] != above[:-1]])
            base = np.repeat(before[opens], np.diff(np.r_[opens, len(level)]))
            start[level] = start[above] + own[above] + before - base
        order[low:high] = level
        rank[level] = np.arange(low, high)
    above = parent[order]
    return Arrangement(
        order=order,
        parent=np.where(above < 0, -1, rank[above]),
        depth=depth[order],
        height=height[order],
        start=start[order],
        stop=(start + size)[order],
    )


def depths(parent: np.ndarray) -> np.ndarray:
    """(V,), edges from each node of a tree to the root."""
    depth = (parent >= 0).astype(int)
    above = parent.copy()
    # Twice as far up in every round: `depth` counts the edges from a node to `above`.
    while (above >= 0).any():
        depth = depth + np.where(above >= 0, depth[above], 0)
        above = np.where(above >= 0, above[above], -1)
    return depth


def told_apart(names: Sequence[str], parent: np.ndarray) -> list[str]:
    """Names made unique: one that occurs more than once becomes its path below the root.

    The nodes `d` under `a` and under `b` become `a/d` and `b/d`.
    """
    counts = Counter(names)
    unique = list(names)
    if len(counts) == len(names):
        return unique
    above: list[int] = parent.tolist()
    for node, name in enumerate(names):
        if counts[name] > 1 and above[node] >= 0:
            path, place = [name], above[node]
            while above[place] >= 0:
                path.append(names[place])
                place = above[place]
                if len(path) > LONGEST_PATH:
                    raise ValueError(
                        f"node {shown(name)} occurs {counts[name]} times, once more than "
                        f"{LONGEST_PATH} levels deep; rename it"
                    )
            unique[node] = "/".join(reversed(path))
    seen: set[str] = set()
    for name in unique:
        if name in seen:
            raise ValueError(
                f"siblings must have different names, got {shown(name)} more than once; "
                "rename one, or leave the duplicate out"
            )
        seen.add(name)
    return unique
