"""Losses. Each is called as `loss(features, labels, weight, bias)` and owns no classifier."""

from neuralcollapse.losses.cross_entropy import CrossEntropy as CrossEntropy
from neuralcollapse.losses.dot_regression import DotRegression as DotRegression
from neuralcollapse.losses.frame_cosine import FrameCosine as FrameCosine
from neuralcollapse.losses.loss import AbstractLoss as AbstractLoss
from neuralcollapse.losses.squared_error import SquaredError as SquaredError

LOSSES: tuple[type[AbstractLoss], ...] = (
    CrossEntropy,
    SquaredError,
    DotRegression,
    FrameCosine,
)
