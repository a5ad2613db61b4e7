"""Pairs of nodes and classes of a tree: common ancestors, distances, how many lie at each."""

import numpy as np

from neuralcollapse.hierarchy.arrangement import Arrangement
from neuralcollapse.hierarchy.distances import DistanceKind, distance_rows, node_distances


def common_ancestors(tree: Arrangement, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,), the lowest common ancestor of each of N pairs of nodes."""
    for _ in range(2 * int(tree.height[0])):
        # The deeper one climbs; of two equally deep and different ones, both.
        climbs = tree.depth[first] - tree.depth[second]
        apart = first != second
        if not apart.any():
            break
        above = np.where((climbs >= 0) & apart, tree.parent[first], first)
        second = np.where((climbs <= 0) & apart, tree.parent[second], second)
        first = above
    return first


def pair_distances(
    tree: Arrangement,
    node_of_class: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    kind: DistanceKind,
) -> np.ndarray:
    """(N,), the distance of each of N pairs of labels."""
    low, high = node_of_class[first], node_of_class[second]
    value = node_distances(tree, kind)[common_ancestors(tree, low, high)]
    if kind == "path":
        value = value + tree.depth[low] + tree.depth[high]
    return np.where(first == second, 0, value)


def pair_counts(tree: Arrangement, node_of_class: np.ndarray, kind: DistanceKind) -> dict[int, int]:
    """How many pairs of classes lie at each distance."""
    if kind == "path":
        counts = np.zeros(2 * int(tree.height[0]) + 1, int)
        for _, block in distance_rows(tree, node_of_class, kind):
            counts += np.bincount(block.ravel(), minlength=len(counts))
        counts[0] -= len(node_of_class)
        return {int(value): int(counts[value]) // 2 for value in np.flatnonzero(counts)}
    # Pairs whose lowest common ancestor is a node: those below it less those below a child.
    size = tree.stop - tree.start
    pairs = size * (size - 1) // 2
    own = pairs.copy()
    np.subtract.at(own, tree.parent[1:], pairs[1:])
    value = node_distances(tree, kind)
    totals = np.zeros(int(value.max()) + 1, int)
    np.add.at(totals, value, own)
    return {int(distance): int(totals[distance]) for distance in np.flatnonzero(totals)}
