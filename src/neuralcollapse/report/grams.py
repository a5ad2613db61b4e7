"""Heat maps of cosines among class means and among classifier rows, over the epochs."""

from typing import Any

import torch
from torch import Tensor

from neuralcollapse.report.snapshots import Snapshot, Snapshots, packed

# A cosine is packed with four decimals.
SCALE = 3.2767


def gram_frames(snapshots: Snapshots, classes: list[int]) -> Any:
    """The cosines of some classes in each snapshot, and those of the target.

    Each matrix is packed as the part above its diagonal, row by row; `target` is the cosine
    between any two different vectors of the target frame.
    """
    pairs = [
        (_cosines(centred_means(snapshot)[classes]), _cosines(snapshot.weight[classes]))
        for snapshot in snapshots
    ]
    orthogonal = snapshots.history.target == "orthogonal"
    return {
        "scale": SCALE,
        "means": [means for means, _ in pairs],
        "weight": [weight for _, weight in pairs],
        "target": 0.0 if orthogonal else _simplex_cosine(snapshots.last),
    }


def centred_means(snapshot: Snapshot) -> Tensor:
    """(K, d), class means minus the mean of those of the classes seen."""
    return snapshot.means - snapshot.means[snapshot.seen].mean(0)


def _simplex_cosine(snapshot: Snapshot) -> float:
    return round(-1 / max(1, int(snapshot.seen.sum()) - 1), 4)


def _cosines(vectors: Tensor) -> str:
    units = vectors / vectors.norm(dim=1, keepdim=True)
    above = torch.triu_indices(len(units), len(units), offset=1)
    return packed((units @ units.T)[above[0], above[1]], SCALE)
