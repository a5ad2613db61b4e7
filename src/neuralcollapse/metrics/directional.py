"""Directional CDNV: how much a class varies towards the other classes, and not across."""

import torch
from torch import Tensor

from neuralcollapse.checks import check_label_range, check_labels, check_matrix
from neuralcollapse.precision import FullPrecision
from neuralcollapse.rests import Rests
from neuralcollapse.row_products import RowProducts
from neuralcollapse.statistics import ClassStatistics, check_statistics

# Entries of one block of scores: 2^20 doubles are 8 MiB.
_BLOCK_SCORES = 1 << 20
# Squared distances below this, relative to the squared norms, are taken from the difference: from
# inner products they lose their digits there.
_CLOSE = 1e-6
# Up to so many classes all distances are kept: 32 MiB.
_KEPT_CLASSES = 2048
# So many pairs at a time.
_EXACT_PAIRS = 4096


def cdnv_directional(statistics: ClassStatistics, features: Tensor, labels: Tensor) -> Tensor:
    """CDNV with the variance along the line between two class means only; 0 at collapse.

        mean over k != j of mean over the samples of class k of
            ((h - mu_k) . (mu_j - mu_k))^2 / norm(mu_j - mu_k)^4

    Source: Luthra et al. 2025.

    Never above `cdnv`, and d times below it where noise is the same in all d directions: what is
    left is the noise that a classifier between two classes feels. Every pair of classes counts
    alike, however rare they are. Blind to noise across the class means.

    Takes N K d operations, no K x K array and no covariance of a class.

    Args:
        statistics: of the features, whose class means are used.
        features: (N, d).
        labels: (N,) in [0, K).

    Returns:
        0-d float64, in [0, inf); nan for fewer than two classes, or if two class means coincide and
        leave no direction.

    Raises:
        ValueError: if shapes do not fit or a label is out of range.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> statistics = ClassStatistics.from_features(features, labels, num_classes=2)
        >>> float(cdnv_directional(statistics, features, labels))
        0.0625
    """
    check_statistics(statistics)
    check_matrix("features", features, columns=statistics.dim, why="the width of the class means")
    labels = check_labels(labels, len(features))
    check_label_range(labels, statistics.num_classes)
    spread = DirectionalSpread(statistics)
    spread.update(features, labels)
    return spread.result()


class DirectionalSpread:
    """`cdnv_directional` in parts: batches are added, and totals of several processes add up.

    Args:
        statistics: of all the features, whose class means are used.
        rests: of the same features; also sum up what `result_of` needs, in twice the time, and
            with a K x K array.

    Example:
        >>> features, labels = torch.tensor([[1.0], [3.0], [-2.0]]), torch.tensor([0, 0, 1])
        >>> spread = DirectionalSpread(ClassStatistics.from_features(features, labels, 2))
        >>> for i in range(3):
        ...     spread.update(features[i : i + 1], labels[i : i + 1])
        >>> float(spread.result())  # (1/16 + 0) / 2
        0.03125
    """

    def __init__(self, statistics: ClassStatistics, *, rests: Rests | None = None):
        seen = check_statistics(statistics).seen
        self._statistics, self._rests = statistics, rests
        self._place = (seen.cumsum(0) - 1).clamp(min=0)  # of a class among those seen
        self._origin = statistics.global_mean().double()
        self._own_means = statistics.means.double()
        self._centred = statistics.centred_means().double()
        self._norms = self._centred.square().sum(1)
        self._kept = None
        if len(self._centred) <= _KEPT_CLASSES:
            self._kept = self._distances_from(self._centred, self._norms)
        self.totals = self._centred.new_zeros(2, len(self._centred))
        """(2, K seen): sums over the samples of a class, and their number."""
        if rests is not None:
            self._products = RowProducts(torch.zeros_like(self._centred))
            self._by_pair = self._centred.new_zeros(len(self._centred), len(self._centred))
            self._by_part = self._centred.new_zeros(len(rests))
        self._scale = self._norms.mean()  # of squared distances
        self._counts = statistics.counts[seen].double()
        self._gradient: Tensor | None = None

    @property
    def slopes(self) -> list[Tensor]:
        """Of all samples: (K seen, d), sums of residuals by how much they lean to other classes;
        (K seen, K seen), the variance of a class towards each other; and (J,), by part, what its
        own samples have in the slope along which it moves the means. They add up, too."""
        if self._rests is None:
            return []
        return [self._products.result(), self._by_pair, self._by_part]

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, part: int = 0) -> None:
        """Add a batch of one part: features (N, d), labels (N,)."""
        widest = max(1, len(self._centred), features.shape[1])
        rows = max(1, _BLOCK_SCORES // widest)
        dtype = torch.promote_types(features.dtype, torch.float32)
        for block, own in zip(features.split(rows), labels.split(rows), strict=True):
            place = self._place[own]
            residuals = (block.double() - self._own_means[own]).to(dtype)
            leaning, squares = self._leaning(residuals, place)
            ratios = leaning.square()
            self.totals[0].index_add_(0, place, ratios.sum(1))
            self.totals[1].index_add_(0, place, ratios.new_ones(len(place)))
            if self._rests is not None:
                shifts = self._rests.shifts(part, own).to(dtype)
                self._add_slopes(part, residuals, shifts, place, leaning, squares)

    def result(self) -> Tensor:
        """The mean over pairs of classes, 0-d float64."""
        sums, counts = self.totals
        if len(sums) < 2:
            return sums.new_full((), torch.nan)
        return (sums / counts).mean() / (len(sums) - 1)

    def result_of(self, number: int) -> Tensor:
        """What it is without a part, to first order in how far the class means move.

        `totals` are those of the others, `slopes` those of all samples. Residuals are taken to the
        means of what is left, over distances between these; the lines between means follow to first
        order, along a slope to which the part itself has nothing to say. Not a number where a class
        is missing without the part.
        """
        if self._rests is None:
            raise ValueError("rests must be given to leave out a part, got none")
        rest, sums = self._rests.without(number), self.totals[0]
        if len(sums) < 2 or not torch.equal(rest.seen, self._statistics.seen):
            return sums.new_full((), torch.nan)
        if self._gradient is None:
            self._gradient = self._mean_gradient()
        shifts = (rest.means.double() - self._own_means)[rest.seen]
        everyone = torch.arange(len(sums), device=sums.device)
        around, _ = DirectionalSpread(rest)._leaning(shifts, everyone)
        held = sums / rest.counts[rest.seen] - around.square().sum(1)
        slope = (self._gradient * shifts).sum() - self._by_part[number] / self._scale
        return (held.sum() + slope) / (len(sums) * (len(sums) - 1))

    def _mean_gradient(self) -> Tensor:
        """(K seen, d), the derivative of the sum over pairs by the class means."""
        by_residual, by_pair, _ = self.slopes
        everyone = torch.arange(len(by_pair), device=by_pair.device)
        squares = self._squared_distances(everyone).fill_diagonal_(torch.inf)
        # By the distance: -4 variance (mu_j - mu_k) / distance^2, to mu_j and against mu_k.
        weights = -4 * by_pair / squares
        weights = weights + weights.T
        turned = weights.sum(1, keepdim=True) * self._centred - weights @ self._centred
        return by_residual / self._scale + turned

    def _leaning(self, residuals: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K seen), r . (mu_j - mu_k) / norm(mu_j - mu_k)^2, 0 for j = k; and the latter."""
        with FullPrecision(residuals.device.type):
            towards = (residuals @ self._centred.to(residuals.dtype).T).double()
        towards = towards - towards.gather(1, place[:, None])
        squares = self._squared_distances(place)
        return (towards / squares).scatter_(1, place[:, None], 0.0), squares

    def _add_slopes(
        self,
        part: int,
        residuals: Tensor,
        shifts: Tensor,
        place: Tensor,
        leaning: Tensor,
        squares: Tensor,
    ) -> None:
        """Of leaning^2, by mu_j - mu_k at a given distance: 2 leaning r / distance^2."""
        shares = 1 / self._counts[place, None]
        factors = 2 * shares * leaning * (self._scale / squares)
        factors.scatter_(1, place[:, None], 0.0)
        # To mu_j, and against mu_k.
        against = factors.sum(1)
        factors.scatter_(1, place[:, None], -against[:, None])
        self._products.add(factors.to(residuals.dtype), residuals)
        self._by_pair.index_add_(0, place, shares * leaning.square())
        self._by_part[part] -= (against * (residuals * shifts).sum(1)).sum()

    def _squared_distances(self, place: Tensor) -> Tensor:
        """(B, K seen), from the mean of each sample's class to all others."""
        if self._kept is not None:
            return self._kept[place]
        classes, which = place.unique(return_inverse=True)
        return self._distances_from(self._centred[classes], self._norms[classes])[which]

    def _distances_from(self, means: Tensor, norms: Tensor) -> Tensor:
        """(C, K seen), squared, from some means to all."""
        scale = norms[:, None] + self._norms
        squared = scale - 2 * means @ self._centred.T
        close = (squared < _CLOSE * scale).nonzero()
        for k, j in (some.unbind(1) for some in close.split(_EXACT_PAIRS)):
            squared[k, j] = (means[k] - self._centred[j]).square().sum(1)
        return squared
