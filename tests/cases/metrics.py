"""What each metric sees and what it is blind to: a row for every metric of the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cases.worlds import World, rotation
from neuralcollapse.metrics import METRICS

# Each break is done to the collapsed world of four classes in six dimensions, and to nothing else
# than it says. `sees` names the breaks that move the metric; every other break leaves it alone.


def _with_pairs(w: World, inside: bool) -> World:
    """Pairs +x and -x of noise, so that the class means do not move."""
    centred = w.weight / w.weight.norm()
    inner = centred[0] / centred[0].norm()
    basis = torch.linalg.svd(centred, full_matrices=True).Vh
    step = inner if inside else basis[-1]
    signs = torch.tensor([1.0, -1.0] * (len(w.labels) // 2), dtype=torch.float64)
    return w.replace(features=w.features + signs[:, None] * step)


def _move_means(w: World, means: Tensor) -> World:
    """Centred class means moved to `means` (K, d), the classifier left where it is."""
    return w.replace(features=means[w.labels] + w.features.mean(0))


def _centred(w: World) -> Tensor:
    return w.weight / 2


def _longer(rows: Tensor) -> Tensor:
    """All norms different, every angle as it was."""
    return rows * torch.tensor([[1.0], [1.5], [2.5], [4.0]], dtype=rows.dtype)


def _square(rows: Tensor) -> Tensor:
    """Equal norms, sum zero, but a square instead of a tetrahedron."""
    side, other = torch.linalg.svd(rows).Vh[:2] * rows.norm(dim=1)[0]
    return torch.stack([side, other, -side, -other])


def _swapped(rows: Tensor) -> Tensor:
    return rows[[1, 0, 2, 3]]


def _right_angles(rows: Tensor) -> Tensor:
    """Equal norms and equal cosines, but of 0 instead of -1/3."""
    return torch.linalg.qr(rows.new_tensor(rotation(rows.shape[1], 3))).Q[:4] * rows.norm(dim=1)[0]


def _biased(w: World) -> World:
    """A bias so large that class 0 always wins."""
    bias = w.bias.clone()
    bias[0] += 1000
    return w.replace(bias=bias)


BREAKS: dict[str, Callable[[World], World]] = {
    "noise along the means": lambda w: _with_pairs(w, inside=True),
    "noise across the means": lambda w: _with_pairs(w, inside=False),
    "means of unequal length": lambda w: _move_means(w, _longer(_centred(w))),
    "means in a square": lambda w: _move_means(w, _square(_centred(w))),
    "rows of unequal length": lambda w: w.replace(weight=_longer(w.weight)),
    "rows in a square": lambda w: w.replace(weight=_square(w.weight)),
    "rows at right angles": lambda w: w.replace(weight=_right_angles(w.weight)),
    "two rows swapped": lambda w: w.replace(weight=_swapped(w.weight), bias=_swapped(w.bias)),
    "all rows shifted alike": lambda w: w.replace(weight=w.weight + 1.0),
    "a bias": _biased,
    "outsiders along a class mean": lambda w: w.replace(outsiders=w.features[:1]),
}


# Harmless changes: no metric of this table may see them.
HARMLESS: dict[str, Callable[[World], World]] = {
    "a common scale of features": lambda w: w.replace(features=7 * w.features, bias=7 * w.bias),
    "a common scale of the classifier": lambda w: w.replace(weight=5 * w.weight, bias=5 * w.bias),
    "a common offset with its bias": lambda w: w.replace(
        features=w.features + 2, bias=w.bias - 2 * w.weight.sum(1)
    ),
}
_ALL_MEANS = {"means of unequal length", "means in a square"}
_ALL_ROWS = {"rows in a square", "rows of unequal length", "all rows shifted alike"}
_ALL_COSINES = _ALL_MEANS | {
    "rows in a square",
    "rows at right angles",
    "two rows swapped",
    "all rows shifted alike",
}


@dataclass(frozen=True)
class MetricCase:
    """The breaks that a metric moves with; it is blind to all others."""

    sees: frozenset[str]


METRIC_CASES: dict[str, MetricCase] = {
    key: MetricCase(frozenset(sees))
    for key, sees in {
        "nc1": {"noise along the means"},
        "nc1_trace_ratio": {"noise along the means", "noise across the means"},
        "nc1_trace_unbiased": {"noise along the means", "noise across the means"},
        "cdnv": {"noise along the means", "noise across the means"},
        "cdnv_directional": {"noise along the means"},
        "vci": {"noise along the means"},
        # Unequal lengths stretch a direction.
        "effective_rank": _ALL_MEANS,
        # Unequal lengths move the global mean, and with it the angles.
        "nc2_equinorm": {"means of unequal length"},
        "nc2_equiangle": _ALL_MEANS,
        "nc2_max_angle": _ALL_MEANS,
        "nc2_etf_distance": _ALL_MEANS,
        "nc2w_equinorm": {"rows of unequal length", "all rows shifted alike"},
        "nc2w_equiangle": {"rows in a square", "all rows shifted alike"},
        "nc2w_max_angle": {"rows in a square", "rows at right angles", "all rows shifted alike"},
        "nc2w_etf_distance": _ALL_ROWS | {"rows at right angles"},
        "nc3_duality": _ALL_MEANS | _ALL_ROWS | {"rows at right angles", "two rows swapped"},
        "nc3_alignment": _ALL_COSINES,
        "gnc2_energy_gap": _ALL_MEANS,
        "gnc2_log_mean": _ALL_MEANS,
        "gnc2_log_variance": _ALL_MEANS,
        "gnc2_gaussian": _ALL_MEANS,
        "gnc2_margin": _ALL_MEANS,
        # No break turns all rows against their means by the same angle, which it would not see.
        "gnc3_alignment_spread": _ALL_COSINES,
        "nc3_subspace": {"means in a square", "rows in a square", "rows at right angles"},
        # Raw class means: what moves them moves it.
        "nc5_orthogonality": {"outsiders along a class mean"},
        "hug_inter": _ALL_MEANS,
        "hug_intra": {"noise along the means", "noise across the means"},
        "nc4_disagreement": {
            "means in a square",
            "rows in a square",
            "rows at right angles",
            "two rows swapped",
            "a bias",
        },
    }.items()
}


# The rows that every measurement has: those of outsiders are left out where there are none.
ROWS = tuple(metric for metric in METRICS if "outsiders" not in metric.needs)


# Public functions and classes in metrics/ that are parts of a metric and not rows of the table,
# with the test that holds them.
METRIC_PARTS = {
    "equinorm": "test_metrics.py: nc2_equinorm and nc2w_equinorm",
    "equiangle": "test_metrics.py: nc2_equiangle and nc2w_equiangle",
    "max_angle": "test_metrics.py: nc2_max_angle and nc2w_max_angle",
    "etf_distance": "test_metrics.py: nc2_etf_distance and nc2w_etf_distance",
    "linear_decision": "test_metrics.py: nc4_disagreement",
    "DualDecisions": "test_dual_decisions.py",
    "RestDecisions": "test_intervals_of_features.py: against means found anew",
    "NearestMean": "test_metrics.py: nc4_disagreement",
    "DirectionalSpread": "test_deeper_metrics.py: cdnv_directional in parts",
    "BalancedScatter": "test_deeper_metrics.py: covariances of balanced classes",
    "features_effective_rank": "test_deeper_metrics.py: neither direction is better",
    "principal_angles": "test_deeper_metrics.py: against scipy",
    "frame_deviation": "test_frame_fit.py: takes a target that the table does not have",
    "frame_spread": "test_frame_fit.py: takes a target that the table does not have",
    "frame_duality": "test_frame_fit.py: takes a target that the table does not have",
    "MistakeMetric": "test_mistakes.py: the rows of MISTAKE_METRICS",
    "binned_calibration": "test_mistakes.py: calibration_error",
    "check_confidences": "test_mistakes.py: calibration_error",
    "discounts": "test_mistakes.py: preference_score",
    "null_values": "test_noise.py: against Monte Carlo values",
    "rounding_directions": "test_noise.py: behind a layer normalisation",
    "rounding_note": "test_noise.py: half precision, in words",
    "rounding_share": "test_noise.py: features rounded to a format",
    "WhitenedSpread": "test_whitened.py: nc1 without a (d, d) array",
    "between_condition": "test_whitened.py: rank and condition",
    "SpreadWithin": "test_uniformity.py: hug_intra in parts",
    "least_mean_energy": "test_uniformity.py: the gap vanishes at every closed form",
}
