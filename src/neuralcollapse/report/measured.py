"""Saved measurements as a report reads them: checked once, then asked for single numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from neuralcollapse.files import read_json
from neuralcollapse.jackknife import Interval
from neuralcollapse.measurement import Measurement
from neuralcollapse.record import Run
from neuralcollapse.report.history import SPLITS, check_differ, number, path_labels, read_histories
from neuralcollapse.report.target import Target, target_at_collapse
from neuralcollapse.shards import ShardMeasurement

# More are no counts; tensors hold as many.
_MOST_SAMPLES = 1 << 63


@dataclass(frozen=True, eq=False)
class Measured:
    """A measurement with what the page says of it.

    Attributes:
        label: what it is called; unique in a report.
        measurement: the numbers and what was assumed.
        source: where the samples came from, in words by name.
        groups: means by group of classes of the comparison with test samples, if it was made.
        wrong_labels: where samples with wrong labels lie, if that was asked.
    """

    label: str
    measurement: Measurement
    source: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    wrong_labels: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def intervals(self) -> Mapping[str, Interval]:
        """Those of the measurement, by key, where the jackknife gave them."""
        return self.measurement.intervals

    @cached_property
    def num_seen(self) -> int:
        """The classes that have samples."""
        return len(self.measurement.counts) - len(self.measurement.absent)

    @cached_property
    def null(self) -> dict[str, float]:
        """What pure noise would give, by key: found once, as it looks at every class."""
        return self.measurement.null

    @cached_property
    def floor(self) -> dict[str, float]:
        """Values that cannot be undercut, by key."""
        return self.measurement.floor

    @cached_property
    def target(self) -> Target:
        """What so many classes collapse to."""
        return target_at_collapse(self.num_seen, self.measurement.dim)

    def value(self, key: str) -> float | None:
        """One metric; None where undefined or not measured."""
        return number(self.measurement.metrics.get(key))

    def why_undefined(self, key: str) -> str:
        """Why a metric has no value."""
        if key not in self.measurement.metrics:
            return "not measured"
        return str(self.measurement.undefined.get(key, "not recorded"))

    def distance(self, key: str, value: float | None) -> float | None:
        """How far a value of a metric is from that at collapse; None where either is not known."""
        collapsed = self.target.values.get(key)
        return None if value is None or collapsed is None else abs(value - collapsed)


def read_measured(
    measurements: Mapping[str, Measurement | ShardMeasurement] | Sequence[str | Path | Run],
) -> list[Measured]:
    """The measurements of a report, in their order.

    Of a run the last measured epoch is read: its training samples, then its test samples.

    Raises:
        TypeError: if something is neither a measurement nor a path nor a run.
        ValueError: if there are none, one is given twice, or a file holds no measurement.
    """
    if isinstance(measurements, str | Path):
        raise TypeError(
            f"measurements must be a list, got {measurements!r} alone; use a list of it"
        )
    if not measurements:
        raise ValueError("measurements must hold at least one measurement, got none")
    if isinstance(measurements, Mapping):
        return [_of_object(str(label), one) for label, one in measurements.items()]
    for one in measurements:
        if not isinstance(one, str | Path | Run):
            raise TypeError(
                f"measurements must be paths and runs, or a mapping of labels to measurements, got "
                f"{type(one).__name__} in a list"
            )
    places = [one.path if isinstance(one, Run) else Path(one) for one in measurements]
    check_differ("measurements", places)
    names = [_without_suffix(place, places) for place in places]
    found: list[Measured] = []
    for one, place, label in zip(measurements, places, path_labels(names), strict=True):
        found += _of_run(label, one) if isinstance(one, Run) else [_of_file(label, place)]
    return found


def _of_object(label: str, value: Any) -> Measured:
    if isinstance(value, ShardMeasurement):
        files = [path.name for path in value.files]
        left_out = [Path(path).name for path in value.skipped]
        return Measured(label, value.measurement, _source(files, left_out))
    if isinstance(value, Measurement):
        return Measured(label, value)
    raise TypeError(f"measurements must be measurements, got {type(value).__name__} for {label!r}")


def _of_run(label: str, run: Run) -> list[Measured]:
    (history,) = read_histories([run])
    epoch, source = history.final["epoch"], {"data": history.data, "trained": history.method}
    return [
        Measured(
            f"{label} ({split})",
            _checked(run.path, history.final[split]),
            source={**source, "epoch": str(epoch)},
        )
        for split in SPLITS
        if history.final.get(split) is not None
    ]


def _of_file(label: str, path: Path) -> Measured:
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and not the file of a measurement")
    values: Any = None
    in_run = Run.at(path.parent)
    try:
        values = read_json(path)
    except ValueError:
        if not in_run or not path.exists():  # no line of a record, such as measurements.jsonl
            raise
    if in_run and not (isinstance(values, dict) and "metrics" in values):
        raise ValueError(f"{path} is part of a run and holds no measurement; use {path.parent}")
    measurement = _checked(path, values)
    try:
        return Measured(
            label,
            measurement,
            _source(
                [Path(str(one)).name for one in values.get("files") or []]
                or [Path(str(values[name])).name for name in ("file",) if values.get(name)],
                [Path(str(one)).name for one in values.get("skipped") or []],
            ),
            {
                str(group): {str(name): number(value) for name, value in means.items()}
                for group, means in ((values.get("against") or {}).get("by_group") or {}).items()
            },
            {str(k): number(v) for k, v in (values.get("wrong_labels") or {}).items()},
        )
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is a damaged measurement: {error!r}") from None


def _checked(path: Path, values: Any) -> Measurement:
    makes = "`Measurement.save` and `neuralcollapse measure --out` write one"
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no measurement; {makes}")
    try:
        measurement = Measurement.from_dict(values)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} holds no measurement: {error}; {makes}") from None
    counts, dim = measurement.counts, measurement.dim
    if min(counts, default=-1) < 0 or not 0 < sum(counts) < _MOST_SAMPLES:
        raise ValueError(f"{path} is a damaged measurement: its counts must be those of samples")
    if dim is not None and dim < 1:
        raise ValueError(f"{path} is a damaged measurement: dim must be at least 1, got {dim}")
    return measurement


def _source(files: Sequence[str], left_out: Sequence[str]) -> dict[str, str]:
    """Names of files only: a page is handed on, and folders are this machine's affair."""
    words = {}
    if files:
        few = len(files) <= 3
        words["file"] = ", ".join(files) if few else f"{len(files)}, {files[0]} to {files[-1]}"
    if left_out:
        named = ", ".join(left_out[:3]) + (", ..." if len(left_out) > 3 else "")
        words["left out"] = f"{len(left_out)}: {named}"
    return words


def _without_suffix(path: Path, paths: Sequence[Path]) -> Path:
    short = path.with_suffix("") if path.suffix == ".json" else path
    return path if short in paths else short
