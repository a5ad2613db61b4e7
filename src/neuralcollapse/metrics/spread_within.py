"""Uniformity within classes: how far directions lie from those of their class means."""

import torch
from torch import Tensor

from neuralcollapse.checks import check_label_range, check_labels, check_matrix
from neuralcollapse.rests import Rests
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
        rests: of the same features; also sum up what `result_of` needs.
    """

    def __init__(
        self,
        statistics: ClassStatistics,
        *,
        centred: bool = True,
        global_mean: GlobalMean = "class",
        single: bool = False,
        rests: Rests | None = None,
    ):
        check_boolean("centred", centred)
        self._statistics, self._rests = check_statistics(statistics), rests
        self._centred = centred
        self._global_mean: GlobalMean = global_mean
        self._means = statistics.means.double()
        # From differences: means that coincide have no direction, and not that of their rounding.
        moved = self._from_origin(statistics)
        self._broken = bool((moved == 0).all(1).any())
        self._single = (statistics.counts == 1) & single
        self._origin = None
        if centred and len(moved):
            self._origin = (statistics.seen_means[0] - moved[0]).double()
        self._centres: dict[torch.dtype, tuple[Tensor, Tensor]] = {}
        self.totals = self._means.new_zeros(2, len(self._means))
        """(2, K): sums of distances, and numbers of samples; those of several processes add up."""
        self.slopes: list[Tensor] = []
        """Of all samples: (K, d), sums of the directions of the distances; (d,), what the global
        mean adds to the mean distances, summed over classes; and (J,), by part, what its own
        samples have in the slope along which it moves the means. They add up, too."""
        if rests is not None:
            by_class, by_part = torch.zeros_like(self._means), self._means.new_zeros(len(rests))
            self.slopes = [by_class, torch.zeros_like(self._means[0]), by_part]
            self._weights = self._weights_in_origin()

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, part: int = 0) -> None:
        """Add a batch of one part: features (N, d), labels (N,)."""
        dtype = torch.promote_types(features.dtype, torch.float32)
        origin, centres = self._moved(dtype)
        rows = max(1, _BLOCK_FEATURES // max(1, features.shape[1]))
        for block, own in zip(features.split(rows), labels.split(rows), strict=True):
            moved = block.to(dtype) - origin
            units = directions(moved)
            apart = units - centres[own]
            distances = apart.norm(dim=1).to(self.totals)
            self.totals[0].index_add_(0, own, distances)
            self.totals[1].index_add_(0, own, torch.ones_like(distances))
            if self._rests is not None:
                self._add_slopes(self._rests, part, own, moved, units, directions(apart))

    def result(self) -> Tensor:
        """The mean over classes of their mean distances, 0-d float64."""
        sums, counts = self.totals
        if self._broken:
            return sums.new_full((), torch.nan)
        return (sums / counts.clamp(min=1))[(counts > 0) | self._single].mean()

    def result_of(self, number: int) -> Tensor:
        """What it is without a part, to second order in how far the part moves its class means.

        `totals` are those of the others, `slopes` those of all samples; to the slope along which a
        part moves the means it has itself nothing to say.
        """
        if self._rests is None:
            raise ValueError("rests must be given to leave out a part, got none")
        rest, whole = self._rests.without(number), self._statistics
        seen = rest.seen
        if self._broken or not bool(seen.any()):
            return self.totals.new_full((), torch.nan)
        sums, counts = self.totals[:, seen]
        means = sums / counts.clamp(min=1)
        by_class, by_origin, by_part = self.slopes
        centres = self._from_origin(whole).double()[seen[whole.seen]]
        before = directions(centres)
        turned = directions(self._from_origin(rest).double()) - before
        nearer = (by_class[seen] * turned / whole.counts[seen, None]).sum() - by_part[number]
        if self._centred:
            shift = rest.global_mean(self._global_mean) - whole.global_mean(self._global_mean)
            nearer = nearer + (by_origin * shift).sum()
        # Second order, of distances that point anywhere across u. The global mean moves x and u.
        turned = directions(centres + (rest.means - whole.means)[seen].double()) - before
        farther = (1 - 1 / max(1, whole.dim - 1)) * turned.square().sum(1) / (2 * means)
        farther = torch.where(turned.norm(dim=1) < means, farther, 0.0).sum()
        return (means.sum() - nearer + farther) / seen.sum()

    def _from_origin(self, statistics: ClassStatistics) -> Tensor:
        """(K seen, d), the class means less the global mean where that is taken off."""
        if self._centred:
            return statistics.centred_means(self._global_mean)
        return statistics.seen_means

    def _weights_in_origin(self) -> Tensor:
        """(K,), by how much a class mean moves what is taken off."""
        counts = self._statistics.counts.to(self._means)
        shares = counts if self._global_mean == "sample" else counts.clamp(max=1)
        return shares / shares.sum() if self._centred else torch.zeros_like(shares)

    def _add_slopes(
        self,
        rests: Rests,
        part: int,
        own: Tensor,
        moved: Tensor,
        units: Tensor,
        pointing: Tensor,
    ) -> None:
        """Of norm(x - u): pointing = (x - u) / norm by x, the contrary by u."""
        by_class, by_origin, by_part = self.slopes
        classes, place = own.unique(return_inverse=True)
        counts = self._statistics.counts[classes, None].double()
        # x moves with the global mean, the less the longer it is, and across itself alone.
        across = pointing - (pointing * units).sum(1, keepdim=True) * units
        lengths = moved.norm(dim=1, keepdim=True)
        across = torch.where(lengths > 0, across / lengths, 0.0)
        toward, away = by_class.new_zeros(2, len(classes), by_class.shape[1])
        toward.index_add_(0, place, pointing.to(toward))
        away.index_add_(0, place, across.to(away))
        by_class.index_add_(0, classes, toward)
        by_origin += (away / counts).sum(0)
        # How the samples of this part move the mean of their class and, with it, the global mean.
        shifts = rests.shifts(part, classes).double()
        common = self._weights[classes, None] * shifts
        centres = self._means[classes] - (0.0 if self._origin is None else self._origin)
        turned = directions(centres + shifts - common) - directions(centres)
        by_part[part] += ((toward * turned + away * common) / counts).sum()

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
