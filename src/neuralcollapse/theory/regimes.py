"""The door: which closed form or program answers a question."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from neuralcollapse.scalars import check_choice, check_integer, check_number
from neuralcollapse.theory import squared_error
from neuralcollapse.theory.prediction import Prediction
from neuralcollapse.theory.problem import (
    LOSS_CHOICES,
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
) -> Prediction:
    """The geometry that features and classifier collapse to."""
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
    )
    if problem.targets is not None:
        return squared_error.to_targets(problem)
    if problem.bias == "none":
        return squared_error.without_bias(problem)
    return squared_error.with_free_bias(problem)
