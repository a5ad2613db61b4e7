"""A prediction is compared with a network: ratios, distances and a verdict for every class."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from neuralcollapse import ClassStatistics, gram_distance, measure_features
from neuralcollapse.theory import Prediction, predict
from reference.theory import realised
from trained import DECAYS, trained


@pytest.mark.parametrize("loss", ["mse", "ce"])
@pytest.mark.parametrize("bias", ["none", "free", 0.1])
def test_what_was_predicted_compares_as_equal(loss: Any, bias: Any) -> None:
    prediction = predict([20, 9, 4, 4], loss=loss, bias=bias, **DECAYS)
    statistics, weight, point = trained(prediction)
    for features in (statistics, statistics.means):
        result = prediction.compare(features, weight, point.bias)
        # Rounding, and for cross entropy what the optimiser leaves.
        for key in ("classifier_norm_ratio", "feature_norm_ratio"):
            assert result[key] == pytest.approx([1] * 4, abs=1e-8)
        for key in ("classifier", "feature"):
            assert result[f"{key}_gram_distance"] < 1e-8
            assert result[f"{key}_gram_error"] < 1e-8
        assert result["product_error"] < 1e-8
        assert result["bias_error"] < 1e-8
        assert result["balance_residual"] < 1e-7
        assert result["cosine"] == pytest.approx(result["predicted_cosine"], abs=1e-8)
        assert result["verdict"] == ["alive"] * 4
    json.dumps(result, allow_nan=False)


def test_a_network_of_the_right_shape_and_the_wrong_scale_does_not_pass() -> None:
    prediction = predict([20, 9, 4, 4], **DECAYS)
    statistics, weight, _ = trained(prediction)
    result = prediction.compare(3 * statistics.means, weight)
    assert result["feature_gram_distance"] < 1e-12
    assert result["feature_gram_error"] == pytest.approx(8, rel=1e-9)
    assert result["feature_norm_ratio"] == pytest.approx([3] * 4, rel=1e-9)
    assert result["product_error"] == pytest.approx(2, rel=1e-9)
    # (9 - 1) / (9 + 1)
    assert result["balance_residual"] == pytest.approx(0.8, rel=1e-9)


def test_verdicts_of_dead_and_living_classes() -> None:
    options: dict[str, Any] = {
        "weight_decay": 0.01,
        "feature_decay": 0.08501145240702057,
        "depth": 2,
    }
    prediction = predict([30, 12, 5, 4, 2], **options)
    point = realised(prediction)
    means = torch.stack([point.features[point.labels == k][0] for k in range(5)])
    weight = point.layers[1] @ point.layers[0]
    assert prediction.compare(means, weight)["verdict"] == [
        *["alive"] * 3,
        "dead by theory (metastable)",
        "dead by theory",
    ]
    means[2] *= 0.01
    weight[2] *= 0.01
    means[4, 0] = 0.2
    assert prediction.compare(means, weight)["verdict"] == [
        *["alive"] * 2,
        "alive by theory, dead in training: initialisation too small",
        "dead by theory (metastable)",
        "dead by theory, alive in training",
    ]


def verdicts_across(apart: Prediction, merged: Prediction) -> Iterator[tuple[list[str], str]]:
    """Each prediction's verdict on a network trained to each, and what rare classes must be."""
    for prediction, measured, rare in (
        (apart, apart, "alive"),
        (merged, merged, "merged by theory"),
        (merged, apart, "merged by theory, apart in training"),
        (apart, merged, "alive by theory, merged in training"),
    ):
        statistics, weight, _ = trained(measured)
        yield prediction.compare(statistics, weight)["verdict"], rare


def test_verdicts_of_merged_classes() -> None:
    apart = predict([20] * 3 + [4] * 3, loss="ce", weight_decay=0.9 / 36, feature_decay=0.9 / 36)
    merged = predict([20] * 3 + [4] * 3, loss="ce", weight_decay=1.2 / 36, feature_decay=1.2 / 36)
    for verdict, rare in verdicts_across(apart, merged):
        assert verdict == ["alive"] * 3 + [rare] * 3


def test_verdicts_of_classes_that_nearly_merge() -> None:
    """Different counts do not merge exactly: all are "alive", but the rarest are as good as one."""
    counts, options = [20, 13, 9, 6, 4, 2], {"loss": "ce"}
    apart = predict(counts, weight_decay=0.02, feature_decay=0.02, **options)  # pyright: ignore
    merged = predict(counts, weight_decay=0.05, feature_decay=0.05, **options)  # pyright: ignore
    assert apart.status == merged.status == ("alive",) * 6
    for verdict, rare in verdicts_across(apart, merged):
        assert verdict[0] == "alive"
        assert verdict[4:] == [rare] * 2
    assert any("nearly merged: the means of classes 3, 4, 5" in text for text in merged.warnings)
    assert not any("nearly merged" in text for text in apart.warnings)


def test_short_vectors_are_not_merged() -> None:
    """Near the threshold the two rare means are close to zero, but at right angles."""
    decay = math.sqrt(4.9999) / 2010
    prediction = predict([1000, 1000, 5, 5], weight_decay=decay, feature_decay=decay)
    assert prediction.threshold == pytest.approx(4.9999)
    statistics, weight, _ = trained(prediction)
    assert prediction.compare(statistics, weight)["verdict"] == ["alive"] * 4
    lengths = prediction.feature_norm_squared.sqrt()
    assert float(lengths[2] / lengths.max()) < 0.1


def test_the_geometry_is_that_of_a_measurement() -> None:
    prediction = predict([20, 9, 4, 4], loss="ce", bias="free", **DECAYS)
    _, weight, point = trained(prediction)
    measured = measure_features(point.features, point.labels, weight=weight).geometry()
    predicted = prediction.geometry
    for name in ("means", "weight", "cross"):
        block, other = getattr(predicted, name), getattr(measured, name)
        torch.testing.assert_close(other.double(), block, rtol=0, atol=1e-7)
    assert float(gram_distance(measured.means, predicted.means)) < 1e-7


def test_comparison_refuses_what_does_not_fit() -> None:
    prediction = predict([6, 6, 6], **DECAYS)
    with pytest.raises(ValueError, match="features must have 3 rows"):
        prediction.compare(torch.ones(4, 5), torch.ones(3, 5))
    with pytest.raises(ValueError, match="weight must have 5 columns"):
        prediction.compare(torch.ones(3, 5), torch.ones(3, 4))
    labels = torch.tensor([0, 0, 1])
    statistics = ClassStatistics.from_features(torch.ones(3, 5), labels, 3)
    with pytest.raises(ValueError, match="samples of all 3 classes of the prediction, got 2 of 3"):
        prediction.compare(statistics, torch.ones(3, 5))
    regression = predict([1] * 3, targets=torch.ones(3, 2), **DECAYS)
    with pytest.raises(ValueError, match="one output per class, got 2 outputs for 3 classes"):
        regression.compare(torch.ones(3, 5), torch.ones(2, 5))
