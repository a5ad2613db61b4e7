"""What a training run is predicted to collapse to, from its own configuration."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from neuralcollapse.scalars import check_integer
from neuralcollapse.specs import parse_spec
from neuralcollapse.theory import Prediction, from_training, predict

_DEEP_HEAD = {"depth": int, "width": int, "init_scale": float}


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
    head = _head(config)
    depth = head["depth"]
    rest = float(config.get("weight_decay") or 0.0)
    penalty = float(config.get("feature_decay") or 0.0)
    layers = _head_decays(config, rest)
    if rest + penalty <= 0 or min(layers) <= 0:
        raise ValueError(
            "weight_decay must be above 0 for a prediction, got 0: without decay nothing bounds "
            "the norms"
        )
    # Features of any mean and variance cost nothing where scale and shift are not decayed.
    normalised = {"normalization": "batch_affine", "affine_decay": rest} if rest > 0 else {}
    decays = from_training(
        "mse" if loss == "mse" else "ce",
        "sample" if loss == "mse" else "mean",
        weight_decay=layers[0] if len(layers) == 1 else layers,
        feature_decay=penalty,
        num_samples=sum(counts),
        depth=depth,
        loss_scale=0.5 if loss == "mse" else 1.0,
        feature_reduction="training_set",
        **normalised,
    )
    bias, warnings = _bias(config, loss, depth, rest)
    prediction = predict(
        counts,
        loss=loss,
        depth=depth,
        bias=bias,
        weight_decay=decays.weight_decay,
        feature_decay=decays.feature_decay,
        dim=config.get("dim"),
        widths=[head["width"]] * (depth - 1) if head.get("width") and depth > 1 else None,
        **options,
    )
    return dataclasses.replace(prediction, warnings=(*prediction.warnings, *warnings))


def _head_decays(config: Mapping[str, Any], weight_decay: float) -> list[float]:
    listed = config.get("head_decay")
    return [float(part) for part in str(listed).split(",")] if listed else [weight_decay]


def _bias(
    config: Mapping[str, Any], loss: str, depth: int, decay: float
) -> tuple[Any, tuple[str, ...]]:
    """The bias as `predict` takes it, and what was neglected."""
    if not config.get("bias", True):
        return "none", ()
    if decay == 0:
        return "free", ()
    if loss == "mse" and depth > 1:
        return "free", (
            f"the bias has a decay of {decay:g} in training and none in this prediction: no closed "
            "form is known for both at several layers",
        )
    return decay, ()


def _loss(config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The theory's name of the loss, and its options."""
    name = str(config.get("loss"))
    if name == "cross-entropy":
        if config.get("logit_adjustment"):
            raise ValueError(
                "logit_adjustment must be 0 for a prediction, got "
                f"{config['logit_adjustment']:g}; no closed form is known"
            )
        if smoothing := config.get("label_smoothing"):
            return "label_smoothing", {"label_smoothing": smoothing}
        return "ce", {}
    if name == "squared-error":
        for option in ("true_weight", "target"):
            if config.get(option, 1.0) != 1.0:
                raise ValueError(
                    f"{option} must be 1 for a prediction, got {config[option]:g}; squared error "
                    "is predicted to one-hot targets only"
                )
        return "mse", {}
    raise ValueError(
        f"loss must be cross-entropy or squared-error for a prediction, got {name}; no closed form "
        "is known"
    )


def _head(config: Mapping[str, Any]) -> dict[str, Any]:
    """Depth of the head, and width where it is given."""
    spec = parse_spec("head", str(config.get("head")))
    if spec.name == "linear":
        return {"depth": 1}
    if spec.name == "deep-linear":
        head = {"depth": 2, **spec.arguments(_DEEP_HEAD, "depth")}
        check_integer("depth", head["depth"], 1)
        return head
    raise ValueError(
        f"head must be linear or deep-linear for a prediction, got {spec.name}: what is fixed or "
        "of unit length does not follow the decay"
    )
