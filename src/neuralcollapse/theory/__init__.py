"""What geometry a loss, class counts and decay lead to, before a step is taken."""

from neuralcollapse.theory.prediction import Prediction as Prediction
from neuralcollapse.theory.regimes import predict as predict
