"""One page that holds everything it shows and needs no network."""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from neuralcollapse import __version__
from neuralcollapse.files import write_atomically
from neuralcollapse.metrics import METRICS
from neuralcollapse.record import Run
from neuralcollapse.report import figures, tables, wording
from neuralcollapse.report.figures import Panel
from neuralcollapse.report.grams import gram_frames
from neuralcollapse.report.history import History, read_histories
from neuralcollapse.report.scene import MAX_POINTS, scene_frames
from neuralcollapse.report.snapshots import (
    MAX_CLASSES,
    Snapshots,
    shown_classes,
    shown_epochs,
    slider_epochs,
)


def write_report(runs: Sequence[Run], path: str | Path) -> Path:
    """Write a page that shows one run, or several side by side, and return its path.

    The page is one HTML file with plotly.js inside; it requests nothing from anywhere. It holds
    every metric over the epochs, the cosines among class means and among classifier rows, the
    features in three dimensions, the final numbers and the configuration. The file is written
    whole or not at all.

    Args:
        runs: at least one; their data sets and numbers of classes may differ.
        path: of the HTML file; its folder must exist.

    Raises:
        ValueError: if there are no runs, one is given twice, one has nothing measured or is
            damaged, or the extra `report` is not installed.
        FileNotFoundError: if the folder does not exist.
    """
    path = Path(path)
    histories = read_histories(runs)
    page = _template().render(
        _content(histories), style=_source("page.css"), **_scripts(), version=__version__
    )
    # Names of folders may hold bytes that are no text.
    write_atomically(path, page.encode("utf-8", errors="replace"))
    return path


def _template() -> Any:
    try:
        import jinja2
    except (ImportError, RuntimeError) as error:
        raise ValueError(_needs_report("jinja2", error)) from None
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {
        "allow_nan": False,
        "separators": (",", ":"),
        "sort_keys": False,
    }
    return environment.from_string(_source("page.html"))


def _scripts() -> dict[str, str]:
    """The two scripts of the page and the policy that lets no other run."""
    try:
        from plotly.offline import get_plotlyjs
    except (ImportError, RuntimeError) as error:
        raise ValueError(_needs_report("plotly", error)) from None
    # Browsers read line ends as \n, and compare the hash after that.
    plotly = get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")
    script = _source("page.js")
    hashes = " ".join(_hash(text) for text in (plotly, script))
    policy = (
        f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return {"plotly": plotly, "script": script, "policy": policy}


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _needs_report(name: str, error: BaseException) -> str:
    return (
        f"a report needs the extra report, but {name} cannot be imported ({error}); "
        "pip install 'neuralcollapse[report]'"
    )


def _source(name: str) -> str:
    return resources.files("neuralcollapse.report").joinpath(name).read_text(encoding="utf-8")


def _content(histories: list[History]) -> dict[str, Any]:
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
    drawn = [*performance, *metrics, *(row["panel"] for row in counts if row["panel"])]
    return {
        "title": _title(histories),
        "lead": wording.comparison(histories, [row.name for row in options if row.differs]),
        "runs": [_card(place, history) for place, history in enumerate(histories)],
        "performance": performance,
        "metrics": metrics,
        "players": players,
        "splits": list(figures.DASHES),
        "figures": {panel.name: panel.figure for panel in drawn if panel.figure is not None},
        "numbers": _numbers(histories),
        "conventions": wording.same_conventions(histories),
        "counts": counts,
        "options": options,
        "settings": tables.settings(histories),
        "glossary": METRICS,
        "regimes": wording.REGIMES,
        "terms": wording.TERMS,
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
        "verdict": wording.verdict(history),
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
    names = history.classes
    return {
        "label": history.label,
        "missing": None,
        "epochs": epochs,
        "at": [epochs.index(epoch) for epoch in at_stops],
        "numbers": classes,
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
