"""Exact numbers of the squared error: balanced, long-tailed, deep, with biases and weights."""

from __future__ import annotations

from typing import Any

import pytest

from class_counts import BALANCED, DYING, LONG_TAIL, close
from neuralcollapse.theory import predict

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
