"""Which backbone suits a task? Scores of its features from collapse, and a linear probe."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from neuralcollapse.checks import (
    check_data,
    check_finite,
    check_label_range,
    check_labels,
    check_matrix,
)
from neuralcollapse.metrics.decision import NearestMean
from neuralcollapse.metrics.directional import cdnv_directional
from neuralcollapse.metrics.variability import cdnv, nc1, vci
from neuralcollapse.scalars import check_boolean, check_choice, check_number
from neuralcollapse.statistics import ClassStatistics

Score = Literal["cdnv", "cdnv_directional", "nc1", "vci", "nearest_mean", "linear_probe"]

SCORES: dict[str, bool] = {
    "cdnv": False,
    "cdnv_directional": False,
    "nc1": False,
    "vci": False,
    "nearest_mean": True,
    "linear_probe": True,
}
"""Score by name, and whether higher is better."""

_STEPS = 200


@dataclass(frozen=True)
class TransferScores:
    """How well features of a task are separated by its classes.

    Attributes:
        values: by name, as in `SCORES`; nan where undefined. `cdnv`, `cdnv_directional`, `nc1` and
            `vci` are of all samples; `nearest_mean` and `linear_probe` are accuracies on the test
            samples, of the nearest class mean and of a logistic regression of the training ones.
        reasons: by name, for those that are nan.
        samples: number of training samples of the two accuracies.
        test_samples: number of test samples.
        dim: width of the features.
    """

    values: dict[str, float]
    reasons: dict[str, str] = field(default_factory=dict)
    samples: int = 0
    test_samples: int = 0
    dim: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an undefined score is None and has a reason."""
        return {
            "scores": {k: v if math.isfinite(v) else None for k, v in self.values.items()},
            "undefined": dict(self.reasons),
            "samples": self.samples,
            "test_samples": self.test_samples,
            "dim": self.dim,
        }


def transfer_scores(
    features: Tensor,
    labels: Tensor,
    test: tuple[Tensor, Tensor] | None = None,
    *,
    test_share: float = 0.2,
    probe: bool = True,
    decay: float = 1e-3,
    generator: torch.Generator | None = None,
) -> TransferScores:
    """Scores of a backbone's features on a task.

    The collapse of the target's classes goes with how few labels suffice (Galanti, Gyorgy, Hutter
    2022, for `cdnv`) and with how well pretrained features transfer (Xu, Liu 2023, for `vci`), and
    is known without training.

    Args:
        features: (N, d), of the backbone, on the task's training samples.
        labels: (N,), of the task, not negative.
        test: (features, labels) of further samples for the two accuracies; without them, a share
            of each class is held out.
        test_share: that share, above 0 and below 1; at least one sample of each class.
        probe: also fit the linear probe, which takes longest.
        decay: weight decay of the probe, on standardised features.
        generator: chooses what is held out; by default one with seed 0.

    Raises:
        ValueError: if shapes do not fit, a label is negative, or a value is not finite.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> features = torch.eye(3, 5)[labels] + 0.1 * torch.randn(60, 5)
        >>> transfer_scores(features, labels).values["linear_probe"]
        1.0
    """
    features, labels = _samples(features, labels, None)
    share = check_share(test_share)
    check_number("decay", decay, minimum=0)
    check_boolean("probe", probe)
    classes, own = labels.unique(return_inverse=True)
    whole = ClassStatistics.from_features(features, own, len(classes))
    values = {
        "cdnv": float(cdnv(whole)),
        "cdnv_directional": float(cdnv_directional(whole, features, own)),
        "nc1": float(nc1(whole)),
        "vci": float(vci(whole)),
        "nearest_mean": math.nan,
        "linear_probe": math.nan,
    }
    reasons = {
        name: "needs two classes whose means differ"
        for name, value in values.items()
        if not math.isfinite(value) and SCORES[name] is False
    }
    held = _held_out(own, len(classes), share, generator) if test is None else None
    if test is not None:
        if not isinstance(test, Sequence) or len(test) != 2:
            raise TypeError(f"test must be (features, labels), got {type(test).__name__}")
        test_features, test_labels = _samples(*test, features.shape[1])
        train = features, own
        place = torch.searchsorted(classes, test_labels.contiguous()).clamp(max=len(classes) - 1)
        known = classes[place] == test_labels
        # A class without a training sample cannot be decided for: those are all wrong.
        test_own = torch.where(known, place, -1)
    elif held is None:
        reason = "needs two samples of each class, to hold one out"
        for name in ("nearest_mean", "linear_probe"):
            reasons[name] = reason
        return TransferScores(values, reasons, len(features), 0, features.shape[1])
    else:
        train = features[~held], own[~held]
        test_features, test_own = features[held], own[held]
    statistics = ClassStatistics.from_features(*train, len(classes), scatter=False)
    right = NearestMean(statistics)(test_features) == test_own
    values["nearest_mean"] = float(right.double().mean())
    if probe and len(classes) > 1:
        weight, bias, centre, scale = linear_probe(*train, len(classes), decay=decay)
        logits = (test_features.double() - centre) / scale @ weight.T + bias
        values["linear_probe"] = float((logits.argmax(1) == test_own).double().mean())
    else:
        reasons["linear_probe"] = "not asked for" if not probe else "needs two classes"
    return TransferScores(values, reasons, len(train[0]), len(test_features), features.shape[1])


def check_share(test_share: float) -> float:
    """Return the share to hold out if it lies above 0 and below 1."""
    share = check_number("test_share", test_share, minimum=0, exclusive=True)
    if share >= 1:
        raise ValueError(f"test_share must be below 1, got {test_share}")
    return share


def linear_probe(
    features: Tensor, labels: Tensor, num_classes: int, *, decay: float = 1e-3
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(weight, bias, centre, scale) of a logistic regression on standardised features.

        minimum of mean cross entropy + decay / 2 * norm(weight)^2

    by L-BFGS in double precision, the same every time. Logits are (h - centre) / scale @ weight^T
    + bias.
    """
    check_label_range(labels, num_classes)
    wide = features.detach().double()
    centre, scale = wide.mean(0), wide.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    units = (wide - centre) / scale
    weight = units.new_zeros(num_classes, units.shape[1]).requires_grad_()
    bias = units.new_zeros(num_classes).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=_STEPS, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = cross_entropy(units @ weight.T + bias, labels)
        value = value + decay / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    return weight.detach(), bias.detach(), centre, scale


def ranked(scores: Sequence[TransferScores], by: str = "cdnv") -> list[int]:
    """Places of the scores, the best first; undefined ones last, ties as they come."""
    check_choice("by", by, tuple(SCORES))
    sign = -1 if SCORES[by] else 1

    def key(place: int) -> float:
        value = scores[place].values[by]
        return sign * value if math.isfinite(value) else math.inf

    return sorted(range(len(scores)), key=key)


def agreement(scores: Sequence[TransferScores]) -> dict[str, float]:
    """Spearman's correlation of every score with the linear probe, signed so that 1 is agreement.

    Over the features for which both are defined, where these are three or more and not all equal.
    """
    from scipy.stats import spearmanr

    found = {}
    for name, higher in SCORES.items():
        pairs = [(one.values[name], one.values["linear_probe"]) for one in scores]
        pairs = [pair for pair in pairs if all(math.isfinite(value) for value in pair)]
        columns = [{*column} for column in zip(*pairs, strict=True)]
        if name == "linear_probe" or len(pairs) < 3 or min(map(len, columns)) < 2:
            continue
        one, other = zip(*pairs, strict=True)
        result: Any = spearmanr(one, other)
        found[name] = float(result.statistic) * (1 if higher else -1)
    return found


def _samples(features: Tensor, labels: Tensor, width: int | None) -> tuple[Tensor, Tensor]:
    check_matrix("features", features, columns=width, why="as the training samples")
    labels = check_labels(labels, len(features))
    if not len(features):
        raise ValueError("features must hold at least one sample, got none")
    check_data("labels", labels)
    if int(labels.min()) < 0:
        raise ValueError(
            f"labels must not be negative, got {int(labels.min())}; leave these samples out"
        )
    check_finite("features", features)
    return features.detach(), labels.to(features.device)


def _held_out(
    labels: Tensor, num_classes: int, share: float, generator: torch.Generator | None
) -> Tensor | None:
    """(N,) bool, a share of each class; None where a class has one sample only."""
    counts = torch.bincount(labels, minlength=num_classes)
    if int(counts.min()) < 2:
        return None
    generator = generator or torch.Generator().manual_seed(0)
    shuffled = torch.randperm(len(labels), generator=generator).to(labels.device)
    # By class, in an order of chance within each.
    order = shuffled[labels[shuffled].argsort(stable=True)]
    first = counts.cumsum(0) - counts
    place = torch.arange(len(labels), device=labels.device) - first[labels[order]]
    wanted = (counts * share).round().long().clamp(min=1).minimum(counts - 1)
    held = torch.zeros_like(labels, dtype=torch.bool)
    held[order] = place < wanted[labels[order]]
    return held
