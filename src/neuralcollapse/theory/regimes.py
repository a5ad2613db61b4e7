"""The door: which closed form or program answers a question."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from neuralcollapse.scalars import check_choice, check_integer, check_number
from neuralcollapse.theory import cross_entropy, deep_cross_entropy, rectified, squared_error
from neuralcollapse.theory.prediction import Prediction
from neuralcollapse.theory.problem import (
    LOSS_CHOICES,
    SQUARED,
    Loss,
    Problem,
    checked_bias,
    checked_counts,
    checked_decay,
    checked_decays,
    checked_per_class,
    checked_targets,
    checked_width,
)


def predict(
    counts: Sequence[int] | Tensor,
    *,
    loss: Loss = "mse",
    depth: int = 1,
    bias: Literal["none", "free"] | float = "none",
    weight_decay: float | Sequence[float],
    feature_decay: float,
    dim: int | None = None,
    widths: Sequence[int] | None = None,
    activation: Literal["linear", "relu"] = "linear",
    class_weights: Sequence[float] | Tensor | None = None,
    targets: Tensor | None = None,
    class_scales: Sequence[float] | Tensor | None = None,
    label_smoothing: float = 0.1,
    focal_power: float = 2.0,
) -> Prediction:
    """The geometry that features and classifier collapse to, before a step of training.

    What a network does that can give any features to any sample: the minimum over the layers
    W_1, ..., W_M, the features h_i of all N samples, and the bias b, of

        1 / N * sum_i loss(W_M ... W_1 h_i + b, y_i) + sum_j weight_decay_j / 2 * norm(W_j)^2
            + feature_decay / 2 * sum_i norm(h_i)^2 + bias_decay / 2 * norm(b)^2

    with half the squared distance to the one-hot target as squared error. `from_training` converts
    the settings of a PyTorch run. Real networks come close after long training with enough width
    and separate decays; lengths converge last. Test accuracy is not predicted.

    Closed forms: squared error at any depth without bias or with a free one, balanced squared error
    with a decayed bias, class-weighted squared error without bias, balanced cross entropy (label
    smoothing, focal), cross entropy without bias with `activation="relu"`. Cross entropy with
    imbalanced counts, CDT, LDT, other squared error with a bias, and other losses with "relu" are
    convex programs over as many groups as there are distinct counts (a hundred take seconds, a
    thousand many minutes), certified by duality. Deep linear cross entropy is
    compared over branches, of which none is proved optimal. See `Prediction.regime` and
    `Prediction.warnings`.

    Args:
        counts: (K,), samples per class.
        loss: "mse"; "weighted_mse" with class_weights; "ce"; "label_smoothing"; "focal"; "cdt",
            log sum_c exp(d_c z_c - d_y z_y), or "ldt", log sum_c exp(d_y (z_c - z_y)), with
            class_scales d.
        depth: M, the number of linear layers after the features.
        bias: "none", "free" (without decay), or its decay, above 0.
        weight_decay: of the linear layers: one number, or one per layer, next to the features
            first.
        feature_decay: of the features, summed over the training set.
        dim: d, the width of the features; wide enough if not given.
        widths: (M-1,), those between the linear layers.
        activation: "relu" where features cannot be negative; the layers stay linear.
        class_weights: (K,), factor of each class's samples.
        targets: (K, C), what the outputs of each class should be, in place of one-hot; for
            regression every sample is a class of its own with a count of 1.
        class_scales: (K,).
        label_smoothing: share of the target spread over all classes, in [0, 1).
        focal_power: exponent of the focal loss, at least 0.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a count or decay is not positive, options contradict each other, the width
            is below the rank that the optimum needs, or no closed form is known.

    Example:
        >>> prediction = predict([6] * 4, bias="free", weight_decay=0.01, feature_decay=0.004)
        >>> prediction.kind
        'simplex ETF'
        >>> round(prediction.objective, 9)
        0.0450358
    """
    sizes = checked_counts(counts)
    depth = check_integer("depth", depth, 1)
    problem = Problem(
        counts=sizes,
        loss=check_choice("loss", loss, LOSS_CHOICES),
        weight_decay=checked_decays(weight_decay, depth),
        feature_decay=checked_decay("feature_decay", feature_decay),
        bias=checked_bias(bias),
        width=checked_width(dim, widths, depth),
        activation=check_choice("activation", activation, ("linear", "relu")),
        class_weights=None
        if class_weights is None
        else checked_per_class("class_weights", class_weights, len(sizes)),
        targets=None if targets is None else checked_targets(targets, len(sizes)),
        label_smoothing=_smoothing(label_smoothing) if loss == "label_smoothing" else 0.0,
        focal_power=check_number("focal_power", focal_power, minimum=0),
        class_scales=None
        if class_scales is None
        else checked_per_class("class_scales", class_scales, len(sizes)),
    )
    _refuse_contradictions(problem)
    return _fitting(problem, _answer(problem))


def _answer(problem: Problem) -> Prediction:
    if problem.targets is not None:
        return squared_error.to_targets(problem, problem.targets)
    unbiased = problem.bias == "none"
    if problem.activation == "relu" and not (unbiased and problem.loss in SQUARED):
        if unbiased and problem.loss == "ce":
            return rectified.rectified(problem)
        return rectified.rectified_by_program(problem)
    if problem.loss in SQUARED:
        return _squared(problem)
    if problem.depth > 1:
        return deep_cross_entropy.compared(problem)
    if problem.balanced and problem.loss in ("ce", "label_smoothing", "focal"):
        return cross_entropy.balanced(problem)
    return cross_entropy.by_program(problem)


def _squared(problem: Problem) -> Prediction:
    if problem.class_weights is not None:
        if problem.bias == "none":
            return squared_error.weighted(problem, problem.class_weights)
        return cross_entropy.by_program(problem)
    if problem.bias == "none":
        return squared_error.without_bias(problem)
    if problem.bias == "free":
        return squared_error.with_free_bias(problem)
    if problem.balanced:
        return squared_error.with_decayed_bias(problem)
    return cross_entropy.by_program(problem)


def _smoothing(value: float) -> float:
    value = check_number("label_smoothing", value, minimum=0)
    if value >= 1:
        raise ValueError(f"label_smoothing must be below 1, got {value:g}")
    return value


def _refuse_contradictions(problem: Problem) -> None:
    """Raise where options exclude each other or nothing is known."""
    loss, bias, depth = problem.loss, problem.bias, problem.depth
    for name, value, losses in (
        ("class_weights", problem.class_weights, ("weighted_mse",)),
        ("class_scales", problem.class_scales, ("cdt", "ldt")),
    ):
        if (value is not None) != (loss in losses):
            raise ValueError(
                f"{name} must be given for loss {' or '.join(losses)} and only there, got "
                f"loss={loss!r} {'without' if value is None else 'with'} {name}"
            )
    if problem.targets is not None and (loss != "mse" or problem.activation != "linear"):
        raise ValueError(
            f"targets must come with loss='mse' and activation='linear', got loss={loss!r} and "
            f"activation={problem.activation!r}"
        )
    if problem.activation == "relu" and (
        loss == "focal" or (depth > 1 and not (bias == "none" and loss == "mse"))
    ):
        raise ValueError(
            "activation='relu' must come with depth 1 and another loss than 'focal', or with "
            f"loss='mse' and bias='none', got loss={loss!r}, depth={depth}, bias={bias!r}; nothing "
            "is known there"
        )
    if depth > 1 and loss not in ("mse", "ce"):
        raise ValueError(
            f"depth must be 1 for loss={loss!r}, got {depth}; for several linear layers only 'mse' "
            "and 'ce' are covered"
        )
    decayed = not isinstance(bias, str)
    if decayed and (problem.targets is not None or (loss == "mse" and depth > 1)):
        raise ValueError(
            f"bias must be 'none' or 'free' for squared error with targets or depth above 1, got a "
            f"decay of {bias:g}; no closed form is known there"
        )
    if loss == "focal" and not problem.balanced:
        raise ValueError(
            "counts must be equal for loss='focal', got "
            f"{int(problem.counts.min())} to {int(problem.counts.max())}; the focal loss is not "
            "convex, and no closed form is known for imbalanced classes"
        )


def _fitting(problem: Problem, prediction: Prediction) -> Prediction:
    """The prediction, if the width holds its rank."""
    needed = max([prediction.rank, *(branch.rank for branch in prediction.branches)])
    if problem.width is not None and problem.width < needed:
        raise ValueError(
            f"dim and widths must be at least {needed}, the rank of the optimum, got "
            f"{problem.width}; for fewer dimensions no closed form is known with this loss and bias"
        )
    return prediction
