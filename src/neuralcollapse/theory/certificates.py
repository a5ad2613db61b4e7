"""How far given logits can be from the optimum."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor

from neuralcollapse.checks import check_matrix, check_vector
from neuralcollapse.scalars import check_choice, check_number
from neuralcollapse.theory.convex import certified
from neuralcollapse.theory.cross_entropy import program
from neuralcollapse.theory.matrices import Groups
from neuralcollapse.theory.problem import (
    Problem,
    checked_bias,
    checked_counts,
    checked_decay,
    checked_per_class,
)

_CONVEX = ("mse", "ce", "label_smoothing", "cdt", "ldt", "weighted_mse")


def certificate(
    logits: Tensor,
    counts: Sequence[int] | Tensor,
    *,
    weight_decay: float,
    feature_decay: float,
    loss: Literal["mse", "ce", "label_smoothing", "cdt", "ldt", "weighted_mse"] = "ce",
    bias: Literal["none", "free"] | float = "none",
    bias_values: Tensor | None = None,
    class_weights: Sequence[float] | Tensor | None = None,
    class_scales: Sequence[float] | Tensor | None = None,
    label_smoothing: float = 0.1,
) -> float:
    """How far logits can be from the optimum of one linear layer with free features; 0 if optimal.

        objective - minimum <= certificate * objective

    for the objective at the classifier and features that give these logits most cheaply. From
    duality: with G the gradient of the loss by Z diag(sqrt(counts)), logits are optimal if and only
    if its spectral norm is at most sqrt(weight_decay * feature_decay) and it is opposite to Z on
    the singular directions of Z. With a free bias the bound is to first order in what is left of
    the bias's gradient.

    Args:
        logits: (K, K), of the training samples of each class (row), bias included.
        counts: (K,), samples per class.
        weight_decay: of the classifier.
        feature_decay: of the features.
        loss: a convex loss; see `predict`.
        bias: "none", "free" or its decay.
        bias_values: (K,), the bias, where there is one.
        class_weights: for "weighted_mse"; see `predict`.
        class_scales: for "cdt" and "ldt"; see `predict`.
        label_smoothing: for "label_smoothing".

    Raises:
        ValueError: if shapes do not fit, a decay is not positive, or bias_values are missing.

    Example:
        >>> from neuralcollapse.theory import predict
        >>> decays = {"weight_decay": 0.01, "feature_decay": 0.004}
        >>> logits = predict([9, 5, 2], loss="ce", **decays).logits
        >>> certificate(logits, [9, 5, 2], **decays) < 1e-8
        True
        >>> certificate(1.1 * logits, [9, 5, 2], **decays) > 1e-3
        True
    """
    sizes = checked_counts(counts)
    classes = len(sizes)
    check_matrix("logits", logits, rows=classes, columns=classes, why="one row per class")
    check_choice("loss", loss, _CONVEX)
    kind = checked_bias(bias)
    if (bias_values is None) != (kind == "none"):
        raise ValueError(
            f"bias_values must be given exactly if there is a bias, got bias={bias!r} and "
            f"bias_values={'None' if bias_values is None else 'a tensor'}"
        )
    shift = np.zeros(classes)
    if bias_values is not None:
        shift = check_vector("bias_values", bias_values, classes).detach().double().cpu().numpy()
    smoothing = check_number("label_smoothing", label_smoothing, minimum=0)
    problem = Problem(
        counts=sizes,
        loss=loss,
        weight_decay=(checked_decay("weight_decay", weight_decay),),
        feature_decay=checked_decay("feature_decay", feature_decay),
        bias=kind,
        class_weights=None
        if class_weights is None
        else checked_per_class("class_weights", class_weights, classes),
        class_scales=None
        if class_scales is None
        else checked_per_class("class_scales", class_scales, classes),
        label_smoothing=smoothing if loss == "label_smoothing" else 0.0,
    )
    question = program(problem, Groups.single(classes))
    products = logits.detach().double().cpu().numpy().T - shift[:, None]
    point = certified(question, np.zeros(classes), products * question.column, shift)
    return point.certificate
