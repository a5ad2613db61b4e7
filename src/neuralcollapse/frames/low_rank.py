"""Unit vectors in few dimensions whose inner products come near a given matrix of cosines."""

import itertools
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# Eigenvalues that differ by less, relative to the largest, are taken for one.
SAME_EIGENVALUE = 1e-6
# Up to so many rows all eigenvectors are computed, above only the wanted ones.
DENSE = 2500
# Rounds of the subspace iteration above that, and further vectors that it carries along.
ROUNDS = 6
OVERSAMPLING = 16
# Floating-point operations that the polish may take, and steps at most.
OPERATIONS = 4e11
MOST_STEPS = 600
# The polish ends where ten steps together lower the squared error by less than this share.
LEAST_GAIN = 1e-4
# Classes up to which all pairs and triples are looked at, and what is drawn of them above.
ALL_PAIRS = 4096
ALL_TRIPLES = 256
DRAWN_PAIRS = 4096
BLOCK = 1024


class Cosines(Protocol):
    """A symmetric matrix with ones on its diagonal that can be multiplied by vectors."""

    @property
    def num_classes(self) -> int:
        """K."""
        ...

    def __matmul__(self, vectors: np.ndarray, /) -> np.ndarray:
        """(K, n), the product with vectors (K, n)."""
        ...

    def squared_norm(self) -> float:
        """The squared Frobenius norm."""
        ...


class DenseCosines:
    """Cosines as an array."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.array)

    def __matmul__(self, vectors: np.ndarray) -> np.ndarray:
        return self.array @ vectors

    def squared_norm(self) -> float:
        """The squared Frobenius norm."""
        return float((self.array**2).sum())


@dataclass(frozen=True, eq=False)
class Alike:
    """Classes that the matrix does not tell apart: swapping two of a group changes nothing.

    Attributes:
        group: (K,), the group of each class.
        contrast: (G,), the eigenvalue that differences within a group have.
    """

    group: np.ndarray
    contrast: np.ndarray

    @staticmethod
    def none(num_classes: int) -> "Alike":
        """Every class is a group of its own."""
        return Alike(np.arange(num_classes), np.zeros(num_classes))

    def differences(self, vectors: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """The part of vectors (K, n) that lies within some groups and sums to zero in each."""
        sums = np.zeros((len(self.contrast), vectors.shape[1]))
        np.add.at(sums, self.group, vectors)
        means = sums / np.bincount(self.group)[:, None]
        inside = np.isin(self.group, groups)
        return np.where(inside[:, None], vectors - means[self.group], 0.0)


def leading_eigenvectors(
    cosines: Cosines, count: int, alike: Alike, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """The `count` < K largest eigenvalues in falling order, their vectors (K, count), and a cut.

    The cut is the largest number, at most `count`, of eigenvectors that parts no two equal
    eigenvalues; 0 where all of them are equal. Of an eigenspace that does not fit, a random part
    is taken: with the axes that happen to come out, some classes would be left without a vector.

    Args:
        cosines: the matrix.
        count: how many.
        alike: its symmetry.
        noise: (K, count + OVERSAMPLING), random numbers.
    """
    values, vectors = of_groups(cosines, count, alike.group, noise)
    sizes = np.bincount(alike.group)
    pooled = np.concatenate([values, np.repeat(alike.contrast, sizes - 1)])
    source = np.concatenate([np.full(len(values), -1), np.repeat(np.arange(len(sizes)), sizes - 1)])
    order = np.argsort(-pooled, kind="stable")
    pooled, source = pooled[order], source[order]
    opens = np.flatnonzero(
        np.diff(pooled, prepend=np.inf) < -SAME_EIGENVALUE * max(pooled[0], 1e-300)
    )
    found: list[np.ndarray] = []
    for low, high in itertools.pairwise([*opens.tolist(), len(pooled)]):
        if low >= count:
            break
        width = min(high, count) - low
        mine = vectors[:, order[low:high][source[low:high] < 0]]
        groups = np.unique(source[low:high][source[low:high] >= 0])
        if len(groups) or width < high - low:
            mixed = mine @ noise[: mine.shape[1], :width]
            if len(groups):
                mixed = mixed + alike.differences(noise[:, low : low + width], groups)
            mine = np.linalg.qr(mixed)[0]
        found.append(mine)
    cuts = opens[opens <= count]
    cut = count if len(pooled) == count else int(cuts[-1])
    return pooled[:count], np.concatenate(found, axis=1), cut


def of_groups(
    cosines: Cosines, count: int, group: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and vectors (K, n) among those that are constant within groups.

    All of them where there are few groups, else about the `count` largest.
    """
    num_groups = int(group.max()) + 1
    share = (1 / np.sqrt(np.bincount(group)))[group]

    def spread(vectors: np.ndarray) -> np.ndarray:
        return vectors[group] * share[:, None]

    def gathered(vectors: np.ndarray) -> np.ndarray:
        sums = np.zeros((num_groups, vectors.shape[1]))
        np.add.at(sums, group, vectors * share[:, None])
        return sums

    def product(vectors: np.ndarray) -> np.ndarray:
        parts = [
            gathered(cosines @ spread(vectors[:, low : low + BLOCK]))
            for low in range(0, vectors.shape[1], BLOCK)
        ]
        return np.concatenate(parts, axis=1)

    if num_groups <= DENSE:
        values, basis = np.linalg.eigh(product(np.eye(num_groups)))
    else:
        basis = noise[:num_groups]
        for _ in range(ROUNDS):
            basis = np.linalg.qr(product(basis))[0]
        values, turn = np.linalg.eigh(basis.T @ product(basis))
        values, basis = values[-count - 1 :], basis @ turn[:, -count - 1 :]
    return values, spread(basis)


# --- the polish -----------------------------------------------------------------------------------


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length one."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def polished(cosines: Cosines, vectors: np.ndarray, most: int) -> tuple[np.ndarray, float, int]:
    """Unit rows near `vectors` with a lower squared error, that error, and the steps taken.

        error = norm(vectors @ vectors.T - cosines)^2, Frobenius norm

    Conjugate gradients (Polak and Ribière, restarted) on the product of spheres. No (K, K) array:
    the error is norm(vectors.T @ vectors)^2 - 2 trace(vectors.T @ cosines @ vectors) +
    norm(cosines)^2.

    Args:
        cosines: the wanted inner products.
        vectors: (K, d), where to begin.
        most: steps.
    """

    def error_and_slope(vectors: np.ndarray) -> tuple[float, np.ndarray]:
        moment = vectors.T @ vectors
        product = cosines @ vectors
        error = float((moment**2).sum() - 2 * (vectors * product).sum()) + square
        slope = 4 * (vectors @ moment - product)
        return error, tangent(vectors, slope)

    def tangent(vectors: np.ndarray, slope: np.ndarray) -> np.ndarray:
        return slope - (slope * vectors).sum(1, keepdims=True) * vectors

    square = cosines.squared_norm()
    vectors = unit_rows(vectors)
    error, slope = error_and_slope(vectors)
    history = [error]
    direction, steepness = -slope, float((slope**2).sum())
    step, steps = 1 / (8 * np.sqrt(len(vectors))), 0
    while steps < most and steepness > 0:
        fall = float((slope * direction).sum())
        if fall >= 0:
            direction, fall = -slope, -steepness
        for _ in range(40):
            moved = unit_rows(vectors + step * direction)
            new_error, new_slope = error_and_slope(moved)
            if new_error <= error + 1e-4 * step * fall:
                break
            # The least point of the parabola through what is known, within bounds.
            parabola = -fall * step**2 / (2 * (new_error - error - fall * step))
            step = min(max(parabola, 0.1 * step), 0.5 * step)
        else:
            break
        # The turn between the slopes, both in the tangent space of the new point.
        turn = max(0.0, float((new_slope * (new_slope - tangent(moved, slope))).sum()) / steepness)
        direction = -new_slope + turn * tangent(moved, direction)
        vectors, error, slope = moved, new_error, new_slope
        steepness = float((slope**2).sum())
        steps += 1
        history.append(error)
        # As far along the new direction as the last step's gain suggests.
        step = 2 * (history[-2] - error) / max(-float((slope * direction).sum()), 1e-300)
        if len(history) > 10 and history[-11] - error <= LEAST_GAIN * error:
            break
    return vectors, error, steps


# --- how near it comes ----------------------------------------------------------------------------


def deviations(cosines: Cosines, vectors: np.ndarray) -> dict[str, float]:
    """How far the inner products of the rows are from the wanted ones, over pairs of classes.

    Root mean square, mean and largest absolute deviation (over all pairs up to 4096 classes,
    above that over those of every n-th class), and the share of triples (i, j, k) with
    cosines[i, j] > cosines[i, k] whose vectors keep that order (all triples up to 256 classes,
    a million drawn ones above that).
    """
    num_classes = len(vectors)
    rows = np.arange(0, num_classes, -(-num_classes // ALL_PAIRS))
    squares = total = largest = 0.0
    for low in range(0, len(rows), BLOCK):
        block = rows[low : low + BLOCK]
        off = np.abs(vectors[block] @ vectors.T - rows_of(cosines, block))
        squares += float((off**2).sum())
        total += float(off.sum())
        largest = max(largest, float(off.max()))
    pairs = len(rows) * (num_classes - 1)
    return {
        "gram_rms_error": float(np.sqrt(squares / pairs)),
        "gram_mean_error": total / pairs,
        "gram_max_error": largest,
        "triplet_order_kept": triplet_order_kept(cosines, vectors),
    }


def triplet_order_kept(cosines: Cosines, vectors: np.ndarray) -> float:
    """The share of triples (i, j, k) with cosines[i, j] > cosines[i, k] that keep the order."""
    num_classes = len(vectors)
    rng = np.random.default_rng(0)
    anchors = np.arange(0, num_classes, -(-num_classes // ALL_TRIPLES))
    wanted, found = rows_of(cosines, anchors), vectors[anchors] @ vectors.T
    kept = ordered = 0
    for anchor, wish, have in zip(anchors, wanted, found, strict=True):
        if num_classes <= ALL_TRIPLES:
            first, second = np.triu_indices(num_classes, 1)
        else:
            first, second = rng.integers(num_classes, size=(2, DRAWN_PAIRS))
        others = (first != anchor) & (second != anchor)
        first, second = first[others], second[others]
        gap = wish[first] - wish[second]
        apart = np.abs(gap) > 1e-9
        kept += int((np.sign(have[first] - have[second]) == np.sign(gap))[apart].sum())
        ordered += int(apart.sum())
    return kept / ordered if ordered else 1.0


def rows_of(cosines: Cosines, rows: np.ndarray) -> np.ndarray:
    """(n, K), some rows of the matrix."""
    if isinstance(cosines, DenseCosines):
        return cosines.array[rows]
    picked = np.zeros((cosines.num_classes, len(rows)))
    picked[rows, np.arange(len(rows))] = 1
    return (cosines @ picked).T


def nearest_vectors(
    cosines: Cosines, dim: int, alike: Alike, noise: np.ndarray
) -> tuple[np.ndarray, dict[str, float]]:
    """(K, dim) unit rows with inner products near `cosines`, and how near, for dim < rank.

    From the leading eigenvectors, cut where eigenvalues part, and cut at `dim` as such; both are
    polished, the better one is kept.

    Args:
        cosines: the wanted inner products, positive semidefinite.
        dim: d.
        alike: which classes it does not tell apart.
        noise: (K, dim + OVERSAMPLING), random numbers.
    """
    num_classes = cosines.num_classes
    values, vectors, cut = leading_eigenvectors(cosines, dim, alike, noise)
    scaled = vectors * np.sqrt(np.maximum(values, 0))
    # What is left out gets a little noise: rows of zeros have no direction, and the polish could
    # not leave a subspace.
    jitter = 1e-2 / np.sqrt(dim) * noise[:, :dim]
    starts = {dim: scaled + 1e-3 * jitter}
    if 0 < cut < dim:
        starts[cut] = np.where(np.arange(dim) < cut, scaled, jitter)
    most = min(MOST_STEPS, int(OPERATIONS / (4.0 * num_classes * dim**2)))
    # Every start has a quarter of the steps; the better one goes on.
    found = {kept: polished(cosines, start, most // 4) for kept, start in starts.items()}
    kept = min(found, key=lambda kept: found[kept][1])
    best, _, first = found[kept]
    best, _, second = polished(cosines, best, most - most // 4)
    facts = {"eigenvalues_kept": float(kept), "polish_steps": float(first + second)}
    return best, {**deviations(cosines, best), **facts}
