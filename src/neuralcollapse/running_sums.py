"""Sums by class of residuals to an anchor, in place: what class statistics are made of."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from neuralcollapse.checks import check_finite
from neuralcollapse.gram import add_gram, mirrored
from neuralcollapse.precision import FullPrecision

# An anchor moves to the mean of its class when it has so many samples, and then whenever their
# number has grown so many times; looked for once in a sample per class, or so many.
_FIRST_MOVE, _GROWTH, _LOOK = 64, 4, 1 << 16
# Numbers in a block of rows: few calls, in reach of the processor's cache. With scatter, which is
# worked on for longer, fewer.
_BLOCK_NUMBERS, _SCATTER_NUMBERS = 1 << 21, 1 << 19
_LEAST_ROWS, _MOST_ROWS = 256, 4096
# Rows whose products are summed in single precision before they go into the double sum.
_FLUSH_ROWS = 4096


class RunningSums:
    """Counts and sums of residuals to an anchor per class, one of its own samples.

    On a GPU the samples of a first batch write at once, and the anchor may hold coordinates of
    several: near enough, but not the same to the bit in every run.

    Args:
        num_classes: K.
        dim: d.
        dtype: of the sums; None for the working precision, that of the features but at least
            float32.
        device: where the sums are kept.
    """

    def __init__(
        self, num_classes: int, dim: int, *, dtype: torch.dtype | None, device: torch.device
    ):
        self._num_classes, self._dtype, self._device = num_classes, dtype, device
        self._wide = _wide(device)
        self.counts = torch.zeros(num_classes, dtype=torch.int64, device=device)
        # The anchors have one row more, which takes the writes of samples that are not a class's
        # first. They are made when the first batch tells the working precision.
        self._anchors = torch.empty(0, dim, device=device)
        self._sums = torch.zeros(0 if dtype is None else num_classes, dim, dtype=dtype).to(device)
        self._residuals = self._converted = self._anchors  # no room yet
        self._all_seen = False  # as far as is known without looking at all counts

    @property
    def working_dtype(self) -> torch.dtype:
        """That of the anchors and the residuals."""
        return self._anchors.dtype

    @property
    def differ(self) -> bool:
        """Whether there are residuals other than zero."""
        return bool(self._sums.any())

    def work_in(self, dtype: torch.dtype) -> None:
        """Set up, or widen to, the working precision for features of this type."""
        working = torch.promote_types(dtype, torch.float32)
        rows, dim = self._anchors.shape
        if not rows:
            self._anchors = self.counts.new_zeros(self._num_classes + 1, dim, dtype=working)
            if self._dtype is None:
                self._sums = self._anchors.new_zeros(self._num_classes, dim)
        elif torch.promote_types(working, self._anchors.dtype) != self._anchors.dtype:
            self._anchors = self._anchors.to(working)
            if self._dtype is None:
                self._sums = self._sums.to(working)

    def place_anchors(self, features: Tensor, labels: Tensor) -> None:
        """Where a class of the batch is new, one of its samples becomes the anchor."""
        if self._all_seen:
            return
        counts = self.counts.index_select(0, labels)
        if self._device.type != "cpu":  # without waiting for how many are new
            rows = torch.where(counts == 0, labels, self._num_classes)
            self._anchors.index_copy_(0, rows, features.to(self._anchors.dtype))
        elif not counts.min():
            new = (counts == 0).nonzero().squeeze(1)
            own = features if len(new) == len(features) else features.index_select(0, new)
            rows = labels.index_select(0, new)
            self._anchors.index_copy_(0, rows, own.to(self._anchors.dtype))

    def residuals(self, block: Tensor, labels: Tensor) -> Tensor:
        """(B, d), to the anchors, in memory that the next call writes to again."""
        self._residuals = _room(self._residuals, self._anchors, len(block))
        residuals = self._residuals[: len(block)]
        torch.index_select(self._anchors, 0, labels, out=residuals)
        return torch.sub(block.to(residuals.dtype), residuals, out=residuals)

    def count(self, labels: Tensor) -> None:
        """Count samples with labels (B,)."""
        self.counts.scatter_add_(0, labels, torch.ones_like(labels))

    def add(self, labels: Tensor, residuals: Tensor) -> None:
        """Add residuals (B, d) of samples with labels (B,)."""
        if residuals.dtype != self._sums.dtype:
            residuals = self._convertible(len(residuals)).copy_(residuals)
        self._sums.index_add_(0, labels, residuals)

    def mean_residuals(self, rows: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """(R,) counts so far and (R, d) mean residuals so far, of the classes in `rows`."""
        counts = self.counts.index_select(0, rows).to(out.dtype)
        means = out[: len(rows)]
        if self._sums.dtype == out.dtype:
            torch.index_select(self._sums, 0, rows, out=means)
        else:
            means.copy_(torch.index_select(self._sums, 0, rows, out=self._convertible(len(rows))))
        return counts, means.div_(counts.clamp(min=1)[:, None])

    def means(self) -> Tensor:
        """(K, d), in double where there is one; rows of classes never seen are nan."""
        if not len(self._sums):
            shape = self._num_classes, self._sums.shape[1]
            return self._sums.new_full(shape, torch.nan, dtype=self._wide)
        means = self._sums.to(self._wide, copy=True)
        for rows in self._some_classes():
            means[rows] /= self.counts[rows, None]
            if len(self._anchors):
                means[rows] += self._anchors[:-1][rows]
        return means

    def _some_classes(self) -> Iterator[slice]:
        """Some rows at a time: of mixed types one is converted as a whole first."""
        step = max(1, _BLOCK_NUMBERS // self._sums.shape[1])
        for start in range(0, len(self._sums), step):
            yield slice(start, start + step)

    def _convertible(self, rows: int) -> Tensor:
        """(rows, d), of the type of the sums."""
        self._converted = _room(self._converted, self._sums, rows)
        return self._converted[:rows]


class RunningSquares(RunningSums):
    """The same with sums of the squared residuals.

    On a CPU an anchor moves to the mean of its class when it has 64 samples, and again at 256, 1024
    and so on. Sums of residuals then stay as small as chance makes them, and those of their squares
    hardly above the spread, so that both keep their digits in the working precision.
    """

    def __init__(
        self, num_classes: int, dim: int, *, dtype: torch.dtype | None, device: torch.device
    ):
        if dtype is None and device.type != "cpu":  # there anchors stay where they are
            dtype = _wide(device)
        super().__init__(num_classes, dim, dtype=dtype, device=device)
        self._squares = torch.zeros(num_classes, dtype=self._wide, device=device)
        self._next_move = torch.full((num_classes,), _FIRST_MOVE)
        self._unlooked = 0  # samples since anchors that are to move were looked for

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features (N, d), labels (N,)."""
        self.work_in(features.dtype)
        rows = min(max(1, _BLOCK_NUMBERS // features.shape[1]), _MOST_ROWS)
        if self._device.type == "cpu":
            _check_beyond(rows, features)
        # What is small is done for two blocks at once.
        for some, own in zip(features.split(2 * rows), labels.split(2 * rows), strict=True):
            self.place_anchors(some, own)
            squares = self._add_blocks(some, own, rows)
            self.count(own)
            self._squares.index_add_(0, own, squares)
            self._unlooked += len(own)
            if self._device.type == "cpu" and self._unlooked >= min(_LOOK, self._num_classes):
                self._move_anchors()

    def _add_blocks(self, features: Tensor, labels: Tensor, rows: int) -> Tensor:
        """Add residuals and return their squares (N,)."""
        norms = self._anchors.new_empty(len(features))
        blocks = (each.split(rows) for each in (features, labels, norms))
        for block, own, lengths in zip(*blocks, strict=True):
            residuals = self.residuals(block, own)
            torch.linalg.vector_norm(residuals, dim=1, out=lengths)
            # They tell what is not finite without another pass, unless it is squares that overflow.
            if self._device.type == "cpu" and not math.isfinite(lengths.sum()):
                check_finite("features", block)
            self.add(own, residuals)
        return norms.to(self._squares.dtype).square_()

    def scatter(self) -> None:
        """There is none."""

    def spread(self) -> Tensor:
        """(K,), the sum of the squared distances of the samples of a class to its mean."""
        spread = self._squares.clone()
        if not len(self._sums):
            return spread
        for rows in self._some_classes():
            counts = self.counts[rows]
            means = self._sums[rows].to(spread.dtype) / counts.clamp(min=1)[:, None]
            lengths = torch.linalg.vector_norm(means, dim=1)
            spread[rows].sub_(counts * lengths.square()).clamp_(min=0)
        return spread

    def _move_anchors(self) -> None:
        """Move those of classes that have grown enough to their means."""
        self._unlooked = 0
        self._all_seen = self._all_seen or bool(self.counts.min())
        due = (self.counts >= self._next_move).nonzero().squeeze(1)
        for rows in due.split(max(1, _BLOCK_NUMBERS // self._sums.shape[1])):
            counts = self.counts.index_select(0, rows)[:, None]
            sums = self._sums.index_select(0, rows).double()
            anchors = self._anchors.index_select(0, rows)
            moved = (anchors + sums / counts).to(anchors.dtype)
            moves = moved.double() - anchors
            # sum(norm(r - move)^2) = sum(norm(r)^2) - 2 move . sum(r) + n norm(move)^2
            change = (moves * (counts * moves - 2 * sums)).sum(1)
            self._squares.index_add_(0, rows, change)
            self._anchors.index_copy_(0, rows, moved)
            self._sums.index_copy_(0, rows, sums.sub_(counts * moves).to(self._sums.dtype))
            self._next_move.index_copy_(0, rows, _GROWTH * counts.squeeze(1))


class RunningScatter(RunningSums):
    """The same with the (d, d) scatter, and squares, to a centre that needs no correction.

        centre = (share * mean_before + mean_after) / (1 + share), share^2 = n_before / n_after

    with the means of the residuals of a class before and after the block.
    """

    def __init__(
        self, num_classes: int, dim: int, *, dtype: torch.dtype | None, device: torch.device
    ):
        dtype = dtype or _wide(device)
        super().__init__(num_classes, dim, dtype=dtype, device=device)
        self._spread = torch.zeros(num_classes, dtype=dtype, device=device)
        self._scatter = torch.zeros(dim, dim, dtype=dtype, device=device)
        # Products in the working precision, that wait to be added.
        self._pending = self._scatter
        self._pending_rows = 0
        self._before = self._after = self._scatter[:0]

    def work_in(self, dtype: torch.dtype) -> None:
        """Set up, or widen to, the working precision for features of this type."""
        super().work_in(dtype)
        if self._pending.dtype != self.working_dtype:
            self._flush()
            same = self._scatter.dtype == self.working_dtype
            self._pending = (
                self._scatter if same else torch.zeros_like(self._scatter, dtype=self.working_dtype)
            )

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features (N, d), labels (N,)."""
        if self._device.type == "cpu":
            check_finite("features", features)
        self.work_in(features.dtype)
        rows = min(max(_SCATTER_NUMBERS // features.shape[1], _LEAST_ROWS), _MOST_ROWS)
        if self._device.type != "cpu":  # a launch costs more there than the cache gains
            rows = _MOST_ROWS
        self.place_anchors(features, labels)
        with FullPrecision(self._device.type):
            for block, own in zip(features.split(rows), labels.split(rows), strict=True):
                self._add_block(block, own)

    def spread(self) -> Tensor:
        """(K,), the sum of the squared distances of the samples of a class to its mean."""
        return self._spread.to(self._wide, copy=True)

    def scatter(self) -> Tensor:
        """(d, d), the sum of the products of all residuals to their means."""
        self._flush()
        return mirrored(self._scatter.to(self._wide))

    def _add_block(self, block: Tensor, labels: Tensor) -> None:
        residuals = self.residuals(block, labels)
        # A class at a time on the CPU; on a GPU, which is not to be waited for, a sample at a time.
        rows, places = labels, None
        if self._device.type == "cpu":
            rows, places = torch.unique(labels, return_inverse=True)
        self._before = _room(self._before, residuals, len(block))
        self._after = _room(self._after, residuals, len(block))
        num_before, before = self.mean_residuals(rows, self._before)
        self.count(labels)
        self.add(labels, residuals)
        num_after, centres = self.mean_residuals(rows, self._after)
        share = (num_before / num_after).sqrt_()[:, None]
        centres.add_(before.mul_(share)).div_(1 + share)
        if places is not None:
            centres = torch.index_select(centres, 0, places, out=self._before[: len(block)])
        residuals.sub_(centres)

        add_gram(self._pending, residuals)
        self._pending_rows += len(block)
        if self._pending_rows >= _FLUSH_ROWS:
            self._flush()
        squares = torch.linalg.vector_norm(residuals, dim=1).to(self._spread.dtype).square_()
        self._spread.index_add_(0, labels, squares)

    def _flush(self) -> None:
        if self._pending is not self._scatter:
            self._scatter += self._pending
            self._pending.zero_()
        self._pending_rows = 0


def _check_beyond(rows: int, features: Tensor) -> None:
    """Raise if features after the first rows are not finite."""
    if len(features) > rows and not math.isfinite(features[rows:].sum()):
        check_finite("features", features)


def _room(room: Tensor, like: Tensor, rows: int) -> Tensor:
    """The room given if it has so many rows of this type, else new one: that costs time."""
    if len(room) >= rows and room.dtype == like.dtype:
        return room
    return like.new_empty(rows, like.shape[1])


def _wide(device: torch.device) -> torch.dtype:
    """The widest type of the device: Apple's accelerator has no double."""
    return torch.float32 if device.type == "mps" else torch.float64
