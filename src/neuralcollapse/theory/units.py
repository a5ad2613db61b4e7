"""From the settings of a PyTorch training run to the constants of the theory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from neuralcollapse.scalars import check_choice, check_integer, check_number
from neuralcollapse.theory.problem import checked_decay, checked_decays

Reduction = Literal["mean", "sum", "sample"]
_OPTIMIZERS = ("sgd", "adam", "adamw", "lbfgs", "rmsprop", "adagrad")


@dataclass(frozen=True)
class Decays:
    """The constants that `predict` takes.

    Attributes:
        loss: "mse" or "ce".
        weight_decay: of each linear layer.
        feature_decay: of the features.
        loss_factor: the training loss over the theory's loss.
        warnings: where the theory applies with reservations.
    """

    loss: str
    weight_decay: tuple[float, ...]
    feature_decay: float
    loss_factor: float
    warnings: tuple[str, ...] = ()


def from_training(
    loss: Literal["mse", "ce"],
    reduction: Reduction = "mean",
    optimizer: str = "sgd",
    weight_decay: float | Sequence[float] = 0.0,
    feature_decay: float | None = None,
    batch_size: int | None = None,
    num_samples: int | None = None,
    *,
    num_classes: int | None = None,
    depth: int = 1,
    loss_scale: float = 1.0,
    feature_reduction: Literal["batch_sum", "batch_mean", "training_set"] = "batch_sum",
    normalization: Literal["none", "batch", "batch_affine", "layer"] = "none",
    affine_decay: float | None = None,
) -> Decays:
    """The theory's decays for a training set-up.

    The theory's loss is the mean over all N samples of cross entropy, or of half the squared
    distance. A training loss that is c times as large needs decays c times as large for the same
    optimum, so the theory's decays are those of training divided by c:

        loss   reduction   c
        ce     mean        1
        ce     sum         batch_size
        mse    mean        2 / num_classes       (nn.MSELoss: the mean over all entries)
        mse    sample      2                     (sum over the outputs, mean over the samples)
        mse    sum         2 batch_size

    all times loss_scale. An optimiser's weight decay w adds w W to the gradient: w / 2 * norm(W)^2.
    A penalty feature_decay / 2 * sum_i norm(h_i)^2 over the batch, beside a loss that is a mean,
    acts as feature_decay * batch_size / N on the sum over the training set.

    A batch normalisation right before the head, with learned scale and shift, can give features any
    mean and variance by coordinate, so it takes nothing from the optimum; and since

        sum_i norm(h_i)^2 = N (norm(scale)^2 + norm(shift)^2)

    over the training set, an affine_decay of scale and shift acts as a feature decay of
    affine_decay / N, on top of any penalty. This is how common networks that have no penalty on
    features come to have features of a predictable length.

    Args:
        loss: "mse" or "ce".
        reduction: of the training loss over the batch.
        optimizer: "sgd", "adam", "rmsprop", "adagrad" or "lbfgs" with weight decay as part of the
            gradient; "adamw" brings a warning.
        weight_decay: of the linear layers, one number or one per layer.
        feature_decay: factor of the penalty on features.
        batch_size: B; needed where c or the penalty depends on it.
        num_samples: N; likewise.
        num_classes: K; needed for "mse" with reduction "mean".
        depth: M, the number of linear layers.
        loss_scale: what the training loss is multiplied with, e.g. 0.5 for half the squared error.
        feature_reduction: whether half the squared norms are summed over the batch, averaged over
            it, or scaled to the sum over the training set (as `neuralcollapse train` does).
        normalization: of the features right before the head; "batch_affine" is a batch
            normalisation whose scale and shift are learned and decayed.
        affine_decay: of that scale and shift; by default the weight decay of the first layer.

    Raises:
        ValueError: where the theory does not apply, or an argument that the conversion needs is
            missing.

    Example:
        >>> from_training(
        ...     "mse", "mean", "sgd", 5e-4, 1e-5, batch_size=128, num_samples=50_000, num_classes=10
        ... ).weight_decay
        (0.0025,)
    """
    check_choice("loss", loss, ("mse", "ce"))
    check_choice("reduction", reduction, ("mean", "sum", "sample"))
    check_choice("optimizer", str(optimizer).lower(), _OPTIMIZERS)
    check_choice("feature_reduction", feature_reduction, _FEATURE_REDUCTIONS)
    check_choice("normalization", normalization, ("none", "batch", "batch_affine", "layer"))
    if normalization in ("batch", "layer"):
        raise ValueError(
            f"normalization must be 'none' or 'batch_affine' for feature decay to act, got "
            f"{normalization!r}: a normalisation without learned scale before the head fixes the "
            "length of the features; compare shapes only, or use `spherical`"
        )
    affine = normalization == "batch_affine"
    if not affine and (feature_decay is None or feature_decay == 0):
        raise ValueError(
            f"feature_decay must be above 0, got {feature_decay}: without it the norms of features "
            "are set by the layers before; train for a while and estimate it with "
            "`effective_feature_decay`"
        )
    depth = check_integer("depth", depth, 1)
    decays = checked_decays(weight_decay, depth)
    penalty = 0.0 if affine and not feature_decay else checked_decay("feature_decay", feature_decay)
    batch = None if batch_size is None else check_integer("batch_size", batch_size, 1)
    total = None if num_samples is None else check_integer("num_samples", num_samples, 1)
    if batch is not None and total is not None and batch > total:
        raise ValueError(
            f"batch_size must be at most num_samples ({total}), got {batch}; for full batches "
            "they are equal"
        )
    factor = check_number("loss_scale", loss_scale, minimum=0, exclusive=True)
    if loss == "mse":
        factor *= 2
        if reduction == "mean":
            factor /= _needed("num_classes", num_classes, "the mean over all entries")
    if reduction == "sum":
        factor *= _needed("batch_size", batch, "a loss summed over the batch")
    if feature_reduction != "training_set" and penalty:
        penalty /= _needed("num_samples", total, "a penalty on the features of the batch")
        if feature_reduction == "batch_sum":
            penalty *= _needed("batch_size", batch, "a penalty summed over the batch")
    if affine:
        decay = checked_decay("affine_decay", decays[0] if affine_decay is None else affine_decay)
        penalty += decay / _needed("num_samples", total, "a batch normalisation before the head")
    warnings = []
    if str(optimizer).lower() == "adamw":
        warnings.append(
            "AdamW does not minimise loss plus weight decay: it shrinks weights beside its scaled "
            "gradient, so norms are predicted as a heuristic only; use Adam with weight_decay"
        )
    return Decays(
        loss,
        tuple(decay / factor for decay in decays),
        penalty / factor,
        factor,
        tuple(warnings),
    )


_FEATURE_REDUCTIONS = ("batch_sum", "batch_mean", "training_set")


def _needed(name: str, value: int | None, why: str) -> int:
    if value is None:
        raise ValueError(f"{name} must be given for {why}, got None")
    return check_integer(name, value, 1)
