"""NC1: how much samples of one class vary, relative to how far the classes lie apart."""

from typing import Literal

import torch
from torch import Tensor

from neuralcollapse.metrics.pairs import PairMean, Pairs, Vectors, pair_metrics
from neuralcollapse.scalars import check_choice
from neuralcollapse.spectrum import mean_spectrum
from neuralcollapse.statistics import ClassStatistics, GlobalMean, check_statistics

Weighting = Literal["balanced", "samples"]

# With smaller pivots a Cholesky factor loses the small eigenvalues; they are then looked for.
_LEAST_PIVOT = 1e-8
# Variances below this share of all are the rounding of features in single precision.
_LEAST_VARIANCE = 1e-12


def nc1(
    statistics: ClassStatistics,
    *,
    global_mean: GlobalMean = "class",
    weighting: Weighting | None = None,
) -> Tensor:
    """Within-class covariance in units of the between-class covariance; 0 at collapse.

        trace(within_covariance @ pinv(between_covariance)) / K

    Source: Papyan, Han, Donoho 2020.

    with within_covariance divided by N, between_covariance = centred^T centred / K for the
    centred class means of the K classes seen. The pseudo-inverse is taken through the singular
    values of the centred means at rank K-1 or less, so the value is never negative.

    Blind to directions in which the class means do not differ, or by no more than the rounding of
    single precision: behind a layer normalisation, d classes and more span d-1. Pure noise gives
    (n-1)(K-1)/(d-K) for n samples per class in d dimensions, not 1.

    Args:
        statistics: with scatter.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        weighting: of the two covariances. None, as published tools have it: within over samples,
            between over classes. "samples": both over samples, so that a class counts by its size.
            "balanced": both over classes; see `BalancedScatter`.

    Returns:
        0-d float64, in [0, inf); nan for fewer than two classes or coinciding class means.

    Raises:
        ValueError: if the statistics hold no scatter, or weighting is "balanced" and the classes
            differ in size, whose own covariances the statistics have forgotten.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> round(float(nc1(ClassStatistics.from_features(features, labels, 2))), 6)
        0.125
    """
    singular, directions = _between_spectrum(statistics, global_mean, weighting)
    within = _within_covariance(statistics, weighting)
    if not len(singular):
        return _undefined(within)
    # within_covariance is positive semi-definite; only rounding can make this energy negative.
    energy = ((directions @ within) * directions).sum(1).clamp(min=0)
    # The singular values squared are those of the between-class covariance times K.
    return (energy / singular.square()).sum()


def nc1_trace_ratio(
    statistics: ClassStatistics,
    *,
    global_mean: GlobalMean = "class",
    weighting: Weighting | None = None,
) -> Tensor:
    """Within-class variance over between-class variance; 0 at collapse.

        trace(within_covariance) / trace(between_covariance)

    After Tirer, Huang, Niles-Weed 2023.

    Needs no scatter. Blind to where the variance points: noise orthogonal to the class means,
    which no linear classifier sees, counts as much as noise between them.

    Args:
        statistics: with or without scatter.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        weighting: of the two covariances, as of `nc1`; "balanced" is to be had for any classes.

    Returns:
        0-d float64, in [0, inf); nan for fewer than two classes or coinciding class means.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> float(nc1_trace_ratio(ClassStatistics.from_features(features, labels, 2)))
        0.375
    """
    centred = _weighted_means(statistics, global_mean, weighting)
    between = centred.norm().square() / len(centred)
    if len(centred) < 2 or not bool(between > 0):
        return _undefined(centred)
    if weighting == "balanced":
        return statistics.variances.double().mean() / between
    return statistics.spread.double().sum() / statistics.num_samples / between


def vci(
    statistics: ClassStatistics,
    *,
    global_mean: GlobalMean = "class",
    weighting: Weighting | None = None,
) -> Tensor:
    """Variability collapse index, in [0, 1]; 0 at collapse.

        1 - trace(pinv(total_covariance) @ between_covariance) / rank(between_covariance)

    Source: Xu, Liu 2023.

    with total_covariance = within_covariance + between_covariance. The loss of the best linear
    regression from features to labels, in units of its largest: blind to every invertible linear
    map of the features, so to all that a linear layer behind them can undo, to angles and to norms.

    Computed without a difference of nearly equal numbers: with whitened directions of the class
    means, the within-class covariance that no direction across them explains has the eigenvalues
    c_i, and the index is the mean of c_i / (1 + c_i). Directions with less than 1e-12 of the
    variance within classes explain nothing: they are the rounding of single precision.

    Args:
        statistics: with scatter.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        weighting: of the two covariances, as of `nc1`.

    Returns:
        0-d float64; nan for fewer than two classes or coinciding class means.

    Raises:
        ValueError: as of `nc1`.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> statistics = ClassStatistics.from_features(features, labels, 2)
        >>> round(float(vci(statistics)), 6)  # 1/9
        0.111111
    """
    singular, directions = _between_spectrum(statistics, global_mean, weighting)
    within = _within_covariance(statistics, weighting)
    if not len(singular):
        return _undefined(within)
    scale = singular / int(statistics.seen.sum()) ** 0.5
    return _unexplained(within, directions, scale).mean()


def cdnv(
    statistics: ClassStatistics,
    *,
    num_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Class-distance normalised variance, averaged over pairs of classes; 0 at collapse.

        mean over k != j of (v_k + v_j) / (2 norm(mu_k - mu_j)^2)

    Source: Galanti, Gyorgy, Hutter 2022.

    with v_k the mean squared distance of class k to its mean (divided by n_k). Needs no scatter
    and no global mean; every class counts alike, however rare. A class with one sample has v = 0.

    Args:
        statistics: with or without scatter.
        num_pairs: draw so many pairs, with replacement, instead of taking all.
        generator: draws them.

    Returns:
        0-d float64, in [0, inf]; infinite if two class means coincide while a sample of either
        class lies off its mean, nan for fewer than two classes or two coinciding point classes.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> float(cdnv(ClassStatistics.from_features(features, labels, num_classes=2)))
        0.09375
    """
    vectors = Vectors(check_statistics(statistics).centred_means(), statistics.variances)
    return pair_metrics(vectors, [CDNV], num_pairs, generator)[0]


def _variances_over_gaps(pairs: Pairs) -> Tensor:
    own, other = pairs.of(pairs.vectors.variances)
    return ((own + other) / pairs.gaps).sum() / 2


# What `cdnv` is made of.
CDNV = PairMean(_variances_over_gaps)


def _weighted_means(
    statistics: ClassStatistics, global_mean: GlobalMean, weighting: Weighting | None
) -> Tensor:
    """(K seen, d), rows whose Gram matrix over K is the between-class covariance."""
    if weighting is not None:
        check_choice("weighting", weighting, ("balanced", "samples"))
    centred = check_statistics(statistics).centred_means(global_mean).double()
    if weighting != "samples":
        return centred
    share = statistics.counts[statistics.seen].double() / statistics.num_samples
    return centred * (share * len(centred)).sqrt()[:, None]


def _between_spectrum(
    statistics: ClassStatistics, global_mean: GlobalMean, weighting: Weighting | None
) -> tuple[Tensor, Tensor]:
    centred = _weighted_means(statistics, global_mean, weighting)
    return mean_spectrum(centred, statistics.seen_means)


def _within_covariance(statistics: ClassStatistics, weighting: Weighting | None) -> Tensor:
    counts = statistics.counts[statistics.seen]
    if weighting == "balanced" and bool((counts != counts[:1]).any()):
        raise ValueError(
            "weighting must be None or 'samples' for pooled statistics of classes that differ in "
            "size, got 'balanced'; measure_features(..., weighting='balanced') and BalancedScatter "
            "look at the features again"
        )
    return statistics.within_covariance.double()


def _unexplained(within: Tensor, directions: Tensor, scale: Tensor) -> Tensor:
    """(r,), c / (1 + c) of the eigenvalues c that `vci` is made of."""
    factor, failed = torch.linalg.cholesky_ex(within)
    pivots = factor.diagonal().square()
    if not int(failed) and float(pivots.min()) > _LEAST_PIVOT * float(pivots.max()):
        # The inverse of what is unexplained is a block of the inverse of all of it.
        solved = torch.linalg.solve_triangular(factor, directions.T * scale, upper=False)
        return 1 / (1 + torch.linalg.eigvalsh(solved.T @ solved).clamp(min=0))
    # An orthonormal basis: the directions of the class means, and everything across them.
    across = torch.linalg.qr(directions.T, mode="complete").Q.T[len(scale) :]
    inner, mixed = directions @ within @ directions.T, directions @ within @ across.T
    values, vectors = torch.linalg.eigh(across @ within @ across.T)
    kept = values > _LEAST_VARIANCE * within.trace()
    explained = (mixed @ vectors[:, kept]) / values[kept].sqrt()
    rest = (inner - explained @ explained.T) / (scale[:, None] * scale)
    eigenvalues = torch.linalg.eigvalsh(rest).clamp(min=0)
    return eigenvalues / (1 + eigenvalues)


def _undefined(like: Tensor) -> Tensor:
    return like.new_full((), torch.nan, dtype=torch.float64)
