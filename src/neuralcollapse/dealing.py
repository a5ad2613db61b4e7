"""Samples dealt to parts of the data that are alike, so that leaving one out tells an error."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from neuralcollapse.checks import check_label_range, check_labels
from neuralcollapse.scalars import check_boolean
from neuralcollapse.statistics import ClassStatistics, StatisticsAccumulator

# Enough for an interval, few enough to keep.
MOST_PARTS = 20
# Classes begin with different parts, so that rare ones do not all lie in the first; prime to 20.
_STEP = 7
# Features gathered before they are handed on, in bytes: updates of a few rows each would be slow.
_GATHERED_BYTES = 1 << 26
# A (d, d) scatter up to this many bytes is accumulated unless told otherwise: d = 5792.
_SCATTER_BYTES = 1 << 28


def first_part(number: int, count: int) -> int:
    """The part to begin with for one of so many files or processes, so that they begin apart."""
    return number * MOST_PARTS // count


class Dealer:
    """Deals samples to the parts and hands on many of one part at a time.

    The samples of each class go to the parts in turns, so that all parts hold as much of every
    class whatever the order of the data: sorted by class, shuffled, or one class after the other
    in a cycle. A class of n < 20 samples is in n parts. Where samples come in sequences, whose
    tokens are not independent, the sequences take turns instead, each as a whole.

    Args:
        num_classes: K.
        first: the part that class 0, or the first sequence, begins with.
    """

    # The turns go on outside of inference mode where they began in it.
    @torch.inference_mode(False)
    def __init__(self, num_classes: int, *, first: int = 0):
        self._num_classes = num_classes
        self._turns = (_STEP * torch.arange(num_classes) + first) % MOST_PARTS  # next, by class
        self._sequence = first
        self._gathered: list[tuple[Tensor, Tensor, Tensor]] = []
        self._bytes = 0

    def dealt(
        self, batches: Iterable[tuple[Tensor, Tensor, Tensor | None]]
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(part, features, labels), of all batches, whose sequences are numbered from 0 or None."""
        for features, labels, sequences in batches:
            yield from self.deal(features, labels, sequences)
        yield from self.rest()

    def deal(
        self, features: Tensor, labels: Tensor, sequences: Tensor | None = None
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Take a batch and, where there is enough, hand on (part, features, labels)."""
        labels = check_labels(labels, len(features))
        if labels.device.type == "cpu":
            check_label_range(labels, self._num_classes)
        if sequences is None:
            parts = self._parts_of(labels)
        else:
            parts = (sequences + self._sequence) % MOST_PARTS
            self._sequence += int(sequences.max()) + 1 if len(sequences) else 0
        self._gathered.append((features, labels, parts.to(labels.device)))
        self._bytes += features.nbytes
        if self._bytes >= _GATHERED_BYTES:
            yield from self.rest()

    def rest(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Hand on what is still held back."""
        if not self._gathered:
            return
        features, labels, parts = (
            columns[0] if len(columns) == 1 else torch.cat(columns)
            for columns in zip(*self._gathered, strict=True)
        )
        self._gathered, self._bytes = [], 0
        rows = parts.argsort(stable=True)
        sizes = parts.bincount(minlength=MOST_PARTS).tolist()
        for part, own in enumerate(rows.split(sizes)):
            if len(own):
                yield part, features[own.to(features.device)], labels[own]

    @torch.inference_mode(False)
    def _parts_of(self, labels: Tensor) -> Tensor:
        """(N,), whose turn it is for each sample's class."""
        if self._turns.device != labels.device:
            self._turns = self._turns.to(labels.device)
        # On a GPU labels out of range are told by the statistics and must do no harm here.
        labels = labels.long().clamp(0, self._num_classes - 1)
        classes, which, counts = labels.unique(return_inverse=True, return_counts=True)
        order = which.argsort(stable=True)
        before = counts.cumsum(0) - counts  # samples of smaller classes in this batch
        turns = torch.arange(len(labels), device=labels.device)
        turns += (self._turns[classes] - before)[which[order]]
        parts = torch.empty_like(turns)
        parts[order] = turns % MOST_PARTS
        self._turns[classes] = (self._turns[classes] + counts) % MOST_PARTS
        return parts


class PartsAccumulator:
    """Builds the statistics of each part from batches; see `StatisticsAccumulator` and `Dealer`.

    A dealer that is given goes on with the turns where another accumulator has ended.

    Example:
        >>> accumulator = PartsAccumulator(num_classes=2, dim=3)
        >>> accumulator.update(torch.randn(100, 3), torch.arange(100) % 2)
        >>> [part.counts.tolist() for part in accumulator.result()[:3]]
        [[3, 2], [3, 2], [3, 2]]
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        scatter: bool = True,
        device: torch.device | str | None = None,
        first: int = 0,
        dealer: Dealer | None = None,
    ):
        self._accumulators = [
            StatisticsAccumulator(num_classes, dim, scatter=scatter, device=device)
            for _ in range(MOST_PARTS)
        ]
        self._dealer = dealer or Dealer(num_classes, first=first)

    def update(self, features: Tensor, labels: Tensor, sequences: Tensor | None = None) -> None:
        """Add features (N, d) with labels (N,); tokens of one sequence go to one part."""
        for part, own, their in self._dealer.deal(features, labels, sequences):
            self._accumulators[part].update(own, their)

    def result(self) -> list[ClassStatistics]:
        """The statistics of the parts, all of them, empty or not. Ends the accumulation."""
        for part, own, their in self._dealer.rest():
            self._accumulators[part].update(own, their)
        parts = []
        while self._accumulators:  # one copy more at a time, not twenty
            parts.append(self._accumulators.pop().result())
        return parts[::-1]


def sequence_numbers(features: Tensor, labels: Tensor, ignore_index: int | None) -> Tensor | None:
    """(N,), which sequence each token in question is from, or None where samples are no tokens.

    Args:
        features: (..., d), as they came.
        labels: (...) where samples are tokens; anything else otherwise.
        ignore_index: label of tokens that are left out, or None.
    """
    if features.dim() <= 2 or labels.shape != features.shape[:-1]:
        return None
    rows = torch.arange(len(labels), device=labels.device)
    rows = rows.reshape(-1, *[1] * (labels.dim() - 1)).expand(labels.shape)
    return rows.flatten() if ignore_index is None else rows[labels != ignore_index]


def merged(parts: Sequence[ClassStatistics]) -> ClassStatistics:
    """All of them together, with as many classes as the one that has most."""
    most = max(part.num_classes for part in parts)
    return reduce(ClassStatistics.merge, (padded(part, most) for part in parts))


def padded(statistics: ClassStatistics, num_classes: int) -> ClassStatistics:
    """The same with classes never seen behind."""
    more = num_classes - statistics.num_classes
    if not more:
        return statistics
    missing = statistics.means.new_full((more, statistics.dim), torch.nan)
    return replace(
        statistics,
        counts=torch.cat([statistics.counts, statistics.counts.new_zeros(more)]),
        means=torch.cat([statistics.means, missing]),
        spread=torch.cat([statistics.spread, statistics.spread.new_zeros(more)]),
    )


def wants_scatter(scatter: bool | None, dim: int) -> bool:
    """Whether to accumulate the (d, d) scatter where the caller says yes, no, or nothing."""
    if scatter is None:
        return 8 * dim * dim <= _SCATTER_BYTES
    return check_boolean("scatter", scatter)


def accumulator_of(
    num_classes: int, dim: int, scatter: bool, home: torch.device | str, first: int | None
) -> StatisticsAccumulator | PartsAccumulator:
    """Of the data as a whole, or of its parts, which begin with the first one given."""
    if first is None:
        return StatisticsAccumulator(num_classes, dim, scatter=scatter, device=home)
    return PartsAccumulator(num_classes, dim, scatter=scatter, device=home, first=first)


def parts_of(accumulator: StatisticsAccumulator | PartsAccumulator) -> list[ClassStatistics]:
    """The statistics of the parts, one for the whole."""
    found = accumulator.result()
    return found if isinstance(found, list) else [found]
