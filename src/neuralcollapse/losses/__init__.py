"""Losses. Each is called as `loss(features, labels, weight, bias)` and owns no classifier."""

from neuralcollapse.losses.barz_denzler import BarzDenzler as BarzDenzler
from neuralcollapse.losses.conditional_softmax import ConditionalSoftmax as ConditionalSoftmax
from neuralcollapse.losses.cross_entropy import CrossEntropy as CrossEntropy
from neuralcollapse.losses.dot_regression import DotRegression as DotRegression
from neuralcollapse.losses.frame_cosine import FrameCosine as FrameCosine
from neuralcollapse.losses.hierarchical_cross_entropy import (
    HierarchicalCrossEntropy as HierarchicalCrossEntropy,
)
from neuralcollapse.losses.hierarchy_aware_features import (
    HierarchyAwareFeatures as HierarchyAwareFeatures,
)
from neuralcollapse.losses.hug import HUG as HUG
from neuralcollapse.losses.loss import AbstractLoss as AbstractLoss
from neuralcollapse.losses.multi_granularity import MultiGranularity as MultiGranularity
from neuralcollapse.losses.normalized_cross_entropy import (
    NormalizedCrossEntropy as NormalizedCrossEntropy,
)
from neuralcollapse.losses.soft_labels import SoftLabels as SoftLabels
from neuralcollapse.losses.squared_error import SquaredError as SquaredError

LOSSES: tuple[type[AbstractLoss], ...] = (
    CrossEntropy,
    SquaredError,
    DotRegression,
    HUG,
    NormalizedCrossEntropy,
    FrameCosine,
    HierarchicalCrossEntropy,
    SoftLabels,
    ConditionalSoftmax,
    BarzDenzler,
    MultiGranularity,
    HierarchyAwareFeatures,
)
