"""Frames: one unit vector per class. A frame is made by a function; `FRAMES` names them."""

from collections.abc import Callable

from neuralcollapse.frames.frame import Frame as Frame
from neuralcollapse.frames.hierarchical import NodeSubspaces as NodeSubspaces
from neuralcollapse.frames.hierarchical import barz_denzler_frame as barz_denzler_frame
from neuralcollapse.frames.hierarchical import hierarchy_frame as hierarchy_frame
from neuralcollapse.frames.hierarchical import node_subspaces as node_subspaces
from neuralcollapse.frames.orthogonal import orthogonal_frame as orthogonal_frame
from neuralcollapse.frames.simplex import simplex_etf as simplex_etf

# Name on the command line, and the function (num_classes, dim, generator) that makes the frame.
FRAMES: tuple[tuple[str, Callable[..., Frame]], ...] = (
    ("simplex", simplex_etf),
    ("orthogonal", orthogonal_frame),
)
