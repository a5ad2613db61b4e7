"""What all detectors share: fitted on features of the classes, they score any others."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from neuralcollapse.batches import check_loader, labelled_samples, run_model, split_batch
from neuralcollapse.checks import (
    check_data,
    check_finite,
    check_labels,
    check_matrix,
    check_vector,
)
from neuralcollapse.tap import FeatureTap, evaluating

# Entries worked on at a time: 2^20 doubles are 8 MiB.
_BLOCK = 1 << 20
# As torch's cross entropy and `measure` have it.
_IGNORED = -100


class AbstractDetector(ABC):
    """Scores how far samples lie outside of what it was fitted on; larger is further outside.

    With a model, `fit` takes a loader and `predict` inputs; features and classifier are read from
    the model by `FeatureTap`. With features at hand, `fit_features` and `predict_features` do
    without a model. These are the verbs of pytorch-ood.

    Args:
        model: any module with a linear classifier, or None.
        layer: dotted name of the classifier; by default the last linear layer.
        weight: (K, d), the classifier, where there is no model.
        bias: (K,), its bias, or None.
    """

    name: ClassVar[str]
    """What the command line calls it."""
    needs_classifier: ClassVar[bool] = False
    """Whether it cannot do without the classifier."""

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        layer: str | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ):
        if model is not None and weight is not None:
            raise ValueError("weight must be left out with a model, whose classifier it is")
        if weight is None and bias is not None:
            raise ValueError("bias must come with a weight, got a bias alone; pass weight too")
        self.model, self.layer = model, layer
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        if weight is not None:
            self._take_classifier(weight, bias)
        self._dim: int | None = None

    def fit(self, loader: Iterable[Any]) -> Self:
        """Learn from the batches of a loader what samples of the classes look like.

        All features are held at once; what a batch may be is said at `measure`. Samples labelled
        -100 are left out.
        """
        if self.model is None:
            raise ValueError("fit needs a model; with features at hand call fit_features")
        check_loader("loader", loader)
        kept: list[tuple[Tensor, Tensor]] = []
        with FeatureTap(self.model, self.layer) as tap, evaluating(self.model) as device:
            for batch in loader:
                inputs, labels = split_batch(batch)
                run_model(self.model, inputs, device)
                features = tap.take(tokens=labels.dim() > 1)
                kept.append(
                    labelled_samples(features, labels.to(device), len(tap.weight), _IGNORED)
                )
            self._take_classifier(tap.weight.clone(), tap.bias)
        if not kept:
            raise ValueError("loader must yield at least one sample, got none")
        features, labels = (torch.cat(parts) for parts in zip(*kept, strict=True))
        return self.fit_features(features, labels)

    @torch.no_grad()
    def fit_features(self, features: Tensor, labels: Tensor | None = None) -> Self:
        """Learn from features (N, d), with labels (N,) for detectors that look at classes.

        Raises:
            ValueError: if shapes do not fit, there are no samples, a value is not finite, a label
                is negative, or something is missing that the detector needs.
        """
        features = check_matrix("features", features).detach()
        if not len(features):
            raise ValueError("features must hold at least one sample, got none")
        check_finite("features", features)
        if labels is not None:
            labels = check_labels(labels, len(features))
            check_data("labels", labels)
            if int(labels.min()) < 0:
                raise ValueError(
                    f"labels must not be negative, got {int(labels.min())}; leave these samples out"
                )
            labels = labels.to(features.device)
        if self.weight is not None:
            check_matrix("weight", self.weight, columns=features.shape[1], why="as the features")
            self._take_classifier(self.weight.to(features.device), self.bias)
        elif self.needs_classifier:
            _ = self._classifier
        self._dim = features.shape[1]
        self._fit(features, labels)
        return self

    def predict(self, inputs: Any) -> Tensor:
        """(N,), the scores of inputs, which the model turns into features."""
        if self.model is None:
            raise ValueError("predict needs a model; with features at hand call predict_features")
        with FeatureTap(self.model, self.layer) as tap, evaluating(self.model) as device:
            run_model(self.model, inputs, device)
            features = tap.take()
        return self.predict_features(features)

    @torch.no_grad()
    def predict_features(self, features: Tensor) -> Tensor:
        """(N,) float64, the scores of features (N, d); the larger, the further outside.

        Raises:
            RuntimeError: if the detector was not fitted.
            ValueError: if the width is not that of the features it was fitted on, or a value or
                a score is not finite.
        """
        if self._dim is None:
            raise RuntimeError(
                f"{type(self).__name__} must be fitted first; call fit or fit_features"
            )
        check_matrix("features", features, columns=self._dim, why="as fitted")
        check_finite("features", features)
        if not len(features):
            return features.new_zeros(0, dtype=torch.float64)
        scores = torch.cat([self._score(block.double()) for block in blocks(features.detach())])
        if not bool(torch.isfinite(scores).all()):
            raise ValueError(
                "features must be small enough for their squares, got a score that is not finite; "
                "scale them down"
            )
        return scores

    @abstractmethod
    def _fit(self, features: Tensor, labels: Tensor | None) -> None:
        """Keep what scores are made of; in float64."""

    @abstractmethod
    def _score(self, features: Tensor) -> Tensor:
        """Scores of some features in float64."""

    @property
    def _classifier(self) -> Tensor:
        """(K, d) float64; an error where there is none."""
        if self.weight is None:
            raise ValueError(
                f"{type(self).__name__} needs the classifier; pass weight=... (and bias=...), or a "
                "model"
            )
        return self.weight

    def _logits(self, features: Tensor) -> Tensor:
        """(N, K) float64; only for detectors with a classifier."""
        logits = features @ self._classifier.T
        return logits if self.bias is None else logits + self.bias

    def _take_classifier(self, weight: Tensor, bias: Tensor | None) -> None:
        check_matrix("weight", weight)
        check_finite("weight", weight)
        self.weight = weight.detach().double()
        self.bias = None
        if bias is not None:
            check_vector("bias", bias, len(weight), "one per row of weight")
            check_finite("bias", bias)
            self.bias = bias.detach().to(self.weight)


def blocks(features: Tensor) -> Iterator[Tensor]:
    """Rows of features, some at a time."""
    if len(features):
        yield from features.split(max(1, _BLOCK // max(1, features.shape[1])))


def second_moment(features: Tensor, origin: Tensor, scale: Tensor | None = None) -> Tensor:
    """(d, d) float64, mean of (h - origin)(h - origin)^T, each coordinate over its scale."""
    total = origin.new_zeros(len(origin), len(origin))
    for block in blocks(features):
        moved = block.double() - origin
        moved = moved if scale is None else moved / scale
        total += moved.T @ moved
    if not bool(torch.isfinite(total).all()):
        raise ValueError(
            "features must be small enough for their squares, got a sum that overflows; scale them "
            "down"
        )
    return total / len(features)
