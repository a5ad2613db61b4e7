"""Regression of directions onto embeddings of the classes."""

from typing import final

from torch import Tensor

from neuralcollapse.losses.loss import AbstractLoss
from neuralcollapse.sphere import directions


@final
class BarzDenzler(AbstractLoss):
    """One minus the cosine between a feature and the embedding of its class; 0 at best, at most 2.

        mean_i(1 - cos(h_i, w_y))

    Source: Barz, Denzler 2019.

    Made for fixed embeddings whose inner products are similarities in a hierarchy: give them as
    `weight`, in a `FixedHead`, and decide by the largest cosine. The paper's full objective adds a
    tenth of a cross entropy of a *second*, learned classifier behind a ReLU and a BatchNorm on the
    same features: add `CrossEntropy` of that head yourself, as in the example. Cross entropy of the
    features' own coordinates, as one published port has it, is another thing: coordinate k of an
    embedding does not stand for class k.

    Raises:
        ValueError: from the call, if there is a bias: a cosine has none.

    Example:
        >>> import torch
        >>> from neuralcollapse import CrossEntropy, LinearHead
        >>> features, labels, embeddings = torch.eye(3), torch.tensor([0, 1, 2]), torch.eye(3)
        >>> second = LinearHead(num_classes=3, dim=3)
        >>> apart = CrossEntropy()(features.relu(), labels, second.weight, second.bias)
        >>> objective = BarzDenzler()(features, labels, embeddings) + 0.1 * apart
        >>> float(BarzDenzler()(features, labels, -embeddings))
        2.0
    """

    name = "barz-denzler"

    def terms(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One term, `correlation`."""
        if bias is not None:
            raise ValueError("bias must be None for Barz-Denzler; use a head without bias")
        features = directions(features)
        own = directions(weight.to(features.dtype)[labels])
        return {"correlation": (1 - (features * own).sum(1)).mean()}
