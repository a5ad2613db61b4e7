"""GNC2: are the class means as uniform on the sphere as so many directions can be?

Generalised neural collapse (Liu et al. 2023) has no simplex where there are more classes than
d + 1; what is left of it is uniformity, measured by an energy, a margin, or the gap between
uniformity between and within classes.
"""

import torch
from torch import Tensor

from neuralcollapse.checks import check_label_range, check_labels, check_matrix
from neuralcollapse.energy import riesz_energy
from neuralcollapse.frames import reference_energy
from neuralcollapse.metrics.pairs import pair_blocks
from neuralcollapse.sphere import directions
from neuralcollapse.statistics import ClassStatistics, GlobalMean


def gnc2_energy_gap(
    statistics: ClassStatistics,
    *,
    power: float = 0.0,
    centred: bool = True,
    global_mean: GlobalMean = "class",
    reference: float | None = None,
) -> Tensor:
    """Mean pair energy of the class means' directions above the least known; 0 at collapse.

        mean_{k<j}(K_s(norm(u_k - u_j))) - reference,  u_k = direction of mu_k - mu_G

    with the Riesz kernel K_s(r) = sign(s) r^(-s) and -log(r) for s = 0. Source: Liu et al. 2023 for
    the energy; the gap to a reference is what makes it 0 at collapse for any number of classes.

    Blind to norms. Where the reference is the best known and not proved, the gap may come out
    negative: then the class means have found a better one.

    Args:
        statistics: of the features.
        power: s, above -2; 0 is the logarithm.
        centred: subtract the global mean first; without it u_k is the direction of mu_k.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        reference: the least mean energy per pair; by default that of `reference_energy` for the
            classes seen, which is nan where there is no closed form and none was solved for.

    Returns:
        0-d float64; nan for fewer than two classes, a mean without direction, or no reference.

    Example:
        >>> square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> statistics = ClassStatistics.from_features(square, torch.arange(4), 4)
        >>> abs(round(float(gnc2_energy_gap(statistics)), 6))
        0.0
    """
    units = _units(statistics, centred, global_mean)
    num_pairs = len(units) * (len(units) - 1) / 2
    if not num_pairs or bool(units.isnan().any()):
        return units.new_full((), torch.nan)
    if reference is None:
        num_classes, dim = units.shape
        reference = reference_energy(num_classes, dim, power, solve=False).mean
    return riesz_energy(units, power) / num_pairs - reference


def gnc2_log_mean(
    statistics: ClassStatistics, *, centred: bool = True, global_mean: GlobalMean = "class"
) -> Tensor:
    """Mean logarithmic pair energy of the class means' directions; the lower, the more uniform.

        mean_{k<j}(-log(norm(u_k - u_j))),  u_k = direction of mu_k - mu_G

    For comparison with published tools, which track this number and `gnc2_log_variance`: it is not
    zero at collapse, but -log(2K/(K-1))/2 for K <= d+1, and `gnc2_energy_gap` says how far it is
    from its least value.

    Args:
        statistics: of the features.
        centred: subtract the global mean first.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).

    Returns:
        0-d float64; nan for fewer than two classes or a mean without direction, infinite if two
        directions coincide.
    """
    return _log_moments(_units(statistics, centred, global_mean))[0]


def gnc2_log_variance(
    statistics: ClassStatistics, *, centred: bool = True, global_mean: GlobalMean = "class"
) -> Tensor:
    """Variance of the logarithmic pair energies of the class means' directions.

        var_{k<j}(-log(norm(u_k - u_j))),  u_k = direction of mu_k - mu_G

    with the population variance. Zero if and only if all distances are equal. So it falls to zero
    at collapse for K <= d+1, and for K > d+1 it does not: there the most uniform arrangement has
    unequal distances. For comparison with published tools; the arguments are those of
    `gnc2_log_mean`.

    Returns:
        0-d float64; nan for fewer than two classes, a mean without direction or coinciding ones.
    """
    return _log_moments(_units(statistics, centred, global_mean))[1]


def hug_inter(
    statistics: ClassStatistics, *, centred: bool = True, global_mean: GlobalMean = "class"
) -> Tensor:
    """Uniformity between classes as HUG trains it; (K-1)/(2K) at collapse for K <= d+1.

        mean_{k<j}(1 / norm(u_k - u_j)^2),  u_k = direction of mu_k - mu_G

    Source: Liu et al. 2023, of the class means without proxies. The loss itself does not subtract
    the global mean: `centred=False`. Blind to norms. The range is small in many dimensions: K
    random directions have about 1/2 + 1/(2(d-3)).

    Args:
        statistics: of the features.
        centred: subtract the global mean first.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).

    Returns:
        0-d float64; nan for fewer than two classes or a mean without direction.
    """
    units = _units(statistics, centred, global_mean)
    num_pairs = len(units) * (len(units) - 1) / 2
    if not num_pairs or bool(units.isnan().any()):
        return units.new_full((), torch.nan)
    return riesz_energy(units, 2) / num_pairs


def hug_intra(
    statistics: ClassStatistics,
    features: Tensor,
    labels: Tensor,
    *,
    centred: bool = True,
    global_mean: GlobalMean = "class",
) -> Tensor:
    """Spread of the directions within a class as HUG trains it; 0 at collapse, at most 2.

        mean over classes of mean_{i in k}(norm(x_i - u_k))

    with x_i the direction of h_i - mu_G and u_k that of mu_k - mu_G. Source: Liu et al. 2023, of
    the class means without proxies. The loss itself does not subtract the global mean:
    `centred=False`. Classes weigh the same. Blind to norms.

    Args:
        statistics: whose class means are the centres; of these features or of the training set.
        features: (N, d).
        labels: (N,).
        centred: subtract the global mean first.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).

    Returns:
        0-d float64; nan without samples, for a mean without direction, or for samples of a class
        that the statistics have not seen.
    """
    check_matrix("features", features, columns=statistics.dim, why="the width of the class means")
    labels = check_labels(labels, len(features))
    check_label_range(labels, statistics.num_classes)
    spread = SpreadWithin(statistics, centred=centred, global_mean=global_mean)
    spread.update(features, labels)
    return spread.result()


class SpreadWithin:
    """Distances of directions to those of their class means, summed by class over batches.

    Args:
        statistics: whose class means are the centres.
        centred: subtract the global mean first.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
    """

    def __init__(
        self,
        statistics: ClassStatistics,
        *,
        centred: bool = True,
        global_mean: GlobalMean = "class",
    ):
        means = statistics.means.double()
        origin = statistics.global_mean(global_mean).double()
        self._origin = origin if centred else torch.zeros_like(origin)
        means = means - self._origin
        self._centres = means / means.norm(dim=1, keepdim=True)
        self.totals = means.new_zeros(2, len(means))
        """(2, K): sums of distances, and numbers of samples; those of several processes add up."""

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features (N, d), labels (N,)."""
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        units = directions(wide - self._origin.to(wide.dtype))
        distances = (units - self._centres[labels].to(wide.dtype)).norm(dim=1).to(self.totals)
        self.totals[0].index_add_(0, labels, distances)
        self.totals[1].index_add_(0, labels, torch.ones_like(distances))

    def result(self) -> Tensor:
        """The mean over classes of their mean distances, 0-d float64."""
        sums, counts = self.totals
        return (sums / counts)[counts > 0].mean()


def _units(statistics: ClassStatistics, centred: bool, global_mean: GlobalMean) -> Tensor:
    """(K seen, d) float64, the directions of the class means; nan for a zero one."""
    means = statistics.centred_means(global_mean) if centred else statistics.seen_means
    means = means.double()
    return means / means.norm(dim=1, keepdim=True)


def _log_moments(units: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population variance over pairs of -log(distance)."""
    count = len(units)
    num_pairs = count * (count - 1) / 2
    if not num_pairs or bool(units.isnan().any()):
        return units.new_full((), torch.nan), units.new_full((), torch.nan)
    # Around the simplex's value, so that the squares of a collapsed network do not cancel.
    usual = -torch.tensor(2 * count / (count - 1), dtype=units.dtype).log() / 2
    first, second = units.new_zeros(()), units.new_zeros(())
    for rows, columns, pairs in pair_blocks(count):
        squared = (2 - 2 * units[rows] @ units[columns].T)[pairs].clamp(min=0)
        deviations = -squared.log() / 2 - usual
        first = first + deviations.sum()
        second = second + deviations.square().sum()
    shift = first / num_pairs
    return usual + shift, (second / num_pairs - shift.square()).clamp(min=0)
