"""Named worlds and the rows of losses, frames, heads, metrics and closed forms that laws run over.

To add a loss, a frame, a head, a metric or a closed form: one row here. test_complete.py fails
without it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import reference.hierarchical_losses
import reference.losses
import reference.mistakes
from neuralcollapse import ClassStatistics
from neuralcollapse.frames import Frame, orthogonal_frame, simplex_etf, spherical_code
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
from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.losses import (
    HUG,
    AbstractLoss,
    BarzDenzler,
    ConditionalSoftmax,
    CrossEntropy,
    DotRegression,
    FrameCosine,
    HierarchicalCrossEntropy,
    HierarchyAwareFeatures,
    MultiGranularity,
    NormalizedCrossEntropy,
    SoftLabels,
    SquaredError,
)
from neuralcollapse.metrics import METRICS

# --- worlds -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class World:
    """Labelled features with a classifier, all in float64."""

    name: str
    features: Tensor  # (N, d)
    labels: Tensor  # (N,)
    num_classes: int
    weight: Tensor  # (K, d)
    bias: Tensor  # (K,)
    outsiders: Tensor | None = None  # (M, d), of none of the classes

    def statistics(self, dtype: torch.dtype = torch.float64) -> ClassStatistics:
        return ClassStatistics.from_features(self.features.to(dtype), self.labels, self.num_classes)

    def replace(self, **changes: Any) -> World:
        return dataclasses.replace(self, **changes)


def simplex_vertices(num_classes: int, dim: int, seed: int = 0) -> np.ndarray:
    """(K, d) unit vectors, a regular simplex around the origin in a random orientation.

    From the eigenvectors of I - J/K; not how the library makes its frames.
    """
    values, vectors = np.linalg.eigh(np.eye(num_classes) - 1 / num_classes)
    corners = vectors[:, 1:] * np.sqrt(values[1:])
    corners /= np.linalg.norm(corners, axis=1, keepdims=True)
    return corners @ rotation(dim, seed)[: num_classes - 1]


def rotation(dim: int, seed: int = 0) -> np.ndarray:
    """(d, d), a random orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]


def cross_polytope(dim: int) -> np.ndarray:
    """(2 d, d), the rows e_i and -e_i."""
    return np.concatenate([np.eye(dim), -np.eye(dim)])


def harmonic_frame(num_classes: int, dim: int) -> np.ndarray:
    """(K, d), d even and below K: equal norms, sum zero, every direction alike (tight)."""
    angles = 2 * np.pi * np.outer(np.arange(num_classes), np.arange(1, dim // 2 + 1)) / num_classes
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def world(
    name: str,
    means: np.ndarray,
    counts: int | Sequence[int],
    noise: float,
    *,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    seed: int = 0,
    in_pairs: bool = False,
) -> World:
    """Gaussian noise around class means; `in_pairs` adds +x and -x so that means stay exact.

    Without a weight the classifier is the centred means and a little noise, with a random bias.
    """
    rng = np.random.default_rng(seed)
    num_classes, dim = means.shape
    sizes = [counts] * num_classes if isinstance(counts, int) else list(counts)
    labels = np.repeat(np.arange(num_classes), sizes)
    if in_pairs:
        half = rng.standard_normal((sum(sizes) // 2, dim))
        # Multiples of 2^-10: sums of a few are exact in float64, and so are the class means.
        spread = np.repeat(np.round(half * noise * 1024) / 1024, 2, axis=0)
        spread[1::2] *= -1
    else:
        spread = noise * rng.standard_normal((len(labels), dim))
    centred = means - means.mean(0)
    if weight is None:
        weight = centred + 0.1 * np.abs(centred).max() * rng.standard_normal(means.shape)
    if bias is None:
        bias = 0.1 * rng.standard_normal(num_classes)
    return World(
        name=name,
        features=torch.from_numpy(means[labels] + spread),
        labels=torch.from_numpy(labels),
        num_classes=num_classes,
        weight=torch.from_numpy(weight),
        bias=torch.from_numpy(bias),
    )


def collapsed(num_classes: int = 4, dim: int = 6, count: int = 6, seed: int = 1) -> World:
    """Every sample on its vertex; the classifier is dual and decides as the nearest mean does.

    Where a dimension is left, the outsiders' mean lies across all class means.
    """
    vertices = 3 * simplex_vertices(num_classes, dim, seed)
    centre = np.linspace(-1, 2, dim)
    weight = 2 * vertices
    made = world(
        "collapsed",
        vertices + centre,
        count,
        0.0,
        weight=weight,
        bias=-weight @ centre,
    )
    if dim <= num_classes:
        return made
    across = torch.from_numpy(np.linalg.svd(vertices + centre)[2][-1])
    spread = torch.from_numpy(weight[:1])
    return made.replace(outsiders=torch.cat([across + spread, 3 * across - spread]))


def _by_hand() -> World:
    """Section 6.1 of the reference: every number is known in closed form."""
    return World(
        "by hand",
        torch.tensor([[1, 0], [3, 0], [-1, 1], [-3, -1]], dtype=torch.float64),
        torch.tensor([0, 0, 1, 1]),
        2,
        torch.tensor([[1, 1], [-1, -1]], dtype=torch.float64),
        torch.zeros(2, dtype=torch.float64),
    )


def _one_class_longer() -> World:
    means = simplex_vertices(5, 8, 2)
    means[0] *= 3
    return world("one class longer", means, 10, 0.2, seed=3)


def _minority_merged() -> World:
    means = simplex_vertices(6, 8, 4)
    means[3:] = means[3] + 1e-3 * np.random.default_rng(5).standard_normal((3, 8))
    return world("minority merged", means, [40, 40, 40, 2, 2, 2], 0.1, seed=6)


def _flat() -> World:
    """Six class means that span two of eight dimensions, exactly."""
    means = np.zeros((6, 8))
    means[:, :2] = [[4, 0], [2, 3], [-1, 4], [-4, 1], [-2, -3], [3, -2]]
    return world("means in a plane", means, 8, 0.5, seed=7, in_pairs=True)


def _steep() -> World:
    """Between-class singular values from 1 to 1e-5: pinv in float32 forgets the small ones."""
    rng = np.random.default_rng(8)
    directions = rotation(20, 9)[:5] * np.logspace(0, -5, 5)[:, None]
    return world("steep hierarchy", rng.standard_normal((6, 5)) @ directions, 10, 1e-5, seed=10)


def _one_class_unseen() -> World:
    return world("classes 2 and 5 unseen", simplex_vertices(6, 7, 11), [9, 9, 0, 9, 9, 0], 0.3)


def _rng_means(num_classes: int, dim: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_classes, dim))


WORLDS: tuple[World, ...] = (
    collapsed(),
    world("noisy", simplex_vertices(5, 8, 12), 12, 0.4, seed=13),
    _by_hand(),
    _one_class_longer(),
    _minority_merged(),
    world("K > d + 1", _rng_means(9, 3, 14), 8, 0.3, seed=15),
    world("K = d + 1", _rng_means(6, 5, 16), 8, 0.3, seed=17),
    _one_class_unseen(),
    world("one sample per class", _rng_means(5, 6, 18), 1, 0.3, seed=19),
    world("some singletons", _rng_means(5, 6, 20), [1, 7, 1, 7, 7], 0.3, seed=21),
    world("long tail", simplex_vertices(8, 12, 22), [192, 106, 59, 32, 18, 10, 5, 3], 0.5, seed=23),
    _flat(),
    _steep(),
    world("two classes", _rng_means(2, 3, 24), 10, 0.5, seed=25),
    world("one dimension", np.array([[-1.0], [0.5], [3.0]]), 6, 0.2, seed=26),
    world("cross-polytope", cross_polytope(3), 3, 0.0),
    world("far and tight", 30 * simplex_vertices(5, 8, 27) + 30, 20, 1e-5, seed=28),
)

world_cases = {"argvalues": WORLDS, "ids": [w.name for w in WORLDS]}


# --- metrics: what each sees and what it is blind to ---------------------------------------------
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
    "rounding_share": "test_noise.py: features rounded to a format",
    "WhitenedSpread": "test_whitened.py: nc1 without a (d, d) array",
    "between_condition": "test_whitened.py: rank and condition",
    "SpreadWithin": "test_uniformity.py: hug_intra in parts",
    "least_mean_energy": "test_uniformity.py: the gap vanishes at every closed form",
}


# --- losses ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossCase:
    """A loss, and the same loss as slow loops over float64 arrays.

    `mean_over` says of what it is a mean: of samples, of classes in the batch, or of classes that
    weigh as many samples as they have.
    """

    name: str
    kind: type[AbstractLoss]
    arguments: dict[str, Any]
    reference: Callable[..., float]  # (features, labels, weight, bias)
    takes_bias: bool = True
    rows: int = 4  # of the classifier; classes are four
    features_get_whole_gradient: bool = True  # false where some of it is stopped on purpose
    mean_over: Literal["samples", "classes", "classes by size"] = "samples"
    stops_gradient: bool = False  # a part of the gradient to the weight is left out on purpose
    refuses_zero_rows: bool = False  # of the weight
    maker: Callable[..., AbstractLoss] | None = None  # another than the class itself

    def make(self) -> AbstractLoss:
        return (self.maker or self.kind)(**self.arguments)


_COUNTS = (1, 20, 300, 7)  # of the four classes that the loss laws use


def _plain_squares(*operands: Any, true_weight: float = 1.0, target: float = 1.0) -> float:
    """Half the sum over the classes; the reference takes their mean."""
    classes = len(operands[2])
    return classes / 2 * reference.losses.squared_error(*operands, kappa=true_weight, target=target)


# Leaves at three depths, and a class X that is an inner node beside its children a and Y.
LOSS_TREE = Hierarchy.from_pairs(
    [("R", "X"), ("R", "b"), ("X", "a"), ("X", "Y"), ("Y", "c")], classes=["c", "X", "b", "a"]
)


def _on_the_tree(loss: Callable[..., float], **options: Any) -> Callable[..., float]:
    parent, nodes = LOSS_TREE.parent.tolist(), LOSS_TREE.node_of_class.tolist()
    tree = reference.hierarchical_losses.Tree(parent, nodes)
    return lambda *operands: loss(*operands, tree=tree, **options)


def _soft_labels(*operands: Any, sharpness: float) -> float:
    parent, nodes = LOSS_TREE.parent.tolist(), LOSS_TREE.node_of_class.tolist()
    table = reference.mistakes.distances(parent, nodes, "lca_height")
    return reference.hierarchical_losses.soft_labels(*operands, table=table, sharpness=sharpness)


def _hug(name: str, **arguments: Any) -> LossCase:
    known = {key: value for key, value in arguments.items() if key != "detach_proxies"}
    mean_over = "classes"
    if not arguments.get("class_balanced", True):
        mean_over = "classes by size" if arguments.get("measure") == "mhs" else "samples"
    return LossCase(
        name,
        HUG,
        arguments,
        lambda *operands: reference.losses.hug(*operands, **known),
        takes_bias=False,
        mean_over=mean_over,
        stops_gradient=arguments.get("detach_proxies", True),
        refuses_zero_rows=True,
    )


LOSS_CASES: tuple[LossCase, ...] = (
    LossCase("cross entropy", CrossEntropy, {}, reference.losses.cross_entropy),
    LossCase(
        "cross entropy, smoothed",
        CrossEntropy,
        {"label_smoothing": 0.2},
        lambda *operands: reference.losses.cross_entropy(*operands, smoothing=0.2),
    ),
    LossCase(
        "cross entropy, adjusted",
        CrossEntropy,
        {"class_counts": _COUNTS},
        lambda *operands: reference.losses.cross_entropy(*operands, counts=_COUNTS),
    ),
    LossCase(
        "cross entropy, smoothed and adjusted by half",
        CrossEntropy,
        {"label_smoothing": 0.1, "class_counts": _COUNTS, "adjustment": 0.5},
        lambda *operands: reference.losses.cross_entropy(
            *operands, smoothing=0.1, counts=_COUNTS, strength=0.5
        ),
    ),
    LossCase("squared error", SquaredError, {}, _plain_squares),
    LossCase(
        "squared error, rescaled",
        SquaredError,
        {"true_weight": 5.0, "target": 3.0},
        lambda *operands: _plain_squares(*operands, true_weight=5.0, target=3.0),
    ),
    LossCase(
        "dot regression", DotRegression, {}, reference.losses.dot_regression, takes_bias=False
    ),
    LossCase(
        "dot regression, longer features",
        DotRegression,
        {"feature_norm": 2.5},
        lambda *operands: reference.losses.dot_regression(*operands, length=2.5),
        takes_bias=False,
    ),
    LossCase("frame cosine", FrameCosine, {}, reference.losses.frame_cosine),
    LossCase(
        "frame cosine, mixed above 1",
        FrameCosine,
        {"mixing": 1.5},
        lambda *operands: reference.losses.frame_cosine(*operands, mixing=1.5),
    ),
    LossCase(
        "hierarchical cross entropy",
        HierarchicalCrossEntropy,
        {"hierarchy": LOSS_TREE},
        _on_the_tree(reference.hierarchical_losses.hierarchical_cross_entropy, decay=0.1),
    ),
    LossCase(
        "hierarchical cross entropy, fine steps first",
        HierarchicalCrossEntropy,
        {"hierarchy": LOSS_TREE, "depth_decay": -0.7},
        _on_the_tree(reference.hierarchical_losses.hierarchical_cross_entropy, decay=-0.7),
    ),
    LossCase(
        "soft labels",
        SoftLabels,
        {"distances": LOSS_TREE, "sharpness": 3.0},
        lambda *operands: _soft_labels(*operands, sharpness=3.0),
    ),
    LossCase(
        "conditional softmax",
        ConditionalSoftmax,
        {"hierarchy": LOSS_TREE},
        _on_the_tree(reference.hierarchical_losses.conditional_softmax),
        rows=6,
    ),
    LossCase(
        "conditional softmax, coarse steps first",
        ConditionalSoftmax,
        {"hierarchy": LOSS_TREE, "depth_decay": 0.5},
        _on_the_tree(reference.hierarchical_losses.conditional_softmax, decay=0.5),
        rows=6,
    ),
    LossCase(
        "barz denzler",
        BarzDenzler,
        {},
        reference.hierarchical_losses.barz_denzler,
        takes_bias=False,
    ),
    LossCase(
        "multi-granularity",
        MultiGranularity,
        {"hierarchy": LOSS_TREE},
        _on_the_tree(reference.hierarchical_losses.multi_granularity),
        rows=10,
        features_get_whole_gradient=False,
    ),
    # Separation compares samples: test_losses_hierarchical.py has it.
    LossCase(
        "hierarchy-aware features",
        HierarchyAwareFeatures,
        {"hierarchy": LOSS_TREE, "consistency": 0.5, "separation": 0.0},
        _on_the_tree(
            reference.hierarchical_losses.hierarchy_aware_features, consistency=0.5, separation=0.0
        ),
        rows=10,
    ),
    LossCase(
        "normalised cross entropy",
        NormalizedCrossEntropy,
        {},
        reference.losses.normalized_cross_entropy,
        takes_bias=False,
    ),
    LossCase(
        "normalised cross entropy, warm",
        NormalizedCrossEntropy,
        {"temperature": 1.5},
        lambda *operands: reference.losses.normalized_cross_entropy(*operands, temperature=1.5),
        takes_bias=False,
    ),
    _hug("hug"),
    _hug("hug, weights", inter_weight=0.15, intra_weight=0.015),
    _hug("hug, log and squares", inter_power=0, intra_power=-2, detach_proxies=False),
    _hug(
        "hug, other powers, over samples",
        inter_power=3.5,
        intra_power=-0.5,
        detach_proxies=False,
        class_balanced=False,
    ),
    _hug("hug, negative power", inter_power=-1, detach_proxies=False),
    _hug("hug mhs", measure="mhs", detach_proxies=False),
    _hug("hug mhs, over samples", measure="mhs", class_balanced=False, inter_weight=2),
    _hug("hug mgd", measure="mgd"),
    _hug("hug mgd, attached", measure="mgd", intra_weight=0.5, detach_proxies=False),
    _hug("hug mgd, over samples", measure="mgd", class_balanced=False, jitter=1e-3),
    LossCase(
        "hug, released",
        HUG,
        {"inter_weight": 0.5, "intra_weight": 2.0},
        lambda *operands: reference.losses.released_hug(
            *operands, inter_weight=0.5, intra_weight=2.0
        ),
        takes_bias=False,
        mean_over="classes",
        stops_gradient=True,
        refuses_zero_rows=True,
        maker=HUG.released,
    ),
)

loss_cases = {"argvalues": LOSS_CASES, "ids": [case.name for case in LOSS_CASES]}


# --- frames ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FrameCase:
    """A frame, the fewest dimensions it needs, and its Gram matrix in closed form."""

    name: str  # in FRAMES
    make: Callable[..., Frame]  # (num_classes, dim, generator=None, *, dtype=...)
    min_dim: Callable[[int], int]  # for the Gram matrix below
    cosine: Callable[[int], float]  # of every pair
    sums_to_zero: bool
    needs: Callable[[int], int] | None = None  # the fewest dimensions it exists in, if fewer


FRAME_CASES: tuple[FrameCase, ...] = (
    FrameCase("simplex", simplex_etf, lambda k: k - 1, lambda k: -1 / (k - 1), True),
    FrameCase("orthogonal", orthogonal_frame, lambda k: k, lambda k: 0.0, False),
    FrameCase(
        "code",
        spherical_code,
        lambda k: k - 1,
        lambda k: -1 / (k - 1),
        True,
        needs=lambda k: 1 if k == 2 else 2,
    ),
)

# Public functions and classes in frames/ that are no rows of `FRAMES`.
FRAME_PARTS = {
    "ClosedForm",
    "Objective",
    "ReferenceEnergy",
    "Smooth",
    "as_objective",
    "balanced_sizes",
    "cache_folder",
    "cap_angle",
    "check_code_size",
    "closed_form",
    "closed_form_status",
    "constrained",
    "descend",
    "descend_blockwise",
    "framed",
    "largest_cosine",
    "max_cosine_bound",
    "mean_energy",
    "one_vs_rest_distance",
    "optimal_configuration",
    "polygon",
    "reference_energy",
    "simplices",
    "softmax_code_bounds",
    "softmax_code_margin",
    "unbalanced_sizes",
    "unit",
    "volume_bound",
}

frame_cases = {"argvalues": FRAME_CASES, "ids": [case.name for case in FRAME_CASES]}


# --- heads ----------------------------------------------------------------------------------------


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


# --- predictions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PredictionCase:
    """What `predict` is asked, and `unconstrained` then judges from some random starts."""

    name: str
    arguments: Mapping[str, Any]
    starts: int = 2


BALANCED_COUNTS, STEP_COUNTS = (6,) * 4, (9, 9, 2, 2)
TAIL_COUNTS, DYING_COUNTS = (20, 10, 5, 3), (30, 12, 5, 4, 2)
_FACTORS = (1.5, 0.7, 1.2, 0.8, 1.1, 0.9)


def with_targets(classes: int) -> dict[str, Any]:
    """Two targets coincide, one is zero: not one-hot, not of full rank."""
    generator = torch.Generator().manual_seed(classes)
    targets = torch.randn(classes, classes, generator=generator, dtype=torch.float64)
    targets[1], targets[2] = targets[0], 0
    return {"targets": targets}


def with_scales(classes: int) -> dict[str, Any]:
    return {"class_scales": _FACTORS[:classes]}


def with_weights(classes: int) -> dict[str, Any]:
    return {"class_weights": _FACTORS[:classes]}


def prediction_grid(
    losses: Sequence[str],
    counts: Sequence[Sequence[int]],
    decays: Sequence[float],
    biases: Sequence[Any],
    depths: Sequence[int] = (1,),
    options: Callable[[int], dict[str, Any]] = lambda classes: {},
    starts: int = 2,
) -> Iterator[PredictionCase]:
    """All combinations; the features are decayed a little less than the layers."""
    for loss, sizes, decay, bias, depth in itertools.product(
        losses, counts, decays, biases, depths
    ):
        arguments = {
            "loss": loss, "counts": sizes, "weight_decay": decay, "feature_decay": 0.8 * decay,
            "bias": bias, "depth": depth, **options(len(sizes)),
        }  # fmt: skip
        kind = "targets" if "targets" in arguments else loss
        given = "".join(f"-{key}" for key in arguments if key == "activation")
        name = f"{kind}{given}-{'.'.join(map(str, sizes))}-depth{depth}-{decay}-{bias}"
        yield PredictionCase(name, arguments, starts)


# A row or more for every closed form and program, on both sides of where classes die or merge.
PREDICTION_CASES: tuple[PredictionCase, ...] = (
    *prediction_grid(["mse"], [TAIL_COUNTS], [0.02], ["none", "free"], [1, 2, 3]),
    *prediction_grid(["mse"], [BALANCED_COUNTS], [0.02, 0.2], [0.05, "none", "free"]),
    *prediction_grid(["mse"], [STEP_COUNTS], [0.02], [0.05]),
    *prediction_grid(["mse"], [DYING_COUNTS], [0.06], ["none", "free"], [1, 2, 3]),
    *prediction_grid(["mse"], [TAIL_COUNTS], [0.001], ["none"], [6]),
    *prediction_grid(["ce"], [BALANCED_COUNTS], [0.02, 0.2], ["none"]),
    *prediction_grid(["ce"], [STEP_COUNTS, DYING_COUNTS], [0.005, 0.06], ["none", "free", 0.05]),
    *prediction_grid(
        ["label_smoothing"], [BALANCED_COUNTS, TAIL_COUNTS], [0.02, 0.2], ["none"],
        options=lambda _: {"label_smoothing": 0.1},
    ),
    *prediction_grid(
        ["focal"], [BALANCED_COUNTS], [0.005, 0.2], ["none"],
        options=lambda _: {"focal_power": 2.0},
    ),
    *prediction_grid(
        ["cdt", "ldt"], [TAIL_COUNTS], [0.02, 0.06], ["none", "free"], options=with_scales
    ),
    *prediction_grid(
        ["weighted_mse"], [TAIL_COUNTS], [0.02, 0.06], ["none", "free"], options=with_weights
    ),
    *prediction_grid(
        ["mse"], [TAIL_COUNTS], [0.02], ["none", "free"], [1, 2], options=with_targets
    ),
    # Many local minima: more starts.
    *prediction_grid(
        ["ce"], [BALANCED_COUNTS, DYING_COUNTS], [0.02, 0.06], ["none"],
        options=lambda _: {"activation": "relu"}, starts=8,
    ),
    *prediction_grid(
        ["ce"], [TAIL_COUNTS], [0.005, 0.06], [1.0],
        options=lambda _: {"activation": "relu"}, starts=8,
    ),
    *prediction_grid(
        ["mse", "label_smoothing"], [BALANCED_COUNTS], [0.02], ["free"],
        options=lambda _: {"activation": "relu"}, starts=8,
    ),
    *prediction_grid(["ce"], [(2, 2, 2)], [1e-3], ["none"], [3], starts=8),
)  # fmt: skip
