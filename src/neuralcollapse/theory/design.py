"""Choosing before training: what decay a class survives, and weights that treat classes alike."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from neuralcollapse.scalars import check_choice, check_integer, check_number
from neuralcollapse.theory.modes import jump_level, mode_scale, share_at_jump
from neuralcollapse.theory.problem import checked_counts, checked_decay, checked_decays


def collapse_threshold(
    counts: Sequence[int] | Tensor,
    *,
    weight_decay: float | Sequence[float],
    feature_decay: float,
    depth: int = 1,
    loss: Literal["mse", "ce"] = "mse",
    activation: Literal["linear", "relu"] = "linear",
) -> float:
    """Samples per class up to which a class does not survive; a class above it does.

        N^2 weight_decay feature_decay                                   (depth 1, both losses)
        M^2 N (N Lam)^(1/M) / (M - 1)^((M-1)/M)                          (mse, depth M)
        N^2 weight_decay feature_decay K / (K - 1)                       (ce, relu)

    with Lam the product of all decays. Squared error without bias takes the class to zero, cross
    entropy merges it with classes of its count. With a bias, the mse figure is one of modes.

    Args:
        counts: (K,), samples per class; only K and N enter.
        weight_decay: of the layers, one number or one per layer.
        feature_decay: of the features.
        depth: M, the number of linear layers.
        loss: "mse" or "ce"; for cross entropy no threshold is known beyond depth 1.
        activation: "relu" where features cannot be negative.

    Raises:
        ValueError: if a decay is not positive, or loss="ce" with several layers.

    Example:
        >>> round(collapse_threshold([200] * 2, weight_decay=5e-4, feature_decay=5e-4, depth=3), 6)
        0.663126
    """
    sizes = checked_counts(counts)
    depth = check_integer("depth", depth, 1)
    check_choice("loss", loss, ("mse", "ce"))
    check_choice("activation", activation, ("linear", "relu"))
    decays = (*checked_decays(weight_decay, depth), checked_decay("feature_decay", feature_decay))
    if loss == "ce" and depth > 1:
        raise ValueError(
            f"depth must be 1 for loss='ce', got {depth}; no threshold is known for deep cross "
            "entropy, see the branches of `predict`"
        )
    threshold = mode_scale(decays, float(sizes.sum())) / jump_level(depth)
    if loss == "ce" and activation == "relu":
        threshold *= len(sizes) / (len(sizes) - 1)
    return threshold


def max_weight_decay(
    counts: Sequence[int] | Tensor,
    depth: int = 1,
    min_logit: float = 0.9,
    *,
    feature_decay: float | None = None,
) -> float:
    """The largest decay at which squared error without bias fits every class to `min_logit`.

        N^2 Lam <= (1 - min_logit)^2 * least count                                   (depth 1)
        M N (N Lam)^(1/M) <= least count * M r^((M-1)/M) (1 - min_logit)^2,
            r = min_logit / (1 - min_logit)                                          (depth M)

    but not beyond the jump, at which the fitted logit falls from (M-1)/M to 0.

    Args:
        counts: (K,), samples per class.
        depth: M, the number of linear layers.
        min_logit: least logit of the true class on training samples, in (0, 1).
        feature_decay: of the features; None takes the same decay for layers and features.

    Returns:
        The decay of each layer (and of the features, where feature_decay is None).

    Raises:
        ValueError: if min_logit is not between 0 and 1 or feature_decay not positive.

    Example:
        >>> round(max_weight_decay([200, 100, 50, 50], min_logit=0.9), 8)  # 0.1 * sqrt(50) / 400
        0.00176777
    """
    sizes = checked_counts(counts)
    depth = check_integer("depth", depth, 1)
    min_logit = check_number("min_logit", min_logit, minimum=0, exclusive=True)
    if min_logit >= 1:
        raise ValueError(
            f"min_logit must be below 1, got {min_logit:g}; with decay no target is reached"
        )
    if min_logit <= share_at_jump(depth):
        level = jump_level(depth)
    else:
        odds = min_logit / (1 - min_logit)
        level = depth * odds ** ((depth - 1) / depth) * (1 - min_logit) ** 2
    total = float(sizes.sum())
    log_product = depth * math.log(level * sizes.min() / (depth * total)) - math.log(total)
    if feature_decay is None:
        return math.exp(log_product / (depth + 1))
    log_feature = math.log(checked_decay("feature_decay", feature_decay))
    return math.exp((log_product - log_feature) / depth)


def equalising_class_weights(counts: Sequence[int] | Tensor) -> Tensor:
    """(K,), class weights at which weighted squared error fits all classes to the same logit.

        1 / sqrt(counts), scaled so that the mean over the samples is 1

    Weights 1 / counts over-correct: with them the majority classes collapse first. For one layer
    without bias.

    Raises:
        ValueError: if a count is not positive.

    Example:
        >>> equalising_class_weights([400, 100])
        tensor([0.8333, 1.6667], dtype=torch.float64)
    """
    sizes = checked_counts(counts)
    weights = 1 / np.sqrt(sizes)
    return torch.from_numpy(weights * sizes.sum() / (sizes @ weights))
