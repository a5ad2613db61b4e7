"""Frames whose cosines follow a hierarchy of the classes."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from neuralcollapse.frames.branching import TOO_ALIKE, BranchingGram
from neuralcollapse.frames.frame import Frame, embed
from neuralcollapse.frames.low_rank import (
    OVERSAMPLING,
    Alike,
    DenseCosines,
    nearest_vectors,
    rows_of,
)
from neuralcollapse.hierarchy import DISTANCE_KINDS, Hierarchy
from neuralcollapse.hierarchy.distances import DistanceKind, as_distances
from neuralcollapse.scalars import check_choice, check_integer, check_number

# The published search counts eigenvalues down to -1e-6 as zero.
PUBLISHED_TOLERANCE = 1e-6
PUBLISHED_GRID = 100
# How far a given floor may lie below the least one: rounding of a printed number.
ROUNDING = 1e-9
# Of the random numbers that the search in few dimensions begins with, without a generator.
SEED = 0

Mapping = Literal["exponential", "linear"]


def hierarchy_frame(
    hierarchy: "Hierarchy | Tensor | np.ndarray",
    *,
    decay_rate: float = 2.0,
    mapping: Mapping = "exponential",
    floor: float | Literal["exact", "search"] = "exact",
    dim: int | None = None,
    generator: torch.Generator | None = None,
    distances: DistanceKind = "lca_height",
    dtype: torch.dtype = torch.float32,
) -> Frame:
    """K unit vectors whose cosines fall with the distance between classes in a tree.

        cosines = (1 - floor) * decay + floor
        decay = exp(-decay_rate * distances / distances.max())      ("exponential")
        decay = 1 - distances / distances.max()                     ("linear")

    Liang and Davis 2023, who search the floor on a grid of 100 values with an eigendecomposition
    each (`floor="search"` gives their value). `floor="exact"` is the least one that vectors can
    have, in closed form:

        floor = -1 / (c - 1),   c = decay.inverse().sum()

    There the classes are farthest apart, a weighted mean of the vectors is zero, they span K-1
    dimensions, and a flat tree gives the simplex ETF whatever the decay rate. For trees and the
    distances "lca_height" and "root_depth" nothing is decomposed: the floor takes O(nodes), the
    vectors are written down.

    For a dim below that, the best frame found: the leading eigenvectors of the cosines, cut where
    eigenvalues part, rescaled, then moved on the spheres to lower the squared error of the Gram
    matrix. How near it comes stands in `facts` (`gram_rms_error`, `gram_mean_error`,
    `gram_max_error` over pairs, `triplet_order_kept`) and in `status`.

    Args:
        hierarchy: a Hierarchy, or a matrix (K, K) of distances between classes: symmetric, zero
            on the diagonal and nowhere else.
        decay_rate: how fast similarity falls, above 0; larger is nearer to the simplex. Not used
            by "linear".
        mapping: from distances to similarities.
        floor: what similarity falls towards: "exact", "search", or a number below 1.
        dim: d; by default as many dimensions as the vectors span, K-1 with the exact floor.
        generator: for a random orientation, and for the start of the search where dim is small;
            without one the result is always the same.
        distances: the convention, where a Hierarchy is given; "root_depth" reproduces the
            published frames of tieredImageNet-H.
        dtype: of the vectors; they are computed in float64.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if there are fewer than two classes, if the matrix is none of distances, or if
            the similarities are not positive semidefinite with this floor (it says by how much).

    Example:
        >>> tree = Hierarchy.from_newick("((cat,dog),(car,bus));")
        >>> frame = hierarchy_frame(tree, decay_rate=2.0)
        >>> frame.gram[0].round(decimals=4).tolist()
        [1.0, -0.0707, -0.4646, -0.4646]
        >>> round(frame.facts["floor"], 4), frame.dim
        (-0.6939, 3)
    """
    check_choice("mapping", mapping, ("exponential", "linear"))
    check_choice("distances", distances, DISTANCE_KINDS)
    decay_rate = check_number("decay_rate", decay_rate, minimum=0, exclusive=True)
    if isinstance(floor, str):
        check_choice("floor", floor, ("exact", "search"))
    else:
        floor = check_number("floor", floor)
        if floor >= 1:
            raise ValueError(f"floor must be below 1, got {floor}; similarities fall from 1 to it")
    rate = decay_rate if mapping == "exponential" else None
    if isinstance(hierarchy, Hierarchy):
        _check_enough(hierarchy.num_classes)
        if distances == "path":
            matrix = hierarchy.distances("path").numpy()
            cosines: Similarities = DenseGram(matrix, rate)
        else:
            cosines = BranchingGram(hierarchy, distances, rate)
    else:
        cosines = DenseGram(_checked(hierarchy), rate)
    cosines.floor = _floor(cosines, floor)
    return _frame("hierarchy frame", cosines, dim, generator, dtype)


def barz_denzler_frame(
    hierarchy: Hierarchy,
    *,
    dim: int | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Frame:
    """K unit vectors with the cosines 1 - height(lowest common ancestor) / height(root).

    The "unit sphere" embedding of Barz and Denzler 2019: coordinates are the triangular Cholesky
    factor of the similarities, so that class k lies in the first k+1 dimensions. A flat tree gives
    an orthonormal basis. For dim < K as for `hierarchy_frame`, where they keep the leading
    eigenvectors.

    Args:
        hierarchy: the tree.
        dim: d, K by default.
        generator: for a random orientation.
        dtype: of the vectors; they are computed in float64.

    Raises:
        TypeError: if `hierarchy` is none.
        ValueError: if there are fewer than two classes.

    Example:
        >>> barz_denzler_frame(Hierarchy.from_newick("((cat,dog),car);")).gram[0].tolist()
        [1.0, 0.5, 0.0]
    """
    check_hierarchy(hierarchy)
    cosines = BranchingGram(hierarchy, "lca_height", None, largest=hierarchy.total_height)
    cosines.floor = 0.0
    kind = "Barz-Denzler embedding"
    num_classes = hierarchy.num_classes
    dim = num_classes if dim is None else check_integer("dim", dim, 1)
    if dim < num_classes:
        return _frame(kind, cosines, dim, generator, dtype)
    factor = torch.from_numpy(np.linalg.cholesky(rows_of(cosines, np.arange(num_classes))))
    facts = {"floor": 0.0, "rank": float(num_classes)}
    return Frame(kind, embed(factor, dim, generator, dtype), status="exact", facts=facts)


# --- similarities of any distances ----------------------------------------------------------------


class DenseGram(DenseCosines):
    """The matrix (1 - floor) * f(distances) + floor of any distances, by eigendecomposition."""

    def __init__(self, distances: np.ndarray, decay_rate: float | None) -> None:
        scaled = distances / distances.max()
        self.decay = 1 - scaled if decay_rate is None else np.exp(-decay_rate * scaled)
        values, vectors = np.linalg.eigh(self.decay)
        self.least_floor = self.floor = _least_floor(values, vectors.sum(0) ** 2)
        if self._eigen()[0][0] < -ROUNDING * values[-1]:
            rate = "" if decay_rate is None else f" with decay_rate={decay_rate:g}"
            raise ValueError(
                f"distances must give similarities that are positive semidefinite, got "
                f"{values[0]:.4g} as smallest eigenvalue{rate}, and no floor mends it; use an "
                "ultrametric such as the height of the lowest common ancestor, or a larger "
                "decay_rate"
            )

    @property
    def array(self) -> np.ndarray:
        """(K, K), the cosines."""
        return (1 - self.floor) * self.decay + self.floor

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.decay)

    def _eigen(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues and vectors with the present floor, decomposed once for each."""
        floor, *found = getattr(self, "_decomposed", (None,))
        if floor != self.floor:
            found = np.linalg.eigh(self.array)
            self._decomposed = self.floor, *found
        return found[0], found[1]

    def is_feasible(self, floor: float, tolerance: float) -> bool:
        """Whether no eigenvalue with this floor lies below -tolerance."""
        cosines = (1 - floor) * self.decay + floor
        return bool(np.linalg.eigvalsh(cosines)[0] >= -tolerance)

    @property
    def rank(self) -> int:
        """How many dimensions the exact vectors span."""
        values, _ = self._eigen()
        return int((values > ROUNDING * values[-1]).sum())

    def vectors(self) -> np.ndarray:
        """(K, rank), from the eigenvectors."""
        values, vectors = self._eigen()
        return vectors[:, -self.rank :] * np.sqrt(values[-self.rank :])

    def leaf_groups(self) -> tuple[np.ndarray, np.ndarray]:
        """Every class is a group of its own."""
        return np.arange(self.num_classes), np.zeros(self.num_classes)


def _least_floor(values: np.ndarray, along: np.ndarray) -> float:
    """-1 / (c - 1) from eigenvalues and squared sums of their vectors, c = sum(along / values).

    Where the matrix is singular in a direction that the ones see, any negative floor is too low;
    in directions that they do not see, the floor changes nothing.
    """
    null = np.abs(values) <= ROUNDING * values[-1]
    if (along[null] > ROUNDING * len(values)).any():
        return 0.0
    excess = float((along[~null] / values[~null]).sum()) - 1
    if 0 <= excess < ROUNDING:
        raise ValueError(TOO_ALIKE)
    return -1 / excess


Similarities = BranchingGram | DenseGram


def _floor(cosines: Similarities, floor: float | str) -> float:
    least = cosines.least_floor
    if isinstance(floor, str):
        return least if floor == "exact" else _searched_floor(cosines)
    if floor < least - ROUNDING * max(1.0, abs(least)):
        cosines.floor = floor
        raise ValueError(
            f"floor must be at least {least:.6g} for these distances, got {floor:g}, which gives "
            f"similarities with the eigenvalue {_smallest_eigenvalue(cosines):.4g}; "
            "use floor='exact'"
        )
    return max(floor, least)


def _searched_floor(cosines: Similarities) -> float:
    """The lowest of the published grid of floors; where one is feasible, so are all above it."""
    grid = np.linspace(-1 / (cosines.num_classes - 1), -1, PUBLISHED_GRID)
    # The first that is not, found by halving.
    low, high = 0, PUBLISHED_GRID
    while low < high:
        middle = (low + high) // 2
        if cosines.is_feasible(float(grid[middle]), PUBLISHED_TOLERANCE):
            low = middle + 1
        else:
            high = middle
    if low == 0:
        raise ValueError(
            f"floor='search' must find a floor at or below {grid[0]:.6g}, got none for these "
            f"distances, whose least floor is {cosines.least_floor:.6g}; use floor='exact'"
        )
    return float(grid[low - 1])


def _smallest_eigenvalue(cosines: Similarities) -> float:
    if cosines.num_classes <= 2000:
        return float(np.linalg.eigvalsh(rows_of(cosines, np.arange(cosines.num_classes)))[0])
    from scipy.sparse.linalg import LinearOperator, eigsh

    def product(vector: np.ndarray) -> np.ndarray:
        return (cosines @ vector.reshape(-1, 1))[:, 0]

    operator: Any = LinearOperator
    operator = operator((cosines.num_classes,) * 2, matvec=product, dtype=np.float64)
    start = np.ones(cosines.num_classes)
    return float(eigsh(operator, 1, which="SA", v0=start, return_eigenvectors=False)[0])


def _frame(
    kind: str,
    cosines: Similarities,
    dim: int | None,
    generator: torch.Generator | None,
    dtype: torch.dtype,
) -> Frame:
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, got {dtype}")
    rank = cosines.rank
    dim = rank if dim is None else check_integer("dim", dim, 1)
    facts = {"floor": cosines.floor, "rank": float(rank)}
    if dim >= rank:
        vectors = embed(torch.from_numpy(cosines.vectors()), dim, generator, dtype)
        return Frame(kind, vectors, status="exact", facts=facts)
    source = torch.Generator().manual_seed(SEED) if generator is None else generator
    shape = cosines.num_classes, dim + OVERSAMPLING
    noise = torch.randn(shape, generator=source, dtype=torch.float64).numpy()
    found, how_near = nearest_vectors(cosines, dim, Alike(*cosines.leaf_groups()), noise)
    status = (
        f"approximate, {dim} of {rank} dimensions: cosines off by "
        f"{how_near['gram_rms_error']:.2g} (root mean square) and at most "
        f"{how_near['gram_max_error']:.2g}, {how_near['triplet_order_kept']:.1%} of the triplet "
        "orders kept"
    )
    vectors = embed(torch.from_numpy(found), dim, generator, dtype)
    return Frame(kind, vectors, status=status, facts={**facts, **how_near})


def check_hierarchy(hierarchy: Any) -> None:
    """Raise if this is no hierarchy of two classes or more."""
    if not isinstance(hierarchy, Hierarchy):
        raise TypeError(
            f"hierarchy must be a Hierarchy, got {type(hierarchy).__name__}; build one with "
            "Hierarchy.from_levels or its siblings"
        )
    _check_enough(hierarchy.num_classes)


def _check_enough(num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(f"a frame needs at least two classes, got {num_classes}")


def _checked(matrix: Any) -> np.ndarray:
    """(K, K) in float64 if it holds distances between different classes."""
    if isinstance(matrix, str | bytes) or not hasattr(matrix, "__len__"):
        raise TypeError(
            f"hierarchy must be a Hierarchy or a matrix of distances, got {type(matrix).__name__}"
        )
    array = as_distances(matrix)
    _check_enough(len(array))
    largest = float(array.max())
    asymmetry = float(np.abs(array - array.T).max())
    if asymmetry > 1e-6 * largest:
        raise ValueError(
            f"distances must be symmetric, got entries that differ by {asymmetry:.3g} from those "
            "across the diagonal; use (matrix + matrix.T) / 2"
        )
    if float(np.abs(array.diagonal()).max()) > 1e-6 * largest:
        raise ValueError(
            f"distances must be zero on the diagonal, got {float(array.diagonal().max()):.3g}; "
            "is this a matrix of similarities?"
        )
    array = (array + array.T) / 2
    np.fill_diagonal(array, np.inf)
    if array.min() <= 0:
        row, column = np.unravel_index(int(array.argmin()), array.shape)
        raise ValueError(
            f"distances between different classes must be above 0, got 0 between {row} and "
            f"{column}; merge the two classes"
        )
    np.fill_diagonal(array, 0)
    return array
