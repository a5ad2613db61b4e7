"""Class statistics of labelled features: one pass, in place, mergeable.

Every metric of this library is a function of `ClassStatistics`. An accumulator builds them from
batches; statistics of parts of the data merge into the statistics of the whole.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from neuralcollapse.checks import (
    check_data,
    check_finite,
    check_label_range,
    check_labels,
    check_matrix,
)
from neuralcollapse.files import read_tensors, write_tensors
from neuralcollapse.gram import add_gram, mirrored
from neuralcollapse.precision import FullPrecision
from neuralcollapse.scalars import check_boolean, check_choice, check_integer

GlobalMean = Literal["class", "sample"]

_FORMAT = "neuralcollapse.ClassStatistics.1"
# Numbers in a block of rows that is worked on at a time, and the fewest and most rows of one: the
# residuals stay in the processor's cache.
_BLOCK_NUMBERS = 1 << 19
_LEAST_ROWS, _MOST_ROWS = 256, 4096
# Rows of one where squares alone are summed.
_LIGHT_ROWS = 512
# Classes finished at a time.
_RESULT_ROWS = 1 << 16
# Rows whose products are summed in single precision before they go into the double sum.
_FLUSH_ROWS = 4096


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """Counts, means and within-class scatter of labelled features.

    Attributes:
        counts: (K,) int64, samples per class.
        means: (K, d), class means; rows of classes never seen are nan.
        spread: (K,), sum over the samples of a class of the squared distance to its mean.
        scatter: (d, d), sum over all samples of (h - mu_y)(h - mu_y)^T, or None where it was
            not accumulated. trace(scatter) = sum(spread).

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> statistics = ClassStatistics.from_features(features, labels, num_classes=2)
        >>> statistics.means.tolist()
        [[2.0, 0.0], [-2.0, 0.0]]
        >>> statistics.within_covariance.tolist()
        [[1.0, 0.5], [0.5, 0.5]]
    """

    counts: Tensor
    means: Tensor
    spread: Tensor
    scatter: Tensor | None = None

    @staticmethod
    def from_features(
        features: Tensor, labels: Tensor, num_classes: int, *, scatter: bool = True
    ) -> "ClassStatistics":
        """Statistics of features (N, d) with labels (N,) in [0, num_classes)."""
        check_matrix("features", features)
        accumulator = StatisticsAccumulator(
            num_classes, features.shape[1], scatter=scatter, device=features.device
        )
        accumulator.update(features, labels)
        return accumulator.result()

    @property
    def num_classes(self) -> int:
        """K, classes never seen included."""
        return len(self.counts)

    @property
    def dim(self) -> int:
        """d, the width of the features."""
        return self.means.shape[1]

    @property
    def num_samples(self) -> int:
        """N, over all classes."""
        return int(self.counts.sum())

    @property
    def seen(self) -> Tensor:
        """(K,) bool, classes with at least one sample."""
        return self.counts > 0

    @property
    def seen_means(self) -> Tensor:
        """(K seen, d), the means of the classes seen, in class order; not to be written to."""
        seen = self.seen
        return self.means if bool(seen.all()) else self.means[seen]

    @property
    def variances(self) -> Tensor:
        """(K seen,), mean squared distance of each class seen to its mean (divided by n_k)."""
        return self.spread[self.seen] / self.counts[self.seen]

    @property
    def within_covariance(self) -> Tensor:
        """(d, d), scatter divided by N."""
        if self.scatter is None:
            raise ValueError(
                "within_covariance needs the (d, d) scatter, which these statistics do not hold; "
                "accumulate with scatter=True"
            )
        return self.scatter / self.num_samples

    def global_mean(self, kind: GlobalMean = "class") -> Tensor:
        """(d,), the mean of the class means ("class") or of all samples ("sample")."""
        check_choice("global_mean", kind, ("class", "sample"))
        means = self.seen_means
        if kind == "class":
            return means.mean(0)
        return self._shares @ means

    def centred_means(self, global_mean: GlobalMean = "class") -> Tensor:
        """(K seen, d), the means of the classes seen minus the global mean."""
        check_choice("global_mean", global_mean, ("class", "sample"))
        # From differences, so that means which coincide give exact zeros and not their rounding.
        means = self.seen_means
        moved = means - means[:1]
        return moved.sub_(moved.mean(0) if global_mean == "class" else self._shares @ moved)

    @property
    def _shares(self) -> Tensor:
        """(K seen,), the classes' shares of the samples."""
        return self.counts[self.seen].to(self.means.dtype) / self.num_samples

    def merge(self, other: "ClassStatistics") -> "ClassStatistics":
        """Statistics of both data sets together, as if accumulated in one.

        Exact update of pairs of means and scatters (Chan, Golub, LeVeque 1983): the scatter gains
        sum_k n_a n_b / (n_a + n_b) (mu_b - mu_a)(mu_b - mu_a)^T.

        Raises:
            ValueError: if the numbers of classes or the widths differ, or only one has a scatter.
        """
        check_statistics(other, "other")
        if self.means.shape != other.means.shape:
            raise ValueError(
                f"statistics to merge must have equal (num_classes, dim), "
                f"got {tuple(self.means.shape)} and {tuple(other.means.shape)}"
            )
        if (self.scatter is None) != (other.scatter is None):
            raise ValueError(
                "statistics to merge must both hold the scatter or both lack it; "
                "accumulate both with the same scatter=..."
            )
        check_data("other", other.means)
        dtype = torch.promote_types(self.means.dtype, other.means.dtype)
        self, other = self.to(dtype=dtype), other.to(self.means.device, dtype)
        counts = self.counts + other.counts
        # Only classes that both have seen have a difference; a nan row must not spread.
        here, there = self.seen, other.seen
        gap = torch.where((here & there)[:, None], other.means - self.means, 0.0)
        share = other.counts.to(dtype) / counts.clamp(min=1)
        means = torch.where(here[:, None], self.means + share[:, None] * gap, other.means)
        lever = self.counts * share  # n_a n_b / (n_a + n_b)
        spread = self.spread + other.spread + lever * gap.square().sum(1)
        scatter = None
        if self.scatter is not None and other.scatter is not None:
            with FullPrecision(gap.device.type):
                scatter = self.scatter + other.scatter + gap.T @ (lever[:, None] * gap)
        return ClassStatistics(counts, means, spread, scatter)

    def merge_processes(self) -> "ClassStatistics":
        """These statistics merged with those of all other processes of torch.distributed.

        Every process must call it and gets the same result, bit for bit; without other processes
        it is these statistics. What is exchanged are sums, in memory for the statistics of one
        process and not of all.

        Raises:
            ValueError: in every process, if the statistics do not fit together.
        """
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return self
        home = self.means.device
        if dist.get_backend() == "nccl" and home.type != "cuda":
            return self.to("cuda").merge_processes().to(home)
        self._check_processes()
        rank, world = dist.get_rank(), dist.get_world_size()
        counts = self.counts.clone()
        dist.all_reduce(counts)
        # Means relative to those of the first process that has seen a class: where all agree, no
        # rounding of shares makes them differ.
        first = torch.where(self.seen, rank, world)
        dist.all_reduce(first, dist.ReduceOp.MIN)
        origin = torch.where((first == rank)[:, None], self.means, 0.0)
        dist.all_reduce(origin)
        gap = torch.where(self.seen[:, None], self.means - origin, 0.0)
        share = self.counts.to(gap.dtype) / counts.clamp(min=1)
        moved = share[:, None] * gap
        dist.all_reduce(moved)
        gap = torch.where(self.seen[:, None], gap - moved, 0.0)
        spread = self.spread + self.counts * gap.square().sum(1)
        dist.all_reduce(spread)
        means = torch.where((counts > 0)[:, None], origin + moved, torch.nan)
        scatter = self.scatter
        if scatter is not None:
            with FullPrecision(home.type):
                scatter = scatter + gap.T @ (self.counts[:, None] * gap)
            dist.all_reduce(scatter)
        return ClassStatistics(counts, means, spread, scatter)

    def _check_processes(self) -> None:
        """Raise everywhere if any process has statistics of another kind."""
        kind = [*self.means.shape, self.means.element_size(), int(self.scatter is not None)]
        own = torch.tensor(kind, device=self.means.device)
        kinds = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(kinds, own)
        found = sorted({tuple(other.tolist()) for other in kinds})
        if len(found) > 1:
            listed = "; ".join(
                f"({k}, {d}) in float{8 * size} {'with' if scatter else 'without'} scatter"
                for k, d, size, scatter in found
            )
            raise ValueError(
                f"statistics of all processes must be of one kind, got {listed}; accumulate all "
                "with the same num_classes, dim and scatter"
            )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "ClassStatistics":
        """The same statistics on another device or in another floating-point type."""
        scatter = None if self.scatter is None else self.scatter.to(device, dtype)
        return ClassStatistics(
            self.counts.to(device),
            self.means.to(device, dtype),
            self.spread.to(device, dtype),
            scatter,
        )

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file, atomically."""
        tensors = {"counts": self.counts, "means": self.means, "spread": self.spread}
        if self.scatter is not None:
            tensors["scatter"] = self.scatter
        write_tensors(path, tensors, {"format": _FORMAT})

    @staticmethod
    def load(path: str | Path) -> "ClassStatistics":
        """Read what `save` wrote.

        Raises:
            ValueError: if the file is missing, damaged, or holds something else.
        """
        tensors, metadata = read_tensors(path)
        if metadata.get("format") != _FORMAT:
            raise ValueError(
                f"{path} does not hold class statistics (format {metadata.get('format')!r}); "
                "write it with ClassStatistics.save"
            )
        try:
            counts, means, spread = (tensors[name] for name in ("counts", "means", "spread"))
        except KeyError as error:
            raise ValueError(f"{path} lacks the array {error.args[0]!r}") from None
        scatter = tensors.get("scatter")
        problem = _misfit(counts, means, spread, scatter)
        if problem:
            raise ValueError(f"{path} does not hold class statistics: {problem}")
        return ClassStatistics(counts, means, spread, scatter)


def check_statistics(statistics: Any, name: str = "statistics") -> ClassStatistics:
    """Return `statistics` if they are class statistics, and not what these are made of."""
    if isinstance(statistics, ClassStatistics):
        return statistics
    remedy = "make them by ClassStatistics.from_features(features, labels, num_classes)"
    if isinstance(getattr(statistics, "statistics", None), ClassStatistics):
        remedy = "pass its statistics"
    raise TypeError(f"{name} must be ClassStatistics, got {type(statistics).__name__}; {remedy}")


def _misfit(counts: Tensor, means: Tensor, spread: Tensor, scatter: Tensor | None) -> str | None:
    """Why these arrays cannot be the statistics of any features, or None."""
    num_classes, dim = means.shape if means.dim() == 2 else (0, 0)
    sums = [means, spread] if scatter is None else [means, spread, scatter]
    if not num_classes or not dim or counts.shape != (num_classes,) or spread.shape != counts.shape:
        return "the shapes of its arrays do not fit together"
    if scatter is not None and scatter.shape != (dim, dim):
        return f"scatter must have shape ({dim}, {dim}), got {tuple(scatter.shape)}"
    if counts.dtype != torch.int64 or bool((counts < 0).any()):
        return "counts must be int64 and not negative"
    if means.dtype not in (torch.float32, torch.float64) or len({s.dtype for s in sums}) > 1:
        return "means and sums must all be float32 or all float64"
    if not all(bool(torch.isfinite(s).all()) for s in [means[counts > 0], *sums[1:]]):
        return "means and sums must be finite"
    return "spread must not be negative" if bool((spread < 0).any()) else None


class _BlockBuffers:
    """Room for one block of rows, used again by the next: fresh memory costs time."""

    def __init__(self, anchors: Tensor, offsets: Tensor, rows: int, *, means: bool):
        shape = rows, anchors.shape[1]
        self.residuals = anchors.new_empty(shape)
        self.before, self.after = (anchors.new_empty(shape if means else 0) for _ in range(2))
        same = anchors.dtype == offsets.dtype
        self.sums = self.residuals if same and not means else offsets.new_empty(shape)

    def fit(self, anchors: Tensor, rows: int) -> bool:
        """Whether these hold so many rows of this type."""
        return len(self.residuals) >= rows and self.residuals.dtype == anchors.dtype


class StatisticsAccumulator:
    """Builds `ClassStatistics` from batches, in place and in one pass.

    Residuals are taken against an anchor per class, one of its own samples, before anything is
    summed, and squares are taken of residuals to a centre between the mean of the class before
    the batch and that after it, for which they come out right without a correction:

        centre = (share * mean_before + mean_after) / (1 + share), share^2 = n_before / n_after
        scatter += (x - centre)^T (x - centre)

    so nothing cancels: a within-class deviation of 1e-5 beside means of size 30 keeps its digits
    in float32, whichever sample came first. Without scatter, squares are taken of residuals to the
    anchors and moved to the means by `result`, which is several times faster; a class whose anchor
    lies apart from its other n samples loses at most log10(n) of its digits. Only rows of classes
    in the batch are touched; no one-hot matrix, no K x K array and no copy of a K x d array is
    made.

    Half-precision features are worked on in float32, float64 features in float64. On a GPU
    nothing waits for the device: labels out of range and features that are not finite are
    reported by `result`.

    Args:
        num_classes: K, at least 1.
        dim: d, the width of the features.
        scatter: also accumulate the (d, d) scatter, which `nc1` needs.
        dtype: type of the running sums, float64 (default) or float32 for half the memory. Results
            are in float64 either way.
        device: where the sums are kept; batches are moved there.

    Example:
        >>> accumulator = StatisticsAccumulator(num_classes=3, dim=2)
        >>> accumulator.update(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 0]))
        >>> accumulator.update(torch.tensor([[5.0, 5.0]]), torch.tensor([2]))
        >>> accumulator.result().counts.tolist()
        [2, 0, 1]
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        scatter: bool = True,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ):
        self.num_classes = check_integer("num_classes", num_classes, 1)
        self.dim = check_integer("dim", dim, 1)
        check_boolean("scatter", scatter)
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
        self.dtype = dtype
        try:
            self.device = torch.empty(0, device=device).device
        except (AssertionError, RuntimeError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"device must be one that is here, got {device!r}: {reason}") from None
        if self.device.type == "meta":
            raise ValueError("device must hold data, got the meta device; sums need memory")

        def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        self._counts = zeros(self.num_classes, dtype=torch.int64)
        self._offsets = zeros(self.num_classes, self.dim)  # sums of residuals to the anchors
        self._spread = zeros(self.num_classes)
        self._scatter = zeros(self.dim, self.dim) if scatter else None
        # In the working precision, made when the first batch tells which that is. The anchors
        # have one row more, which takes the writes of samples that are not a class's first.
        self._anchors: Tensor | None = None
        self._pending: Tensor | None = None
        self._pending_rows = 0
        self._buffers: _BlockBuffers | None = None
        self._bad = zeros(2, dtype=torch.int64)  # samples not finite, labels out of range

    @property
    def num_samples(self) -> int:
        """N so far, over all classes. Waits for a GPU."""
        return int(self._counts.sum())

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add features (B, d) with labels (B,) in [0, num_classes).

        Raises:
            TypeError: if features are not floating point or labels are not integers.
            ValueError: if shapes do not fit, a label is out of range, or a feature is not finite;
                the statistics are then as before the call.
        """
        check_matrix("features", features, columns=self.dim, why="dim of the accumulator")
        labels = check_labels(labels, len(features))
        check_data("features", features)
        check_data("labels", labels)
        features, labels = features.detach().to(self.device), labels.to(self.device)
        if self.device.type == "cpu":
            check_finite("features", features)
            check_label_range(labels, self.num_classes)
        else:
            features, labels = self._defer_checks(features, labels)
        anchors = self._choose_precision(features.dtype)
        if self._scatter is None:
            self._add_squares(anchors, features, labels)
            return
        with FullPrecision(self.device.type):
            rows = min(max(_BLOCK_NUMBERS // self.dim, _LEAST_ROWS), _MOST_ROWS)
            if self.device.type != "cpu":  # a launch costs more there than the cache gains
                rows = _MOST_ROWS
            buffers = self._room_for(anchors, min(rows, len(features)))
            for start in range(0, len(features), rows):
                stop = start + rows
                self._add_block(anchors, features[start:stop], labels[start:stop], buffers)

    def merge(self, other: "StatisticsAccumulator | ClassStatistics") -> ClassStatistics:
        """The statistics so far merged with others; see `ClassStatistics.merge`."""
        if isinstance(other, StatisticsAccumulator):
            other = other.result()
        return self.result().merge(other)

    @torch.no_grad()
    def result(self) -> ClassStatistics:
        """The statistics of all batches so far; more batches may follow."""
        self._raise_deferred()
        self._flush()
        # In double even where the sums are single: means of 30 in float32 would not hold the gaps
        # of 1e-6 between parts that `merge` needs. (Apple's accelerator has no double.)
        wide = self.dtype if self.device.type == "mps" else torch.float64
        spread = self._spread.to(wide, copy=True)
        means = self._offsets.to(wide, copy=True)
        # Some rows at a time: mixed types are converted as a whole first.
        for start in range(0, self.num_classes, _RESULT_ROWS):
            rows = slice(start, start + _RESULT_ROWS)
            part, counts = means[rows], self._counts[rows]
            part /= counts[:, None]  # nan where never seen
            if self._scatter is None:
                lengths = torch.linalg.vector_norm(part, dim=1).nan_to_num(0.0)
                spread[rows].sub_(counts * lengths.square()).clamp_(min=0)
            if self._anchors is not None:
                part += self._anchors[:-1][rows]
        if not bool(torch.isfinite(spread).all()):
            single = self._anchors is not None and self._anchors.dtype == torch.float32
            raise ValueError(
                "features must be small enough for their squares, got a sum that overflows; "
                "scale them down" + (" or pass them in float64" if single else "")
            )
        self._check_squares(means, spread)
        scatter = self._scatter
        if scatter is not None:
            scatter = mirrored(scatter.to(wide))
        return ClassStatistics(self._counts.clone(), means, spread, scatter)

    def _check_squares(self, means: Tensor, spread: Tensor) -> None:
        """Raise where squares of tiny residuals vanish, which would pass for a collapse."""
        if self._anchors is None:
            return
        kind, wide = torch.finfo(self._anchors.dtype), torch.finfo(torch.float64)
        # A mean square below this is of numbers that have lost digits, or all of them. It is so
        # for collapsed features too; their size tells.
        least = 16 * self.dim * kind.tiny
        if float(spread.sum()) >= least * self.num_samples:
            return
        seen = means[self._counts > 0]
        size = float(seen.abs().max()) if len(seen) else 0.0
        vanish = size * kind.eps < least**0.5 and bool(self._offsets.any())
        if vanish or 0 < size < wide.tiny**0.5:
            single = kind.bits < wide.bits and size > wide.tiny**0.25
            raise ValueError(
                f"features must be large enough for their squares, got class means of at most "
                f"{size:.3g}; scale them up" + (" or pass them in float64" if single else "")
            )

    def _add_squares(self, anchors: Tensor, features: Tensor, labels: Tensor) -> None:
        """Without scatter: sums of residuals to the anchors, and of their squares.

        An anchor is one of the class's n samples, so these squares are at most n + 1 times the
        spread, and little cancels when `result` takes them to the mean.
        """
        rows = min(_LIGHT_ROWS, max(1, _BLOCK_NUMBERS // self.dim))
        if self.device.type != "cpu":
            rows = max(1, len(features))
        buffers = self._room_for(anchors, min(rows, len(features)))
        squares = anchors.new_empty(len(features))
        for start in range(0, len(features), rows):
            block, own = features[start : start + rows], labels[start : start + rows]
            residuals = self._residuals(anchors, block, own, buffers)
            self._counts.index_add_(0, own, torch.ones_like(own))
            torch.linalg.vector_norm(residuals, dim=1, out=squares[start : start + rows])
            self._add_offsets(own, residuals, buffers)
        self._spread.index_add_(0, labels, squares.to(self.dtype).square_())

    def _add_block(
        self, anchors: Tensor, block: Tensor, labels: Tensor, buffers: _BlockBuffers
    ) -> None:
        residuals = self._residuals(anchors, block, labels, buffers)
        # A class at a time on the CPU; on a GPU, which is not to be waited for, a sample at a time.
        rows, places = labels, None
        if self.device.type == "cpu":
            rows, places = torch.unique(labels, return_inverse=True)
        num_before, before = self._mean_residuals(rows, buffers.before, buffers.sums)
        self._counts.index_add_(0, labels, torch.ones_like(labels))
        self._add_offsets(labels, residuals, buffers)
        num_after, centres = self._mean_residuals(rows, buffers.after, buffers.sums)
        share = (num_before / num_after).sqrt_()[:, None]
        centres.add_(before.mul_(share)).div_(1 + share)
        if places is not None:
            centres = torch.index_select(centres, 0, places, out=buffers.before[: len(block)])
        residuals.sub_(centres)

        if self._pending is not None:
            add_gram(self._pending, residuals)
            self._pending_rows += len(block)
            if self._pending_rows >= _FLUSH_ROWS:
                self._flush()
        squares = torch.linalg.vector_norm(residuals, dim=1).to(self.dtype).square_()
        self._spread.index_add_(0, labels, squares)

    def _add_offsets(self, labels: Tensor, residuals: Tensor, buffers: _BlockBuffers) -> None:
        if residuals.dtype != self.dtype:
            residuals = buffers.sums[: len(residuals)].copy_(residuals)
        self._offsets.index_add_(0, labels, residuals)

    def _room_for(self, anchors: Tensor, rows: int) -> _BlockBuffers:
        """Buffers for so many rows, those of the last update if they will do."""
        if self._buffers is None or not self._buffers.fit(anchors, rows):
            means = self._scatter is not None
            self._buffers = _BlockBuffers(anchors, self._offsets, rows, means=means)
        return self._buffers

    def _residuals(
        self, anchors: Tensor, block: Tensor, labels: Tensor, buffers: _BlockBuffers
    ) -> Tensor:
        """(B, d), to the anchors; where a class is new, one of its samples becomes the anchor."""
        block = block.to(anchors.dtype)
        first = self._counts.index_select(0, labels) == 0
        if self.device.type == "cpu":
            new = first.nonzero().squeeze(1)
            if len(new):
                own = block if len(new) == len(block) else block.index_select(0, new)
                anchors.index_copy_(0, labels.index_select(0, new), own)
        else:  # without waiting for how many are new
            anchors.index_copy_(0, torch.where(first, labels, self.num_classes), block)
        residuals = buffers.residuals[: len(block)]
        torch.index_select(anchors, 0, labels, out=residuals)
        return torch.sub(block, residuals, out=residuals)

    def _mean_residuals(self, rows: Tensor, out: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """(R,) counts so far and (R, d) mean residuals so far, of the classes in `rows`."""
        counts = self._counts.index_select(0, rows).to(out.dtype)
        means = out[: len(rows)]
        if sums.dtype == out.dtype:
            torch.index_select(self._offsets, 0, rows, out=means)
        else:
            means.copy_(torch.index_select(self._offsets, 0, rows, out=sums[: len(rows)]))
        return counts, means.div_(counts.clamp(min=1)[:, None])

    def _choose_precision(self, dtype: torch.dtype) -> Tensor:
        """The anchors, set up or widened to the working precision for features of this type."""
        working = torch.promote_types(dtype, torch.float32)
        if self._anchors is None:
            shape = (self.num_classes + 1, self.dim)
            self._anchors = torch.zeros(shape, dtype=working, device=self.device)
        elif torch.promote_types(working, self._anchors.dtype) != self._anchors.dtype:
            self._flush()
            self._anchors = self._anchors.to(working)
            self._pending = None
        if self._scatter is not None and self._pending is None:
            same = self._anchors.dtype == self.dtype
            self._pending = (
                self._scatter
                if same
                else torch.zeros_like(self._scatter, dtype=self._anchors.dtype)
            )
        return self._anchors

    def _flush(self) -> None:
        if self._pending is not None and self._scatter is not None:
            if self._pending is not self._scatter:
                self._scatter += self._pending
                self._pending.zero_()
            self._pending_rows = 0

    def _defer_checks(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Count bad samples on the device without waiting for it, and make them harmless."""
        finite = torch.isfinite(features).all(dim=1)
        in_range = (labels >= 0) & (labels < self.num_classes)
        self._bad += torch.stack([(~finite).sum(), (~in_range).sum()])
        return torch.where(finite[:, None], features, 0), labels.clamp(0, self.num_classes - 1)

    def _raise_deferred(self) -> None:
        if self.device.type == "cpu":
            return
        not_finite, out_of_range = self._bad.tolist()
        if not_finite:
            raise ValueError(
                f"features must be finite, got NaN or infinity in {not_finite} samples so far; "
                "remove or repair them and accumulate anew"
            )
        if out_of_range:
            raise ValueError(
                f"labels must lie in [0, {self.num_classes}), got {out_of_range} samples outside "
                "so far; correct them and accumulate anew"
            )
