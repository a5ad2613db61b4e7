"""What theory cannot take is refused in one clear sentence."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from neuralcollapse.theory import (
    certificate,
    layer_peeled,
    layer_peeled_collapse_ratio,
    max_weight_decay,
    predict,
    spherical,
    vanishing_decay,
)
from trained import DECAYS

REFUSED: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "no count": ([], {}, ValueError, "counts must name at least two classes, got 0"),
    "one class": ([5], {}, ValueError, "counts must name at least two classes, got 1"),
    "zero": ([5, 0], {}, ValueError, r"counts\[1\] must be at least 1, got 0; leave out classes"),
    "negative": ([5, -3], {}, ValueError, r"counts\[1\] must be at least 1, got -3"),
    "fraction": ([5, 2.5], {}, TypeError, r"counts\[1\] must be an integer, got 2.5"),
    "a number": (5, {}, TypeError, "counts must be a sequence of samples per class, got int"),
    "text": ("5,3", {}, TypeError, "counts must be a sequence of samples per class, got str"),
    "no weight decay": (
        [5, 3],
        {"weight_decay": 0},
        ValueError,
        "weight_decay must be above 0, got 0; without decay there is no finite optimum",
    ),
    "no feature decay": (
        [5, 3],
        {"feature_decay": 0.0},
        ValueError,
        "feature_decay must be above 0, got 0; without decay there is no finite optimum",
    ),
    "negative decay": (
        [5, 3],
        {"weight_decay": -1e-3},
        ValueError,
        "weight_decay must be finite and at least 0, got -0.001",
    ),
    "one decay of zero": (
        [5, 3],
        {"depth": 2, "weight_decay": [1e-3, 0]},
        ValueError,
        r"weight_decay\[1\] must be above 0",
    ),
    "too few decays": (
        [5, 3],
        {"depth": 3, "weight_decay": [1e-3, 1e-3]},
        ValueError,
        r"weight_decay must be one number or one per layer \(depth=3\), got 2",
    ),
    "no layer": ([5, 3], {"depth": 0}, ValueError, "depth must be at least 1, got 0"),
    "unknown loss": ([5, 3], {"loss": "hinge"}, ValueError, "loss must be one of mse, ce,"),
    "unknown bias": ([5, 3], {"bias": "yes"}, ValueError, "bias must be one of none, free, got"),
    "bias of no kind": ([5, 3], {"bias": True}, TypeError, "bias must be 'none', 'free' or its"),
    "negative bias decay": ([5, 3], {"bias": -1.0}, ValueError, "bias must be finite and at least"),
    "deep decayed bias": (
        [5, 3],
        {"bias": 0.1, "depth": 2},
        ValueError,
        "bias must be 'none' or 'free' for squared error with targets or depth above 1",
    ),
    "weights without their loss": (
        [5, 3],
        {"class_weights": [1, 2]},
        ValueError,
        "class_weights must be given for loss weighted_mse and only there, got loss='mse' with",
    ),
    "loss without its weights": (
        [5, 3],
        {"loss": "weighted_mse"},
        ValueError,
        "class_weights must be given for loss weighted_mse.*without class_weights",
    ),
    "loss without its scales": (
        [5, 3],
        {"loss": "cdt"},
        ValueError,
        "class_scales must be given for loss cdt or ldt and only there",
    ),
    "weights of another length": (
        [5, 3],
        {"loss": "weighted_mse", "class_weights": [1, 2, 3]},
        ValueError,
        r"class_weights must have one entry per class \(2\), got 3",
    ),
    "a weight of zero": (
        [5, 3],
        {"loss": "weighted_mse", "class_weights": [1, 0]},
        ValueError,
        r"class_weights\[1\] must be finite and above 0",
    ),
    "targets with cross entropy": (
        [5, 3],
        {"loss": "ce", "targets": torch.ones(2, 2)},
        ValueError,
        "targets must come with loss='mse'",
    ),
    "targets of another shape": (
        [5, 3],
        {"targets": torch.ones(3, 2)},
        ValueError,
        r"targets must have one row per class \(2 rows\), got shape \(3, 2\)",
    ),
    "targets not finite": (
        [5, 3],
        {"targets": torch.tensor([[1.0, math.nan], [0, 1]])},
        ValueError,
        "targets must be finite",
    ),
    "rectified with a bias": (
        [20, 10, 3],
        {"activation": "relu", "bias": "free"},
        ValueError,
        "class means are at right angles, got loss='mse', bias='free' and counts from 3 to 20",
    ),
    "more different counts than fit": (
        list(range(1, 20_002)),
        {"bias": "free"},
        ValueError,
        "counts must have at most 20000 different values with a free bias, got 20001",
    ),
    "rectified and deep": (
        [5, 3],
        {"activation": "relu", "loss": "ce", "depth": 2},
        ValueError,
        "activation='relu' must come with depth 1",
    ),
    "rectified focal": (
        [5, 5],
        {"activation": "relu", "loss": "focal"},
        ValueError,
        "another loss than 'focal'",
    ),
    "imbalanced focal": (
        [5, 3],
        {"loss": "focal"},
        ValueError,
        "counts must be equal for loss='focal', got 3 to 5",
    ),
    "deep smoothing": (
        [5, 5],
        {"loss": "label_smoothing", "depth": 2},
        ValueError,
        "depth must be 1 for loss='label_smoothing', got 2",
    ),
    "all smoothed": (
        [5, 3],
        {"loss": "label_smoothing", "label_smoothing": 1},
        ValueError,
        "label_smoothing must be below 1, got 1",
    ),
    "narrow": (
        [5] * 5,
        {"loss": "ce", "dim": 2},
        ValueError,
        "dim and widths must be at least 4, the rank of the optimum, got 2",
    ),
    "narrow inside": (
        [5] * 5,
        {"loss": "ce", "depth": 2, "widths": [1], "weight_decay": 1e-4, "feature_decay": 1e-4},
        ValueError,
        "dim and widths must be at least 4, the rank of the optimum, got 1",
    ),
    "widths of a single layer": (
        [5, 3],
        {"widths": [8]},
        ValueError,
        "widths must name the 0 widths between the 1 linear layers, got 1",
    ),
    "no width": ([5, 3], {"dim": 0}, ValueError, "dim must be at least 1, got 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence(name: str) -> None:
    counts, options, error, message = REFUSED[name]
    with pytest.raises(error, match=message) as raised:
        predict(counts, **{**DECAYS, **options})
    assert "\n" not in str(raised.value)


def test_bad_input_of_the_others() -> None:
    with pytest.raises(ValueError, match="class_scales must be given for loss cdt or ldt and only"):
        vanishing_decay([5, 3], loss="ldt")
    with pytest.raises(ValueError, match="class_scales must be given for loss cdt or ldt and only"):
        vanishing_decay([5, 3], class_scales=[1, 1])
    with pytest.raises(ValueError, match="counts must be equal for cosines, got 3 to 5"):
        spherical([5, 3], temperature=0.1)
    with pytest.raises(ValueError, match="dim must be at least 2 for 3 classes, got 1"):
        spherical([5] * 3, temperature=0.1, dim=1)
    with pytest.raises(ValueError, match="weight_energy must be finite and above 0"):
        layer_peeled([5, 3], weight_energy=0, feature_energy=1)
    with pytest.raises(ValueError, match="minority_classes must be at least 2, got 1"):
        layer_peeled_collapse_ratio(3, 1, weight_energy=1, feature_energy=1)
    with pytest.raises(ValueError, match="min_logit must be below 1, got 1; with decay"):
        max_weight_decay([5, 3], min_logit=1)
    logits = torch.eye(2)
    with pytest.raises(ValueError, match="logits must have 3 rows"):
        certificate(logits, [5, 3, 2], **DECAYS)
    with pytest.raises(ValueError, match="bias_values must be given exactly if there is a bias"):
        certificate(logits, [5, 3], bias="free", **DECAYS)


def test_counts_may_be_a_tensor_or_whole_floats() -> None:
    expected = predict([9, 5, 2], **DECAYS).objective
    given: list[Any] = [torch.tensor([9, 5, 2]), (9.0, 5.0, 2.0), torch.tensor([9.0, 5.0, 2.0])]
    for counts in given:
        assert predict(counts, **DECAYS).objective == expected
