"""Squared error against one-hot targets, plain and rescaled."""

from typing import final

from torch import Tensor

from neuralcollapse.losses.loss import AbstractLoss, logits
from neuralcollapse.scalars import check_number


@final
class SquaredError(AbstractLoss):
    """Half the squared distance of the logits z = W h + b to a one-hot target.

        mean_i(true_weight * (z_iy - target)^2 + sum_{k != y} z_ik^2) / 2

    The plain form has true_weight = target = 1. The rescaled form, which trains better with many
    classes, puts more weight on the true class and moves its target away (Hui, Belkin 2021).
    With weight decay on features and classifier and balanced classes the plain form's optimum is
    the simplex ETF with a free bias and the orthogonal frame without.

    Args:
        true_weight: weight of the true class, above 0.
        target: what the true class's logit should be, above 0.

    Example:
        >>> import torch
        >>> features, labels = torch.eye(3), torch.tensor([0, 1, 2])
        >>> float(SquaredError()(features, labels, torch.eye(3)))
        0.0
        >>> float(SquaredError(target=2.0)(features, labels, torch.eye(3)))
        0.5
    """

    name = "squared-error"

    def __init__(self, true_weight: float = 1.0, target: float = 1.0):
        super().__init__()
        self.true_weight = check_number("true_weight", true_weight, minimum=0, exclusive=True)
        self.target = check_number("target", target, minimum=0, exclusive=True)

    def terms(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One term, `squared_error`."""
        scores = logits(features, weight, bias)
        own = labels[:, None]
        # Subtract before squaring: the true class's square must not be taken out of a sum.
        residuals = scores.scatter(1, own, scores.gather(1, own) - self.target)
        total = residuals.square().sum(1)
        if self.true_weight != 1:
            total = total + (self.true_weight - 1) * residuals.gather(1, own).squeeze(1).square()
        return {"squared_error": total.mean() / 2}
