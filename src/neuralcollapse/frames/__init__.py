"""Frames: one unit vector per class. A frame is made by a function; `FRAMES` names them."""

from neuralcollapse.frames.bounds import max_cosine_bound as max_cosine_bound
from neuralcollapse.frames.closed_forms import closed_form_status as closed_form_status
from neuralcollapse.frames.codes import spherical_code as spherical_code
from neuralcollapse.frames.frame import Frame as Frame
from neuralcollapse.frames.hierarchical import barz_denzler_frame as barz_denzler_frame
from neuralcollapse.frames.hierarchical import hierarchy_frame as hierarchy_frame
from neuralcollapse.frames.margins import one_vs_rest_distance as one_vs_rest_distance
from neuralcollapse.frames.margins import softmax_code_bounds as softmax_code_bounds
from neuralcollapse.frames.margins import softmax_code_margin as softmax_code_margin
from neuralcollapse.frames.nearest import nearest_frame as nearest_frame
from neuralcollapse.frames.node_spaces import NodeSubspaces as NodeSubspaces
from neuralcollapse.frames.node_spaces import node_subspaces as node_subspaces
from neuralcollapse.frames.optimum import ReferenceEnergy as ReferenceEnergy
from neuralcollapse.frames.optimum import optimal_configuration as optimal_configuration
from neuralcollapse.frames.optimum import reference_energy as reference_energy
from neuralcollapse.frames.orthogonal import orthogonal_frame as orthogonal_frame
from neuralcollapse.frames.simplex import simplex_etf as simplex_etf
from neuralcollapse.frames.table import FRAMES as FRAMES
from neuralcollapse.frames.table import make_frame as make_frame
