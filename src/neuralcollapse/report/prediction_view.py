"""A prediction as a page shows it: alone, or beside the run that it was made for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuralcollapse.forecast import forecast
from neuralcollapse.geometry import gram_distance, simplex_gram
from neuralcollapse.report.figures import Panel
from neuralcollapse.report.history import History
from neuralcollapse.report.prediction_figures import (
    distances_panel,
    prediction_panels,
    ratios_panel,
)
from neuralcollapse.report.wording import shown
from neuralcollapse.theory import Prediction

_MOST_ROWS = 200


@dataclass(frozen=True)
class PredictionView:
    """What a page says of a prediction.

    Attributes:
        label: of the run, or empty.
        kind: what is predicted, or why nothing can be.
        regime: in a sentence.
        facts: further numbers in words.
        warnings: of the prediction.
        panels: figures.
        heading: of the columns of `rows`.
        rows: one per class, as text.
    """

    label: str
    kind: str
    regime: str = ""
    facts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    panels: tuple[Panel, ...] = ()
    heading: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def view_alone(prediction: Prediction) -> PredictionView:
    """A prediction without a run."""
    heading = ("class", "samples", "norm(w)²", "norm(h)²", "logit", "confidence", "status")
    rows = []
    square = len(prediction.classifier_norm_squared) == prediction.num_classes
    for k in range(min(prediction.num_classes, _MOST_ROWS)):
        weight = float(prediction.classifier_norm_squared[k]) if square else None
        numbers = (
            weight,
            float(prediction.feature_norm_squared[k]),
            _finite(float(prediction.logit[k])),
            _finite(float(prediction.confidence[k])),
        )
        rows.append(
            (str(k), f"{int(prediction.counts[k])}", *map(shown, numbers), prediction.status[k])
        )
    return PredictionView(
        "",
        prediction.kind,
        prediction.regime,
        _facts(prediction),
        prediction.warnings,
        tuple(prediction_panels(prediction)),
        heading,
        tuple(rows),
    )


def view_of_run(place: int, history: History) -> PredictionView:
    """The prediction made from a run's configuration, with what the run measured beside it."""
    counts = (history.run.info.get("counts") or {}).get("train") or history.final["train"]["counts"]
    try:
        prediction = forecast(history.run.config, counts)
    except ValueError as error:
        return PredictionView(history.label, f"No prediction: {error}.")
    epochs = history.run.snapshot_epochs()
    snapshots = [history.run.snapshot(epoch) for epoch in epochs]
    name = f"prediction-{place}"
    if not snapshots:
        view = view_alone(prediction)
        return PredictionView(**{**view.__dict__, "label": history.label})
    means, weight = (snapshots[-1][key].double() for key in ("means", "weight"))
    compared = prediction.compare(means, weight)
    panels = [
        distances_panel(epochs, _distances(prediction, snapshots), f"{name}-distances"),
        ratios_panel(epochs, _ratios(prediction, snapshots), f"{name}-ratios"),
        *prediction_panels(prediction, name=name, means=means, weight=weight),
    ]
    heading = (
        "class", "samples", "norm(w)² predicted", "measured", "norm(h)² predicted", "measured",
        "verdict",
    )  # fmt: skip
    rows = [
        (
            history.classes[k],
            f"{int(prediction.counts[k])}",
            shown(float(prediction.classifier_norm_squared[k])),
            shown(float(weight[k].square().sum())),
            shown(float(prediction.feature_norm_squared[k])),
            shown(float(means[k].square().sum())),
            compared["verdict"][k],
        )
        for k in range(min(prediction.num_classes, _MOST_ROWS))
    ]
    return PredictionView(
        history.label,
        prediction.kind,
        prediction.regime,
        _facts(prediction),
        prediction.warnings,
        tuple(panels),
        heading,
        tuple(rows),
    )


def _facts(prediction: Prediction) -> tuple[str, ...]:
    facts = [f"objective {prediction.objective:.6g}", f"rank {prediction.rank}"]
    if prediction.threshold is not None:
        facts.append(f"classes of up to {prediction.threshold:.4g} samples do not survive")
    if prediction.spinodal not in (None, prediction.threshold):
        facts.append(f"spinodal at {prediction.spinodal:.4g} samples")
    if prediction.certificate is not None:
        facts.append(f"certified to {prediction.certificate:.1e} of the objective")
    if prediction.weight_decay is not None:
        decays = ", ".join(f"{decay:.4g}" for decay in prediction.weight_decay)
        facts.append(f"weight decay {decays}")
    if prediction.feature_decay is not None:
        facts.append(f"feature decay {prediction.feature_decay:.4g}")
    if prediction.reference:
        facts.append(prediction.reference)
    return tuple(facts)


def _distances(
    prediction: Prediction, snapshots: Sequence[dict[str, Tensor]]
) -> dict[str, list[float | None]]:
    classes = prediction.num_classes
    targets = {
        "predicted": prediction.gram_classifier,
        "simplex ETF": simplex_gram(classes),
        "orthogonal frame": torch.eye(classes, dtype=torch.float64),
    }
    grams = [snapshot["weight"].double() for snapshot in snapshots]
    return {
        what: [_finite(float(gram_distance(rows @ rows.T, target))) for rows in grams]
        for what, target in targets.items()
    }


def _ratios(
    prediction: Prediction, snapshots: Sequence[dict[str, Tensor]]
) -> dict[str, list[float | None]]:
    totals = {
        "classifier": ("weight", float(prediction.classifier_norm_squared.sum())),
        "class means": ("means", float(prediction.feature_norm_squared.sum())),
    }
    return {
        what: [
            _finite((float(snapshot[key].double().square().sum()) / total) ** 0.5)
            if total > 0
            else None
            for snapshot in snapshots
        ]
        for what, (key, total) in totals.items()
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def figures_of(views: Sequence[PredictionView]) -> dict[str, Any]:
    """The figures of the panels by name."""
    return {
        panel.name: panel.figure
        for view in views
        for panel in view.panels
        if panel.figure is not None
    }
