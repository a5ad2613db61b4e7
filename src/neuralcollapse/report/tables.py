"""The numbers of a report in rows and columns: final numbers, options, class counts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from neuralcollapse.metrics import METRICS
from neuralcollapse.report.history import (
    SPLITS,
    History,
    Split,
    accuracy,
    loss,
    metric,
    recorded,
    why_undefined,
)
from neuralcollapse.report.wording import arrow, metric_value, share, shown, title

# Counts are called imbalanced when the largest class has more than this many times the smallest.
_IMBALANCED = 1.5


@dataclass(frozen=True)
class Group:
    """The columns of one measured epoch of one run."""

    run: int
    label: str
    caption: str
    row: dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A number as text, which footnote tells why there is none, and what stands below it."""

    text: str
    note: int | None = None
    asides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """A row of the table of numbers.

    Attributes:
        title: what it is.
        at_collapse: its value at collapse, as text.
        arrow: which way leads there.
        cells: one per group and split, or one per group if `spanning`.
        spanning: whether a cell stands for the whole group.
        key: of the metric, if it is one.
        secondary: whether it is made for another number of classes.
    """

    title: str
    at_collapse: str
    arrow: str
    cells: list[Cell]
    spanning: bool = False
    key: str | None = None
    secondary: bool = False


@dataclass(frozen=True)
class Numbers:
    """A table of numbers with its footnotes."""

    groups: list[Group]
    splits: list[Split]
    lines: list[Line]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Option:
    """An option of the runs: its value in each, as text, and whether they differ."""

    name: str
    values: list[str]
    differs: bool


def final_group(place: int, history: History) -> Group:
    """The last measured epoch of a run."""
    return Group(place, history.label, f"final, epoch {history.final['epoch']}", history.final)


def selected_group(place: int, history: History) -> Group | None:
    """The epoch of the best validation accuracy, if it is another than the last."""
    row = history.selected
    if row is None or row["epoch"] == history.final["epoch"]:
        return None
    return Group(place, history.label, f"selected, epoch {row['epoch']}", row)


def numbers(histories: Sequence[History], groups: list[Group]) -> Numbers:
    """Accuracies, losses and all metrics of some epochs of some runs."""
    splits: list[Split] = [s for s in SPLITS if any(group.row.get(s) for group in groups)]
    table = Numbers(groups, splits, [])
    table.lines.append(
        Line(
            "Accuracy",
            "",
            "↑",
            [_plain(share(accuracy(g.row, split))) for g in groups for split in splits],
        )
    )
    spanning = (
        ("Validation accuracy", "↑", [share(accuracy(g.row, "validation")) for g in groups]),
        ("Training loss", "↓", [shown(loss(g.row, "train")) for g in groups]),
        ("Validation loss", "↓", [shown(loss(g.row, "validation")) for g in groups]),
    )
    for name, direction, texts in spanning:
        if any(text != "—" for text in texts):
            table.lines.append(Line(name, "", direction, [_plain(t) for t in texts], True))
    for row in METRICS:
        if recorded(histories, row):
            table.lines.append(_metric_line(histories, table, row.key))
    return table


def options(histories: Sequence[History]) -> list[Option]:
    """The configuration of the runs; options that differ come first."""
    return compared([history.run.config for history in histories])


def settings(histories: Sequence[History]) -> list[Option]:
    """What else was recorded at the start of the runs: versions, device, ..."""
    flat = []
    for history in histories:
        info = {k: v for k, v in history.run.info.items() if k not in ("classes", "counts")}
        versions = info.pop("versions", None)
        if isinstance(versions, dict):
            info |= {f"version of {name}": version for name, version in versions.items()}
        flat.append(info)
    return compared(flat)


def class_counts(history: History) -> dict[str, list[int]]:
    """Samples per class by split, for the splits that the record counts for every class."""
    counts = history.run.info.get("counts")
    counts = dict(counts) if isinstance(counts, dict) else {}
    for split in SPLITS:
        counts.setdefault(split, (history.final.get(split) or {}).get("counts"))
    return {
        split: [int(count) for count in values]
        for split, values in counts.items()
        if isinstance(values, list)
        and len(values) == history.num_classes
        and all(isinstance(count, int) for count in values)
    }


def imbalanced(counts: dict[str, list[int]]) -> bool:
    """Whether some class of the training set is far larger than another."""
    train = counts.get("train") or [0]
    return max(train) > _IMBALANCED * min(train)


def counts_in_words(counts: dict[str, list[int]]) -> str:
    """Samples per split, with the smallest and the largest class."""
    said = []
    for split, values in counts.items():
        low, high = min(values, default=0), max(values, default=0)
        each = f"{low:,} each" if low == high else f"{low:,} to {high:,} each"
        said.append(f"{split} {sum(values):,} samples in {len(values)} classes ({each})")
    return "; ".join(said)


def _metric_line(histories: Sequence[History], table: Numbers, key: str) -> Line:
    cells = []
    for group in table.groups:
        for split in table.splits:
            value = metric(group.row, split, key)
            reason = None if value is not None else why_undefined(group.row, split, key)
            cells.append(
                Cell(
                    metric_value(key, value),
                    None if reason is None else footnote(table.notes, reason),
                )
            )
    shown_runs = [histories[place] for place in dict.fromkeys(g.run for g in table.groups)]
    targets = dict.fromkeys(
        metric_value(key, history.target.values.get(key)) for history in shown_runs
    )
    arrows = dict.fromkeys(arrow(history, key) for history in shown_runs)
    direction = next(iter(arrows)) if len(arrows) == 1 else "→"
    return Line(title(key), " or ".join(targets), direction, cells, key=key)


def footnote(notes: list[str], reason: str) -> int:
    """The number of the footnote with this reason, from 1; a new one where there is none."""
    if reason not in notes:
        notes.append(reason)
    return notes.index(reason) + 1


def _plain(text: str) -> Cell:
    return Cell(text)


def compared(values: Sequence[dict[str, Any]]) -> list[Option]:
    """Values by name side by side; those that differ come first."""
    names = dict.fromkeys(name for own in values for name in own)
    rows = []
    for name in names:
        texts = [_text(own[name]) if name in own else "—" for own in values]
        rows.append(Option(str(name), texts, len(set(texts)) > 1))
    return sorted(rows, key=lambda row: not row.differs)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
