"""Labelled samples, in memory or as picture files, and how they are cut, thinned and batched."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


class AbstractSamples(Dataset[tuple[Tensor, Tensor]], ABC):
    """Samples with labels (N,) int64; indexing with several positions gives a whole batch."""

    labels: Tensor
    # Whether most inputs are zero: then they are not centred, and all scaled alike.
    sparse: bool = False

    @abstractmethod
    def inputs(self, positions: Tensor) -> Tensor:
        """The inputs (B, ...) at positions (B,), in float32."""

    @abstractmethod
    def subset(self, positions: Tensor) -> "AbstractSamples":
        """Only the samples at these positions, in this order."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.inputs(positions), self.labels[positions]


@final
class TensorSamples(AbstractSamples):
    """Samples that are held in memory, in any number type."""

    def __init__(self, values: Tensor, labels: Tensor):
        self.values = values
        self.labels = labels

    def inputs(self, positions: Tensor) -> Tensor:
        """Inputs in float32, or float64 if that is how they are held."""
        values = self.values[positions]
        return values if values.dtype == torch.float64 else values.float()

    def subset(self, positions: Tensor) -> "TensorSamples":
        """A copy of the samples at these positions."""
        return TensorSamples(self.values[positions], self.labels[positions])


@final
class WordSamples(AbstractSamples):
    """Samples with few inputs that are not zero, such as counts of words; dense batch by batch.

    Args:
        starts: (N + 1,), where the entries of each sample begin, the last one where they end.
        columns: (M,), which input each entry is; no sample has one twice.
        values: (M,), the entries.
        width: how many inputs there are.
        labels: (N,).
    """

    sparse = True

    def __init__(self, starts: Tensor, columns: Tensor, values: Tensor, width: int, labels: Tensor):
        self.starts, self.columns, self.values = starts, columns, values
        self.width = width
        self.labels = labels

    def inputs(self, positions: Tensor) -> Tensor:
        """(B, width), zero but for the entries."""
        row, entry = self._entries(positions)
        dense = torch.zeros(len(positions), self.width)
        dense[row, self.columns[entry]] = self.values[entry].float()
        return dense

    def subset(self, positions: Tensor) -> "WordSamples":
        """A copy of the samples at these positions."""
        row, entry = self._entries(positions)
        ends = torch.bincount(row, minlength=len(positions)).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends])
        columns, values = self.columns[entry], self.values[entry]
        return WordSamples(starts, columns, values, self.width, self.labels[positions])

    def _entries(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(M,) which of the positions, and (M,) which of the entries, for all their entries."""
        first, sizes = self.starts[positions], self.starts.diff()[positions]
        row = torch.arange(len(positions)).repeat_interleave(sizes)
        before = sizes.cumsum(0) - sizes
        return row, torch.arange(len(row)) + (first - before)[row]


@final
class PictureSamples(AbstractSamples):
    """Picture files, decoded when asked for: RGB, scaled to a square, values 0 to 255."""

    def __init__(self, files: list[Path], labels: Tensor, size: int):
        self.files = files
        self.labels = labels
        self.size = size

    def inputs(self, positions: Tensor) -> Tensor:
        """(B, 3, size, size), decoded and scaled."""
        pictures = [_decode(self.files[position], self.size) for position in positions.tolist()]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()

    def subset(self, positions: Tensor) -> "PictureSamples":
        """The files at these positions."""
        files = [self.files[position] for position in positions.tolist()]
        return PictureSamples(files, self.labels[positions], self.size)


class EpochOrder(Sampler[Tensor]):
    """The batches of an epoch as positions: shuffled by (seed, epoch), and one process's share.

    Every process draws the same order and takes its part of every batch, so that a step sees the
    same samples however many processes take it (a batch larger than the data shrinks to a multiple
    of the processes). What does not fill a batch is left to another
    epoch. Without a seed: in order, all samples, and the last batch may be short.
    """

    def __init__(
        self, num_samples: int, batch_size: int, seed: int | None, rank: int = 0, world: int = 1
    ):
        if num_samples < world:
            raise ValueError(f"data must hold a sample per device, got {num_samples} for {world}")
        self.num_samples = num_samples
        self.batch_size = min(batch_size, num_samples - num_samples % world)
        self.seed = seed
        self.epoch = 0
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(self.num_samples, self.batch_size)
        return whole if self.seed is not None else whole + (rest > 0)

    def __iter__(self) -> Iterator[Tensor]:
        if self.seed is None:
            order = torch.arange(self.num_samples)
        else:
            order = torch.randperm(self.num_samples, generator=seeded(self.seed, self.epoch))
        for batch in order.split(self.batch_size)[: len(self)]:
            share = batch[self.rank :: self.world]
            if len(share):
                yield share


class Batches:
    """Batches of samples in an order; each is indexed at once, not sample by sample."""

    def __init__(self, samples: AbstractSamples, order: EpochOrder):
        self._samples, self._order = samples, order

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for positions in self._order:
            yield self._samples[positions]


def loader(
    samples: AbstractSamples, order: EpochOrder, workers: int = 0
) -> "Batches | DataLoader[Any]":
    """Batches of samples in an order, prepared by worker processes if there are any."""
    if not isinstance(samples, PictureSamples) or not workers:
        return Batches(samples, order)
    return DataLoader(
        samples,
        sampler=order,
        batch_size=None,
        num_workers=workers,
        persistent_workers=True,
        # Its own generator: otherwise every pass draws from torch's global one.
        generator=torch.Generator(),
    )


def seeded(*seeds: int) -> torch.Generator:
    """A generator that depends on all of the numbers given."""
    state = np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


def stratified_cut(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions (kept, taken): a share of every class is taken, at least one sample is kept."""
    generator = seeded(seed, len(labels))
    kept, taken = [], []
    for label in labels.unique():
        positions = (labels == label).nonzero().squeeze(1)
        positions = positions[torch.randperm(len(positions), generator=generator)]
        number = min(max(1, round(share * len(positions))), len(positions) - 1)
        taken.append(positions[:number])
        kept.append(positions[number:])
    return torch.cat(kept).sort().values, torch.cat(taken).sort().values


def thinned(labels: Tensor, num_classes: int, ratio: float, limit: int | None) -> Tensor:
    """Positions of a training set with a long tail by class index, and of limited size.

    Class k keeps n_max * ratio^(-k/(K-1)) samples, at least one, or all it has if that is fewer,
    with n_max the size of the largest class. `limit`, at least K, then scales every class down
    alike, as little as will do.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    wanted = counts.double()
    if ratio > 1 and num_classes > 1:
        fall = torch.arange(num_classes, dtype=torch.float64) / (num_classes - 1)
        wanted = torch.minimum(wanted, counts.max() * ratio**-fall)
    # The last digit of a power or a quotient must not cost a sample.
    wanted = wanted * (1 + 1e-12)

    def scaled(scale: float) -> Tensor:
        return torch.minimum((wanted * scale).floor().long().clamp(min=1), counts)

    numbers = scaled(1.0)
    if limit is not None and int(numbers.sum()) > limit:
        low, high = 0.0, 1.0
        while high - low > 1e-9:
            middle = (low + high) / 2
            low, high = (middle, high) if int(scaled(middle).sum()) <= limit else (low, middle)
        numbers = scaled(low)
    # The first samples of each class are kept, so that a smaller limit gives a subset of a larger.
    rank_in_class = torch.zeros_like(labels)
    for label in range(num_classes):
        own = labels == label
        rank_in_class[own] = torch.arange(int(own.sum()))
    return (rank_in_class < numbers[labels]).nonzero().squeeze(1)


def _decode(file: Path, size: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB").resize((size, size)))
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them
        reason = str(error) or type(error).__name__
        raise ValueError(f"{file} is not a readable picture: {reason}") from None
