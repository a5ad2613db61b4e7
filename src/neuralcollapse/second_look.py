"""A second look at features, once their class means are known."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from neuralcollapse.dealing import MOST_PARTS, Dealer
from neuralcollapse.metrics.balanced_scatter import BalancedScatter
from neuralcollapse.metrics.decision import DualDecisions
from neuralcollapse.metrics.directional import DirectionalSpread, cdnv_directional
from neuralcollapse.metrics.evaluation import too_many
from neuralcollapse.metrics.outsiders import nc5_orthogonality
from neuralcollapse.metrics.rest_decisions import RestDecisions
from neuralcollapse.metrics.spread_within import SpreadWithin
from neuralcollapse.metrics.table import METRICS
from neuralcollapse.metrics.variability import Weighting, nc1, vci
from neuralcollapse.metrics.whitened import WhitenedSpread
from neuralcollapse.processes import num_processes
from neuralcollapse.rests import Rests
from neuralcollapse.sphere import directions
from neuralcollapse.statistics import ClassStatistics, GlobalMean

# With more classes, deciding anew without each part takes too long.
_MOST_DECIDED_ANEW = 1000
_DIRECTIONAL = next(row for row in METRICS if row.function is cdnv_directional)


@dataclass(frozen=True)
class Look:
    """What a look at the features tells once the class means are known.

    Attributes:
        accuracy: of the classifier, or None.
        known: metrics by key: a value, or the reason why there is none.
        without: the same without each part of the data, in their order; empty where it was looked
            at as a whole.
    """

    accuracy: float | None
    known: dict[str, float | str]
    without: tuple["Look", ...] = ()

    def beside(self, decided: "Look") -> "Look":
        """This look with what was decided apart from it, of all data and without each part."""
        without = tuple(
            one.beside(other) for one, other in zip(self.without, decided.without, strict=True)
        )
        return Look(decided.accuracy, self.known | decided.known, without)

    @property
    def known_without(self) -> dict[str, list[float]]:
        """By key, accuracy among them, the value of all data and those without each part."""
        if not self.without:
            return {}
        looks = [self, *self.without]
        found = {key: [look.known.get(key, "not known") for look in looks] for key in self.known}
        found["accuracy"] = [math.nan if one.accuracy is None else one.accuracy for one in looks]
        return {
            key: [float(value) for value in values]
            for key, values in found.items()
            if not any(isinstance(value, str) for value in values)
        }


class Decided:
    """How often a classifier decides unlike the nearest class mean, and how often rightly.

    Args:
        means: whose class means decide.
        weight: (K, d), the classifier.
        bias: (K,), or None.
        normalize: the means are of features at unit length; the classifier has them as they are.
        parts: how many parts of the data are counted apart.
    """

    def __init__(
        self,
        means: ClassStatistics,
        weight: Tensor,
        bias: Tensor | None,
        *,
        normalize: bool,
        parts: int = 1,
    ):
        home = means.means.device
        bias = None if bias is None else bias.to(home)
        self._decide = DualDecisions(means, weight.to(home), bias, normalize=normalize)
        self._enough = int(means.seen.sum()) > 1
        self.totals = torch.zeros(parts, 3, dtype=torch.int64, device=home)
        """(parts, 3): samples decided differently, decided rightly, and in all; they add up."""

    def update(self, features: Tensor, labels: Tensor, part: int = 0) -> tuple[Tensor, Tensor]:
        """Add a batch of one part: features (N, d), labels (N,); (chosen, nearest) of each."""
        features, labels = features.to(self.totals.device), labels.to(self.totals.device)
        chosen, nearest = self._decide(features)
        self.totals[part, 0] += (chosen != nearest).sum()
        self.totals[part, 1] += (chosen == labels).sum()
        self.totals[part, 2] += len(features)
        return chosen, nearest

    def result(self) -> Look:
        """Accuracy and `nc4_disagreement`, also without each part where there are several."""
        whole = self.totals.sum(0)
        rests = whole - self.totals if len(self.totals) > 1 else self.totals[:0]
        without = tuple(self._look(rest) for rest in rests)
        return replace(self._look(whole), without=without)

    def _look(self, totals: Tensor) -> Look:
        differing, correct, total = totals.tolist()
        if not total:
            return Look(None, {"nc4_disagreement": math.nan})
        disagreement = differing / total if self._enough else math.nan
        return Look(correct / total, {"nc4_disagreement": disagreement})


class SecondLook:
    """What is to be seen of features once their class means are known, summed over batches.

    The classifier beside the nearest mean and the labels, and features beside their means. `totals`
    of parts of the data add up.

    Where parts of the data are to be left out, one at a time, `slopes` of all samples tell how the
    metrics change with the class means, which leaving out a part moves; they add up, too.
    """

    def __init__(
        self,
        statistics: ClassStatistics,
        weight: Tensor | None,
        bias: Tensor | None,
        *,
        normalize: bool,
        global_mean: GlobalMean,
        weighting: Weighting | None = None,
        means: ClassStatistics | None = None,
        parts: Sequence[ClassStatistics] = (),
    ):
        self._statistics, self._normalize = statistics, normalize
        self.rests = Rests(parts, statistics) if parts else None
        self._global_mean: GlobalMean = global_mean
        self._decided = None
        if weight is not None:
            self._decided = Decided(means or statistics, weight, bias, normalize=normalize)
        num_seen = int(statistics.seen.sum())
        # Means that were given do not move with the samples.
        self._held_means = means is not None
        self._anew = None
        if self.rests and weight is not None and means is None and num_seen <= _MOST_DECIDED_ANEW:
            self._anew = RestDecisions(statistics, self.rests)
        self._spread = SpreadWithin(
            statistics, global_mean=global_mean, single=True, rests=self.rests
        )
        self._crowded = too_many(_DIRECTIONAL, num_seen)
        self._directional = None
        if not self._crowded:
            self._directional = DirectionalSpread(statistics, rests=self.rests)
        self._whitened = self._balanced = None
        if statistics.scatter is None:
            if weighting is None:
                self._whitened = WhitenedSpread(
                    statistics, global_mean=global_mean, rests=self.rests
                )
        elif balances(statistics, weighting):
            self._balanced = BalancedScatter(statistics, rests=self.rests, global_mean=global_mean)

    @property
    def num_classes(self) -> int:
        """K, classes never seen included."""
        return self._statistics.num_classes

    @property
    def totals(self) -> list[Tensor]:
        """The sums, to be added to in place."""
        decided = [] if self._decided is None else [self._decided.totals]
        by_class = [] if self._balanced is None else [self._balanced.by_class]
        return [*decided, *(part.totals for part in self._parts), *by_class]

    @property
    def slopes(self) -> list[Tensor]:
        """The sums over all samples, of whichever part; none where none is left out."""
        anew = [] if self._anew is None else [self._anew.totals]
        bending = [self._spread, self._directional, self._whitened]
        return anew + [slope for part in bending if part is not None for slope in part.slopes]

    @property
    def _parts(
        self,
    ) -> list[SpreadWithin | DirectionalSpread | WhitenedSpread | BalancedScatter]:
        parts = [self._spread, self._directional, self._whitened, self._balanced]
        return [part for part in parts if part is not None]

    def update(self, features: Tensor, labels: Tensor, part: int = 0) -> None:
        """Add a batch of one part: features (N, d), labels (N,)."""
        home = self._statistics.means.device
        features, labels = features.to(home), labels.to(home)
        shown = directions(features) if self._normalize else features
        for one in self._parts:
            one.update(shown, labels, part)
        if self._decided is not None:
            chosen, nearest = self._decided.update(features, labels)
            if self._anew is not None:
                self._anew.update(shown, chosen, nearest, part)

    def take(self) -> list[Tensor]:
        """The totals so far; the look begins anew."""
        taken = [total.clone() for total in self.totals]
        for total in self.totals:
            total.zero_()
        return taken

    def add(self, totals: Sequence[Tensor]) -> None:
        """Add what another look at other samples has taken."""
        for total, own in zip(self.totals, totals, strict=True):
            total += own

    def result(self) -> Look:
        """Metrics and accuracy of what was added."""
        known: dict[str, float | str] = {"hug_intra": float(self._spread.result())}
        if self._directional is None:
            known["cdnv_directional"] = self._crowded or math.nan
        else:
            known["cdnv_directional"] = float(self._directional.result())
        if self._whitened is not None:
            known["nc1"] = float(self._whitened.result())
        elif self._statistics.scatter is None:
            known["nc1"] = "weighted covariances need the scatter, which takes d x d numbers"
        if self._balanced is not None:
            balanced = self._balanced.result()
            known |= self._balanced_metrics((balanced, balanced))
        if self._decided is None:
            return Look(None, known)
        decided = self._decided.result()
        return Look(decided.accuracy, known | decided.known)

    def result_of(self, number: int) -> Look:
        """The same without a part, where `totals` are those of the others."""
        known: dict[str, float | str] = {"hug_intra": float(self._spread.result_of(number))}
        if self._directional is not None:
            known["cdnv_directional"] = float(self._directional.result_of(number))
        if self._whitened is not None:
            known["nc1"] = float(self._whitened.result_of(number))
        if self._balanced is not None:
            known |= self._balanced_metrics(self._balanced.result_of(number))
        if self._decided is None:
            return Look(None, known)
        decided = self._decided.result()
        if not self._held_means:
            decided.known["nc4_disagreement"] = self._disagreement_of(number)
        return Look(decided.accuracy, known | decided.known)

    def _balanced_metrics(
        self, balanced: tuple[ClassStatistics, ClassStatistics] | None
    ) -> dict[str, float | str]:
        """Of a balanced scatter, what the default says is what was asked for."""
        if balanced is None:
            return {"nc1": math.nan, "vci": math.nan}
        of_nc1, of_vci = balanced
        return {
            "nc1": float(nc1(of_nc1, global_mean=self._global_mean)),
            "vci": float(vci(of_vci, global_mean=self._global_mean)),
        }

    def _disagreement_of(self, number: int) -> float:
        """`nc4_disagreement` without a part, by the class means without it."""
        decided = int(self.totals[0].sum(0)[2])
        if self._anew is None or not decided or self._anew.num_seen[number] < 2:
            return math.nan
        return int(self._anew.totals[number]) / decided


def second_look(
    statistics: ClassStatistics,
    weight: Tensor | None,
    bias: Tensor | None,
    batches: Iterable[tuple[Tensor, Tensor, Tensor | None]] | None,
    *,
    normalize: bool,
    global_mean: GlobalMean,
    weighting: Weighting | None = None,
    outsiders: Tensor | None = None,
    distributed: bool = False,
    means: ClassStatistics | None = None,
    decided: Decided | None = None,
    unseen: str = "features did not fit into memory and the loader runs only once",
    parts: Sequence[ClassStatistics] = (),
    first_part: int = 0,
) -> Look:
    """Compare the classifier with nearest mean and labels, and features with their means.

    Args:
        statistics: of all the features.
        weight: (K, d), the classifier, or None.
        bias: (K,), its bias, or None.
        batches: features, labels and the number of each one's sequence, or None, once more; None
            where they are not to be had.
        normalize: the statistics are of features at unit length.
        global_mean: "class" or "sample".
        weighting: of the covariances.
        outsiders: (M, d), features of samples of no class.
        distributed: batches are those of one process.
        means: whose class means decide for `nc4_disagreement`; by default those of the statistics.
        decided: what was counted before, so that the decisions need no second look.
        unseen: why `batches` is None.
        parts: whose statistics these are; look without each of them, too, and deal the batches to
            them as before.
        first_part: the one to begin with.
    """
    known: dict[str, float | str] = {}
    if outsiders is not None:
        known["nc5_orthogonality"] = orthogonality(statistics, outsiders)
    before = Look(None, {})
    if decided is not None:
        if distributed and num_processes() > 1:
            dist.all_reduce(decided.totals)
        weight, before = None, decided.result()
    if batches is None:
        keys = ["hug_intra", "cdnv_directional"]
        keys += [] if weight is None else ["nc4_disagreement"]
        keys += ["nc1", "vci"] if balances(statistics, weighting) else []
        keys += ["nc1"] if statistics.scatter is None else []
        return replace(before, known=known | before.known | dict.fromkeys(keys, unseen))
    look = SecondLook(
        statistics,
        weight,
        bias,
        normalize=normalize,
        global_mean=global_mean,
        weighting=weighting,
        means=means,
        parts=parts,
    )
    if not parts:
        for features, labels, _ in batches:
            look.update(features, labels)
        totals = [look.take()]
    else:
        totals = totals_by_part(look, batches, first_part)
    if distributed and num_processes() > 1:
        for total in [*(total for part in totals for total in part), *look.slopes]:
            dist.all_reduce(total)
    found = look_at_parts(look, totals)
    if decided is not None:
        found = found.beside(before)
    return replace(found, known=known | found.known)


def totals_by_part(
    look: SecondLook, batches: Iterable[tuple[Tensor, Tensor, Tensor | None]], first_part: int
) -> list[list[Tensor]]:
    """What a look takes of each part, to which batches are dealt from the first part given on."""
    dealer = Dealer(look.num_classes, first=first_part)
    totals = [look.take() for _ in range(MOST_PARTS)]
    for part, features, labels in dealer.dealt(batches):
        look.update(features, labels, part)
        for total, own in zip(totals[part], look.take(), strict=True):
            total += own
    return totals


def look_at_parts(seen: SecondLook, totals: Sequence[Sequence[Tensor]]) -> Look:
    """What the totals of all parts tell and, where any are to be left out, those of all but one."""

    def added(places: Iterable[int]) -> SecondLook:
        seen.take()
        for place in places:
            seen.add(totals[place])
        return seen

    places = range(len(totals))
    without = [
        added(place for place in places if place != left).result_of(left)
        for left in (range(len(seen.rests)) if seen.rests else ())
    ]
    return replace(added(places).result(), without=tuple(without))


def balances(statistics: ClassStatistics, weighting: Weighting | None) -> bool:
    """Whether classes of different size are to count alike, which statistics alone cannot tell."""
    counts = statistics.counts[statistics.seen]
    return weighting == "balanced" and bool((counts != counts[:1]).any())


def orthogonality(statistics: ClassStatistics, outsiders: Tensor) -> float | str:
    """`nc5_orthogonality`, or the reason why there is none."""
    if not len(outsiders):
        return "outsiders hold no sample"
    value = float(nc5_orthogonality(statistics, outsiders))
    return "a class mean, or that of the outsiders, is zero" if math.isnan(value) else value
