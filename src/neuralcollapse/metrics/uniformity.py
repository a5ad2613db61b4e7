"""GNC2: are the class means as uniform on the sphere as so many directions can be?

Generalised neural collapse (Liu et al. 2023) has no simplex where there are more classes than
d + 1; what is left of it is uniformity, measured by an energy, a margin, or the gap between
uniformity between and within classes.
"""

import math

import torch
from torch import Tensor

from neuralcollapse.frames import reference_energy, softmax_code_margin
from neuralcollapse.metrics.pairs import PairMean, Pairs, Vectors, pair_metrics
from neuralcollapse.scalars import check_boolean, check_number
from neuralcollapse.statistics import ClassStatistics, GlobalMean, check_statistics


def gnc2_energy_gap(
    statistics: ClassStatistics,
    *,
    power: float = 0.0,
    centred: bool = True,
    global_mean: GlobalMean = "class",
    reference: float | None = None,
    num_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean pair energy of the class means' directions above the least known; 0 at collapse.

        mean_{k<j}(K_s(norm(u_k - u_j))) - reference,  u_k = direction of mu_k - mu_G

    with the Riesz kernel K_s(r) = sign(s) r^(-s) and -log(r) for s = 0. Source: Liu et al. 2023 for
    the energy; the gap to a reference is what makes it 0 at collapse for any number of classes.

    Blind to norms. Where the reference is the best known and not proved, the gap may come out
    negative: then the class means have found a better arrangement.

    Args:
        statistics: of the features.
        power: s, above -2; 0 is the logarithm.
        centred: subtract the global mean first; without it u_k is the direction of mu_k.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        reference: the least mean energy per pair; by default that of `reference_energy` for the
            classes seen, from a closed form or its cache.
        num_pairs: draw so many pairs, with replacement, instead of taking all.
        generator: draws them.

    Returns:
        0-d float64; nan for fewer than two classes, a mean without direction, or no reference;
        infinite if two directions coincide and s is not negative.

    Raises:
        ValueError: if power is -2 or below.

    Example:
        >>> square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> statistics = ClassStatistics.from_features(square, torch.arange(4), 4)
        >>> abs(round(float(gnc2_energy_gap(statistics)), 6))
        0.0
    """
    power = check_number("power", power, minimum=-2, exclusive=True)
    vectors = _vectors(statistics, centred, global_mean)
    return pair_metrics(vectors, [_energy_gap(power, reference)], num_pairs, generator)[0]


def least_mean_energy(num_classes: int, dim: int, power: float) -> float:
    """The least mean energy per pair of K directions that is known without solving, else nan."""
    if not _has_room(num_classes, dim):
        return math.nan
    return reference_energy(num_classes, dim, power, solve=False).mean


def gnc2_log_mean(
    statistics: ClassStatistics,
    *,
    centred: bool = True,
    global_mean: GlobalMean = "class",
    num_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean logarithmic pair energy of the class means' directions; the lower, the more uniform.

        mean_{k<j}(-log(norm(u_k - u_j))),  u_k = direction of mu_k - mu_G

    The energy is one of those of Liu et al. 2023; its mean and variation are tracked by Wu, Papyan
    2024. For comparison with such tools: it is not zero at collapse, but -log(2K/(K-1))/2 for
    K <= d+1, and `gnc2_energy_gap` says how far it is from its least value.

    Args:
        statistics: of the features.
        centred: subtract the global mean first.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        num_pairs: draw so many pairs, with replacement, instead of taking all.
        generator: draws them.

    Returns:
        0-d float64; nan for fewer than two classes or a mean without direction, infinite if two
        directions coincide.
    """
    vectors = _vectors(statistics, centred, global_mean)
    return pair_metrics(vectors, [LOG_MEAN], num_pairs, generator)[0]


def gnc2_log_variance(
    statistics: ClassStatistics,
    *,
    centred: bool = True,
    global_mean: GlobalMean = "class",
    num_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Variance of the logarithmic pair energies of the class means' directions.

        var_{k<j}(-log(norm(u_k - u_j))),  u_k = direction of mu_k - mu_G

    with the population variance. Zero if and only if all distances are equal. So it falls to zero
    at collapse for K <= d+1, and for K > d+1 it does not: there the most uniform arrangement has
    unequal distances. After Wu, Papyan 2024, who divide the standard deviation by the mean, which
    is zero for some arrangements; the arguments are those of `gnc2_log_mean`.

    Returns:
        0-d float64; nan for fewer than two classes or a mean without direction, infinite if two
        directions coincide.
    """
    vectors = _vectors(statistics, centred, global_mean)
    return pair_metrics(vectors, [LOG_VARIANCE], num_pairs, generator)[0]


def gnc2_gaussian(
    statistics: ClassStatistics,
    *,
    scale: float = 2.0,
    centred: bool = True,
    global_mean: GlobalMean = "class",
    num_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Logarithm of the mean Gaussian potential of the class means' directions; least at collapse.

        log(mean_{k<j}(exp(-scale norm(u_k - u_j)^2))),  u_k = direction of mu_k - mu_G

    Source: Wang, Isola 2020, for single samples and scale 2. In [-4 scale, 0]; for K <= d+1 the
    least is -2 scale K / (K-1), the simplex ETF's. Unlike the logarithmic energy it stays finite
    where two directions coincide, and is governed by the pairs that are close. Blind to norms.

    Args:
        statistics: of the features.
        scale: above 0; the width of the kernel is 1 / sqrt(2 scale).
        centred: subtract the global mean first.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        num_pairs: draw so many pairs, with replacement, instead of taking all.
        generator: draws them.

    Returns:
        0-d float64; nan for fewer than two classes or a mean without direction.

    Raises:
        ValueError: if scale is not above 0.
    """
    scale = check_number("scale", scale, minimum=0, exclusive=True)
    vectors = _vectors(statistics, centred, global_mean)
    return pair_metrics(vectors, [_gaussian(scale)], num_pairs, generator)[0]


def gnc2_margin(
    statistics: ClassStatistics,
    *,
    centred: bool = True,
    global_mean: GlobalMean = "class",
    reference: float | None = None,
) -> Tensor:
    """Softmax-code margin of the class means' directions over the best known; 1 at collapse.

        min_k(distance of u_k from the convex hull of all other u_j) / reference

    with u_k the direction of mu_k - mu_G. Source: Jiang et al. 2024 for the margin, taken of the
    classifier; the share of the best is what makes it 1 at collapse for any number of classes.
    0 if some class lies among the others. Blind to norms, and to all classes but the worst. For
    d+1 < K <= 2d many arrangements are optimal, uniform or not.

    Quadratic programs for the few classes that may be the worst by bounds on all of them: one or
    two near collapse. Far from it K = 200 classes take up to 0.2 seconds and K = 1000 some seconds,
    so that `measure` leaves it out beyond 200.

    Args:
        statistics: of the features.
        centred: subtract the global mean first; without it u_k is the direction of mu_k.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        reference: the largest margin; by default the best known for the classes seen, K/(K-1) for
            K <= d+1, 1 up to K = 2d, 1 - cos(2 pi / K) in a plane, else half the square of the
            largest smallest distance that `reference_energy` has in its cache.

    Returns:
        0-d float64, at least 0; nan for fewer than two classes, a mean without direction, or no
        reference.

    Example:
        >>> square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> statistics = ClassStatistics.from_features(square, torch.arange(4), 4)
        >>> round(float(gnc2_margin(statistics)), 6)
        1.0
    """
    units = _units(statistics, centred, global_mean)
    if len(units) < 2 or bool(units.isnan().any()):
        return units.new_full((), torch.nan)
    if reference is None:
        reference = _best_margin(len(units), units.shape[1])
    if math.isnan(reference):
        return units.new_full((), torch.nan)
    return units.new_tensor(_margin(units.cpu()) / reference)


def hug_inter(
    statistics: ClassStatistics,
    *,
    centred: bool = True,
    global_mean: GlobalMean = "class",
    num_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Uniformity between classes as HUG trains it; (K-1)/(2K) at collapse for K <= d+1.

        mean_{k<j}(1 / norm(u_k - u_j)^2),  u_k = direction of mu_k - mu_G

    Source: Liu et al. 2023, of the class means without proxies. The loss itself does not subtract
    the global mean: `centred=False`. Blind to norms. The range is small in many dimensions: K
    random directions have about 1/2 + 1/(2(d-3)) as they are, and centred hardly more than the
    least.

    Args:
        statistics: of the features.
        centred: subtract the global mean first.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        num_pairs: draw so many pairs, with replacement, instead of taking all.
        generator: draws them.

    Returns:
        0-d float64, above 0; nan for fewer than two classes or a mean without direction, infinite
        if two directions coincide.
    """
    vectors = _vectors(statistics, centred, global_mean)
    return pair_metrics(vectors, [HUG_INTER], num_pairs, generator)[0]


def _riesz(power: float) -> PairMean:
    """The mean Riesz energy for a power other than 0; infinite if directions coincide."""
    sign = math.copysign(1, power)
    return PairMean(lambda pairs: sign * pairs.squared.pow(-power / 2).sum())


def _log_mean(mean: Tensor, num_vectors: int, dim: int) -> Tensor:
    return -(mean + math.log(2 * num_vectors / (num_vectors - 1))) / 2


def _log_variance(moments: Tensor, num_vectors: int, dim: int) -> Tensor:
    first, second = moments
    if bool(first.isinf()):
        return -first
    return (second - first.square()).clamp(min=0) / 4


def _energy_gap(power: float = 0.0, reference: float | None = None) -> PairMean:
    energy = _riesz(power) if power else LOG_MEAN

    def gap(mean: Tensor, num_vectors: int, dim: int) -> Tensor:
        value = energy.result(mean, num_vectors, dim)
        if not bool(value.isfinite()):
            return value
        least = least_mean_energy(num_vectors, dim, power) if reference is None else reference
        return value - least

    return PairMean(energy.of_block, gap)


def _gaussian(scale: float) -> PairMean:
    def log_sum(pairs: Pairs) -> Tensor:
        # All terms may vanish, but not beside the largest.
        most = -scale * pairs.squared.amin()
        return torch.sub(-most, pairs.squared, alpha=scale).exp().sum().log() + most

    return PairMean(log_sum, log=True)


# What the metrics are made of, with their default arguments.
LOG_MEAN = PairMean(lambda pairs: pairs.logs.sum(), _log_mean)
LOG_VARIANCE = PairMean(
    lambda pairs: torch.stack([pairs.logs.sum(), pairs.logs.square().sum()]), _log_variance
)
ENERGY_GAP = _energy_gap()
GAUSSIAN = _gaussian(2.0)
HUG_INTER = _riesz(2.0)


def _vectors(statistics: ClassStatistics, centred: bool, global_mean: GlobalMean) -> Vectors:
    check_statistics(statistics)
    check_boolean("centred", centred)
    return Vectors(statistics.centred_means(global_mean) if centred else statistics.seen_means)


def _units(statistics: ClassStatistics, centred: bool, global_mean: GlobalMean) -> Tensor:
    """(K seen, d) float64, the directions of the class means; nan for a zero one."""
    vectors = _vectors(statistics, centred, global_mean)
    return vectors.rows / vectors.norms[:, None]


def _has_room(num_classes: int, dim: int) -> bool:
    """Whether so many directions can all differ."""
    return num_classes >= 2 and dim >= (1 if num_classes == 2 else 2)


def _best_margin(num_classes: int, dim: int) -> float:
    """The largest margin known without solving, else nan: 1 - cos of the best separation."""
    if not _has_room(num_classes, dim):
        return math.nan
    return reference_energy(num_classes, dim, "softmax_code", solve=False).total ** 2 / 2


def _margin(units: Tensor) -> float:
    """Smallest one-vs-rest distance."""
    if len(units) < units.shape[1]:
        # The same distances in as many dimensions as there are classes.
        units = torch.linalg.qr(units.T, mode="r").R.T
    return softmax_code_margin(units)
