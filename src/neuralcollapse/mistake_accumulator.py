"""Counts of mistakes, added batch by batch and merged, and what they say in the end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuralcollapse.checks import check_label_range, check_labels, check_matrix
from neuralcollapse.decisions import ranking
from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.hierarchy.class_distances import (
    ClassDistances,
    Profile,
    TreeDistances,
    class_distances,
)
from neuralcollapse.hierarchy.distances import DistanceKind
from neuralcollapse.metrics.mistakes import binned_calibration, check_confidences, discounts
from neuralcollapse.mistakes import Mistakes
from neuralcollapse.processes import num_processes, rows_of_processes
from neuralcollapse.scalars import check_integer


class MistakeAccumulator:
    """Counts from which `Mistakes` follow: batches are added, parts of the data merge.

    Args:
        distances: a hierarchy, or a matrix (K, K), entry [true, predicted].
        kind: which distance of a hierarchy: "lca_height", "root_depth" (what the published files
            of tieredImageNet-H and ImageNet hold) or "path", which needs a matrix (K, K).
        hierarchy: for the accuracy by level where `distances` is a matrix.
        top: the numbers k of best ranked classes whose distance is averaged.
        num_bins: of the calibration error, which is computed where probabilities are given.

    Raises:
        TypeError: if distances are neither a hierarchy nor a matrix.
        ValueError: if a distance is negative, the diagonal is not 0, or the classes of distances
            and hierarchy are not equally many.

    Example:
        >>> tree = Hierarchy.from_newick("((cat,dog),(car,bus));")
        >>> accumulator = MistakeAccumulator(tree, top=(1, 2))
        >>> scores = torch.tensor(
        ...     [[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 3.0, 2.0], [0.0, 0.0, 2.0, 3.0]]
        ... )
        >>> accumulator.update(scores, torch.tensor([0, 1, 2]))
        >>> mistakes = accumulator.result()
        >>> mistakes.num_mistakes, mistakes.severity, mistakes.best["hierarchical_distance@2"]
        (2, 1.5, 0.5)
    """

    def __init__(
        self,
        distances: Hierarchy | Tensor | ClassDistances,
        *,
        kind: DistanceKind = "lca_height",
        hierarchy: Hierarchy | None = None,
        top: Sequence[int] = (1, 5, 20),
        num_bins: int = 15,
    ):
        self._distances = class_distances(distances, kind)
        if isinstance(distances, Hierarchy) and hierarchy is None:
            hierarchy = distances
        classes = self._distances.num_classes
        if hierarchy is not None and hierarchy.num_classes != classes:
            raise ValueError(
                f"hierarchy must have the {classes} classes of distances, got "
                f"{hierarchy.num_classes}; take Hierarchy.subset"
            )
        self._kind = kind if isinstance(distances, Hierarchy) else self._distances.name
        self._tree = None if hierarchy is None else TreeDistances(hierarchy, "root_depth")
        self.top = tuple(sorted({check_integer("top", k, 1) for k in top} | {1}))
        self.num_bins = check_integer("num_bins", num_bins, 1)
        self._ranks = min(self.top[-1], classes)
        self._labels = torch.zeros(classes, dtype=torch.int64)
        self._mistakes = 0
        # Distances that have occurred, and how often at each rank; then those of mistakes alone.
        self._values = torch.zeros(1, dtype=torch.float64)
        self._counts = torch.zeros(self._ranks, 1, dtype=torch.int64)
        self._wrong = torch.zeros(1, dtype=torch.int64)
        height = 0 if hierarchy is None else hierarchy.total_height
        self._right_at = torch.zeros(height + 1, dtype=torch.int64)  # by steps above the classes
        self._confidences: list[Tensor] = []
        self._right: list[Tensor] = []
        self._unsure = 0  # samples without probabilities

    def update(self, scores: Tensor, labels: Tensor, probabilities: Tensor | None = None) -> None:
        """Add a batch, ranked by its scores.

        Args:
            scores: (N, K), logits, probabilities or negative risks; ties go to the lower index.
            labels: (N,), the true classes.
            probabilities: (N, K), for the calibration error; the confidence is that of the class
                with the highest score. Give them for all batches or for none.

        Raises:
            ValueError: if shapes do not fit, a label is out of range, a score is nan or a
                confidence is no probability.
        """
        classes = self._distances.num_classes
        check_matrix("scores", scores, columns=classes, why="the classes of distances")
        self.update_ranks(ranking(scores.detach(), self._ranks), labels, probabilities)

    def update_ranks(
        self, ranks: Tensor, labels: Tensor, probabilities: Tensor | None = None
    ) -> None:
        """Add a batch that is ranked already, such as by `minimum_risk(..., top=20)`.

        Args:
            ranks: (N, min(max(top), K)) or wider, classes from the best on.
            labels: (N,), the true classes.
            probabilities: (N, K), for the calibration error; the confidence is that of the class
                ranked first.

        Raises:
            ValueError: if shapes do not fit, a class is out of range or a confidence is no
                probability.
        """
        ranks = self._check_ranks(ranks)
        labels = check_labels(labels, len(ranks), rows="scores").to(ranks.device)
        check_label_range(labels, self._distances.num_classes)
        confidences = None
        if probabilities is not None:
            check_matrix(
                "probabilities",
                probabilities,
                rows=len(labels),
                columns=len(self._labels),
                why="one row per sample, one column per class",
            )
            confidences = probabilities.detach().gather(1, ranks[:, :1]).squeeze(1).cpu()
            confidences = check_confidences(confidences)
        if not len(labels):
            return
        wrong = ranks[:, 0] != labels
        found = self._distances.between(labels, ranks).cpu()
        self._labels += labels.bincount(minlength=len(self._labels)).cpu()
        self._mistakes += int(wrong.sum())
        self._count(found, wrong.cpu())
        if self._tree is not None:
            steps = self._tree.between(labels, ranks[:, :1]).long().flatten().cpu()
            self._right_at += steps.bincount(minlength=len(self._right_at))
        if confidences is None:
            self._unsure += len(labels)
            return
        self._confidences.append(confidences)
        self._right.append(~wrong.cpu())

    def merge(self, other: "MistakeAccumulator") -> None:
        """Add what another accumulator over the same distances has counted.

        Raises:
            TypeError: if it is no accumulator of mistakes.
            ValueError: if it has other distances, another hierarchy, top or num_bins.
        """
        if not isinstance(other, MistakeAccumulator):
            raise TypeError(f"other must be a MistakeAccumulator, got {type(other).__name__}")
        trees = (self._tree, other._tree)
        same_tree = trees == (None, None) or (
            trees[0] is not None and trees[1] is not None and trees[0].same(trees[1])
        )
        same = (self.top, self.num_bins) == (other.top, other.num_bins)
        if not (same and same_tree and self._distances.same(other._distances)):
            raise ValueError(
                "accumulators to merge must have the same distances, hierarchy, top and num_bins; "
                "make both with the same arguments"
            )
        self._labels += other._labels
        self._mistakes += other._mistakes
        self._add(other._values, other._counts, other._wrong)
        self._right_at += other._right_at
        self._confidences = self._confidences + other._confidences
        self._right = self._right + other._right
        self._unsure += other._unsure

    def merge_processes(self) -> None:
        """Add what all other processes of torch.distributed have counted.

        Every process must call it, once, with an accumulator made alike; all then hold the same
        counts. Without other processes nothing happens.
        """
        if num_processes() == 1:
            return
        totals = torch.cat(
            [
                self._labels,
                self._right_at,
                torch.tensor([self._mistakes, self._unsure], dtype=torch.int64),
            ]
        )
        # Sums: every row of every process is a vector of counts of one length.
        totals = rows_of_processes(totals[None]).sum(0)
        self._labels = totals[: len(self._labels)]
        self._right_at = totals[len(self._labels) : -2]
        self._mistakes, self._unsure = (int(number) for number in totals[-2:])
        values, counts = (rows_of_processes(x) for x in (self._values, self._counts.T))
        wrong = rows_of_processes(self._wrong)
        self._values, place = values.unique(return_inverse=True)
        empty = counts.new_zeros(len(self._values), self._ranks)
        self._counts = empty.index_add(0, place, counts).T.contiguous()
        self._wrong = wrong.new_zeros(len(self._values)).index_add(0, place, wrong)
        sure = [part.double() for part in self._confidences] or [self._values[:0]]
        right = [part.to(torch.uint8) for part in self._right] or [self._wrong[:0].byte()]
        self._confidences = [rows_of_processes(torch.cat(sure))]
        self._right = [rows_of_processes(torch.cat(right)).bool()]

    def result(self) -> Mistakes:
        """What all batches so far say."""
        number, classes = int(self._labels.sum()), self._distances.num_classes
        seen = self._labels.nonzero().squeeze(1)
        shares = self._labels[seen].double() / max(number, 1)
        profile = self._distances.profile(seen, min(max(2, self._ranks), classes))
        rows = _Rows({}, {}, {}, {})
        rows.add("accuracy", _ratio(number - self._mistakes, number), 1.0, 1 / classes)
        self._add_severity(rows, shares, profile)
        self._add_rankings(rows, shares, profile)
        self._add_levels(rows, shares, seen)
        self._add_calibration(rows)
        if not number:
            nothing = dict.fromkeys(rows.values, math.nan)
            why = dict.fromkeys(rows.values, "there are no samples")
            rows = _Rows(nothing, why, nothing, nothing)
        conventions = {
            "distance": self._kind,
            "ties": "to the class of lower index",
            "best and chance": "for the classes of these samples",
        }
        counts = zip(self._values.tolist(), self._wrong.tolist(), strict=True)
        return Mistakes(
            num_samples=number,
            num_mistakes=self._mistakes,
            values=rows.values,
            undefined=rows.undefined,
            best=rows.best,
            chance=rows.chance,
            severities={distance: count for distance, count in counts if count},
            conventions=conventions,
        )

    # --- counting -----------------------------------------------------------------------------

    def _check_ranks(self, ranks: Tensor) -> Tensor:
        if not isinstance(ranks, Tensor) or ranks.dim() != 2 or ranks.shape[1] < self._ranks:
            given = tuple(ranks.shape) if isinstance(ranks, Tensor) else type(ranks).__name__
            raise ValueError(
                f"ranks must have shape (N, {self._ranks}) or wider, got {given}; rank with "
                f"top={self._ranks}"
            )
        ranks = ranks[:, : self._ranks]
        flat = check_labels(ranks.reshape(-1), None, "ranks")
        check_label_range(flat, self._distances.num_classes, "ranks")
        return flat.view(ranks.shape)

    def _count(self, found: Tensor, wrong: Tensor) -> None:
        values, place = found.unique(return_inverse=True)
        flat = place + len(values) * torch.arange(self._ranks)
        counts = flat.flatten().bincount(minlength=self._ranks * len(values))
        mistakes = place[:, 0][wrong].bincount(minlength=len(values))
        self._add(values, counts.view(self._ranks, -1), mistakes)

    def _add(self, values: Tensor, counts: Tensor, wrong: Tensor) -> None:
        """Add counts of distances to those there are."""
        union = torch.cat([self._values, values]).unique()
        for name, new in (("_counts", counts), ("_wrong", wrong)):
            total = new.new_zeros(*new.shape[:-1], len(union))
            total[..., torch.searchsorted(union, self._values)] += getattr(self, name)
            total[..., torch.searchsorted(union, values)] += new
            setattr(self, name, total)
        self._values = union

    # --- what the counts say ------------------------------------------------------------------

    def _add_severity(self, rows: "_Rows", shares: Tensor, profile: Profile) -> None:
        classes = self._distances.num_classes
        severity = _ratio(float((self._values * self._wrong).sum()), self._mistakes)
        # The nearest other class; the nearest of all is the class itself.
        nearest = float(shares @ profile.near[:, 1]) if classes > 1 else math.nan
        other = _ratio(float(shares @ profile.mean) * classes, classes - 1)
        rows.add("mistake_severity", severity, nearest, other, "no decision is wrong")

    def _add_rankings(self, rows: "_Rows", shares: Tensor, profile: Profile) -> None:
        number, ranks = int(self._labels.sum()), self._ranks
        totals = (self._counts * self._values).sum(1)  # (ranks,)
        near, far = shares @ profile.near[:, :ranks], shares @ profile.far[:, :ranks]
        chance = float(shares @ profile.mean)
        for k in self.top:
            width = min(k, ranks)
            found = _ratio(float(totals[:width].sum()), number * width)
            rows.add(f"hierarchical_distance@{k}", found, float(near[:width].mean()), chance)
        discount = discounts(ranks)
        worst, room = float(far @ discount), float((far - near) @ discount)
        rows.add(
            f"preference_score@{self.top[-1]}",
            _ratio(worst - _ratio(float(totals @ discount), number), room),
            1.0,
            _ratio(worst - chance * float(discount.sum()), room),
            "every ranking is as good as another",
        )

    def _add_levels(self, rows: "_Rows", shares: Tensor, seen: Tensor) -> None:
        if self._tree is None:
            return
        number, height = int(self._labels.sum()), self._tree.hierarchy.total_height
        chances = shares @ self._tree.within(seen).double() / self._tree.num_classes
        for level in range(1, height + 1):
            steps = height - level
            right = int(self._right_at[: steps + 1].sum())
            rows.add(f"lca_accuracy@{level}", _ratio(right, number), 1.0, float(chances[steps]))

    def _add_calibration(self, rows: "_Rows") -> None:
        if not sum(map(len, self._confidences)):
            return
        error, why = math.nan, f"{self._unsure} samples came without probabilities"
        if not self._unsure:
            confidences, right = torch.cat(self._confidences), torch.cat(self._right)
            try:
                error = float(binned_calibration(confidences, right, self.num_bins))
            except ValueError as missing:  # the extra; what was counted is whole
                why = str(missing)
        rows.add("calibration_error", error, 0.0, math.nan, why)


@dataclass
class _Rows:
    """Values by key with the reasons for those that are undefined, and what they can be."""

    values: dict[str, float]
    undefined: dict[str, str]
    best: dict[str, float]
    chance: dict[str, float]

    def add(self, key: str, value: float, best: float, chance: float, why: str = "") -> None:
        self.values[key], self.best[key], self.chance[key] = value, best, chance
        if math.isnan(value):
            self.undefined[key] = why


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan
