"""What surrounds a prediction: JSON, certificates, a descent, balance, choosing decays."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from neuralcollapse import ClassStatistics
from neuralcollapse.theory import (
    Prediction,
    balance_residual,
    collapse_threshold,
    effective_feature_decay,
    equalising_class_weights,
    layer_peeled,
    max_weight_decay,
    predict,
    spherical,
    vanishing_decay,
)
from reference.theory import cross_entropy, realised, squared_error
from trained import DECAYS, trained

# --- plain values ---------------------------------------------------------------------------------


PROMISED = (
    "kind regime objective threshold spinodal rank status classifier_norm_squared "
    "feature_norm_squared logit bias gram_classifier gram_features certificate warnings layers"
)


@pytest.mark.parametrize(
    "prediction",
    [
        predict([9, 5, 1], bias="free", depth=2, **DECAYS),
        predict([9, 5, 1], loss="ce", **DECAYS),
        predict([3] * 4, loss="ce", depth=2, weight_decay=1e-3, feature_decay=1e-3),
        predict([1] * 3, targets=torch.ones(3, 2), **DECAYS),
        vanishing_decay([9, 5, 1]),
        spherical([5] * 3, temperature=0.1),
        layer_peeled([9, 5], weight_energy=1, feature_energy=1),
    ],
    ids=lambda prediction: prediction.kind,
)
def test_plain_values_are_json_and_complete(prediction: Prediction) -> None:
    values = prediction.to_dict()
    assert {*PROMISED.split()} <= {*values}
    read = json.loads(json.dumps(values, allow_nan=False))
    assert read["objective"] == prediction.objective
    assert read["status"] == list(prediction.status)
    assert len(read["layers"]) == prediction.depth
    assert all(len(layer) == prediction.rank for layer in read["layers"])
    gram = torch.tensor(read["gram_features"], dtype=torch.float64)
    torch.testing.assert_close(gram.diagonal(), prediction.feature_norm_squared)
    # A table for people names every class.
    lines = str(prediction).splitlines()
    assert lines[0] == f"{prediction.kind}: {prediction.regime}"
    assert len(lines) >= 3 + prediction.num_classes
    assert all(f"warning: {text}" in lines for text in prediction.warnings)


def test_long_tables_are_cut() -> None:
    text = str(predict([5] * 100, **DECAYS))
    assert "... and 60 classes more" in text
    assert len(text.splitlines()) < 50


def test_one_sample_of_a_class_is_said() -> None:
    assert not predict([9, 5, 2], **DECAYS).warnings
    (warning,) = predict([9, 5, 1], **DECAYS).warnings
    assert warning.startswith("class 2 has one sample")
    (warning,) = predict([1, 5, 1], **DECAYS).warnings
    assert warning.startswith("2 classes have one sample")


# --- a descent from the prediction stays ----------------------------------------------------------


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_gradient_descent_from_the_prediction_stays_there(loss: Any) -> None:
    prediction = predict([9, 5, 2], loss=loss, **DECAYS)
    point = realised(prediction)
    losses = {"mse": squared_error, "ce": cross_entropy}[loss]
    start = point.features.clone()
    for _ in range(200):
        by_weight, by_features = point.gradients(losses, [0.01], 0.004, free_bias=False)
        point.layers[0] = point.layers[0] - 0.5 * by_weight
        point.features = point.features - 0.5 * by_features
    assert float((point.features - start).norm()) < 1e-7


# --- balance and effective decay ------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["mse", "ce"])
@pytest.mark.parametrize("bias", ["none", "free"])
def test_balance_holds_at_the_optimum_and_breaks_off_it(
    loss: Any, bias: Any, generator: torch.Generator
) -> None:
    prediction = predict([20, 9, 4, 4], loss=loss, bias=bias, **DECAYS)
    statistics, weight, point = trained(prediction)
    for features in (point.features, statistics):
        assert float(balance_residual(weight, features, **DECAYS)) < 1e-7
        found = effective_feature_decay(weight, features, weight_decay=0.01)
        assert found == pytest.approx(0.004, rel=1e-7)
    width = weight.shape[1]
    random = torch.randn(width, width, generator=generator, dtype=torch.float64)
    turned = weight @ torch.linalg.qr(random).Q
    assert float(balance_residual(turned, point.features, **DECAYS)) > 1e-2
    noisy = point.features + 0.1 * torch.randn(
        point.features.shape, generator=generator, dtype=torch.float64
    )
    assert float(balance_residual(weight, noisy, **DECAYS)) > 1e-2
    noisy_statistics = ClassStatistics.from_features(noisy, point.labels, 4)
    torch.testing.assert_close(
        balance_residual(weight, noisy_statistics, **DECAYS),
        balance_residual(weight, noisy, **DECAYS),
    )


def test_balance_of_the_first_layer_of_a_deep_head() -> None:
    decays = [0.004, 0.006, 0.005]
    point = realised(predict([20, 10, 5, 3], depth=3, weight_decay=decays, feature_decay=0.002))
    residual = balance_residual(
        point.layers[0], point.features, weight_decay=decays[0], feature_decay=0.002
    )
    assert float(residual) < 1e-8


def test_balance_refuses_what_it_cannot_use() -> None:
    weight, features = torch.ones(2, 3), torch.ones(5, 3)
    with pytest.raises(ValueError, match="weight must have 3 columns"):
        balance_residual(torch.ones(2, 4), features, **DECAYS)
    with pytest.raises(ValueError, match="weight_decay must be above 0"):
        balance_residual(weight, features, weight_decay=0, feature_decay=1)
    statistics = ClassStatistics.from_features(
        features, torch.zeros(5, dtype=torch.long), 1, scatter=False
    )
    with pytest.raises(ValueError, match="features must hold their scatter"):
        balance_residual(weight, statistics, **DECAYS)
    with pytest.raises(ValueError, match="features must not all be zero"):
        effective_feature_decay(weight, 0 * features, weight_decay=1)


# --- choosing decays ------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
@pytest.mark.parametrize("min_logit", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("feature_decay", [None, 1e-4])
def test_the_largest_decay_is_just_small_enough(
    depth: int, min_logit: float, feature_decay: float | None
) -> None:
    counts = [200, 100, 50, 50]
    decay = max_weight_decay(counts, depth, min_logit, feature_decay=feature_decay)

    def least(factor: float) -> float:
        prediction = predict(
            counts,
            depth=depth,
            weight_decay=factor * decay,
            feature_decay=feature_decay or factor * decay,
        )
        return float(prediction.logit.min())

    assert least(1 - 1e-6) >= min_logit - 1e-12
    assert least(1 + 1e-6) < min_logit
    if min_logit > (depth - 1) / depth:
        assert least(1 - 1e-6) == pytest.approx(min_logit, abs=1e-4)


@pytest.mark.parametrize("depth", [1, 3])
def test_thresholds_are_those_of_the_predictions(depth: int) -> None:
    options: dict[str, Any] = {"weight_decay": 0.01, "feature_decay": 0.02, "depth": depth}
    assert collapse_threshold([9, 5, 2], **options) == pytest.approx(
        predict([9, 5, 2], **options).threshold
    )
    options["depth"] = 1
    for activation in ("linear", "relu"):
        found = collapse_threshold([9, 5, 2], loss="ce", activation=activation, **options)
        expected = predict([9, 5, 2], loss="ce", activation=activation, **options).threshold
        assert found == pytest.approx(expected)
    with pytest.raises(ValueError, match="depth must be 1 for loss='ce', got 2"):
        collapse_threshold([9, 5], weight_decay=1, feature_decay=1, loss="ce", depth=2)


def test_weights_that_treat_classes_alike() -> None:
    counts = [200, 90, 20, 3]
    weights = equalising_class_weights(counts)
    prediction = predict(counts, loss="weighted_mse", class_weights=weights, **DECAYS)
    torch.testing.assert_close(prediction.logit, prediction.logit[:1].expand(4))
    assert float(prediction.logit[0]) > 0
    assert float(weights @ torch.tensor(counts).double()) == pytest.approx(sum(counts))
    # Inverse counts over-correct: the frequent classes are the first to die.
    inverse = [sum(counts) / (4 * count) for count in counts]
    strong = predict(
        counts, loss="weighted_mse", class_weights=inverse, weight_decay=0.02, feature_decay=0.02
    )
    assert strong.status == ("collapsed", "alive", "alive", "alive")
