"""Where on the tree of the classes mistakes fall, as plain plotly figures."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.report.figures import Panel, literal, rounded, run_colour, shortened
from neuralcollapse.report.wording import share
from neuralcollapse.scalars import counted

# So many groups of classes can be told apart on a screen.
MOST_GROUPS = 100

_RED, _BLUE = (178, 24, 43), (33, 102, 172)
_PALE = (240, 240, 240)
# Red, green and blue together below which letters are white.
_DARK = 450
_PIXELS_A_GROUP, _LEAST_PIXELS = 18, 260
# Trees with more levels or groups have the width of the page to themselves.
_MOST_BESIDE = 5, 30
_HALF_PAGE, _PAGE = 580, 1200
_PIXELS_A_LETTER = 6
# What WordNet puts behind words to tell its nodes apart.
_SYNSET = re.compile(r"\s+n\d{8}$")


def severity_histogram(
    labels: Sequence[str],
    places: Sequence[int],
    severities: Sequence[dict[float, int]],
    alike: dict[int, int],
) -> Panel:
    """Shares of the mistakes by their distance, beside those of all pairs of classes.

    Args:
        labels: of the runs.
        places: of the runs in the page, which gives their colours.
        severities: how many mistakes of each run are at each distance.
        alike: how many pairs of classes are at each distance; empty where not known.
    """
    data = [
        _bars(label, counts, run_colour(place)) | {"meta": [literal(label), "test", place, "test"]}
        for label, place, counts in zip(labels, places, severities, strict=True)
        if counts
    ]
    if alike:
        data.append(_bars("all pairs of classes alike", alike, "#bbbbbb"))
    steps = sorted({x for counts in (*severities, alike) for x in counts})
    layout = {
        "barmode": "group",
        "showlegend": True,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": {"title": {"text": "distance"}}
        | ({"tickvals": steps} if len(steps) <= 20 else {}),
        "yaxis": {"rangemode": "tozero", "tickformat": ".3~%"},
    }
    return Panel(
        "severities",
        "Severity of mistakes",
        "share of the mistakes on the test set by distance; grey: if no pair were likelier",
        {"data": data, "layout": layout} if data else None,
    )


def tree_panel(name: str, hierarchy: Hierarchy, confusion: np.ndarray) -> Panel:
    """The tree; inner nodes by the mistakes that meet there, classes by how often they are missed.

    Args:
        name: unique in the page.
        hierarchy: of the classes.
        confusion: (P, 3), true class, decided class, how often.
    """
    met, wrong, samples = _on_nodes(hierarchy, confusion)
    mistakes = int(met.sum())
    shares = met / max(1, mistakes)
    errors = wrong / np.maximum(1, samples)
    inner = hierarchy.height > 0
    below = hierarchy.arrangement.stop - hierarchy.arrangement.start
    most = {True: shares.max() or 1.0, False: errors.max() or 1.0}
    colours, letters, texts, hovers = [], [], [], []
    for node, own in enumerate(hierarchy.nodes):
        is_inner = bool(inner[node])
        value = float(shares[node] if is_inner else errors[node])
        colour = _mixed(_RED if is_inner else _BLUE, value / most[is_inner])
        colours.append(f"rgb{colour}")
        letters.append("#ffffff" if sum(colour) < _DARK else "#1c2330")
        texts.append(share(value) if is_inner or samples[node] else "")
        said = [f"<b>{literal(own)}</b>"]
        if is_inner:
            classes = counted(int(below[node]), "class", "classes")
            said.append(f"{classes}; {share(value)} of the mistakes meet here")
        if samples[node]:
            said.append(f"{int(wrong[node])} of {int(samples[node])} taken for another class")
        hovers.append("<br>".join(said))
    depth = _shown_depth(hierarchy)
    column = (_PAGE if needs_width(hierarchy) else _HALF_PAGE) / (depth + 1)
    # What a column holds, less the share behind the name.
    longest = min(24, max(8, int(column / _PIXELS_A_LETTER) - 7))
    trace = {
        "type": "icicle",
        "ids": [str(node) for node in range(hierarchy.num_nodes)],
        "parents": ["" if above < 0 else str(above) for above in hierarchy.parent.tolist()],
        "labels": [_label(own, longest) for own in hierarchy.nodes],
        "values": below.tolist(),
        "branchvalues": "total",
        "text": texts,
        "hovertext": hovers,
        "texttemplate": "%{label}  %{text}",
        "textfont": {"color": letters},
        "leaf": {"opacity": 1},
        "hoverinfo": "text",
        "sort": False,
        "maxdepth": depth + 1,
        "marker": {"colors": colours, "line": {"width": 1, "color": "#b8bec8"}},
        "pathbar": {"visible": depth < hierarchy.total_height},
        "tiling": {"orientation": "h"},
    }
    layout = {
        "margin": {"l": 4, "r": 4, "t": 24, "b": 4},
        "height": _height(max(hierarchy.level_sizes[depth], 20)),
        # One size for all; what does not fit is told by pointing at it.
        "uniformtext": {"minsize": 9, "mode": "hide"},
        "xaxis": {"visible": False},
        "yaxis": {"visible": False},
    }
    notes = () if mistakes else ("Nothing was decided wrong.",)
    if depth < hierarchy.total_height:
        notes = (*notes, f"Shown are {depth} levels below a node; click on one to go on.")
    return Panel(
        name,
        "The tree with its mistakes",
        "red: share of the mistakes that meet there, at the lowest common ancestor of the true "
        "and the decided class; blue: share of a class that is taken for another",
        {"data": [trace], "layout": layout},
        notes,
    )


def confusion_panel(name: str, hierarchy: Hierarchy, confusion: np.ndarray) -> Panel:
    """Which class is taken for which, in the order of the tree; groups where classes are many."""
    depth = _shown_depth(hierarchy)
    groups, place = np.unique(hierarchy.levels[:, depth], return_inverse=True)
    order = np.argsort(hierarchy.arrangement.start[groups], kind="stable")
    rank = np.empty(len(groups), int)
    rank[order] = np.arange(len(groups))
    rows = rank[place]  # the row of each class
    counts = np.zeros((len(groups), len(groups)), int)
    np.add.at(counts, (rows[confusion[:, 0]], rows[confusion[:, 1]]), confusion[:, 2])
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    apart = ~np.eye(len(groups), dtype=bool)
    names = [literal(hierarchy.nodes[groups[which]]) for which in order]
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": [
            [rounded(float(x)) if off else None for x, off in zip(row, offs, strict=True)]
            for row, offs in zip(shares, apart, strict=True)
        ],
        "zmin": 0,
        "zmax": rounded(float(shares[apart].max(initial=0.0))) or 1.0,
        "colorscale": [[0, f"rgb{_PALE}"], [1, f"rgb{_RED}"]],
        "showscale": False,
        "hoverongaps": False,
        "hovertemplate": "%{y} taken for %{x}: <b>%{z:.2%}</b><extra></extra>",
    }
    if len(names) <= 12:
        trace |= {"texttemplate": "%{z:.1%}", "textfont": {"size": 10}}
    axis: dict[str, Any] = {"type": "category", "showgrid": False, "zeroline": False, "ticks": ""}
    longest = 20 if needs_width(hierarchy) else 14
    short = [_label(hierarchy.nodes[groups[which]], longest) for which in order]
    axis |= {"tickvals": names, "ticktext": short, "tickfont": {"size": 10}}
    # Lines where a child of the root ends.
    tops = np.array(
        [hierarchy.levels[np.flatnonzero(rows == row)[0], 1] for row in range(len(names))]
    )
    cuts = (np.flatnonzero(np.diff(tops)) + 0.5).tolist() if hierarchy.total_height > 1 else []
    line = {"type": "line", "line": {"width": 1, "color": "#555555"}}
    whole = {"0": -0.5, "1": len(names) - 0.5}
    layout = {
        "height": _height(max(len(names), 20)),
        "xaxis": axis
        | {"title": {"text": "decided", "standoff": 8}, "constrain": "domain", "tickangle": -90},
        "yaxis": axis
        | {"title": {"text": "true", "standoff": 8}, "autorange": "reversed", "scaleanchor": "x"}
        | {"constrain": "domain"},
        "shapes": [
            line
            | {f"{one}{end}": at for end in whole}
            | {f"{two}{end}": to for end, to in whole.items()}
            for at in cuts
            for one, two in (("x", "y"), ("y", "x"))
        ],
    }
    notes = ()
    if depth < hierarchy.total_height:
        notes = (f"Shown are {len(names)} groups of the {hierarchy.num_classes} classes.",)
    return Panel(
        name,
        "What is taken for what",
        "share of the samples of each true class, in the order of the tree; the diagonal is left "
        "out, lines part the children of the root",
        {"data": [trace], "layout": layout},
        notes,
    )


def needs_width(hierarchy: Hierarchy) -> bool:
    """Whether the figures of a tree want the width of the page, one below the other."""
    levels, groups = _MOST_BESIDE
    depth = _shown_depth(hierarchy)
    return depth > levels or hierarchy.level_sizes[depth] > groups


def tree_order(hierarchy: Hierarchy) -> list[int]:
    """The classes in the order in which the tree's leaves stand."""
    starts = hierarchy.arrangement.start[hierarchy.node_of_class]
    return np.argsort(starts, kind="stable").tolist()


def _on_nodes(
    hierarchy: Hierarchy, confusion: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By node: mistakes that meet there; mistakes and samples of the class that it is."""
    true, decided = (hierarchy.node_of_class[confusion[:, column]] for column in (0, 1))
    count, wrong = confusion[:, 2], true != decided
    size = hierarchy.num_nodes
    met = hierarchy.common_ancestor(true[wrong], decided[wrong])
    return (
        np.bincount(met, count[wrong], size),
        np.bincount(true[wrong], count[wrong], size),
        np.bincount(true, count, size),
    )


def _shown_depth(hierarchy: Hierarchy) -> int:
    """The deepest level that has few enough groups to be told apart; at least 1 below the root."""
    fitting = [d for d, size in enumerate(hierarchy.level_sizes) if size <= MOST_GROUPS]
    return min(hierarchy.total_height, max(1, fitting[-1]))


def _bars(label: str, counts: dict[Any, int], colour: str) -> dict[str, Any]:
    total = sum(counts.values())
    return {
        "type": "bar",
        "name": literal(label),
        "x": list(counts),
        "y": [rounded(count / total) for count in counts.values()],
        "text": [f"{share(count / total)} ({count})" for count in counts.values()],
        "textposition": "none",
        "marker": {"color": colour},
        "hovertemplate": "%{fullData.name}, distance %{x}: <b>%{text}</b><extra></extra>",
    }


def _label(name: str, longest: int) -> str:
    return literal(shortened(_SYNSET.sub("", name), longest))


def _mixed(colour: tuple[int, int, int], amount: float) -> tuple[int, ...]:
    pairs = zip(_PALE, colour, strict=True)
    return tuple(round(pale + amount * (full - pale)) for pale, full in pairs)


def _height(groups: int) -> int:
    return max(_LEAST_PIXELS, 60 + _PIXELS_A_GROUP * groups)
