"""Arrangements known in closed form: simplex, polygon, cross-polytope, orthogonal simplices.

Which one has the least energy for K classes in d dimensions:

    K <= d+1           regular simplex                       proved
    d = 2              regular polygon                       proved
    K = 2d             cross-polytope                        proved
    d+1 < K < 2d       K-d mutually orthogonal simplices,    best known; proved for the logarithm
                       for Riesz powers up to 2              and K = d+2
    otherwise          none

Proved: for every Riesz power above -2, the logarithm and Gaussians (Cohn, Kumar 2007), and K = d+2
for the logarithm (Dragnev, Musin 2019). The sizes of the simplices are as equal as possible, which
is the best choice for powers below 2, as the energy is a convex function of each size; at power 2
it is linear, and all sizes from two upwards are alike good. Above 2 it is concave: one large
simplex and pairs are best among the unions, but other arrangements beat all of them from some power
on, which is below 3 for K = 39 in 20 dimensions and below 16 for K = 5 in three. No closed form is
claimed there.

For the largest smallest distance every one of them is optimal, proved, up to K = 2d (Rankin 1955),
where the largest cosine is 0 as soon as K > d+1; there are many more that attain it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuralcollapse.frames.objective import Objective, as_objective
from neuralcollapse.frames.simplex import simplex_etf
from neuralcollapse.scalars import check_integer

PROVED, BEST_KNOWN = "proved", "best known"
# Up to it, the solver was never seen to beat a union of simplices.
_HIGHEST_UNION_POWER = 2.0


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """An arrangement on paper.

    Attributes:
        kind: what it is.
        status: "proved", or "best known".
        counts: numbers of pairs at each distance.
        squared: the squares of these distances.
        vectors: makes the vectors (K, r) in float64, in as many dimensions as they span.
    """

    kind: str
    status: str
    counts: np.ndarray
    squared: np.ndarray
    vectors: Callable[[], Tensor]


def closed_form_status(num_classes: int, dim: int, energy: str | float = 2.0) -> str:
    """What is known of the optimum of K directions in d dimensions in closed form.

    Args:
        num_classes: K, at least 2.
        dim: d, at least 1, and at least 2 for K > 2.
        energy: a Riesz power, or one of "log", "riesz:POWER", "gaussian:SCALE", "separation",
            "softmax_code".

    Returns:
        "proved", "best known", or "" where there is no closed form.

    Example:
        >>> [closed_form_status(num_classes, 4) for num_classes in (5, 7, 8, 9)]
        ['proved', 'best known', 'proved', '']
    """
    form = closed_form(num_classes, dim, as_objective(energy))
    return "" if form is None else form.status


def check_code_size(num_classes: int, dim: int) -> tuple[int, int]:
    """Return the size if K >= 2 directions in d dimensions can all differ."""
    num_classes = check_integer("num_classes", num_classes, 2)
    needed = 1 if num_classes == 2 else 2
    return num_classes, check_integer(
        "dim", dim, needed, f"one dimension has two directions, not {num_classes}"
    )


def closed_form(num_classes: int, dim: int, objective: Objective) -> ClosedForm | None:
    """The optimum in closed form, or None."""
    num_classes, dim = check_code_size(num_classes, dim)
    if num_classes <= dim + 1:
        return simplices([num_classes], PROVED)
    if dim == 2:
        return polygon(num_classes)
    if num_classes > 2 * dim:
        return None
    if num_classes == 2 * dim:
        return simplices([2] * dim, PROVED)
    if objective.is_separation:
        return simplices(balanced_sizes(num_classes, dim), PROVED)
    if objective.name != "riesz" or objective.parameter > _HIGHEST_UNION_POWER:
        return None
    proved = objective.parameter == 0 and num_classes == dim + 2
    return simplices(balanced_sizes(num_classes, dim), PROVED if proved else BEST_KNOWN)


def balanced_sizes(num_classes: int, dim: int) -> list[int]:
    """K as a sum of K-d sizes as equal as possible, the larger first."""
    parts = num_classes - dim
    size, larger = divmod(num_classes, parts)
    return [size + 1] * larger + [size] * (parts - larger)


def unbalanced_sizes(num_classes: int, dim: int) -> list[int]:
    """K as a sum of K-d sizes, all two but the first."""
    parts = num_classes - dim
    return [num_classes - 2 * (parts - 1)] + [2] * (parts - 1)


def simplices(sizes: list[int], status: str) -> ClosedForm:
    """Mutually orthogonal regular simplices around the origin."""
    count, total = len(sizes), sum(sizes)
    counts = [size * (size - 1) / 2 for size in sizes]
    squared = [2 * size / (size - 1) for size in sizes]
    across = (total**2 - sum(size**2 for size in sizes)) / 2
    if across:
        counts, squared = [*counts, across], [*squared, 2.0]
    if count == 1:
        kind = "simplex ETF"
    elif set(sizes) == {2}:
        kind = "cross-polytope"
    else:
        kind = f"{count} orthogonal simplices of {_told(sizes)} vectors"

    def vectors() -> Tensor:
        parts = [simplex_etf(size, size - 1, dtype=torch.float64).vectors for size in sizes]
        return torch.block_diag(*parts)

    return ClosedForm(kind, status, np.array(counts), np.array(squared), vectors)


def _told(sizes: list[int]) -> str:
    """The sizes and how often each occurs, "28x3 + 8x2"."""
    return " + ".join(
        f"{sizes.count(size)}x{size}" if sizes.count(size) > 1 else str(size)
        for size in sorted(set(sizes), reverse=True)
    )


def polygon(num_classes: int) -> ClosedForm:
    """The regular polygon."""
    step = np.arange(1, num_classes // 2 + 1)
    counts = np.full(len(step), float(num_classes))
    if num_classes % 2 == 0:
        counts[-1] /= 2
    squared = 4 * np.sin(np.pi * step / num_classes) ** 2

    def vectors() -> Tensor:
        angles = torch.arange(num_classes, dtype=torch.float64) * (2 * math.pi / num_classes)
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    return ClosedForm("regular polygon", PROVED, counts, squared, vectors)
