"""Features, class means and classifier in three dimensions, over the epochs.

One projection serves all epochs of a run, so that what moves on the screen moves in the network.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuralcollapse.report.grams import centred_means
from neuralcollapse.report.snapshots import Snapshot, Snapshots, packed

MAX_POINTS = 400

# Directions along which vectors extend less than this share of the whole are rounding.
_NOISE = 1e-6


@dataclass(frozen=True, eq=False)
class _Frame:
    """One epoch, projected; lengths relative to `radius`."""

    features: Tensor
    labels: Tensor
    means: Tensor
    weight: Tensor
    radius: float
    share: float


def scene_frames(snapshots: Snapshots, classes: list[int]) -> Any:
    """Coordinates of some classes in each snapshot, packed, with what is needed to read them.

    `radius` is the root mean square distance of the features from the global mean, the unit of
    the coordinates; `share` the part of the between-class variance that the projection shows.
    """
    directions = projection(snapshots.last, classes)
    frames = [_frame(snapshot, classes, directions) for snapshot in snapshots]
    vectors = [v for f in frames for v in (f.features, f.means, f.weight)]
    largest = max((float(v.nan_to_num().abs().max()) for v in vectors if v.numel()), default=0.0)
    scale = largest or 1.0
    return {
        "scale": scale,
        "features": [packed(frame.features, scale) for frame in frames],
        "labels": [packed(frame.labels.double(), 32767) for frame in frames],
        "means": [packed(frame.means, scale) for frame in frames],
        "weight": [packed(frame.weight, scale) for frame in frames],
        "radius": [_rounded(frame.radius) for frame in frames],
        "share": [_rounded(frame.share) for frame in frames],
    }


def projection(snapshot: Snapshot, classes: list[int]) -> Tensor:
    """(d, 3), the principal directions of the centred class means.

    Fewer than four classes span fewer than three directions; those in which the features vary
    most besides follow, then zeros.
    """
    means = centred_means(snapshot)[classes]
    found = _principal_directions(means, float(means.norm()))
    if found.shape[1] < 3 and len(snapshot.features):
        features = snapshot.features - snapshot.features.mean(0)
        rest = features - features @ found @ found.T
        more = _principal_directions(rest, float(features.norm()))
        found = torch.cat([found, more[:, : 3 - found.shape[1]]], 1)
    return torch.nn.functional.pad(found, (0, 3 - found.shape[1]))


def chosen_points(labels: Tensor, classes: list[int], limit: int = MAX_POINTS) -> Tensor:
    """Indices of at most `limit` samples of some classes, as many of each class as can be."""
    kept = torch.isin(labels, torch.tensor(classes, dtype=labels.dtype)).nonzero().flatten()
    order = labels[kept].argsort(stable=True)
    sizes = labels[kept].unique(return_counts=True)[1].tolist()
    rank = torch.empty(len(kept), dtype=torch.int64)
    rank[order] = torch.cat([torch.arange(size) for size in sizes] or [rank[:0]])
    return kept[rank.argsort(stable=True)[:limit]].sort().values


def _frame(snapshot: Snapshot, classes: list[int], directions: Tensor) -> _Frame:
    centre = snapshot.means[snapshot.seen].mean(0)
    means, weight = centred_means(snapshot)[classes], snapshot.weight[classes]
    points = chosen_points(snapshot.labels, classes)
    features = snapshot.features - centre
    radius = _size(features) or 1.0
    # The classifier is drawn as long as the class means: only its directions are compared.
    stretch = _size(means) / (_size(weight) or 1.0)
    between = float(means.square().sum())
    return _Frame(
        features=features[points] @ directions / radius,
        labels=torch.searchsorted(torch.tensor(classes), snapshot.labels[points]),
        means=means @ directions / radius,
        weight=weight @ directions * stretch / radius,
        radius=radius,
        share=float((means @ directions).square().sum()) / between if between else 0.0,
    )


def _principal_directions(vectors: Tensor, whole: float) -> Tensor:
    """(d, at most 3), by falling variance; the largest entry of each is positive.

    Those along which the vectors do not extend, compared with the size of the whole, are left out.
    """
    _, sizes, directions = torch.linalg.svd(vectors, full_matrices=False)
    kept = directions[:3][sizes[:3] > _NOISE * whole]
    largest = kept.gather(1, kept.abs().argmax(1, keepdim=True)) if len(kept) else kept[:, :1]
    return (kept * largest.sign()).T


def _size(vectors: Tensor) -> float:
    """Root mean square length of the rows; 0 without rows."""
    return float(vectors.square().sum(1).mean().sqrt()) if len(vectors) else 0.0


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
