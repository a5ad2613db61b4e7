"""How sure is a metric? Intervals from statistics of parts of the data, without another pass."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

from neuralcollapse.checks import check_matrix
from neuralcollapse.metrics.evaluation import evaluate
from neuralcollapse.metrics.outsiders import nc5_orthogonality
from neuralcollapse.metrics.table import METRICS
from neuralcollapse.metrics.variability import Weighting
from neuralcollapse.scalars import check_number
from neuralcollapse.statistics import ClassStatistics, GlobalMean

_OUTSIDERS = nc5_orthogonality.__name__


@dataclass(frozen=True)
class Interval:
    """A value with what is known of its error.

    Attributes:
        value: of all data together.
        standard_error: of that value, by the jackknife.
        low: lower end of the interval; a metric's own bounds do not cut it.
        high: upper end.
    """

    value: float
    standard_error: float
    low: float
    high: float


def jackknife_intervals(
    parts: Sequence[ClassStatistics],
    weight: Tensor | None = None,
    *,
    metrics: Sequence[str] | None = None,
    known: Mapping[str, Sequence[float]] | None = None,
    global_mean: GlobalMean = "class",
    weighting: Weighting | None = None,
    outsiders: Tensor | None = None,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Intervals of metrics by leaving out one part of the data at a time.

        pseudo_j = h_j * value - (h_j - 1) * value_without_j,  h_j = N / n_j
        standard_error^2 = mean_j((pseudo_j - mean_pseudo)^2 / (h_j - 1))

    with mean_pseudo = sum_j(value - (1 - n_j / N) * value_without_j), the delete-a-group jackknife
    for parts of unequal size (Busing, Meijer, van der Leeden 1999), and Student's quantile with one
    degree of freedom fewer than there are parts. Parts should be alike and independent: shards of
    shuffled data, 10 to 20 of them. Metrics that look at single features have an interval where
    their values are `known`; those that are undefined with or without a part have none.

    A class of a single sample is never left out, since without it the metric would be that of fewer
    classes; the error that it brings is not in the interval. Where a class has n samples, one in
    each of n parts, the error of its mean comes out too wide by sqrt(n / (n - 1)); of three samples
    a class, that of `nc1_trace_unbiased` was 1.3 times the true one.

    Blind to bias: a metric that is off by as much in every part, as NC1 is for few samples per
    class, is off in its interval too.

    Args:
        parts: statistics of parts of the data, at least two with samples.
        weight: (K, d), the classifier, taken as given; without it, its metrics are left out.
        metrics: keys of the metrics; by default all.
        known: by key, what statistics cannot tell: the value of all data, then that without each
            part, in their order.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        weighting: of the covariances; see `nc1`.
        outsiders: (M, d), features of samples of no class, taken as given, for `nc5_orthogonality`.
        confidence: in (0, 1), how often such intervals are to hold the truth.

    Raises:
        ValueError: if fewer than two parts have samples, parts do not fit together, a key is no
            metric, or known values are not one more than parts.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> labels = torch.arange(400) % 4
        >>> features = torch.eye(4)[labels] + 0.3 * torch.randn(400, 4, generator=generator)
        >>> parts = [
        ...     ClassStatistics.from_features(features[j::10], labels[j::10], 4) for j in range(10)
        ... ]
        >>> interval = jackknife_intervals(parts)["cdnv"]
        >>> interval.low < interval.value < interval.high
        True
    """
    confidence = check_number("confidence", confidence, minimum=0, exclusive=True)
    if confidence >= 1:
        raise ValueError(f"confidence must be below 1, got {confidence:g}")
    _check_parts(parts, weight)
    keys = {metric.key for metric in METRICS}
    for key in metrics or ():
        if key not in keys:
            raise ValueError(f"metrics must be keys of METRICS, got {key!r}")
    told = {} if known is None else {key: list(found) for key, found in known.items()}
    for key, found in told.items():
        if len(found) != len(parts) + 1:
            raise ValueError(
                f"known must hold the value of all data and one without each of the {len(parts)} "
                f"parts, got {len(found)} for {key!r}"
            )
    whole = reduce(ClassStatistics.merge, parts) if parts else None
    sizes = [] if whole is None else sizes_to_leave_out(parts, whole)
    full = [j for j, size in enumerate(sizes) if size]
    if whole is None or len(full) < 2:
        raise ValueError(
            f"parts must be at least two with samples, got {len(full)} (classes of a single sample "
            "do not count); cut the data into 10 to 20"
        )
    told = {key: [found[0], *(found[j + 1] for j in full)] for key, found in told.items()}
    # The others hold nothing but classes of a single sample, which are put back anyway.
    parts, sizes = [parts[j] for j in full], [sizes[j] for j in full]
    others = {} if metrics is None else dict.fromkeys(keys - {*metrics}, "not asked for")

    def values_of(statistics: ClassStatistics, same: Mapping[str, float]) -> dict[str, float]:
        given = {**same, **others}
        if outsiders is not None and _OUTSIDERS not in given:
            given[_OUTSIDERS] = float(nc5_orthogonality(statistics, outsiders))
        return evaluate(
            statistics, weight, global_mean=global_mean, weighting=weighting, known=given
        )[0]

    values = values_of(whole, {})
    # What looks at the classifier alone is the same without a part that holds no class alone.
    alone = {row.key: values[row.key] for row in METRICS if row.needs == ("weight",)}
    without = []
    for rest in _rests(parts):
        left = _with_single_samples(rest, whole)
        same = alone if torch.equal(left.seen, whole.seen) else {}
        without.append(values_of(left, same))
    for key, (value_of_all, *rest_values) in told.items():
        if metrics is None or key in metrics:
            values[key] = value_of_all
            for one, value in zip(without, rest_values, strict=True):
                one[key] = value
    quantile = float(student.ppf((1 + confidence) / 2, len(parts) - 1))
    intervals = {}
    for key, value in values.items():
        error = _standard_error(value, [one[key] for one in without], sizes)
        if math.isfinite(error):
            reach = quantile * error
            intervals[key] = Interval(value, error, value - reach, value + reach)
    return intervals


def sizes_to_leave_out(parts: Sequence[ClassStatistics], whole: ClassStatistics) -> list[int]:
    """Samples by part, without those that are their class's only one in the whole."""
    several = whole.counts > 1
    return [int(part.counts.to(several.device)[several].sum()) for part in parts]


def _rests(
    parts: Sequence[ClassStatistics], others: ClassStatistics | None = None
) -> Iterator[ClassStatistics]:
    """All but one part, for each in turn, by halves: few are held in memory at a time."""
    if len(parts) == 1:
        if others is not None:
            yield others
        return
    half = len(parts) // 2
    for own, there in ((parts[:half], parts[half:]), (parts[half:], parts[:half])):
        beside = there if others is None else [others, *there]
        yield from _rests(own, reduce(ClassStatistics.merge, beside))


def _with_single_samples(rest: ClassStatistics, whole: ClassStatistics) -> ClassStatistics:
    """The rest with the classes put back that have a single sample, which is their mean."""
    missing = (whole.counts == 1) & ~rest.seen
    return replace(
        rest,
        counts=torch.where(missing, whole.counts, rest.counts),
        means=torch.where(missing[:, None], whole.means, rest.means),
    )


def _check_parts(parts: Any, weight: Tensor | None) -> None:
    if not isinstance(parts, Sequence) or not all(isinstance(p, ClassStatistics) for p in parts):
        held = {type(part).__name__ for part in parts} if isinstance(parts, Sequence) else set()
        given = f"{type(parts).__name__}{' of ' if held else ''}{', '.join(sorted(held))}"
        raise TypeError(f"parts must be a list of ClassStatistics, got {given}")
    if weight is not None and parts:
        rows, columns = parts[0].means.shape
        check_matrix("weight", weight, rows=rows, columns=columns, why="as the parts have")


def _standard_error(value: float, without: Sequence[float], sizes: Sequence[int]) -> float:
    """The jackknife's, from the values without each part; nan if one is not a number."""
    total, number = sum(sizes), len(sizes)
    # Around the value itself, so that tiny differences of large numbers keep their digits.
    centre = sum((1 - n / total) * (value - w) for n, w in zip(sizes, without, strict=True))
    variance = 0.0
    for n, w in zip(sizes, without, strict=True):
        ratio = total / n
        variance += ((ratio - 1) * (value - w) - centre) ** 2 / (ratio - 1)
    return math.sqrt(variance / number)
