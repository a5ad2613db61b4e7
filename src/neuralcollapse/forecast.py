"""What a training run is predicted to collapse to, from its own configuration."""

from collections.abc import Mapping, Sequence
from typing import Any

from neuralcollapse.theory import Prediction, from_training, predict


def forecast(config: Mapping[str, Any], counts: Sequence[int]) -> Prediction:
    """The prediction for a run of `neuralcollapse train`.

    Its networks end in a batch normalisation whose scale and shift are decayed like all weights.
    Summed over the training set the squared features are N times the squares of scale and shift, so
    that decay acts as a feature decay of weight_decay / N, on top of `feature_decay`. The bias of
    the head is decayed too.

    Args:
        config: the options of the run by name, loss and head chosen.
        counts: (K,), training samples per class.

    Raises:
        ValueError: if no prediction is known for these options; it says which and why.

    Example:
        >>> options = {"loss": "cross-entropy", "head": "linear", "bias": False}
        >>> forecast({**options, "weight_decay": 5e-3}, [100] * 10).kind
        'simplex ETF'
    """
    loss, options = _loss(config)
    depth = _depth(config)
    weight_decay = float(config.get("weight_decay", 0.0))
    if not weight_decay > 0:
        raise ValueError(
            "weight_decay must be above 0 for a prediction, got 0: without decay nothing bounds "
            "the norms"
        )
    if min(counts, default=0) < 1:
        raise ValueError("counts must be positive for a prediction: a class has no samples")
    total = sum(counts)
    decays = from_training(
        "mse" if loss == "mse" else "ce",
        "sample" if loss == "mse" else "mean",
        weight_decay=weight_decay,
        feature_decay=float(config.get("feature_decay", 0.0)),
        num_samples=total,
        depth=depth,
        loss_scale=0.5 if loss == "mse" else 1.0,
        feature_reduction="training_set",
        normalization="batch_affine",
    )
    bias = weight_decay if depth == 1 and config.get("bias", True) else "none"
    return predict(
        counts,
        loss=loss,
        depth=depth,
        bias=bias,
        weight_decay=decays.weight_decay,
        feature_decay=decays.feature_decay,
        **options,
    )


def _loss(config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The theory's name of the loss, and its options."""
    name = str(config.get("loss"))
    if name == "cross-entropy":
        if config.get("logit_adjustment"):
            raise ValueError("loss must be without logit adjustment for a prediction")
        if smoothing := config.get("label_smoothing"):
            return "label_smoothing", {"label_smoothing": smoothing}
        return "ce", {}
    if name == "squared-error":
        if config.get("true_weight", 1.0) != 1.0 or config.get("target", 1.0) != 1.0:
            raise ValueError("loss must be squared error to one-hot targets for a prediction")
        return "mse", {}
    raise ValueError(
        f"loss must be cross-entropy or squared-error for a prediction, got {name}; no closed form "
        "is known"
    )


def _depth(config: Mapping[str, Any]) -> int:
    """The number of linear layers of the head."""
    name, _, rest = str(config.get("head")).partition(":")
    if name == "linear":
        return 1
    if name == "deep-linear":
        depth = rest.partition(",")[0].removeprefix("depth=")
        return int(depth) if depth.isdigit() else 2
    raise ValueError(
        f"head must be linear or deep-linear for a prediction, got {name}: what is fixed or of "
        "unit length does not follow the decay"
    )
