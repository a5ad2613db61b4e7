"""Counting the mistakes of a network while something else runs it: no second pass."""

from collections.abc import Iterable, Iterator
from typing import Any, final

import torch
from torch import Tensor, nn

from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.hierarchy.distances import DistanceKind
from neuralcollapse.mistake_accumulator import MistakeAccumulator
from neuralcollapse.mistakes import Mistakes
from neuralcollapse.processes import rows_of_processes


@final
class MistakeTally:
    """The mistakes on a part of the data, and which class was taken for which.

    Args:
        hierarchy: of the classes.
        kind: which distance of it.
    """

    def __init__(self, hierarchy: Hierarchy, kind: DistanceKind):
        self._accumulator = MistakeAccumulator(hierarchy, kind=kind)
        self._classes = hierarchy.num_classes
        self._pairs = torch.zeros(0, dtype=torch.int64)  # true * K + decided, without repeats
        self._counts = torch.zeros(0, dtype=torch.int64)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (N, K), labels (N,)."""
        logits, labels = logits.detach(), labels.to(logits.device)
        # In double precision where there is any, so that processes can share confidences.
        wide = logits.float() if logits.device.type == "mps" else logits.double()
        self._accumulator.update(logits, labels, wide.softmax(1))
        pairs, counts = (labels * self._classes + logits.argmax(1)).unique(return_counts=True)
        self._add(pairs.cpu(), counts.cpu())

    def watching(self, network: nn.Module, batches: Iterable[Any]) -> "Watched":
        """The batches; what the network makes of each when it is called with it is counted."""
        return Watched(self, network, batches)

    def merge_processes(self) -> None:
        """Add what all other processes have counted; every process must call it, once."""
        self._accumulator.merge_processes()
        pairs, counts = rows_of_processes(self._pairs), rows_of_processes(self._counts)
        self._pairs, self._counts = self._pairs[:0], self._counts[:0]
        self._add(pairs, counts)

    def result(self) -> Mistakes:
        """What the counts say."""
        return self._accumulator.result()

    def confusion(self) -> Tensor:
        """(P, 3) int64: true class, decided class, how often; pairs that occur, in order."""
        true, decided = self._pairs // self._classes, self._pairs % self._classes
        return torch.stack([true, decided, self._counts], 1)

    def _add(self, pairs: Tensor, counts: Tensor) -> None:
        both = torch.cat([self._pairs, pairs])
        self._pairs, place = both.unique(return_inverse=True)
        total = counts.new_zeros(len(self._pairs))
        self._counts = total.index_add(0, place, torch.cat([self._counts, counts]))


@final
class Watched:
    """Batches whose decisions are counted in the first pass over them.

    Args:
        tally: what counts.
        network: whose output is looked at between one batch and the next.
        batches: of inputs and labels.
    """

    def __init__(self, tally: MistakeTally, network: nn.Module, batches: Iterable[Any]):
        self._tally, self._network, self._batches = tally, network, batches
        self._counted = False

    def __iter__(self) -> Iterator[Any]:
        if self._counted:  # a second look at the same batches
            yield from self._batches
            return
        self._counted = True
        heard: list[Tensor] = []
        hook = self._network.register_forward_hook(lambda *call: heard.append(call[2]))
        try:
            for inputs, labels in self._batches:
                yield inputs, labels
                for logits in heard:
                    self._tally.update(logits, labels)
                heard.clear()
        finally:
            hook.remove()
