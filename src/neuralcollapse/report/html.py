"""What the page of a report, or of a prediction, holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuralcollapse.metrics import METRICS
from neuralcollapse.record import Run
from neuralcollapse.report import figures, tables, wording
from neuralcollapse.report.depth import (
    depth_notes,
    depth_panels,
    depths_of_runs,
    without_depth,
)
from neuralcollapse.report.figures import Panel
from neuralcollapse.report.grams import gram_frames
from neuralcollapse.report.history import History, read_histories
from neuralcollapse.report.mistake_figures import tree_order
from neuralcollapse.report.mistake_view import class_tree, mistake_view
from neuralcollapse.report.page import write_page
from neuralcollapse.report.prediction_view import (
    PredictionView,
    figures_of,
    view_alone,
    view_of_run,
)
from neuralcollapse.report.scene import MAX_POINTS, scene_frames
from neuralcollapse.report.snapshots import (
    MAX_CLASSES,
    Snapshots,
    shown_classes,
    shown_epochs,
    slider_epochs,
)
from neuralcollapse.report.verdict import verdict
from neuralcollapse.theory import Prediction


def write_report(runs: Sequence[Run], path: str | Path, *, predict: bool = False) -> Path:
    """Write a page that shows one run, or several side by side, and return its path.

    The page is one HTML file with plotly.js inside; it requests nothing from anywhere. It holds
    every metric over the epochs, the cosines among class means and among classifier rows, the
    features in three dimensions, the final numbers and the configuration. The file is written
    whole or not at all.

    Args:
        runs: at least one; their data sets and numbers of classes may differ.
        path: of the HTML file; its folder must exist.
        predict: show beside each run what its configuration is predicted to collapse to.

    Raises:
        ValueError: if there are no runs, one is given twice, one has nothing measured or is
            damaged, or the extra `report` is not installed.
        FileNotFoundError: if the folder does not exist.
    """
    histories = read_histories(runs)
    places = enumerate(histories) if predict else ()
    views = [view_of_run(place, history) for place, history in places]
    return write_page("page.html", _content(histories, views), path)


def write_prediction(prediction: Prediction, path: str | Path) -> Path:
    """Write a page that shows a prediction, and return its path.

    Norms by class with the threshold, Gram matrices, the phases of the rarest class, double wells,
    and the path as the decay falls, where the case has them. Self-contained, as `write_report`.

    Args:
        prediction: what to show.
        path: of the HTML file; its folder must exist.

    Raises:
        ValueError: if the extra `report` is not installed.
        FileNotFoundError: if the folder does not exist.
    """
    view = view_alone(prediction)
    counts = prediction.counts.tolist()
    content = {
        "title": f"{prediction.loss}, {len(counts)} classes of {min(counts)} to {max(counts)}",
        "view": view,
        "figures": figures_of([view]),
        "players": {"stops": [], "runs": []},
        "terms": wording.PREDICTION_TERMS,
    }
    return write_page("prediction.html", content, path)


def _content(histories: list[History], views: list[PredictionView]) -> dict[str, Any]:
    """Everything that the template shows."""
    performance = [
        figures.accuracy_panel(histories),
        figures.loss_panel(histories),
        figures.learning_rate_panel(histories),
    ]
    performance += [panel for panel in [figures.terms_panel(histories)] if panel is not None]
    metrics = figures.metric_panels(histories)
    counts = _counts(histories)
    players = _players(histories)
    options = tables.options(histories)
    mistakes = mistake_view(histories)
    metrics += figures.mistake_panels(histories)
    depths = depths_of_runs(histories)
    depth = depth_panels(depths)
    drawn = [*performance, *metrics, *depth, *(row["panel"] for row in counts if row["panel"])]
    drawn += mistakes.panels if mistakes else []
    return {
        "title": _title(histories),
        "lead": wording.comparison(histories, [row.name for row in options if row.differs]),
        "runs": [_card(place, history) for place, history in enumerate(histories)],
        "performance": performance,
        "metrics": metrics,
        "depth": depth,
        "depth_notes": depth_notes(depths),
        "without_depth": without_depth([history.label for history in histories], depths),
        "players": players,
        "splits": list(figures.DASHES),
        "figures": {panel.name: panel.figure for panel in drawn if panel.figure is not None}
        | figures_of(views),
        "predictions": views,
        "mistakes": mistakes,
        "numbers": _numbers(histories),
        "conventions": wording.same_conventions(histories),
        "counts": counts,
        "options": options,
        "settings": tables.settings(histories),
        "metrics_table": METRICS,
        "regimes": wording.REGIMES,
        "terms": wording.TERMS
        + (wording.DEPTH_TERMS if depth else ())
        + (wording.PREDICTION_TERMS if views else ())
        + (wording.MISTAKE_TERMS if mistakes else ()),
        "name_of": wording.title,
        "shown": wording.shown,
        "max_points": MAX_POINTS,
    }


def _title(histories: Sequence[History]) -> str:
    data = ", ".join(dict.fromkeys(history.data for history in histories))
    if len(histories) == 1:
        return f"{histories[0].label} on {data}"
    return f"{len(histories)} runs on {data}"


def _card(place: int, history: History) -> dict[str, Any]:
    return {
        "label": history.label,
        "colour": figures.run_colour(place),
        "method": history.method,
        "data": history.data,
        "target": history.target.name,
        "status": history.status,
        "finished": (history.summary or {}).get("status") == "finished",
        "verdict": verdict(history),
    }


def _numbers(histories: Sequence[History]) -> tables.Numbers:
    groups = []
    for place, history in enumerate(histories):
        groups += [tables.final_group(place, history), tables.selected_group(place, history)]
    return tables.numbers(histories, [group for group in groups if group is not None])


def _counts(histories: Sequence[History]) -> list[dict[str, Any]]:
    """Class counts in words, once for the runs that share them; a figure where imbalanced."""
    found: list[dict[str, Any]] = []
    for history in histories:
        counts, classes = tables.class_counts(history), history.classes
        if not counts:
            continue
        same = [row for row in found if row["counts"] == counts and row["classes"] == classes]
        if same:
            same[0]["labels"].append(history.label)
            continue
        panel: Panel | None = None
        if tables.imbalanced(counts):
            panel = figures.counts_panel(f"counts-{len(found)}", classes, counts)
        words = tables.counts_in_words(counts)
        row = {"labels": [history.label], "counts": counts, "classes": classes}
        found.append(row | {"words": words, "panel": panel})
    return found


def _players(histories: Sequence[History]) -> dict[str, Any]:
    """What the sliders step through: where they stop, and the frames of each run."""
    stops = slider_epochs(histories)
    return {"stops": stops, "runs": [_frames(history, stops) for history in histories]}


def _frames(history: History, stops: Sequence[int]) -> dict[str, Any]:
    if not history.run.snapshot_epochs():
        return {"label": history.label, "missing": "No snapshots were kept of this run."}
    at_stops = shown_epochs(history, stops)
    epochs = sorted(set(at_stops))
    snapshots = Snapshots(history, epochs)
    classes = shown_classes(snapshots)
    if not classes:
        return {"label": history.label, "missing": "No class has a mean in every snapshot."}
    names, hierarchy = history.classes, class_tree(history)
    # The places among those shown, in the order of the tree.
    order = None
    if hierarchy is not None:
        order = [classes.index(own) for own in tree_order(hierarchy) if own in classes]
    return {
        "label": history.label,
        "missing": None,
        "epochs": epochs,
        "at": [epochs.index(epoch) for epoch in at_stops],
        "numbers": classes,
        "order": order,
        "raw": history.target.raw,
        "names": [figures.literal(names[place]) for place in classes],
        "ticks": [figures.literal(figures.shortened(names[place])) for place in classes],
        "plain": [names[place] for place in classes],
        "target_name": history.target.name,
        "has_target": history.target.cosines is not None,
        "notes": _class_notes(history, classes),
        "grams": gram_frames(snapshots, classes),
        "scene": scene_frames(snapshots, classes),
    }


def _class_notes(history: History, classes: list[int]) -> list[str]:
    absent = wording.absent_classes(history)
    notes = [f"Left out, no training samples: {', '.join(absent)}."] if absent else []
    present = history.num_classes - len(absent)
    if present > len(classes):
        limit = f"the first {MAX_CLASSES}" if len(classes) == MAX_CLASSES else f"{len(classes)}"
        notes.append(f"Shown are {limit} of {present} classes.")
    return notes
