"""Curves over the epochs and bars of class counts, as plain plotly figures.

A figure is a dictionary with `data` and `layout`, free of colours for paper, grid and text: the
page sets those for light and dark. Names are escaped, since plotly reads some HTML in text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neuralcollapse.metrics import METRICS
from neuralcollapse.report.history import (
    SPLITS,
    History,
    accuracy,
    loss,
    number,
    recorded,
    undefined_spans,
)
from neuralcollapse.report.wording import metric_value, share, shown, title

# Okabe and Ito (2008) without black and yellow: told apart by colour-blind eyes, seen on both
# white and black.
RUN_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888")
RUN_SYMBOLS = ("circle", "square", "diamond", "x", "star")
DASHES = {"train": "solid", "validation": "dot", "test": "dash"}

# On a logarithmic axis, zero is drawn this far below the smallest positive value.
_BELOW = 3.0
# A logarithmic axis helps where the largest value is more than this many times the smallest.
_SPREAD = 4.0


# Name (its key with "@" spelled out), heading, subtitle.
_MISTAKES = (
    ("mistake_severity", "Severity of mistakes", "mean distance of the wrong decisions"),
    (
        "hierarchical_distance_at_1",
        "Hierarchical distance",
        "mean distance of all decisions, right ones at 0",
    ),
    ("frame_deviation", "Class means off the frame", "mean difference of raw cosines"),
)


@dataclass(frozen=True)
class Curve:
    """One line of a figure: what it is of, and a value (or None) per measured epoch."""

    run: int
    split: str
    epochs: list[int]
    values: list[float | None]
    extra: str = ""


@dataclass(frozen=True)
class Panel:
    """One figure of the page with its words.

    Attributes:
        name: unique in the page.
        title: above the figure.
        subtitle: what it shows, in a line.
        figure: `data` and `layout`, or None where nothing can be drawn.
        notes: below the figure; reasons for gaps.
        key: of the metric, if it is one.
    """

    name: str
    title: str
    subtitle: str
    figure: dict[str, Any] | None
    notes: tuple[str, ...] = ()
    key: str | None = None


def literal(text: str) -> str:
    """Text that plotly shows as it is, though it reads tags and entities in labels."""
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, entity)
    return text


def rounded(value: float | None) -> float | None:
    """A number with five significant digits, to keep pages small."""
    return None if value is None else float(f"{value:.5g}")


def run_colour(place: int) -> str:
    """The colour of the run in this place."""
    return RUN_COLOURS[place % len(RUN_COLOURS)]


def place_symbol(place: int) -> str:
    """The symbol of the run in this place: the next one where the colours begin again."""
    return RUN_SYMBOLS[place // len(RUN_COLOURS) % len(RUN_SYMBOLS)]


def metric_panels(histories: Sequence[History]) -> list[Panel]:
    """One panel per metric that suits the number of classes of some run, in the table's order."""
    regimes = {"any", *(history.target.regime for history in histories)}
    return [
        _metric_panel(histories, row.key)
        for row in METRICS
        if row.regime in regimes and recorded(histories, row)
    ]


def accuracy_panel(histories: Sequence[History]) -> Panel:
    """Accuracy on the training, validation and test samples."""
    curves = [
        Curve(run, split, history.epochs, [accuracy(row, split) for row in history.rows])
        for run, history in enumerate(histories)
        for split in DASHES
    ]
    figure = _curves_figure(histories, curves, logarithmic=False, texts=share)
    if figure is not None:
        figure["layout"]["yaxis"]["tickformat"] = ".3~%"
    return Panel("accuracy", "Accuracy", "share of samples classified correctly", figure)


def loss_panel(histories: Sequence[History]) -> Panel:
    """Loss on the training and validation samples."""
    curves = [
        Curve(run, split, history.epochs, [loss(row, split) for row in history.rows])
        for run, history in enumerate(histories)
        for split in ("train", "validation")
    ]
    return _panel(
        "loss", "Loss", "mean over the epoch (train), at its end (validation)", curves, histories
    )


def learning_rate_panel(histories: Sequence[History]) -> Panel:
    """The learning rate."""
    curves = [
        Curve(run, "train", history.epochs, [number(row.get("lr")) for row in history.rows])
        for run, history in enumerate(histories)
    ]
    figure = _curves_figure(histories, curves, logarithmic=False, texts=shown)
    return Panel("lr", "Learning rate", "of the epoch", figure)


def terms_panel(histories: Sequence[History]) -> Panel | None:
    """The terms of the losses, if any loss has more than one."""
    curves = []
    for run, history in enumerate(histories):
        terms = [row.get("terms") or {} for row in history.rows]
        names = sorted({name for row in terms for name in row})
        if len(names) > 1:
            curves += [
                Curve(run, "train", history.epochs, [number(row.get(name)) for row in terms], name)
                for name in names
            ]
    if not curves:
        return None
    return _panel(
        "terms",
        "Terms of the loss",
        "mean over the epoch; hover for their names",
        curves,
        histories,
    )


def mistake_panels(histories: Sequence[History]) -> list[Panel]:
    """How severe mistakes are, and how far class means are from a hierarchy's frame, if known."""
    panels = []
    for name, heading, subtitle in _MISTAKES:
        key = name.replace("_at_", "@")
        curves = [
            Curve(
                run, split, history.epochs, [_of_mistakes(row, split, key) for row in history.rows]
            )
            for run, history in enumerate(histories)
            for split in ("train", "validation", "test")
        ]
        figure = _curves_figure(histories, curves, logarithmic=False, texts=shown)
        if figure is not None:
            panels.append(Panel(name, heading, subtitle, figure, key=key))
    return panels


def _of_mistakes(row: dict[str, Any], split: str, key: str) -> float | None:
    if split == "train":  # the class means are those of the training samples
        return number((row.get("frame_fit") or {}).get(key))
    found = (row.get("mistakes") or {}).get(split) or {}
    return number((found.get("values") or {}).get(key))


def counts_panel(name: str, classes: list[str], counts: dict[str, list[int]]) -> Panel:
    """Samples per class and split, as bars."""
    places = list(range(len(classes)))
    colours = dict(zip(DASHES, ("#0072b2", "#56b4e9", "#e69f00"), strict=True))
    data = [
        {
            "type": "bar",
            "name": split,
            "x": places,
            "y": counts[split],
            "text": [literal(label) for label in classes],
            "textposition": "none",
            "marker": {"color": colours[split]},
            "meta": split,
            "hovertemplate": "%{text}, %{meta}: %{y}<extra></extra>",
        }
        for split in DASHES
        if len(counts.get(split) or ()) == len(classes)
    ]
    ticks = {"tickvals": places, "ticktext": [literal(shortened(label)) for label in classes]}
    layout = {
        "barmode": "group",
        "showlegend": True,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": {"title": {"text": "class"}} | (ticks if len(classes) <= 30 else {}),
        "yaxis": {"title": {"text": "samples"}, "rangemode": "tozero"},
    }
    return Panel(name, "Samples per class", "", {"data": data, "layout": layout})


def shortened(text: str, limit: int = 14) -> str:
    """The start of a long name."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _metric_panel(histories: Sequence[History], key: str) -> Panel:
    row = next(row for row in METRICS if row.key == key)
    curves = [
        Curve(run, split, history.epochs, history.values(split, key))
        for run, history in enumerate(histories)
        for split in SPLITS
    ]
    logarithmic = row.better == "lower" and key != "nc4_disagreement" and _log_helps(curves)
    figure = _curves_figure(
        histories, curves, logarithmic=logarithmic, texts=lambda value: metric_value(key, value)
    )
    notes = _gap_notes(histories, key)
    if figure is not None and logarithmic:
        notes += _zero_note(curves)
    if figure is not None:
        targets = [history.target.values.get(key) for history in histories]
        _draw_targets(figure["layout"], targets, logarithmic=logarithmic)
        if key == "nc4_disagreement":
            figure["layout"]["yaxis"]["tickformat"] = ".3~%"
    subtitle = row.summary + (", log scale" if logarithmic else "")
    return Panel(key, title(key), subtitle, figure, tuple(notes), key)


def _panel(
    name: str, heading: str, subtitle: str, curves: list[Curve], histories: Sequence[History]
) -> Panel:
    logarithmic = _log_helps(curves)
    figure = _curves_figure(histories, curves, logarithmic=logarithmic, texts=shown)
    notes = _zero_note(curves) if logarithmic else []
    return Panel(
        name, heading, subtitle + (", log scale" if logarithmic else ""), figure, tuple(notes)
    )


def _curves_figure(
    histories: Sequence[History], curves: Sequence[Curve], *, logarithmic: bool, texts: Any
) -> dict[str, Any] | None:
    drawn = [curve for curve in curves if any(value is not None for value in curve.values)]
    if not drawn:
        return None
    floor = _floor(drawn) if logarithmic else None
    data = [_trace(histories[curve.run], curve, floor, texts) for curve in drawn]
    layout: dict[str, Any] = {
        "showlegend": False,
        "hovermode": "closest",
        "xaxis": {
            "title": {"text": "epoch", "standoff": 4, "font": {"size": 11}},
            "rangemode": "tozero",
        },
        "yaxis": log_axis(_positive(drawn)) if logarithmic else {"rangemode": "tozero"},
    }
    return {"data": data, "layout": layout}


def log_axis(positive: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis for these values."""
    decades = math.log10(max(positive) / min(positive))
    # Left alone, plotly crowds a few decades with 2 and 5, and one with all digits.
    ticks = {"dtick": 1} if 1.5 < decades < 5 else {"dtick": "D2"} if 0.8 < decades <= 1.5 else {}
    return {"type": "log", "exponentformat": "power", **ticks}


def _trace(history: History, curve: Curve, floor: float | None, texts: Any) -> dict[str, Any]:
    zeros = [floor is not None and value is not None and value <= 0 for value in curve.values]
    heights = [floor if zero else value for zero, value in zip(zeros, curve.values, strict=True)]
    colour, symbol = run_colour(curve.run), place_symbol(curve.run)
    what = f"{curve.split}, {curve.extra}" if curve.extra else curve.split
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": literal(f"{history.label}, {what}"),
        "x": curve.epochs,
        "y": [rounded(height) for height in heights],
        "text": [texts(value) for value in curve.values],
        "meta": [literal(history.label), literal(what), curve.run, curve.split],
        "connectgaps": False,
        "line": {"color": colour, "width": 2, "dash": DASHES[curve.split]},
        "marker": {
            "size": [8 if zero else 4 for zero in zeros] if any(zeros) else 4,
            "symbol": ["triangle-down-open" if zero else symbol for zero in zeros]
            if any(zeros)
            else symbol,
        },
        "hovertemplate": "%{meta[0]}<br>%{meta[1]}, epoch %{x}<br><b>%{text}</b><extra></extra>",
    }


def _positive(curves: Sequence[Curve]) -> list[float]:
    return [v for curve in curves for v in curve.values if v is not None and v > 0]


def _log_helps(curves: Sequence[Curve]) -> bool:
    positive = _positive(curves)
    negative = any(v is not None and v < 0 for curve in curves for v in curve.values)
    return bool(positive) and not negative and max(positive) > _SPREAD * min(positive)


def _floor(curves: Sequence[Curve]) -> float:
    lowest = min(_positive(curves))
    return 10 ** math.floor(math.log10(lowest / _BELOW))


def _zero_note(curves: Sequence[Curve]) -> list[str]:
    if not any(value == 0 for curve in curves for value in curve.values):
        return []
    return ["▽ is a value of exactly 0, drawn at the lower edge."]


def _draw_targets(
    layout: dict[str, Any], targets: Sequence[float | None], *, logarithmic: bool
) -> None:
    """A thin line at the value of a collapsed network, where the axis has room for it."""
    known = {value for value in targets if value is not None}
    values = sorted(value for value in known if value > 0 or not logarithmic)
    layout["shapes"] = [
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": rounded(value),
            "y1": rounded(value),
            "line": {"width": 1, "dash": "dot", "color": "#888888"},
        }
        for value in values
    ]
    layout["annotations"] = [
        {
            "text": "at collapse",
            "xref": "paper",
            "x": 1,
            "xanchor": "right",
            "y": rounded(math.log10(value) if logarithmic else value),
            "yanchor": "bottom",
            "showarrow": False,
            "font": {"size": 10, "color": "#888888"},
        }
        for value in values
    ]


def _gap_notes(histories: Sequence[History], key: str) -> list[str]:
    """Why values are missing, said once for the runs and splits that share the reason."""
    places: dict[tuple[str, str], list[str]] = {}
    for history in histories:
        for split in SPLITS:
            for span in undefined_spans(history, split, key):
                places.setdefault(span, []).append(f"{history.label}, {split}")
    return [f"{'; '.join(who)}: no value at {when} ({why})." for (when, why), who in places.items()]
