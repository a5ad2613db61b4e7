"""Measure neural collapse: of features and labels."""

from typing import Any

from neuralcollapse.checks import (
    as_tensor,
    check_data,
    check_finite,
    check_labels,
    check_matrix,
    check_vector,
    classes_in,
)
from neuralcollapse.dealing import accumulator_of, merged, parts_of, wants_scatter
from neuralcollapse.measurement import Measurement, check_weighting, conclude, given_means
from neuralcollapse.metrics.variability import Weighting
from neuralcollapse.scalars import check_booleans
from neuralcollapse.second_look import second_look
from neuralcollapse.sphere import directions
from neuralcollapse.statistics import ClassStatistics, GlobalMean


def measure_features(
    features: Any,
    labels: Any,
    weight: Any = None,
    bias: Any = None,
    num_classes: int | None = None,
    *,
    normalize: bool = False,
    global_mean: GlobalMean = "class",
    weighting: Weighting | None = None,
    means: Measurement | ClassStatistics | None = None,
    outsiders: Any = None,
    split: str | None = None,
    scatter: bool | None = None,
    jackknife: bool = False,
) -> Measurement:
    """Measure how collapsed features are; torch tensors or numpy arrays.

    Args:
        features: (N, d), floating point.
        labels: (N,), integers in [0, K).
        weight: (K, d), the classifier, or None.
        bias: (K,), its bias, or None.
        num_classes: K; by default the rows of `weight`, or the largest label plus one.
        normalize: scale every feature to unit length first. Only accuracy and the classifier's
            side of `nc4_disagreement` look at the raw features, as the network does.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        weighting: of the covariances within and between classes: "balanced" counts every class
            alike, "samples" every sample, and None has the published mixture; see `nc1`.
        means: whose class means decide in `nc4_disagreement`, such as those of the training set;
            by default those of these features.
        outsiders: (M, d), features of samples that belong to none of the classes, for
            `nc5_orthogonality`.
        split: what the data is, for the record, e.g. "train".
        scatter: accumulate the (d, d) scatter. Without it `nc1` takes a second look at the features
            in the K-1 directions of the class means, without any (d, d) array. By default up to
            a width of 5792.
        jackknife: also find 95 % intervals, by leaving out one of 20 parts of the data; see
            `measure`.

    Raises:
        TypeError: if features are not floating point or labels are not integers.
        ValueError: if shapes do not fit, there are no samples, a label is out of range, a value is
            not finite, or the jackknife finds no class of two samples.

    Example:
        >>> import torch
        >>> features = [[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0]]
        >>> round(measure_features(torch.tensor(features), torch.tensor([0, 0, 1, 1]))["nc1"], 6)
        0.125
    """
    check_weighting(weighting)
    check_booleans(normalize=normalize, jackknife=jackknife)
    features = check_matrix("features", as_tensor("features", features)).detach()
    labels = check_labels(as_tensor("labels", labels), len(features))
    if not len(features):
        raise ValueError("features must hold at least one sample, got none")
    check_data("features", features)
    if weight is not None:
        weight = check_matrix(
            "weight",
            as_tensor("weight", weight),
            rows=num_classes,
            columns=features.shape[1],
            why="num_classes and the width of the features",
        ).detach()
        check_finite("weight", weight)
        weight = weight.to(features.device)
    if bias is not None:
        if weight is None:
            raise ValueError("bias must come with a weight, got a bias alone; pass weight too")
        bias = check_vector("bias", as_tensor("bias", bias), len(weight), "one per row of weight")
        check_finite("bias", bias)
        bias = bias.detach().to(features.device)
    if num_classes is None:
        num_classes = classes_in(labels) if weight is None else len(weight)
    if outsiders is not None:
        outsiders = check_matrix(
            "outsiders",
            as_tensor("outsiders", outsiders),
            columns=features.shape[1],
            why="the width of the features",
        ).detach()
        check_finite("outsiders", outsiders)
        outsiders = directions(outsiders) if normalize else outsiders
    shown = directions(features) if normalize else features
    kept_scatter = wants_scatter(scatter, features.shape[1])
    accumulator = accumulator_of(
        num_classes, features.shape[1], kept_scatter, features.device, 0 if jackknife else None
    )
    accumulator.update(shown, labels)
    parts = parts_of(accumulator)
    statistics = merged(parts)
    kept = [(features, labels, None)]
    given = None
    if means is not None:
        given = given_means(means, num_classes, features.shape[1], normalize).to(features.device)
    look = second_look(
        statistics,
        weight,
        bias,
        kept,
        normalize=normalize,
        global_mean=global_mean,
        weighting=weighting,
        outsiders=outsiders,
        means=given,
        parts=parts if jackknife else (),
    )
    return conclude(
        statistics,
        weight,
        bias,
        look,
        normalize=normalize,
        global_mean=global_mean,
        weighting=weighting,
        split=split,
        layer=None,
        dtype=features.dtype,
        means_given=given is not None,
        parts=parts if jackknife else (),
        outsiders=outsiders,
    )
