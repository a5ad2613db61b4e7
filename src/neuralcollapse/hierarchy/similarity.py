"""A tree learned from how alike classes are, by agglomerative clustering."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from neuralcollapse.hierarchy.arrangement import check_name, shown
from neuralcollapse.hierarchy.outline import Outline
from neuralcollapse.scalars import check_choice, check_integer

SimilarityKind = Literal["similarity", "distance", "confusion", "means"]
Linkage = Literal["average", "complete", "single"]

# Heights that differ by less, relative to the largest, are one height.
SAME_HEIGHT = 1e-9


def learned_outline(
    matrix: Any,
    classes: Sequence[str] | None,
    kind: SimilarityKind,
    linkage: Linkage,
    levels: int | None,
) -> Outline:
    """The tree of joined groups; the leaves are the rows in their order."""
    from scipy.cluster.hierarchy import linkage as joined
    from scipy.spatial.distance import squareform

    check_choice("kind", kind, get_args(SimilarityKind))
    check_choice("linkage", linkage, get_args(Linkage))
    if levels is not None:
        levels = check_integer("levels", levels, 1)
    distances = dissimilarities(matrix, kind)
    names = class_names(classes, len(distances))
    joins = joined(squareform(distances, checks=False), linkage)
    heights = joins[:, 2] - min(0.0, float(joins[0, 2]))
    if levels is None:
        step = SAME_HEIGHT * (heights[-1] or 1.0)
        # The number of clearly different heights at or below each.
        heights = np.cumsum(np.diff(heights, prepend=-1.0) > step)
    else:
        heights = np.maximum(np.ceil(heights / (heights[-1] or 1.0) * levels - SAME_HEIGHT), 1)
    return outline_of_joins(joins[:, :2].astype(int), heights, names)


def outline_of_joins(joins: np.ndarray, heights: np.ndarray, names: list[str]) -> Outline:
    """A node for each join, unless the join above it has the same height: then they are one."""
    num_classes, num_joins = len(names), len(joins)
    above = np.full(num_classes + num_joins, -1)
    above[joins.ravel()] = np.repeat(np.arange(num_joins), 2) + num_classes
    height = np.concatenate([np.zeros(num_classes), heights])
    stands_for = np.arange(num_classes + num_joins)
    taken = {*names}
    outline = Outline(classes=[])
    place: dict[int, int] = {}
    number = 0
    # From the last join, which is the root, down.
    for node in reversed(range(num_classes + num_joins)):
        parent = int(above[node])
        if parent >= 0:
            parent = int(stands_for[parent])
            if node >= num_classes and height[node] == height[parent]:
                stands_for[node] = parent
                continue
        if node < num_classes:
            name = names[node]
        else:
            number += 1
            while f"group {number}" in taken:
                number += 1
            name = f"group {number}"
        place[node] = outline.add(name, place.get(parent, -1))
    outline.classes = [place[node] for node in range(num_classes)]
    return outline


def dissimilarities(matrix: Any, kind: SimilarityKind) -> np.ndarray:
    """(K, K), symmetric, larger is less alike, zero on the diagonal."""
    try:
        values = matrix.detach().cpu() if hasattr(matrix, "detach") else matrix
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise TypeError(f"matrix must be a matrix of numbers, got {shown(matrix)}") from None
    if array.ndim != 2 or (kind != "means" and array.shape[0] != array.shape[1]):
        wanted = "(K, d)" if kind == "means" else "(K, K)"
        raise ValueError(
            f"matrix must have shape {wanted} for kind={kind!r}, got {array.shape}; "
            "kind says what the matrix holds"
        )
    if len(array) < 2:
        raise ValueError(f"matrix must hold at least two classes, got {len(array)}")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(1))[0])
        raise ValueError(f"matrix must be finite, got NaN or infinity in row {row}; repair it")
    if kind == "means":
        centred = array - array.mean(0)
        lengths = np.linalg.norm(centred, axis=1)
        if (lengths == 0).any():
            row = int(np.flatnonzero(lengths == 0)[0])
            raise ValueError(
                f"class means must differ from their mean, got row {row} equal to it; "
                "leave the class out"
            )
        units = centred / lengths[:, None]
        array = 1 - units @ units.T
    elif kind == "confusion":
        if (array < 0).any():
            raise ValueError("a confusion matrix must not be negative; is it a similarity?")
        totals = array.sum(1)
        if (totals == 0).any():
            row = int(np.flatnonzero(totals == 0)[0])
            raise ValueError(
                f"a confusion matrix must have a sample in every row, got none in row {row}; "
                "leave the class out"
            )
        array = 1 - array / totals[:, None]
    elif kind == "similarity":
        others = array[~np.eye(len(array), dtype=bool)]
        array = others.max() - array
    symmetric = (array + array.T) / 2
    np.fill_diagonal(symmetric, 0)
    return symmetric


def class_names(classes: Sequence[str] | None, num_classes: int) -> list[str]:
    """The names of the rows, one each."""
    if classes is None:
        return [str(label) for label in range(num_classes)]
    if isinstance(classes, str):
        raise TypeError(f"classes must be a list of names, got {shown(classes)}")
    names = [check_name(name, "a class") for name in classes]
    if len(names) != num_classes:
        raise ValueError(
            f"classes must name every row of matrix, got {len(names)} names for {num_classes} rows"
        )
    return names
