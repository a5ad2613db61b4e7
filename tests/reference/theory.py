"""The minimisation that predictions are about, from its definition, over all samples.

Nothing here knows a closed form: layers and features are rebuilt from the Gram matrices that a
prediction shows, and the objective is evaluated sample by sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuralcollapse.theory import Prediction

# From logits (N, K) and labels (N,) to the losses of the samples (N,).
SampleLosses = Callable[[Tensor, Tensor], Tensor]


def squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits - torch.eye(logits.shape[1]).double()[labels]).square().sum(1) / 2


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.exp().sum(1).log() - logits.gather(1, labels[:, None])[:, 0]


def smoothed(share: float) -> SampleLosses:
    def losses(logits: Tensor, labels: Tensor) -> Tensor:
        log_hits = logits - logits.exp().sum(1, keepdim=True).log()
        target = (1 - share) * torch.eye(logits.shape[1]).double() + share / logits.shape[1]
        return -(target[labels] * log_hits).sum(1)

    return losses


def focal(power: float) -> SampleLosses:
    def losses(logits: Tensor, labels: Tensor) -> Tensor:
        surprise = cross_entropy(logits, labels)
        return (1 - (-surprise).exp()) ** power * surprise

    return losses


def weighted(weights: Sequence[float]) -> SampleLosses:
    def losses(logits: Tensor, labels: Tensor) -> Tensor:
        return torch.tensor(weights, dtype=torch.float64)[labels] * squared_error(logits, labels)

    return losses


def scaled_by_output(scales: Sequence[float]) -> SampleLosses:
    """CDT."""
    return lambda logits, labels: cross_entropy(
        torch.tensor(scales, dtype=torch.float64) * logits, labels
    )


def scaled_by_label(scales: Sequence[float]) -> SampleLosses:
    """LDT."""

    def losses(logits: Tensor, labels: Tensor) -> Tensor:
        own = logits.gather(1, labels[:, None])
        inner = torch.tensor(scales, dtype=torch.float64)[labels][:, None] * (logits - own)
        return inner.exp().sum(1).log()

    return losses


def to_targets(targets: Tensor) -> SampleLosses:
    return lambda logits, labels: (logits - targets[labels]).square().sum(1) / 2


@dataclass
class Point:
    """Layers (the one next to the features first), features of all samples, and a bias."""

    layers: list[Tensor]
    features: Tensor  # (N, d)
    labels: Tensor  # (N,)
    bias: Tensor  # (K,)

    @property
    def logits(self) -> Tensor:
        outputs = self.features
        for layer in self.layers:
            outputs = outputs @ layer.T
        return outputs + self.bias

    def objective(
        self,
        losses: SampleLosses,
        weight_decay: Sequence[float],
        feature_decay: float,
        bias_decay: float = 0.0,
    ) -> Tensor:
        value = losses(self.logits, self.labels).mean()
        for decay, layer in zip(weight_decay, self.layers, strict=True):
            value = value + decay / 2 * layer.square().sum()
        value = value + feature_decay / 2 * self.features.square().sum()
        return value + bias_decay / 2 * self.bias.square().sum()

    def gradients(self, *arguments, free_bias: bool, **options) -> list[Tensor]:
        variables = [*self.layers, self.features, *([self.bias] if free_bias else [])]
        for variable in variables:
            variable.requires_grad_()
        gradients = torch.autograd.grad(self.objective(*arguments, **options), variables)
        for variable in variables:
            variable.requires_grad_(False)
        return list(gradients)


def realised(prediction: Prediction) -> Point:
    """Layers and features with the Gram matrices and singular values that are predicted."""
    outputs = len(prediction.gram_classifier)
    blocks = [
        [prediction.gram_classifier, prediction.products],
        [prediction.products.T, prediction.gram_features],
    ]
    joint = torch.cat([torch.cat(row, 1) for row in blocks])
    values, vectors = torch.linalg.eigh(joint)
    # Blocks that do not belong together would have negative eigenvalues.
    assert float(values[0]) >= -1e-9 * max(float(values[-1]), 1e-9), values
    keep = values > 1e-12 * max(float(values[-1]), 1e-12)
    vectors = vectors[:, keep] * values[keep].sqrt()
    product, means = vectors[:outputs], vectors[outputs:]
    layers = [product]
    if prediction.depth > 1:
        left, sizes, right = torch.linalg.svd(product, full_matrices=False)
        rank = prediction.rank
        left, sizes, right = left[:, :rank], sizes[:rank], right[:rank]
        expected = torch.stack(prediction.layers).prod(0)
        torch.testing.assert_close(sizes, expected, rtol=1e-8, atol=1e-9)
        layers = [torch.diag(values) for values in prediction.layers]
        layers[0] = layers[0] @ right
        layers[-1] = left @ layers[-1]
    labels = torch.repeat_interleave(prediction.counts)
    return Point(layers, means[labels], labels, prediction.bias.clone())


def departure(
    prediction: Prediction,
    losses: SampleLosses,
    weight_decay: Sequence[float],
    feature_decay: float,
    bias: str | float,
) -> tuple[float, float]:
    """(difference of the objective to that evaluated over the samples, largest gradient norm)."""
    point = realised(prediction)
    bias_decay = 0.0 if isinstance(bias, str) else bias
    arguments = (losses, weight_decay, feature_decay, bias_decay)
    gradients = point.gradients(*arguments, free_bias=bias != "none")
    value = float(point.objective(*arguments))
    return abs(value - prediction.objective), max(float(part.norm()) for part in gradients)
