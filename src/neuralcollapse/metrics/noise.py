"""What noise alone does to a metric: its value for no structure at all, its bias, and rounding."""

import math

import torch
from torch import Tensor

from neuralcollapse.statistics import ClassStatistics, GlobalMean, check_statistics

# Mean square of the spacing of numbers over them, in units of the format's epsilon, over the
# twelve of a uniform error: an integral over one binade.
_ROUNDING = 3 / (8 * math.log(2)) / 12
# From this share on of the within-class variance, or of that between classes in a direction,
# rounding of the features is told.
_MOST_ROUNDING = 0.05

ROUNDING_MAKES_IT = "the number format and not the network makes such a collapse"
"""What the note of `rounding_note` says, whatever its numbers."""


def nc1_trace_unbiased(statistics: ClassStatistics, *, global_mean: GlobalMean = "class") -> Tensor:
    """`nc1_trace_ratio` without the bias of few samples; 0 at collapse.

        (trace(scatter) / (N - K)) / (trace(between_covariance) - noise_of_the_means)

    with noise_of_the_means = (1 - 1/K) mean_k(v_k / (n_k - 1)), what samples scattered by v_k add
    to the distances of the means; for global_mean="sample" it is mean_k((1 - 2 w_k) e_k) +
    sum_k(w_k^2 e_k), with w_k the shares of the samples and e_k = v_k / (n_k - 1).

    Numerator and denominator are without bias, whatever the distribution, their ratio nearly so.
    The plain ratio is too small for few samples a class: by a fifth for n = 5. A class of one
    sample is taken to vary as the others do on average.

    Args:
        statistics: with or without scatter.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).

    Returns:
        0-d float64, in [0, inf); nan for fewer than two classes, where no class has two samples,
        or where the class means lie no farther apart than their own noise.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0]])
        >>> statistics = ClassStatistics.from_features(features, torch.tensor([0, 0, 1, 1]), 2)
        >>> round(float(nc1_trace_unbiased(statistics)), 6)  # 3 / (4 - 3/4)
        0.923077
    """
    centred = check_statistics(statistics).centred_means(global_mean).double()
    counts = statistics.counts[statistics.seen].to(centred)
    spread = statistics.spread[statistics.seen].to(centred)
    num_seen, freedom = len(centred), float(counts.sum()) - len(centred)
    if num_seen < 2 or freedom <= 0:
        return centred.new_full((), torch.nan)
    within = spread.sum() / freedom
    own = torch.where(counts > 1, spread / (counts - 1).clamp(min=1), within)
    errors = own / counts
    share = (
        counts / counts.sum() if global_mean == "sample" else torch.full_like(counts, 1 / num_seen)
    )
    noise = ((1 - 2 * share) * errors).mean() + (share.square() * errors).sum()
    between = centred.norm().square() / num_seen - noise
    return within / between if bool(between > 0) else centred.new_full((), torch.nan)


def null_values(counts: Tensor, dim: int) -> dict[str, float]:
    """Expected values of metrics for features without structure: independent Gaussian noise.

        nc1 = (n-1)(K-1) / (d-K) for K-1 < d,  (n-1) d / (K-d-2) for K-1 > d
        nc1_trace_ratio = d (N-K) / (d (K-1) - 2)
        vci = 1 - max(d, K-1) / (N-1), at least 0
        cdnv = mean over pairs of (2 - 1/n_k - 1/n_j) d / (2 (1/n_k + 1/n_j) (d-2))

    All but the last are known for classes of equal size n. Of d+1 samples or fewer `vci` is 0: a
    linear map gives them any labels. Raw features of equal variance in all
    directions are meant: fewer directions of noise than d, and NC1 comes out as for that many.

    Args:
        counts: (K,) int64, samples per class; classes without any are left out.
        dim: d, the width of the features.

    Returns:
        The values that exist, by key.

    Example:
        >>> null = null_values(torch.full((10,), 20), 64)
        >>> [round(null[key], 3) for key in ("nc1", "nc1_trace_ratio", "vci", "cdnv")]
        [3.167, 21.185, 0.678, 9.806]
    """
    counts = counts[counts > 0]
    num_seen, found = len(counts), {}
    if num_seen < 2:
        return found
    n, total = int(counts[0]), int(counts.sum())
    if bool((counts == n).all()):
        if num_seen - 1 < dim and dim > num_seen:
            found["nc1"] = (n - 1) * (num_seen - 1) / (dim - num_seen)
        elif num_seen > dim + 2:
            found["nc1"] = (n - 1) * dim / (num_seen - dim - 2)
        if dim * (num_seen - 1) > 2:
            found["nc1_trace_ratio"] = dim * (total - num_seen) / (dim * (num_seen - 1) - 2)
        found["vci"] = max(0.0, 1 - max(dim, num_seen - 1) / (total - 1))
    if dim > 2:
        # Class sizes repeat: over pairs of sizes, not of classes.
        sizes, number = counts.unique(return_counts=True)
        inverse = 1 / sizes.double()
        both = inverse[:, None] + inverse
        values = (2 - both) * dim / (2 * both * (dim - 2))
        pairs = number[:, None] * number - torch.diag(number)
        found["cdnv"] = float((values * pairs).sum() / (num_seen * (num_seen - 1)))
    return found


def rounding_share(statistics: ClassStatistics, dtype: torch.dtype) -> float:
    """Share of the within-class variance that rounding features to a format makes by itself.

        0.045 eps^2 mean_i(norm(h_i)^2) / (trace(scatter) / N)

    for features rounded once, with eps the spacing of the format at one; a network that computes in
    it adds more. From about 0.05 on, the variance that is measured is no longer that of the
    features, and beyond 1 it may be anything: samples that differ round to the same numbers.
    An offset common to all features, which their norms hold, raises it.

    Args:
        statistics: of features in this format.
        dtype: in which the features were held.

    Returns:
        At least 0; infinite where nothing varies.

    Example:
        >>> statistics = ClassStatistics.from_features(
        ...     torch.tensor([[0.0], [2.0]]), torch.zeros(2).long(), 1
        ... )
        >>> rounding_share(statistics, torch.bfloat16) < 1e-4
        True
    """
    spread = float(check_statistics(statistics).spread.double().sum())
    if not spread:
        return math.inf
    return _rounding_variance(statistics, dtype) * statistics.num_samples / spread


def rounding_directions(statistics: ClassStatistics, dtype: torch.dtype) -> int:
    """Number of the directions in which rounding to a format sets the class means apart.

    Of the K-1 (or d, if fewer) in which class means in general position differ, those where
    rounding makes a twentieth of the variance between classes. There are some where features of
    more classes than dimensions lack a direction, as they do behind a layer normalisation: in
    single precision `nc1` and `vci` leave it out, in this format its noise counts in full.

    Args:
        statistics: of features in this format.
        dtype: in which the features were held.
    """
    seen = check_statistics(statistics).seen
    counts, centred = statistics.counts[seen].double(), statistics.centred_means().double()
    num_seen, dim = centred.shape
    if num_seen < 2 or not bool(centred.any()):
        return 0
    gram = centred @ centred.T if num_seen <= dim else centred.T @ centred
    squares = torch.linalg.eigvalsh(gram).flip(0)[: min(num_seen - 1, dim)]
    noise = _rounding_variance(statistics, dtype) / dim * float((1 / counts).sum())
    return int((noise > _MOST_ROUNDING * squares).sum())


def _rounding_variance(statistics: ClassStatistics, dtype: torch.dtype) -> float:
    """Mean square of what rounding adds to a sample, over all its coordinates."""
    seen = statistics.seen
    squares = statistics.counts[seen] * statistics.means[seen].double().square().sum(1)
    total = float(squares.sum() + statistics.spread.double().sum())
    return _ROUNDING * torch.finfo(dtype).eps ** 2 * total / statistics.num_samples


def rounding_note(statistics: ClassStatistics, dtype: torch.dtype | None) -> str | None:
    """What to know of features of float16 or bfloat16 whose collapse is rounding, or None.

    Told from a `rounding_share` of 0.05 on, and of `rounding_directions`, which make NC1 large.

    Args:
        statistics: of features in this format.
        dtype: in which the features were held; None where that is not known.

    Example:
        >>> features = torch.tensor([[4.0], [4.01], [-4.0], [-4.01]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> statistics = ClassStatistics.from_features(features.bfloat16(), labels, 2)
        >>> print(rounding_note(statistics, torch.bfloat16))
        of the within-class variance none is left: the number format and not the network makes such
        a collapse; measure features of float32
    """
    if dtype not in (torch.float16, torch.bfloat16):
        return None
    name = str(dtype).removeprefix("torch.")
    share = rounding_share(statistics, dtype)
    if share > _MOST_ROUNDING:
        how = "none is left" if math.isinf(share) else f"rounding to {name} makes {share:.0%}"
        return (
            f"of the within-class variance {how}: {ROUNDING_MAKES_IT}; measure features of float32"
        )
    directions = rounding_directions(statistics, dtype)
    if directions:
        which = "direction" if directions == 1 else f"{directions} directions"
        return (
            f"in the {which} where class means differ least, it is rounding to {name} that sets "
            "them apart, which nc1 and vci count in full; measure features of float32"
        )
    return None
