"""Clouds of points around means that stand on a complete tree: data whose hierarchy is known."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.scalars import check_integer, check_number
from neuralcollapse.specs import parse_spec
from neuralcollapse.train.samples import TensorSamples, seeded

_KINDS = {
    "branching": int,
    "depth": int,
    "dim": int,
    "samples": int,
    "noise": float,
    "step": float,
    "seed": int,
}
_DEFAULTS = {"branching": 4, "depth": 2, "dim": 64, "samples": 200, "noise": 0.5, "step": 1.0}


def read_synthetic_tree(spec: str) -> tuple[TensorSamples, tuple[str, ...]]:
    """Samples around the means of a complete tree, and the names of the classes.

    A class has the name of its path, "2/0" for the first child of the third child of the root.

    Args:
        spec: "synthetic-tree", or with options: branching (children of a node), depth, dim,
            samples (of each class), noise (deviation of each coordinate), step (see
            `tree_means`), seed.

    Raises:
        ValueError: if an option is unknown or out of range.
    """
    options = {**_DEFAULTS, "seed": 0, **parse_spec("data", spec).arguments(_KINDS)}
    branching = check_integer("branching", options["branching"], 2)
    depth = check_integer("depth", options["depth"], 1)
    samples = check_integer("samples", options["samples"], 1)
    noise = check_number("noise", options["noise"], minimum=0)
    seed = check_integer("seed", options["seed"], 0)
    means = tree_means(branching, depth, options["dim"], options["step"], seed)
    labels = torch.arange(len(means)).repeat_interleave(samples)
    generator = seeded(seed, 1)
    cloud = torch.randn(len(labels), means.shape[1], generator=generator, dtype=torch.float64)
    paths = itertools.product(map(str, range(branching)), repeat=depth)
    classes = tuple("/".join(path) for path in paths)
    return TensorSamples((means[labels] + noise * cloud).float(), labels), classes


def tree_means(branching: int, depth: int, dim: int, step: float = 1.0, seed: int = 0) -> Tensor:
    """(K, dim) float64, the true class means; K = branching^depth.

    Every node below the root has a direction of its own, orthogonal to all others, and a mean is
    the sum of those on its path:

        means[i] @ means[j] = sum over levels l = 1, ..., L of step^(2 (l - 1))

    with L the depth of the lowest common ancestor of i and j.

    Args:
        branching: children of each inner node.
        depth: edges from the root to a class.
        dim: at least the number of nodes below the root.
        step: length of a step relative to that of the level above.
        seed: of the directions.

    Raises:
        ValueError: if the directions do not fit into the dimensions.

    Example:
        >>> (tree_means(2, 2, 6, step=0.5) @ tree_means(2, 2, 6, step=0.5).T)[0].tolist()
        [1.25, 1.0, 0.0, 0.0]
    """
    step = check_number("step", step, minimum=0, exclusive=True)
    sizes = [branching**level for level in range(1, depth + 1)]
    if dim < sum(sizes):
        raise ValueError(
            f"dim must be at least {sum(sizes)}, a direction for every node below the root, got "
            f"{dim}; use a larger dim or a smaller tree"
        )
    noise = torch.randn(dim, sum(sizes), generator=seeded(seed), dtype=torch.float64)
    directions = torch.linalg.qr(noise).Q.T.split(sizes)
    means = torch.zeros(sizes[-1], dim, dtype=torch.float64)
    for level, own in enumerate(directions):
        means += step**level * own.repeat_interleave(sizes[-1] // len(own), 0)
    return means


def synthetic_hierarchy(classes: Sequence[str]) -> Hierarchy:
    """The tree of classes that have the names of their paths."""
    paths = [name.split("/") for name in classes]
    return Hierarchy.from_levels(
        [["/".join(path[: level + 1]) for level in range(len(path))] for path in paths]
    )
