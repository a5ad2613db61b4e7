"""A network trained to what a prediction says, as statistics and weight."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from neuralcollapse import ClassStatistics
from neuralcollapse.theory import Prediction
from reference.theory import Point, realised

DECAYS: dict[str, Any] = {"weight_decay": 0.01, "feature_decay": 0.004}


def trained(prediction: Prediction) -> tuple[ClassStatistics, Tensor, Point]:
    point = realised(prediction)
    classes = prediction.num_classes
    statistics = ClassStatistics.from_features(point.features, point.labels, classes)
    return statistics, point.layers[0], point
