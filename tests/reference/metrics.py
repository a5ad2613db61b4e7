"""Statistics and metrics of neural collapse as plain float64 loops, straight from the definitions.

Nothing here is fast, clever or copied: two passes over the data, one loop a symbol. Classes that
were never seen are left out of everything, K below is the number of classes seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg


@dataclass(frozen=True)
class Moments:
    """What the two passes leave: everything in float64, over the classes seen only."""

    seen: list[int]  # class indices with at least one sample, ascending
    counts: np.ndarray  # (K,)
    means: np.ndarray  # (K, d)
    spread: np.ndarray  # (K,) mean squared distance of each class to its own mean
    within: np.ndarray  # (d, d) Sigma_W = 1/N sum (h - mu_y)(h - mu_y)^T
    total: int

    def centre(self, global_mean: str = "class") -> np.ndarray:
        if global_mean == "class":
            return np.sum(self.means, axis=0) / len(self.seen)
        weighted = [count * mean for count, mean in zip(self.counts, self.means, strict=True)]
        return np.sum(weighted, axis=0) / self.total

    def centred(self, global_mean: str = "class") -> np.ndarray:
        centre = self.centre(global_mean)
        return np.stack([mean - centre for mean in self.means])


def moments(features: np.ndarray, labels: np.ndarray, num_classes: int) -> Moments:
    """First pass: class means (with one correction step); second pass: squares of residuals."""
    features = np.asarray(features, dtype=np.float64)
    dim = features.shape[1]
    seen, counts, means, spread = [], [], [], []
    within = np.zeros((dim, dim))
    for k in range(num_classes):
        rows = [h for h, y in zip(features, labels, strict=True) if y == k]
        if not rows:
            continue
        mean = sum(rows) / len(rows)
        mean = mean + sum(h - mean for h in rows) / len(rows)
        squares = 0.0
        for h in rows:
            residual = h - mean
            within += np.outer(residual, residual)
            squares += float(residual @ residual)
        seen.append(k)
        counts.append(len(rows))
        means.append(mean)
        spread.append(squares / len(rows))
    total = sum(counts)
    return Moments(
        seen=seen,
        counts=np.array(counts),
        means=np.stack(means),
        spread=np.array(spread),
        within=within / total,
        total=total,
    )


def nc1(m: Moments, global_mean: str = "class") -> float:
    """trace(Sigma_W pinv(Sigma_B)) / K.

    With the singular value decomposition U diag(s) V^T of the centred means the eigenvectors of
    Sigma_B = C^T C / K are the rows v_i of V^T and its eigenvalues s_i^2 / K, so that the trace is
    sum_i v_i^T Sigma_W v_i K / s_i^2 over the directions the means really span (at most K - 1).
    """
    classes = len(m.seen)
    _, singular, directions = np.linalg.svd(m.centred(global_mean), full_matrices=False)
    threshold = singular.max() * max(m.means.shape) * np.finfo(np.float64).eps
    value = 0.0
    for i, s in enumerate(singular):
        if i < classes - 1 and s > threshold:
            v = directions[i]
            value += float(v @ m.within @ v) * classes / s**2
    return float(value) / classes


def nc1_trace_ratio(m: Moments, global_mean: str = "class") -> float:
    """trace(Sigma_W) / trace(Sigma_B), Sigma_B divided by K."""
    between = sum(float(c @ c) for c in m.centred(global_mean)) / len(m.seen)
    return float(np.trace(m.within)) / between


def nc1_trace_unbiased(m: Moments, global_mean: str = "class") -> float:
    """The ratio of unbiased estimates of the two traces, nan where there is none.

    The estimate of |mu_k - mu_G|^2 takes off the expected square of its error, which is that of
    (1 - w_k) e_k - sum over the others of w_j e_j, with e_j the error of the mean of class j.
    """
    classes = len(m.seen)
    if m.total == classes:
        return math.nan
    pooled = sum(s * n for s, n in zip(m.spread, m.counts, strict=True)) / (m.total - classes)
    errors = [
        (s * n / (n - 1) if n > 1 else pooled) / n for s, n in zip(m.spread, m.counts, strict=True)
    ]
    shares = [n / m.total if global_mean == "sample" else 1 / classes for n in m.counts]
    between = 0.0
    for k, centred in enumerate(m.centred(global_mean)):
        between += float(centred @ centred) / classes
        for j, (share, error) in enumerate(zip(shares, errors, strict=True)):
            between -= ((1 - share) if j == k else share) ** 2 * error / classes
    return pooled / between if between > 0 else math.nan


def cdnv(m: Moments) -> float:
    """Mean over ordered pairs of (v_k + v_j) / (2 |mu_k - mu_j|^2)."""
    values = []
    for k in range(len(m.seen)):
        for j in range(len(m.seen)):
            if k != j:
                gap = m.means[k] - m.means[j]
                values.append((m.spread[k] + m.spread[j]) / (2.0 * float(gap @ gap)))
    return math.fsum(values) / len(values)


def between_rows(m: Moments, global_mean: str, weighting: str | None) -> np.ndarray:
    """Rows whose outer products sum to Sigma_B."""
    classes = len(m.seen)
    shares = m.counts / m.total if weighting == "samples" else np.full(classes, 1 / classes)
    return np.sqrt(shares)[:, None] * m.centred(global_mean)


def balanced_within(features: np.ndarray, labels: np.ndarray, m: Moments) -> np.ndarray:
    """Mean over the classes of their own covariances."""
    total = np.zeros_like(m.within)
    for k, mean in zip(m.seen, m.means, strict=True):
        rows = [h - mean for h, y in zip(features, labels, strict=True) if y == k]
        total += sum(np.outer(r, r) for r in rows) / len(rows)
    return total / len(m.seen)


def weighted_nc1(between: np.ndarray, within: np.ndarray) -> float:
    """trace(Sigma_W pinv(Sigma_B)) / K, from the rows of Sigma_B."""
    return float(np.trace(within @ np.linalg.pinv(between.T @ between, rcond=1e-9))) / len(between)


def vci(m: Moments, global_mean: str = "class") -> float:
    """1 - trace(pinv(S_T) S_B) / rank(S_B), through the singular vectors of the rows of S_T.

    With the rows of S_B above those of S_W in one matrix U diag(s) V^T the trace is the squared
    norm of the upper rows of U, which is the projection to what the rows span.
    """
    upper = between_rows(m, global_mean, None)
    _, singular, directions = np.linalg.svd(m.within)
    singular[singular < 1e-12 * singular.sum()] = 0  # rounding
    lower = np.sqrt(singular)[:, None] * directions
    rank = np.linalg.matrix_rank(upper)
    left, values, _ = np.linalg.svd(np.concatenate([upper, lower]), full_matrices=False)
    kept = left[: len(upper), values > 1e-6 * values.max()]
    return 1 - float(np.sum(kept**2)) / rank if rank else math.nan


def cdnv_directional(features: np.ndarray, labels: np.ndarray, m: Moments) -> float:
    """Mean over ordered pairs of the variance of k along the unit vector to j, over distance^2."""
    terms = []
    for k, own in zip(m.seen, m.means, strict=True):
        rows = [h for h, y in zip(features, labels, strict=True) if y == k]
        for j, other in zip(m.seen, m.means, strict=True):
            if j != k:
                distance = math.sqrt(float((other - own) @ (other - own)))
                if not distance:
                    return math.nan
                along = [float((h - own) @ (other - own)) / distance for h in rows]
                terms.append(sum(a * a for a in along) / len(along) / distance**2)
    return sum(terms) / len(terms) if terms else math.nan


def effective_rank(rows: np.ndarray) -> float:
    """exp of the entropy of the shares of the eigenvalues of the rows' covariance."""
    values = np.linalg.svd(rows, compute_uv=False) ** 2
    shares = [v / values.sum() for v in values if v > 0]
    return math.exp(-sum(p * math.log(p) for p in shares))


def subspace_cosine(weight: np.ndarray, centred: np.ndarray) -> float:
    """Mean cosine of the principal angles, by scipy; a missing direction is a right angle."""
    first, second = spanned(weight - weight.mean(0)), spanned(centred)
    if not len(first) or not len(second):
        return math.nan
    cosines = [math.cos(angle) for angle in scipy.linalg.subspace_angles(first.T, second.T)]
    return sum(cosines) / max(len(first), len(second))


def spanned(rows: np.ndarray) -> np.ndarray:
    """A basis of what the rows span; a millionth of the largest is rounding of float32 rows."""
    _, values, directions = np.linalg.svd(rows, full_matrices=False)
    return directions[values > max(1e-6 * values[0], np.finfo(float).tiny)]


def gaussian(rows: np.ndarray) -> float:
    """log of the mean over pairs of exp(-2 distance^2)."""
    values = [math.exp(-2 * r * r) for r in pair_distances(rows)]
    return math.log(sum(values) / len(values))


def outside_cosine(m: Moments, outsiders: np.ndarray) -> float:
    """Mean over classes of |cos(mu_k, mean of the outsiders)|, raw."""
    centre = outsiders.mean(0)
    cosines = [abs(float(direction(mean) @ direction(centre))) for mean in m.means]
    return sum(cosines) / len(cosines)


def population_deviation(values: list[float]) -> float:
    average = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - average) ** 2 for v in values) / len(values))


def cosines(rows: np.ndarray) -> list[float]:
    """The cosine of every pair k < j."""
    return [
        float(rows[k] @ rows[j]) / (math.sqrt(rows[k] @ rows[k]) * math.sqrt(rows[j] @ rows[j]))
        for k in range(len(rows))
        for j in range(k + 1, len(rows))
    ]


def equinorm(rows: np.ndarray) -> float:
    """Population standard deviation over mean of the row norms."""
    norms = [math.sqrt(row @ row) for row in rows]
    return population_deviation(norms) / (math.fsum(norms) / len(norms))


def equiangle(rows: np.ndarray) -> float:
    """Population standard deviation of the cosines over pairs k < j."""
    return population_deviation(cosines(rows))


def max_angle(rows: np.ndarray) -> float:
    """Mean over pairs of |cos + 1/(K - 1)|."""
    values = [abs(cosine + 1.0 / (len(rows) - 1)) for cosine in cosines(rows)]
    return math.fsum(values) / len(values)


def etf_distance(rows: np.ndarray) -> float:
    """|| G/|G|_F - E/|E|_F ||_F entry by entry, G = rows rows^T and E = I - J/K."""
    classes = len(rows)
    gram = [[float(rows[k] @ rows[j]) for j in range(classes)] for k in range(classes)]
    target = [[float(k == j) - 1.0 / classes for j in range(classes)] for k in range(classes)]
    gram_norm = math.sqrt(math.fsum(g * g for row in gram for g in row))
    target_norm = math.sqrt(math.fsum(e * e for row in target for e in row))
    return math.sqrt(
        math.fsum(
            (gram[k][j] / gram_norm - target[k][j] / target_norm) ** 2
            for k in range(classes)
            for j in range(classes)
        )
    )


def duality(weight: np.ndarray, centred: np.ndarray) -> float:
    """|| W/|W|_F - M_c/|M_c|_F ||_F."""
    left = weight / math.sqrt((weight**2).sum())
    right = centred / math.sqrt((centred**2).sum())
    return math.sqrt(((left - right) ** 2).sum())


def alignment(weight: np.ndarray, centred: np.ndarray) -> float:
    """Mean over k of cos(w_k, mu_k - mu_G)."""
    return float(
        np.mean(
            [
                (w @ c) / (math.sqrt(w @ w) * math.sqrt(c @ c))
                for w, c in zip(weight, centred, strict=True)
            ]
        )
    )


def alignment_spread(weight: np.ndarray, centred: np.ndarray) -> float:
    """Coefficient of variation over k of cos(w_k, mu_k - mu_G)."""
    values = [
        float(w @ c) / math.sqrt(float(w @ w) * float(c @ c))
        for w, c in zip(weight, centred, strict=True)
    ]
    return population_deviation(values) / abs(math.fsum(values) / len(values))


def direction(vector: np.ndarray) -> np.ndarray:
    return vector / math.sqrt(float(vector @ vector))


def pair_distances(rows: np.ndarray) -> list[float]:
    """Between the directions of every pair k < j."""
    gaps = [
        direction(rows[k]) - direction(rows[j])
        for k in range(len(rows))
        for j in range(k + 1, len(rows))
    ]
    return [math.sqrt(float(gap @ gap)) for gap in gaps]


def log_energies(rows: np.ndarray) -> list[float]:
    return [-math.log(r) if r > 0 else math.inf for r in pair_distances(rows)]


def log_mean(rows: np.ndarray) -> float:
    values = log_energies(rows)
    return math.fsum(values) / len(values)


def log_variance(rows: np.ndarray) -> float:
    values = log_energies(rows)
    return population_deviation(values) ** 2 if max(values) < math.inf else math.inf


def hug_inter(rows: np.ndarray) -> float:
    """Mean over pairs of 1 / distance^2, of the directions."""
    values = [1 / r**2 if r > 0 else math.inf for r in pair_distances(rows)]
    return math.fsum(values) / len(values)


def hug_intra(
    features: np.ndarray, labels: np.ndarray, m: Moments, centre: np.ndarray | float
) -> float:
    """Mean over classes of the mean distance of the directions of samples and class mean."""
    means = []
    for k, mean in zip(m.seen, m.means, strict=True):
        proxy = direction(mean - centre)
        distances = []
        for h, y in zip(np.asarray(features, dtype=np.float64), labels, strict=True):
            if y == k:
                moved = h - centre
                gap = (direction(moved) if moved.any() else moved) - proxy
                distances.append(math.sqrt(float(gap @ gap)))
        means.append(math.fsum(distances) / len(distances))
    return math.fsum(means) / len(means)


def least_log_energy(num_classes: int, dim: int) -> float:
    """Mean over pairs at the best arrangement: simplex, polygon, or orthogonal simplices.

    Built as a list of distances; the cross-polytope is d orthogonal pairs. Nothing is known in
    closed form for K > 2d > 4.
    """
    if num_classes > dim + 1 and dim == 2:
        angles = 2 * np.pi * np.arange(num_classes) / num_classes
        return log_mean(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    if num_classes > 2 * dim:
        return math.nan
    parts = 1 if num_classes <= dim + 1 else num_classes - dim
    sizes = [num_classes // parts + (i < num_classes % parts) for i in range(parts)]
    inner = [math.comb(m, 2) for m in sizes]
    across = math.comb(num_classes, 2) - sum(inner)
    total = -0.5 * across * math.log(2)
    for pairs, m in zip(inner, sizes, strict=True):
        total -= 0.5 * pairs * math.log(2 * m / (m - 1))
    return total / math.comb(num_classes, 2)


def hull_distance(point: np.ndarray, others: np.ndarray) -> float:
    """From a point to the convex hull of others, through every face: for a handful of them.

    The nearest point lies in the affine hull of some subset with weights that are all positive, so
    it is the nearest of the feet of the point on these subsets.
    """
    best = math.inf
    for chosen in range(1, 2 ** len(others)):
        corners = others[[i for i in range(len(others)) if chosen >> i & 1]]
        edges = (corners[1:] - corners[0]).T
        weights = np.linalg.lstsq(edges, point - corners[0], rcond=None)[0]
        if weights.min(initial=0) >= -1e-12 and weights.sum() <= 1 + 1e-12:
            gap = corners[0] + edges @ weights - point
            best = min(best, math.sqrt(float(gap @ gap)))
    return best


def best_margin(num_classes: int, dim: int) -> float:
    if num_classes <= dim + 1:
        return num_classes / (num_classes - 1)
    if num_classes <= 2 * dim:
        return 1.0
    return 1 - math.cos(2 * math.pi / num_classes) if dim == 2 else math.nan


def margin(rows: np.ndarray) -> float:
    """Smallest distance of a direction from the hull of the others, over the largest possible."""
    best = best_margin(len(rows), rows.shape[1])
    if math.isnan(best):
        return best
    units = np.stack([direction(row) for row in rows])
    distances = [hull_distance(units[k], np.delete(units, k, axis=0)) for k in range(len(units))]
    return min(distances) / best


def disagreement(
    features: np.ndarray, m: Moments, weight: np.ndarray, bias: np.ndarray | None
) -> float:
    """Share of samples where argmax(W h + b) differs from the nearest class mean.

    The classifier decides as it is, over all its rows; a class never seen cannot be nearest.
    """
    different, total = 0, 0
    for h in np.asarray(features, dtype=np.float64):
        logits = [
            float(w @ h) + (0.0 if bias is None else float(bias[k])) for k, w in enumerate(weight)
        ]
        distances = [float((h - mean) @ (h - mean)) for mean in m.means]
        different += int(np.argmax(logits)) != m.seen[int(np.argmin(distances))]
        total += 1
    return different / total


def all_metrics(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    global_mean: str = "class",
    outsiders: np.ndarray | None = None,
) -> dict[str, float]:
    """Every key of the table, for the samples whose class is known."""
    m = moments(features, labels, num_classes)
    centred = m.centred(global_mean)
    values = {
        "nc1": nc1(m, global_mean),
        "nc1_trace_ratio": nc1_trace_ratio(m, global_mean),
        "nc1_trace_unbiased": nc1_trace_unbiased(m, global_mean),
        "cdnv": cdnv(m),
        "cdnv_directional": cdnv_directional(features, labels, m),
        "vci": vci(m, global_mean),
        "effective_rank": effective_rank(centred),
        "nc2_equinorm": equinorm(centred),
        "nc2_equiangle": equiangle(centred),
        "nc2_max_angle": max_angle(centred),
        "nc2_etf_distance": etf_distance(centred),
        "gnc2_energy_gap": log_mean(centred) - least_log_energy(*centred.shape),
        "gnc2_log_mean": log_mean(centred),
        "gnc2_log_variance": log_variance(centred),
        "gnc2_gaussian": gaussian(centred),
        "gnc2_margin": margin(centred),
        "hug_inter": hug_inter(centred),
        "hug_intra": hug_intra(features, labels, m, m.centre(global_mean)),
    }
    if outsiders is not None:
        values["nc5_orthogonality"] = outside_cosine(m, outsiders)
    if weight is not None:
        rows = np.asarray(weight, dtype=np.float64)[m.seen]
        full_bias = None if bias is None else np.asarray(bias, dtype=np.float64)
        values |= {
            "nc2w_equinorm": equinorm(rows),
            "nc2w_equiangle": equiangle(rows),
            "nc2w_max_angle": max_angle(rows),
            "nc2w_etf_distance": etf_distance(rows),
            "nc3_duality": duality(rows, centred),
            "nc3_alignment": alignment(rows, centred),
            "gnc3_alignment_spread": alignment_spread(rows, centred),
            "nc3_subspace": subspace_cosine(rows, centred),
            "nc4_disagreement": disagreement(
                features, m, np.asarray(weight, dtype=np.float64), full_bias
            ),
        }
    return values
