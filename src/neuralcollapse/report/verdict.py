"""What the numbers of a run, or of a saved measurement, say in a few sentences."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from neuralcollapse.report.history import (
    History,
    Split,
    accuracy,
    metric,
    why_undefined,
)
from neuralcollapse.report.measured import Measured
from neuralcollapse.report.snapshots import read_snapshot
from neuralcollapse.report.target import Target
from neuralcollapse.report.wording import absent_classes, metric_value, share, shown

_MOST_ALARMS = 6
# NC1 above this share of what pure noise would give is told beside that.
_NOISY = 0.1


@dataclass(frozen=True)
class Sentence:
    """One statement of a verdict, and the metric that it rests on."""

    text: str
    key: str | None = None


@dataclass(frozen=True)
class Reading:
    """The metrics of one set of samples, whoever measured them.

    Attributes:
        value: of a metric by key; None where undefined.
        why: it is undefined.
        target: what the classifier is meant to reach.
        samples: what the samples are called.
        aside: what is said of a metric in brackets, from a blank on; or nothing.
    """

    value: Callable[[str], float | None]
    why: Callable[[str], str]
    target: Target
    samples: str
    aside: Callable[[str], str]


def verdict(history: History) -> list[Sentence]:
    """What the numbers of a run say, in a few sentences."""
    reading = Reading(
        lambda key: _value(history, key),
        lambda key: why_undefined(history.final, "train", key),
        history.target,
        "training samples",
        lambda key: _elsewhere(history, key),
    )
    sentences = [
        _alarms(history),
        _variability(history, reading),
        _means(reading),
        _classifier(reading),
        _alignment(reading),
        _decisions(reading),
        _accuracies(history),
        _selection(history),
        _room(history),
        _absent(history.num_classes, absent_classes(history), "training sample"),
    ]
    return [sentence for sentence in sentences if sentence is not None]


def measured_verdict(measured: Measured) -> list[Sentence]:
    """What the numbers of a saved measurement say, in a few sentences."""
    measurement = measured.measurement
    reading = Reading(measured.value, measured.why_undefined, measured.target, "samples", _nothing)
    sentences: list[Sentence | None] = [_level(measured, reading), _means(reading)]
    if measurement.conventions.get("classifier") == "none":
        sentences.append(Sentence("No classifier was given."))
    else:
        sentences += [_classifier(reading), _alignment(reading), _decisions(reading)]
    if measurement.accuracy is not None:
        sentences.append(Sentence(f"Accuracy: {share(measurement.accuracy)}."))
    if measurement.dim is not None:
        sentences.append(_floor(measured.num_seen, measurement.dim))
    absent = [str(number) for number in measurement.absent]
    sentences.append(_absent(len(measurement.counts), absent, "sample"))
    return [sentence for sentence in sentences if sentence is not None]


def _nothing(key: str) -> str:
    return ""


def _level(measured: Measured, reading: Reading) -> Sentence:
    """NC1, and whether noise without any classes would do as well."""
    key = "nc1"
    value = measured.value(key)
    if value is None:
        return _undefined(reading, key, "NC1")
    text, noise = f"NC1 is {shown(value, 3)}", measured.null.get(key)
    if noise is not None and value > _NOISY * noise:
        text += f", and pure noise without classes would give {shown(noise, 3)}"
    return Sentence(f"{text}.", key)


def _value(history: History, key: str, split: Split = "train") -> float | None:
    return metric(history.final, split, key)


def _elsewhere(history: History, key: str) -> str:
    """The value on the test samples, as an aside."""
    test = _value(history, key, "test")
    return "" if test is None else f" ({metric_value(key, test)} on test)"


def _undefined(reading: Reading, key: str, name: str) -> Sentence:
    return Sentence(f"{name} is undefined: {reading.why(key)}.", key)


def _variability(history: History, reading: Reading) -> Sentence:
    key, epochs = "nc1", history.epochs
    first, last = metric(history.rows[0], "train", key), _value(history, key)
    if last is None:
        return _undefined(reading, key, "NC1")
    if first is None or len(epochs) == 1:
        text = f"NC1 is {shown(last, 3)} at epoch {epochs[-1]} on the training samples"
    else:
        verb = "fell" if last < 0.999 * first else "rose" if last > 1.001 * first else "went"
        text = (
            f"NC1 {verb} from {shown(first, 3)} at epoch {epochs[0]} to {shown(last, 3)} at epoch "
            f"{epochs[-1]} on the training samples"
        )
    test = _value(history, key, "test")
    return Sentence(text + ("." if test is None else f"; on test it is {shown(test, 3)}."), key)


def _means(reading: Reading) -> Sentence:
    if reading.target.regime == "general":
        return _uniformity(reading)
    key = "nc2_etf_distance"
    value = reading.value(key)
    if value is None:
        return _undefined(reading, key, "The distance of the class means from the simplex ETF")
    return Sentence(
        f"The class means lie {shown(value, 3)} from a simplex ETF (0 is exact; distance of Gram "
        "matrices).",
        key,
    )


def _uniformity(reading: Reading) -> Sentence:
    """Of more classes than a simplex has vertices in so many dimensions."""
    key = "gnc2_energy_gap"
    value = reading.value(key)
    if value is None:
        return _undefined(reading, key, "How far the class means are from the most uniform")
    side = "above" if value >= 0 else "below"
    return Sentence(
        f"The directions of the class means have a log energy per pair {shown(abs(value), 3)} "
        f"{side} the least known (0 is as uniform as is known).",
        key,
    )


def _classifier(reading: Reading) -> Sentence | None:
    key = "nc2w_etf_distance"
    target = reading.target.values.get(key)
    if target is None or reading.target.regime == "general":
        return None
    value = reading.value(key)
    if value is None:
        return _undefined(reading, key, "The distance of the classifier from the simplex ETF")
    aside = f", where its target, the {reading.target.name}, lies {shown(target, 3)}"
    return Sentence(
        f"The rows of the classifier lie {shown(value, 3)} from a simplex ETF"
        f"{aside if key in reading.target.elsewhere else ''}.",
        key,
    )


def _alignment(reading: Reading) -> Sentence:
    key = "nc3_alignment"
    value = reading.value(key)
    if value is None:
        return _undefined(reading, key, "The alignment of classifier and class means")
    target = reading.target.values.get(key)
    apart = key in reading.target.elsewhere
    aside = f" ({shown(target)} for a classifier at its target)" if apart else ""
    return Sentence(
        f"The mean cosine between classifier rows and class means is {shown(value)}{aside}.", key
    )


def _decisions(reading: Reading) -> Sentence:
    key = "nc4_disagreement"
    value = reading.value(key)
    if value is None:
        return _undefined(reading, key, "The disagreement with the nearest class mean")
    return Sentence(
        f"On {share(value)} of the {reading.samples}{reading.aside(key)} the classifier "
        "decides differently from the nearest class mean.",
        key,
    )


def _accuracies(history: History) -> Sentence | None:
    splits = ("train", "validation", "test")
    known = {split: accuracy(history.final, split) for split in splits}
    said = [f"{split} {share(value)}" for split, value in known.items() if value is not None]
    return Sentence(f"Accuracy: {', '.join(said)}.") if said else None


def _selection(history: History) -> Sentence | None:
    selected, summary = history.selected, history.summary or {}
    if selected is not None:
        epoch, best = selected["epoch"], accuracy(selected, "validation")
        test = accuracy(selected, "test")
    else:
        epoch, best = summary.get("best_epoch"), summary.get("best_validation_accuracy")
        test = summary.get("test_accuracy_at_best")
    if epoch is None or not isinstance(best, int | float):
        return None
    aside = f", where test accuracy is {share(test)}" if isinstance(test, int | float) else ""
    return Sentence(f"Validation accuracy was best at epoch {epoch}: {share(best)}{aside}.")


def _alarms(history: History) -> Sentence | None:
    """Which rare classes collapse, as the alarm said at the first epoch that it did."""
    first: dict[tuple[str, str], tuple[str, int]] = {}
    for row in history.rows:
        for alarm in row.get("alarms") or ():
            key = (str(alarm.get("kind")), str(alarm.get("classes")))
            first.setdefault(key, (str(alarm.get("text")), row["epoch"]))
    if not first:
        return None
    said = [f"{text} (epoch {epoch})" for text, epoch in list(first.values())[:_MOST_ALARMS]]
    more = len(first) - len(said)
    aside = f"; and {more} more" if more else ""
    title = "Rare classes" if all(kind == "fading" for kind, _ in first) else "Minority collapse"
    return Sentence(f"{title}: {'; '.join(said)}{aside}.")


def _room(history: History) -> Sentence | None:
    """Whether the simplex fits into the features at all."""
    epochs = history.run.snapshot_epochs()
    if not epochs:
        return None
    return _floor(*read_snapshot(history, epochs[-1]).means.shape)


def _floor(classes: int, dim: int) -> Sentence | None:
    if classes <= dim + 1:
        return None
    floor = math.sqrt(2 - 2 * math.sqrt(dim / (classes - 1)))
    return Sentence(
        f"No simplex of {classes} classes fits into {dim} dimensions: the distance from a simplex "
        f"ETF cannot fall below {shown(floor, 3)}, and the GNC2 numbers are primary.",
        "nc2_etf_distance",
    )


def _absent(classes: int, absent: list[str], what: str) -> Sentence | None:
    if not absent:
        return None
    named = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
    count = f"{len(absent)} of {classes} classes"
    return Sentence(f"{count} have no {what} and are left out: {named}.")
