"""What the page of saved measurements holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuralcollapse.jackknife import Interval
from neuralcollapse.measurement import Measurement
from neuralcollapse.metrics import METRICS
from neuralcollapse.metrics.table import Metric
from neuralcollapse.record import Run
from neuralcollapse.report import tables, wording
from neuralcollapse.report.depth import Depth, depth_notes, depth_panels, without_depth
from neuralcollapse.report.figures import run_colour
from neuralcollapse.report.measured import Measured, read_measured
from neuralcollapse.report.measured_figures import (
    class_counts_panel,
    distance_panel,
    ratio_panel,
)
from neuralcollapse.report.page import write_page
from neuralcollapse.report.verdict import measured_verdict
from neuralcollapse.shards import ShardMeasurement

_PRIMARY = {
    "simplex": "nc2 rows, since a simplex fits (K ≤ d+1)",
    "general": "gnc2 rows, since no simplex fits (K > d+1)",
}
# What tells measurements apart anyway.
_SOURCE = ("file", "left out", "trained", "epoch")
# Conventions that say what was measured; where others differ, so do the numbers for equal features.
_OF_DATA = ("split", "layer", "classifier")


@dataclass(frozen=True)
class Numbers:
    """The table of metrics with its footnotes."""

    lines: list[tables.Line]
    notes: list[str] = field(default_factory=list)


def write_measurements(
    measurements: Mapping[str, Measurement | ShardMeasurement] | Sequence[str | Path | Run],
    path: str | Path,
) -> Path:
    """Write a page that shows one saved measurement, or several side by side, and return its path.

    Every metric beside its value at collapse, what noise would give and its interval where these
    are known; how far each is from collapse, and against the first measurement; the layers, where
    they were measured; samples per class, conventions and notes, differences first. One HTML file
    that requests nothing, as of `write_report`; written whole or not at all.

    Args:
        measurements: by label; or files that `Measurement.save` or `neuralcollapse measure --out`
            wrote, and runs, of which the last measured epoch is shown.
        path: of the HTML file; its folder must exist.

    Raises:
        TypeError: if something is neither a measurement nor a path nor a run.
        ValueError: if there are none, one is given twice, a file holds no measurement, or the extra
            `report` is not installed.
        FileNotFoundError: if the folder does not exist.
    """
    return write_page("measurements.html", _content(read_measured(measurements)), path)


def _content(measured: list[Measured]) -> dict[str, Any]:
    """Everything that the template shows."""
    panels = [distance_panel(measured)]
    panels += [panel for panel in [ratio_panel(measured)] if panel is not None]
    depths = [
        Depth(place, one.label, "", one.measurement.depth)
        for place, one in enumerate(measured)
        if one.measurement.depth is not None
    ]
    depth = depth_panels(depths)
    counts = class_counts_panel(measured)
    drawn = [*panels, *depth, *([counts] if counts else [])]
    settings = _settings(measured)
    return {
        "title": _title(measured),
        "lead": _lead(measured, settings),
        "caution": _caution(measured, settings),
        "measured": [_card(place, one) for place, one in enumerate(measured)],
        "panels": panels,
        "depth": depth,
        "depth_notes": depth_notes(depths),
        "without_depth": without_depth([one.label for one in measured], depths),
        "figures": {panel.name: panel.figure for panel in drawn if panel.figure is not None},
        "players": {"stops": [], "runs": []},
        "numbers": _numbers(measured),
        "notes": _notes(measured),
        "settings": settings,
        "groups": _groups(measured),
        "counts": counts,
        "samples": [
            f"{one.label}: {_samples(one)}" if len(measured) > 1 else _samples(one)
            for one in measured
        ],
        "metrics_table": METRICS,
        "regimes": wording.REGIMES,
        "terms": wording.TERMS + (wording.DEPTH_TERMS if depth else ()),
        "name_of": wording.title,
        "shown": wording.shown,
    }


def _title(measured: Sequence[Measured]) -> str:
    labels = [one.label for one in measured]
    if len(labels) <= 3:
        return " and ".join(filter(None, (", ".join(labels[:-1]), labels[-1])))
    return f"{len(labels)} measurements"


def _lead(measured: Sequence[Measured], settings: Sequence[tables.Option]) -> str:
    if len(measured) == 1:
        return f"{_samples(measured[0])}."
    differing = [row.name for row in settings if row.differs and row.name not in _SOURCE]
    labels = [one.label for one in measured]
    text = f"Compares {', '.join(labels[:-1])} and {labels[-1]}."
    return text + (f" They differ in: {', '.join(differing)}." if differing else "")


def _caution(measured: Sequence[Measured], settings: Sequence[tables.Option]) -> str | None:
    """What is said where equal features would have given other numbers."""
    conventions = {_spelled(name) for one in measured for name in one.measurement.conventions}
    conventions -= set(_OF_DATA)
    differing = [row.name for row in settings if row.differs and row.name in conventions]
    shapes = {(one.num_seen, one.measurement.dim) for one in measured}
    said = []
    if differing:
        said.append(
            f"Measured under different conventions ({', '.join(differing)}): equal features would "
            "have given other numbers."
        )
    if len(shapes) > 1:
        said.append(
            "Numbers of classes or widths differ: compare distances from collapse, not values."
        )
    return " ".join(said) or None


def _card(place: int, one: Measured) -> dict[str, Any]:
    conventions = one.measurement.conventions
    words = [one.source.get("trained"), one.source.get("data"), conventions.get("split")]
    words += [f"epoch {one.source['epoch']}"] if "epoch" in one.source else []
    words += [conventions.get("layer")]
    return {
        "label": one.label,
        "colour": run_colour(place),
        "subtitle": "; ".join(str(word) for word in words if word),
        "samples": _samples(one),
        "verdict": measured_verdict(one),
        "extras": _extras(one),
    }


def _samples(one: Measured) -> str:
    counts = one.measurement.counts
    present = [count for count in counts if count]
    low, high = min(present), max(present)
    each = f"{low:,} each" if low == high else f"{low:,} to {high:,} each"
    classes = f"{len(counts):,} classes" if len(counts) > 1 else "1 class"
    if len(present) < len(counts):
        classes = f"{len(present):,} of {classes}"
    width = "" if one.measurement.dim is None else f", {one.measurement.dim:,} wide"
    return f"{sum(counts):,} samples in {classes} ({each}){width}"


def _extras(one: Measured) -> list[str]:
    """What else a file tells, in sentences."""
    if not one.wrong_labels:
        return []
    told = (f"{name} {wording.shown(value)}" for name, value in one.wrong_labels.items())
    return [f"Wrong labels: {', '.join(told)}."]


def _numbers(measured: Sequence[Measured]) -> Numbers:
    table = Numbers([])
    if any(one.measurement.accuracy is not None for one in measured):
        cells = [
            tables.Cell(
                wording.share(one.measurement.accuracy),
                asides=_ends(one.intervals.get("accuracy"), wording.share),
            )
            for one in measured
        ]
        table.lines.append(tables.Line("Accuracy", "", "↑", cells))
    keys = [row.key for row in METRICS if _has_place(row, measured)]
    known = {row.key: row for row in METRICS}
    others = dict.fromkeys(key for one in measured for key in one.measurement.metrics)
    for key in keys + [key for key in others if key not in known]:
        table.lines.append(_line(table, measured, key, known.get(key)))
    return table


def _has_place(row: Metric, measured: Sequence[Measured]) -> bool:
    """Metrics of outsiders only where some were measured, others where some file knows them."""
    if "outsiders" in row.needs:
        return any(one.value(row.key) is not None for one in measured)
    return any(row.key in one.measurement.metrics for one in measured)


def _line(
    table: Numbers, measured: Sequence[Measured], key: str, row: Metric | None
) -> tables.Line:
    """A metric in every measurement; `row` is None for one that this version does not know."""
    collapsed = [one.target.values.get(key) for one in measured]
    shared = len({wording.metric_value(key, value) for value in collapsed}) == 1
    cells = []
    for one, target in zip(measured, collapsed, strict=True):
        value = one.value(key)
        note = None
        if value is None:
            note = tables.footnote(table.notes, one.why_undefined(key))
        cells.append(
            tables.Cell(
                wording.metric_value(key, value),
                note,
                _asides(one, key, None if shared else target),
            )
        )
    if row is None:
        return tables.Line(key, "", "", cells, secondary=True)
    return tables.Line(
        wording.title(key),
        wording.metric_value(key, collapsed[0]) if shared else "by K, d",
        "↓" if row.better == "lower" else "↑",
        cells,
        key=key,
        secondary=row.regime not in ("any", *(one.target.regime for one in measured)),
    )


def _asides(one: Measured, key: str, target: float | None) -> tuple[str, ...]:
    """What stands below a value, so that it can be judged."""
    noise, floor = one.null.get(key), one.floor.get(key)
    told = [*_ends(one.intervals.get(key), lambda end: wording.metric_value(key, end))]
    if target is not None:
        told.append(f"collapse {wording.metric_value(key, target)}")
    if noise is not None:
        told.append(f"noise {wording.shown(noise)}")
    if floor is not None:
        told.append(f"floor {wording.shown(floor)}")
    return tuple(told)


def _ends(interval: Interval | None, words: Callable[[float], str]) -> tuple[str, ...]:
    return () if interval is None else (f"{words(interval.low)} to {words(interval.high)}",)


def _notes(measured: Sequence[Measured]) -> list[str]:
    """Notes of the measurements: those of some first, then those of all."""
    places: dict[str, list[str]] = {}
    for one in measured:
        for note in dict.fromkeys(one.measurement.notes):
            places.setdefault(note, []).append(one.label)
    if len(measured) == 1:
        return list(places)
    ordered = sorted(places.items(), key=lambda item: len(item[1]) == len(measured))
    return [
        f"{'All' if len(labels) == len(measured) else ', '.join(labels)}: {note}"
        for note, labels in ordered
    ]


def _settings(measured: Sequence[Measured]) -> list[tables.Option]:
    """Where the samples came from and how they were measured; what differs comes first."""
    values = []
    for one in measured:
        measurement = one.measurement
        own = dict(one.source) | {
            "samples": f"{sum(measurement.counts):,}",
            "classes": f"{len(measurement.counts):,}",
        }
        if measurement.absent:
            own["classes without samples"] = _named(measurement.absent)
        if measurement.dim is not None:
            own["width"] = f"{measurement.dim:,}"
            own["primary rows"] = _PRIMARY[one.target.regime]
        values.append(own | {_spelled(k): str(v) for k, v in measurement.conventions.items()})
    return tables.compared(values)


def _named(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")


def _groups(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """The comparisons with test samples, a table each: means over groups of classes."""
    found = []
    for place, one in enumerate(measured):
        groups = [name for name, means in one.groups.items() if any(_known(means))]
        names = dict.fromkeys(name for group in groups for name in one.groups[group])
        rows = [
            (name.replace("_", " "), [wording.shown(one.groups[g].get(name)) for g in groups])
            for name in names
        ]
        if rows:
            found.append(
                {"label": one.label, "colour": run_colour(place), "groups": groups, "rows": rows}
            )
    return found


def _known(means: Mapping[str, float | None]) -> list[bool]:
    return [value is not None for value in means.values()]


def _spelled(name: Any) -> str:
    return str(name).replace("_", " ")
