"""The mistakes of runs whose classes have a hierarchy, as a page shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.metrics import MISTAKE_METRICS
from neuralcollapse.report.figures import Panel
from neuralcollapse.report.history import History, number
from neuralcollapse.report.mistake_figures import (
    confusion_panel,
    needs_width,
    severity_histogram,
    tree_panel,
)
from neuralcollapse.report.wording import share, shown

# All pairs at a "path" need a matrix (K, K).
_MOST_FOR_PAIRS = 3000
_SHARES = ("accuracy", "lca_accuracy", "calibration_error")


@dataclass(frozen=True)
class MistakeColumn:
    """The numbers of one run: as they are, at best, and by chance; text by key."""

    place: int
    label: str
    caption: str
    cells: dict[str, tuple[str, str, str]]


@dataclass(frozen=True)
class TreeView:
    """Where the mistakes of one run fall; no panels where the record does not say.

    Attributes:
        place: of the run in the page.
        label: of the run.
        panels: the tree and the confusion.
        missing: why there are none.
        wide: whether they stand one below the other.
    """

    place: int
    label: str
    panels: tuple[Panel, ...]
    missing: str = ""
    wide: bool = False


@dataclass(frozen=True)
class MistakeView:
    """What a page says of mistakes.

    Attributes:
        keys: of the table's rows, with what each is.
        columns: one per run with a hierarchy.
        histogram: of the severities of all runs.
        trees: one per run.
    """

    keys: tuple[tuple[str, str], ...]
    columns: tuple[MistakeColumn, ...]
    histogram: Panel
    trees: tuple[TreeView, ...]

    @property
    def panels(self) -> list[Panel]:
        """All figures."""
        return [self.histogram, *(panel for tree in self.trees for panel in tree.panels)]


def mistake_view(histories: Sequence[History]) -> MistakeView | None:
    """The mistakes of the last measured epochs, or None where no run has a hierarchy.

    Raises:
        ValueError: if a hierarchy in a record is damaged.
    """
    known = [
        (place, history, found)
        for place, history in enumerate(histories)
        if (found := recorded_mistakes(history.final))
    ]
    if not known:
        return None
    columns = mistake_columns(histories)
    keys = dict.fromkeys(key for column in columns for key in column.cells)
    severities = [_severities(found) for _, _, found in known]
    return MistakeView(
        tuple((key, _meaning(key)) for key in keys),
        columns,
        severity_histogram(
            [history.label for _, history, _ in known],
            [place for place, _, _ in known],
            severities,
            _alike(known),
        ),
        tuple(_tree(place, history) for place, history, _ in known),
    )


def mistake_columns(histories: Sequence[History]) -> tuple[MistakeColumn, ...]:
    """The numbers of the last measured epoch of each run whose classes have a hierarchy."""
    return tuple(
        _column(place, history, found)
        for place, history in enumerate(histories)
        if (found := recorded_mistakes(history.final))
    )


def recorded_mistakes(row: dict[str, Any], part: str = "test") -> dict[str, Any]:
    """What a measured epoch says of the mistakes on "validation" or "test"; empty if nothing."""
    found = (row.get("mistakes") or {}).get(part)
    return found if isinstance(found, dict) and isinstance(found.get("values"), dict) else {}


def class_tree(history: History) -> Hierarchy | None:
    """The hierarchy of a run's classes, or None.

    Raises:
        ValueError: if it is damaged, or of other classes.
    """
    content = history.run.info.get("hierarchy")
    if content is None:
        return None
    try:
        hierarchy = Hierarchy.from_dict(content)
    except (TypeError, ValueError, KeyError):
        hierarchy = None
    if hierarchy is None or hierarchy.num_classes != history.num_classes:
        raise ValueError(f"{history.run.path / 'config.json'} holds a damaged hierarchy")
    return hierarchy


def _column(place: int, history: History, found: dict[str, Any]) -> MistakeColumn:
    cells: dict[str, tuple[str, str, str]] = {}
    for key, value in found["values"].items():
        text = share if key.partition("@")[0] in _SHARES else shown
        given = (value, *((found.get(side) or {}).get(key) for side in ("best", "chance")))
        cells[key] = _three(tuple("—" if number(x) is None else text(number(x)) for x in given))
    for key, value in (history.final.get("frame_fit") or {}).items():
        cells[key] = (shown(number(value)), "0", "—")
    wrong, samples = found.get("num_mistakes"), found.get("num_samples")
    kind = (found.get("conventions") or {}).get("distance", "not recorded")
    caption = f"epoch {history.final['epoch']}; {wrong} of {samples} wrong; distance {kind}"
    return MistakeColumn(place, history.label, caption, cells)


def _three(texts: tuple[str, ...]) -> tuple[str, str, str]:
    value, best, chance = texts
    return value, best, chance


def _meaning(key: str) -> str:
    meanings = {metric.key: metric.summary for metric in MISTAKE_METRICS} | {
        "accuracy": "decisions that are right",
        "frame_deviation": "raw class means off the frame's cosines, mean",
        "frame_spread": "raw class means off the frame's cosines, standard deviation",
    }
    return meanings.get(key.partition("@")[0], "")


def _severities(found: dict[str, Any]) -> dict[float, int]:
    return {float(distance): int(count) for distance, count in found.get("severities") or []}


def _alike(known: list[tuple[int, History, dict[str, Any]]]) -> dict[int, int]:
    """How many pairs of classes lie at each distance, where all runs have one tree."""
    trees = {class_tree(history) for _, history, _ in known}
    kinds = {(found.get("conventions") or {}).get("distance") for _, _, found in known}
    if len(trees) != 1 or len(kinds) != 1:
        return {}
    (tree,), (kind,) = trees, kinds
    if tree is None or (kind == "path" and tree.num_classes > _MOST_FOR_PAIRS):
        return {}
    return tree.pair_counts(kind) if kind in ("lca_height", "root_depth", "path") else {}


def _tree(place: int, history: History) -> TreeView:
    hierarchy, epochs = class_tree(history), history.run.snapshot_epochs()
    confusion = history.run.snapshot(epochs[-1]).get("test_confusion") if epochs else None
    if hierarchy is None or confusion is None:
        return TreeView(place, history.label, (), "What is taken for what was not recorded.")
    pairs = confusion.numpy()
    fits = pairs.ndim == 2 and pairs.shape[1] == 3 and pairs.dtype == np.int64
    if not fits or (
        len(pairs) and not 0 <= pairs[:, :2].min() <= pairs[:, :2].max() < len(hierarchy.classes)
    ):
        raise ValueError(
            f"the snapshot of epoch {epochs[-1]} in {history.run.path} holds a damaged confusion"
        )
    return TreeView(
        place,
        history.label,
        (
            tree_panel(f"tree-{place}", hierarchy, pairs),
            confusion_panel(f"confusion-{place}", hierarchy, pairs),
        ),
        wide=needs_width(hierarchy),
    )
