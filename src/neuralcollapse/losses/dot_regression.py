"""Dot regression: pull features to fixed directions."""

from typing import final

from torch import Tensor

from neuralcollapse.losses.loss import AbstractLoss
from neuralcollapse.scalars import check_number
from neuralcollapse.sphere import directions


@final
class DotRegression(AbstractLoss):
    """Half the squared shortfall of the cosine between a feature and its class's vector.

        mean_i((w_y . h_i - norm(w_y) * r)^2 / (2 * norm(w_y) * r))
        = mean_i(norm(w_y) * r * (cos(h_i, w_y) - 1)^2 / 2)

    with features scaled to length r. Source: Yang et al. 2022.

    Made for a fixed frame: it only pulls towards the own class's vector and never pushes away from
    others, so a learned classifier would shrink to a point. It reaches zero when every feature
    points along its vector. A zero feature counts as cosine 0.

    Args:
        feature_norm: r, the length that features are scaled to.

    Raises:
        ValueError: from the call, if there is a bias: a cosine has none.

    Example:
        >>> import torch
        >>> weight, labels = torch.eye(3), torch.tensor([0, 1, 2])
        >>> float(DotRegression()(5 * torch.eye(3), labels, weight))
        0.0
        >>> float(DotRegression()(-torch.eye(3), labels, weight))
        2.0
    """

    name = "dot-regression"

    def __init__(self, feature_norm: float = 1.0):
        super().__init__()
        self.feature_norm = check_number("feature_norm", feature_norm, minimum=0, exclusive=True)

    def terms(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One term, `dot_regression`."""
        if bias is not None:
            raise ValueError("bias must be None for dot regression; use a head without bias")
        features = directions(features)
        own = weight.to(features.dtype)[labels]
        cosines = (features * directions(own)).sum(1)
        scale = own.norm(dim=1) * self.feature_norm
        return {"dot_regression": (scale * (cosines - 1).square()).mean() / 2}
