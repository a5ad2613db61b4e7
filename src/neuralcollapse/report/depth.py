"""Collapse by depth: figures of the layers that a run measured."""

from collections.abc import Sequence
from typing import Any

from neuralcollapse.depth import DepthProfile, SeparationLaw
from neuralcollapse.report.figures import Panel, literal, rounded, run_colour
from neuralcollapse.report.history import History
from neuralcollapse.report.wording import shown

# Key, heading, subtitle, logarithmic.
_PANELS = (
    ("nc1", "By depth: NC1", "within-class variability of every layer, log scale", True),
    ("vci", "By depth: VCI", "what no linear map of a layer turns into labels", False),
    (
        "features_effective_rank",
        "By depth: effective rank",
        "directions that the features of a layer fill",
        False,
    ),
)


def depth_panels(histories: Sequence[History]) -> list[Panel]:
    """The layers of the last epoch of each run that measured them; nothing where none did."""
    profiles = [(run, _last(history)) for run, history in enumerate(histories)]
    known = [(run, *found) for run, found in profiles if found is not None]
    panels = []
    for key, heading, subtitle, logarithmic in _PANELS:
        data: list[dict[str, Any]] = []
        for run, epoch, profile in known:
            data.append(_curve(histories[run], run, epoch, profile, key, logarithmic))
            law = profile.law
            if key == "nc1" and law is not None and law.metric == key:
                data.append(_line(histories[run], run, law, len(profile.layers)))
        if not any(value is not None for trace in data for value in trace["y"]):
            continue
        layout = {
            "showlegend": False,
            "hovermode": "closest",
            "xaxis": {"title": {"text": "layer", "standoff": 4, "font": {"size": 11}}, "dtick": 1},
            "yaxis": {"type": "log", "exponentformat": "power"}
            if logarithmic
            else {"rangemode": "tozero"},
        }
        if len(data) and max(len(trace["x"]) for trace in data) > 12:
            del layout["xaxis"]["dtick"]
        notes = tuple(_note(histories[run], epoch, found) for run, epoch, found in known)
        name = f"depth_{key}"
        figure = {"data": data, "layout": layout}
        panels.append(Panel(name, heading, subtitle, figure, notes if key == "nc1" else ()))
    return panels


def _last(history: History) -> tuple[int, DepthProfile] | None:
    """The last epoch with layers, and they."""
    for row in reversed(history.rows):
        values = (row.get("train") or {}).get("depth")
        if values is not None:
            return row["epoch"], DepthProfile.from_dict(values)
    return None


def _curve(
    history: History, run: int, epoch: int, profile: DepthProfile, key: str, logarithmic: bool
) -> dict[str, Any]:
    values = [layer.metrics.get(key, float("nan")) for layer in profile.layers]
    # A logarithmic axis has no place for zero, and JSON none for nan.
    drawn = [
        value if value == value and (value > 0 or not logarithmic) else None for value in values
    ]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": literal(f"{history.label}, epoch {epoch}"),
        "x": [*range(len(values))],
        "y": [rounded(value) for value in drawn],
        "text": [
            literal(f"{layer.name} ({layer.dim}): {shown(value if value == value else None)}")
            for layer, value in zip(profile.layers, values, strict=True)
        ],
        "meta": [literal(history.label), f"epoch {epoch}"],
        "line": {"color": run_colour(run), "width": 2},
        "marker": {"size": 5},
        "hovertemplate": "%{meta[0]}, %{meta[1]}<br><b>%{text}</b><extra></extra>",
    }


def _line(history: History, run: int, law: SeparationLaw, num_layers: int) -> dict[str, Any]:
    """The separation law."""
    places = [*range(num_layers)]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": literal(f"{history.label}, separation law"),
        "x": places,
        "y": [rounded(law.start * law.rho**place) for place in places],
        "line": {"color": run_colour(run), "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
    }


def _note(history: History, epoch: int, profile: DepthProfile) -> str:
    """What the profile of a run says in words; the template escapes it."""
    said = f"{history.label}, epoch {epoch}, pooled by {profile.pooling}"
    if profile.law is not None:
        said += (
            f": {profile.law.metric} goes by the factor {profile.law.rho:.3g} from layer to layer "
            f"(R² {profile.law.r_squared:.3g})"
        )
    if profile.tunnel is not None:
        said += f"; the tunnel begins at {profile.tunnel}"
    return said + "."
