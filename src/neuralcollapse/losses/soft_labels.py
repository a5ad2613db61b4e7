"""Cross entropy with targets that classes near the truth have a share of."""

from typing import final

from torch import Tensor

from neuralcollapse.checks import check_finite, check_matrix
from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.hierarchy.distances import DistanceKind
from neuralcollapse.losses.loss import AbstractLoss, logits
from neuralcollapse.scalars import check_number


@final
class SoftLabels(AbstractLoss):
    """Cross entropy against targets that fall off with the distance from the true class.

        mean_i(-sum_k(target[y_i, k] * log(softmax(z_i)_k))),
        target[y, k] = exp(-sharpness * distances[y, k] / max(distances)) / the same summed over k

    Source: Bertinetto et al. 2020, up to the entropy of the targets, which does not depend on the
    network. A mean over the samples; the published code also divides by K.

    `sharpness` of 0 spreads the target evenly over all classes, a large one makes it one-hot;
    published runs take 4 to 30. It bounds the confidence that a network can learn: calibration
    suffers as sharpness falls.

    Keeps the targets, (K, K) in float32.

    Args:
        distances: a hierarchy, or a matrix (K, K), entry [true, predicted].
        sharpness: how fast the targets fall off, at least 0.
        kind: which distance of a hierarchy.

    Raises:
        TypeError: if distances are neither a hierarchy nor a matrix.
        ValueError: if the matrix is not square, finite and at least 0, or sharpness is negative;
            from the call, if weight does not have K rows.

    Example:
        >>> tree = Hierarchy.from_newick("((cat,dog),(car,bus));")
        >>> SoftLabels(tree, sharpness=2.0).targets[0].round(decimals=4).tolist()
        [0.6103, 0.2245, 0.0826, 0.0826]
    """

    name = "soft-labels"

    def __init__(
        self,
        distances: Hierarchy | Tensor,
        sharpness: float = 10.0,
        *,
        kind: DistanceKind = "lca_height",
    ):
        super().__init__()
        self.sharpness = check_number("sharpness", sharpness, minimum=0)
        if isinstance(distances, Hierarchy):
            distances = distances.distances(kind)
        check_matrix("distances", distances)
        check_matrix("distances", distances, rows=distances.shape[1], why="a row for every column")
        check_finite("distances", distances)
        if not len(distances) or float(distances.min()) < 0:
            raise ValueError(
                "distances must hold at least one class and no number below 0, got shape "
                f"{tuple(distances.shape)}; similarities become distances as 1 - similarity"
            )
        relative = distances.double() / (float(distances.max()) or 1.0)
        targets = (-self.sharpness * relative).softmax(1)
        self.targets: Tensor  # (K, K), row y is the target of class y
        self.register_buffer("targets", targets.float(), persistent=False)

    def terms(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One term, `soft_labels`."""
        if len(weight) != len(self.targets):
            raise ValueError(
                f"weight must have {len(self.targets)} rows (the classes of distances), got "
                f"{len(weight)}"
            )
        likely = logits(features, weight, bias).log_softmax(1)
        targets = self.targets.to(likely)[labels]
        return {"soft_labels": -(targets * likely).sum(1).mean()}
