"""Scores of out-of-distribution detectors as plain float64 loops, from their definitions."""

from __future__ import annotations

import math

import numpy as np


def logits(h: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return np.array([float(w @ h) + float(b) for w, b in zip(weight, bias, strict=True)])


def components(rows: np.ndarray) -> np.ndarray:
    """Right singular vectors, the one with most variance first; all of them."""
    return np.linalg.svd(rows, full_matrices=True)[2]


def neco(train: np.ndarray, h: np.ndarray, dim: int, standardize: bool) -> float:
    centre = train.mean(0)
    scale = train.std(0) if standardize else np.ones(train.shape[1])
    basis = components((train - centre) / scale)[:dim]
    moved = (h - centre) / scale
    inner = sum(float(v @ moved) ** 2 for v in basis)
    return -math.sqrt(inner / float(moved @ moved))


def nci(
    train: np.ndarray, h: np.ndarray, weight: np.ndarray, bias: np.ndarray, alpha: float
) -> float:
    row = weight[int(np.argmax(logits(h, weight, bias)))]
    moved = h - train.mean(0)
    return -float(moved @ row) / float(np.linalg.norm(moved)) - alpha * float(np.abs(h).sum())


def fdbd(train: np.ndarray, h: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> float:
    values = logits(h, weight, bias)
    best = int(np.argmax(values))
    reach = [
        abs(values[best] - values[k]) / float(np.linalg.norm(weight[best] - weight[k]))
        for k in range(len(weight))
        if k != best
    ]
    return -sum(reach) / len(reach) / float(np.linalg.norm(h - train.mean(0)))


def residual(train: np.ndarray, h: np.ndarray, origin: np.ndarray, dim: int) -> float:
    across = components(train - origin)[dim:]
    return math.sqrt(sum(float(v @ (h - origin)) ** 2 for v in across))


def zero_logits(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return -np.linalg.pinv(weight) @ bias


def vim(train: np.ndarray, h: np.ndarray, weight: np.ndarray, bias: np.ndarray, dim: int) -> float:
    origin = zero_logits(weight, bias)
    largest = [float(logits(x, weight, bias).max()) for x in train]
    across = [residual(train, x, origin, dim) for x in train]
    scale = sum(largest) / sum(across)
    energy = math.log(sum(math.exp(z) for z in logits(h, weight, bias)))
    return scale * residual(train, h, origin, dim) - energy


def nearest_mean(train: np.ndarray, labels: np.ndarray, h: np.ndarray) -> float:
    means = [train[labels == k].mean(0) for k in np.unique(labels)]
    return min(float(np.linalg.norm(h - mean)) for mean in means)


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Share of pairs in which the outside scores higher, ties by half."""
    wins = [1.0 if o > i else 0.5 if o == i else 0.0 for o in outside for i in inside]
    return sum(wins) / len(wins)


def fpr95(inside: np.ndarray, outside: np.ndarray) -> float:
    """Share of the outside at or below the lowest threshold that accepts 95 % of the inside."""
    for threshold in sorted({*inside, *outside}):
        if sum(i <= threshold for i in inside) >= 0.95 * len(inside):
            return sum(o <= threshold for o in outside) / len(outside)
    raise AssertionError("the largest score accepts all")


def average_precision(positive: np.ndarray, negative: np.ndarray) -> float:
    """Sum over thresholds of precision times the gain in recall; high scores are positive."""
    total, before = 0.0, 0.0
    for threshold in sorted({*positive, *negative}, reverse=True):
        hits = sum(p >= threshold for p in positive)
        found = hits + sum(n >= threshold for n in negative)
        recall = hits / len(positive)
        total += hits / found * (recall - before)
        before = recall
    return total
