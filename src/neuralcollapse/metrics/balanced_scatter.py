"""The covariance within classes with every class counted alike, whatever its size."""

from dataclasses import replace

import torch
from torch import Tensor

from neuralcollapse.rests import Rests
from neuralcollapse.spectrum import mean_spectrum
from neuralcollapse.statistics import ClassStatistics, GlobalMean, check_statistics

# Residuals per block: 2^20 doubles are 8 MiB.
_BLOCK_RESIDUALS = 1 << 20
# Variances below this share of all are the rounding of features in single precision.
_LEAST_VARIANCE = 1e-12


class BalancedScatter:
    """The scatter with every class counted alike, in a second pass over the features.

        scatter = N / K * sum over classes of (sum over its samples of r r^T) / n_k

    with r the residuals to the class means. What comes out are statistics whose within-class
    covariance is the mean of the classes' own: `nc1` and `vci` of them are those that
    weighting="balanced" asks for. Of classes of equal size they are the statistics as given.

    Args:
        statistics: of all the features, whose class means and counts are used.
        rests: of the same features; also sum up what `result_of` needs.
        global_mean: of the class means that these look at.

    Example:
        >>> features = torch.tensor([[0.0, 1.0], [0.0, 3.0], [5.0, 0.0]])
        >>> labels = torch.tensor([0, 0, 1])
        >>> scatter = BalancedScatter(ClassStatistics.from_features(features, labels, 2))
        >>> scatter.update(features, labels)
        >>> scatter.result().within_covariance.tolist()  # of classes: 1 and 0
        [[0.0, 0.0], [0.0, 0.5]]
    """

    def __init__(
        self,
        statistics: ClassStatistics,
        *,
        rests: Rests | None = None,
        global_mean: GlobalMean = "class",
    ):
        self._statistics, self._rests = check_statistics(statistics), rests
        counts = statistics.counts.clamp(min=1).double()
        share = statistics.num_samples / max(1, int(statistics.seen.sum()))
        self._scales = (share / counts).sqrt()
        self._means = statistics.means.double()
        dim = statistics.dim
        self.totals = self._means.new_zeros(dim, dim)
        """(d, d): those of several processes add up."""
        self.by_class = self._means.new_zeros(0 if rests is None else 2, len(self._means))
        """(2, K): what each class adds to `nc1` and to `vci`; those of processes add up, too."""
        self._projections = () if rests is None else _projections(statistics, global_mean)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, part: int = 0) -> None:
        """Add a batch, of whichever part: features (N, d), labels (N,)."""
        rows = max(1, _BLOCK_RESIDUALS // max(1, features.shape[1]))
        for block, own in zip(features.split(rows), labels.split(rows), strict=True):
            residuals = (block.double() - self._means[own]) * self._scales[own, None]
            self.totals += residuals.T @ residuals
            for sums, projection in zip(self.by_class, self._projections, strict=True):
                sums.index_add_(0, own, (residuals @ projection.T).square().sum(1))

    def result(self) -> ClassStatistics:
        """The statistics with the balanced scatter."""
        return replace(self._statistics, scatter=self.totals.to(self._statistics.means.dtype))

    def result_of(self, number: int) -> tuple[ClassStatistics, ClassStatistics] | None:
        """The statistics without a part, as `nc1` and as `vci` are to take them.

        `totals` and `by_class` are those of the others, whose samples count by the size of their
        class in all data. Where leaving out the part takes another share of one class than of the
        next, the scatter as a whole is scaled by as much as counting each class alike changes the
        value: `nc1` is exact then, and `vci` nearly so. None where a class is missing without the
        part.
        """
        if self._rests is None:
            raise ValueError("rests must be given to leave out a part, got none")
        whole, rest = self._statistics, self._rests.without(number)
        seen, classes = whole.seen, int(whole.seen.sum())
        if not torch.equal(rest.seen, seen):
            return None
        # Around the rest's own means, and each class still divided by its size in all data.
        left = rest.counts[seen] / whole.counts[seen]
        levers = (left / classes).sqrt()[:, None] * (rest.means - whole.means)[seen]
        scatter = self.totals / whole.num_samples - levers.T @ levers
        found = []
        for sums, projection in zip(self.by_class, self._projections, strict=True):
            parts = sums[seen] / whole.num_samples - (levers @ projection.T).square().sum(1)
            parts = parts.clamp(min=0)
            scale = (parts / left).sum() / parts.sum() if bool(parts.any()) else 1.0
            found.append(replace(rest, scatter=scatter * scale * rest.num_samples))
        return found[0], found[1]


def _projections(statistics: ClassStatistics, global_mean: GlobalMean) -> tuple[Tensor, Tensor]:
    """(R, d) and (K seen, d): how the value changes with the within-class covariance S_W.

    `nc1` by pinv(between), and `vci` by pinv(S_W + between) between pinv(S_W + between), up to a
    factor; the former exactly, the latter with the pooled covariance at the size of the balanced.
    """
    centred = statistics.centred_means(global_mean).double()
    singular, directions = mean_spectrum(centred, statistics.seen_means)
    within = statistics.within_covariance.double()
    size = within.trace()
    ratio = statistics.variances.double().mean() / size if bool(size > 0) else 1.0
    total = within * ratio + centred.T @ centred / max(1, len(centred))
    values, vectors = torch.linalg.eigh(total)
    kept = values > _LEAST_VARIANCE * values.sum()
    basis = vectors[:, kept]
    return directions / singular[:, None], (centred @ basis / values[kept]) @ basis.T
