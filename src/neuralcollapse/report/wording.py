"""How a report says things: titles, numbers, verdicts, terms."""

import math
from dataclasses import dataclass

from neuralcollapse.metrics import METRICS
from neuralcollapse.metrics.table import Metric
from neuralcollapse.report.history import (
    History,
    Split,
    accuracy,
    metric,
    why_undefined,
)
from neuralcollapse.report.snapshots import read_snapshot

_TITLES = {
    "nc1": "NC1: within-class variability",
    "nc1_trace_ratio": "NC1: ratio of variances",
    "nc1_trace_unbiased": "NC1: ratio of variances, without bias",
    "cdnv": "NC1: class-distance variance",
    "cdnv_directional": "NC1: variance towards the other class",
    "vci": "NC1: variability collapse index",
    "effective_rank": "NC2: effective rank, class means",
    "nc2_equinorm": "NC2: unequal norms, class means",
    "nc2_equiangle": "NC2: unequal angles, class means",
    "nc2_max_angle": "NC2: off the widest angle, class means",
    "nc2_etf_distance": "NC2: off the simplex, class means",
    "nc2w_equinorm": "NC2: unequal norms, classifier",
    "nc2w_equiangle": "NC2: unequal angles, classifier",
    "nc2w_max_angle": "NC2: off the widest angle, classifier",
    "nc2w_etf_distance": "NC2: off the simplex, classifier",
    "gnc2_energy_gap": "GNC2: energy above the least, class means",
    "gnc2_log_mean": "GNC2: mean log energy, class means",
    "gnc2_log_variance": "GNC2: variance of log energies, class means",
    "gnc2_gaussian": "GNC2: Gaussian potential, class means",
    "gnc2_margin": "GNC2: margin over the best, class means",
    "nc3_duality": "NC3: classifier off the class means",
    "nc3_alignment": "NC3: alignment with the class means",
    "gnc3_alignment_spread": "GNC3: unequal alignment with the class means",
    "nc3_subspace": "NC3: subspaces of classifier and class means",
    "nc4_disagreement": "NC4: disagreement with nearest mean",
    "nc5_orthogonality": "NC5: outsiders across the class means",
    "hug_inter": "HUG: uniformity between classes",
    "hug_intra": "HUG: uniformity within classes",
}

REGIMES = {
    "any": "",
    "simplex": "; made for K ≤ d+1",
    "general": "; made for K > d+1",
}

MISTAKE_TERMS = (
    (
        "severity of a mistake",
        "The distance between the decided and the true class on the tree of the classes; by "
        "default the height of their lowest common ancestor.",
    ),
    (
        "lowest common ancestor",
        "The deepest node of the tree that two classes lie below, where their mistakes meet.",
    ),
    (
        "hierarchical distance at k",
        "The mean distance of the k classes ranked first to the truth; at 1 it is the severity "
        "times the share of wrong decisions.",
    ),
)

TERMS = (
    (
        "class mean",
        "The mean of the features of one class; centred: minus the global mean. Features are what "
        "enters the classifier.",
    ),
    (
        "classifier",
        "The (K, d) matrix that turns features into one score per class; its rows are compared "
        "with the class means.",
    ),
    (
        "simplex ETF",
        "Simplex equiangular tight frame: K vectors of equal length whose cosines are all "
        "-1/(K-1), the widest angle that K vectors can share.",
    ),
    (
        "Gram matrix",
        "All inner products among a set of vectors; it knows lengths and angles, and does not "
        "depend on rotation. The heat maps show it for directions, as cosines.",
    ),
    (
        "at collapse",
        "The value of a metric for a network that has collapsed: samples coincide with their class "
        "mean, class means form a simplex ETF (of more than d+1 classes: the most uniform "
        "directions known), and the classifier has reached its target.",
    ),
)


_MOST_ALARMS = 6

PREDICTION_TERMS = (
    (
        "prediction",
        "The minimum over the classifier and free features of all samples of the loss plus decays. "
        "Real networks come near it after long training; lengths converge last.",
    ),
    (
        "alive, collapsed",
        "Up to n* samples a class is not worth its decay: under squared error its features and "
        "classifier row vanish, under cross entropy equal small classes merge.",
    ),
    (
        "decided by bias",
        "With features that cannot be negative: a class at zero that has the largest bias, so that "
        "the classifier decides for it there.",
    ),
    (
        "metastable",
        "Of two or more linear layers: zero is the minimum, but a large start may stay alive; "
        "above n* a small start may die.",
    ),
)


@dataclass(frozen=True)
class Sentence:
    """One statement of a verdict, and the metric that it rests on."""

    text: str
    key: str | None = None


def title(key: str) -> str:
    """What a metric is called above its figure."""
    return _TITLES.get(key, key)


def metric_row(key: str) -> Metric:
    """The row of the table of metrics."""
    return next(row for row in METRICS if row.key == key)


def shown(value: float | None, digits: int = 4) -> str:
    """A number to read; a dash for none. 1 is said of what is 1 to six digits."""
    if value is None:
        return "—"
    text = f"{value:.{digits}g}"
    if text == "1":
        text = f"{value:.6g}"
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        text = f"{mantissa}e{int(exponent)}"
    return text


def share(value: float | None) -> str:
    """A share in per cent; 100 % only where nothing is missing, 0 % only where nothing is there."""
    if value is None:
        return "—"
    for digits in (1, 2, 3, 4):
        text = f"{100 * value:.{digits}f}"
        if (float(text) not in (0, 100)) or value in (0, 1):
            break
    return f"{float(text):g}\u00a0%"


def metric_value(key: str, value: float | None) -> str:
    """A metric in its unit."""
    return share(value) if key == "nc4_disagreement" else shown(value)


def arrow(history: History, key: str) -> str:
    """Which way leads to collapse: down, up, or towards a value in between."""
    if key in history.target.elsewhere:
        return "→"
    return "↓" if metric_row(key).better == "lower" else "↑"


def verdict(history: History) -> list[Sentence]:
    """What the numbers of a run say, in a few sentences."""
    sentences = [
        _alarms(history),
        _variability(history),
        _means(history),
        _classifier(history),
        _alignment(history),
        _decisions(history),
        _accuracies(history),
        _selection(history),
        _room(history),
        _absent(history),
    ]
    return [sentence for sentence in sentences if sentence is not None]


def comparison(histories: list[History], differing: list[str]) -> str:
    """What a report compares, in a sentence or two; `differing` are names of options."""
    if len(histories) == 1:
        return f"{_sentence_start(histories[0].method)}."
    methods = {history.method for history in histories}
    names = [
        history.label if len(methods) == 1 else f"{history.label} ({history.method})"
        for history in histories
    ]
    text = f"Compares {', '.join(names[:-1])} and {names[-1]}."
    if len(methods) == 1:
        text += f" Each is {histories[0].method}."
    return text + (f" Options that differ: {', '.join(differing)}." if differing else "")


def same_conventions(histories: list[History]) -> list[tuple[str, dict[str, str]]]:
    """(which measurements, their conventions in words); one entry where all agree."""
    groups: list[tuple[dict[str, str], list[str]]] = []
    for history in histories:
        for split in ("train", "test"):
            conventions = (history.final.get(split) or {}).get("conventions")
            if not conventions:
                continue
            words = {
                str(name).replace("_", " "): str(value)
                for name, value in conventions.items()
                if name != "split"
            }
            where = f"{history.label}, {split}"
            for known, places in groups:
                if known == words:
                    places.append(where)
                    break
            else:
                groups.append((words, [where]))
    if len(groups) == 1:
        return [("every measurement", groups[0][0])]
    return [("; ".join(places), words) for words, places in groups]


def _sentence_start(text: str) -> str:
    return text[:1].upper() + text[1:]


def _value(history: History, key: str, split: Split = "train") -> float | None:
    return metric(history.final, split, key)


def _elsewhere(history: History, key: str) -> str:
    """The value on the test samples, as an aside."""
    test = _value(history, key, "test")
    return "" if test is None else f" ({metric_value(key, test)} on test)"


def _undefined(history: History, key: str, name: str) -> Sentence:
    return Sentence(f"{name} is undefined: {why_undefined(history.final, 'train', key)}.", key)


def _variability(history: History) -> Sentence:
    key, epochs = "nc1", history.epochs
    first, last = metric(history.rows[0], "train", key), _value(history, key)
    if last is None:
        return _undefined(history, key, "NC1")
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


def _means(history: History) -> Sentence:
    if history.target.regime == "general":
        return _uniformity(history)
    key = "nc2_etf_distance"
    value = _value(history, key)
    if value is None:
        return _undefined(history, key, "The distance of the class means from the simplex ETF")
    return Sentence(
        f"The class means lie {shown(value, 3)} from a simplex ETF (0 is exact; distance of Gram "
        "matrices).",
        key,
    )


def _uniformity(history: History) -> Sentence:
    """Of more classes than a simplex has vertices in so many dimensions."""
    key = "gnc2_energy_gap"
    value = _value(history, key)
    if value is None:
        return _undefined(history, key, "How far the class means are from the most uniform")
    side = "above" if value >= 0 else "below"
    return Sentence(
        f"The directions of the class means have a log energy per pair {shown(abs(value), 3)} "
        f"{side} the least known (0 is as uniform as is known).",
        key,
    )


def _classifier(history: History) -> Sentence | None:
    key = "nc2w_etf_distance"
    target = history.target.values.get(key)
    if target is None or history.target.regime == "general":
        return None
    value = _value(history, key)
    if value is None:
        return _undefined(history, key, "The distance of the classifier from the simplex ETF")
    aside = f", where its target, the {history.target.name}, lies {shown(target, 3)}"
    return Sentence(
        f"The rows of the classifier lie {shown(value, 3)} from a simplex ETF"
        f"{aside if key in history.target.elsewhere else ''}.",
        key,
    )


def _alignment(history: History) -> Sentence:
    key = "nc3_alignment"
    value = _value(history, key)
    if value is None:
        return _undefined(history, key, "The alignment of classifier and class means")
    target = history.target.values.get(key)
    apart = key in history.target.elsewhere
    aside = f" ({shown(target)} for a classifier at its target)" if apart else ""
    return Sentence(
        f"The mean cosine between classifier rows and class means is {shown(value)}{aside}.", key
    )


def _decisions(history: History) -> Sentence:
    key = "nc4_disagreement"
    value = _value(history, key)
    if value is None:
        return _undefined(history, key, "The disagreement with the nearest class mean")
    return Sentence(
        f"On {share(value)} of the training samples{_elsewhere(history, key)} the classifier "
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
    classes, dim = read_snapshot(history, epochs[-1]).means.shape
    if classes <= dim + 1:
        return None
    floor = math.sqrt(2 - 2 * math.sqrt(dim / (classes - 1)))
    return Sentence(
        f"No simplex of {classes} classes fits into {dim} dimensions: the distance from a simplex "
        f"ETF cannot fall below {shown(floor, 3)}, and the GNC2 numbers are primary.",
        "nc2_etf_distance",
    )


def _absent(history: History) -> Sentence | None:
    absent = absent_classes(history)
    if not absent:
        return None
    named = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
    count = f"{len(absent)} of {history.num_classes} classes"
    return Sentence(f"{count} have no training sample and are left out: {named}.")


def absent_classes(history: History) -> list[str]:
    """The names of the classes without a training sample."""
    counts = history.final["train"].get("counts") or []
    return [name for name, count in zip(history.classes, counts, strict=False) if count == 0]
