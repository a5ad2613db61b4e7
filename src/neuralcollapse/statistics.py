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
    check_label_range,
    check_labels,
    check_matrix,
)
from neuralcollapse.files import read_tensors, write_tensors
from neuralcollapse.precision import FullPrecision
from neuralcollapse.running_sums import RunningScatter, RunningSquares
from neuralcollapse.scalars import check_boolean, check_choice, check_integer

GlobalMean = Literal["class", "sample"]

_FORMAT = "neuralcollapse.ClassStatistics.1"


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
    lies apart from its other n samples loses at most log10(n) of its digits. Anchors move to the
    means of their classes there as these grow, so that sums in the precision of the features are
    enough. Only rows of classes in the batch are touched; no one-hot matrix, no K x K array and no
    copy of a K x d array is made.

    Half-precision features are worked on in float32, float64 features in float64. On a GPU
    nothing waits for the device: labels out of range and features that are not finite are
    reported by `result`.

    Args:
        num_classes: K, at least 1.
        dim: d, the width of the features.
        scatter: also accumulate the (d, d) scatter, which `nc1` needs.
        dtype: type of the running sums, float64 or float32 for half the memory. By default float64
            with scatter or on a GPU, and else that in which the features are worked on. Results are
            in float64 either way.
        device: where the sums are kept; batches are moved there.

    Example:
        >>> accumulator = StatisticsAccumulator(num_classes=3, dim=2)
        >>> accumulator.update(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 0]))
        >>> accumulator.update(torch.tensor([[5.0, 5.0]]), torch.tensor([2]))
        >>> accumulator.result().counts.tolist()
        [2, 0, 1]
    """

    # What is made in inference mode cannot be written to outside of it, by the next batch.
    @torch.inference_mode(False)
    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        scatter: bool = True,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        self.num_classes = check_integer("num_classes", num_classes, 1)
        self.dim = check_integer("dim", dim, 1)
        check_boolean("scatter", scatter)
        if dtype not in (None, torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
        try:
            self.device = torch.empty(0, device=device).device
        except (AssertionError, RuntimeError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"device must be one that is here, got {device!r}: {reason}") from None
        if self.device.type == "meta":
            raise ValueError("device must hold data, got the meta device; sums need memory")

        kind = RunningScatter if scatter else RunningSquares
        self._sums = kind(self.num_classes, self.dim, dtype=dtype, device=self.device)
        self._bad = torch.zeros(2, dtype=torch.int64, device=self.device)  # not finite, no class

    @property
    def num_samples(self) -> int:
        """N so far, over all classes. Waits for a GPU."""
        return int(self._sums.counts.sum())

    @torch.inference_mode(False)
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
            check_label_range(labels, self.num_classes)
        else:
            features, labels = self._defer_checks(features, labels)
        if len(features):
            self._sums.update(features, labels)

    def merge(self, other: "StatisticsAccumulator | ClassStatistics") -> ClassStatistics:
        """The statistics so far merged with others; see `ClassStatistics.merge`."""
        if isinstance(other, StatisticsAccumulator):
            other = other.result()
        return self.result().merge(other)

    @torch.no_grad()
    def result(self) -> ClassStatistics:
        """The statistics of all batches so far; more batches may follow."""
        self._raise_deferred()
        # In double even where the sums are single: means of 30 in float32 would not hold the gaps
        # of 1e-6 between parts that `merge` needs.
        means, spread = self._sums.means(), self._sums.spread()
        if not bool(torch.isfinite(spread).all()):
            single = self._sums.working_dtype == torch.float32
            raise ValueError(
                "features must be small enough for their squares, got a sum that overflows; "
                "scale them down" + (" or pass them in float64" if single else "")
            )
        self._check_squares(means, spread)
        return ClassStatistics(self._sums.counts.clone(), means, spread, self._sums.scatter())

    def _check_squares(self, means: Tensor, spread: Tensor) -> None:
        """Raise where squares of tiny residuals vanish, which would pass for a collapse."""
        kind, wide = torch.finfo(self._sums.working_dtype), torch.finfo(torch.float64)
        # A mean square below this is of numbers that have lost digits, or all of them. It is so
        # for collapsed features too; their size tells.
        least = 16 * self.dim * kind.tiny
        if float(spread.sum()) >= least * self.num_samples:
            return
        seen = means[self._sums.counts > 0]
        size = float(seen.abs().max()) if len(seen) else 0.0
        vanish = size * kind.eps < least**0.5 and self._sums.differ
        if vanish or 0 < size < wide.tiny**0.5:
            single = kind.bits < wide.bits and size > wide.tiny**0.25
            raise ValueError(
                f"features must be large enough for their squares, got class means of at most "
                f"{size:.3g}; scale them up" + (" or pass them in float64" if single else "")
            )

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
