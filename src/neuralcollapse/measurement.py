"""Measure neural collapse: of a model on a loader, or of features and labels."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from neuralcollapse.batches import labelled_samples, run_model, split_batch
from neuralcollapse.checks import check_finite, check_labels, check_matrix, check_vector
from neuralcollapse.files import read_json, write_json
from neuralcollapse.geometry import Geometry
from neuralcollapse.layers import DepthProfile, LayerTap, Pooling, check_layers
from neuralcollapse.metrics.noise import null_values, rounding_share
from neuralcollapse.metrics.table import METRICS, evaluate, regime_of
from neuralcollapse.metrics.variability import Weighting
from neuralcollapse.metrics.whitened import between_condition
from neuralcollapse.scalars import check_choice, check_integer, counted
from neuralcollapse.second_look import Look, second_look
from neuralcollapse.sphere import directions
from neuralcollapse.statistics import ClassStatistics, GlobalMean, StatisticsAccumulator
from neuralcollapse.tap import FeatureTap, evaluating

_REGIMES = {
    "simplex": "K <= d+1, a simplex fits: the nc2 rows are primary, the gnc2 rows secondary",
    "general": "K > d+1, no simplex fits: the gnc2 rows are primary, the nc2 rows secondary",
}
# What the pass is called that sums up statistics.
_FIRST = "measuring"
# Features up to this many bytes are kept for a second look; beyond it the data is read again.
_KEPT_BYTES = 1 << 30
# A (d, d) scatter up to this many bytes is accumulated unless told otherwise: d = 5792.
_SCATTER_BYTES = 1 << 28
# From this share of the within-class variance on, rounding of the features is told.
_MOST_ROUNDING = 0.05
# A larger label is a mistake rather than a class, unless num_classes says otherwise.
_MOST_CLASSES = 1 << 24


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was measured, and everything that was assumed.

    Attributes:
        metrics: value by key, in the order of the table; nan where undefined.
        undefined: reason by key, for each metric that is nan.
        conventions: what the numbers depend on: split, layer, means, normalisations, bias.
        counts: samples per class.
        dim: d, the width of the features, or None where an old record does not say.
        accuracy: share of samples that the classifier gets right, or None without a classifier.
        notes: what else to know of the numbers: the condition of the between-class covariance, and
            whether the number format of the features made part of the collapse.
        statistics: of the features; not saved.
        weight: (K, d), the classifier that was measured, or None; not saved.
        bias: (K,), its bias, or None; not saved.
        depth: the layers in front of the classifier, where they were measured, or None.
    """

    metrics: dict[str, float]
    undefined: dict[str, str]
    conventions: dict[str, str]
    counts: tuple[int, ...]
    dim: int | None = None
    accuracy: float | None = None
    notes: tuple[str, ...] = ()
    statistics: ClassStatistics | None = field(default=None, repr=False)
    weight: Tensor | None = field(default=None, repr=False)
    bias: Tensor | None = field(default=None, repr=False)
    depth: DepthProfile | None = field(default=None, repr=False)

    def __getitem__(self, key: str) -> float:
        """The value of one metric."""
        return self.metrics[key]

    @property
    def absent(self) -> tuple[int, ...]:
        """Classes without a sample; they are left out of every metric."""
        return tuple(k for k, count in enumerate(self.counts) if count == 0)

    @property
    def regime(self) -> Literal["simplex", "general"] | None:
        """Which rows of the table are primary for the classes seen: those of their `regime`."""
        return None if self.dim is None else regime_of(self._num_seen, self.dim)

    @property
    def _num_seen(self) -> int:
        return len(self.counts) - len(self.absent)

    @property
    def null(self) -> dict[str, float]:
        """Values that pure noise would give for these class sizes, by key, where they are known."""
        if self.dim is None or self.conventions.get("features", "raw") != "raw":
            return {}
        found = null_values(torch.tensor(self.counts), self.dim)
        return {key: value for key, value in found.items() if key in self.metrics}

    @property
    def floor(self) -> dict[str, float]:
        """Values below which so many classes in so few dimensions cannot fall, by key."""
        if self.dim is None:
            return {}
        shape = self._num_seen, self.dim
        floors = {row.key: row.floor(*shape) for row in METRICS if row.floor is not None}
        return {key: value for key, value in floors.items() if value > 0 and key in self.metrics}

    def geometry(self, global_mean: GlobalMean = "class") -> Geometry:
        """Gram blocks of the centred means and classifier rows of the classes seen."""
        if self.statistics is None:
            raise ValueError("geometry needs the statistics, which a measurement read back lacks")
        seen = self.statistics.seen
        weight = None if self.weight is None else self.weight[seen]
        return Geometry.from_vectors(self.statistics.centred_means(global_mean), weight)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: an undefined metric is None and has a reason in `undefined`."""
        metrics = {k: v if math.isfinite(v) else None for k, v in self.metrics.items()}
        return {
            "metrics": metrics,
            "undefined": dict(self.undefined),
            "conventions": dict(self.conventions),
            "counts": list(self.counts),
            "absent_classes": list(self.absent),
            "num_samples": sum(self.counts),
            "dim": self.dim,
            "regime": self.regime,
            "accuracy": self.accuracy,
            "null": self.null,
            "floor": self.floor,
            "notes": list(self.notes),
        } | ({} if self.depth is None else {"depth": self.depth.to_dict()})

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Measurement":
        """The inverse of `to_dict`."""
        try:
            metrics = {k: math.nan if v is None else float(v) for k, v in values["metrics"].items()}
            return Measurement(
                metrics=metrics,
                undefined=dict(values["undefined"]),
                conventions=dict(values["conventions"]),
                counts=tuple(int(count) for count in values["counts"]),
                dim=None if values.get("dim") is None else int(values["dim"]),
                accuracy=None if values["accuracy"] is None else float(values["accuracy"]),
                notes=tuple(str(note) for note in values.get("notes", ())),
                depth=None
                if values.get("depth") is None
                else DepthProfile.from_dict(values["depth"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"these values are not a measurement: {error!r}") from None

    def save(self, path: str | Path) -> None:
        """Write `to_dict` as JSON, atomically."""
        write_json(path, self.to_dict())

    @staticmethod
    def load(path: str | Path) -> "Measurement":
        """Read what `save` wrote."""
        values = read_json(path)
        if not isinstance(values, dict):
            raise ValueError(f"{path} does not hold a measurement")
        return Measurement.from_dict(values)

    def __str__(self) -> str:
        """A table with every convention below it."""
        context = {key: f"~{value:.3g}" for key, value in self.null.items()}
        context |= {key: f">={value:.3g}" for key, value in self.floor.items()}
        lines = [f"{'metric':<22} {'value':>12}  {'collapse':>8} {'context':>9}  meaning"]
        for metric in METRICS:
            if "outsiders" in metric.needs and metric.key not in self.metrics:
                continue
            value, target = self.metrics.get(metric.key, math.nan), metric.at_collapse
            if self.dim is not None:
                target = metric.collapse_value(self._num_seen, self.dim)
            shown = f"{value:>12.6g}" if math.isfinite(value) else f"{'-':>12}"
            known = isinstance(target, float | int) and math.isfinite(target)
            collapse = f"{target:>8.4g}" if known else f"{'-':>8}"
            beside = f"{context.get(metric.key, ''):>9}"
            lines.append(f"{metric.key:<22} {shown}  {collapse} {beside}  {metric.summary}")
        if self.accuracy is not None:
            lines.append(f"{'accuracy':<22} {self.accuracy:>12.6g}")
        if context:
            lines.append("context: ~ what pure noise gives, >= what K classes cannot fall below")
        reasons: dict[str, list[str]] = {}
        for key, reason in self.undefined.items():
            reasons.setdefault(reason, []).append(key)
        lines += [f"undefined: {', '.join(keys)}: {reason}" for reason, keys in reasons.items()]
        if self.dim is not None:
            lines.append(f"regime: {_REGIMES[regime_of(self._num_seen, self.dim)]}")
        classes = counted(len(self.counts), "class", "classes")
        lines.append(f"samples: {sum(self.counts)} in {classes}")
        if self.absent:
            word = "class" if len(self.absent) == 1 else "classes"
            lines.append(f"left out, no samples: {word} {', '.join(map(str, self.absent))}")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"{name}: {value}" for name, value in self.conventions.items()]
        lines += [] if self.depth is None else ["", str(self.depth)]
        return "\n".join(lines)


def measure(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layer: str | None = None,
    num_classes: int | None = None,
    device: torch.device | str | None = None,
    normalize: bool = False,
    global_mean: GlobalMean = "class",
    weighting: Weighting | None = None,
    outsiders: Iterable[Any] | None = None,
    layers: Sequence[str] | Literal["all"] | None = None,
    pooling: Pooling = "mean",
    split: str | None = None,
    ignore_index: int | None = -100,
    scatter: bool | None = None,
    distributed: bool = False,
    progress: bool = True,
) -> Measurement:
    """Measure how collapsed a model is on the batches of a loader.

    One pass in evaluation mode without gradients. Features up to 1 GiB are kept for
    `nc4_disagreement` and `hug_intra`; more are computed a second time. The model, its mode and
    its device are afterwards as they were.

    Args:
        model: any module with a linear classifier.
        loader: batches (inputs, labels, ...), or dictionaries or dataclasses with the labels under
            one of labels, label, targets, target, y; the model is called with the rest, by name
            where `forward` has the names. Labels are integers (N,) or one-hot (N, K); where the
            classifier receives tokens (N, T, d), integers (N, T), and each token is a sample.
        layer: dotted name of the classifier; by default the last linear layer that is
            `num_classes` wide.
        num_classes: K; by default the width of the last linear layer.
        device: where to run; by default where the model is.
        normalize: scale every feature to unit length first. Only accuracy and the classifier's
            side of `nc4_disagreement` look at the raw features, as the network does.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        weighting: of the covariances within and between classes: "balanced" counts every class
            alike, "samples" every sample, and None has the published mixture; see `nc1`.
        outsiders: batches, as of the loader, of samples that belong to none of the classes, for
            `nc5_orthogonality`; their labels are not looked at. Every process takes all of them.
        layers: also measure these layers, by dotted name, or "all", in the same pass; the result
            is in `depth`. Statistics are summed up by layer and features are not kept.
        pooling: how layers that give (N, C, H, W) or (N, T, d) become one row a sample: the "mean"
            over positions, or "flatten"; layers wider than 4096 have no `nc1` and `vci`.
        split: what the data is, for the record, e.g. "train".
        ignore_index: samples with this label are left out, as torch's cross entropy does; None
            for none.
        scatter: accumulate the (d, d) scatter. Without it `nc1` takes a second look at the features
            in the K-1 directions of the class means, without any (d, d) array. By default up to
            a width of 5792.
        distributed: the loader holds one process's part of the data; the result is that of all
            parts together, the same in every process of torch.distributed.
        progress: show a progress bar on standard error where that is a terminal.

    Raises:
        TypeError: if the loader yields something else, or labels are not integers or one-hot.
        ValueError: if no classifier is found, the loader is empty, a label is out of range or a
            share of several classes, or a feature is not finite.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> batches = [(torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))]
        >>> measurement = measure(model, batches, num_classes=3)
        >>> measurement["nc1"] > 0
        True
    """
    check_choice("global_mean", global_mean, ("class", "sample"))
    _check_weighting(weighting)
    if ignore_index is not None:
        check_integer("ignore_index", ignore_index, -(1 << 63))
    if layers is not None:
        check_layers(layers)
    with FeatureTap(model, layer, num_classes) as tap, evaluating(model, device) as device:
        layer_tap = None
        if layers is not None:
            layer_tap = LayerTap(
                model, layers, tap.name, len(tap.weight), pooling=pooling, device=_home(tap)
            )

        def batches(task: str) -> Iterator[tuple[Tensor, Tensor]]:
            for batch in _with_progress(loader, task, progress):
                inputs, labels = split_batch(batch)
                run_model(model, inputs, device)
                if layer_tap is not None and task == _FIRST:
                    layer_tap.update(labels, ignore_index)
                features = tap.take(tokens=labels.dim() > 1)
                features, labels = labelled_samples(features, labels, len(tap.weight), ignore_index)
                yield features, labels.to(device)

        # Hooks on the first pass only: a second one is for the features alone.
        with layer_tap or nullcontext():
            statistics, kept, same_again, dtype = _accumulate(
                batches, tap, loader, normalize, scatter
            )
        if distributed:
            statistics = statistics.merge_processes()
        # Only now: the part of one process may be empty, and the others wait for it.
        if statistics.num_samples == 0:
            raise ValueError("loader must yield at least one sample, got none")
        # Copies: the measurement must not follow the parameters when training goes on.
        weight, bias = tap.weight.clone(), None if tap.bias is None else tap.bias.clone()
        looks = kept or same_again
        outside = None
        if outsiders is not None:
            outside = _mean_outside(model, outsiders, tap, device, normalize, progress)
        look = second_look(
            statistics,
            weight,
            bias,
            looks,
            normalize=normalize,
            global_mean=global_mean,
            weighting=weighting,
            outsiders=outside,
            distributed=distributed,
        )
        measured = conclude(
            statistics,
            weight,
            bias,
            look,
            normalize=normalize,
            global_mean=global_mean,
            weighting=weighting,
            split=split,
            layer=tap.name,
            dtype=dtype,
        )
        if layer_tap is None:
            return measured
        return replace(measured, depth=layer_tap.profile(distributed=distributed))


def measure_features(
    features: Any,
    labels: Any,
    weight: Any = None,
    bias: Any = None,
    num_classes: int | None = None,
    *,
    normalize: bool = False,
    global_mean: GlobalMean = "class",
    weighting: Weighting | None = None,
    outsiders: Any = None,
    split: str | None = None,
    scatter: bool | None = None,
) -> Measurement:
    """Measure how collapsed features are; torch tensors or numpy arrays.

    Args:
        features: (N, d), floating point.
        labels: (N,), integers in [0, K).
        weight: (K, d), the classifier, or None.
        bias: (K,), its bias, or None.
        num_classes: K; by default the rows of `weight`, or the largest label plus one.
        normalize: scale every feature to unit length first. Only accuracy and the classifier's
            side of `nc4_disagreement` look at the raw features, as the network does.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        weighting: of the covariances within and between classes: "balanced" counts every class
            alike, "samples" every sample, and None has the published mixture; see `nc1`.
        outsiders: (M, d), features of samples that belong to none of the classes, for
            `nc5_orthogonality`.
        split: what the data is, for the record, e.g. "train".
        scatter: accumulate the (d, d) scatter. Without it `nc1` takes a second look at the features
            in the K-1 directions of the class means, without any (d, d) array. By default up to
            a width of 5792.

    Raises:
        TypeError: if features are not floating point or labels are not integers.
        ValueError: if shapes do not fit, there are no samples, a label is out of range, or a
            value is not finite.

    Example:
        >>> features = [[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0]]
        >>> round(measure_features(torch.tensor(features), torch.tensor([0, 0, 1, 1]))["nc1"], 6)
        0.125
    """
    _check_weighting(weighting)
    features = check_matrix("features", as_tensor("features", features)).detach()
    labels = check_labels(as_tensor("labels", labels), len(features))
    if not len(features):
        raise ValueError("features must hold at least one sample, got none")
    if weight is not None:
        weight = check_matrix(
            "weight",
            as_tensor("weight", weight),
            rows=num_classes,
            columns=features.shape[1],
            why="num_classes and the width of the features",
        ).detach()
        check_finite("weight", weight)
        weight = weight.to(features.device)
    if bias is not None:
        if weight is None:
            raise ValueError("bias must come with a weight, got a bias alone; pass weight too")
        bias = check_vector("bias", as_tensor("bias", bias), len(weight), "one per row of weight")
        check_finite("bias", bias)
        bias = bias.detach().to(features.device)
    if num_classes is None:
        num_classes = len(weight) if weight is not None else max(0, int(labels.max())) + 1
        if weight is None and num_classes > _MOST_CLASSES:
            raise ValueError(
                f"labels must lie below {_MOST_CLASSES} where num_classes is not given, got "
                f"{num_classes - 1}; pass num_classes if that is meant"
            )
    if outsiders is not None:
        outsiders = check_matrix(
            "outsiders",
            as_tensor("outsiders", outsiders),
            columns=features.shape[1],
            why="the width of the features",
        ).detach()
        check_finite("outsiders", outsiders)
        outsiders = directions(outsiders) if normalize else outsiders
    shown = directions(features) if normalize else features
    kept_scatter = wants_scatter(scatter, features.shape[1])
    statistics = ClassStatistics.from_features(shown, labels, num_classes, scatter=kept_scatter)
    kept = [(features, labels)]
    look = second_look(
        statistics,
        weight,
        bias,
        kept,
        normalize=normalize,
        global_mean=global_mean,
        weighting=weighting,
        outsiders=outsiders,
    )
    return conclude(
        statistics,
        weight,
        bias,
        look,
        normalize=normalize,
        global_mean=global_mean,
        weighting=weighting,
        split=split,
        layer=None,
        dtype=features.dtype,
    )


Batches = Callable[[str], Iterable[tuple[Tensor, Tensor]]]


def wants_scatter(scatter: bool | None, dim: int) -> bool:
    """Whether to accumulate the (d, d) scatter where the caller says yes, no, or nothing."""
    return 8 * dim * dim <= _SCATTER_BYTES if scatter is None else scatter


def _home(tap: FeatureTap) -> torch.device | str:
    """Where sums are kept: double precision is not to be had on every accelerator."""
    return "cpu" if tap.weight.device.type == "mps" else tap.weight.device


def _accumulate(
    batches: Batches,
    tap: FeatureTap,
    loader: Iterable[Any],
    normalize: bool,
    scatter: bool | None,
) -> tuple[
    ClassStatistics,
    list[tuple[Tensor, Tensor]],
    Iterable[tuple[Tensor, Tensor]] | None,
    torch.dtype | None,
]:
    """(statistics, the features if few enough to keep, else the same batches again, their type)."""
    num_classes, dim = tap.weight.shape
    accumulator = StatisticsAccumulator(
        num_classes, dim, scatter=wants_scatter(scatter, dim), device=_home(tap)
    )
    kept: list[tuple[Tensor, Tensor]] = []
    kept_bytes, dtype = 0, None
    for features, labels in batches(_FIRST):
        accumulator.update(directions(features) if normalize else features, labels)
        kept_bytes, dtype = kept_bytes + features.nbytes, features.dtype
        if kept_bytes <= _KEPT_BYTES:
            kept.append((features, labels))
        else:
            kept.clear()
    again = None if isinstance(loader, Iterator) else batches("measuring decisions")
    return accumulator.result(), kept, again, dtype


def conclude(
    statistics: ClassStatistics,
    weight: Tensor | None,
    bias: Tensor | None,
    look: Look,
    *,
    normalize: bool,
    global_mean: GlobalMean,
    weighting: Weighting | None = None,
    split: str | None,
    layer: str | None,
    dtype: torch.dtype | None = None,
) -> Measurement:
    """The measurement of statistics and a second look, with its conventions."""
    values, undefined = evaluate(
        statistics, weight, global_mean=global_mean, weighting=weighting, known=look.known
    )
    means = {"class": "mean of the class means", "sample": "mean of all samples"}
    classifier = "none" if weight is None else "weight and bias" if bias is not None else "weight"
    conventions = {
        "split": split or "as given",
        "layer": f"input of {layer or 'the model'}" if layer is not None else "features as given",
        "features": "scaled to unit length" if normalize else "raw",
        "classifier": classifier,
        "global_mean": means[global_mean],
        "within_covariance": "mean over the classes seen of their own covariances"
        if weighting == "balanced"
        else "divided by the number of samples",
        "between_covariance": "classes weighted by their share of the samples"
        if weighting == "samples"
        else "divided by the number of classes seen",
        "nc1": "divided by the number of classes seen"
        + ("" if statistics.scatter is not None else ", from the features in a second look"),
        "standard_deviation": "population",
        "nc4": "Euclidean distance to class means of the same data",
    }
    return Measurement(
        metrics=values,
        undefined=undefined,
        conventions=conventions,
        counts=tuple(statistics.counts.tolist()),
        dim=statistics.dim,
        accuracy=look.accuracy,
        notes=_notes(statistics, global_mean, dtype),
        statistics=statistics,
        weight=weight,
        bias=bias,
    )


def _notes(
    statistics: ClassStatistics, global_mean: GlobalMean, dtype: torch.dtype | None
) -> tuple[str, ...]:
    """What a reader of NC1 should know: the matrix it inverts, and the format of the features."""
    notes = []
    rank, condition = between_condition(statistics, global_mean=global_mean)
    if not math.isnan(condition):
        size = f"condition {condition:.3g}" if math.isfinite(condition) else "condition above 1e12"
        notes.append(f"between-class covariance: rank {rank}, {size}")
    if dtype in (torch.float16, torch.bfloat16):
        share = rounding_share(statistics, dtype)
        if share > _MOST_ROUNDING:
            name = str(dtype).removeprefix("torch.")
            how = "none is left" if math.isinf(share) else f"rounding to {name} makes {share:.0%}"
            notes.append(
                f"of the within-class variance {how}: the number format and not the network makes "
                "such a collapse; measure features of float32"
            )
    return tuple(notes)


def _check_weighting(weighting: Weighting | None) -> None:
    if weighting is not None:
        check_choice("weighting", weighting, ("balanced", "samples"))


def _mean_outside(
    model: nn.Module,
    outsiders: Iterable[Any],
    tap: FeatureTap,
    device: torch.device,
    normalize: bool,
    progress: bool,
) -> Tensor:
    """(1, d), the mean of the features of samples outside of the classes."""
    total, number = torch.zeros(1, tap.weight.shape[1], dtype=torch.float64), 0
    for batch in _with_progress(outsiders, "measuring outsiders", progress):
        inputs, labels = split_batch(batch)
        run_model(model, inputs, device)
        features = tap.take(tokens=labels.dim() > 1).flatten(0, -2)
        check_finite("outsiders", features)
        shown = directions(features) if normalize else features
        total += shown.sum(0, dtype=torch.float64).cpu()
        number += len(features)
    if not number:
        raise ValueError("outsiders must yield at least one sample, got none")
    return total / number


def _with_progress(loader: Iterable[Any], task: str, show: bool) -> Iterable[Any]:
    if not show or not sys.stderr.isatty():
        return loader
    from rich.console import Console
    from rich.progress import track

    try:
        total = len(loader)  # pyright: ignore[reportArgumentType]
    except TypeError:  # a generator, or a loader of a data set that has no length
        total = None
    return track(loader, task, total=total, console=Console(stderr=True), transient=True)


def as_tensor(name: str, value: Any) -> Tensor:
    """A tensor as it is, or made of a numeric array."""
    if isinstance(value, Tensor):
        return value
    try:
        array = np.asarray(value)
        # torch shares neither foreign byte orders nor read-only or reversed memory.
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if not array.flags.writeable or any(stride < 0 for stride in array.strides):
            array = array.copy()
        return torch.as_tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        dtype = getattr(value, "dtype", type(value).__name__)
        reason = str(error).splitlines()[0].partition(". The only")[0]
        raise TypeError(
            f"{name} must be a tensor or a numeric array, got {dtype} ({reason})"
        ) from None
