"""Predictions of the squared error are stationary, at every width, on both sides of thresholds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from class_counts import BALANCED, DYING, LONG_TAIL, close
from neuralcollapse.geometry import simplex_gram
from neuralcollapse.theory import Prediction, predict
from neuralcollapse.theory.modes import share_at_jump
from reference.theory import departure, squared_error, to_targets, weighted


def decays(depth: int, weight_decay: float) -> list[float]:
    """One per layer, all different."""
    return [weight_decay * (1 + 0.3 * j) for j in range(depth)]


# --- stationarity, whatever the tables say --------------------------------------------------------


COUNTS = [BALANCED, LONG_TAIL, DYING, [9, 9, 4, 4, 4, 1]]


@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize("depth", [1, 2, 3, 6])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_the_gradient_vanishes(counts: list[int], depth: int, bias: Any) -> None:
    for weight_decay, feature_decay in ((0.01, 0.004), (0.002, 0.03), (0.03, 0.03), (0.1, 0.1)):
        each = decays(depth, weight_decay)
        prediction = predict(
            counts, depth=depth, bias=bias, weight_decay=each, feature_decay=feature_decay
        )
        difference, gradient = departure(prediction, squared_error, each, feature_decay, bias)
        # Rounding of the Gram matrices, whose roots are taken to rebuild the layers.
        assert difference < 1e-12
        assert gradient < 1e-9


@pytest.mark.parametrize("bias", ["none", "free", 0.05, 1.3])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_the_gradient_vanishes_with_weights_and_decayed_bias(counts: list[int], bias: Any) -> None:
    weights = [1 + 0.5 * k for k in range(len(counts))]
    for weight_decay, feature_decay in ((0.01, 0.004), (0.06, 0.06)):
        options: dict[str, Any] = {
            "weight_decay": weight_decay,
            "feature_decay": feature_decay,
            "bias": bias,
        }
        plain = predict(counts, **options)
        weighed = predict(counts, loss="weighted_mse", class_weights=weights, **options)
        for prediction, losses in ((plain, squared_error), (weighed, weighted(weights))):
            arguments = ([weight_decay], feature_decay, bias)
            difference, gradient = departure(prediction, losses, *arguments)
            assert difference < 1e-12
            assert gradient < 1e-9
            if prediction.kind == "numeric":
                assert prediction.certificate is not None
                assert prediction.certificate < 1e-8


@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_targets_of_any_kind(depth: int, bias: Any, generator: torch.Generator) -> None:
    targets = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    counts = [3, 1, 4, 1, 5, 9, 2]
    for weight_decay in (0.01, 0.1):
        each = decays(depth, weight_decay)
        prediction = predict(
            counts,
            depth=depth,
            bias=bias,
            targets=targets,
            weight_decay=each,
            feature_decay=0.02,
        )
        losses = to_targets(targets)
        difference, gradient = departure(prediction, losses, each, 0.02, bias)
        assert difference < 1e-12
        assert gradient < 1e-9


@pytest.mark.parametrize("bias", ["none", "free"])
def test_one_hot_targets_are_no_special_case(bias: Any) -> None:
    options: dict[str, Any] = {
        "depth": 2,
        "weight_decay": 0.02,
        "feature_decay": 0.03,
        "bias": bias,
    }
    plain = predict(DYING, **options)
    given_targets = predict(DYING, targets=torch.eye(5), **options)
    for name in ("gram_classifier", "gram_features", "logits", "bias"):
        close(getattr(given_targets, name), getattr(plain, name), 1e-12)
    close(given_targets.objective, plain.objective, 1e-14)


# --- low width ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_low_width_is_stationary_and_of_that_rank(dim: int, depth: int, bias: Any) -> None:
    for counts in COUNTS:
        prediction = predict(
            counts, depth=depth, bias=bias, weight_decay=0.005, feature_decay=0.005, dim=dim
        )
        assert prediction.rank <= dim
        arguments = ([0.005] * depth, 0.005, bias)
        difference, gradient = departure(prediction, squared_error, *arguments)
        assert difference < 1e-12
        assert gradient < 1e-9


def test_the_most_frequent_classes_survive_a_low_width() -> None:
    options: dict[str, Any] = {"depth": 2, "weight_decay": 0.001, "feature_decay": 0.001}
    prediction = predict([5, 20, 3, 10], dim=9, widths=[2], **options)
    assert prediction.status == ("collapsed", "alive", "collapsed", "alive")
    assert not any("not unique" in text for text in prediction.warnings)
    wide = predict([5, 20, 3, 10], **options)
    close(prediction.logit[[1, 3]], wide.logit[[1, 3]])
    tied = predict([5, 5, 20], dim=2, weight_decay=0.001, feature_decay=0.001)
    assert any("not unique" in text for text in tied.warnings)
    assert tied.status == ("alive", "collapsed", "alive")


# --- regimes --------------------------------------------------------------------------------------


def test_statuses_on_both_sides_of_each_threshold() -> None:
    options: dict[str, Any] = {
        "weight_decay": 0.01,
        "feature_decay": 0.08501145240702057,
        "depth": 2,
    }
    prediction = predict(DYING, **options)  # threshold 4.5, spinodal 3.46
    assert prediction.status == ("alive", "alive", "alive", "metastable", "collapsed")
    assert prediction.kind == "general orthogonal frame"
    assert any(text.startswith("metastable: 1 of 5 modes") for text in prediction.warnings)
    shallow = predict(DYING, weight_decay=0.02, feature_decay=0.0800996796012816)
    assert shallow.status == ("alive", "alive", "alive", "collapsed", "collapsed")
    assert shallow.spinodal == shallow.threshold


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_a_class_dies_at_the_threshold(depth: int) -> None:
    counts = [40, 20, 10]
    base = predict(counts, depth=depth, weight_decay=0.01, feature_decay=0.01).threshold
    assert base is not None
    for factor, alive in ((1.001, True), (0.999, False)):
        # The threshold grows with the feature decay to the power 1 / M.
        feature_decay = 0.01 * (10 / (base * factor)) ** depth
        prediction = predict(counts, depth=depth, weight_decay=0.01, feature_decay=feature_decay)
        assert prediction.threshold == pytest.approx(10 / factor, rel=1e-12)
        assert (prediction.status[2] == "alive") == alive
        assert (float(prediction.logit[2]) > 0) == alive
        if alive and depth > 1:
            assert float(prediction.logit[2]) > share_at_jump(depth)


def test_classes_that_merge_under_a_free_bias() -> None:
    """Contrasts within a group of equal counts die alone: its classes coincide."""
    counts = [30, 30, 4, 4, 4]
    options: dict[str, Any] = {"bias": "free", "weight_decay": 0.01}
    base = predict(counts, feature_decay=0.01, **options).threshold
    assert base is not None
    for factor, merged in ((0.99, True), (1.01, False)):
        prediction = predict(counts, feature_decay=0.01 * 4 / (base * factor), **options)
        assert prediction.status[:2] == ("alive", "alive")
        assert (prediction.status[2] == "merged with 3, 4") == merged
        assert (prediction.rank == 2) == merged
    deep = predict(counts, depth=2, feature_decay=0.034, **options)
    assert deep.threshold is not None
    assert deep.spinodal is not None
    assert deep.spinodal < 4 < deep.threshold
    assert deep.status[2:] == ("metastable",) * 3
    assert any(text.startswith("metastable: 2 of 4 modes") for text in deep.warnings)


def test_exactly_at_the_threshold_it_is_said_that_it_is_not_unique() -> None:
    # 4 N sqrt(N product) = 4 samples, for N = 16.
    product = 2.0**-12
    prediction = predict([12, 4], depth=2, weight_decay=1.0, feature_decay=product)
    assert prediction.threshold == pytest.approx(4, rel=1e-14)
    assert any("not unique" in text for text in prediction.warnings)


def test_features_are_longest_at_four_times_the_threshold() -> None:
    counts = list(range(1, 400))
    total = sum(counts)
    prediction = predict(counts, weight_decay=0.01, feature_decay=20 / (0.01 * total**2))
    close(prediction.threshold or 0.0, 20.0)
    assert counts[int(prediction.feature_norm_squared.argmax())] == 80
    alive = prediction.classifier_norm_squared[20:]
    assert bool((alive.diff() > 0).all())


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_power_laws_at_weak_decay(depth: int) -> None:
    prediction = predict([1000, 10], depth=depth, weight_decay=1e-13, feature_decay=1e-13)
    power = depth / (depth + 1)
    for norms, sign in (
        (prediction.classifier_norm_squared, 1),
        (prediction.feature_norm_squared, -1),
    ):
        exponent = math.log(float(norms[0] / norms[1])) / math.log(100)
        assert exponent == pytest.approx(sign * power, abs=1e-3)


@pytest.mark.parametrize("bias", ["none", "free", 0.1])
def test_total_collapse(bias: Any) -> None:
    prediction = predict([5, 5, 5], bias=bias, weight_decay=1, feature_decay=1)
    assert prediction.rank == 0
    assert prediction.status == ("collapsed",) * 3
    assert not prediction.gram_classifier.any()
    assert not prediction.gram_features.any()


# --- laws -----------------------------------------------------------------------------------------


def options_for(bias: Any, depth: int) -> dict[str, Any]:
    return {"bias": bias, "depth": depth, "weight_decay": 0.012, "feature_decay": 0.007}


@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=7),
    depth=st.integers(1, 4),
    bias=st.sampled_from(["none", "free"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40)
def test_the_order_of_classes_does_not_matter(
    counts: list[int], depth: int, bias: Any, seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(len(counts))
    prediction = predict(counts, **options_for(bias, depth))
    permuted = predict([counts[k] for k in order], **options_for(bias, depth))
    assert permuted.objective == pytest.approx(prediction.objective, rel=1e-12)
    assert permuted.rank == prediction.rank
    for name in ("gram_classifier", "gram_features", "logits"):
        matrix = getattr(prediction, name)[order][:, order]
        close(getattr(permuted, name), matrix, 1e-10 * max(1.0, float(matrix.abs().max())))


@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=6),
    factor=st.integers(2, 20),
    depth=st.integers(1, 4),
    bias=st.sampled_from(["none", "free"]),
)
@settings(max_examples=40)
def test_more_of_the_same_samples_with_less_decay_each(
    counts: list[int], factor: int, depth: int, bias: Any
) -> None:
    options = options_for(bias, depth)
    prediction = predict(counts, **options)
    options["feature_decay"] /= factor
    scaled = predict([factor * count for count in counts], **options)
    assert scaled.objective == pytest.approx(prediction.objective, rel=1e-12)
    for name in ("gram_classifier", "gram_features", "logits"):
        matrix = getattr(prediction, name)
        close(getattr(scaled, name), matrix, 1e-10 * max(1.0, float(matrix.abs().max())))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_balanced_limits(depth: int) -> None:
    options: dict[str, Any] = {"depth": depth, "weight_decay": 0.002, "feature_decay": 0.003}
    frame = predict([50] * 5, **options)
    simplex = predict([50] * 5, bias="free", **options)
    assert (frame.kind, simplex.kind) == ("orthogonal frame", "simplex ETF")
    size = float(frame.gram_classifier[0, 0])
    close(frame.gram_classifier, size * torch.eye(5).double(), 1e-12)
    close(simplex.gram_classifier, size * simplex_gram(5), 1e-12)
    close(simplex.bias, 0.2)
    # Counts that differ by a thousandth give a geometry that differs as little.
    near = predict([50_000] * 4 + [50_050], depth=depth, weight_decay=0.002, feature_decay=3e-6)
    close(near.gram_classifier, frame.gram_classifier, 2e-3 * size)
    near = predict(
        [50_000] * 4 + [50_050], bias="free", depth=depth, weight_decay=0.002, feature_decay=3e-6
    )
    close(near.gram_classifier, simplex.gram_classifier, 2e-3 * size)


def test_a_decayed_bias_lies_between_none_and_free() -> None:
    options: dict[str, Any] = {"weight_decay": 0.01, "feature_decay": 0.004}
    for counts in (BALANCED, LONG_TAIL):
        none = predict(counts, **options)
        free = predict(counts, bias="free", **options)
        strong = predict(counts, bias=1e7, **options)
        weak = predict(counts, bias=1e-9, **options)
        close(strong.gram_classifier, none.gram_classifier, 1e-5)
        close(weak.gram_classifier, free.gram_classifier, 1e-5)
        between = predict(counts, bias=0.3, **options)
        assert free.objective < between.objective < none.objective


def test_features_that_cannot_be_negative_change_nothing_without_bias() -> None:
    options: dict[str, Any] = {"depth": 3, "weight_decay": 0.002, "feature_decay": 0.003}
    plain, rectified = predict(DYING, **options), predict(DYING, activation="relu", **options)
    assert torch.equal(plain.gram_features, rectified.gram_features)
    assert plain.objective == rectified.objective


def test_confidence_is_the_softmax_of_the_logits() -> None:
    for bias in ("none", "free", 0.2):
        prediction = predict([9, 9, 4, 4, 1], bias=bias, weight_decay=0.01, feature_decay=0.01)
        expected = prediction.logits.softmax(1).diagonal()
        close(prediction.confidence, expected, 1e-12)
        close(prediction.logit, prediction.logits.diagonal(), 1e-12)


def test_a_million_classes_need_no_square_matrix() -> None:
    counts = np.repeat([1000, 300, 20], [1000, 99_000, 900_000]).tolist()
    for bias in ("none", "free"):
        prediction: Prediction = predict(
            counts, depth=2, bias=bias, weight_decay=1e-9, feature_decay=1e-9
        )
        assert len(prediction.logit) == 1_000_000
        assert prediction.rank == 1_000_000 - (bias == "free")
        with pytest.raises(ValueError, match="too large, 7451 GiB; use classifier_matrix"):
            _ = prediction.gram_features


@pytest.mark.parametrize("bias", ["none", "free"])
def test_a_thousand_different_counts(bias: Any) -> None:
    """Deep enough that some die; how long it takes is for `benchmarks/theory.py`."""
    counts = np.random.default_rng(0).permutation(np.arange(50, 6000))[:1000].tolist()
    prediction = predict(counts, bias=bias, depth=6, weight_decay=5e-5, feature_decay=1e-7)
    assert 700 < prediction.rank < 1000
    expected = prediction.logits.softmax(1).diagonal()
    close(prediction.confidence, expected, 1e-12)
