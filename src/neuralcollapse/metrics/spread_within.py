"""Uniformity within classes: how far directions lie from those of their class means."""

import torch
from torch import Tensor

from neuralcollapse.checks import check_label_range, check_labels, check_matrix
from neuralcollapse.scalars import check_boolean
from neuralcollapse.sphere import directions
from neuralcollapse.statistics import ClassStatistics, GlobalMean, check_statistics

# Features per block: 2^20 floats are 4 MiB.
_BLOCK_FEATURES = 1 << 20


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
    check_statistics(statistics)
    check_matrix("features", features, columns=statistics.dim, why="the width of the class means")
    labels = check_labels(labels, len(features))
    check_label_range(labels, statistics.num_classes)
    spread = SpreadWithin(statistics, centred=centred, global_mean=global_mean)
    spread.update(features, labels)
    return spread.result()


class SpreadWithin:
    """Distances of directions to those of their class means, summed by class over batches.

    Works relative to the global mean, so that an offset common to all features, however large,
    does not drown the distances in float32.

    Args:
        statistics: whose class means are the centres.
        centred: subtract the global mean first.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        single: features are those of the statistics, or part of them, and a class of a single
            sample, which is at no distance from itself, counts wherever it was left out.
    """

    def __init__(
        self,
        statistics: ClassStatistics,
        *,
        centred: bool = True,
        global_mean: GlobalMean = "class",
        single: bool = False,
    ):
        check_boolean("centred", centred)
        self._means = check_statistics(statistics).means.double()
        # From differences: means that coincide have no direction, and not that of their rounding.
        moved = statistics.centred_means(global_mean) if centred else statistics.seen_means
        self._broken = bool((moved == 0).all(1).any())
        self._single = (statistics.counts == 1) & single
        self._origin = None
        if centred and len(moved):
            self._origin = (statistics.seen_means[0] - moved[0]).double()
        self._centres: dict[torch.dtype, tuple[Tensor, Tensor]] = {}
        self.totals = self._means.new_zeros(2, len(self._means))
        """(2, K): sums of distances, and numbers of samples; those of several processes add up."""

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features (N, d), labels (N,)."""
        dtype = torch.promote_types(features.dtype, torch.float32)
        origin, centres = self._moved(dtype)
        rows = max(1, _BLOCK_FEATURES // max(1, features.shape[1]))
        for block, own in zip(features.split(rows), labels.split(rows), strict=True):
            units = directions(block.to(dtype) - origin)
            distances = (units - centres[own]).norm(dim=1).to(self.totals)
            self.totals[0].index_add_(0, own, distances)
            self.totals[1].index_add_(0, own, torch.ones_like(distances))

    def result(self) -> Tensor:
        """The mean over classes of their mean distances, 0-d float64."""
        sums, counts = self.totals
        if self._broken:
            return sums.new_full((), torch.nan)
        return (sums / counts.clamp(min=1))[(counts > 0) | self._single].mean()

    def _moved(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The origin (d,) and the centres' directions (K, d) for features of one precision."""
        if dtype not in self._centres:
            origin = self._means.new_zeros(self._means.shape[1], dtype=dtype)
            if self._origin is not None:
                # Rounded first, so that means and features are moved by exactly the same.
                origin = self._origin.to(dtype)
            moved = self._means - origin
            units = moved / moved.norm(dim=1, keepdim=True)
            self._centres[dtype] = origin, units.to(dtype)
        return self._centres[dtype]
