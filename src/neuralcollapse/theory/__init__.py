"""What geometry a loss, class counts and decay lead to, before a step is taken."""

from neuralcollapse.theory.balance import balance_residual as balance_residual
from neuralcollapse.theory.balance import effective_feature_decay as effective_feature_decay
from neuralcollapse.theory.certificates import certificate as certificate
from neuralcollapse.theory.constraints import layer_peeled as layer_peeled
from neuralcollapse.theory.constraints import (
    layer_peeled_collapse_ratio as layer_peeled_collapse_ratio,
)
from neuralcollapse.theory.constraints import spherical as spherical
from neuralcollapse.theory.design import collapse_threshold as collapse_threshold
from neuralcollapse.theory.design import equalising_class_weights as equalising_class_weights
from neuralcollapse.theory.design import max_weight_decay as max_weight_decay
from neuralcollapse.theory.limits import vanishing_decay as vanishing_decay
from neuralcollapse.theory.prediction import Prediction as Prediction
from neuralcollapse.theory.regimes import predict as predict
from neuralcollapse.theory.units import Decays as Decays
from neuralcollapse.theory.units import from_training as from_training
