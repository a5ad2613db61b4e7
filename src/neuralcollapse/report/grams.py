"""Heat maps of cosines among class means and among classifier rows, over the epochs."""

from typing import Any

import torch
from torch import Tensor

from neuralcollapse.report.snapshots import Snapshot, Snapshots, packed

# A cosine is packed with four decimals.
SCALE = 3.2767


def gram_frames(snapshots: Snapshots, classes: list[int]) -> Any:
    """The cosines of some classes in each snapshot, and those of the target.

    Those of class means are of raw ones where the target is compared with raw ones, else centred.

    Each matrix is packed as the part above its diagonal, row by row; `target` is None where there
    is no one arrangement to reach.
    """
    target = snapshots.history.target
    pairs = [
        (
            _cosines((snapshot.means if target.raw else centred_means(snapshot))[classes]),
            _cosines(snapshot.weight[classes]),
        )
        for snapshot in snapshots
    ]
    cosines = target.cosines
    return {
        "scale": SCALE,
        "means": [means for means, _ in pairs],
        "weight": [weight for _, weight in pairs],
        "target": None if cosines is None else _above_diagonal(cosines[classes][:, classes]),
    }


def centred_means(snapshot: Snapshot) -> Tensor:
    """(K, d), class means minus the mean of those of the classes seen."""
    return snapshot.means - snapshot.means[snapshot.seen].mean(0)


def _cosines(vectors: Tensor) -> str:
    units = vectors / vectors.norm(dim=1, keepdim=True)
    return _above_diagonal(units @ units.T)


def _above_diagonal(matrix: Tensor) -> str:
    above = torch.triu_indices(len(matrix), len(matrix), offset=1)
    return packed(matrix[above[0], above[1]], SCALE)
