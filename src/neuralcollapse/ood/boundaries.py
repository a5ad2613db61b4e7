"""Detectors by class: how a sample lies to the classifier's rows, its boundaries, the means."""

from typing import Any

import torch
from torch import Tensor

from neuralcollapse.ood.detector import AbstractDetector
from neuralcollapse.scalars import check_number
from neuralcollapse.statistics import ClassStatistics

# A feature on the very centre counts as this far from it.
_LEAST_LENGTH = 1e-8


class NCI(AbstractDetector):
    """How little a feature points to the weight of its predicted class, and how short it is.

        -<h - mu_G, w_c> / norm(h - mu_G) - alpha * norm_1(h),  c = argmax of the logits

    with mu_G the mean of the features that it was fitted on. Source: Liu, Qin 2025. Collapsed
    features lie along the rows of the classifier (NC3), and those of no class near the origin.

    Args:
        model: as of `AbstractDetector`, as are `layer`, `weight` and `bias`.
        alpha: weight of the length, at least 0; published values are chosen on validation data.
    """

    name = "nci"
    needs_classifier = True

    def __init__(
        self,
        model: Any = None,
        *,
        layer: str | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        alpha: float = 0.0,
    ):
        super().__init__(model, layer=layer, weight=weight, bias=bias)
        self.alpha = check_number("alpha", alpha, minimum=0)

    def _fit(self, features: Tensor, labels: Tensor | None) -> None:
        self._centre = features.double().mean(0)

    def _score(self, features: Tensor) -> Tensor:
        rows = self._classifier[self._logits(features).argmax(1)]
        moved = features - self._centre
        lengths = moved.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
        return -(moved * rows).sum(1) / lengths - self.alpha * features.abs().sum(1)


class FDBD(AbstractDetector):
    """How near a feature lies to the boundaries of its predicted class, on average.

        -mean_{k != c}(abs(z_c - z_k) / norm(w_c - w_k)) / norm(h - mu_G),  c = argmax of logits z

    with mu_G the mean of the features that it was fitted on. Source: Liu, Qin 2024.

    Args:
        model: as of `AbstractDetector`, as are `layer`, `weight` and `bias`.
    """

    name = "fdbd"
    needs_classifier = True

    def _fit(self, features: Tensor, labels: Tensor | None) -> None:
        self._centre = features.double().mean(0)

    def _score(self, features: Tensor) -> Tensor:
        logits = self._logits(features)
        best, chosen = logits.max(1)
        between = self._row_distances(chosen)
        own = torch.nn.functional.one_hot(chosen, logits.shape[1]).bool()
        # Equal rows with equal biases have no boundary: nothing lies between them.
        reach = torch.where(own | (between == 0), 0.0, (best[:, None] - logits) / between)
        lengths = (features - self._centre).norm(dim=1).clamp(min=_LEAST_LENGTH)
        return -reach.sum(1) / max(1, logits.shape[1] - 1) / lengths

    def _row_distances(self, chosen: Tensor) -> Tensor:
        """(N, K), distances between the rows of the chosen classes and all rows."""
        rows = self._classifier
        classes, place = chosen.unique(return_inverse=True)
        distances = torch.cdist(rows[classes], rows, compute_mode="donot_use_mm_for_euclid_dist")
        return distances[place]


class NearestMean(AbstractDetector):
    """Distance to the nearest class mean.

        min_k(norm(h - mu_k))

    Collapsed features lie on their class means (NC1). Needs labels, and no classifier.

    Args:
        model: as of `AbstractDetector`, as are `layer`, `weight` and `bias`.
    """

    name = "nearest-mean"

    def _fit(self, features: Tensor, labels: Tensor | None) -> None:
        if labels is None:
            raise ValueError("labels must be given to NearestMean, got None")
        classes, own = labels.unique(return_inverse=True)
        statistics = ClassStatistics.from_features(features, own, len(classes), scatter=False)
        self._means = statistics.means.double()
        self._centre = self._means.mean(0)

    def _score(self, features: Tensor) -> Tensor:
        moved, means = features - self._centre, self._means - self._centre
        squares = means.square().sum(1) - 2 * moved @ means.T
        nearest = means[squares.argmin(1)]
        return (moved - nearest).norm(dim=1)
