"""Saved measurements side by side: how far from collapse, against the first, and class counts."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from neuralcollapse.metrics import METRICS
from neuralcollapse.report.figures import (
    Panel,
    literal,
    log_axis,
    place_symbol,
    rounded,
    run_colour,
)
from neuralcollapse.report.measured import Measured
from neuralcollapse.report.wording import metric_value, shown, title

# Distances from collapse below this are drawn at the edge: float32 rounds at about this.
_NEAR = 1e-7
# At the edge stands what a logarithmic axis has no place for, this far below all else.
_BELOW = 3.0
# Samples by class are bars up to so many classes, and a curve by rank beyond.
_MOST_BARS = 100
_MOST_RANKS = 400
_MOST_TICKS = 6
_ROW_HEIGHT, _FRAME_HEIGHT = 22, 48
# Dots of a row stand this far below each other, or so far that all are within the row.
_STEP, _ROW = 0.18, 0.6


def distance_panel(measured: Sequence[Measured]) -> Panel:
    """How far each metric is from its value at collapse, with intervals and noise."""
    keys = [
        key
        for key in _fitting(measured)
        if any(_distance(one, key) is not None for one in measured)
    ]
    known = [_distance(one, key) for one in measured for key in keys]
    noises = [_noise(one, key) for one in measured for key in keys]
    edge = _edge([*known, *noises])
    data = []
    for place, one in enumerate(measured):
        data += _distances(place, one, keys, edge, _offset(place, len(measured))) if edge else []
    notes = _edge_notes(known)
    if any(noise is not None for noise in noises):
        notes.append("◇ is what pure noise without classes would give, where that is known.")
    if any(one.intervals for one in measured):
        notes.append("Bars are 95 % intervals.")
    return Panel(
        "distance",
        "Distance from collapse",
        "difference of each metric from its value at collapse; log scale, left is closer",
        _rows_figure(data, keys) if data else None,
        tuple(notes),
    )


def ratio_panel(measured: Sequence[Measured]) -> Panel | None:
    """The distances from collapse as multiples of the first measurement's; None without any."""
    if not measured[1:]:
        return None
    first, rows, left_out = measured[0], [], []
    for key in _fitting(measured):
        base = _distance(first, key)
        if base == 0:
            left_out.append(key)
        if not base:
            continue
        known = [_distance(one, key) for one in measured[1:]]
        if any(value is not None for value in known):
            rows.append((key, [None if value is None else value / base for value in known]))
    if not rows:
        return None
    keys = [key for key, _ in rows]
    edge = _edge([1.0, *(ratio for _, ratios in rows for ratio in ratios)])
    data = []
    for place, one in enumerate(measured[1:], 1):
        ratios = [own[place - 1] for _, own in rows]
        texts = [f"{shown(ratio, 3)} times that of {first.label}" for ratio in ratios]
        offset = _offset(place - 1, len(measured) - 1)
        data.append(_dots(place, one, keys, ratios, edge, texts, offset))
    figure = _rows_figure(data, keys)
    figure["layout"]["shapes"] = [
        {
            "type": "line",
            "layer": "below",
            "xref": "x",
            "yref": "paper",
            "x0": 1,
            "x1": 1,
            "y0": 0,
            "y1": 1,
            "line": {"width": 2, "color": run_colour(0)},
        }
    ]
    notes = _edge_notes([ratio for _, ratios in rows for ratio in ratios])
    if left_out:
        notes.append(f"Left out, at collapse in {first.label}: {', '.join(left_out)}.")
    return Panel(
        "ratio",
        f"Against {first.label}",
        f"distance from collapse as a multiple of that of {first.label} (the line at 1), log scale",
        figure,
        tuple(notes),
    )


def class_counts_panel(measured: Sequence[Measured]) -> Panel | None:
    """Samples per class; None where every measurement has equally many of each."""
    if all(len({*one.measurement.counts}) == 1 for one in measured):
        return None
    alike: dict[tuple[int, ...], list[int]] = {}
    for place, one in enumerate(measured):
        alike.setdefault(one.measurement.counts, []).append(place)
    by_rank = max(map(len, alike)) > _MOST_BARS
    trace = _ranks if by_rank else _bars
    data = [
        trace(places[0], ", ".join(measured[place].label for place in places), counts)
        for counts, places in alike.items()
    ]
    axis: dict[str, Any] = {"rangemode": "tozero"}
    sizes = [count for counts in alike for count in counts if count]
    logarithmic = by_rank and max(sizes) > 10 * min(sizes)
    if logarithmic:
        axis = {"type": "log", "exponentformat": "power"}
    layout = {
        "barmode": "group",
        "showlegend": False,
        "hovermode": "closest",
        "xaxis": {"title": {"text": "classes, largest first" if by_rank else "class"}},
        "yaxis": {"title": {"text": "samples"}, **axis},
    }
    subtitle = "log scale" if logarithmic else ""
    return Panel("counts", "Samples per class", subtitle, {"data": data, "layout": layout})


def _fitting(measured: Sequence[Measured]) -> list[str]:
    """The metrics that suit the number of classes of some measurement, in the table's order."""
    regimes = {"any", *(one.target.regime for one in measured)}
    return [row.key for row in METRICS if row.regime in regimes]


def _distance(one: Measured, key: str) -> float | None:
    """From the value at collapse; 0 where so near that rounding may be all there is."""
    found = one.distance(key, one.value(key))
    return 0.0 if found is not None and found < _NEAR else found


def _noise(one: Measured, key: str) -> float | None:
    return one.distance(key, one.null.get(key))


def _edge(distances: Sequence[float | None]) -> float | None:
    """Where zeros are drawn: a power of ten below the others; None without any value."""
    known = [value for value in distances if value is not None]
    if not known:
        return None
    lowest = min((value for value in known if value > 0), default=_NEAR)
    return 10 ** math.floor(math.log10(lowest / _BELOW))


def _edge_notes(distances: Sequence[float | None]) -> list[str]:
    if not any(value == 0 for value in distances):
        return []
    return [f"◁ is less than {shown(_NEAR)} from the value at collapse, drawn at the edge."]


def _offset(place: int, number: int) -> float:
    """How far below the middle of a row a dot stands, so that none hides another."""
    return (place - (number - 1) / 2) * min(_STEP, _ROW / number)


def _distances(
    place: int, one: Measured, keys: Sequence[str], edge: float, offset: float
) -> list[dict[str, Any]]:
    distances = [_distance(one, key) for key in keys]
    texts = [
        f"{metric_value(key, one.value(key))}, at collapse "
        f"{metric_value(key, one.target.values.get(key))}"
        for key in keys
    ]
    dots = _dots(place, one, keys, distances, edge, texts, offset)
    if one.intervals:
        dots["error_x"] = _reach(one, keys, distances, edge)
    noises = [_noise(one, key) for key in keys]
    if not any(noises):
        return [dots]
    told = [f"pure noise: {shown(one.null.get(key))}" for key in keys]
    noise = _dots(place, one, keys, noises, edge, told, offset)
    noise["marker"] = {"size": 9, "symbol": "diamond-open", "color": run_colour(place)}
    return [dots, noise]


def _reach(
    one: Measured, keys: Sequence[str], distances: Sequence[float | None], edge: float
) -> dict[str, Any]:
    """Ends of the intervals as steps from the dots; nothing lies left of the edge."""
    right, left = [], []
    for key, middle in zip(keys, distances, strict=True):
        interval = one.intervals.get(key)
        collapsed = one.target.values.get(key)
        if interval is None or collapsed is None or not middle:
            right.append(0)
            left.append(0)
            continue
        low, high = interval.low - collapsed, interval.high - collapsed
        nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
        farthest = max(abs(low), abs(high))
        right.append(rounded(max(0.0, farthest - middle)))
        left.append(rounded(max(0.0, middle - max(nearest, edge))))
    return {
        "type": "data",
        "symmetric": False,
        "array": right,
        "arrayminus": left,
        "thickness": 1.5,
        "width": 3,
    }


def _dots(
    place: int,
    one: Measured,
    keys: Sequence[str],
    distances: Sequence[float | None],
    edge: float | None,
    texts: Sequence[str],
    offset: float,
) -> dict[str, Any]:
    exact = [value == 0 for value in distances]
    symbol = place_symbol(place)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": literal(one.label),
        "x": [rounded(edge if own else value) for own, value in zip(exact, distances, strict=True)],
        "y": [rounded(row + offset) for row in range(len(keys))],
        "text": [literal(f"{title(key)}: {text}") for key, text in zip(keys, texts, strict=True)],
        "meta": [literal(one.label), "", place, "train"],
        "marker": {
            "size": 9,
            "color": run_colour(place),
            "symbol": ["triangle-left-open" if own else symbol for own in exact]
            if any(exact)
            else symbol,
        },
        "hovertemplate": "%{meta[0]}<br><b>%{text}</b><extra></extra>",
    }


def _rows_figure(data: list[dict[str, Any]], keys: Sequence[str]) -> dict[str, Any]:
    """Metrics below each other, on one logarithmic axis."""
    values = [x for trace in data for x in trace["x"] if x is not None]
    axis = log_axis(values)
    if (decades := math.log10(max(values) / min(values))) > _MOST_TICKS:
        axis["dtick"] = math.ceil(decades / _MOST_TICKS)
    layout = {
        "height": _FRAME_HEIGHT + _ROW_HEIGHT * len(keys),
        "showlegend": False,
        "hovermode": "closest",
        "margin": {"l": 48, "r": 12, "t": 8, "b": 8},
        "xaxis": axis | {"side": "top", "tickangle": 0},
        "yaxis": {
            "tickvals": list(range(len(keys))),
            "ticktext": list(keys),
            "range": [len(keys) - 0.4, -0.6],
            "tickfont": {"size": 11},
            "zeroline": False,
        },
    }
    return {"data": data, "layout": layout}


def _bars(place: int, label: str, counts: Sequence[int]) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": literal(label),
        "x": list(range(len(counts))),
        "y": list(counts),
        "text": [],
        "textposition": "none",
        "meta": [literal(label), "", place, "train"],
        "marker": {"color": run_colour(place), "line": {"width": 0}},
        "hovertemplate": "%{meta[0]}<br>class %{x}: %{y}<extra></extra>",
    }


def _ranks(place: int, label: str, counts: Sequence[int]) -> dict[str, Any]:
    ordered = np.sort(np.asarray(counts))[::-1]
    ranks = np.unique(np.linspace(0, len(ordered) - 1, _MOST_RANKS).round().astype(int))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": literal(label),
        "x": (ranks + 1).tolist(),
        "y": [int(count) or None for count in ordered[ranks]],
        "text": [],
        "meta": [literal(label), "", place, "train"],
        "line": {"color": run_colour(place), "width": 2},
        "hovertemplate": "%{meta[0]}<br>rank %{x}: %{y} samples<extra></extra>",
    }
