"""Losses on class hierarchies as loops over samples, nodes and classes in float64.

A tree is a list of parents (-1 at the root) with the node of each class. A class that is an inner
node also has an outcome of its own beside its children, named by the pair (node, "itself").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from reference.losses import logits
from reference.mistakes import path_to_root


class Tree:
    """Children of every node, and paths of outcomes from right below the root to a class."""

    def __init__(self, parent: Sequence[int], nodes: Sequence[int]):
        self.parent, self.nodes = list(parent), list(nodes)
        self.inner = [n for n in range(len(parent)) if n in self.parent]
        self.height = max(len(path_to_root(n, parent)) - 1 for n in range(len(parent)))

    def path(self, k: int) -> list[Any]:
        node = self.nodes[k]
        path: list[Any] = path_to_root(node, self.parent)[::-1][1:]
        return [*path, (node, "itself")] if node in self.inner else path

    def below(self, outcome: Any) -> list[int]:
        """The classes whose path goes through an outcome, or all for the root."""
        if outcome == "root":
            return list(range(len(self.nodes)))
        return [k for k in range(len(self.nodes)) if outcome in self.path(k)]

    def siblings(self, outcome: Any) -> list[Any]:
        """All outcomes that have the same node above them."""
        above = outcome[0] if isinstance(outcome, tuple) else self.parent[outcome]
        children: list[Any] = [n for n in range(len(self.parent)) if self.parent[n] == above]
        if above in self.nodes:
            children.append((above, "itself"))
        return children

    def group(self, k: int, level: int) -> Any:
        """The outcome of a class at a level; its last one below that."""
        path = self.path(k)
        return path[min(level, len(path)) - 1]

    def groups(self, level: int) -> list[Any]:
        """The groups of a level: classes in their order at the finest, else by node, as written."""
        if level == self.height:
            return [self.group(k, level) for k in range(len(self.nodes))]
        found = {self.group(k, level) for k in range(len(self.nodes))}
        return sorted(found, key=lambda o: o[0] if isinstance(o, tuple) else o)


def softmax(row: Sequence[float]) -> list[float]:
    top = max(row)
    parts = [math.exp(v - top) for v in row]
    return [p / sum(parts) for p in parts]


def hierarchical_cross_entropy(
    features: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    tree: Tree,
    decay: float,
) -> float:
    """-sum of lambda log(p(below) / p(below the one above)), lambda = exp(-decay (depth - 1))."""
    losses = []
    for row, y in zip(logits(features, weight, bias), labels, strict=True):
        p = softmax(row)
        loss, above = 0.0, 1.0
        for depth, outcome in enumerate(tree.path(int(y)), start=1):
            mass = sum(p[k] for k in tree.below(outcome))
            loss -= math.exp(-decay * (depth - 1)) * math.log(mass / above)
            above = mass
        losses.append(loss)
    return math.fsum(losses) / len(losses)


def soft_labels(
    features: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    table: Sequence[Sequence[float]],
    sharpness: float,
) -> float:
    """-sum_k q_k log p_k with q_k proportional to exp(-sharpness D[y, k] / max D)."""
    largest = max(max(row) for row in table)
    losses = []
    for row, y in zip(logits(features, weight, bias), labels, strict=True):
        p = softmax(row)
        shares = [math.exp(-sharpness * d / largest) for d in table[int(y)]]
        losses.append(-sum(s / sum(shares) * math.log(q) for s, q in zip(shares, p, strict=True)))
    return math.fsum(losses) / len(losses)


def conditional_softmax(
    features: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    tree: Tree,
    decay: float = 0.0,
) -> float:
    """-sum over the path of exp(-decay (depth - 1)) log softmax among siblings.

    Rows: the last outcome of each class, then the inner nodes but for the root.
    """
    rows: list[Any] = [tree.path(k)[-1] for k in range(len(tree.nodes))]
    rows += [n for n in tree.inner if tree.parent[n] >= 0]
    losses = []
    for values, y in zip(logits(features, weight, bias), labels, strict=True):
        loss = 0.0
        for depth, outcome in enumerate(tree.path(int(y)), start=1):
            brood = tree.siblings(outcome)
            p = softmax([values[rows.index(o)] for o in brood])
            loss -= math.exp(-decay * (depth - 1)) * math.log(p[brood.index(outcome)])
        losses.append(loss)
    return math.fsum(losses) / len(losses)


def barz_denzler(
    features: np.ndarray, labels: np.ndarray, weight: np.ndarray, bias: None = None
) -> float:
    """Mean of 1 - <h / |h|, e_y / |e_y|>."""
    losses = []
    for h, y in zip(features, labels, strict=True):
        product = sum(a * b for a, b in zip(h, weight[y], strict=True))
        lengths = math.sqrt(sum(a * a for a in h)) * math.sqrt(sum(b * b for b in weight[y]))
        losses.append(1 - product / lengths)
    return math.fsum(losses) / len(losses)


def level_starts(tree: Tree) -> dict[int, int]:
    """The first row of each level; the finest comes first."""
    starts, row = {}, 0
    for level in range(tree.height, 0, -1):
        starts[level] = row
        row += len(tree.groups(level))
    return starts


def multi_granularity(
    features: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    tree: Tree,
) -> float:
    """Sum over levels of the cross entropy on the features' parts from the level's on."""
    total, dim = 0.0, features.shape[1]
    for level, start in level_starts(tree).items():
        groups = tree.groups(level)
        rows = slice(start, start + len(groups))
        first = (level - 1) * dim // tree.height
        values = logits(
            features[:, first:], weight[rows, first:], None if bias is None else bias[rows]
        )
        losses = [
            -math.log(softmax(row)[groups.index(tree.group(int(y), level))])
            for row, y in zip(values, labels, strict=True)
        ]
        total += math.fsum(losses) / len(losses)
    return total


def jensen_shannon(p: Sequence[float], q: Sequence[float]) -> float:
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]

    def kl(one: Sequence[float]) -> float:
        return sum(a * math.log(a / m) for a, m in zip(one, middle, strict=True) if a > 0)

    return (kl(p) + kl(q)) / 2


def hierarchy_aware_features(
    features: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    tree: Tree,
    consistency: float = 1.0,
    alignment: float = 1.0,
    separation: float = 1.0,
) -> float:
    """Cross entropy of the classes and the three terms, with weight rows at unit length."""
    rows = weight / np.sqrt((weight**2).sum(1, keepdims=True))
    starts, values = level_starts(tree), logits(features, rows, bias)
    p: dict[int, list[list[float]]] = {}
    for level, start in starts.items():
        stop = start + len(tree.groups(level))
        p[level] = [softmax(row[start:stop]) for row in values]
    number = len(labels)
    total = -sum(math.log(p[tree.height][i][labels[i]]) for i in range(number)) / number
    for level in range(1, tree.height):
        groups, finer = tree.groups(level), tree.groups(level + 1)
        children = {
            g: [
                c
                for c, o in enumerate(finer)
                if any(
                    tree.group(k, level) == g and tree.group(k, level + 1) == o
                    for k in range(len(tree.nodes))
                )
            ]
            for g in groups
        }
        for i in range(number):
            added = [sum(p[level + 1][i][c] for c in children[g]) for g in groups]
            assert abs(sum(added) - 1) < 1e-12  # no child is counted twice
            total += consistency * jensen_shannon(added, p[level][i]) / number
        for place, g in enumerate(groups):
            own = rows[starts[level] + place]
            sum_below = np.sum([rows[starts[level + 1] + c] for c in children[g]], axis=0)
            cosine = float(own @ sum_below) / math.sqrt(float(sum_below @ sum_below))
            total += alignment * (1 - cosine) / len(groups)
        pairs = [
            (i, (i - 1) % number)
            for i in range(number)
            if tree.group(int(labels[i]), level) != tree.group(int(labels[i - 1]), level)
        ]
        for i, j in pairs:
            short = math.log(2) - jensen_shannon(p[level][i], p[level][j])
            total += separation * short / len(pairs)
    return total
