"""Cross entropy and its relatives: exact numbers, certificates, stationarity, thresholds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuralcollapse.geometry import gram_distance, simplex_gram
from neuralcollapse.theory import (
    certificate,
    layer_peeled,
    layer_peeled_collapse_ratio,
    predict,
    spherical,
    vanishing_decay,
)
from reference.theory import (
    cross_entropy,
    departure,
    focal,
    realised,
    scaled_by_label,
    scaled_by_output,
    smoothed,
)

DIGITS = 1e-8
# What the certificate must reach.
PROVED = 1e-8


def close(values: Tensor | float, expected: Any, tolerance: float = DIGITS) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    values = torch.as_tensor(values, dtype=torch.float64)
    torch.testing.assert_close(values, expected.expand_as(values), rtol=0, atol=tolerance)


# --- balanced: the scale of the simplex -----------------------------------------------------------

BALANCED: dict[str, tuple[dict[str, Any], float]] = {
    "ce": ({"loss": "ce"}, 4.11984534306),
    "smoothed": ({"loss": "label_smoothing", "label_smoothing": 0.1}, 3.07714067544),
    "smoothed more": ({"loss": "label_smoothing", "label_smoothing": 0.3}, 2.08576013095),
    "focal": ({"loss": "focal", "focal_power": 1}, 2.78939155),
    "focal 2": ({"loss": "focal", "focal_power": 2}, 2.15675286),
    "focal 0": ({"loss": "focal", "focal_power": 0}, 4.11984534306),
    "smoothed 0": ({"loss": "label_smoothing", "label_smoothing": 0}, 4.11984534306),
}


@pytest.mark.parametrize("name", BALANCED)
def test_scale_of_the_simplex(name: str) -> None:
    options, scale = BALANCED[name]
    prediction = predict([6] * 4, weight_decay=0.01, feature_decay=0.004, **options)
    close(prediction.logits, scale * simplex_gram(4))
    assert prediction.kind == "simplex ETF"
    assert prediction.rank == 3
    if prediction.loss != "focal":
        assert prediction.certificate is not None
        assert prediction.certificate < PROVED


def test_norms_and_objective_of_balanced_cross_entropy() -> None:
    prediction = predict([6] * 4, loss="ce", weight_decay=0.01, feature_decay=0.004)
    close(prediction.classifier_norm_squared, 4.78682772079)
    close(prediction.feature_norm_squared, 1.99451155033)
    close(prediction.objective, 0.239063583079)
    close(prediction.confidence, prediction.logits.softmax(1).diagonal(), 1e-12)


@pytest.mark.parametrize("loss", ["ce", "label_smoothing", "focal"])
def test_balanced_thresholds(loss: Any) -> None:
    """K^2 n weight_decay feature_decay < 1, or its like, on both sides."""
    base = predict([6] * 4, loss=loss, weight_decay=0.01, feature_decay=0.01)
    assert base.threshold is not None
    for factor, alive in ((1.001, True), (0.999, False)):
        # The threshold grows with the product of the decays.
        decay = 0.01 * math.sqrt(6 / (base.threshold * factor))
        prediction = predict([6] * 4, loss=loss, weight_decay=decay, feature_decay=decay)
        assert prediction.threshold == pytest.approx(6 / factor, rel=1e-6)
        assert (prediction.rank > 0) == alive
        assert (prediction.status[0] == "alive") == alive
    assert base.spinodal is not None
    assert base.spinodal <= base.threshold


def test_smoothing_never_overshoots_and_the_scale_matches_a_grid() -> None:
    price = 3 * math.sqrt(6 * 0.01 * 0.004)
    margins = torch.linspace(0, 12, 120_001, dtype=torch.float64)
    logits = margins[:, None] * simplex_gram(4)[0]
    zeros = torch.zeros(len(margins), dtype=torch.long)
    cases: tuple[tuple[Any, dict[str, Any]], ...] = (
        (cross_entropy, {"loss": "ce"}),
        (smoothed(0.2), {"loss": "label_smoothing", "label_smoothing": 0.2}),
        (focal(3.0), {"loss": "focal", "focal_power": 3}),
    )
    for losses, options in cases:
        best = margins[(losses(logits, zeros) + price * margins).argmin()]
        prediction = predict([6] * 4, weight_decay=0.01, feature_decay=0.004, **options)
        margin = prediction.logits[0, 0] - prediction.logits[0, 1]
        assert float(margin) == pytest.approx(float(best), abs=1e-4)


# --- imbalanced: the convex program ---------------------------------------------------------------


@pytest.mark.parametrize(
    "factor, objective, own, other",
    [
        (0.3, 0.607454043895, (3.04754098, 2.33290162), (-0.657495574, -0.456519987)),
        (0.9, 1.288641945966, (1.87801672, 0.602026546), None),
        (1.2, 1.490335855768, (1.47072402, 0.14743997), None),
    ],
)
def test_two_clusters(factor: float, objective: float, own: Any, other: Any) -> None:
    decay = factor / 36
    prediction = predict([20] * 3 + [4] * 3, loss="ce", weight_decay=decay, feature_decay=decay)
    close(prediction.objective, objective, 1e-11)
    close(prediction.logit, [own[0]] * 3 + [own[1]] * 3, 1e-7)
    if other is not None:
        close(prediction.logits[3, 0], other[0], 1e-7)  # the frequent class's output, a rare sample
        close(prediction.logits[0, 3], other[1], 1e-7)
    assert prediction.certificate is not None
    assert prediction.certificate < PROVED
    merged = factor > 1
    assert (prediction.status[3] == "merged with 4, 5") == merged
    assert prediction.status[0] == "alive"
    if merged:
        close(prediction.logits[3:, 3:], 0.14743997, 1e-7)
        assert "minority collapse" in prediction.regime


@pytest.mark.parametrize("bias", ["none", "free", 0.1])
def test_minority_collapse_on_both_sides(bias: Any) -> None:
    for factor, merged in ((0.999, False), (1.001, True)):
        decay = factor / 36
        prediction = predict(
            [20] * 3 + [4] * 3, loss="ce", bias=bias, weight_decay=decay, feature_decay=decay
        )
        assert prediction.threshold == pytest.approx(4 * factor**2, rel=1e-12)
        assert prediction.status[3].startswith("merged") == merged
        rows = prediction.gram_features[3:, 3:]
        distance = float(rows[0, 0] - rows[0, 1])
        assert (distance == 0) == merged


def test_the_rank_falls_one_by_one_with_distinct_counts() -> None:
    ranks = []
    for decay in (0.02, 0.03, 0.035, 0.04, 0.05, 0.06, 0.08):
        prediction = predict(
            [20, 13, 9, 6, 4, 2], loss="ce", weight_decay=decay, feature_decay=decay
        )
        ranks.append(prediction.rank)
        assert prediction.certificate is not None
        assert prediction.certificate < PROVED
    assert ranks == [5, 4, 4, 3, 3, 2, 0]


@pytest.mark.parametrize("bias", ["none", "free"])
def test_total_collapse_on_both_sides(bias: Any) -> None:
    """At a price of |(J / K - I) D^(1/2)| / N; with a free bias, n 1^T / N in place of J / K."""
    counts = np.array([20.0, 10, 4, 4])
    mean = np.full((4, 4), 0.25) if bias == "none" else np.outer(counts, np.ones(4)) / 38
    edge = float(np.linalg.norm((mean - np.eye(4)) * np.sqrt(counts), 2)) / 38
    for factor, dead in ((0.99, False), (1.01, True)):
        decay = factor * edge
        prediction = predict(
            [20, 10, 4, 4], loss="ce", bias=bias, weight_decay=decay, feature_decay=decay
        )
        assert (prediction.rank == 0) == dead
        if dead:
            priors = torch.tensor(counts / 38) if bias == "free" else torch.full((4,), 0.25)
            close(prediction.confidence, priors, 1e-7)
            assert prediction.status == ("collapsed",) * 4


SCALES = [1 + 0.2 * k for k in range(6)]
LOSSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ce": (cross_entropy, {"loss": "ce"}),
    "smoothed": (smoothed(0.1), {"loss": "label_smoothing"}),
    "cdt": (scaled_by_output(SCALES), {"loss": "cdt", "class_scales": SCALES}),
    "ldt": (scaled_by_label(SCALES), {"loss": "ldt", "class_scales": SCALES}),
}


@pytest.mark.parametrize("bias", ["none", "free", 0.05, 1.3])
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_vanishes(name: str, bias: Any) -> None:
    losses, options = LOSSES[name]
    for counts in ([6] * 6, [9, 9, 4, 4, 4, 1], [40, 23, 11, 5, 3, 2]):
        for weight_decay, feature_decay in ((0.01, 0.004), (0.002, 0.03), (0.06, 0.06)):
            decays: dict[str, Any] = {"weight_decay": weight_decay, "feature_decay": feature_decay}
            prediction = predict(counts, bias=bias, **decays, **options)
            arguments = ([weight_decay], feature_decay, bias)
            difference, gradient = departure(prediction, losses, *arguments)
            # The optimiser leaves less than this; rounding of the Gram matrices comes on top.
            assert difference < 1e-10
            assert gradient < 1e-8
            assert prediction.certificate is not None
            assert prediction.certificate < PROVED


@pytest.mark.parametrize("power", [0.5, 1, 2, 5])
def test_the_gradient_vanishes_for_the_focal_loss(power: float) -> None:
    prediction = predict(
        [6] * 5, loss="focal", focal_power=power, weight_decay=0.004, feature_decay=0.01
    )
    difference, gradient = departure(prediction, focal(power), [0.004], 0.01, "none")
    assert difference < 1e-12
    assert gradient < 1e-9


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_classes_does_not_matter(name: str) -> None:
    _, options = LOSSES[name]
    counts, order = [9, 9, 4, 4, 4, 1], [3, 0, 5, 1, 4, 2]
    decays: dict[str, Any] = {"weight_decay": 0.01, "feature_decay": 0.02}
    prediction = predict(counts, **decays, **options)
    if "class_scales" in options:
        options: dict[str, Any] = {**options, "class_scales": [SCALES[k] for k in order]}
    permuted = predict([counts[k] for k in order], **decays, **options)
    for key in ("gram_classifier", "gram_features", "logits"):
        close(getattr(permuted, key), getattr(prediction, key)[order][:, order], 1e-7)


@given(
    counts=st.lists(st.integers(1, 3000), min_size=2, max_size=7),
    loss=st.sampled_from(["ce", "label_smoothing", "mse"]),
    bias=st.sampled_from(["none", "free", 0.01]),
    log_price=st.floats(-3, 0.3),
    log_ratio=st.floats(-3, 3),
)
@settings(max_examples=25)
def test_whatever_the_counts_the_certificate_is_reached(
    counts: list[int], loss: Any, bias: Any, log_price: float, log_ratio: float
) -> None:
    # From a thousandth of the decay at which the largest class merges to twice that.
    price = 10**log_price * math.sqrt(max(counts)) / sum(counts)
    prediction = predict(
        counts,
        loss=loss,
        bias=bias,
        weight_decay=price * 10**log_ratio,
        feature_decay=price / 10**log_ratio,
    )
    if prediction.kind == "numeric":
        assert prediction.certificate is not None
    assert (prediction.certificate or 0) < PROVED


def test_imbalanced_tends_to_balanced() -> None:
    decays: dict[str, Any] = {"loss": "ce", "weight_decay": 0.002}
    balanced = predict([50] * 5, feature_decay=0.003, **decays)
    near = predict([50_000] * 4 + [50_050], feature_decay=3e-6, **decays)
    close(near.gram_classifier, balanced.gram_classifier, 2e-3 * 10)


@pytest.mark.long
@pytest.mark.parametrize("bias", ["none", "free"])
def test_a_hundred_distinct_counts(bias: Any) -> None:
    counts = [10 + 10 * k for k in range(100)]
    for decay in (5e-4, 1e-4, 1e-5):
        prediction = predict(counts, loss="ce", bias=bias, weight_decay=decay, feature_decay=decay)
        assert prediction.certificate is not None
        assert prediction.certificate < PROVED


# --- features that cannot be negative -------------------------------------------------------------


@pytest.mark.parametrize(
    "counts, decay, expected",
    [
        (
            [12, 8, 5, 3],
            (0.004, 0.003),
            {
                "feature_norm_squared": (
                    1.38375171229,
                    1.62108582687,
                    1.94179248679,
                    2.35278550251,
                ),
                "classifier_norm_squared": (
                    11.1988244052,
                    9.38065743898,
                    7.75079534848,
                    6.42549238526,
                ),
                "objective": 0.170321122302,
            },
        ),
        ([20, 6, 3, 2], (0.02, 0.02), {"objective": 0.632915204903, "threshold": 0.512533333333}),
    ],
)
def test_rectified_features(counts: list[int], decay: Any, expected: dict[str, Any]) -> None:
    weight_decay, feature_decay = decay
    prediction = predict(
        counts,
        loss="ce",
        activation="relu",
        weight_decay=weight_decay,
        feature_decay=feature_decay,
    )
    for key, value in expected.items():
        close(getattr(prediction, key), value, 1e-10)


@pytest.mark.parametrize("decay", [0.004, 0.03, 0.08])
def test_rectified_features_meet_the_conditions_of_a_minimum(decay: float) -> None:
    """Gradients vanish, but by features at zero, where they may point into the negative."""
    counts = torch.tensor([12, 8, 8, 3])
    prediction = predict(
        counts, loss="ce", activation="relu", weight_decay=decay, feature_decay=decay
    )
    point = realised(prediction)
    # The class means lie on axes.
    lengths = prediction.feature_norm_squared.sqrt()
    close(prediction.gram_features, torch.diag(lengths**2), 1e-12)
    assert (lengths == 0).tolist() == (counts <= (prediction.threshold or 0)).tolist()
    weight = prediction.products / torch.where(lengths > 0, lengths, 1.0)
    close(weight @ weight.T, prediction.gram_classifier, 1e-10)
    point.layers, point.features = [weight], torch.diag(lengths)[point.labels]
    by_weight, by_features = point.gradients(cross_entropy, [decay], decay, free_bias=False)
    close(point.objective(cross_entropy, [decay], decay), prediction.objective, 1e-12)
    assert float(by_weight.norm()) < 1e-12
    positive = point.features > 0
    assert float(by_features[positive].norm()) < 1e-12
    assert bool((by_features[~positive] > -1e-12).all())


def test_rectified_features_by_program_are_the_closed_form() -> None:
    """No bias, as if it were decayed so much that nothing is left of it; and without smoothing."""
    options: dict[str, Any] = {"activation": "relu", "weight_decay": 0.02, "feature_decay": 0.05}
    exact = predict([12, 8, 8, 1], loss="ce", **options)
    smoothed = predict([12, 8, 8, 1], loss="label_smoothing", label_smoothing=0.0, **options)
    held = predict([12, 8, 8, 1], loss="ce", bias=1e9, **options)
    assert exact.status == smoothed.status == held.status == ("alive",) * 3 + ("collapsed",)
    # The bias is of size 1e-9.
    for found, tolerance in ((smoothed, 1e-9), (held, 1e-7)):
        assert found.certificate is not None
        assert found.certificate < 1e-8
        close(found.objective, exact.objective, tolerance)
        close(found.gram_classifier, exact.gram_classifier, tolerance)
        close(found.gram_features, exact.gram_features, tolerance)
        close(found.layers[0], exact.layers[0], tolerance)
        assert found.rank == exact.rank


@pytest.mark.parametrize("decay", [1e-6, 1e-3])
def test_rectified_features_of_equal_counts_keep_their_axes_with_a_free_bias(decay: float) -> None:
    options: dict[str, Any] = {"activation": "relu", "weight_decay": decay, "feature_decay": decay}
    none = predict([6] * 5, loss="ce", **options)
    free = predict([6] * 5, loss="ce", bias="free", **options)
    close(free.bias, torch.zeros(5), 1e-9)
    close(free.gram_classifier, none.gram_classifier, 1e-6)
    close(free.objective, none.objective, 1e-12)


def test_a_class_that_the_bias_decides_alone_is_named() -> None:
    """Of two classes one axis is enough: the more frequent class needs no features."""
    prediction = predict(
        [9, 5], loss="ce", bias="free", activation="relu", weight_decay=1e-3, feature_decay=1e-2
    )
    assert prediction.status == ("decided by bias", "alive")
    assert float(prediction.confidence[0]) > 0.9
    words = "class 0 has features of zero and the largest bias, which decides for what lies at zero"
    assert words in prediction.warnings
    # No word of the table says that a class is lost which is right with 90 % and more.
    assert "collapsed" not in str(prediction)
    assert "survive" not in str(prediction)
    means = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    means *= prediction.feature_norm_squared.sqrt()[:, None]
    weight = prediction.products[:, 1:] @ means[1:] / means[1].square().sum()
    assert prediction.compare(means, weight)["verdict"] == ["alive", "alive"]


# --- vanishing decay ------------------------------------------------------------------------------


def test_seli() -> None:
    prediction = vanishing_decay([30, 30, 3, 3])
    assert prediction.kind == "SELI"
    assert prediction.certificate == 0
    close(prediction.gram_classifier[0], (3.75411758811, -1.72310798695, *[-1.01550480058] * 2))
    close(prediction.gram_classifier[2, 2:], (1.88153020436, 0.149479396795))
    close(prediction.gram_features[0, :2], (0.152832838407, -0.0297413474279))
    close(prediction.gram_features[2, 2:], (0.350220880084, -0.227129389105))
    (values,) = prediction.layers
    close(values**2, (5.47722557505, 4.06201920232, 1.73205080757))
    close(prediction.logits, simplex_gram(4), 1e-14)


@pytest.mark.parametrize("ratio", [1, 10, 1000])
@pytest.mark.parametrize("classes", [4, 10])
def test_seli_of_a_step(classes: int, ratio: int) -> None:
    half, count = classes // 2, 7
    prediction = vanishing_decay([ratio * count] * half + [count] * half)
    edge, share = math.sqrt((ratio + 1) / 2), 1 - 2 / classes
    rows = prediction.classifier_norm_squared / math.sqrt(count)
    close(rows[0], share * math.sqrt(ratio) + edge / classes, 1e-11)
    close(rows[-1], share + edge / classes, 1e-11)
    means = prediction.feature_norm_squared * math.sqrt(count)
    close(means[0], share / math.sqrt(ratio) + 1 / (classes * edge), 1e-11)
    close(means[-1], share + 1 / (classes * edge), 1e-11)


def test_ldt_with_roots_of_counts_has_a_simplex_classifier() -> None:
    counts = [30, 30, 3, 1]
    prediction = vanishing_decay(counts, loss="ldt", class_scales=[n**0.5 for n in counts])
    close(prediction.gram_classifier, simplex_gram(4), 1e-12)
    cosines = prediction.gram_features / prediction.feature_norm_squared.sqrt().outer(
        prediction.feature_norm_squared.sqrt()
    )
    close(cosines, simplex_gram(4) * 4 / 3, 1e-12)


@pytest.mark.parametrize("loss", ["ce", "cdt", "ldt"])
def test_small_decays_tend_to_the_limit(loss: Any) -> None:
    counts = [30, 30, 3, 3]
    scales = None if loss == "ce" else [1.5, 1.5, 0.7, 0.7]
    limit = vanishing_decay(counts, loss=loss, class_scales=scales)
    assert limit.certificate == 0
    # All margins are one.
    own = torch.tensor(scales or [1.0] * 4, dtype=torch.float64)
    scaled = limit.logits * (own if loss == "cdt" else own[:, None])
    margins = scaled.diagonal()[:, None] - scaled
    close(margins[~torch.eye(4, dtype=torch.bool)], 1.0, 1e-12)
    distances = []
    for decay in (1e-2, 1e-3, 1e-4, 1e-6, 1e-8):
        prediction = predict(
            counts, loss=loss, class_scales=scales, weight_decay=decay, feature_decay=decay
        )
        assert prediction.certificate is not None
        assert prediction.certificate < PROVED
        distances.append(float(gram_distance(prediction.logits, limit.logits)))
    assert distances == sorted(distances, reverse=True)
    if loss == "ce":
        close(torch.tensor(distances), (0.304, 0.167, 0.121, 0.079, 0.058), 6e-4)


# --- constraints in place of decays ---------------------------------------------------------------


def test_the_sphere() -> None:
    prediction = spherical([10] * 4, temperature=1 / 3)
    close(prediction.objective, 0.05349044970593, 1e-13)
    close(prediction.gram_classifier, 4 / 3 * simplex_gram(4), 1e-14)
    close(prediction.logits, 4 * simplex_gram(4), 1e-13)
    close(prediction.products, 4 / 3 * simplex_gram(4), 1e-14)
    labels = torch.arange(4)
    close(prediction.objective, cross_entropy(prediction.logits, labels).mean(), 1e-13)
    # The gradient of each unit vector points along it.
    point = realised(spherical([1] * 4, temperature=1))
    weight, means = (part.requires_grad_() for part in (point.layers[0], point.features))
    loss = cross_entropy(3 * means @ weight.T, labels).mean()
    for vectors, gradient in zip(
        (weight, means), torch.autograd.grad(loss, (weight, means)), strict=True
    ):
        along = (gradient * vectors).sum(1, keepdim=True) * vectors
        close(gradient, along.detach(), 1e-13)


# From a 30-digit solution of the three scalars of the block form where the minority has merged.
RATIOS = {3: 245.49693059826, 5: 12.192447080326, 7: 4.000466710142}


@pytest.mark.parametrize("majority", RATIOS)
def test_ratio_at_which_a_minority_merges(majority: int) -> None:
    ratio = layer_peeled_collapse_ratio(majority, 10 - majority, weight_energy=1, feature_energy=5)
    # The objective is flat: to 1e-15 of it the norm is known to 1e-8.
    assert ratio == pytest.approx(RATIOS[majority], rel=1e-7)


def test_layer_peeled_on_both_sides_of_that_ratio() -> None:
    for count, cosine in ((1150, 0.8053), (1210, 0.9708), (1230, 1.0)):
        prediction = layer_peeled([count] * 5 + [100] * 5, weight_energy=1, feature_energy=5)
        gram = prediction.gram_classifier
        assert float(gram[5, 6] / gram[5, 5]) == pytest.approx(cosine, abs=5e-5)
        close(prediction.classifier_norm_squared.mean(), 1.0)
        close(prediction.feature_norm_squared.mean(), 5.0)
        merged = prediction.status[5].startswith("merged")
        assert merged == (count > 100 * RATIOS[5])
        assert prediction.threshold is not None
        assert merged == (prediction.threshold >= 100)


def test_layer_peeled_gradients_are_along_the_constraints() -> None:
    counts = [30, 12, 5, 5]
    prediction = layer_peeled(counts, weight_energy=2, feature_energy=3)
    point = realised(prediction)
    value = point.objective(cross_entropy, [0.0], 0.0)
    close(value, prediction.objective, 1e-10)
    by_weight, by_features = point.gradients(cross_entropy, [0.0], 0.0, free_bias=False)
    weight, features = point.layers[0], point.features
    price = (prediction.threshold or 0.0) / sum(counts)
    ratio = math.sqrt(3 / 2)
    close(by_weight, -price * ratio * weight, 1e-8)
    each = torch.tensor(counts, dtype=torch.float64)[point.labels][:, None]
    close(by_features, -price / ratio * features / each, 1e-8)


# --- several linear layers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "depth, classes, count, simplex, lower, rank",
    [
        (2, 6, 2, 0.004604027, 0.004335911, 3),
        (2, 10, 1, 0.006674552, 0.005889142, 5),
        (3, 4, 2, 0.002390318, 0.002216781, 2),
        (3, 6, 2, 0.003983857, 0.003371100, 3),
    ],
)
def test_the_simplex_is_not_the_optimum_of_deep_cross_entropy(
    depth: int, classes: int, count: int, simplex: float, lower: float, rank: int
) -> None:
    prediction = predict(
        [count] * classes, loss="ce", depth=depth, weight_decay=1e-4, feature_decay=1e-4
    )
    first, second = prediction.branches
    assert first.kind == "simplex ETF"
    close(first.objective, simplex, 6e-10)
    close(second.objective, lower, 6e-10)
    close(prediction.objective, lower, 6e-10)
    assert (prediction.kind, prediction.rank) == ("numeric", rank)
    assert prediction.certificate is None
    assert any("not the global optimum" in text for text in prediction.warnings)
    for branch in (first, second):
        arguments = ([1e-4] * depth, 1e-4, "none")
        difference, gradient = departure(branch, cross_entropy, *arguments)
        assert difference < 1e-10
        assert gradient < 1e-8


def test_deep_cross_entropy_never_claims_a_global_optimum() -> None:
    prediction = predict([4] * 3, loss="ce", depth=2, weight_decay=1e-3, feature_decay=1e-3)
    assert prediction.kind == "simplex ETF"
    assert "critical point" in prediction.regime
    assert any("not a proven global optimum" in text for text in prediction.warnings)
    assert prediction.certificate is None


@pytest.mark.parametrize("bias", ["none", "free", 0.05])
@pytest.mark.parametrize("depth", [2, 3])
def test_deep_cross_entropy_is_stationary_with_imbalance(depth: int, bias: Any) -> None:
    decays: dict[str, Any] = {"weight_decay": 1e-3, "feature_decay": 2e-3}
    prediction = predict([20, 10, 5, 3], loss="ce", depth=depth, bias=bias, **decays)
    for branch in (prediction, *prediction.branches):
        arguments = ([1e-3] * depth, 2e-3, bias)
        difference, gradient = departure(branch, cross_entropy, *arguments)
        # L-BFGS stops at gradients of 1e-9 or so of the factors.
        assert difference < 1e-9
        assert gradient < 1e-6
    assert prediction.objective == min(branch.objective for branch in prediction.branches)


# --- the certificate of given logits --------------------------------------------------------------


@pytest.mark.parametrize("bias", ["none", "free", 0.1])
@pytest.mark.parametrize("name", ["ce", "label_smoothing", "mse"])
def test_the_certificate_bounds_the_excess(
    name: Any, bias: Any, generator: torch.Generator
) -> None:
    counts = [20, 9, 4, 4]
    decays: dict[str, Any] = {"weight_decay": 0.01, "feature_decay": 0.008}
    best = predict(counts, loss=name, bias=bias, **decays)
    shift = None if bias == "none" else best.bias
    common: dict[str, Any] = {"loss": name, "bias": bias, **decays}
    assert certificate(best.logits, counts, bias_values=shift, **common) < PROVED
    noise = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    noise = noise - noise.mean(1, keepdim=True)
    losses = {"ce": cross_entropy, "label_smoothing": smoothed(0.1)}.get(name)
    root = torch.tensor(counts, dtype=torch.float64).sqrt()
    for size in (1e-3, 1e-2, 0.1, 1.0):
        logits = best.logits + size * noise
        bound = certificate(logits, counts, bias_values=shift, **common)
        assert bound > 0
        if losses is None or bias == "free":
            continue
        labels = torch.arange(4)
        value = losses(logits, labels) @ root**2 / 37
        products = logits - best.bias
        price = math.sqrt(0.01 * 0.008)
        value = value + price * torch.linalg.matrix_norm(products * root[:, None], "nuc")
        value = value + (bias if bias != "none" else 0.0) / 2 * best.bias.square().sum()
        assert float(value) - best.objective <= bound * float(value) + 1e-12


@pytest.mark.parametrize("bias", ["none", "free", 0.02, 0.5])
@pytest.mark.parametrize("counts", [[6] * 4, [20, 9, 4, 4], [30, 12, 5, 4, 2]], ids=str)
def test_closed_forms_of_one_layer_are_certified(counts: list[int], bias: Any) -> None:
    """They were not made by the program whose duality proves them optimal."""
    weights = [1.0, 0.3, 2.0, 0.2, 1.5][: len(counts)]
    for weight_decay, feature_decay in ((0.01, 0.004), (0.02, 0.08), (0.1, 0.1)):
        decays = {"weight_decay": weight_decay, "feature_decay": feature_decay}
        common: dict[str, Any] = {"bias": bias, **decays}
        cases: list[dict[str, Any]] = [
            {"loss": "mse"},
            {"loss": "weighted_mse", "class_weights": weights},
            {"loss": "ce"},
            {"loss": "label_smoothing", "label_smoothing": 0.2},
        ]
        for case in cases:
            prediction = predict(counts, **case, **common)
            shift = None if bias == "none" else prediction.bias
            bound = certificate(prediction.logits, counts, bias_values=shift, **case, **common)
            assert bound < PROVED


@pytest.mark.parametrize("decay, found", [(1e-3, 0.040702360), (1e-4, 0.004627402)])
def test_deep_cross_entropy_looks_at_few_dimensions(decay: float, found: float) -> None:
    """Ten classes of one sample on a sphere in three dimensions, found by direct minimisation."""
    prediction = predict([1] * 10, loss="ce", depth=3, weight_decay=decay, feature_decay=decay)
    assert prediction.objective <= found * (1 + 1e-6)
    assert prediction.rank == 3
    assert any("not a proven global optimum" in warning for warning in prediction.warnings)
