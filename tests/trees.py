"""Trees for tests: by hand, at random, and distances by walking up parents one pair at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from neuralcollapse import Hierarchy

# Depths 1 and 2; c's chain of single children; an inner node that is a class; all at once.
NEWICK = {
    "flat": "(a,b,c,d,e);",
    "balanced": "((a,b),(c,d));",
    "ragged": "((a,b),((c,d),e));",
    "caterpillar": "(a,(b,(c,(d,e))));",
    "chain": "((((c))),(a,b));",
    "chain above": "(((a,b),(c,d)));",
    "two": "(a,b);",
}


def by_hand(name: str) -> Hierarchy:
    return Hierarchy.from_newick(NEWICK[name])


def complete(branching: int, height: int) -> Hierarchy:
    """Every inner node has `branching` children, every leaf depth `height`."""
    labels = np.arange(branching**height)
    digits = [labels // branching**level for level in reversed(range(height))]
    return Hierarchy.from_levels([[str(int(d)) for d in row] for row in zip(*digits, strict=True)])


# FGVC-Aircraft: of each manufacturer the number of variants in each family.
AIRCRAFT = {
    "Boeing": (1, 1, 1, 8, 4, 2, 3, 2),  # 707, 717, 727, 737, 747, 757, 767, 777
    "Airbus": (1, 1, 4, 2, 4, 1),  # A300, A310, A320, A330, A340, A380
    "Embraer": (3, 1, 2, 1),
    "McDonnell Douglas": (1, 1, 1, 1, 2, 1),
    "Douglas": (1, 1, 1, 1),
    "de Havilland": (1, 1, 1, 2),
    "Canadair": (1, 2, 1),
    "British Aerospace": (2, 1, 1),
    "Cessna": (1, 1, 2),
    "Fokker": (1, 1, 1),
    "Gulfstream": (2,),
    **dict.fromkeys(("Beechcraft", "ATR", "Dassault", "Tupolev", "Saab", "Lockheed"), (1, 1)),
    **dict.fromkeys(
        (
            *("Antonov", "Bombardier", "Cirrus", "Dornier", "Eurofighter", "Fairchild", "Ilyushin"),
            *("Lockheed Martin", "Panavia", "Piper", "Robin", "Supermarine", "Yakovlev"),
        ),
        (1,),
    ),
}


def aircraft() -> Hierarchy:
    """100 variants in 70 families of 30 manufacturers."""
    return Hierarchy.from_levels(
        [
            [maker, f"{maker} {family}", f"{maker} {family}-{variant}"]
            for maker, sizes in AIRCRAFT.items()
            for family, size in enumerate(sizes)
            for variant in range(size)
        ]
    )


def at_random(seed: int, num_nodes: int = 40) -> Hierarchy:
    """A tree where each node hangs below an earlier one; leaves and some inner nodes classes."""
    rng = np.random.default_rng(seed)
    parent = np.array([-1, *(int(rng.integers(node)) for node in range(1, num_nodes))])
    is_leaf = ~np.isin(np.arange(num_nodes), parent)
    chosen = np.flatnonzero(is_leaf | (rng.random(num_nodes) < 0.2))
    shuffled = rng.permutation(num_nodes)
    back = np.argsort(shuffled)
    names = tuple(f"n{int(node)}" for node in shuffled)
    given = np.array([-1 if p < 0 else back[p] for p in parent[shuffled]])
    return Hierarchy(names, given, back[rng.permutation(chosen)])


@st.composite
def hierarchies(draw: st.DrawFn, most_nodes: int = 20) -> Hierarchy:
    num_nodes = draw(st.integers(2, most_nodes))
    parent = [-1, *(draw(st.integers(0, node - 1)) for node in range(1, num_nodes))]
    leaves = [node for node in range(num_nodes) if node not in parent]
    inner = [node for node in range(num_nodes) if node in parent and draw(st.booleans())]
    classes = draw(st.permutations(leaves + inner))
    return Hierarchy(
        tuple(f"n{node}" for node in range(num_nodes)), np.array(parent), np.array(classes)
    )


def ancestors(tree: Hierarchy, node: int) -> list[int]:
    """The node, its parent, and so on to the root."""
    path = [node]
    while tree.parent[path[-1]] >= 0:
        path.append(int(tree.parent[path[-1]]))
    return path


def height(tree: Hierarchy, node: int) -> int:
    children = [child for child in range(tree.num_nodes) if tree.parent[child] == node]
    return 1 + max(height(tree, child) for child in children) if children else 0


def slow_distances(tree: Hierarchy, kind: str) -> np.ndarray:
    """From the definition, pair by pair."""
    found = np.zeros((tree.num_classes, tree.num_classes))
    heights = [height(tree, node) for node in range(tree.num_nodes)]
    for i, first in enumerate(tree.node_of_class):
        for j, second in enumerate(tree.node_of_class):
            if i == j:
                continue
            up, other = ancestors(tree, int(first)), ancestors(tree, int(second))
            common = next(node for node in up if node in other)
            if kind == "lca_height":
                found[i, j] = heights[common]
            elif kind == "root_depth":
                found[i, j] = heights[0] - (len(ancestors(tree, common)) - 1)
            else:
                found[i, j] = up.index(common) + other.index(common)
    return found
