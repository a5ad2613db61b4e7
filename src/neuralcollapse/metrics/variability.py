"""NC1: how much samples of one class vary, relative to how far the classes lie apart."""

import torch
from torch import Tensor

from neuralcollapse.metrics.pairs import block_pairs, pair_blocks
from neuralcollapse.statistics import ClassStatistics, GlobalMean

# A pair closer than this, relative to the squared norms, is recomputed from its difference:
# the Gram formula for the squared distance loses its digits there.
_CLOSE = 1e-6
# So many pairs at a time.
_EXACT_PAIRS = 4096


def nc1(statistics: ClassStatistics, *, global_mean: GlobalMean = "class") -> Tensor:
    """Within-class covariance in units of the between-class covariance; 0 at collapse.

        trace(within_covariance @ pinv(between_covariance)) / K

    Source: Papyan, Han, Donoho 2020.

    with within_covariance divided by N, between_covariance = centred^T centred / K for the
    centred class means of the K classes seen. The pseudo-inverse is taken through the singular
    values of the centred means at rank K-1 or less, so the value is never negative.

    Blind to directions in which the class means do not differ. Pure noise gives
    (n-1)(K-1)/(d-K) for n samples per class in d dimensions, not 1.

    Args:
        statistics: with scatter.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).

    Returns:
        0-d float64, in [0, inf); nan for fewer than two classes or coinciding class means.

    Raises:
        ValueError: if the statistics hold no scatter.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> round(float(nc1(ClassStatistics.from_features(features, labels, 2))), 6)
        0.125
    """
    within = statistics.within_covariance.double()
    centred = statistics.centred_means(global_mean).double()
    num_seen, dim = centred.shape
    if num_seen < 2:
        return _undefined(centred)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    singular, directions = singular[: num_seen - 1], directions[: num_seen - 1]
    # A direction below the rounding of the means themselves, offset included, is not there.
    size = statistics.seen_means.double().norm()
    kept = singular > max(num_seen, dim) * torch.finfo(torch.float64).eps * size
    if not bool(kept.any()):
        return _undefined(centred)
    # within_covariance is positive semi-definite; only rounding can make this energy negative.
    energy = ((directions @ within) * directions).sum(1).clamp(min=0)
    return (energy[kept] / singular[kept].square()).sum()


def nc1_trace_ratio(statistics: ClassStatistics, *, global_mean: GlobalMean = "class") -> Tensor:
    """Within-class variance over between-class variance; 0 at collapse.

        trace(within_covariance) / trace(between_covariance)

    Source: Tirer, Huang, Niles-Weed 2023.

    Needs no scatter. Blind to where the variance points: noise orthogonal to the class means,
    which no linear classifier sees, counts as much as noise between them.

    Args:
        statistics: with or without scatter.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).

    Returns:
        0-d float64, in [0, inf); nan for fewer than two classes or coinciding class means.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> float(nc1_trace_ratio(ClassStatistics.from_features(features, labels, 2)))
        0.375
    """
    centred = statistics.centred_means(global_mean).double()
    between = centred.square().sum() / len(centred)
    if len(centred) < 2 or not bool(between > 0):
        return _undefined(centred)
    return statistics.spread.double().sum() / statistics.num_samples / between


def cdnv(statistics: ClassStatistics) -> Tensor:
    """Class-distance normalised variance, averaged over pairs of classes; 0 at collapse.

        mean over k != j of (v_k + v_j) / (2 norm(mu_k - mu_j)^2)

    Source: Galanti, Gyorgy, Hutter 2022.

    with v_k the mean squared distance of class k to its mean (divided by n_k). Needs no scatter
    and no global mean; every class counts alike, however rare. A class with one sample has v = 0.

    Returns:
        0-d float64, in [0, inf]; infinite if two class means coincide while a sample of either
        class lies off its mean, nan for fewer than two classes or two coinciding point classes.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> float(cdnv(ClassStatistics.from_features(features, labels, num_classes=2)))
        0.09375
    """
    means = statistics.centred_means().double()
    variances = statistics.variances.double()
    num_seen = len(means)
    if num_seen < 2:
        return _undefined(means)
    norms = means.square().sum(1)
    total = means.new_zeros(())
    for rows, columns, pairs in pair_blocks(num_seen):
        scale = norms[rows, None] + norms[None, columns]
        squared = scale - 2 * means[rows] @ means[columns].T
        close = ((squared < _CLOSE * scale) & pairs.to(squared.device)).nonzero()
        for k, j in (some.unbind(1) for some in close.split(_EXACT_PAIRS)):
            squared[k, j] = (means[rows][k] - means[columns][j]).square().sum(1)
        ratios = (variances[rows, None] + variances[None, columns]) / (2 * squared)
        total = total + block_pairs(ratios, rows, columns, pairs).sum()
    return total / (num_seen * (num_seen - 1) / 2)


def _undefined(like: Tensor) -> Tensor:
    return like.new_full((), torch.nan, dtype=torch.float64)
