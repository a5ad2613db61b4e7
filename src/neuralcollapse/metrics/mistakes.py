"""How severe are mistakes, where some classes are nearer to each other than others?

Distances are a matrix (K, K), entry [true, predicted], or a `Hierarchy`, whose distances are then
the heights of lowest common ancestors. Predictions are classes, scores rank all classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from neuralcollapse.checks import check_finite, check_label_range, check_labels, check_matrix
from neuralcollapse.class_distances import ClassDistances, class_distances
from neuralcollapse.decisions import ranking
from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.scalars import check_integer


def mistake_severity(
    predictions: Tensor, labels: Tensor, distances: Hierarchy | Tensor | ClassDistances
) -> Tensor:
    """Mean distance between truth and prediction over the mistakes alone.

        sum_{i: wrong}(distances[y_i, predicted_i]) / number of mistakes

    Source: Bertinetto et al. 2020.

    Falls when cheap mistakes are *added*: read it beside accuracy and `hierarchical_distance` with
    k = 1, which is severity * (1 - accuracy).

    Args:
        predictions: (N,), the classes decided for.
        labels: (N,), the true classes.
        distances: a hierarchy or a matrix (K, K).

    Returns:
        0-d float64, in the units of the distances; nan where nothing is wrong.

    Raises:
        ValueError: if shapes do not fit, a class is out of range or a distance is negative.

    Example:
        >>> tree = Hierarchy.from_newick("((cat,dog),(car,bus));")
        >>> truth = torch.tensor([0, 1, 2, 3])
        >>> float(mistake_severity(torch.tensor([1, 1, 0, 0]), truth, tree))  # (1 + 2 + 2) / 3
        1.6666666666666667
    """
    between = class_distances(distances)
    predictions, labels = _paired(predictions, labels, between.num_classes)
    wrong = predictions != labels
    found = between.between(labels[wrong], predictions[wrong][:, None])
    return _exact_mean(found.flatten())


def hierarchical_distance(
    scores: Tensor, labels: Tensor, distances: Hierarchy | Tensor | ClassDistances, k: int = 1
) -> Tensor:
    """Mean distance between the truth and the k best ranked classes, over all samples.

        mean_i(mean_{r <= k}(distances[y_i, ranked_ir]))

    Source: Bertinetto et al. 2020, who call it average hierarchical distance @k.

    With fewer than k classes all are averaged. For k > 1 it cannot be 0: see the bounds of
    `Mistakes`. Blind to the order of the k classes; `preference_score` sees it.

    Args:
        scores: (N, K), logits, probabilities or negative risks; ties go to the lower index.
        labels: (N,), the true classes.
        distances: a hierarchy or a matrix (K, K).
        k: how many classes.

    Returns:
        0-d float64, in the units of the distances; nan without samples.

    Raises:
        ValueError: if shapes do not fit, a label is out of range, a score is nan or a distance is
            negative.
    """
    between = class_distances(distances)
    labels = _scored(scores, labels, between)
    found = between.between(labels, ranking(scores, check_integer("k", k, 1)))
    return _exact_mean(found.flatten())


def preference_score(
    scores: Tensor, labels: Tensor, distances: Hierarchy | Tensor | ClassDistances, k: int = 20
) -> Tensor:
    """How well the order of the k best ranked classes follows their distance to the truth.

        (worst - found) / (worst - best),
        found = sum_i(sum_{r <= k}(distances[y_i, ranked_ir] / log2(1 + r)))

    with best and worst the same sum for the k nearest classes from near to far, and the k farthest
    from far to near. 1 for a ranking in order of distance, 0 for the reverse. A measure of this
    library, in the spirit of hierarchically ordered preferences: unlike `hierarchical_distance` it
    sees the order within the first k, and the first places count most.

    Args:
        scores: (N, K), logits, probabilities or negative risks; ties go to the lower index.
        labels: (N,), the true classes.
        distances: a hierarchy or a matrix (K, K).
        k: how many classes; with fewer all are taken.

    Returns:
        0-d float64, in [0, 1]; nan without samples, or where every ranking is as good as another.

    Raises:
        ValueError: if shapes do not fit, a label is out of range, a score is nan or a distance is
            negative.
    """
    between = class_distances(distances)
    labels = _scored(scores, labels, between)
    top = min(check_integer("k", k, 1), between.num_classes)
    found = between.between(labels, ranking(scores, top)).cpu()
    seen, place = labels.cpu().unique(return_inverse=True)
    profile = between.profile(seen, top)
    discount = discounts(top)
    best, worst = ((ends @ discount)[place].sum() for ends in (profile.near, profile.far))
    return (worst - (found @ discount).sum()) / _nan_if_zero(worst - best)


def lca_accuracy(predictions: Tensor, labels: Tensor, hierarchy: Hierarchy) -> Tensor:
    """Share of samples whose prediction is right at each level of the tree, coarse to fine.

        mean_i(ancestor(predicted_i, level) == ancestor(y_i, level)), level = 1, ..., H

    Level 1 is right below the root, level H the classes themselves: there it is the accuracy. A
    class above level H stands for itself at the levels below it.

    Args:
        predictions: (N,), the classes decided for.
        labels: (N,), the true classes.
        hierarchy: the tree, of height H.

    Returns:
        (H,) float64, falling, in [0, 1]; nan without samples.

    Raises:
        ValueError: if lengths do not fit or a class is out of range.

    Example:
        >>> tree = Hierarchy.from_newick("((cat,dog),(car,bus));")
        >>> truth, predicted = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 1, 0, 3])
        >>> lca_accuracy(predicted, truth, tree).tolist()
        [0.75, 0.5]
    """
    predictions, labels = _paired(predictions, labels, hierarchy.num_classes)
    ancestors = torch.tensor(hierarchy.levels[:, 1:], device=labels.device)
    return (ancestors[predictions] == ancestors[labels]).double().mean(0)


def calibration_error(probabilities: Tensor, labels: Tensor, num_bins: int = 15) -> Tensor:
    """How far confidence is from accuracy, over bins of equal width; 0 if calibrated, at most 1.

        sum_bin(share of the samples * abs(accuracy - mean confidence))

    Source: Guo et al. 2017, computed by torchmetrics; the confidence is the largest probability.

    Args:
        probabilities: (N, K), rows that sum to 1.
        labels: (N,), the true classes.
        num_bins: how many bins.

    Returns:
        0-d float32 or better; nan without samples.

    Raises:
        ValueError: if shapes do not fit, a value is no probability, or the extra torchmetrics is
            not installed.
    """
    check_matrix("probabilities", probabilities)
    labels = _labels(labels, probabilities, probabilities.shape[1], "probabilities")
    confidences, decided = probabilities.max(1)
    return binned_calibration(confidences, decided == labels, num_bins)


def binned_calibration(confidences: Tensor, right: Tensor, num_bins: int = 15) -> Tensor:
    """`calibration_error` from confidences (N,) and whether each decision was right (N,)."""
    try:
        from torchmetrics.functional.classification import binary_calibration_error
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise ValueError(
            f"calibration needs the extra torchmetrics, which cannot be imported ({error}); "
            "install it with pip install 'neuralcollapse[torchmetrics]'"
        ) from error
    check_integer("num_bins", num_bins, 1)
    if not len(confidences):
        return torch.full((), torch.nan)
    check_finite("probabilities", confidences[:, None])
    # A softmax may round to just above 1; anything else outside would be taken for a logit.
    if float(confidences.min()) < 0 or float(confidences.max()) > 1.01:
        raise ValueError(
            "probabilities must lie in [0, 1], got confidences from "
            f"{float(confidences.min()):.4g} to {float(confidences.max()):.4g}; use "
            "logits.softmax(1)"
        )
    wide = confidences.to(torch.promote_types(confidences.dtype, torch.float32)).clamp(max=1)
    # In order, so that the sums do not depend on how the samples arrived.
    order = right.long().argsort(stable=True)
    order = order[wide[order].argsort(stable=True)]
    return binary_calibration_error(wide[order], right[order].long(), n_bins=num_bins)


def discounts(top: int) -> Tensor:
    """(top,) float64, 1 / log2(1 + r) for the ranks r = 1, ..., top."""
    return 1 / torch.arange(2, top + 2, dtype=torch.float64).log2()


@dataclass(frozen=True)
class MistakeMetric:
    """One row of the table of mistakes.

    Attributes:
        function: the metric; its name is the key, with "@k" where it takes k, and "@level".
        needs: its leading arguments.
        better: which direction is better.
        reference: who introduced it.
        summary: what it says, in a few words.
    """

    function: Callable[..., Tensor]
    needs: tuple[str, ...]
    better: Literal["lower", "higher"]
    reference: str
    summary: str

    @property
    def key(self) -> str:
        """Its name in tables and JSON."""
        return self.function.__name__


_BERTINETTO = "Bertinetto et al. 2020"
_PREDICTED = ("predictions", "labels")
_SCORED = ("scores", "labels", "distances")

MISTAKE_METRICS: tuple[MistakeMetric, ...] = (
    MistakeMetric(
        mistake_severity,
        (*_PREDICTED, "distances"),
        "lower",
        _BERTINETTO,
        "mean distance of the mistakes",
    ),
    MistakeMetric(
        hierarchical_distance, _SCORED, "lower", _BERTINETTO, "mean distance of the k best ranked"
    ),
    MistakeMetric(
        preference_score, _SCORED, "higher", "this library", "order of the ranks by distance"
    ),
    MistakeMetric(
        lca_accuracy,
        (*_PREDICTED, "hierarchy"),
        "higher",
        "this library",
        "accuracy at each level of the tree",
    ),
    MistakeMetric(
        calibration_error,
        ("probabilities", "labels"),
        "lower",
        "Guo et al. 2017",
        "confidence from accuracy",
    ),
)


def _exact_mean(distances: Tensor) -> Tensor:
    """The mean, by counts of equal distances: the same however the samples are ordered."""
    values, counts = distances.unique(return_counts=True)
    total = (values * counts).sum()
    return total / _nan_if_zero(counts.sum().double())


def _nan_if_zero(value: Tensor) -> Tensor:
    return value.masked_fill(value == 0, torch.nan)


def _scored(scores: Tensor, labels: Tensor, between: ClassDistances) -> Tensor:
    check_matrix("scores", scores, columns=between.num_classes, why="the classes of distances")
    return _labels(labels, scores, between.num_classes, "scores")


def _paired(predictions: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Predictions and labels (N,) as int64 in [0, K)."""
    predictions = check_labels(predictions, None, "predictions")
    check_label_range(predictions, num_classes, "predictions")
    return predictions, _labels(labels, predictions, num_classes, "predictions")


def _labels(labels: Tensor, rows: Tensor, num_classes: int, name: str) -> Tensor:
    """Labels (N,) as int64 in [0, K), one for each row."""
    labels = check_labels(labels, len(rows), rows=name)
    check_label_range(labels, num_classes)
    return labels.to(rows.device)
