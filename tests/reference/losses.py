"""Losses as loops over samples and classes in float64, from the papers' definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def logits(features: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """(N, K): w_k . h + b_k."""
    values = np.zeros((len(features), len(weight)))
    for i, h in enumerate(features):
        for k, w in enumerate(weight):
            values[i, k] = sum(a * b for a, b in zip(w, h, strict=True))
            if bias is not None:
                values[i, k] += bias[k]
    return values


def cross_entropy(
    features: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    smoothing: float = 0.0,
    counts: Sequence[int] | None = None,
    strength: float = 1.0,
) -> float:
    """Mean of -sum_k q_k log p_k with q = (1 - smoothing) onehot + smoothing / K.

    With `counts`, strength * log(prior) is added to the logits (Menon et al. 2021).
    """
    values = logits(features, weight, bias)
    classes = len(weight)
    if counts is not None:
        for k in range(classes):
            values[:, k] += strength * math.log(counts[k] / sum(counts))
    losses = []
    for row, y in zip(values, labels, strict=True):
        top = max(row)
        partition = top + math.log(sum(math.exp(v - top) for v in row))
        loss = 0.0
        for k in range(classes):
            target = smoothing / classes + (1.0 - smoothing if k == y else 0.0)
            loss -= target * (row[k] - partition)
        losses.append(loss)
    return math.fsum(losses) / len(losses)


def squared_error(
    features: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    kappa: float = 1.0,
    target: float = 1.0,
) -> float:
    """Mean over samples and classes of [kappa if k = y] (z_k - target [k = y])^2.

    Hui and Belkin 2021: (1/K) (kappa (z_y - M)^2 + sum_{k != y} z_k^2); plain: kappa = M = 1.
    """
    values = logits(features, weight, bias)
    losses = []
    for row, y in zip(values, labels, strict=True):
        loss = 0.0
        for k, z in enumerate(row):
            loss += kappa * (z - target) ** 2 if k == y else z**2
        losses.append(loss / len(row))
    return math.fsum(losses) / len(losses)


def dot_regression(
    features: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    bias: None = None,
    *,
    length: float = 1.0,
) -> float:
    """Mean of (w_y . h - goal)^2 / (2 goal), goal = sqrt(E_W E_H) (Yang et al. 2022).

    Features are scaled to sqrt(E_H) = length first; sqrt(E_W) is the norm of the class's vector.
    """
    losses = []
    for h, y in zip(features, labels, strict=True):
        norm = math.sqrt(sum(x * x for x in h))
        goal = math.sqrt(sum(x * x for x in weight[y])) * length
        product = sum(a * b * length / norm for a, b in zip(weight[y], h, strict=True))
        losses.append((product - goal) ** 2 / (2 * goal))
    return math.fsum(losses) / len(losses)


def normalized_cross_entropy(
    features: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    bias: None = None,
    *,
    temperature: float = 0.1,
) -> float:
    """Mean of -log(exp(cos_y / t) / sum_k exp(cos_k / t))."""
    losses = []
    for h, y in zip(features, labels, strict=True):
        cosines = [math.fsum(a * b for a, b in zip(unit(h), unit(w), strict=True)) for w in weight]
        losses.append(
            math.log(math.fsum(math.exp((c - cosines[y]) / temperature) for c in cosines))
        )
    return math.fsum(losses) / len(losses)


def unit(vector: np.ndarray) -> list[float]:
    """At length 1."""
    norm = math.sqrt(math.fsum(x * x for x in vector))
    return [x / norm for x in vector]


def chord(one: np.ndarray, other: np.ndarray) -> float:
    """The distance between the directions of two vectors."""
    pairs = zip(unit(one), unit(other), strict=True)
    return math.sqrt(math.fsum((a - b) ** 2 for a, b in pairs))


def hug(
    features: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    bias: None = None,
    *,
    measure: str = "mhe",
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
    inter_power: float = 2.0,
    intra_power: float = -1.0,
    class_balanced: bool = True,
    jitter: float = 0.1,
) -> float:
    """inter_weight * inter + intra_weight * intra, as the table in the docstring of HUG says."""
    classes = len(weight)
    pairs = [(k, j) for k in range(classes) for j in range(k + 1, classes)]
    between = [chord(weight[k], weight[j]) for k, j in pairs]
    if measure == "mhe":
        inter = math.fsum(riesz_kernel(r, inter_power) for r in between) / len(pairs)
    elif measure == "mhs":
        inter = -min(between)
    else:
        gram = [[math.exp(-(chord(w, v) ** 2)) for v in weight] for w in weight]
        for k in range(classes):
            gram[k][k] += jitter
        inter = -math.log(np.linalg.det(np.array(gram))) / classes

    of_class: dict[int, list[float]] = {}
    for h, y in zip(features, labels, strict=True):
        of_class.setdefault(int(y), []).append(chord(h, weight[y]))
    if measure == "mhs":
        of_class = {y: [max(some)] * len(some) for y, some in of_class.items()}
    values: dict[int, list[float]] = {}
    for y, some in of_class.items():
        for r in some:
            if measure == "mhe":
                value = r**-intra_power
            elif measure == "mhs":
                value = r
            else:
                # The determinant of a pair, [[1, g], [g, 1]].
                g = math.exp(-(r**2) / 4)
                value = math.log((1 - g * g) / jitter + 1)
            values.setdefault(y, []).append(value)
    if class_balanced:
        intra = math.fsum(sum(some) / len(some) for some in values.values()) / len(values)
    else:
        intra = math.fsum(sum(some) for some in values.values()) / len(labels)
    return inter_weight * inter + intra_weight * intra


def riesz_kernel(distance: float, power: float) -> float:
    """sign(s) r^-s, and -log(r) for s = 0."""
    if power == 0:
        return -math.log(distance)
    return math.copysign(distance**-power, power)


def released_hug(
    features: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    bias: None = None,
    *,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
) -> float:
    """The released implementation: pairs of proxies at distance 0 are left out of the mean."""
    inverse = []
    for k in range(len(weight)):
        for j in range(k + 1, len(weight)):
            r = chord(weight[k], weight[j])
            if r > 0:
                inverse.append(1 / r**2)
    means = []
    for k in range(len(weight)):
        own = [chord(h, weight[k]) for h, y in zip(features, labels, strict=True) if y == k]
        if own:
            means.append(math.fsum(own) / len(own))
    inter = math.fsum(inverse) / len(inverse)
    return intra_weight * math.fsum(means) / len(means) + inter_weight * inter


def frame_cosine(
    features: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    mixing: float = 0.5,
) -> float:
    """beta CE + alpha L_cos, beta = 1 - alpha up to alpha = 1, then 1 (Liang and Davis 2023).

    L_cos sums (cos(h, w_k) - S_yk)^2 over the classes; S is the Gram matrix of the unit rows.
    """

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        product = sum(x * y for x, y in zip(a, b, strict=True))
        lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
        return product / lengths

    classes = range(len(weight))
    gram = [[cosine(weight[j], weight[k]) for k in classes] for j in classes]
    losses = [
        sum((cosine(h, weight[k]) - gram[y][k]) ** 2 for k in classes)
        for h, y in zip(features, labels, strict=True)
    ]
    beta = 1 - mixing if mixing <= 1 else 1.0
    aligned = math.fsum(losses) / len(losses)
    return beta * cross_entropy(features, labels, weight, bias) + mixing * aligned
