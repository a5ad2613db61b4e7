"""Squared error: exact numbers, stationarity at every depth, thresholds, and laws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuralcollapse.geometry import simplex_gram
from neuralcollapse.theory import Prediction, predict
from neuralcollapse.theory.centred import centred_modes
from neuralcollapse.theory.modes import (
    fitted_shares,
    jump_level,
    largest_root,
    share_at_jump,
    spinodal_level,
)
from reference.theory import departure, squared_error, to_targets, weighted

# The figures of the tables below have this many digits.
DIGITS = 1e-9
BALANCED = [6, 6, 6, 6]
LONG_TAIL = [20, 10, 5, 3]
DYING = [30, 12, 5, 4, 2]


def close(values: Tensor | float, expected: Any, tolerance: float = DIGITS) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    given_values = torch.as_tensor(values, dtype=torch.float64)
    torch.testing.assert_close(
        given_values, expected.expand_as(given_values), rtol=0, atol=tolerance
    )


def decays(depth: int, weight_decay: float) -> list[float]:
    """One per layer, all different."""
    return [weight_decay * (1 + 0.3 * j) for j in range(depth)]


# --- the scalar problem ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "depth, jump, spinodal",
    [
        (1, 1, 1),
        (2, 0.5, 0.649519052838),
        (3, 0.529133683989, 0.839947366597),
        (4, 0.569876764239, 1.065205656063),
        (6, 0.637270409443, 1.542451351008),
        (9, 0.705511578653, 2.278008107682),
    ],
)
def test_levels_at_which_a_mode_dies(depth: int, jump: float, spinodal: float) -> None:
    close(jump_level(depth), jump, 1e-12)
    close(spinodal_level(depth), spinodal, 1e-12)
    # From the cost of a mode itself, on a fine grid: its derivative, and where zero becomes best.
    x = np.geomspace(1e-3, 20, 400_001)
    saving = 1 - 1 / (x**depth + 1)
    assert float((saving / x).max()) == pytest.approx(jump, rel=2e-3 if depth == 1 else 1e-6)
    slope = depth * x ** (depth - 1) / (x**depth + 1) ** 2
    assert float(slope.max()) == pytest.approx(spinodal, rel=2e-3 if depth == 1 else 1e-6)
    if depth > 1:
        at_jump = largest_root(jump, depth) ** depth
        assert at_jump / (1 + at_jump) == pytest.approx(share_at_jump(depth), rel=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3, 6, 20])
def test_the_root_is_the_largest_and_solves_the_equation(depth: int) -> None:
    for share in (1 - 1e-9, 0.9, 0.3, 1e-3, 1e-9, 1e-15):
        level = share * spinodal_level(depth)
        root = largest_root(level, depth)
        value = depth * root ** (depth - 1) / (root**depth + 1) ** 2
        assert value == pytest.approx(level, rel=1e-12)
        beyond = root * np.geomspace(1.0001, 1e3, 1000)
        assert bool(
            (depth / beyond / (beyond ** (depth / 2) + beyond ** (-depth / 2)) ** 2 < level).all()
        )
    with pytest.raises(ValueError, match="level must be at most"):
        largest_root(1.01 * spinodal_level(depth), depth)


def test_shares_at_the_jump_are_zero_and_jump_above_it() -> None:
    for depth in (2, 3, 6):
        decay = (0.01,) * (depth + 1)
        count = 50.0
        threshold = predict([50, 50], depth=depth, weight_decay=0.01, feature_decay=0.01).threshold
        assert threshold is not None
        squares = threshold * np.array([1 - 1e-9, 1 + 1e-9])
        below, above = fitted_shares(squares, decay, 2 * count)
        assert below == 0
        assert above == pytest.approx(share_at_jump(depth), abs=1e-4)


# --- the modes of centred targets -----------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 10**9), min_size=1, max_size=30, unique=True),
    seed=st.integers(0, 1000),
)
def test_modes_of_centred_targets_are_their_singular_vectors(counts: list[int], seed: int) -> None:
    each = np.sort(np.array(counts, dtype=float))
    sizes = np.random.default_rng(seed).integers(1, 5, len(each)).astype(float)
    left, values, right = centred_modes(sizes, each)
    # The definition, class by class, between the normalised indicators of the groups.
    index = np.repeat(np.arange(len(each)), sizes.astype(int))
    centred = np.eye(len(index)) - np.outer(each[index], np.ones(len(index))) / (sizes @ each)
    members = (index[:, None] == np.arange(len(each))) / np.sqrt(sizes)
    matrix = members.T @ (centred * np.sqrt(each[index])) @ members
    # Rounding of the sums over 30 groups, and of entries up to sqrt(1e9) for the matrix.
    assert np.abs(left.T @ left - np.eye(len(values))).max(initial=0) < 1e-13
    assert np.abs(right.T @ right - np.eye(len(values))).max(initial=0) < 1e-13
    np.testing.assert_allclose((left * values) @ right.T, matrix, atol=1e-13 * each[-1] ** 0.5)
    assert (np.diff(values) < 0).all()


def test_modes_of_neighbouring_counts() -> None:
    """The zeros lie between counts that are as close as counts can be."""
    each = np.arange(10**8, 10**8 + 200, dtype=float)
    left, values, right = centred_modes(np.ones(200), each)
    assert ((values**2)[::-1] > each[:-1]).all()
    assert ((values**2)[::-1] < each[1:]).all()
    # Their distance from a count is known to as many digits as that of a lone one.
    assert np.abs(left.T @ left - np.eye(199)).max() < 1e-12
    assert np.abs(right.T @ right - np.eye(199)).max() < 1e-12


# --- exact numbers --------------------------------------------------------------------------------

NUMBERS: dict[str, tuple[list[int], dict[str, Any], dict[str, Any]]] = {
    "balanced": (
        BALANCED,
        {"weight_decay": 0.01, "feature_decay": 0.004},
        {
            "classifier_norm_squared": 1.45319333848,
            "feature_norm_squared": 0.605497224368,
            "logit": 0.938032266461,
            "objective": 0.060047733539,
        },
    ),
    "balanced, bias": (
        BALANCED,
        {"weight_decay": 0.01, "feature_decay": 0.004, "bias": "free"},
        {
            "classifier_norm_squared": 1.08989500386,
            "feature_norm_squared": 0.454122918276,
            "logit": 0.953524199846,
            "bias": 0.25,
            "objective": 0.045035800154,
        },
    ),
    "balanced, two layers": (
        BALANCED,
        {"weight_decay": [0.01, 0.013], "feature_decay": 0.002},
        {
            "classifier_norm_squared": 0.970158712751,
            "feature_norm_squared": 0.935862023371,
            "logit": 0.952856073028,
            "objective": 0.068493340608,
        },
    ),
    "balanced, two layers, bias": (
        BALANCED,
        {"weight_decay": [0.01, 0.013], "feature_decay": 0.002, "bias": "free"},
        {"classifier_norm_squared": 0.727619034563, "objective": 0.051370005456},
    ),
    "balanced, three layers": (
        BALANCED,
        {"weight_decay": [0.006, 0.008, 0.005], "feature_decay": 0.001},
        {
            "classifier_norm_squared": 0.937774386994,
            "feature_norm_squared": 1.01379921937,
            "logit": 0.975046122745,
            "objective": 0.048973710525,
        },
    ),
    "balanced, three layers, bias": (
        BALANCED,
        {"weight_decay": [0.006, 0.008, 0.005], "feature_decay": 0.001, "bias": "free"},
        {"objective": 0.036730282894},
    ),
    "long tail": (
        LONG_TAIL,
        {"weight_decay": 0.01, "feature_decay": 0.005},
        {
            "threshold": 0.0722,
            "classifier_norm_squared": (
                2.97227766017,
                2.0460679775,
                1.39113883008,
                1.03474487139,
            ),
            "feature_norm_squared": (
                0.297227766017,
                0.4092135955,
                0.556455532034,
                0.689829914261,
            ),
            "logit": (0.939916724457, 0.915029416855, 0.879833448914, 0.844865649624),
            "objective": 0.078242293391,
        },
    ),
    "long tail, bias": (
        LONG_TAIL,
        {"weight_decay": 0.01, "feature_decay": 0.005, "bias": "free"},
        {"objective": 0.054789817490, "bias": (20 / 38, 10 / 38, 5 / 38, 3 / 38)},
    ),
    "long tail, two layers": (
        LONG_TAIL,
        {"weight_decay": [0.004, 0.006], "feature_decay": 0.003},
        {
            "threshold": 0.251421049238,
            "classifier_norm_squared": (
                5.16073595786,
                3.19426769664,
                1.95512320742,
                1.34589323843,
            ),
            "feature_norm_squared": (
                0.185485596168,
                0.291856937403,
                0.456668890399,
                0.631492820037,
            ),
            "objective": 0.049347037018,
        },
    ),
    "long tail, two layers, bias": (
        LONG_TAIL,
        {"weight_decay": [0.004, 0.006], "feature_decay": 0.003, "bias": "free"},
        {"objective": 0.035589020828},
    ),
    "long tail, three layers": (
        LONG_TAIL,
        {"weight_decay": [0.004, 0.005, 0.003], "feature_decay": 0.002},
        {"objective": 0.044048079882},
    ),
    "long tail, three layers, bias": (
        LONG_TAIL,
        {"weight_decay": [0.004, 0.005, 0.003], "feature_decay": 0.002, "bias": "free"},
        {"objective": 0.032152180242},
    ),
    "dying": (
        DYING,
        {"weight_decay": 0.02, "feature_decay": 0.0800996796012816},
        {
            "threshold": 4.5,
            "classifier_norm_squared": (6.71599060247, 2.68723512108, 0.229638198351, 0, 0),
            "feature_norm_squared": (0.055896941044, 0.0559143959639, 0.0114676213186, 0, 0),
            "objective": 0.376619542589,
        },
    ),
    "dying, two layers": (
        DYING,
        {"weight_decay": [0.01, 0.01], "feature_decay": 0.08501145240702057},
        {
            "threshold": 4.5,
            "spinodal": 3.46410161514,
            "classifier_norm_squared": (34.0798643717, 15.551780914, 5.46076498464, 0, 0),
            "feature_norm_squared": (0.0228902343, 0.038657287978, 0.054976780394, 0, 0),
            "objective": 0.257588778179,
        },
    ),
    "dying, three layers": (
        DYING,
        {"weight_decay": [0.01] * 3, "feature_decay": 0.0633674930590416},
        {
            "threshold": 4.5,
            "feature_norm_squared": (0.018857280182, 0.035998753491, 0.0626167789598, 0, 0),
            "objective": 0.230540461984,
        },
    ),
    "direct optimisation": (
        [200, 100, 50, 50],
        {"weight_decay": 5e-4, "feature_decay": 5e-4},
        {
            "threshold": 0.04,
            "logit": (0.985857864376, 0.98, 0.971715728753, 0.971715728753),
            "objective": 0.0189421356237,
        },
    ),
    "direct optimisation, three layers": (
        [200, 100, 50, 50],
        {"weight_decay": [5e-4] * 3, "feature_decay": 5e-4},
        {"threshold": 0.663125669755, "objective": 0.012218400372},
    ),
    "direct optimisation, six layers": (
        [200, 100, 50, 50],
        {"weight_decay": [5e-4] * 6, "feature_decay": 5e-4},
        {"threshold": 1.44, "objective": 0.013220353373},
    ),
    "decayed bias, small": (
        BALANCED,
        {"weight_decay": 0.01, "feature_decay": 0.004, "bias": 0.05},
        {"bias": 0.238095238095, "classifier_norm_squared": 1.453193338483 * 3 / 4},
    ),
    "decayed bias, middle": (
        BALANCED,
        {"weight_decay": 0.01, "feature_decay": 0.004, "bias": 0.2},
        {
            "bias": 0.0774596669241,
            "classifier_norm_squared": 1.453193338483 * 3 / 4 + 0.973193338483 / 4,
        },
    ),
    "decayed bias, large": (
        BALANCED,
        {"weight_decay": 0.01, "feature_decay": 0.004, "bias": 1},
        {
            "bias": 0.0154919333848,
            "classifier_norm_squared": 1.453193338483 * 3 / 4 + 1.357193338483 / 4,
        },
    ),
    "weights 1 / n": (
        LONG_TAIL,
        {
            "weight_decay": 0.01,
            "feature_decay": 0.02,
            "loss": "weighted_mse",
            "class_weights": [38 / (4 * count) for count in LONG_TAIL],
        },
        {
            "logit": (0.747017787, 0.821114562, 0.873508894, 0.902020410),
            "objective": 0.148884586783,
        },
    ),
    "weights at will": (
        LONG_TAIL,
        {
            "weight_decay": 0.01,
            "feature_decay": 0.02,
            "loss": "weighted_mse",
            "class_weights": [1, 0.3, 2, 0.2],
        },
        {"logit": (0.879833449, 0.433529446, 0.879833449, 0), "objective": 0.12911775953},
    ),
}


def depth_of(options: dict[str, Any]) -> int:
    decay = options["weight_decay"]
    return len(decay) if isinstance(decay, list) else 1


@pytest.mark.parametrize("name", NUMBERS)
def test_exact_numbers(name: str) -> None:
    counts, options, expected = NUMBERS[name]
    prediction = predict(counts, depth=depth_of(options), **options)
    for key, value in expected.items():
        close(getattr(prediction, key), value)


@pytest.mark.parametrize(
    "depth, roots",
    [
        (3, (6.41841520315, 5.39023717368, 4.52270061791)),
        (6, (2.78579002299, 2.521900143, 2.28207336845)),
    ],
)
def test_roots_of_the_direct_optimisation(depth: int, roots: tuple[float, ...]) -> None:
    counts = [200, 100, 50, 50]
    prediction = predict(counts, depth=depth, weight_decay=5e-4, feature_decay=5e-4)
    # x^M = w^2 / (N feature_decay)
    found = (prediction.classifier_norm_squared[:3] / (400 * 5e-4)) ** (1 / depth)
    close(found, roots, 1e-8)


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
