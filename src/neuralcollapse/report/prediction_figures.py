"""Figures of a prediction: norms, phases, Gram matrices, wells, the path as the decay falls."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from neuralcollapse.geometry import gram_distance, simplex_gram
from neuralcollapse.report.figures import Panel, literal, rounded
from neuralcollapse.theory import Prediction, predict, vanishing_decay
from neuralcollapse.theory.modes import jump_level, mode_scale, spinodal_level

CLASSIFIER_COLOUR, FEATURE_COLOUR, OTHER_COLOUR = "#0072b2", "#d55e00", "#009e73"
_DIVERGING = [[0, "#2166ac"], [0.5, "#f7f7f7"], [1, "#b2182b"]]
_MOST_CLASSES = 60
_MOST_POINTS = 400
_CELLS = 61
# A threshold so many times below or above all counts would squeeze the figure.
_FARTHEST = 100


def prediction_panels(
    prediction: Prediction,
    *,
    name: str = "prediction",
    means: Tensor | None = None,
    weight: Tensor | None = None,
) -> list[Panel]:
    """Every figure that the case has; with class means and a classifier, measured beside predicted.

    Args:
        prediction: what to draw.
        name: begins the names of the panels, unique in a page.
        means: (K, d), class means of a trained network.
        weight: (K, d), its classifier.
    """
    panels = [
        _norms(prediction, name, means, weight),
        *_grams(prediction, name, means, weight),
        _phases(prediction, name),
        _wells(prediction, name),
        _path(prediction, name),
    ]
    return [panel for panel in panels if panel is not None]


def _norms(
    prediction: Prediction, name: str, means: Tensor | None, weight: Tensor | None
) -> Panel | None:
    """Squared norms by the size of the class, with the threshold."""
    counts = prediction.counts.tolist()
    if len(prediction.classifier_norm_squared) != len(counts):
        return None
    order = _spread(sorted(range(len(counts)), key=lambda k: counts[k]))
    series: list[tuple[str, Tensor, str, str]] = [
        ("classifier", prediction.classifier_norm_squared, CLASSIFIER_COLOUR, "predicted"),
        ("features", prediction.feature_norm_squared, FEATURE_COLOUR, "predicted"),
    ]
    if weight is not None:
        series.append(("classifier", weight.square().sum(1), CLASSIFIER_COLOUR, "measured"))
    if means is not None:
        series.append(("features", means.square().sum(1), FEATURE_COLOUR, "measured"))
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers" if kind == "predicted" else "markers",
            "name": f"{what}, {kind}",
            "x": [counts[k] for k in order],
            "y": [rounded(float(values[k])) for k in order],
            "text": [f"class {k}" for k in order],
            "line": {"color": colour, "width": 2},
            "marker": {
                "color": colour,
                "size": 7 if kind == "predicted" else 10,
                "symbol": "circle" if kind == "predicted" else "x-thin-open",
                "line": {"width": 2, "color": colour},
            },
            "hovertemplate": "%{text}, %{x} samples<br>squared norm <b>%{y}</b><extra></extra>",
        }
        for what, values, colour, kind in series
    ]
    layout = _layout("samples of the class", "squared norm")
    values = [value for trace in data for value in trace["y"] if value]
    if values and max(values) > 20 * min(values):
        layout["yaxis"] |= {"type": "log", "exponentformat": "power"}
    least, most, threshold = min(counts), max(counts), prediction.threshold
    note = "" if threshold is None else f"; n* = {threshold:.4g} samples"
    if threshold and values and least / _FARTHEST <= threshold <= most * _FARTHEST:
        data.append(_threshold(threshold, min(values), max(values)))
        least, most = min(least, threshold), max(most, threshold)
    elif threshold:
        note += " lies outside"
    layout["xaxis"]["type"] = "log" if most > 2 * least else "linear"
    if len(order) < len(counts):
        note += f"; {len(order)} of {len(counts)} classes, evenly over their sizes"
    subtitle = f"of classifier rows and class means, at true scale{note}"
    return Panel(f"{name}-norms", "Norms by class", subtitle, {"data": data, "layout": layout})


def _threshold(threshold: float, low: float, high: float) -> dict[str, Any]:
    """A dotted vertical line; a trace, so that the axis reaches it."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "n*",
        "x": [rounded(threshold)] * 2,
        "y": [low, high],
        "line": {"color": "#888888", "width": 2, "dash": "dot"},
        "hovertemplate": "n* = %{x} samples<extra></extra>",
    }


def _spread(order: list[int]) -> list[int]:
    """At most so many classes as a figure shows, first and last among them."""
    if len(order) <= _MOST_POINTS:
        return order
    places = np.linspace(0, len(order) - 1, _MOST_POINTS).round().astype(int)
    return [order[place] for place in places]


def _grams(
    prediction: Prediction, name: str, means: Tensor | None, weight: Tensor | None
) -> list[Panel]:
    """Gram matrices predicted, and measured and the difference where there is a network."""
    panels = []
    if max(prediction.num_classes, len(prediction.classifier_norm_squared)) > _MOST_CLASSES:
        return []
    pairs = [
        ("classifier", prediction.gram_classifier, weight),
        ("class means", prediction.gram_features, means),
    ]
    for what, predicted, vectors in pairs:
        shown = {"predicted": predicted}
        if vectors is not None:
            wide = vectors.double()
            shown["measured"] = wide @ wide.T
            shown["measured less predicted"] = shown["measured"] - predicted
        most = max(float(matrix.abs().max()) for matrix in shown.values())
        for kind, matrix in shown.items():
            slug = f"{name}-gram-{what}-{kind}".replace(" ", "-")
            panels.append(
                Panel(slug, f"Gram matrix of the {what}, {kind}", "", _heat(matrix, most))
            )
    return panels


def _heat(matrix: Tensor, most: float) -> dict[str, Any]:
    trace = {
        "type": "heatmap",
        "z": [[rounded(value) for value in row] for row in matrix.tolist()],
        "zmin": -most,
        "zmax": most,
        "colorscale": _DIVERGING,
        "hovertemplate": "classes %{y}, %{x}: <b>%{z}</b><extra></extra>",
        "colorbar": {"thickness": 10},
    }
    ticks = {"showgrid": False, "zeroline": False, "constrain": "domain"}
    layout = {
        "xaxis": {**ticks, "title": {"text": "class"}},
        "yaxis": {**ticks, "autorange": "reversed", "scaleanchor": "x"},
    }
    return {"data": [trace], "layout": layout}


def _phases(prediction: Prediction, name: str) -> Panel | None:
    """What becomes of the rarest class, by decay and by imbalance.

    The imbalance stretches the logarithms of these counts below the largest, so that the set-up
    itself lies in the diagram; equal counts are stretched to a long tail.
    """
    decays, counts, depth = prediction.weight_decay, prediction.counts.double(), prediction.depth
    known = prediction.loss == "mse" or (prediction.loss == "ce" and depth == 1)
    if decays is None or prediction.feature_decay is None or not known:
        return None
    classes, most = prediction.num_classes, float(counts.max())
    ratio = most / float(counts.min())
    if ratio > 1:
        stretch = (np.log(most / counts.numpy())) / math.log(ratio)
    else:
        stretch = np.arange(classes) / max(1, classes - 1)
    imbalances = np.logspace(0, max(3.0, math.log10(ratio) + 1), _CELLS)
    kinds, sizes = np.unique(stretch.round(4), return_counts=True)
    totals = (sizes * most * imbalances[:, None] ** -kinds).sum(1)
    rarest = most / imbalances
    all_decays = (*decays, prediction.feature_decay)
    # The multiple of all decays at which the rarest of these classes crosses.
    crossing = float(
        (float(counts.min()) * jump_level(depth) / mode_scale(all_decays, float(counts.sum())))
        ** (depth / (depth + 1))
    )
    reach = max(1.5, abs(math.log10(crossing)) + 0.75)
    multiples = np.logspace(-reach, reach, _CELLS)
    phase = np.zeros((_CELLS, _CELLS))
    for row, multiple in enumerate(multiples):
        scaled = [multiple * decay for decay in all_decays]
        scale = np.array([mode_scale(scaled, total) for total in totals])
        phase[row] = (scale >= rarest * jump_level(depth)).astype(float)
        phase[row] += scale >= rarest * spinodal_level(depth)
    dead = "dead" if prediction.loss == "mse" else "merged with classes of its size"
    names = ["alive", "metastable", dead]
    colours = ["#56b4e9", "#e69f00", "#888888"]
    steps = [
        [at, colour] for place, colour in enumerate(colours) for at in (place / 3, (place + 1) / 3)
    ]
    data = [
        {
            "type": "heatmap",
            "x": [rounded(float(value)) for value in imbalances],
            "y": [rounded(float(value) * decays[0]) for value in multiples],
            "z": phase.astype(int).tolist(),
            "zmin": 0,
            "zmax": 2,
            "colorscale": steps,
            "showscale": False,
            "hovertemplate": "ratio %{x:.3g}, weight decay %{y:.3g}<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "x": [rounded(ratio)],
            "y": [rounded(decays[0])],
            "marker": {
                "color": "#000000",
                "size": 14,
                "symbol": "star",
                "line": {"color": "#ffffff", "width": 1.5},
            },
            "hovertemplate": "these counts and decays<extra></extra>",
        },
    ]
    label = "weight decay" if len(set(decays)) == 1 else "decay of layer 1"
    layout = _layout("largest over smallest class", label)
    layout["xaxis"]["type"] = layout["yaxis"]["type"] = "log"
    layout["yaxis"]["exponentformat"] = "power"
    layout["showlegend"] = False
    shown = zip(("blue", "orange", "grey"), names, strict=True)
    words = ", ".join(
        f"{colour}: {word}" for colour, word in shown if depth > 1 or word != names[1]
    )
    subtitle = (
        f"of the rarest of {classes} classes; {words}; the star is this set-up; the other decays "
        "in proportion"
    )
    notes = ()
    if prediction.loss == "mse" and not bool((prediction.bias == 0).all()):
        notes = ("Drawn for a head without bias; a bias shifts the borders a little.",)
    return Panel(
        f"{name}-phases", "Alive or dead", subtitle, {"data": data, "layout": layout}, notes
    )


def _wells(prediction: Prediction, name: str) -> Panel | None:
    """The objective of single classes by how much of their target they fit."""
    decays = prediction.weight_decay
    depth = prediction.depth
    if prediction.loss != "mse" or depth < 2 or decays is None or prediction.feature_decay is None:
        return None
    total = float(prediction.counts.sum())
    scale = mode_scale((*decays, prediction.feature_decay), total)
    chosen = [
        (f"rarest class, {int(prediction.counts.min())} samples", float(prediction.counts.min())),
        (f"n* = {scale / jump_level(depth):.3g} samples", scale / jump_level(depth)),
        (f"spinodal, {scale / spinodal_level(depth):.3g} samples", scale / spinodal_level(depth)),
    ]
    # Denser where the minimum of a class that is fitted well lies.
    share = 1 - np.linspace(1, 1e-4 ** (1 / 3), 300) ** 3
    power = (share / (1 - share)) ** (1 / depth)
    data = []
    colours = (FEATURE_COLOUR, OTHER_COLOUR, CLASSIFIER_COLOUR)
    for (label, size), colour in zip(chosen, colours, strict=True):
        value = 1 - share + scale / size * power
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": label,
                "x": [rounded(float(x)) for x in share],
                "y": [rounded(float(y)) if y < 1.6 else None for y in value],
                "line": {"color": colour, "width": 2},
            }
        )
    layout = _layout("share of the target that the class fits", "objective of the class, relative")
    subtitle = (
        "a minimum at 0 and, above the spinodal, one of a class that is fitted; n* is where both "
        "are level; a small start ends in the left one"
    )
    return Panel(f"{name}-wells", "Double wells", subtitle, {"data": data, "layout": layout})


def _path(prediction: Prediction, name: str) -> Panel | None:
    """From the simplex to SELI and on, as the decay falls: distances of the classifier."""
    decays, counts = prediction.weight_decay, prediction.counts.tolist()
    balanced = max(counts) == min(counts)
    if prediction.loss != "ce" or prediction.depth > 1 or balanced or decays is None:
        return None
    if len(set(counts)) > 30 or prediction.feature_decay is None:
        return None
    seli = vanishing_decay(counts).gram_classifier
    simplex = simplex_gram(len(counts))
    multiples = [10.0**step for step in np.arange(1.0, -6.01, -1.0)]
    found: dict[str, list[float | None]] = {"simplex ETF": [], "SELI": []}
    for multiple in multiples:
        scaled = predict(
            counts,
            loss="ce",
            weight_decay=[multiple * decay for decay in decays],
            feature_decay=multiple * prediction.feature_decay,
        )
        gram = scaled.gram_classifier
        alive = bool(gram.abs().max() > 0)
        found["simplex ETF"].append(float(gram_distance(gram, simplex)) if alive else None)
        found["SELI"].append(float(gram_distance(gram, seli)) if alive else None)
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": f"from {literal(what)}",
            "x": multiples,
            "y": [rounded(value) for value in values],
            "line": {"color": colour, "width": 2},
        }
        for (what, values), colour in zip(
            found.items(), (CLASSIFIER_COLOUR, FEATURE_COLOUR), strict=True
        )
    ]
    layout = _layout("all decays, as a multiple", "distance of Gram matrices")
    layout["xaxis"] |= {"type": "log", "autorange": "reversed", "exponentformat": "power"}
    _mark(layout, "this set-up", 1.0)
    subtitle = "predicted classifier, without bias, from the simplex ETF and from SELI"
    return Panel(f"{name}-path", "As the decay falls", subtitle, {"data": data, "layout": layout})


def _layout(across: str, up: str) -> dict[str, Any]:
    return {
        "showlegend": True,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "hovermode": "closest",
        "xaxis": {"title": {"text": across}},
        "yaxis": {"title": {"text": up}},
    }


def _mark(layout: dict[str, Any], text: str, at: float) -> None:
    """A dotted vertical line with a word."""
    logarithmic = layout["xaxis"].get("type") == "log"
    layout.setdefault("shapes", []).append(
        {
            "type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": at, "x1": at,
            "line": {"width": 1, "dash": "dot", "color": "#888888"},
        }
    )  # fmt: skip
    layout.setdefault("annotations", []).append(
        {
            "text": text, "x": math.log10(at) if logarithmic else at, "yref": "paper", "y": 1,
            "xanchor": "left", "yanchor": "top", "showarrow": False,
            "font": {"size": 11, "color": "#888888"},
        }
    )  # fmt: skip


def distances_panel(
    epochs: Sequence[int], found: dict[str, list[float | None]], name: str, what: str
) -> Panel:
    """Distances of the classifier, or of the class means, from several targets over the epochs."""
    colours = (CLASSIFIER_COLOUR, OTHER_COLOUR, FEATURE_COLOUR)
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": f"from {literal(target)}",
            "x": list(epochs),
            "y": [rounded(value) for value in values],
            "line": {"color": colour, "width": 2},
        }
        for (target, values), colour in zip(found.items(), colours, strict=True)
    ]
    layout = _layout("epoch", "distance of Gram matrices")
    layout["yaxis"]["type"] = "log"
    return Panel(
        name,
        f"Distance of the {what}",
        "from three Gram matrices, blind to scale; 0 is there",
        {"data": data, "layout": layout},
    )


def ratios_panel(epochs: Sequence[int], found: dict[str, list[float | None]], name: str) -> Panel:
    """Measured over predicted norms over the epochs."""
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": literal(what),
            "x": list(epochs),
            "y": [rounded(value) for value in values],
            "line": {"color": colour, "width": 2},
        }
        for (what, values), colour in zip(
            found.items(), (CLASSIFIER_COLOUR, FEATURE_COLOUR), strict=True
        )
    ]
    layout = _layout("epoch", "measured over predicted norm")
    layout["shapes"] = [
        {
            "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1,
            "line": {"width": 1, "dash": "dot", "color": "#888888"},
        }
    ]  # fmt: skip
    return Panel(
        name,
        "Norms",
        "root mean square over the classes, at true scale",
        {"data": data, "layout": layout},
    )
