"""Cross entropy, with label smoothing and logit adjustment."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from neuralcollapse.losses.loss import AbstractLoss, logits
from neuralcollapse.scalars import check_number


@final
class CrossEntropy(AbstractLoss):
    """Cross entropy of the softmax of the logits z = W h + b.

        mean_i(-sum_k(target_ik * log softmax(z_i + adjustment * log(prior))_k))

    with target = (1 - label_smoothing) * onehot + label_smoothing / K and prior the class
    frequencies. With weight decay on features and classifier and balanced classes its optimum is
    the simplex ETF, with or without a bias.

    Args:
        label_smoothing: share of the target spread over all classes, in [0, 1).
        class_counts: (K,), samples per class; turns on logit adjustment (Menon et al. 2021), which
            asks for larger margins on rare classes. At prediction the logits stay unadjusted.
        adjustment: strength of the logit adjustment.

    Raises:
        ValueError: if a count is zero: its logarithm is infinite.

    Example:
        >>> features, weight = torch.eye(3), 10 * torch.eye(3)
        >>> round(float(CrossEntropy()(features, torch.tensor([0, 1, 2]), weight)), 6)
        9.1e-05
    """

    name = "cross-entropy"

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_counts: Tensor | Sequence[int] | None = None,
        adjustment: float = 1.0,
    ):
        super().__init__()
        self.label_smoothing = check_number("label_smoothing", label_smoothing, minimum=0)
        if self.label_smoothing >= 1:
            raise ValueError(f"label_smoothing must be below 1, got {label_smoothing}")
        self.adjustment = check_number("adjustment", adjustment)
        log_prior = None
        if class_counts is not None:
            counts = torch.as_tensor(class_counts, dtype=torch.float64)
            usable = (counts > 0) & torch.isfinite(counts)
            if counts.dim() != 1 or not len(counts) or not bool(usable.all()):
                raise ValueError(
                    "class_counts must be 1-D, positive and finite for logit adjustment, got "
                    f"{counts.tolist()}; leave out classes without samples"
                )
            log_prior = (counts / counts.sum()).log().float()
        self.log_prior: Tensor | None
        self.register_buffer("log_prior", log_prior, persistent=False)

    def terms(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One term, `cross_entropy`."""
        scores = logits(features, weight, bias)
        if self.log_prior is not None:
            if len(self.log_prior) != scores.shape[1]:
                raise ValueError(
                    f"weight must have {len(self.log_prior)} rows (the length of class_counts), "
                    f"got {scores.shape[1]}"
                )
            scores = scores + self.adjustment * self.log_prior.to(scores)
        loss = cross_entropy(scores, labels, label_smoothing=self.label_smoothing)
        return {"cross_entropy": loss}
