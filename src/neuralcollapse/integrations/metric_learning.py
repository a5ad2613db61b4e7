"""Losses that own their classifier, called as those of pytorch-metric-learning are."""

from typing import Any

from torch import Tensor, nn

from neuralcollapse.heads import AbstractHead
from neuralcollapse.losses import AbstractLoss


class HeadLoss(nn.Module):
    """A loss with a head of its own: `loss(embeddings, labels)`.

    Takes the place of a classification loss of pytorch-metric-learning, such as its ArcFaceLoss.
    Its parameters are the head's and need an optimiser. pytorch-metric-learning is not needed.

    Args:
        loss: of this library.
        head: the classifier that it works on.

    Raises:
        TypeError: if loss is no loss or head no head.

    Example:
        >>> import torch
        >>> from neuralcollapse.heads import LinearHead
        >>> from neuralcollapse.losses import CrossEntropy
        >>> loss = HeadLoss(CrossEntropy(), LinearHead(num_classes=3, dim=8))
        >>> loss(torch.randn(5, 8), torch.tensor([0, 1, 2, 0, 1])).shape
        torch.Size([])
        >>> len(list(loss.parameters()))
        2
    """

    def __init__(self, loss: AbstractLoss, head: AbstractHead):
        super().__init__()
        if not isinstance(loss, AbstractLoss):
            raise TypeError(f"loss must be a loss of this library, got {type(loss).__name__}")
        if not isinstance(head, AbstractHead):
            raise TypeError(f"head must be a head of this library, got {type(head).__name__}")
        self.loss, self.head = loss, head

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Any = None,
        ref_emb: Any = None,
        ref_labels: Any = None,
    ) -> Tensor:
        """The loss, a scalar.

        Args:
            embeddings: (N, d).
            labels: (N,), integers in [0, K).
            indices_tuple: None; pairs and triplets of a miner mean nothing to these losses.
            ref_emb: None, for the same reason.
            ref_labels: None, for the same reason.

        Raises:
            ValueError: if a miner's indices or reference embeddings are given.
        """
        for name, value in (("indices_tuple", indices_tuple), ("ref_emb", ref_emb)):
            if value is not None:
                raise ValueError(
                    f"{name} must be None: the loss compares embeddings with a classifier and not "
                    "with each other; leave out the miner"
                )
        features, weight, bias = self.head.operands(embeddings, labels)
        return self.loss(features, labels, weight, bias)

    def get_logits(self, embeddings: Tensor) -> Tensor:
        """(N, K), the logits of embeddings (N, d)."""
        return self.head(embeddings)
