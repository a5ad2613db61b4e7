"""A row for every loss: its arguments, and the same loss as slow loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import reference.hierarchical_losses
import reference.losses
import reference.mistakes
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
