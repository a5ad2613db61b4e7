"""Distances between classes of a tree under a named convention, and the check of a matrix."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from neuralcollapse.hierarchy.arrangement import Arrangement

DistanceKind = Literal["lca_height", "root_depth", "path"]
DISTANCE_KINDS: tuple[DistanceKind, ...] = get_args(DistanceKind)

# Relative to the largest entry: what float64 rounding and files of 6 digits leave.
TOLERANCE = 1e-6
# Rows that are put in the order of the labels at a time: few enough to stay in the cache.
_ROWS = 32


def node_distances(tree: "Arrangement", kind: str) -> np.ndarray:
    """(V,), what a node as lowest common ancestor says of a pair; the path less both depths."""
    if kind == "lca_height":
        return tree.height
    return tree.height.max() - tree.depth if kind == "root_depth" else -2 * tree.depth


def smallest_type(largest: int) -> type:
    """The narrowest type of integers that torch has and that holds a distance."""
    return np.int16 if largest <= np.iinfo(np.int16).max else np.int32


def distance_rows(
    tree: "Arrangement", node_of_class: np.ndarray, kind: str
) -> Iterator[tuple[slice, np.ndarray]]:
    """Some rows after the other of the distances in the order of the labels, as integers."""
    squares = _painted(tree, node_of_class, kind)
    place = tree.start[node_of_class]
    sorted_already = np.array_equal(place, np.arange(len(place)))
    depth = tree.depth[node_of_class].astype(squares.dtype)
    for first in range(0, len(place), _ROWS):
        rows = slice(first, min(first + _ROWS, len(place)))
        block = squares[rows] if sorted_already else squares[place[rows]].take(place, 1)
        if kind == "path":
            block = block + (depth[rows, None] + depth)
            np.fill_diagonal(block[:, rows], 0)
        yield rows, block


def _painted(tree: "Arrangement", node_of_class: np.ndarray, kind: str) -> np.ndarray:
    """(K, K) integers, distances in the depth-first order; of paths less the depths.

    In that order a node owns a square; what lies in it and in no child's square is its own. Every
    entry is written once, by two slices a node.
    """
    num_classes = len(node_of_class)
    value = node_distances(tree, kind)
    largest = 2 * int(tree.height.max())
    squares = np.empty((num_classes, num_classes), smallest_type(largest))
    rows = zip(
        tree.start.tolist(),
        tree.stop.tolist(),
        tree.start[tree.parent].tolist(),
        tree.stop[tree.parent].tolist(),
        value[tree.parent].tolist(),
        strict=True,
    )
    next(rows)  # the root has nothing around it
    for start, stop, left, right, inside in rows:
        squares[start:stop, left:start] = inside
        squares[start:stop, stop:right] = inside
    place = tree.start[node_of_class]
    inner = np.flatnonzero(tree.stop[node_of_class] - place > 1)
    for low, node in zip(place[inner].tolist(), node_of_class[inner].tolist(), strict=True):
        squares[low, low : tree.stop[node]] = value[node]
    np.fill_diagonal(squares, 0)
    return squares


@dataclass(frozen=True)
class DistanceCheck:
    """What a matrix of distances is.

    Attributes:
        num_classes: K.
        asymmetry: the largest |matrix[i, j] - matrix[j, i]|.
        diagonal: the largest |matrix[i, i]|.
        ultrametric_violation: the largest matrix[i, j] less the longest step of the path from i
            to j whose longest step is shortest; 0 for an ultrametric, which is what the height of
            the lowest common ancestor gives.
        smallest_eigenvalue: of the similarities exp(-decay_rate matrix / matrix.max()); where it
            is not positive, there may be no frame with these similarities.
        decay_rate: the one that was asked about.
        tolerance: below what a deviation counts as rounding.
    """

    num_classes: int
    asymmetry: float
    diagonal: float
    ultrametric_violation: float
    smallest_eigenvalue: float
    decay_rate: float
    tolerance: float

    @property
    def symmetric(self) -> bool:
        """Whether the matrix equals its transpose."""
        return self.asymmetry <= self.tolerance

    @property
    def zero_diagonal(self) -> bool:
        """Whether every class is at distance 0 from itself."""
        return self.diagonal <= self.tolerance

    @property
    def ultrametric(self) -> bool:
        """Whether the two largest distances of every triple are equal."""
        return self.symmetric and self.ultrametric_violation <= self.tolerance

    @property
    def positive_semidefinite(self) -> bool:
        """Whether the similarities are the Gram matrix of some vectors."""
        return self.smallest_eigenvalue >= -TOLERANCE

    def __str__(self) -> str:
        def line(name: str, holds: bool, off: str) -> str:
            return f"{name}: {'yes' if holds else f'no, {off}'}"

        return "\n".join(
            [
                line("symmetric", self.symmetric, f"off by {self.asymmetry:.3g}"),
                line("zero diagonal", self.zero_diagonal, f"off by {self.diagonal:.3g}"),
                line("ultrametric", self.ultrametric, f"off by {self.ultrametric_violation:.3g}"),
                line(
                    f"positive semidefinite (decay rate {self.decay_rate:g})",
                    self.positive_semidefinite,
                    f"smallest eigenvalue {self.smallest_eigenvalue:.3g}",
                ),
            ]
        )


def as_distances(matrix: Any) -> np.ndarray:
    """(K, K) in float64: a square matrix of finite numbers, none of them negative."""
    try:
        # A tensor that needs a gradient, or that lies on a GPU, has to be told to become an array.
        values = matrix.detach().cpu() if hasattr(matrix, "detach") else matrix
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(
            f"distances must be a square matrix of numbers, got a {type(matrix).__name__} that "
            "is none"
        ) from None
    if array.ndim != 2 or array.shape[0] != array.shape[1] or len(array) < 1:
        raise ValueError(f"distances must be a square matrix (K, K), got shape {array.shape}")
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(
            f"distances must be finite, got {array[row, column]} between classes {row} and "
            f"{column}; set it to the largest distance that makes sense"
        )
    if (array < 0).any():
        row, column = np.argwhere(array < 0)[0]
        raise ValueError(
            f"distances must not be negative, got {array[row, column]:g} between classes {row} "
            f"and {column}; is this a matrix of similarities?"
        )
    return array


def check_distances(matrix: Any, decay_rate: float = 2.0) -> DistanceCheck:
    """What a matrix of distances between classes is: symmetric, ultrametric, a frame's or not.

    Args:
        matrix: (K, K), array or tensor; finite, not negative.
        decay_rate: of the similarities exp(-decay_rate matrix / matrix.max()) whose smallest
            eigenvalue is asked for.

    Raises:
        TypeError: if it is no matrix of numbers.
        ValueError: if it is not square, not finite, or holds a negative number.

    Example:
        >>> print(check_distances([[0, 1, 2], [1, 0, 3], [2, 3, 0]]))
        symmetric: yes
        zero diagonal: yes
        ultrametric: no, off by 1
        positive semidefinite (decay rate 2): yes
    """
    from neuralcollapse.scalars import check_number

    decay_rate = check_number("decay_rate", decay_rate, minimum=0, exclusive=True)
    array = as_distances(matrix)
    largest = float(array.max()) or 1.0
    symmetric = (array + array.T) / 2
    # What the decay of the largest distance makes of the matrix; eigenvalues need symmetry.
    similarities = np.exp(-decay_rate / largest * symmetric)
    return DistanceCheck(
        num_classes=len(array),
        asymmetry=float(np.abs(array - array.T).max()),
        diagonal=float(np.abs(array.diagonal()).max()),
        ultrametric_violation=ultrametric_violation(symmetric),
        smallest_eigenvalue=float(np.linalg.eigvalsh(similarities)[0]),
        decay_rate=decay_rate,
        tolerance=TOLERANCE * largest,
    )


def ultrametric_violation(matrix: np.ndarray) -> float:
    """The largest d(i, j) less the height at which single linkage joins i and j.

    That height, the least over all paths from i to j of the longest step, is the largest
    ultrametric below a symmetric matrix.
    """
    if len(matrix) < 3:
        return 0.0
    from scipy.cluster.hierarchy import cophenet
    from scipy.cluster.hierarchy import linkage as link
    from scipy.spatial.distance import squareform

    condensed = squareform(matrix, checks=False)
    return float((condensed - cophenet(link(condensed, "single"))).max())
