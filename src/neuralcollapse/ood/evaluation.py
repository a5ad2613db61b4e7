"""How well scores tell samples of the classes from others: AUROC, AUPR and FPR95."""

from dataclasses import dataclass

import torch
from torch import Tensor

from neuralcollapse.checks import check_finite, check_vector

_ACCEPTED = 0.95


@dataclass(frozen=True)
class Separation:
    """How well scores tell inside from outside; thresholds play no part.

    Attributes:
        auroc: probability that a sample from outside scores above one from inside, ties by half;
            0.5 by chance, 1 at best.
        aupr_in: area under precision and recall with the inside as the class looked for. By chance
            its share of all samples; 1 at best.
        aupr_out: the same with the outside as the class looked for.
        fpr95: share of samples from outside that are accepted where 95 % of those from inside are;
            0 at best. (Some tools look for 95 % of the outside instead; that is another number.)
        inside: number of samples.
        outside: number of samples.
    """

    auroc: float
    aupr_in: float
    aupr_out: float
    fpr95: float
    inside: int
    outside: int


def separation_of(inside: Tensor, outside: Tensor) -> Separation:
    """How well scores, larger for the outside, tell two sets of samples apart; by torchmetrics.

    Args:
        inside: (N,), scores of samples of the classes, which the detector was not fitted on.
        outside: (M,), scores of samples of none of them.

    Raises:
        ValueError: if there are no scores of one kind, a score is not finite, or the extra
            torchmetrics is missing.

    Example:
        >>> found = separation_of(torch.tensor([0.1, 0.2, 0.7]), torch.tensor([0.6, 0.9]))
        >>> round(found.auroc, 4), found.fpr95
        (0.8333, 0.5)
    """
    for name, scores in (("inside", inside), ("outside", outside)):
        check_vector(name, scores, len(scores))
        if not len(scores):
            raise ValueError(f"{name} must hold at least one score, got none")
        check_finite(name, scores)
    try:
        from torchmetrics.functional.classification import (
            binary_auroc,
            binary_average_precision,
            binary_roc,
        )
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f"AUROC needs the extra torchmetrics, which cannot be imported ({error}); "
            "install it with pip install 'neuralcollapse[torchmetrics]'"
        ) from None
    scores = torch.cat([inside.double(), outside.double().to(inside.device)])
    outer = torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))]).to(inside.device).long()
    # Ranks in [0, 1], ties included: scores outside of it would be sent through a sigmoid, which
    # rounds large ones to ties.
    ranks = scores.unique(return_inverse=True)[1].double() / len(scores)
    # Inside is positive: high for it are low scores.
    false_accepted, accepted, _ = binary_roc(1 - ranks, 1 - outer)
    enough = (accepted >= _ACCEPTED - 1e-12).nonzero()[0, 0]
    return Separation(
        auroc=float(binary_auroc(ranks, outer)),
        aupr_in=float(binary_average_precision(1 - ranks, 1 - outer)),
        aupr_out=float(binary_average_precision(ranks, outer)),
        fpr95=float(false_accepted[enough]),
        inside=len(inside),
        outside=len(outside),
    )
