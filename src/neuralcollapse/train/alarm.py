"""The alarm for minority collapse: rare classes that fade, merge or vanish, named as it happens.

Under long tails and enough decay the classifier's rows of the rarest classes shrink first, smoothly
over many epochs, while their samples are still decided right; then those samples are lost, and last
the means of these classes run together.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuralcollapse.forecast import forecast

# Means of equal length are then 0.45 of their length apart, a third of what means at right angles
# are.
MERGING_COSINE = 0.9
# A row is as long as the fourth root of its count, up to a factor, at weak decay: one below this
# share of that is fading. At squared error's optimum that is a class below 8 times the threshold.
FADED_LENGTH = 0.8
# More distinct counts, or layers under cross entropy, take a convex program too long to wait for.
_MOST_DISTINCT, _MOST_DEEP = 40, 10
_MOST_PREDICTED = 200
# Pairs among this many of the rarest classes are looked at, and so many named in a row.
_MOST_TAIL, _MOST_NAMED = 1000, 50


@dataclass(frozen=True)
class Alarm:
    """Classes that collapse.

    Attributes:
        kind: "predicted", "fading" (measured, of one class) or "measured" (of a pair).
        classes: their numbers.
        text: what is wrong, in words.
        cosine: between their centred means, or None.
    """

    kind: str
    classes: tuple[int, ...]
    text: str
    cosine: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": self.kind,
            "classes": list(self.classes),
            "text": self.text,
            "cosine": self.cosine,
        }


class MinorityAlarm:
    """Says which of the rare classes collapse, of imbalanced runs; silent otherwise.

    Rare are the classes of the lower third by count that are rarer than the most frequent.

    Args:
        config: the options of the run by name.
        counts: (K,), training samples per class.
        classes: their names.
        rows: what the run has measured so far, if it is resumed.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        counts: Sequence[int],
        classes: Sequence[str],
        rows: Iterable[Mapping[str, Any]] = (),
    ):
        self._config, self._counts, self._classes = config, list(counts), list(classes)
        self._tail = rare_classes(counts)
        self._known = {_key(alarm) for row in rows for alarm in row.get("alarms", ())}
        self._predicted: list[Alarm] | None = None

    def __call__(self, epoch: int, means: Tensor, weight: Tensor | None = None) -> list[Alarm]:
        """The alarms that hold at an epoch.

        Before training only what is predicted: the means of an untrained network are often close.

        Args:
            epoch: epochs of training completed.
            means: (K, d), class means of the features of the training set.
            weight: (K, d), the classifier; None where there is no linear one.
        """
        if self._predicted is None:
            self._predicted = list(self._forecast())
        measured: list[Alarm] = []
        if epoch > 0:
            measured = [] if weight is None else self._fading(weight)
            measured += self._merging(means)
        return [*self._predicted, *measured][:_MOST_NAMED]

    def new(self, alarms: Iterable[Alarm]) -> list[Alarm]:
        """Those that were not among the alarms of an earlier row."""
        found = [alarm for alarm in alarms if _key(alarm.to_dict()) not in self._known]
        self._known |= {_key(alarm.to_dict()) for alarm in found}
        return found

    def _forecast(self) -> Iterable[Alarm]:
        if not self._tail or not _cheap(self._config, self._counts):
            return
        try:
            prediction = forecast(self._config, self._counts)
        except ValueError:
            return
        for k, status in enumerate(prediction.status):
            if status != "alive":
                text = f"{self._name(k)} is predicted {self._renamed(status)}"
                yield Alarm("predicted", (k,), f"{text}, with {self._samples(k)}")
        alive = torch.tensor([status == "alive" for status in prediction.status])
        gram = prediction.gram_features
        centred = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
        tail = [k for k in self._tail if alive[k]]
        for k, other, cosine in _close_pairs(centred[tail][:, tail]):
            yield self._pair("predicted", tail[k], tail[other], cosine, "are predicted to merge")

    def _fading(self, weight: Tensor) -> list[Alarm]:
        """Rare classes whose rows have become short, beside the median and beyond their count.

        Of linear heads: the lengths of a cosine head's rows mean nothing.
        """
        if not str(self._config.get("head")).startswith(("linear", "deep-linear")):
            return []
        lengths = weight.detach().double().cpu().norm(dim=1)
        counts = torch.tensor(self._counts, dtype=torch.float64)
        present = counts > 0
        typical = lengths[present].median()
        if not self._tail or not float(typical) > 0:
            return []
        shares = lengths / typical
        expected = (counts / counts[present].median()).pow(0.25).clamp(max=1)
        return [
            Alarm(
                "fading",
                (k,),
                f"{self._name(k)} is fading: its row of the classifier is {shares[k]:.2f} of the "
                f"median row, where its {self._samples(k)} would give {expected[k]:.2f}",
            )
            for k in self._tail
            if shares[k] < FADED_LENGTH * expected[k]
        ]

    def _merging(self, means: Tensor) -> list[Alarm]:
        if len(self._tail) < 2:
            return []
        means = means.detach().double().cpu()
        # Absent classes have no mean.
        present = torch.tensor([count > 0 for count in self._counts])
        tail = (means - means[present].mean(0))[self._tail]
        return [
            self._pair("measured", self._tail[k], self._tail[other], cosine, "are merging")
            for k, other, cosine in _close_pairs(tail @ tail.T)
        ]

    def _pair(self, kind: str, one: int, other: int, cosine: float, what: str) -> Alarm:
        first, second = sorted((one, other))
        names = f"{self._name(first)} and {self._name(second)}"
        text = f"{names} {what}: cosine {cosine:.3f} between their means"
        return Alarm(kind, (first, second), text, round(cosine, 6))

    def _name(self, k: int) -> str:
        return f"class {self._classes[k]}"

    def _samples(self, k: int) -> str:
        count = self._counts[k]
        return f"{count} training sample{'' if count == 1 else 's'}"

    def _renamed(self, status: str) -> str:
        """A status with the names of classes in place of their numbers."""
        if not status.startswith("merged with "):
            return "to collapse" if status == "collapsed" else f"to be {status}"
        others = [part.strip() for part in status.removeprefix("merged with ").split(",")]
        named = [self._classes[int(part)] if part.isdigit() else part for part in others]
        return f"to merge with {', '.join(named)}"


def rare_classes(counts: Sequence[int]) -> list[int]:
    """The classes of the lower third by count, rarest first; none where all counts are equal."""
    present = [k for k in range(len(counts)) if counts[k] > 0]
    most = max((counts[k] for k in present), default=0)
    order = sorted(present, key=lambda k: counts[k])
    third = max(2, len(order) // 3)
    return [k for k in order[:third] if counts[k] < most][:_MOST_TAIL]


def alarm_history(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each alarm of a run once: as it was first said, with the epochs of its first and last row."""
    found: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
    for row in rows:
        for alarm in row.get("alarms", ()):
            known = found.setdefault(_key(alarm), {**alarm, "first_epoch": row["epoch"]})
            known["last_epoch"] = row["epoch"]
    return list(found.values())


def _cheap(config: Mapping[str, Any], counts: Sequence[int]) -> bool:
    """Whether the prediction of these counts takes no noticeable time."""
    if len(counts) > _MOST_PREDICTED:
        return False
    if str(config.get("head")).startswith("deep-linear") and config.get("loss") != "squared-error":
        return len(counts) <= _MOST_DEEP
    return len(set(counts)) <= _MOST_DISTINCT


def _close_pairs(gram: Tensor) -> list[tuple[int, int, float]]:
    """(place, place, cosine) of the pairs that pass the threshold, closest first."""
    lengths = gram.diagonal().clamp(min=0).sqrt()
    scale = lengths[:, None] * lengths
    cosines = torch.where(scale > 0, gram / scale, 0.0).clamp(-1, 1).triu(1)
    places = (cosines >= MERGING_COSINE).nonzero().tolist()
    pairs = [(k, other, float(cosines[k, other])) for k, other in places]
    return sorted(pairs, key=lambda pair: -pair[2])[:_MOST_NAMED]


def _key(alarm: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    return str(alarm["kind"]), tuple(alarm["classes"])
