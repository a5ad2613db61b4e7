"""Losses. Each is called as `loss(features, labels, weight, bias)` and owns no classifier."""

from neuralcollapse.losses.cross_entropy import CrossEntropy as CrossEntropy
from neuralcollapse.losses.dot_regression import DotRegression as DotRegression
from neuralcollapse.losses.hug import HUG as HUG
from neuralcollapse.losses.loss import AbstractLoss as AbstractLoss
from neuralcollapse.losses.normalized_cross_entropy import (
    NormalizedCrossEntropy as NormalizedCrossEntropy,
)
from neuralcollapse.losses.squared_error import SquaredError as SquaredError

LOSSES: tuple[type[AbstractLoss], ...] = (
    CrossEntropy,
    SquaredError,
    DotRegression,
    HUG,
    NormalizedCrossEntropy,
)
