"""A row for every head: how it is made, and its logits written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from neuralcollapse.frames import orthogonal_frame, simplex_etf
from neuralcollapse.heads import (
    AbstractHead,
    ClassMeanHead,
    CosineHead,
    DeepLinearHead,
    FixedHead,
    LinearHead,
    NearestFrameHead,
    RotatedHead,
)


@dataclass(frozen=True)
class HeadCase:
    """A head for four classes in six dimensions, and its logits for one feature."""

    name: str
    kind: type[AbstractHead]
    make: Callable[[], AbstractHead]
    logit: Callable[[AbstractHead, np.ndarray, int], float]
    learned: bool = True


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(sum(x * y for x, y in zip(a, b, strict=True)))


def _affine_logit(head: AbstractHead, feature: np.ndarray, k: int) -> float:
    shift = 0.0 if head.bias is None else float(head.bias.detach()[k])
    return _dot(head.weight.detach().numpy()[k], feature) + shift


def _cosine_logit(temperature: float) -> Callable[[AbstractHead, np.ndarray, int], float]:
    def logit(head: AbstractHead, feature: np.ndarray, k: int) -> float:
        assert isinstance(head, CosineHead)
        prototype = head.prototypes.detach().numpy()[k]
        lengths = np.sqrt(_dot(prototype, prototype) * _dot(feature, feature))
        return _dot(prototype, feature) / lengths / temperature

    return logit


def _rotated_logit(head: AbstractHead, feature: np.ndarray, k: int) -> float:
    assert isinstance(head, RotatedHead)
    lower = np.tril(head.skew.detach().numpy().astype(np.float64), -1)
    skew, eye = lower - lower.T, np.eye(len(lower))
    turned = (eye - skew) @ np.linalg.inv(eye + skew) @ head.vectors.numpy()[k]
    return _dot(turned, feature) / np.sqrt(_dot(feature, feature)) / head.temperature


def _class_mean_logit(head: AbstractHead, feature: np.ndarray, k: int) -> float:
    assert isinstance(head, ClassMeanHead)
    mean = head.means.numpy()[k]
    lengths = np.sqrt(_dot(mean, mean) * _dot(feature, feature))
    return _dot(mean, feature) / lengths / head.temperature


def _nearest_frame_logit(head: AbstractHead, feature: np.ndarray, k: int) -> float:
    """Cosine with the frame turned to the averages by the orthogonal Procrustes solution."""
    assert isinstance(head, NearestFrameHead)
    root = head.root.numpy().astype(np.float64)
    left, _, right = np.linalg.svd(root.T @ head.means.numpy(), full_matrices=False)
    vector = (root @ left @ right)[k]
    return _dot(vector, feature) / np.sqrt(_dot(feature, feature)) / head.temperature


def _followed() -> NearestFrameHead:
    head = NearestFrameHead(simplex_etf(4, 6), momentum=0.5, temperature=0.5)
    generator = torch.Generator().manual_seed(0)
    head.operands(torch.randn(8, 6, generator=generator), torch.arange(8) % 4)
    return head


def _turned() -> RotatedHead:
    head = RotatedHead(simplex_etf(4, 6), temperature=0.5)
    torch.nn.init.normal_(head.skew)
    return head


def _linear_with_a_bias() -> LinearHead:
    head = LinearHead(4, 6)
    assert head.bias is not None
    torch.nn.init.normal_(head.bias)
    return head


def _deep_linear_with_a_bias() -> DeepLinearHead:
    head = DeepLinearHead(4, 6, depth=3, width=5)
    assert head.bias is not None
    torch.nn.init.normal_(head.bias)
    return head


def _layered_logit(head: AbstractHead, feature: np.ndarray, k: int) -> float:
    """Layer by layer, as the features pass through."""
    assert isinstance(head, DeepLinearHead)
    passing = feature
    for layer in head.layers:
        passing = np.array([_dot(row, passing) for row in layer.detach().numpy()])
    return float(passing[k]) + (0.0 if head.bias is None else float(head.bias.detach()[k]))


HEAD_CASES: tuple[HeadCase, ...] = (
    HeadCase("linear", LinearHead, _linear_with_a_bias, _affine_logit),
    HeadCase("linear, no bias", LinearHead, lambda: LinearHead(4, 6, bias=False), _affine_logit),
    HeadCase("deep linear", DeepLinearHead, _deep_linear_with_a_bias, _layered_logit),
    HeadCase(
        "deep linear, one layer, no bias",
        DeepLinearHead,
        lambda: DeepLinearHead(4, 6, depth=1, bias=False),
        _layered_logit,
    ),
    HeadCase(
        "deep linear, narrow",
        DeepLinearHead,
        lambda: DeepLinearHead(4, 6, depth=2, width=2, init_scale=0.5),
        _layered_logit,
    ),
    HeadCase("cosine", CosineHead, lambda: CosineHead(4, 6), _cosine_logit(0.1)),
    HeadCase(
        "cosine, warm", CosineHead, lambda: CosineHead(4, 6, temperature=2.0), _cosine_logit(2.0)
    ),
    HeadCase("fixed", FixedHead, lambda: FixedHead(simplex_etf(4, 6)), _affine_logit, False),
    HeadCase(
        "fixed, scaled",
        FixedHead,
        lambda: FixedHead(orthogonal_frame(4, 6), scale=3.0),
        _affine_logit,
        False,
    ),
    HeadCase("rotated", RotatedHead, _turned, _rotated_logit),
    HeadCase("class means", ClassMeanHead, lambda: ClassMeanHead(4, 6), _class_mean_logit, False),
    HeadCase(
        "class means, through the batch",
        ClassMeanHead,
        lambda: ClassMeanHead(4, 6, momentum=0.0, through_batch=True, temperature=0.3),
        _class_mean_logit,
        False,
    ),
    HeadCase("nearest frame", NearestFrameHead, _followed, _nearest_frame_logit, learned=False),
)
head_cases = {"argvalues": HEAD_CASES, "ids": [case.name for case in HEAD_CASES]}
