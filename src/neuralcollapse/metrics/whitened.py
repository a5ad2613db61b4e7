"""NC1 without any (d, d) array, and how well the matrix that it inverts is conditioned."""

import math

import torch
from torch import Tensor

from neuralcollapse.spectrum import mean_spectrum
from neuralcollapse.statistics import ClassStatistics, GlobalMean, check_statistics

# Features per block: 2^20 doubles are 8 MiB.
_BLOCK_FEATURES = 1 << 20
# Smaller eigenvalues, relative to the largest, are rounding of the Gram matrix.
_LEAST_EIGENVALUE = 1e-12


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

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> statistics = ClassStatistics.from_features(features, labels, 2, scatter=False)
        >>> spread = WhitenedSpread(statistics)
        >>> spread.update(features, labels)
        >>> round(float(spread.result()), 6)
        0.125
    """

    def __init__(self, statistics: ClassStatistics, *, global_mean: GlobalMean = "class"):
        self._means = check_statistics(statistics).means.double()
        centred = statistics.centred_means(global_mean).double()
        singular, directions = mean_spectrum(centred, statistics.seen_means)
        self._projection = directions / singular[:, None]
        self.totals = self._means.new_zeros(2)
        """(2,): sum of squares, number of samples; those of several processes add up."""

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features (N, d), labels (N,)."""
        if not len(self._projection):
            return
        rows = max(1, _BLOCK_FEATURES // max(1, features.shape[1]))
        for block, own in zip(features.split(rows), labels.split(rows), strict=True):
            # In double: the deviations of collapsed features are the last digits of single ones.
            deviations = block.double() - self._means[own]
            self.totals[0] += (deviations @ self._projection.T).square().sum()
            self.totals[1] += len(block)

    def result(self) -> Tensor:
        """0-d float64, in [0, inf); nan where `nc1` is."""
        return self.totals[0] / self.totals[1]


def between_condition(
    statistics: ClassStatistics, *, global_mean: GlobalMean = "class"
) -> tuple[int, float]:
    """(rank, condition) of the between-class covariance whose pseudo-inverse `nc1` takes.

    The condition is its largest eigenvalue over the smallest of the K-1 (or d, if fewer) that are
    not zero for class means in general position; infinite beyond 1e12, where directions are lost in
    the rounding of their Gram matrix. The larger it is, the more `nc1` says of the few directions
    in which the class means differ least.

    Returns:
        The rank, and the condition, nan for fewer than two classes.
    """
    centred = check_statistics(statistics).centred_means(global_mean).double()
    num_seen, dim = centred.shape
    if num_seen < 2 or not bool(centred.any()):
        return 0, math.nan
    gram = centred @ centred.T if num_seen <= dim else centred.T @ centred
    values = torch.linalg.eigvalsh(gram).flip(0)[: min(num_seen - 1, dim)]
    rank = int((values > _LEAST_EIGENVALUE * values[0]).sum())
    return rank, float(values[0] / values[-1]) if rank == len(values) else math.inf
