"""What surrounds a prediction: comparison, JSON, certificates, decays, units, and bad input."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from neuralcollapse import ClassStatistics, gram_distance, measure_features
from neuralcollapse.theory import (
    Prediction,
    balance_residual,
    certificate,
    collapse_threshold,
    effective_feature_decay,
    equalising_class_weights,
    from_training,
    layer_peeled,
    layer_peeled_collapse_ratio,
    max_weight_decay,
    predict,
    spherical,
    vanishing_decay,
)
from reference.theory import Point, cross_entropy, realised, squared_error

DECAYS: dict[str, Any] = {"weight_decay": 0.01, "feature_decay": 0.004}


def trained(prediction: Prediction) -> tuple[ClassStatistics, Tensor, Point]:
    point = realised(prediction)
    classes = prediction.num_classes
    statistics = ClassStatistics.from_features(point.features, point.labels, classes)
    return statistics, point.layers[0], point


# --- comparison -----------------------------------------------------------------------------------


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


# --- units ----------------------------------------------------------------------------------------


def training_objective(point: Point, loss: Any, weight_decay: float, penalty: float) -> Tensor:
    """As a training script would write it, for a full batch."""
    value = loss(point.logits, point.labels)
    value = value + weight_decay / 2 * point.layers[0].square().sum()
    return value + penalty / 2 * point.features.square().sum()


SETTINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "nn.MSELoss": (
        lambda z, y: torch.nn.MSELoss()(z, torch.eye(4).double()[y]),
        {"loss": "mse", "reduction": "mean", "num_classes": 4},
    ),
    "half of nn.MSELoss": (
        lambda z, y: 0.5 * torch.nn.MSELoss()(z, torch.eye(4).double()[y]),
        {"loss": "mse", "reduction": "mean", "num_classes": 4, "loss_scale": 0.5},
    ),
    "nn.MSELoss, sum": (
        lambda z, y: torch.nn.MSELoss(reduction="sum")(z, torch.eye(4).double()[y]),
        {"loss": "mse", "reduction": "sum"},
    ),
    "sum over outputs": (
        lambda z, y: (z - torch.eye(4).double()[y]).square().sum(1).mean(),
        {"loss": "mse", "reduction": "sample"},
    ),
    "nn.CrossEntropyLoss": (
        lambda z, y: torch.nn.CrossEntropyLoss()(z, y),
        {"loss": "ce", "reduction": "mean"},
    ),
    "nn.CrossEntropyLoss, sum": (
        lambda z, y: torch.nn.CrossEntropyLoss(reduction="sum")(z, y),
        {"loss": "ce", "reduction": "sum"},
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_training_script_is_stationary_where_the_theory_says(name: str) -> None:
    loss, options = SETTINGS[name]
    counts = [20, 9, 4, 4]
    scale = 37.0 if options["reduction"] == "sum" else 1.0
    weight_decay, penalty = 0.004 * scale, 0.002 * scale
    decays = from_training(
        weight_decay=weight_decay,
        feature_decay=penalty,
        batch_size=37,
        num_samples=37,
        **options,
    )
    prediction = predict(
        counts,
        loss=options["loss"],
        weight_decay=decays.weight_decay,
        feature_decay=decays.feature_decay,
    )
    assert prediction.rank == (4 if options["loss"] == "mse" else 3)
    point = realised(prediction)
    variables = [point.layers[0].requires_grad_(), point.features.requires_grad_()]
    objective = training_objective(point, loss, weight_decay, penalty)
    for gradient in torch.autograd.grad(objective, variables):
        assert float(gradient.norm()) < 1e-7 * scale


def test_penalties_on_batches() -> None:
    common: dict[str, Any] = {
        "weight_decay": 1e-4,
        "feature_decay": 1e-3,
        "batch_size": 50,
        "num_samples": 1000,
    }
    summed = from_training("ce", **common)
    assert summed.feature_decay == pytest.approx(1e-3 * 50 / 1000)
    mean = from_training("ce", feature_reduction="batch_mean", **common)
    assert mean.feature_decay == pytest.approx(1e-3 / 1000)
    whole = from_training("ce", feature_reduction="training_set", **common)
    assert whole.feature_decay == 1e-3
    assert whole.weight_decay == (1e-4,)
    deep = from_training("ce", depth=3, **common)
    assert deep.weight_decay == (1e-4,) * 3
    # Under a loss summed over the batch everything is relative to that sum.
    total = from_training("ce", reduction="sum", **common)
    assert total.feature_decay == pytest.approx(1e-3 / 1000)
    assert not total.warnings


def test_where_the_units_do_not_apply() -> None:
    common: dict[str, Any] = {
        "weight_decay": 1e-3,
        "feature_decay": 1e-3,
        "batch_size": 50,
        "num_samples": 1000,
    }
    (warning,) = from_training("ce", optimizer="AdamW", **common).warnings
    assert "heuristic" in warning
    with pytest.raises(ValueError, match=r"normalization must be 'none'.*fixes the length"):
        from_training("ce", normalization="batch", **common)
    with pytest.raises(ValueError, match=r"feature_decay must be above 0, got None.*effective_f"):
        from_training("ce", weight_decay=1e-3)
    with pytest.raises(ValueError, match="num_classes must be given for the mean over all entries"):
        from_training("mse", **common)
    with pytest.raises(ValueError, match="num_samples must be given"):
        from_training("ce", weight_decay=1e-3, feature_decay=1e-3)
    with pytest.raises(ValueError, match="batch_size must be at most num_samples"):
        from_training("ce", **{**common, "num_samples": 20})
    with pytest.raises(ValueError, match="weight_decay must be above 0, got 0"):
        from_training("ce", feature_decay=1e-3)
    with pytest.raises(ValueError, match="optimizer must be one of"):
        from_training("ce", optimizer="lion", **common)


# --- bad input ------------------------------------------------------------------------------------

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
