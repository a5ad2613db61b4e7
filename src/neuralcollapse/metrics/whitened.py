"""NC1 without any (d, d) array, and how well the matrix that it inverts is conditioned."""

import math

import torch
from torch import Tensor

from neuralcollapse.rests import Rests
from neuralcollapse.row_products import RowProducts
from neuralcollapse.spectrum import mean_spectrum
from neuralcollapse.statistics import ClassStatistics, GlobalMean, check_statistics

# Features per block: 2^20 doubles are 8 MiB.
_BLOCK_FEATURES = 1 << 20


class WhitenedSpread:
    """`nc1` from the features themselves, summed over batches, without any (d, d) array.

        mean_i(norm(directions (h_i - mu_y))^2),  directions = diag(1 / singular) V^T

    with the singular values and right singular vectors V of the centred class means, K-1 of them
    or fewer: the same number, in memory for K x d numbers and a time of N K d, for features so wide
    that their covariance has no room. It needs the class means first, and so a second look at the
    features.

    Args:
        statistics: of the same features, with or without scatter.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        rests: of the same features; also sum up what `result_of` needs.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> statistics = ClassStatistics.from_features(features, labels, 2, scatter=False)
        >>> spread = WhitenedSpread(statistics)
        >>> spread.update(features, labels)
        >>> round(float(spread.result()), 6)
        0.125
    """

    def __init__(
        self,
        statistics: ClassStatistics,
        *,
        global_mean: GlobalMean = "class",
        rests: Rests | None = None,
    ):
        self._statistics, self._rests = check_statistics(statistics), rests
        self._global_mean: GlobalMean = global_mean
        self._means = statistics.means.double()
        centred = statistics.centred_means(global_mean).double()
        self._singular, directions = mean_spectrum(centred, statistics.seen_means)
        self._projection = directions / self._singular[:, None]
        self.totals = self._means.new_zeros(2)
        """(2,): sum of squares, number of samples; those of several processes add up."""
        if rests is not None:
            self._products = RowProducts(torch.zeros_like(self._projection))
            self._by_part = self._means.new_zeros(len(rests))
            self._centred, self._left = centred, centred @ self._projection.T  # the latter: U
        self._gradient: Tensor | None = None

    @property
    def slopes(self) -> list[Tensor]:
        """Of all samples: (R, d), sums of whitened times plain residuals, and (J,), by part, what
        its own samples have in the slope along which it moves the means; they add up, too."""
        return [] if self._rests is None else [self._products.result(), self._by_part]

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, part: int = 0) -> None:
        """Add a batch of one part: features (N, d), labels (N,)."""
        if not len(self._projection):
            return
        rows = max(1, _BLOCK_FEATURES // max(1, features.shape[1]))
        for block, own in zip(features.split(rows), labels.split(rows), strict=True):
            # In double: the deviations of collapsed features are the last digits of single ones.
            deviations = block.double() - self._means[own]
            whitened = deviations @ self._projection.T
            self.totals[0] += whitened.square().sum()
            self.totals[1] += len(block)
            if self._rests is not None:
                self._products.add(whitened, deviations)
                slope = self._own_slope(self._rests, part, deviations, whitened, own)
                self._by_part[part] += slope

    def result(self) -> Tensor:
        """0-d float64, in [0, inf); nan where `nc1` is."""
        return self.totals[0] / self.totals[1]

    def result_of(self, number: int) -> Tensor:
        """`nc1` without a part, to first order in how far the class means move.

        `totals` are those of the others, `slopes` those of all samples. The residuals are taken to
        the means of what is left; the directions follow these means to first order, along a slope
        to which the part itself has nothing to say. Not a number where a class is missing without
        the part, or where the class means without it fill more or fewer directions.
        """
        if self._rests is None:
            raise ValueError("rests must be given to leave out a part, got none")
        rest = self._rests.without(number)
        seen, whole = rest.seen, self._statistics
        moved = rest.centred_means(self._global_mean).double()
        singular, directions = mean_spectrum(moved, rest.seen_means)
        if len(singular) != len(self._singular) or not torch.equal(seen, whole.seen):
            return self.totals.new_full((), torch.nan)
        if self._gradient is None:
            self._gradient = self._mean_gradient()
        shifts = (rest.means.double() - self._means)[seen]
        around = (shifts @ (directions / singular[:, None]).T).square().sum(1) * rest.counts[seen]
        slope = (self._gradient * (moved - self._centred)).sum()
        slope = slope - 2 * self._by_part[number] / whole.num_samples
        return (self.totals[0] - around.sum()) / rest.num_samples + slope

    def _mean_gradient(self) -> Tensor:
        """(K seen, d), the derivative of `nc1` by the centred means, at constant rank.

        With centred = U diag(singular) V^T, P = diag(1 / singular) V^T, C = P within_covariance:
        2 U (diag(1 / singular^2) C (1 - V V^T) - C P^T P)     (Golub, Pereyra 1973)
        """
        cross = self._products.result() / self._statistics.num_samples
        directions = self._projection * self._singular[:, None]
        across = cross - (cross @ directions.T) @ directions
        inner = (cross @ self._projection.T) @ self._projection
        return 2 * self._left @ (across / self._singular.square()[:, None] - inner)

    def _own_slope(
        self, rests: Rests, part: int, deviations: Tensor, whitened: Tensor, labels: Tensor
    ) -> Tensor:
        """What samples have in half the slope, of how far each moves the mean of its class."""
        classes, place = labels.unique(return_inverse=True)
        shifts = rests.shifts(part, classes).double()
        along = shifts @ self._projection.T
        place_seen = (self._statistics.seen.cumsum(0) - 1)[classes]
        left = self._left[place_seen][place]
        square = self._singular.square()
        across = (deviations * shifts[place]).sum(1) - (whitened * square * along[place]).sum(1)
        slope = (left * whitened / square).sum(1) * across
        return (slope - (left * whitened).sum(1) * (whitened * along[place]).sum(1)).sum()


def between_condition(
    statistics: ClassStatistics, *, global_mean: GlobalMean = "class"
) -> tuple[int, float]:
    """(rank, condition) of the between-class covariance whose pseudo-inverse `nc1` takes.

    The condition is its largest eigenvalue over the smallest of the K-1 (or d, if fewer) that are
    not zero for class means in general position; infinite where `nc1` leaves a direction out
    because it is that of rounding. The larger it is, the more `nc1` says of the few directions in
    which the class means differ least.

    Returns:
        The rank, and the condition, nan for fewer than two classes.
    """
    centred = check_statistics(statistics).centred_means(global_mean).double()
    singular, _ = mean_spectrum(centred, statistics.seen_means)
    if not len(singular):
        return 0, math.nan
    full = len(singular) == min(len(centred) - 1, centred.shape[1])
    return len(singular), float((singular[0] / singular[-1]).square()) if full else math.inf
