"""Cross entropy of cosines."""

from typing import final

from torch import Tensor
from torch.nn.functional import cross_entropy

from neuralcollapse.losses.loss import AbstractLoss, logits
from neuralcollapse.scalars import check_number
from neuralcollapse.sphere import directions


@final
class NormalizedCrossEntropy(AbstractLoss):
    """Cross entropy of the softmax of cosines over a temperature; features and rows at unit length.

        mean_i(-log softmax(cos(h_i, w_k) / temperature over k)_y)

    Its optimum over free unit features and a free classifier is the simplex ETF where K <= d + 1
    (Yaras et al. 2022). For more classes it tends, as the temperature falls, to a softmax code: the
    widest margin of every class against the hull of the others (Jiang et al. 2024).

    Args:
        temperature: divides the cosines, above 0.

    Raises:
        ValueError: from the call, if there is a bias: a cosine has none.

    Example:
        >>> import torch
        >>> weight, labels = torch.eye(3), torch.tensor([0, 1, 2])
        >>> round(float(NormalizedCrossEntropy(0.1)(5 * torch.eye(3), labels, weight)), 6)
        9.1e-05
    """

    name = "normalized-cross-entropy"

    def __init__(self, temperature: float = 0.1):
        super().__init__()
        self.temperature = check_number("temperature", temperature, minimum=0, exclusive=True)

    def terms(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One term, `normalized_cross_entropy`."""
        if bias is not None:
            raise ValueError("bias must be None for cosines; use a head without bias")
        # The factor goes where there are fewer numbers.
        unit, prototypes = directions(features), directions(weight)
        scores = logits(unit / self.temperature, prototypes, None)
        return {"normalized_cross_entropy": cross_entropy(scores, labels)}
