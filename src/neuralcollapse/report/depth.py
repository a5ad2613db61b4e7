"""Collapse by depth: figures of the layers that runs or measurements hold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neuralcollapse.layers import DepthProfile, SeparationLaw
from neuralcollapse.report.figures import (
    Panel,
    literal,
    log_axis,
    place_symbol,
    rounded,
    run_colour,
    shortened,
)
from neuralcollapse.report.history import History
from neuralcollapse.report.wording import shown

# Key, heading, subtitle, logarithmic.
_PANELS = (
    ("nc1", "By depth: NC1", "within-class variability of every layer, log scale", True),
    (
        "nc1_trace_ratio",
        "By depth: NC1, ratio of variances",
        "within-class over between-class variance of every layer, log scale",
        True,
    ),
    ("vci", "By depth: VCI", "what no linear map of a layer turns into labels", False),
    ("cdnv", "By depth: CDNV", "variance over distance, by pairs of classes, log scale", True),
    (
        "features_effective_rank",
        "By depth: effective rank",
        "directions that the features of a layer fill",
        False,
    ),
    (
        "effective_rank",
        "By depth: effective rank, class means",
        "directions that the class means of a layer fill",
        False,
    ),
)
# So many names of layers have room below a figure, and what each letter of the longest takes.
_MOST_NAMES = 12
_HEIGHT, _LETTER = 240, 6
# Names up to this long lie flat.
_MOST_LETTERS = 3


@dataclass(frozen=True)
class Depth:
    """The layers of one run or measurement.

    Attributes:
        place: of the run or measurement on the page, which gives the colour.
        label: what it is called.
        caption: what else is said of it, such as the epoch; may be empty.
        profile: the layers.
    """

    place: int
    label: str
    caption: str
    profile: DepthProfile

    @property
    def said(self) -> str:
        """Label and caption."""
        return ", ".join(filter(None, (self.label, self.caption)))


def depths_of_runs(histories: Sequence[History]) -> list[Depth]:
    """The layers of the last epoch of each run that measured them."""
    found = []
    for place, history in enumerate(histories):
        for row in reversed(history.rows):
            values = (row.get("train") or {}).get("depth")
            if values is not None:
                caption, profile = f"epoch {row['epoch']}", DepthProfile.from_dict(values)
                found.append(Depth(place, history.label, caption, profile))
                break
    return found


def depth_panels(depths: Sequence[Depth]) -> list[Panel]:
    """A panel for each metric that some layer has."""
    panels: list[Panel] = []
    for key, heading, subtitle, logarithmic in _PANELS:
        if key == "nc1_trace_ratio" and not any(_by_trace(depth.profile) for depth in depths):
            continue
        data: list[dict[str, Any]] = []
        for depth in depths:
            data.append(_curve(depth, key, logarithmic))
            if depth.profile.law is not None and depth.profile.law.metric == key:
                data += _line(depth, depth.profile.law)
            data += _tunnel(depth, key, logarithmic)
        heights = [value for trace in data for value in trace["y"] if value is not None]
        if not heights:
            continue
        profiles = [depth.profile for depth in depths]
        longest = max(map(len, _names(profiles).values()), default=0)
        layout = {
            "showlegend": False,
            "hovermode": "closest",
            "height": _HEIGHT + (_LETTER * longest if longest > _MOST_LETTERS else 0),
            "xaxis": {"title": {"text": "layer", "standoff": 4, "font": {"size": 11}}}
            | _ticks(profiles),
            "yaxis": log_axis(heights) if logarithmic else {"rangemode": "tozero"},
        }
        figure = {"data": data, "layout": layout}
        panels.append(Panel(f"depth_{key}", heading, subtitle, figure))
    return panels


def depth_notes(depths: Sequence[Depth]) -> tuple[str, ...]:
    """What the profiles say in words; the template escapes it."""
    return tuple(_note(depth) for depth in depths)


def without_depth(labels: Sequence[str], depths: Sequence[Depth]) -> list[str]:
    """Which runs or measurements have no layers."""
    places = {depth.place for depth in depths}
    return [label for place, label in enumerate(labels) if place not in places]


def _by_trace(profile: DepthProfile) -> bool:
    """Whether some layer is too wide for NC1, so that the law rests on the ratio of traces."""
    return profile.law is not None and profile.law.metric == "nc1_trace_ratio"


def _names(profiles: Sequence[DepthProfile]) -> dict[int, str]:
    """Names below the axis by place; none where the profiles have different layers."""
    names = [[layer.name for layer in profile.layers] for profile in profiles]
    if any(own != names[0] for own in names):
        return {}
    step = -(-len(names[0]) // _MOST_NAMES) or 1
    return {place: shortened(names[0][place]) for place in range(0, len(names[0]), step)}


def _ticks(profiles: Sequence[DepthProfile]) -> dict[str, Any]:
    names = _names(profiles)
    if not names:
        few = max(len(profile.layers) for profile in profiles) <= _MOST_NAMES
        return {"dtick": 1} if few else {}
    upright = max(map(len, names.values())) > _MOST_LETTERS
    return {
        "tickvals": [*names],
        "ticktext": [literal(name) for name in names.values()],
        # Slanting ones would leave the figure, and plotly then hides them.
        "tickangle": -90 if upright else 0,
    }


def _drawn(profile: DepthProfile, key: str, logarithmic: bool) -> list[float | None]:
    """A logarithmic axis has no place for zero, and JSON none for nan."""
    values = [layer.metrics.get(key, math.nan) for layer in profile.layers]
    return [
        rounded(value) if math.isfinite(value) and (value > 0 or not logarithmic) else None
        for value in values
    ]


def _texts(profile: DepthProfile, key: str) -> list[str]:
    values = [layer.metrics.get(key, math.nan) for layer in profile.layers]
    return [
        literal(f"{layer.name} ({layer.dim}): {shown(value if math.isfinite(value) else None)}")
        for layer, value in zip(profile.layers, values, strict=True)
    ]


def _curve(depth: Depth, key: str, logarithmic: bool) -> dict[str, Any]:
    heights = _drawn(depth.profile, key, logarithmic)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": literal(depth.said),
        "x": [*range(len(heights))],
        "y": heights,
        "text": _texts(depth.profile, key),
        "meta": _meta(depth),
        "line": {"color": run_colour(depth.place), "width": 2},
        "marker": {"size": 5, "symbol": place_symbol(depth.place)},
        "hovertemplate": "%{meta[0]} %{meta[1]}<br><b>%{text}</b><extra></extra>",
    }


def _line(depth: Depth, law: SeparationLaw) -> list[dict[str, Any]]:
    """The separation law; nothing where a damaged file leads out of the numbers."""
    places = [*range(len(depth.profile.layers))]
    try:
        heights = [law.start * law.rho**place for place in places]
    except OverflowError:
        return []
    if not all(math.isfinite(height) and height > 0 for height in heights):
        return []
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": literal(f"{depth.said}, separation law"),
            "x": places,
            "y": [rounded(height) for height in heights],
            "meta": _meta(depth),
            "line": {"color": run_colour(depth.place), "width": 1, "dash": "dot"},
            "hoverinfo": "skip",
        }
    ]


def _tunnel(depth: Depth, key: str, logarithmic: bool) -> list[dict[str, Any]]:
    """A ring around the layer at which the tunnel begins."""
    names = [layer.name for layer in depth.profile.layers]
    if depth.profile.tunnel not in names:
        return []
    first = names.index(depth.profile.tunnel)
    height = _drawn(depth.profile, key, logarithmic)[first]
    if height is None:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": literal(f"{depth.said}, tunnel"),
            "x": [first],
            "y": [height],
            "text": [_texts(depth.profile, key)[first]],
            "meta": _meta(depth),
            "marker": {
                "size": 14,
                "symbol": "circle-open",
                "color": run_colour(depth.place),
                "line": {"width": 2},
            },
            "hovertemplate": "%{meta[0]} %{meta[1]}<br>the tunnel begins<br><b>%{text}</b>"
            "<extra></extra>",
        }
    ]


def _meta(depth: Depth) -> list[Any]:
    """Label and caption to show; the place and the split, by which the page hides curves."""
    return [literal(depth.label), literal(depth.caption), depth.place, "train"]


def _note(depth: Depth) -> str:
    profile = depth.profile
    said = f"{depth.said}, pooled by {profile.pooling}"
    if profile.law is not None:
        said += (
            f": {profile.law.metric} goes by the factor {profile.law.rho:.3g} from layer to layer "
            f"(dotted, R² {profile.law.r_squared:.3g})"
        )
    elif profile.no_law is not None:
        said += f": there is no separation law, it {profile.no_law}"
    if profile.tunnel is not None:
        said += f"; the tunnel begins at {profile.tunnel} (ring)"
    return said + "."
