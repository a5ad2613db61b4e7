"""Theory: the geometry that counts, loss, depth, bias and weight decay lead to."""

from neuralcollapse.theory.unconstrained import UnconstrainedOptimum as UnconstrainedOptimum
from neuralcollapse.theory.unconstrained import unconstrained as unconstrained
