"""All about the mistakes of a classifier in one pass: counts that merge, and what they say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuralcollapse.checks import check_label_range, check_labels, check_matrix
from neuralcollapse.class_distances import (
    ClassDistances,
    Profile,
    TreeDistances,
    class_distances,
)
from neuralcollapse.decisions import ranking
from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.hierarchy.distances import DistanceKind
from neuralcollapse.metrics.mistakes import MISTAKE_METRICS, binned_calibration, discounts
from neuralcollapse.scalars import check_integer


@dataclass(frozen=True, eq=False)
class Mistakes:
    """How many decisions are wrong, how severely, and what could be had at best and by chance.

    Attributes:
        num_samples: N.
        num_mistakes: how many are wrong.
        values: by key: `accuracy`, `mistake_severity`, `hierarchical_distance@k`,
            `preference_score@k`, `lca_accuracy@level` and `calibration_error`; nan where undefined.
        undefined: the reason for each nan.
        best: the same by a perfect ranking of all samples, in order of distance to the truth. The
            severity's is that of mistakes that all fall on the nearest other class.
        chance: the same by a uniformly random ranking; the severity's is that of mistakes that
            fall on any other class.
        severities: the distances that occur among the mistakes, ascending, with their counts.
        conventions: what was assumed.

    Everything is a function of counts: the numbers do not depend on how the samples were cut into
    batches, or on their order. hierarchical_distance@1 = mistake_severity * (1 - accuracy).
    """

    num_samples: int
    num_mistakes: int
    values: Mapping[str, float]
    undefined: Mapping[str, str]
    best: Mapping[str, float]
    chance: Mapping[str, float]
    severities: Mapping[float, int]
    conventions: Mapping[str, str]

    @property
    def accuracy(self) -> float:
        """Share of the decisions that are right; nan without samples."""
        return self.values["accuracy"]

    @property
    def severity(self) -> float:
        """Mean distance of the mistakes; nan where nothing is wrong."""
        return self.values["mistake_severity"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None for what is undefined."""

        def plain(numbers: Mapping[str, float]) -> dict[str, float | None]:
            return {key: None if math.isnan(x) else x for key, x in numbers.items()}

        return {
            "num_samples": self.num_samples,
            "num_mistakes": self.num_mistakes,
            "values": plain(self.values),
            "undefined": dict(self.undefined),
            "best": plain(self.best),
            "chance": plain(self.chance),
            "severities": [[distance, count] for distance, count in self.severities.items()],
            "conventions": dict(self.conventions),
        }

    def __str__(self) -> str:
        """A table with bounds beside the values, and every convention below it."""

        def shown(number: float | None) -> str:
            return f"{'-':>10}" if number is None or math.isnan(number) else f"{number:>10.4g}"

        lines = [f"{'metric':<26} {'value':>10} {'best':>10} {'chance':>10}  meaning"]
        meanings = {metric.key: metric.summary for metric in MISTAKE_METRICS}
        for key, value in self.values.items():
            meaning = meanings.get(key.partition("@")[0], "decisions that are right")
            numbers = (value, self.best.get(key), self.chance.get(key))
            lines.append(f"{key:<26} {' '.join(map(shown, numbers))}  {meaning}")
        reasons: dict[str, list[str]] = {}
        for key, reason in self.undefined.items():
            reasons.setdefault(reason, []).append(key)
        lines += [f"undefined: {', '.join(keys)}: {reason}" for reason, keys in reasons.items()]
        lines.append(f"samples: {self.num_samples}, of which wrong: {self.num_mistakes}")
        lines += [f"{name}: {value}" for name, value in self.conventions.items()]
        return "\n".join(lines)


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
                with the highest score.

        Raises:
            ValueError: if shapes do not fit, a label is out of range or a score is nan.
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
            ValueError: if shapes do not fit, or a class is out of range.
        """
        ranks = self._check_ranks(ranks)
        labels = check_labels(labels, len(ranks), rows="scores").to(ranks.device)
        check_label_range(labels, self._distances.num_classes)
        if probabilities is not None:
            check_matrix(
                "probabilities",
                probabilities,
                rows=len(labels),
                columns=len(self._labels),
                why="one row per sample, one column per class",
            )
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
        if probabilities is None:
            self._unsure += len(labels)
            return
        confidences = probabilities.detach().gather(1, ranks[:, :1]).squeeze(1)
        self._confidences.append(confidences.float().cpu())
        self._right.append(~wrong.cpu())

    def merge(self, other: "MistakeAccumulator") -> None:
        """Add what another accumulator over the same distances has counted.

        Raises:
            TypeError: if it is no accumulator of mistakes.
            ValueError: if it has other distances, hierarchy or top.
        """
        if not isinstance(other, MistakeAccumulator):
            raise TypeError(f"other must be a MistakeAccumulator, got {type(other).__name__}")
        trees = (self._tree, other._tree)
        same_tree = trees == (None, None) or (
            trees[0] is not None and trees[1] is not None and trees[0].same(trees[1])
        )
        if not (same_tree and self._distances.same(other._distances) and self.top == other.top):
            raise ValueError(
                "accumulators to merge must have the same distances, hierarchy and top; make both "
                "with the same arguments"
            )
        self._labels += other._labels
        self._mistakes += other._mistakes
        self._add(other._values, other._counts, other._wrong)
        self._right_at += other._right_at
        self._confidences += other._confidences
        self._right += other._right
        self._unsure += other._unsure

    def result(self) -> Mistakes:
        """What all batches so far say."""
        number = int(self._labels.sum())
        seen = self._labels.nonzero().squeeze(1)
        shares = self._labels[seen].double() / max(number, 1)
        profile = self._distances.profile(seen, self._ranks)
        values: dict[str, float] = {"accuracy": _ratio(number - self._mistakes, number)}
        best: dict[str, float] = {"accuracy": 1.0}
        chance: dict[str, float] = {"accuracy": 1 / self._distances.num_classes}
        undefined: dict[str, str] = {}
        self._severity(values, best, chance, undefined, shares, profile)
        self._rankings(values, best, chance, undefined, shares, profile)
        self._levels(values, best, chance, seen, shares)
        self._calibration(values, best, undefined)
        if not number:
            undefined = dict.fromkeys(values, "there are no samples")
            best = dict.fromkeys(best, math.nan)
            chance = dict.fromkeys(chance, math.nan)
        conventions = {
            "distance": self._kind,
            "ties": "to the class of lower index",
            "best and chance": "for the classes of these samples",
        }
        severities = {
            float(distance): int(count)
            for distance, count in zip(self._values, self._wrong, strict=True)
            if count
        }
        return Mistakes(
            number, self._mistakes, values, undefined, best, chance, severities, conventions
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

    def _severity(
        self,
        values: dict[str, float],
        best: dict[str, float],
        chance: dict[str, float],
        undefined: dict[str, str],
        shares: Tensor,
        profile: Profile,
    ) -> None:
        key, classes = "mistake_severity", self._distances.num_classes
        values[key] = _ratio(float((self._values * self._wrong).sum()), self._mistakes)
        if not self._mistakes:
            undefined[key] = "no decision is wrong"
        two = self._distances.profile(self._labels.nonzero().squeeze(1), min(2, classes))
        best[key] = float(shares @ two.near[:, -1]) if classes > 1 else math.nan
        chance[key] = _ratio(float(shares @ profile.mean) * classes, classes - 1)

    def _rankings(
        self,
        values: dict[str, float],
        best: dict[str, float],
        chance: dict[str, float],
        undefined: dict[str, str],
        shares: Tensor,
        profile: Profile,
    ) -> None:
        number = int(self._labels.sum())
        totals = (self._counts * self._values).sum(1)  # (ranks,)
        for k in self.top:
            key, width = f"hierarchical_distance@{k}", min(k, self._ranks)
            values[key] = _ratio(float(totals[:width].sum()), number * width)
            best[key] = float(shares @ profile.near[:, :width].mean(1))
            chance[key] = float(shares @ profile.mean)
        key, discount = f"preference_score@{self.top[-1]}", discounts(self._ranks)
        nearest, farthest = (float(shares @ (d @ discount)) for d in (profile.near, profile.far))
        room = farthest - nearest
        found = _ratio(float(totals @ discount), number)
        values[key] = _ratio(farthest - found, room)
        best[key] = 1.0
        chance[key] = _ratio(farthest - float(shares @ profile.mean) * float(discount.sum()), room)
        if not room:
            undefined[key] = "every ranking is as good as another"

    def _levels(
        self,
        values: dict[str, float],
        best: dict[str, float],
        chance: dict[str, float],
        seen: Tensor,
        shares: Tensor,
    ) -> None:
        if self._tree is None:
            return
        number, height = int(self._labels.sum()), self._tree.hierarchy.total_height
        # (classes, K) is not needed: the profile of a tree counts the classes within each step.
        within = self._tree.within(seen).double() / self._tree.num_classes
        for level in range(1, height + 1):
            key, steps = f"lca_accuracy@{level}", height - level
            values[key] = _ratio(int(self._right_at[: steps + 1].sum()), number)
            best[key] = 1.0
            chance[key] = float(shares @ within[:, steps])

    def _calibration(
        self, values: dict[str, float], best: dict[str, float], undefined: dict[str, str]
    ) -> None:
        if not self._confidences:
            return
        key = "calibration_error"
        best[key] = 0.0
        if self._unsure:
            values[key] = math.nan
            undefined[key] = f"{self._unsure} samples came without probabilities"
            return
        confidences, right = torch.cat(self._confidences), torch.cat(self._right)
        values[key] = float(binned_calibration(confidences, right, self.num_bins))


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan
