"""Directional CDNV: how much a class varies towards the other classes, and not across."""

import torch
from torch import Tensor

from neuralcollapse.checks import check_label_range, check_labels, check_matrix
from neuralcollapse.precision import FullPrecision
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

    Example:
        >>> features, labels = torch.tensor([[1.0], [3.0], [-2.0]]), torch.tensor([0, 0, 1])
        >>> spread = DirectionalSpread(ClassStatistics.from_features(features, labels, 2))
        >>> for i in range(3):
        ...     spread.update(features[i : i + 1], labels[i : i + 1])
        >>> float(spread.result())  # (1/16 + 0) / 2
        0.03125
    """

    def __init__(self, statistics: ClassStatistics):
        seen = check_statistics(statistics).seen
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

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features (N, d), labels (N,)."""
        widest = max(1, len(self._centred), features.shape[1])
        rows = max(1, _BLOCK_SCORES // widest)
        dtype = torch.promote_types(features.dtype, torch.float32)
        for block, own in zip(features.split(rows), labels.split(rows), strict=True):
            place = self._place[own]
            residuals = (block.double() - self._own_means[own]).to(dtype)
            with FullPrecision(block.device.type):
                towards = (residuals @ self._centred.to(dtype).T).double()
            towards = towards - towards.gather(1, place[:, None])
            squares = self._squared_distances(place)
            ratios = (towards / squares).square()
            ratios.scatter_(1, place[:, None], 0.0)
            self.totals[0].index_add_(0, place, ratios.sum(1))
            self.totals[1].index_add_(0, place, ratios.new_ones(len(place)))

    def result(self) -> Tensor:
        """The mean over pairs of classes, 0-d float64."""
        sums, counts = self.totals
        if len(sums) < 2:
            return sums.new_full((), torch.nan)
        return (sums / counts).mean() / (len(sums) - 1)

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
