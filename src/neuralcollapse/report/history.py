"""A run as a report reads it: checked once, then asked for series and single numbers."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from neuralcollapse.metrics.table import Metric
from neuralcollapse.record import Run
from neuralcollapse.report.target import Target, target_of
from neuralcollapse.scalars import counted

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True, eq=False)
class History:
    """A run with at least one measured epoch.

    Attributes:
        run: the folder.
        label: what it is called; unique among the runs of a report.
        rows: the measured epochs, in order.
        summary: how it ended, or None.
    """

    run: Run
    label: str
    rows: tuple[dict[str, Any], ...]
    summary: dict[str, Any] | None

    @property
    def epochs(self) -> list[int]:
        """The measured epochs."""
        return [row["epoch"] for row in self.rows]

    @property
    def final(self) -> dict[str, Any]:
        """The last measured epoch."""
        return self.rows[-1]

    @property
    def selected(self) -> dict[str, Any] | None:
        """The measured epoch of the best validation accuracy, or None if that is not known."""
        best = (self.summary or {}).get("best_epoch")
        if best is not None:
            return next((row for row in self.rows if row["epoch"] == best), None)
        scored = [row for row in self.rows if accuracy(row, "validation") is not None]
        return max(scored, key=lambda row: accuracy(row, "validation") or 0.0, default=None)

    @property
    def num_classes(self) -> int:
        """K, absent classes included."""
        return len(self.final["train"].get("counts") or self.run.info.get("classes") or ())

    @property
    def classes(self) -> list[str]:
        """The names of the classes; their numbers where the record does not name each."""
        names = self.run.info.get("classes")
        if isinstance(names, list) and len(names) == self.num_classes:
            return [str(name) for name in names]
        return [str(number) for number in range(self.num_classes)]

    @cached_property
    def target(self) -> Target:
        """What the classifier is meant to reach."""
        dim = number(self.final["train"].get("dim"))
        counts = self.final["train"].get("counts") or [1] * self.num_classes
        return target_of(self.run, counts, None if dim is None else int(dim))

    @property
    def method(self) -> str:
        """What was trained, in words."""
        return str(self.run.info.get("method") or "method not recorded")

    @property
    def data(self) -> str:
        """The data set."""
        return str(self.run.info.get("data") or self.run.config.get("data") or "data not recorded")

    @property
    def status(self) -> str:
        """How the run ended."""
        last, summary = self.final["epoch"], self.summary
        if summary is None:
            return f"not finished; last measured at epoch {last}"
        reached = summary.get("epochs", last)
        took = number(summary.get("seconds"))
        if summary.get("status") == "finished":
            return f"finished after {counted(reached, 'epoch')}" + (
                f", {duration(took)}" if took else ""
            )
        return f"{summary.get('status', 'ended')} at epoch {reached}"

    def values(self, split: Split, key: str) -> list[float | None]:
        """One metric over the measured epochs; None where undefined or not measured."""
        return [metric(row, split, key) for row in self.rows]


def read_histories(runs: Sequence[Run]) -> list[History]:
    """The runs of a report, in their order.

    Raises:
        ValueError: if there are none, one is given twice, or one has nothing measured.
    """
    if not runs:
        raise ValueError("runs must hold at least one run, got none")
    check_differ("runs", [run.path for run in runs])
    return [
        History(run, label, _checked_rows(run), _checked_summary(run))
        for run, label in zip(runs, path_labels([run.path for run in runs]), strict=True)
    ]


def check_differ(name: str, paths: Sequence[Path]) -> None:
    """Raise where a path is given twice."""
    for path, times in Counter(path.resolve() for path in paths).items():
        if times > 1:
            raise ValueError(f"{name} must differ, got {path} {times} times")


def number(value: Any) -> float | None:
    """A finite number of the record as a float; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def metric(row: dict[str, Any], split: Split, key: str) -> float | None:
    """One metric of a measured epoch."""
    measurement = row.get(split) or {}
    return number(measurement.get("metrics", {}).get(key))


def accuracy(row: dict[str, Any], split: str) -> float | None:
    """The accuracy on "train", "validation" or "test" in a measured epoch."""
    return number((row.get(split) or {}).get("accuracy"))


def loss(row: dict[str, Any], split: str) -> float | None:
    """The mean loss on "train" or "validation" in a measured epoch."""
    value = row.get("loss") if split == "train" else (row.get(split) or {}).get("loss")
    return number(value)


def why_undefined(row: dict[str, Any], split: Split, key: str) -> str:
    """Why a measured epoch has no value of a metric."""
    measurement = row.get(split)
    if measurement is None:
        return "not measured"
    return str(measurement.get("undefined", {}).get(key, "not recorded"))


def undefined_spans(history: History, split: Split, key: str) -> list[tuple[str, str]]:
    """(epochs, reason) for each stretch of measured epochs that lacks a metric.

    A split that was never measured has none: that is no gap.
    """
    if all(row.get(split) is None for row in history.rows):
        return []
    spans: list[tuple[str, list[int]]] = []
    before = None
    for row in history.rows:
        lacking = metric(row, split, key) is None
        reason = why_undefined(row, split, key) if lacking else None
        if reason is not None and reason == before:
            spans[-1][1].append(row["epoch"])
        elif reason is not None:
            spans.append((reason, [row["epoch"]]))
        before = reason
    return [(_span(epochs), reason) for reason, epochs in spans]


def recorded(histories: Sequence[History], row: Metric) -> bool:
    """Whether a metric has a place: one of outsiders only where some were measured."""
    if "outsiders" not in row.needs:
        return True
    splits: tuple[Split, ...] = ("train", "test")
    return any(
        metric(epoch, split, row.key) is not None
        for history in histories
        for epoch in history.rows
        for split in splits
    )


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.3g} min" if minutes < 120 else f"{minutes / 60:.3g} h"


def _span(epochs: list[int]) -> str:
    if len(epochs) == 1:
        return f"epoch {epochs[0]}"
    return f"epochs {epochs[0]} to {epochs[-1]}"


def _checked_rows(run: Run) -> tuple[dict[str, Any], ...]:
    rows = run.rows()
    if not rows:
        raise ValueError(f"{run.path} has no measured epoch yet; report it once it has one")
    fits: dict[str, Callable[[Any], bool]] = {"train": _is_measurement}
    fits["test"] = lambda value: value is None or _is_measurement(value)
    fits["validation"] = lambda value: value is None or isinstance(value, dict)
    for row in rows:
        for split, fit in fits.items():
            if not fit(row.get(split)):
                raise ValueError(
                    f"{run.path / 'measurements.jsonl'}: epoch {row['epoch']} holds no usable "
                    f"{split} measurement"
                )
    return tuple(rows)


def _is_measurement(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(name, {}), dict) for name in ("metrics", "undefined", "conventions")
    )


def _checked_summary(run: Run) -> dict[str, Any] | None:
    summary = run.summary()
    if summary is not None and not isinstance(summary, dict):
        raise ValueError(f"{run.path / 'summary.json'} is not the summary of a run")
    return summary


def path_labels(paths: Sequence[Path]) -> list[str]:
    """The last names of paths, with as many of the folders above as tell equal names apart."""
    parts = [path.resolve().parts for path in paths]
    labels = [path.resolve().name for path in paths]
    depth = 1
    while True:
        repeated = {label for label, times in Counter(labels).items() if times > 1}
        if not repeated or depth > max(map(len, parts)):
            return labels
        depth += 1
        for place, own in enumerate(parts):
            if labels[place] in repeated:
                labels[place] = "/".join(own[-depth:])
