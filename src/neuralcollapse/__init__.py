"""Measure, induce and predict the geometry that classifiers collapse to.

The names below are the face of the library. They are imported when first used, so that
`import neuralcollapse`, and the command line's --help, do not wait for PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from neuralcollapse.energy import gaussian_energy as gaussian_energy
    from neuralcollapse.energy import gaussian_log_determinant as gaussian_log_determinant
    from neuralcollapse.energy import max_cosine as max_cosine
    from neuralcollapse.energy import riesz_energy as riesz_energy
    from neuralcollapse.energy import separation as separation
    from neuralcollapse.frames import Frame as Frame
    from neuralcollapse.frames import ReferenceEnergy as ReferenceEnergy
    from neuralcollapse.frames import closed_form_status as closed_form_status
    from neuralcollapse.frames import make_frame as make_frame
    from neuralcollapse.frames import max_cosine_bound as max_cosine_bound
    from neuralcollapse.frames import optimal_configuration as optimal_configuration
    from neuralcollapse.frames import orthogonal_frame as orthogonal_frame
    from neuralcollapse.frames import reference_energy as reference_energy
    from neuralcollapse.frames import simplex_etf as simplex_etf
    from neuralcollapse.geometry import Geometry as Geometry
    from neuralcollapse.geometry import gram_distance as gram_distance
    from neuralcollapse.heads import AbstractHead as AbstractHead
    from neuralcollapse.heads import ClassMeanHead as ClassMeanHead
    from neuralcollapse.heads import CosineHead as CosineHead
    from neuralcollapse.heads import DeepLinearHead as DeepLinearHead
    from neuralcollapse.heads import FixedHead as FixedHead
    from neuralcollapse.heads import LinearHead as LinearHead
    from neuralcollapse.heads import RotatedHead as RotatedHead
    from neuralcollapse.losses import HUG as HUG
    from neuralcollapse.losses import AbstractLoss as AbstractLoss
    from neuralcollapse.losses import CrossEntropy as CrossEntropy
    from neuralcollapse.losses import DotRegression as DotRegression
    from neuralcollapse.losses import NormalizedCrossEntropy as NormalizedCrossEntropy
    from neuralcollapse.losses import SquaredError as SquaredError
    from neuralcollapse.measurement import Measurement as Measurement
    from neuralcollapse.measurement import measure as measure
    from neuralcollapse.measurement import measure_features as measure_features
    from neuralcollapse.metrics import METRICS as METRICS
    from neuralcollapse.metrics import cdnv as cdnv
    from neuralcollapse.metrics import nc1 as nc1
    from neuralcollapse.metrics import nc1_trace_ratio as nc1_trace_ratio
    from neuralcollapse.metrics import nc2_equiangle as nc2_equiangle
    from neuralcollapse.metrics import nc2_equinorm as nc2_equinorm
    from neuralcollapse.metrics import nc2_etf_distance as nc2_etf_distance
    from neuralcollapse.metrics import nc2_max_angle as nc2_max_angle
    from neuralcollapse.metrics import nc2w_equiangle as nc2w_equiangle
    from neuralcollapse.metrics import nc2w_equinorm as nc2w_equinorm
    from neuralcollapse.metrics import nc2w_etf_distance as nc2w_etf_distance
    from neuralcollapse.metrics import nc2w_max_angle as nc2w_max_angle
    from neuralcollapse.metrics import nc3_alignment as nc3_alignment
    from neuralcollapse.metrics import nc3_duality as nc3_duality
    from neuralcollapse.metrics import nc4_disagreement as nc4_disagreement
    from neuralcollapse.statistics import ClassStatistics as ClassStatistics
    from neuralcollapse.statistics import StatisticsAccumulator as StatisticsAccumulator
    from neuralcollapse.tap import FeatureTap as FeatureTap
    from neuralcollapse.theory import Prediction as Prediction
    from neuralcollapse.theory import UnconstrainedOptimum as UnconstrainedOptimum
    from neuralcollapse.theory import predict as predict
    from neuralcollapse.theory import unconstrained as unconstrained

# The same names by the module they come from; a test holds the two lists together.
_FACE = {
    "energy": "gaussian_energy gaussian_log_determinant max_cosine riesz_energy separation",
    "frames": (
        "Frame ReferenceEnergy closed_form_status make_frame max_cosine_bound "
        "optimal_configuration orthogonal_frame reference_energy simplex_etf"
    ),
    "geometry": "Geometry gram_distance",
    "heads": (
        "AbstractHead ClassMeanHead CosineHead DeepLinearHead FixedHead LinearHead RotatedHead"
    ),
    "losses": "AbstractLoss CrossEntropy DotRegression HUG NormalizedCrossEntropy SquaredError",
    "measurement": "Measurement measure measure_features",
    "metrics": (
        "METRICS cdnv nc1 nc1_trace_ratio nc2_equiangle nc2_equinorm nc2_etf_distance "
        "nc2_max_angle nc2w_equiangle nc2w_equinorm nc2w_etf_distance nc2w_max_angle "
        "nc3_alignment nc3_duality nc4_disagreement"
    ),
    "statistics": "ClassStatistics StatisticsAccumulator",
    "tap": "FeatureTap",
    "theory": "Prediction UnconstrainedOptimum predict unconstrained",
}
_HOME = {name: module for module, names in _FACE.items() for name in names.split()}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
