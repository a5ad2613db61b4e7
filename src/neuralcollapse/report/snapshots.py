"""The snapshots of a run as a page shows them: which epochs, which classes, how they are packed."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from neuralcollapse.report.history import History

MAX_STEPS = 40
MAX_CLASSES = 100

# Packed numbers are 16-bit integers; this one stands for "none".
_NONE = -32768
_LARGEST = 32767

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Vectors of one epoch, in float64.

    Attributes:
        means: (K, d), class means; nan for classes without samples.
        weight: (K, d), the classifier.
        features: (S, d), of some samples; those that are not finite are left out.
        labels: (S,) int64, their classes.
    """

    means: Tensor
    weight: Tensor
    features: Tensor
    labels: Tensor

    @property
    def seen(self) -> Tensor:
        """(K,) bool, classes that have a mean."""
        return self.means.isfinite().all(1)


@dataclass(frozen=True, eq=False)
class Snapshots:
    """The snapshots of some epochs, each read when it is asked for: all may not fit into memory."""

    history: History
    epochs: Sequence[int]

    def __iter__(self) -> Iterator[Snapshot]:
        return (read_snapshot(self.history, epoch) for epoch in self.epochs)

    @property
    def last(self) -> Snapshot:
        """The snapshot of the last of the epochs."""
        return read_snapshot(self.history, self.epochs[-1])


def read_snapshot(history: History, epoch: int) -> Snapshot:
    """The snapshot of an epoch.

    Raises:
        ValueError: if it is damaged, lacks an array, or holds arrays that do not fit together.
    """
    tensors = history.run.snapshot(epoch)
    where = f"the snapshot of epoch {epoch} in {history.run.path}"
    try:
        means, weight, features = (tensors[k].double() for k in ("means", "weight", "features"))
        labels = tensors["labels"].long()
    except KeyError as error:
        raise ValueError(f"{where} lacks the array {error.args[0]!r}") from None
    matrices = means.dim() == weight.dim() == features.dim() == 2
    fits = matrices and means.shape == weight.shape and features.shape[1] == means.shape[1]
    if not fits or labels.shape != (len(features),) or len(means) != history.num_classes:
        raise ValueError(f"{where} holds arrays whose shapes do not fit together")
    if len(labels) and (labels.min() < 0 or labels.max() >= len(means)):
        raise ValueError(f"{where} holds labels outside [0, {len(means)})")
    usable = features.isfinite().all(1)
    return Snapshot(means, weight, features[usable], labels[usable])


def chosen(items: Sequence[T], limit: int) -> list[T]:
    """At most `limit` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    places = np.linspace(0, len(items) - 1, limit).round().astype(int)
    return [items[place] for place in places]


def slider_epochs(histories: Sequence[History]) -> list[int]:
    """The epochs that a slider for all runs stops at: those with a snapshot in any run."""
    epochs = {epoch for history in histories for epoch in history.run.snapshot_epochs()}
    return chosen(sorted(epochs), MAX_STEPS)


def shown_epochs(history: History, stops: Sequence[int]) -> list[int]:
    """For each stop of the slider the latest snapshot up to it; before the first, the first."""
    epochs = history.run.snapshot_epochs()
    return [max((e for e in epochs if e <= stop), default=epochs[0]) for stop in stops]


def shown_classes(snapshots: Snapshots) -> list[int]:
    """The classes that have a mean in every snapshot, the first of them if there are many."""
    seen = torch.stack([snapshot.seen for snapshot in snapshots]).all(0)
    return seen.nonzero().flatten().tolist()[:MAX_CLASSES]


def packed(values: Tensor, scale: float) -> str:
    """Numbers within [-scale, scale] as base64 of little-endian int16, row by row.

    A number that is not finite becomes `_NONE`.
    """
    steps = (values / scale * _LARGEST).round().clamp(-_LARGEST, _LARGEST)
    whole = torch.where(steps.isfinite(), steps, torch.full_like(steps, _NONE))
    return base64.b64encode(whole.numpy().astype("<i2").tobytes()).decode()
