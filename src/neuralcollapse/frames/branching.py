"""Similarities that decay with a tree distance, in closed form: no eigendecomposition.

The similarity of two classes depends on their lowest common ancestor alone, so that the matrix of
similarities is a weighted sum over nodes of the squares of ones that their classes form. Bottom-up
over the tree this gives the least floor, and with it vectors: at every node that branches a simplex
of its children, weighted by what lies below them.
"""

from functools import cached_property

import numpy as np

from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.hierarchy.distances import node_distances

BLOCK = 1024


class BranchingGram:
    """The matrix (1 - floor) * f(distances) + floor of a tree, kept as one weight per node.

    `place` orders the classes so that those below any node stand side by side; nodes own the
    places [start, stop). An inner node that is a class has a leaf of its own here. Nodes above the
    first branching are left out: they tell nothing apart.

    Attributes:
        start, stop, parent: (V,), the nodes; the root is the first, parent -1.
        weight: (V,), f at the node less f at its parent, at the root f itself.
        place: (K,), where each class stands.
        floor: by default the least with which the matrix is positive semidefinite.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        kind: str,
        decay_rate: float | None,
        largest: float | None = None,
    ) -> None:
        """f is exp(-decay_rate d / largest), or 1 - d / largest where `decay_rate` is None."""
        tree = hierarchy.arrangement
        self.place = tree.start[hierarchy.node_of_class]
        size = tree.stop - tree.start
        (top,) = np.flatnonzero(size == hierarchy.num_classes)[-1:]
        # Every class as a leaf: those at inner nodes get one of their own below it.
        inner = hierarchy.node_of_class[tree.height[hierarchy.node_of_class] > 0]
        value = np.where(tree.height > 0, node_distances(tree, kind), 0)
        parent = np.concatenate([tree.parent, inner])
        value = np.concatenate([value, np.zeros(len(inner), int)])
        start = np.concatenate([tree.start, tree.start[inner]])
        stop = np.concatenate([tree.stop, tree.start[inner] + 1])
        depth = np.concatenate([tree.depth, tree.depth[inner] + 1])
        order = np.lexsort((start, depth))
        order = order[np.searchsorted(depth[order], tree.depth[top]) :]
        order = order[order != top]
        order = np.concatenate([[top], order])
        rank = np.empty(len(parent), int)
        rank[order] = np.arange(len(order))
        self.start, self.stop, self.depth = start[order], stop[order], depth[order]
        self.parent = np.concatenate([[-1], rank[parent[order[1:]]]])
        self.distance = value[order].astype(np.float64)
        self.largest = float(self.distance[0]) if largest is None else float(largest)
        self.decay_rate = decay_rate
        self.floor = self.least_floor

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.place)

    # --- weights --------------------------------------------------------------------------------

    def value(self, distance: np.ndarray) -> np.ndarray:
        """f, from 1 at distance 0."""
        scaled = distance / self.largest
        return 1 - scaled if self.decay_rate is None else np.exp(-self.decay_rate * scaled)

    @cached_property
    def weight(self) -> np.ndarray:
        """(V,), by how much f rises from the parent to the node; exact for small rates too."""
        above = self.distance[self.parent[1:]]
        rise = (above - self.distance[1:]) / self.largest
        if self.decay_rate is not None:
            rise = -self.value(self.distance[1:]) * np.expm1(-self.decay_rate * rise)
        return np.concatenate([self.value(self.distance[:1]), rise])

    def spans(self) -> list[tuple[int, int]]:
        """The nodes level by level, the root's level first."""
        edges = np.flatnonzero(np.diff(self.depth, prepend=-1, append=-1))
        return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))

    def precision(self, weight: np.ndarray, ridge: float = 0.0) -> np.ndarray:
        """(V,), 1 / (1^T M^-1 1) of the matrix M of the weights at and below each node.

        At the root without its own weight. Adding a weight w to all of a block diagonal matrix
        adds w to this number, and blocks add up inversely.
        """
        total = np.zeros(len(weight))
        found = weight.copy()
        is_leaf = self.stop - self.start == 1
        is_leaf[self.parent[1:]] = False
        found[is_leaf] += ridge
        found[0] = 0
        for low, high in reversed(self.spans()[1:]):
            level = np.arange(low, high)
            inner = level[~is_leaf[level]]
            found[inner] += 1 / total[inner]
            np.add.at(total, self.parent[level], 1 / found[level])
        found[0] = 1 / total[0]
        return found

    @cached_property
    def _precision(self) -> np.ndarray:
        return self.precision(self.weight)

    @cached_property
    def _drop(self) -> float:
        """1 - 1/c with c = 1^T E^-1 1, without cancellation where c is near 1."""
        if self.decay_rate is None:
            fall = self.distance[0] / self.largest
        else:
            fall = -np.expm1(-self.decay_rate * self.distance[0] / self.largest)
        return float(fall - self._precision[0])

    @cached_property
    def least_floor(self) -> float:
        """-1 / (c - 1): there the matrix is singular, above positive definite, below indefinite."""
        return 1 - 1 / self._drop

    @property
    def constant(self) -> float:
        """The weight of the square of all ones that lies above the least floor."""
        return max(0.0, (self.floor - self.least_floor) * self._drop)

    def is_feasible(self, floor: float, tolerance: float) -> bool:
        """Whether no eigenvalue with this negative floor lies below -tolerance."""
        weight = (1 - floor) * self.weight
        share = self.precision(weight, tolerance)[0] + weight[0]
        return share + floor >= 0

    # --- products and vectors -------------------------------------------------------------------

    def __matmul__(self, vectors: np.ndarray) -> np.ndarray:
        """The matrix times vectors (K, n), in O(V n): sums go up the tree, weighted ones down."""
        sums = np.zeros((len(self.parent), vectors.shape[1]))
        sums[self.leaf] = vectors
        spans = self.spans()
        for (low, _), (inner, outer) in zip(spans[-2::-1], spans[:0:-1], strict=True):
            sums[low:inner] += self._children(low, inner, outer) @ sums[inner:outer]
        weight = (1 - self.floor) * self.weight
        weight[0] += self.floor
        sums *= weight[:, None]
        for low, high in spans[1:]:
            sums[low:high] += sums[self.parent[low:high]]
        return sums[self.leaf]

    def _children(self, low: int, inner: int, outer: int):
        """(nodes of a level, nodes of the next), 1 at the children of each."""
        from scipy.sparse import csr_array

        first = np.searchsorted(self.parent[inner:outer], np.arange(low, inner + 1))
        return csr_array(
            (np.ones(outer - inner), np.arange(outer - inner), first),
            shape=(inner - low, outer - inner),
        )

    @cached_property
    def leaf(self) -> np.ndarray:
        """(K,), the leaf of each class."""
        is_leaf = np.ones(len(self.parent), bool)
        is_leaf[self.parent[1:]] = False
        leaves = np.flatnonzero(is_leaf)
        return leaves[np.argsort(self.start[leaves])][self.place]

    def squared_norm(self) -> float:
        """The squared Frobenius norm: pairs of classes by their lowest common ancestor."""
        pairs = (self.stop - self.start).astype(np.float64) ** 2
        own = pairs.copy()
        np.subtract.at(own, self.parent[1:], pairs[1:])
        cosines = (1 - self.floor) * self.value(self.distance) + self.floor
        return float((own * cosines**2).sum())

    @property
    def rank(self) -> int:
        """How many dimensions the exact vectors span."""
        return self.num_classes - (self.constant <= 0)

    def vectors(self) -> np.ndarray:
        """(K, rank), rows with this matrix as their inner products.

        At a node whose children have precisions g_1, ..., g_m: vectors q_1, ..., q_m in m - 1
        dimensions with q_i . q_j = g_i [i = j] - 1 / sum(1/g), a simplex for equal g; in column j
        children 1 to j stand on one side and child j + 1 on the other. The vector of a class is
        the q of its ancestors side by side.
        """
        child = np.arange(1, len(self.parent))
        child = child[np.lexsort((self.start[child], self.parent[child]))]
        above = self.parent[child]
        opens = np.flatnonzero(np.diff(above, prepend=-1))
        lengths = np.diff(np.append(opens, len(child)))
        part = 1 / self._precision[child]
        largest = np.repeat(np.maximum.reduceat(part, opens), lengths)
        part = part / largest
        running = np.cumsum(part)
        running -= np.repeat(running[opens] - part[opens], lengths)
        later = np.setdiff1d(np.arange(len(child)), opens)
        before, own, upto = running[later - 1], part[later], running[later]
        scale = (1 - self.floor) / largest[later]
        left = np.sqrt(scale * own / (before * upto))
        right = -np.sqrt(scale * before / (own * upto))
        start = self.start[above[later]]
        middle, stop = self.start[child[later]], self.stop[child[later]]
        found = np.empty((self.num_classes, self.rank))
        for row in range(0, self.num_classes, BLOCK):
            place = self.place[row : row + BLOCK, None]
            values = np.where(place < middle, left, right)
            outside = (place < start) | (place >= stop)
            found[row : row + BLOCK, : len(later)] = np.where(outside, 0.0, values)
        found[:, len(later) :] = np.sqrt(self.constant)
        return found

    # --- eigenvalues ----------------------------------------------------------------------------

    def leaf_groups(self) -> tuple[np.ndarray, np.ndarray]:
        """(K,) the group of each class: leaves with one parent; (G,) weight of a leaf of each."""
        _, first, group = np.unique(self.parent[self.leaf], return_index=True, return_inverse=True)
        return group, (1 - self.floor) * self.weight[self.leaf[first]]
