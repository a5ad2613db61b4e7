"""What was measured and everything that was assumed: its table, its JSON, its conventions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from neuralcollapse.depth import DepthProfile
from neuralcollapse.files import read_json, write_json
from neuralcollapse.geometry import Geometry
from neuralcollapse.jackknife import Interval, jackknife_intervals, sizes_to_leave_out
from neuralcollapse.metrics.evaluation import evaluate, pairs_drawn
from neuralcollapse.metrics.noise import null_values, rounding_note
from neuralcollapse.metrics.table import METRICS, regime_of
from neuralcollapse.metrics.variability import Weighting
from neuralcollapse.metrics.whitened import between_condition
from neuralcollapse.scalars import check_choice, counted
from neuralcollapse.second_look import Look
from neuralcollapse.statistics import ClassStatistics, GlobalMean

_REGIMES = {
    "simplex": "K <= d+1, a simplex fits: the nc2 rows are primary, the gnc2 rows secondary",
    "general": "K > d+1, no simplex fits: the gnc2 rows are primary, the nc2 rows secondary",
}


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
        intervals: 95 % intervals by key, "accuracy" among them, of the metrics that have one; empty
            without the jackknife.
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
    intervals: dict[str, Interval] = field(default_factory=dict, repr=False)

    def __getitem__(self, key: str) -> float:
        """The value of one metric."""
        if key not in self.metrics:
            raise KeyError(f"key must be one of {', '.join(self.metrics)}, got {key!r}")
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
        more: dict[str, Any] = {} if self.depth is None else {"depth": self.depth.to_dict()}
        if self.intervals:
            more["intervals"] = {key: asdict(one) for key, one in self.intervals.items()}
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
        } | more

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
                intervals={
                    str(key): _interval(one) for key, one in (values.get("intervals") or {}).items()
                },
            )
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
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
        spans = f" {'95 %':>11}" if self.intervals else ""
        lines = [f"{'metric':<22} {'value':>12}{spans}  {'collapse':>8} {'context':>9}  meaning"]
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
            shown += self._reach(metric.key)
            lines.append(f"{metric.key:<22} {shown}  {collapse} {beside}  {metric.summary}")
        if self.accuracy is not None:
            shown = f"{self.accuracy:>12.6g}{self._reach('accuracy')}".rstrip()
            lines.append(f"{'accuracy':<22} {shown}")
        if self.intervals:
            lines.append("95 %: the interval reaches so far to either side of the value")
            without = [
                key
                for key in self.metrics
                if key not in self.intervals and key not in self.undefined
            ]
            if without:
                lines.append(
                    f"no interval: {', '.join(without)}: undefined, or too long to find, without "
                    "one of the parts"
                )
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

    def _reach(self, key: str) -> str:
        """What stands behind a value in the table: half the width of its interval."""
        if not self.intervals:
            return ""
        one = self.intervals.get(key)
        return f" {'' if one is None else f'+-{(one.high - one.low) / 2:.3g}':>11}"


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
    means_given: bool = False,
    parts: Sequence[ClassStatistics] = (),
    outsiders: Tensor | None = None,
) -> Measurement:
    """The measurement of statistics and a second look, with its conventions.

    With the statistics of parts also with intervals, by leaving out one at a time.
    """
    values, undefined = evaluate(
        statistics, weight, global_mean=global_mean, weighting=weighting, known=look.known
    )
    classifier = "none" if weight is None else "weight and bias" if bias is not None else "weight"
    conventions = {
        "split": split or "as given",
        "layer": f"input of {layer or 'the model'}" if layer is not None else "features as given",
        "features": "scaled to unit length" if normalize else "raw",
        "classifier": classifier,
        **covariance_conventions(global_mean, weighting),
        "nc1": "divided by the number of classes seen"
        + ("" if statistics.scatter is not None else ", from the features in a second look"),
        "standard_deviation": "population",
        "nc4": "Euclidean distance to class means "
        + ("that were given" if means_given else "of the same data"),
    }
    drawn = pairs_drawn(int(statistics.seen.sum()))
    if drawn is not None:
        conventions["pairs of classes"] = f"{drawn} drawn, the same every time"
    notes = _notes(statistics, global_mean, dtype)
    intervals: dict[str, Interval] = {}
    if parts:
        number = sum(size > 0 for size in sizes_to_leave_out(parts, statistics))
        if number < 2:
            raise ValueError(
                "jackknife must have two parts to leave out, got "
                f"{counted(number, 'part', 'parts')} with samples of classes that have more than "
                "one; measure without it, or more samples"
            )
        conventions["intervals"] = f"95 %, by leaving out one of {number} parts of the data"
        notes += _single_samples(statistics)
        intervals = jackknife_intervals(
            parts,
            weight,
            known=look.known_without,
            global_mean=global_mean,
            weighting=weighting,
            outsiders=outsiders,
        )
    return Measurement(
        metrics=values,
        undefined=undefined,
        conventions=conventions,
        counts=tuple(statistics.counts.tolist()),
        dim=statistics.dim,
        accuracy=look.accuracy,
        notes=notes,
        statistics=statistics,
        weight=weight,
        bias=bias,
        intervals=intervals,
    )


def covariance_conventions(global_mean: GlobalMean, weighting: Weighting | None) -> dict[str, str]:
    """What counts how much in the global mean and in the covariances."""
    means = {"class": "mean of the class means", "sample": "mean of all samples"}
    return {
        "global_mean": means[global_mean],
        "within_covariance": "mean over the classes seen of their own covariances"
        if weighting == "balanced"
        else "divided by the number of samples",
        "between_covariance": "classes weighted by their share of the samples"
        if weighting == "samples"
        else "divided by the number of classes seen",
    }


def _interval(values: Mapping[str, Any]) -> Interval:
    numbers = [float(values[name]) for name in ("value", "standard_error", "low", "high")]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("an interval has an end that is not finite")
    return Interval(*numbers)


def _single_samples(statistics: ClassStatistics) -> tuple[str, ...]:
    """A note on classes whose error the jackknife cannot see."""
    single = int((statistics.counts == 1).sum())
    if not single:
        return ()
    classes = counted(single, "class", "classes")
    return (f"intervals lack the error of {classes} with a single sample, which is never left out",)


def _notes(
    statistics: ClassStatistics, global_mean: GlobalMean, dtype: torch.dtype | None
) -> tuple[str, ...]:
    """What a reader of NC1 should know: the matrix it inverts, and the format of the features."""
    notes = []
    rank, condition = between_condition(statistics, global_mean=global_mean)
    if not math.isnan(condition):
        size = f"condition {condition:.3g}"
        if math.isinf(condition):
            size = "what is in the other directions is rounding"
        notes.append(f"between-class covariance: rank {rank}, {size}")
    single = int((statistics.counts == 1).sum())
    if single and not math.isnan(condition):
        notes.append(
            f"{counted(single, 'class', 'classes')} of one sample: no variability there, from the "
            "start, tells nothing of collapse"
        )
    rounded = rounding_note(statistics, dtype)
    if rounded is not None:
        notes.append(rounded)
    return tuple(notes)


def check_weighting(weighting: Weighting | None) -> None:
    """Raise unless this is a weighting of the covariances, or none."""
    if weighting is not None:
        check_choice("weighting", weighting, ("balanced", "samples"))


def given_means(
    means: Measurement | ClassStatistics, num_classes: int, dim: int, normalize: bool
) -> ClassStatistics:
    """The statistics whose class means decide; an error where they cannot."""
    statistics = means
    if isinstance(means, Measurement):
        statistics = means.statistics
        if statistics is None:
            raise ValueError(
                "means must hold statistics, which a measurement read back lacks; pass the "
                "measurement as measured, or ClassStatistics"
            )
        if (means.conventions.get("features", "raw") != "raw") != normalize:
            raise ValueError(
                f"means must be of features measured alike, got those of "
                f"{means.conventions['features']} features for normalize={normalize}"
            )
    if not isinstance(statistics, ClassStatistics):
        raise TypeError(
            f"means must be a Measurement or ClassStatistics, got {type(means).__name__}"
        )
    if tuple(statistics.means.shape) != (num_classes, dim):
        raise ValueError(
            f"means must be of {num_classes} classes in {dim} dimensions, got "
            f"{tuple(statistics.means.shape)}"
        )
    if not bool(statistics.seen.any()):
        raise ValueError("means must be of at least one sample, got none")
    return statistics
