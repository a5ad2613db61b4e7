"""Neural collapse as a metric of torchmetrics: update, compute, reset, merge, across processes."""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuralcollapse.checks import check_finite, check_labels, check_matrix
from neuralcollapse.dealing import (
    MOST_PARTS,
    Dealer,
    PartsAccumulator,
    first_part,
    merged,
    sequence_numbers,
)
from neuralcollapse.integrations.adapter import missing
from neuralcollapse.jackknife import jackknife_intervals, sizes_to_leave_out
from neuralcollapse.measurement import covariance_conventions
from neuralcollapse.metrics.evaluation import evaluate
from neuralcollapse.metrics.noise import rounding_note
from neuralcollapse.metrics.table import METRICS
from neuralcollapse.metrics.variability import Weighting
from neuralcollapse.processes import num_processes, own_rank
from neuralcollapse.scalars import check_boolean, check_choice, check_integer
from neuralcollapse.sphere import directions
from neuralcollapse.statistics import ClassStatistics, GlobalMean, StatisticsAccumulator

try:
    from torchmetrics import Metric
except (ImportError, RuntimeError) as error:
    raise missing(
        "NeuralCollapse", "torchmetrics", error, "neuralcollapse[torchmetrics]"
    ) from error


class NeuralCollapse(Metric):
    """Neural collapse of labelled features, as a `torchmetrics.Metric`.

    As input to `update` it takes features (..., d), what enters the classifier, and labels (...).
    `compute` gives a dictionary of 0-d tensors by the keys of `METRICS`, nan where undefined; or,
    for `metrics="nc1"`, that tensor alone, as `MetricCollection.plot` and Lightning's `self.log`
    want it.

    The state is one vector in which counts, means, spread and scatter lie side by side, reduced by
    an exact merge: results do not depend on how samples are spread over batches, metrics or
    processes, and a process without a sample counts for nothing. It stays in double precision,
    whatever `.half()`, `.to(dtype)` or autocast say. Metrics with equal states share them within a
    `MetricCollection`.

    Call `update`, not the metric itself: `forward` also computes the metrics of the batch alone,
    which say little, and merges the full state at every step. Features are not kept, so
    `nc4_disagreement`, `cdnv_directional` and `hug_intra`, which take a second look at them, are
    left out; `neuralcollapse.measure` has them. What takes statistics alone takes `statistics`.

    Where features came in float16 or bfloat16 and rounding made more than a twentieth of their
    within-class variance, the first `compute` that sees it warns.

    Args:
        num_classes: K.
        dim: d, the width of the features.
        weight: the classifier (K, d): a tensor, or a module whose `weight` is read anew at each
            `compute`; None leaves out the metrics of the classifier. It is no part of the metric's
            parameters, may be assigned later, and is shared with clones.
        scatter: also keep the (d, d) scatter, which `nc1` needs.
        metrics: keys of the metrics to compute, or one key; by default all that can be computed.
        normalize: scale every feature to unit length first.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        weighting: of the covariances within and between classes: "samples" counts every sample,
            "balanced" every class alike, and None has the published mixture; see `nc1`. A scatter
            does not tell classes of unequal size apart: "balanced" leaves `nc1` and `vci` nan
            there. `conventions` says it in words.
        ignore_index: samples with this label are left out. Selecting them waits for a GPU.
        jackknife: also find 95 % intervals, by leaving out one at a time of 20 parts of the data,
            to which samples, or the sequences that tokens are from, are dealt in turns as by
            `neuralcollapse.measure`; their ends are in the dictionary as `nc1_low` and `nc1_high`.
            The state has a row of sums for each part, 20 times the numbers to keep and to gather.
            Dealing waits for a GPU, and holds up to 64 MiB of features back.
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: if a number is out of range or a key is no metric, or one that needs what is
            not there.

    Example:
        >>> metric = NeuralCollapse(num_classes=2, dim=2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 0]))
        >>> metric.update(torch.tensor([[-1.0, 1.0], [-3.0, -1.0]]), torch.tensor([1, 1]))
        >>> round(float(metric.compute()["nc1"]), 6)
        0.125
    """

    is_differentiable: bool | None = False
    higher_is_better: bool | None = None
    full_state_update: bool | None = False

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        weight: Tensor | nn.Module | None = None,
        scatter: bool = True,
        metrics: str | Sequence[str] | None = None,
        normalize: bool = False,
        global_mean: GlobalMean = "class",
        weighting: Weighting | None = None,
        ignore_index: int | None = None,
        jackknife: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_classes = check_integer("num_classes", num_classes, 1)
        self.dim = check_integer("dim", dim, 1)
        self.scatter = check_boolean("scatter", scatter)
        self.normalize = check_boolean("normalize", normalize)
        self.jackknife = check_boolean("jackknife", jackknife)
        self.global_mean: GlobalMean = check_choice("global_mean", global_mean, ("class", "sample"))
        self.weighting: Weighting | None = weighting
        if weighting is not None:
            check_choice("weighting", weighting, ("balanced", "samples"))
        self.ignore_index = (
            None
            if ignore_index is None
            else check_integer("ignore_index", ignore_index, -(1 << 63))
        )
        self._alone = isinstance(metrics, str)
        if self._alone and jackknife:
            raise ValueError(
                f"metrics must be a list with jackknife=True, got {metrics!r} alone, whose result "
                f"has no room for an interval; use [{metrics!r}]"
            )
        keys = (metrics,) if isinstance(metrics, str) else metrics
        self.metrics = None if keys is None else self._checked_keys(keys)
        self._classifier = _Shared(None)
        self.weight = weight
        self._recent: StatisticsAccumulator | PartsAccumulator | None = None
        self._dealer: Dealer | None = None
        width = 2 * num_classes + num_classes * dim + (dim * dim if scatter else 0)
        self.add_state(
            "packed",
            torch.zeros((MOST_PARTS, width) if jackknife else width, dtype=torch.float64),
            functools.partial(_merged, num_classes=num_classes, dim=dim),
        )
        # Spacing at one of the coarsest half precision that came, or zero.
        self.add_state("spacing", torch.zeros((), dtype=torch.float64), "max")
        self._has_warned = False

    @property
    def packed(self) -> Tensor:
        """The state as one vector, or one for each part; see `statistics` for what is in it."""
        # Batches go into an accumulator, which touches only the rows that occur; they enter the
        # vector when somebody looks at it.
        if isinstance(self._recent, PartsAccumulator):
            recent = self._recent.result()
            both = [_pack(a.merge(b)) for a, b in zip(self._unpacked_parts(), recent, strict=True)]
            self._packed, self._recent = torch.stack(both), None
        elif self._recent is not None:
            whole = self._unpacked(self._packed).merge(self._recent.result())
            self._packed, self._recent = _pack(whole), None
        return self._packed

    @packed.setter
    def packed(self, value: Tensor) -> None:
        self._recent = None
        self._packed = value

    @property
    def statistics(self) -> ClassStatistics:
        """What was seen so far, by this process or, inside `sync_context`, by all of them."""
        return merged(self.parts)

    @property
    def parts(self) -> list[ClassStatistics]:
        """The same part by part, for `jackknife_intervals`; one part without the jackknife."""
        return self._unpacked_parts() if self.packed.dim() > 1 else [self._unpacked(self.packed)]

    @property
    def conventions(self) -> dict[str, str]:
        """What the numbers depend on, in the words of `Measurement.conventions`."""
        found = {
            "features": "scaled to unit length" if self.normalize else "raw",
            **covariance_conventions(self.global_mean, self.weighting),
        }
        if self.jackknife:
            found["intervals"] = f"95 %, by leaving out one of {MOST_PARTS} parts of the data"
        return found

    @property
    def weight(self) -> Tensor | nn.Module | None:
        """The classifier, or the module that holds it."""
        return self._classifier.value

    @weight.setter
    def weight(self, value: Tensor | nn.Module | None) -> None:
        if value is not None:
            if isinstance(value, nn.Module) and not hasattr(value, "weight"):
                raise TypeError(
                    f"weight must be a tensor, or a module that has one, got {type(value).__name__}"
                )
            check_matrix(
                "weight",
                value.weight if isinstance(value, nn.Module) else value,
                rows=self.num_classes,
                columns=self.dim,
                why="num_classes and dim of the metric",
            )
        self._classifier = _Shared(value)
        self._computed = None

    def __setattr__(self, name: str, value: Any) -> None:
        # A module or parameter must not become part of the metric.
        if name == "weight":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add features (..., d) with labels (...) in [0, num_classes) or equal to ignore_index.

        Raises:
            TypeError: if features are not floating point or labels are not integers.
            ValueError: if shapes do not fit, a label is out of range, or a feature is not finite;
                on a GPU the last two come with `compute`.
        """
        sequences = None
        if isinstance(features, Tensor) and features.dim() > 2 and isinstance(labels, Tensor):
            if self.jackknife:
                sequences = sequence_numbers(features, labels, self.ignore_index)
            if labels.shape != features.shape[:-1]:
                raise ValueError(
                    "labels must have one entry per feature, got shape "
                    f"{tuple(labels.shape)} for features of shape {tuple(features.shape)}"
                )
            features, labels = features.flatten(0, -2), labels.flatten()
        check_matrix("features", features, columns=self.dim, why="dim of the metric")
        if self.ignore_index is not None:
            labels = check_labels(labels, len(features))
            kept = labels != self.ignore_index
            features, labels = features[kept], labels[kept]
        recent = self._recent or self._accumulator()
        shown = directions(features) if self.normalize else features
        if isinstance(recent, PartsAccumulator):
            if shown.device.type == "cpu":  # elsewhere `compute` finds it
                check_finite("features", shown)
            # A copy: what is dealt is held for a while, and the caller may write over it.
            recent.update(shown.detach().clone(), labels.clone(), sequences)
        else:
            recent.update(shown, labels)
        self._recent = recent
        if features.dtype in _SPACINGS.values():
            self.spacing = self.spacing.clamp(min=torch.finfo(features.dtype).eps)

    def compute(self) -> Any:
        """The metrics of everything seen, by all processes, as 0-d tensors by key, or the one."""
        statistics, weight = self.statistics, self.weight
        if weight is not None and not isinstance(weight, Tensor):
            weight = check_matrix("weight", weight.weight, rows=self.num_classes, columns=self.dim)
        keys = self.metrics
        if keys is None:
            keys = self._checked_keys(
                metric.key for metric in METRICS if not self._reason_against(metric, weight)
            )
        elif weight is None and (lacking := [k for k in keys if "weight" in _ROWS[k].needs]):
            raise ValueError(f"weight must be given for {', '.join(lacking)}; assign it first")
        others = {key: "not asked for" for key in _ROWS if key not in keys}
        values, _ = evaluate(
            statistics,
            weight,
            global_mean=self.global_mean,
            weighting=self.weighting,
            known=others,
        )
        self._warn_of_rounding(statistics)
        if self.jackknife:
            values |= self._ends(keys, weight)
            keys = (*keys, *(f"{key}_{end}" for key in keys for end in ("low", "high")))
        found = {key: statistics.means.new_tensor(values[key]) for key in keys}
        return found[keys[0]] if self._alone else found

    def _ends(self, keys: Sequence[str], weight: Tensor | None) -> dict[str, float]:
        """Ends of the intervals of these metrics, nan where there is none."""
        parts, found = self.parts, {}
        if sum(size > 0 for size in sizes_to_leave_out(parts, merged(parts))) > 1:
            found = jackknife_intervals(
                parts,
                weight,
                metrics=keys,
                global_mean=self.global_mean,
                weighting=self.weighting,
            )
        return {
            f"{key}_{end}": getattr(found.get(key), end, math.nan)
            for key in keys
            for end in ("low", "high")
        }

    def _warn_of_rounding(self, statistics: ClassStatistics) -> None:
        dtype = _SPACINGS.get(float(self.spacing))
        if self._has_warned or dtype is None or not statistics.num_samples:
            return
        note = rounding_note(statistics, dtype)
        if note is not None:
            self._has_warned = True
            if own_rank() == 0:
                warnings.warn(note, UserWarning, stacklevel=4)  # of who computes

    def merge_state(self, incoming_state: Any) -> None:
        """Add what another metric of the same classes and width has seen, or its state.

        Raises:
            ValueError: if it is of other classes, another width, or only one keeps the scatter, or
                parts for the jackknife.
        """
        state = incoming_state.get("packed") if isinstance(incoming_state, dict) else None
        other = incoming_state.packed if isinstance(incoming_state, NeuralCollapse) else state
        if isinstance(other, Tensor) and other.shape != self.packed.shape:
            raise ValueError(
                f"incoming_state must be of num_classes={self.num_classes}, dim={self.dim}, "
                f"scatter={self.scatter} and jackknife={self.jackknife} as this metric, got one of "
                "another size"
            )
        super().merge_state(incoming_state)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw one result of `compute`, a list of them over their steps, or the present one.

        One metric is a curve under its name, several are a panel each, since their scales differ;
        broken lines are values at collapse. With `ax`, as `MetricCollection.plot` passes it, all
        are drawn there.

        Returns:
            (figure, axes) of matplotlib, an array of axes for several metrics; figure is None
            where `ax` is given.

        Raises:
            ModuleNotFoundError: if matplotlib is not installed.
        """
        val = self.compute() if val is None else val
        results = list(val) if isinstance(val, list | tuple) else [val]
        curves = {
            key: [float(result[key] if isinstance(result, dict) else result) for result in results]
            for key in (results[0] if isinstance(results[0], dict) else self.metrics or ())
        }
        if ax is not None or len(curves) < 2:
            figure, axes = self._plot(val, ax)
            if len(curves) == 1:
                axes.set_ylabel(*curves)
            if figure is not None:
                figure.tight_layout()
            return figure, axes
        return _panels(curves, {key: self._at_collapse(key) for key in curves})

    def _at_collapse(self, key: str) -> float:
        value = _ROWS[key].at_collapse
        return value(self.num_classes, self.dim) if callable(value) else value

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        # Moves, but never rounds: counts and squares do not survive half precision.
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), *args, **kwargs)

    def _accumulator(self) -> StatisticsAccumulator | PartsAccumulator:
        device = self._packed.device
        if not self.jackknife:
            return StatisticsAccumulator(
                self.num_classes, self.dim, scatter=self.scatter, device=device
            )
        # It outlives the states: `forward` forgets these at every batch, which must not all begin
        # with the same part.
        if self._dealer is None:
            first = first_part(own_rank(), num_processes())
            self._dealer = Dealer(self.num_classes, first=first)
        return PartsAccumulator(
            self.num_classes, self.dim, scatter=self.scatter, device=device, dealer=self._dealer
        )

    def _unpacked(self, vector: Tensor) -> ClassStatistics:
        return _unpack(vector, self.num_classes, self.dim)

    def _unpacked_parts(self) -> list[ClassStatistics]:
        return [self._unpacked(vector) for vector in self._packed]

    def _checked_keys(self, keys: Any) -> tuple[str, ...]:
        keys = tuple(keys)
        for key in keys:
            if key not in _ROWS:
                raise ValueError(f"metrics must be keys of METRICS, got {key!r}; one of {[*_ROWS]}")
            if "features" in _ROWS[key].needs or "outsiders" in _ROWS[key].needs:
                raise ValueError(
                    f"metrics must not hold {key!r}, which takes a second look at the features; "
                    "use neuralcollapse.measure"
                )
            if "scatter" in _ROWS[key].needs and not self.scatter:
                raise ValueError(f"metrics must not hold {key!r} with scatter=False; it needs it")
        return keys

    def _reason_against(self, metric: Any, weight: Tensor | None) -> bool:
        return (
            "features" in metric.needs
            or "outsiders" in metric.needs
            or ("scatter" in metric.needs and not self.scatter)
            or ("weight" in metric.needs and weight is None)
            or (metric.most_classes is not None and self.num_classes > metric.most_classes)
        )


class _Shared:
    """Holds what copies of its owner have in common."""

    def __init__(self, value: Any):
        self.value = value

    def __deepcopy__(self, memo: Any) -> "_Shared":
        return self


_SPACINGS = {torch.finfo(dtype).eps: dtype for dtype in (torch.float16, torch.bfloat16)}
_ROWS = {metric.key: metric for metric in METRICS}
# Panels beside each other in a plot of several metrics.
_COLUMNS = 4


def _pack(statistics: ClassStatistics) -> Tensor:
    """Counts, spread, means (zero where a class was never seen) and scatter in one vector."""
    means = torch.where(statistics.seen[:, None], statistics.means, 0.0)
    scatter = [] if statistics.scatter is None else [statistics.scatter.flatten()]
    counts = statistics.counts.to(means.dtype)  # exact up to 2^53
    return torch.cat([counts, statistics.spread, means.flatten(), *scatter])


def _unpack(vector: Tensor, num_classes: int, dim: int) -> ClassStatistics:
    """The inverse of `_pack`."""
    sizes = [num_classes, num_classes, num_classes * dim]
    counts, spread, means, scatter = vector.split([*sizes, len(vector) - sum(sizes)])
    means = means.reshape(num_classes, dim)
    means = torch.where((counts > 0)[:, None], means, torch.nan)
    square = scatter.reshape(dim, dim) if len(scatter) else None
    return ClassStatistics(counts.long(), means, spread, square)


def _merged(vectors: Tensor, num_classes: int, dim: int) -> Tensor:
    """The state of all data whose states are the rows, or the slices, with a row for each part."""
    if vectors.dim() > 2:
        return torch.stack([_merged(part, num_classes, dim) for part in vectors.unbind(1)])
    parts = (_unpack(vector, num_classes, dim) for vector in vectors)
    return _pack(functools.reduce(ClassStatistics.merge, parts))


def _panels(curves: dict[str, list[float]], at_collapse: dict[str, float]) -> Any:
    """A figure with a panel for each curve, and its axes as an array."""
    from matplotlib import pyplot  # pyright: ignore[reportMissingImports]

    columns = min(_COLUMNS, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(3 * columns, 2 * rows), sharex=True, squeeze=False
    )
    for panel, (key, values) in zip(axes.flat, curves.items(), strict=False):
        panel.plot(values, marker="o", markersize=3)
        panel.axhline(at_collapse[key], linestyle="--", linewidth=1, color="grey")
        panel.set_title(key, fontsize="medium")
        panel.xaxis.get_major_locator().set_params(integer=True)
    for panel in axes.flat[len(curves) :]:
        panel.set_axis_off()
    figure.tight_layout()
    return figure, axes.flat[: len(curves)]
