"""One-vs-rest distances: how far is each class from the hull of all others?"""

import math

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from neuralcollapse.checks import check_finite, check_matrix
from neuralcollapse.frames.bounds import cap_angle, max_cosine_bound
from neuralcollapse.frames.closed_forms import check_code_size

# Two bounds on a distance, computed in different ways, differ by rounding.
_ROUNDING = 1e-12
# Steps towards all hulls at once, how often to look which distances may be the least, and up to how
# many of these are solved for at once.
_STEPS, _LOOK, _FEW = 41, 5, 2
# In so few dimensions solving for all is quicker than bounds.
_EASY_DIM = 3
# With smaller pivots the inverse of a Gram matrix loses more than half of the digits.
_LEAST_PIVOT = 1e-3
# Weights of corners at a time: 2^20 doubles are 8 MiB.
_BLOCK_WEIGHTS = 1 << 20


def one_vs_rest_distance(weight: Tensor, rows: Tensor | None = None) -> Tensor:
    """Distance of each direction from the convex hull of all others, in [0, 2].

        min over l >= 0, sum(l) = 1 of norm(u_k - sum over j != k of l_j u_j)

    with u the rows at unit length; exact, by one non-negative least-squares problem for each row
    (Jiang et al. 2024 define it). The larger, the more easily class k is told from all others; 0 if
    it lies among them.

    A problem takes some d passes over the (K, d) matrix: K = 1000 rows in 128 dimensions are some
    ten seconds, and ten times as many a hundred times that, so choose `rows` where K is large.

    Args:
        weight: (K, d), K >= 2, of any length but zero; computed in float64 on the CPU.
        rows: (R,), indices of the classes wanted; all by default.

    Returns:
        (K,) or (R,), float64.

    Raises:
        TypeError: if an argument is no tensor of its kind.
        ValueError: if K < 2, a row is zero or not finite, or an index out of range.

    Example:
        >>> corners = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> one_vs_rest_distance(corners).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    units = _unit_rows(weight)
    distances = [_one_vs_rest(units, k) for k in _indices(rows, len(units))]
    return torch.tensor(distances, dtype=torch.float64)


def softmax_code_margin(weight: Tensor, rows: Tensor | None = None) -> float:
    """Smallest distance of a direction from the hull of all others, in [0, 2].

        min over k of one_vs_rest_distance(weight)[k]

    Where it is the largest possible, the directions are a softmax code (Jiang et al. 2024). At
    least 1 - max_cosine(weight), and equal to that for every optimal arrangement computed so far.
    Arguments and errors are those of `one_vs_rest_distance`; with `rows`, the minimum over these
    alone, an upper bound. Without, proven lower bounds leave one or two of its problems to solve in
    most arrangements, all of them at worst.

    Example:
        >>> round(
        ...     softmax_code_margin(
        ...         torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])
        ...     ),
        ...     6,
        ... )
        1.5
    """
    units = _unit_rows(weight)
    if rows is not None or units.shape[1] <= _EASY_DIM:
        return float(one_vs_rest_distance(weight, rows).min())
    least = math.inf
    for some in np.array_split(np.arange(len(units)), 1 + len(units) ** 2 // _BLOCK_WEIGHTS):
        least = min(least, _least_distance(units, torch.from_numpy(some), least))
    return least


def softmax_code_bounds(num_classes: int, dim: int) -> tuple[float, float]:
    """Proven bounds on the largest `softmax_code_margin` that K directions can have.

        K <= d+1          K/(K-1), attained by the simplex
        d = 2             1 - cos(2 pi / K), attained by the regular polygon
        d+1 < K <= 2d     1, attained by many
        K > 2d            1 - cos(t) and min(1, smallest distance possible)

    The first three are exact (Jiang et al. 2024). The lower bound of the last: caps of angle t
    around K-1 points do not cover the sphere if each takes up less than 1/(K-1) of it, so that
    another point fits, and the margin is at least 1 - max_cosine. The upper bound: leaving out
    classes does not lower the margin, and K = d+2 has 1; and a hull is no farther than its nearest
    corner, which `max_cosine_bound` bounds.

    Args:
        num_classes: K, at least 2.
        dim: d, at least 1, and at least 2 for K > 2.

    Example:
        >>> softmax_code_bounds(10, 16), softmax_code_bounds(8, 4)
        ((1.1111111111111112, 1.1111111111111112), (1.0, 1.0))
    """
    num_classes, dim = check_code_size(num_classes, dim)
    if num_classes <= dim + 1:
        return num_classes / (num_classes - 1), num_classes / (num_classes - 1)
    if dim == 2:
        return 1 - math.cos(2 * math.pi / num_classes), 1 - math.cos(2 * math.pi / num_classes)
    if num_classes <= 2 * dim:
        return 1.0, 1.0
    lower = 1 - math.cos(cap_angle(1 / (num_classes - 1), dim))
    upper = math.sqrt(2 - 2 * max_cosine_bound(num_classes, dim))
    return lower, min(1.0, upper)


def _unit_rows(weight: Tensor) -> np.ndarray:
    """(K, d) in float64 at unit length."""
    check_matrix("weight", weight)
    if len(weight) < 2:
        raise ValueError(f"weight must have 2 rows or more, got {len(weight)}; add some")
    check_finite("weight", weight)
    wide = weight.detach().double().cpu()
    wide = wide / wide.abs().amax(1, keepdim=True)
    if bool(wide.isnan().any()):
        zero = int(wide.isnan().any(1).nonzero()[0])
        raise ValueError(
            f"weight must have no zero row, got one at {zero}; a zero vector has no direction"
        )
    return torch.nn.functional.normalize(wide).numpy()


def _indices(rows: Tensor | None, count: int) -> list[int]:
    if rows is None:
        return list(range(count))
    if not isinstance(rows, Tensor) or rows.dim() != 1 or rows.is_floating_point():
        raise TypeError("rows must be a 1-D tensor of class indices")
    chosen: list[int] = rows.tolist()
    if not chosen or min(chosen) < 0 or max(chosen) >= count:
        raise ValueError(f"rows must be one or more indices in [0, {count}), got {chosen[:5]}")
    return chosen


def _least_distance(units: np.ndarray, rows: Tensor, least: float) -> float:
    """The least of `least` and the distances of some points from the hulls of all others.

    Bounds by accelerated steps of projected descent (Beck, Teboulle 2009) for all of them at once:
    a point of the hull bounds the distance from above, and from below a plane across the line to
    it that has the hull behind it. Of those that may be the least, the nearest is solved for now
    and then, and all that are left in the end.
    """
    # Hulls move along with their corners.
    points = torch.from_numpy(units - units.mean(0))
    own = rows[:, None] == torch.arange(len(points))
    weights = ahead = (~own).to(points) / (len(points) - 1)
    lower, step, pace = _affine_distances(points)[rows], 0.0, 1.0
    for number in range(_STEPS):
        if number % _LOOK == 0:
            lines = points[rows] - weights @ points
            lengths = lines.norm(dim=1)
            heights = lines @ points.T
            free = heights[own] - heights.masked_fill(own, -torch.inf).amax(1)
            # The inner products are rounded, which counts where the line is short.
            lower = lower.maximum((free - _ROUNDING) / lengths)
            nearest = int(lengths.where(lower == lower.min(), torch.inf).argmin())
            if float(lower[nearest]) < least - _ROUNDING:
                least = min(least, _one_vs_rest(units, int(rows[nearest])))
                lower[nearest] = torch.inf
            if int((lower < least - _ROUNDING).sum()) <= _FEW:
                break
        step = step or 1 / _largest_eigenvalue(points)
        moved = ahead + step * ((points[rows] - ahead @ points) @ points.T)
        before, weights = weights, _onto_simplex(moved.masked_fill(own, -torch.inf))
        faster = (1 + math.sqrt(1 + 4 * pace**2)) / 2
        ahead = weights + (pace - 1) / faster * (weights - before)
        pace = faster
    for bound, k in zip(lower.tolist(), rows.tolist(), strict=True):
        if bound < least - _ROUNDING:
            least = min(least, _one_vs_rest(units, k))
    return least


def _largest_eigenvalue(points: Tensor) -> float:
    """Of the Gram matrix of the rows."""
    rows, columns = points.shape
    gram = points @ points.T if rows < columns else points.T @ points
    return float(torch.linalg.eigvalsh(gram)[-1])


def _affine_distances(points: Tensor) -> Tensor:
    """(K,), distances of centred points from the affine hulls of all others, where these are sure.

    They follow from the inverse Gram matrix of affinely independent points; 0 for others.
    """
    count, dim = points.shape
    if count <= dim + 1:
        factor, failed = torch.linalg.cholesky_ex(points @ points.T + 1 / count)
        if not bool(failed) and float(factor.diagonal().min()) > _LEAST_PIVOT:
            squares = torch.cholesky_inverse(factor).diagonal() - 1 / count
            return squares.rsqrt() - _ROUNDING
    return points.new_zeros(count)


def _onto_simplex(vectors: Tensor) -> Tensor:
    """The nearest rows that are not negative and sum to 1."""
    ordered = vectors.sort(dim=1, descending=True).values
    numbers = torch.arange(1, vectors.shape[1] + 1, device=vectors.device)
    excess = (ordered.cumsum(1) - 1) / numbers
    kept = (ordered > excess).sum(1, keepdim=True)
    return (vectors - excess.gather(1, kept - 1)).clamp(min=0)


def _one_vs_rest(units: np.ndarray, k: int) -> float:
    return _hull_distance(units[k], np.delete(units, k, axis=0))


def _hull_distance(point: np.ndarray, others: np.ndarray) -> float:
    """From a point to the hull of the rows of `others`.

    The minimum of norm(P l)^2 + (sum(l) - 1)^2 over l >= 0, with P the differences to the point,
    lies on the ray of the nearest weights: both terms scale, so no penalty is needed.
    """
    differences = (others - point).T
    system = np.vstack([differences, np.ones(len(others))])
    target = np.zeros(len(system))
    target[-1] = 1
    weights, _ = nnls(system, target, maxiter=30 * len(others) + 300)
    return float(np.linalg.norm(differences @ (weights / weights.sum())))
