"""A prediction as a page shows it: alone, or beside the run that it was made for."""

import dataclasses
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
_MOST_COMPARED = 2000
_LONGEST_STATUS = 80


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
        cut: what the table leaves out, or empty.
    """

    label: str
    kind: str
    regime: str = ""
    facts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    panels: tuple[Panel, ...] = ()
    heading: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    cut: str = ""


def view_alone(prediction: Prediction) -> PredictionView:
    """A prediction without a run."""
    classes, shown_classes = prediction.num_classes, min(prediction.num_classes, _MOST_ROWS)
    names = [str(k) for k in range(classes)]
    return PredictionView(
        label="",
        kind=prediction.kind,
        regime=prediction.regime,
        facts=_facts(prediction),
        warnings=prediction.warnings,
        panels=tuple(prediction_panels(prediction)),
        heading=("class", "samples", "norm(w)²", "norm(h)²", "logit", "confidence", "status"),
        rows=_predicted_rows(prediction, names[:shown_classes]),
        cut=_cut(classes),
    )


def view_of_run(place: int, history: History) -> PredictionView:
    """The prediction made from a run's configuration, with what the run measured beside it."""
    counts = (history.run.info.get("counts") or {}).get("train") or history.final["train"]["counts"]
    try:
        prediction = forecast(history.run.config, counts)
    except ValueError as error:
        return PredictionView(history.label, f"No prediction: {error}.")
    alone = dataclasses.replace(view_alone(prediction), label=history.label)
    name = f"prediction-{place}"
    epochs = history.run.snapshot_epochs()
    why = _not_comparable(history, prediction, epochs)
    if why:
        return dataclasses.replace(
            alone,
            warnings=(*alone.warnings, why),
            panels=tuple(prediction_panels(prediction, name=name)),
            rows=_predicted_rows(prediction, history.classes[:_MOST_ROWS]),
        )
    snapshots = [history.run.snapshot(epoch) for epoch in epochs]
    means, weight = (snapshots[-1][key].double() for key in ("means", "weight"))
    verdicts = prediction.compare(means, weight)["verdict"]
    panels = [
        distances_panel(
            epochs, _distances(prediction, snapshots, key), f"{name}-distances-{key}", what
        )
        for key, what in (("weight", "classifier"), ("means", "class means"))
    ]
    panels.append(ratios_panel(epochs, _ratios(prediction, snapshots), f"{name}-ratios"))
    panels += prediction_panels(prediction, name=name, means=means, weight=weight)
    rows = [
        (
            history.classes[k],
            f"{int(prediction.counts[k])}",
            shown(float(prediction.classifier_norm_squared[k])),
            shown(float(weight[k].square().sum())),
            shown(float(prediction.feature_norm_squared[k])),
            shown(float(means[k].square().sum())),
            verdicts[k],
        )
        for k in range(min(prediction.num_classes, _MOST_ROWS))
    ]
    return dataclasses.replace(
        alone,
        panels=tuple(panels),
        heading=(
            "class",
            "samples",
            "norm(w)² predicted",
            "measured",
            "norm(h)² predicted",
            "measured",
            "verdict",
        ),
        rows=tuple(rows),
    )


def _not_comparable(history: History, prediction: Prediction, epochs: Sequence[int]) -> str:
    """Why nothing measured stands beside the prediction, or nothing."""
    if not epochs:
        return "no snapshots were kept of this run, so that nothing measured is shown"
    if history.run.config.get("normalize"):
        return (
            "the features of this run were measured at unit length (normalize), so that their "
            "norms cannot be compared"
        )
    if prediction.num_classes > _MOST_COMPARED:
        return f"of more than {_MOST_COMPARED} classes nothing measured is shown"
    return ""


def _predicted_rows(prediction: Prediction, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    square = len(prediction.classifier_norm_squared) == prediction.num_classes
    rows = []
    for k, name in enumerate(names):
        numbers = (
            float(prediction.classifier_norm_squared[k]) if square else None,
            float(prediction.feature_norm_squared[k]),
            _finite(float(prediction.logit[k])),
            _finite(float(prediction.confidence[k])),
        )
        count = f"{int(prediction.counts[k])}"
        status = prediction.status[k]
        if len(status) > _LONGEST_STATUS:
            status = f"{status[:_LONGEST_STATUS].rpartition(',')[0]}, ..."
        rows.append((name, count, *map(shown, numbers), status))
    return tuple(rows)


def _cut(classes: int) -> str:
    if classes <= _MOST_ROWS:
        return ""
    return f"The first {_MOST_ROWS} of {classes} classes; --json has all of them."


def _facts(prediction: Prediction) -> tuple[str, ...]:
    facts = [f"objective {prediction.objective:.6g}", f"rank {prediction.rank}"]
    if prediction.threshold is not None:
        # Under cross entropy classes merge, but for means at right angles, which vanish.
        vanish = "orthogonal" in prediction.kind or prediction.loss in ("mse", "weighted_mse")
        which, fate = ("classes", "do not survive") if vanish else ("equal classes", "merge")
        facts.append(f"{which} of up to {prediction.threshold:.4g} samples {fate}")
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
    prediction: Prediction, snapshots: Sequence[dict[str, Tensor]], key: str
) -> dict[str, list[float | None]]:
    """Distances of the classifier ("weight") or of the class means ("means") from three targets."""
    classes = prediction.num_classes
    targets = {
        "predicted": getattr(prediction, _GRAMS[key]),
        "simplex ETF": simplex_gram(classes),
        "orthogonal frame": torch.eye(classes, dtype=torch.float64),
    }
    grams = [rows @ rows.T for rows in (snapshot[key].double() for snapshot in snapshots)]
    return {what: [_distance(gram, target) for gram in grams] for what, target in targets.items()}


_GRAMS = {"weight": "gram_classifier", "means": "gram_features"}


def _distance(gram: Tensor, target: Tensor) -> float | None:
    """None where one of them is zero: nothing lies in its direction."""
    if not (bool(gram.any()) and bool(target.any())):
        return None
    return _finite(float(gram_distance(gram, target)))


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
