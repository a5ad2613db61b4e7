"""How a report says things: titles, numbers, conventions, terms."""

from neuralcollapse.metrics import METRICS
from neuralcollapse.metrics.table import Metric
from neuralcollapse.report.history import History

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


DEPTH_TERMS = (
    (
        "separation law",
        "In a trained network the variability within classes falls by the same factor from layer "
        "to layer (He, Su 2023); R² says how straight the line through the logarithms is.",
    ),
    (
        "tunnel",
        "The layers behind the one from which on 1 - VCI, the share of the labels that the best "
        "linear map of a layer explains, stays near the last layer's (Masarczyk et al. 2023).",
    ),
)

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


def absent_classes(history: History) -> list[str]:
    """The names of the classes without a training sample."""
    counts = history.final["train"].get("counts") or []
    return [name for name, count in zip(history.classes, counts, strict=False) if count == 0]
