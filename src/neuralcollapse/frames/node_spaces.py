"""A subspace for every class of a hierarchy, spanned by a vector for each of its nodes."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuralcollapse.checks import check_matrix
from neuralcollapse.frames.frame import embed
from neuralcollapse.frames.hierarchical import check_hierarchy
from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.scalars import check_integer


@dataclass(frozen=True, eq=False)
class NodeSubspaces:
    """One unit vector per node of a tree, all at right angles; a class is a subspace.

    Attributes:
        basis: (V - 1, d), a row for each node but the root, which would be in every subspace.
        members: (K, V - 1), whether a node spans the subspace of a class: the class itself, its
            ancestors, and what is below it.
    """

    basis: Tensor
    members: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """(N, K), lengths of the projections of features (N, d) onto the subspaces.

        Example:
            >>> spaces = node_subspaces(Hierarchy.from_newick("((cat,dog),car);"))
            >>> spaces.scores(spaces.basis[:1]).tolist()  # the parent of cat and dog
            [[1.0, 1.0, 0.0]]
        """
        check_matrix("features", features, columns=self.basis.shape[1], why="d of the basis")
        parts = (features @ self.basis.to(features).T).square()
        return (parts @ self.members.to(parts).T).sqrt()


def node_subspaces(
    hierarchy: Hierarchy,
    *,
    dim: int | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> NodeSubspaces:
    """One orthonormal vector per node, and for each class the subspace of its nodes.

    After Hier-COS (Sani and Anand 2025), where a sample is assigned to the class whose subspace
    holds most of its feature: two classes share a dimension for every common ancestor but the
    root.

    Args:
        hierarchy: the tree, of V nodes.
        dim: d, at least V - 1, which is the default.
        generator: for a random orientation.
        dtype: of the basis.

    Raises:
        TypeError: if `hierarchy` is none.
        ValueError: if there are fewer than two classes, or dim is below V - 1.

    Example:
        >>> spaces = node_subspaces(Hierarchy.from_newick("((cat,dog),car);"))
        >>> spaces.members.int().tolist()  # the nodes: above cat and dog, car, cat, dog
        [[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 0, 0]]
    """
    check_hierarchy(hierarchy)
    needed = hierarchy.num_nodes - 1
    remedy = f"{hierarchy.num_nodes} nodes less the root need {needed} dimensions"
    dim = needed if dim is None else check_integer("dim", dim, needed, remedy)
    tree, node = hierarchy.arrangement, hierarchy.node_of_class
    start, stop = tree.start[1:], tree.stop[1:]
    low, high = tree.start[node, None], tree.stop[node, None]
    above = (start <= low) & (low < stop)
    below = (low <= start) & (stop <= high)
    # A single child owns the same places as its parent: above and below go by depth there.
    deeper, same = (
        tree.depth[1:] > tree.depth[node, None],
        np.arange(1, len(tree.start)) == node[:, None],
    )
    members = (above & ~deeper) | (below & deeper) | same
    basis = embed(torch.eye(needed, dtype=torch.float64), dim, generator, dtype)
    return NodeSubspaces(basis, torch.from_numpy(members))
