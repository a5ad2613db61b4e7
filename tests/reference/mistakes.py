"""Severity of mistakes as loops over samples, from the definitions, with exact fractions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def path_to_root(node: int, parent: Sequence[int]) -> list[int]:
    """The node, its parent, ..., the root."""
    path = [node]
    while parent[path[-1]] >= 0:
        path.append(parent[path[-1]])
    return path


def lowest_common_ancestor(a: int, b: int, parent: Sequence[int]) -> int:
    above = path_to_root(b, parent)
    return next(node for node in path_to_root(a, parent) if node in above)


def height(node: int, parent: Sequence[int]) -> int:
    """Edges from a node to the deepest node below it."""
    below = [
        len(path_to_root(n, parent)[: path_to_root(n, parent).index(node)])
        for n in range(len(parent))
        if node in path_to_root(n, parent)
    ]
    return max(below)


def distances(parent: Sequence[int], nodes: Sequence[int], kind: str) -> list[list[int]]:
    """lca_height or root_depth between the nodes of the classes."""
    total = max(len(path_to_root(n, parent)) - 1 for n in range(len(parent)))

    def between(a: int, b: int) -> int:
        if a == b:
            return 0
        node = lowest_common_ancestor(a, b, parent)
        if kind == "lca_height":
            return height(node, parent)
        return total - (len(path_to_root(node, parent)) - 1)

    return [[between(a, b) for b in nodes] for a in nodes]


def ranked(scores: Sequence[float], k: int) -> list[int]:
    """The k classes of the highest scores; of equal ones the first."""
    return sorted(range(len(scores)), key=lambda c: (-scores[c], c))[:k]


def severity(
    scores: Sequence[Sequence[float]], labels: Sequence[int], table: Sequence[Sequence[float]]
) -> Fraction | None:
    """Mean distance over the mistakes; None where there are none."""
    found = [
        Fraction(table[y][ranked(row, 1)[0]])
        for row, y in zip(scores, labels, strict=True)
        if ranked(row, 1)[0] != y
    ]
    return sum(found, Fraction(0)) / len(found) if found else None


def hierarchical_distance(
    scores: Sequence[Sequence[float]],
    labels: Sequence[int],
    table: Sequence[Sequence[float]],
    k: int,
) -> Fraction:
    """Mean over samples of the mean distance of the best k (or all) ranked classes."""
    means = []
    for row, y in zip(scores, labels, strict=True):
        found = [Fraction(table[y][c]) for c in ranked(row, k)]
        means.append(sum(found, Fraction(0)) / len(found))
    return sum(means, Fraction(0)) / len(means)


def preference(
    scores: Sequence[Sequence[float]],
    labels: Sequence[int],
    table: Sequence[Sequence[float]],
    k: int,
) -> float:
    """(worst - found) / (worst - best), sums discounted by 1 / log2(1 + rank)."""
    worst = found = best = 0.0
    for row, y in zip(scores, labels, strict=True):
        order = sorted(table[y])
        for r, c in enumerate(ranked(row, k), start=1):
            discount = 1 / math.log2(1 + r)
            found += discount * table[y][c]
            best += discount * order[r - 1]
            worst += discount * order[-r]
    return (worst - found) / (worst - best)


def level_accuracy(
    predictions: Sequence[int],
    labels: Sequence[int],
    parent: Sequence[int],
    nodes: Sequence[int],
) -> list[float]:
    """Share of samples with the same ancestor at depth 1, 2, ..., the deepest."""
    total = max(len(path_to_root(n, parent)) - 1 for n in range(len(parent)))

    def ancestor(c: int, depth: int) -> int:
        path = path_to_root(nodes[c], parent)[::-1]
        return path[min(depth, len(path) - 1)]

    pairs = list(zip(predictions, labels, strict=True))
    return [
        sum(ancestor(p, depth) == ancestor(y, depth) for p, y in pairs) / len(pairs)
        for depth in range(1, total + 1)
    ]


def calibration(
    probabilities: Sequence[Sequence[float]], labels: Sequence[int], num_bins: int
) -> float:
    """Sum over bins of equal width of share * |accuracy - mean confidence|."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, y in zip(probabilities, labels, strict=True):
        decided = ranked(row, 1)[0]
        place = min(int(row[decided] * num_bins), num_bins - 1)
        bins.setdefault(place, []).append((row[decided], decided == y))
    total = 0.0
    for members in bins.values():
        confidence = math.fsum(c for c, _ in members) / len(members)
        right = sum(r for _, r in members) / len(members)
        total += len(members) / len(labels) * abs(right - confidence)
    return total
