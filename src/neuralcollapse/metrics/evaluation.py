"""Every row of the table on given statistics: its value, or the reason why there is none."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from neuralcollapse.checks import check_matrix
from neuralcollapse.metrics.pairs import PairMean, Vectors, pair_metrics
from neuralcollapse.metrics.table import METRICS, Metric
from neuralcollapse.metrics.variability import Weighting
from neuralcollapse.statistics import ClassStatistics, GlobalMean, check_statistics

# Of more classes a sweep over all pairs takes minutes a metric, and an hour for a million.
_MOST_SWEPT = 1 << 15
# Their means over pairs are then known to four digits or so.
_DRAWN = 1 << 22


def evaluate(
    statistics: ClassStatistics,
    weight: Tensor | None = None,
    *,
    global_mean: GlobalMean = "class",
    weighting: Weighting | None = None,
    known: Mapping[str, float | str] | None = None,
) -> tuple[dict[str, float], dict[str, str]]:
    """Every metric of the table: (values by key, reasons by key for those that are undefined).

    Args:
        statistics: of the features that enter the classifier.
        weight: (K, d), the classifier; without it, metrics of it are undefined.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        weighting: of the covariances, as of `nc1`.
        known: metrics that need the features themselves, computed by the caller: a value, or the
            reason why there is none.

    Metrics of pairs of classes share one sweep over the class means, and one over the classifier.
    Of more than 32,768 classes they draw 4,194,304 pairs, always the same.

    Returns:
        Values, nan where undefined or infinite, and the reason for each nan. A metric of features
        from outside of the classes is left out where it is not known.
    """
    check_statistics(statistics)
    if weight is not None:
        weight = weight.detach().to(statistics.means.device)
    num_seen = int(statistics.seen.sum())
    outcomes: dict[str, float | str] = dict(known or {})
    for metric in METRICS:
        missing = _missing(metric, statistics, weight, weighting, num_seen)
        if metric.key not in outcomes and missing is not None:
            outcomes[metric.key] = missing
    unknown = [metric for metric in METRICS if metric.key not in outcomes]
    outcomes |= _of_pairs(unknown, statistics, weight, global_mean, num_seen)
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for metric in METRICS:
        outcome = outcomes.get(metric.key)
        if outcome is None and "outsiders" in metric.needs:
            continue
        if outcome is None:
            outcome = _value(metric, statistics, weight, global_mean, weighting)
        if isinstance(outcome, float) and not math.isfinite(outcome):
            outcome = _why(metric, outcome, statistics, weight, global_mean)
        values[metric.key] = outcome if isinstance(outcome, float) else math.nan
        if isinstance(outcome, str):
            reasons[metric.key] = outcome
    return values, reasons


def pairs_drawn(num_seen: int) -> int | None:
    """How many pairs of so many classes `evaluate` draws for metrics of pairs; None for all."""
    return _DRAWN if num_seen > _MOST_SWEPT else None


def _missing(
    metric: Metric,
    statistics: ClassStatistics,
    weight: Tensor | None,
    weighting: Weighting | None,
    num_seen: int,
) -> str | None:
    if "weight" in metric.needs and weight is None:
        return "no classifier weight was given"
    if "features" in metric.needs:
        return "needs the features themselves, not only their statistics"
    if "scatter" in metric.needs and statistics.scatter is None:
        return "the statistics were accumulated without scatter"
    if weighting == "balanced" and "scatter" in metric.needs and metric.takes_weighting:
        counts = statistics.counts[statistics.seen]
        if bool((counts != counts[:1]).any()):
            return "balanced classes need the features themselves, not only their pooled scatter"
    return too_many(metric, num_seen)


def too_many(metric: Metric, num_seen: int) -> str | None:
    """Why a metric is left out for so many classes, or None."""
    if metric.most_classes is None or num_seen <= metric.most_classes:
        return None
    return (
        f"takes long for more than {metric.most_classes} classes, got {num_seen}; call "
        f"{metric.key} if that is meant"
    )


def _value(
    metric: Metric,
    statistics: ClassStatistics,
    weight: Tensor | None,
    global_mean: GlobalMean,
    weighting: Weighting | None,
) -> float:
    given: dict[str, Any] = {"statistics": statistics, "weight": weight}
    if weight is not None and "statistics" not in metric.needs:
        given["weight"] = weight[statistics.seen]
    arguments = [given[need] for need in metric.needs if need in given]
    options: dict[str, Any] = {"global_mean": global_mean} if metric.takes_global_mean else {}
    if metric.takes_weighting:
        options["weighting"] = weighting
    return float(metric.function(*arguments, **options))


def _of_pairs(
    metrics: Sequence[Metric],
    statistics: ClassStatistics,
    weight: Tensor | None,
    global_mean: GlobalMean,
    num_seen: int,
) -> dict[str, float]:
    """Those of the metrics that run over pairs, by key: of the same vectors in one sweep.

    One that can do without joins a sweep over all pairs that others make anyway.
    """
    drawn = pairs_drawn(num_seen)
    by_vectors: dict[GlobalMean | Literal["weight"], list[tuple[Metric, PairMean]]] = {}
    for metric in metrics:
        if metric.of_pairs is not None and (metric.takes_pairs or drawn is None):
            centre = global_mean if metric.takes_global_mean else "class"
            source = "weight" if "weight" in metric.needs else centre
            by_vectors.setdefault(source, []).append((metric, metric.of_pairs))
    values: dict[str, float] = {}
    for source, members in by_vectors.items():
        if not any(metric.takes_pairs for metric, _ in members):
            continue
        if source != "weight":
            vectors = Vectors(statistics.centred_means(source), statistics.variances)
        elif weight is not None:
            vectors = Vectors(check_matrix("weight", weight[statistics.seen]))
        else:
            continue
        generator = torch.Generator().manual_seed(0)  # the same pairs every time
        found = pair_metrics(vectors, [mean for _, mean in members], drawn, generator)
        for (metric, _), value in zip(members, found, strict=True):
            values[metric.key] = float(value)
    return values


def _why(
    metric: Metric,
    value: float,
    statistics: ClassStatistics,
    weight: Tensor | None,
    global_mean: GlobalMean,
) -> str:
    """The reason for a value that is not finite."""
    num_seen = int(statistics.seen.sum())
    if num_seen < 2:
        return f"needs two classes with samples, got {num_seen} of {statistics.num_classes}"
    if "weight" in metric.needs and weight is not None:
        if len(weight) < 2:
            return "needs a classifier of two classes or more"
        broken = (~torch.isfinite(weight).all(1)).nonzero().flatten().tolist()
        if broken:
            return f"rows {broken[:5]} of the classifier are not finite"
        zero_rows = (weight.norm(dim=1) == 0).nonzero().flatten().tolist()
        if zero_rows:
            return f"rows {zero_rows[:5]} of the classifier are zero and have no direction"
    if math.isinf(value):
        return _INFINITE.get(metric.key, "infinite: two class means have the same direction")
    centred = statistics.centred_means(global_mean)
    if metric.key == "nc1_trace_unbiased" and bool(centred.any()):
        if statistics.num_samples <= num_seen:
            return "no class has two samples, so that nothing tells how much they vary"
        return "the class means lie no farther apart than the noise of so few samples puts them"
    if metric.key in _REFERENCES and not bool((centred == 0).all(1).any()):
        return _no_reference(metric.key, num_seen, statistics.dim)
    return "class means coincide with each other or with the global mean"


_INFINITE = {
    "cdnv": "infinite: the means of two classes coincide",
    "gnc3_alignment_spread": "infinite: the mean cosine of classifier and class means is zero",
}
# What their references are, and the energy that `reference_energy` keeps of it.
_REFERENCES = {
    "gnc2_energy_gap": ("least energy", "'log'"),
    "gnc2_margin": ("largest margin", "'softmax_code'"),
}


def _no_reference(key: str, num_seen: int, dim: int) -> str:
    if dim == 1:
        return f"one dimension has two directions, not {num_seen}"
    what, energy = _REFERENCES[key]
    unknown = f"the {what} of {num_seen} directions in {dim} dimensions has no closed form"
    if pairs_drawn(num_seen) is not None:
        return f"{unknown}, and they are too many to solve for it"
    return (
        f"{unknown}; reference_energy({num_seen}, {dim}, {energy}) solves for it once and keeps it"
    )
