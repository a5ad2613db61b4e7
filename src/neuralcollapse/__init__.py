"""Measure, induce and predict the geometry that classifiers collapse to.

The names below are the face of the library. They are imported when first used, so that
`import neuralcollapse`, and the command line's --help, do not wait for PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from neuralcollapse.classifier import head_operands as head_operands
    from neuralcollapse.classifier import to_head as to_head
    from neuralcollapse.cluster import measure_shards_on_ray as measure_shards_on_ray
    from neuralcollapse.decisions import conditional_risk as conditional_risk
    from neuralcollapse.decisions import minimum_risk as minimum_risk
    from neuralcollapse.depth import DepthProfile as DepthProfile
    from neuralcollapse.depth import SeparationLaw as SeparationLaw
    from neuralcollapse.energy import gaussian_energy as gaussian_energy
    from neuralcollapse.energy import gaussian_log_determinant as gaussian_log_determinant
    from neuralcollapse.energy import max_cosine as max_cosine
    from neuralcollapse.energy import riesz_energy as riesz_energy
    from neuralcollapse.energy import separation as separation
    from neuralcollapse.frame_classifier import FrameClassifier as FrameClassifier
    from neuralcollapse.frame_classifier import ResidualTransform as ResidualTransform
    from neuralcollapse.frames import Frame as Frame
    from neuralcollapse.frames import NodeSubspaces as NodeSubspaces
    from neuralcollapse.frames import ReferenceEnergy as ReferenceEnergy
    from neuralcollapse.frames import barz_denzler_frame as barz_denzler_frame
    from neuralcollapse.frames import closed_form_status as closed_form_status
    from neuralcollapse.frames import hierarchy_frame as hierarchy_frame
    from neuralcollapse.frames import make_frame as make_frame
    from neuralcollapse.frames import max_cosine_bound as max_cosine_bound
    from neuralcollapse.frames import nearest_frame as nearest_frame
    from neuralcollapse.frames import node_subspaces as node_subspaces
    from neuralcollapse.frames import one_vs_rest_distance as one_vs_rest_distance
    from neuralcollapse.frames import optimal_configuration as optimal_configuration
    from neuralcollapse.frames import orthogonal_frame as orthogonal_frame
    from neuralcollapse.frames import reference_energy as reference_energy
    from neuralcollapse.frames import simplex_etf as simplex_etf
    from neuralcollapse.frames import softmax_code_bounds as softmax_code_bounds
    from neuralcollapse.frames import softmax_code_margin as softmax_code_margin
    from neuralcollapse.frames import spherical_code as spherical_code
    from neuralcollapse.geometry import Geometry as Geometry
    from neuralcollapse.geometry import gram_distance as gram_distance
    from neuralcollapse.heads import AbstractHead as AbstractHead
    from neuralcollapse.heads import ClassMeanHead as ClassMeanHead
    from neuralcollapse.heads import CosineHead as CosineHead
    from neuralcollapse.heads import DeepLinearHead as DeepLinearHead
    from neuralcollapse.heads import FixedHead as FixedHead
    from neuralcollapse.heads import LinearHead as LinearHead
    from neuralcollapse.heads import NearestFrameHead as NearestFrameHead
    from neuralcollapse.heads import RotatedHead as RotatedHead
    from neuralcollapse.hierarchy import Hierarchy as Hierarchy
    from neuralcollapse.hierarchy import check_distances as check_distances
    from neuralcollapse.jackknife import Interval as Interval
    from neuralcollapse.jackknife import jackknife_intervals as jackknife_intervals
    from neuralcollapse.losses import HUG as HUG
    from neuralcollapse.losses import AbstractLoss as AbstractLoss
    from neuralcollapse.losses import BarzDenzler as BarzDenzler
    from neuralcollapse.losses import ConditionalSoftmax as ConditionalSoftmax
    from neuralcollapse.losses import CrossEntropy as CrossEntropy
    from neuralcollapse.losses import DotRegression as DotRegression
    from neuralcollapse.losses import FrameCosine as FrameCosine
    from neuralcollapse.losses import HierarchicalCrossEntropy as HierarchicalCrossEntropy
    from neuralcollapse.losses import HierarchyAwareFeatures as HierarchyAwareFeatures
    from neuralcollapse.losses import MultiGranularity as MultiGranularity
    from neuralcollapse.losses import NormalizedCrossEntropy as NormalizedCrossEntropy
    from neuralcollapse.losses import SoftLabels as SoftLabels
    from neuralcollapse.losses import SquaredError as SquaredError
    from neuralcollapse.measurement import Measurement as Measurement
    from neuralcollapse.measuring import measure as measure
    from neuralcollapse.measuring_features import measure_features as measure_features
    from neuralcollapse.metrics import METRICS as METRICS
    from neuralcollapse.metrics import MISTAKE_METRICS as MISTAKE_METRICS
    from neuralcollapse.metrics import BalancedScatter as BalancedScatter
    from neuralcollapse.metrics import calibration_error as calibration_error
    from neuralcollapse.metrics import cdnv as cdnv
    from neuralcollapse.metrics import cdnv_directional as cdnv_directional
    from neuralcollapse.metrics import effective_rank as effective_rank
    from neuralcollapse.metrics import features_effective_rank as features_effective_rank
    from neuralcollapse.metrics import frame_deviation as frame_deviation
    from neuralcollapse.metrics import frame_duality as frame_duality
    from neuralcollapse.metrics import frame_spread as frame_spread
    from neuralcollapse.metrics import gnc2_energy_gap as gnc2_energy_gap
    from neuralcollapse.metrics import gnc2_gaussian as gnc2_gaussian
    from neuralcollapse.metrics import gnc2_log_mean as gnc2_log_mean
    from neuralcollapse.metrics import gnc2_log_variance as gnc2_log_variance
    from neuralcollapse.metrics import gnc2_margin as gnc2_margin
    from neuralcollapse.metrics import gnc3_alignment_spread as gnc3_alignment_spread
    from neuralcollapse.metrics import hierarchical_distance as hierarchical_distance
    from neuralcollapse.metrics import hug_inter as hug_inter
    from neuralcollapse.metrics import hug_intra as hug_intra
    from neuralcollapse.metrics import lca_accuracy as lca_accuracy
    from neuralcollapse.metrics import mistake_severity as mistake_severity
    from neuralcollapse.metrics import nc1 as nc1
    from neuralcollapse.metrics import nc1_trace_ratio as nc1_trace_ratio
    from neuralcollapse.metrics import nc1_trace_unbiased as nc1_trace_unbiased
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
    from neuralcollapse.metrics import nc3_subspace as nc3_subspace
    from neuralcollapse.metrics import nc4_disagreement as nc4_disagreement
    from neuralcollapse.metrics import nc5_orthogonality as nc5_orthogonality
    from neuralcollapse.metrics import preference_score as preference_score
    from neuralcollapse.metrics import principal_angles as principal_angles
    from neuralcollapse.metrics import vci as vci
    from neuralcollapse.mistake_accumulator import MistakeAccumulator as MistakeAccumulator
    from neuralcollapse.mistakes import Mistakes as Mistakes
    from neuralcollapse.shards import measure_shards as measure_shards
    from neuralcollapse.splits import ClassCollapse as ClassCollapse
    from neuralcollapse.splits import SplitComparison as SplitComparison
    from neuralcollapse.splits import class_collapse as class_collapse
    from neuralcollapse.splits import class_groups as class_groups
    from neuralcollapse.splits import compare_splits as compare_splits
    from neuralcollapse.splits import wrong_label_collapse as wrong_label_collapse
    from neuralcollapse.statistics import ClassStatistics as ClassStatistics
    from neuralcollapse.statistics import StatisticsAccumulator as StatisticsAccumulator
    from neuralcollapse.tap import FeatureTap as FeatureTap
    from neuralcollapse.theory import Prediction as Prediction
    from neuralcollapse.theory import UnconstrainedOptimum as UnconstrainedOptimum
    from neuralcollapse.theory import predict as predict
    from neuralcollapse.theory import unconstrained as unconstrained
    from neuralcollapse.transfer import TransferScores as TransferScores
    from neuralcollapse.transfer import linear_probe as linear_probe
    from neuralcollapse.transfer import transfer_scores as transfer_scores

# The same names by the module they come from; a test holds the two lists together.
_FACE = {
    "classifier": "head_operands to_head",
    "cluster": "measure_shards_on_ray",
    "decisions": "conditional_risk minimum_risk",
    "depth": "DepthProfile SeparationLaw",
    "energy": "gaussian_energy gaussian_log_determinant max_cosine riesz_energy separation",
    "frame_classifier": "FrameClassifier ResidualTransform",
    "frames": (
        "Frame NodeSubspaces ReferenceEnergy barz_denzler_frame closed_form_status "
        "hierarchy_frame make_frame max_cosine_bound nearest_frame node_subspaces "
        "one_vs_rest_distance optimal_configuration orthogonal_frame reference_energy simplex_etf "
        "softmax_code_bounds softmax_code_margin spherical_code"
    ),
    "geometry": "Geometry gram_distance",
    "heads": (
        "AbstractHead ClassMeanHead CosineHead DeepLinearHead FixedHead LinearHead "
        "NearestFrameHead RotatedHead"
    ),
    "hierarchy": "Hierarchy check_distances",
    "jackknife": "Interval jackknife_intervals",
    "losses": (
        "AbstractLoss BarzDenzler ConditionalSoftmax CrossEntropy DotRegression FrameCosine HUG "
        "HierarchicalCrossEntropy HierarchyAwareFeatures MultiGranularity "
        "NormalizedCrossEntropy SoftLabels SquaredError"
    ),
    "measurement": "Measurement",
    "measuring": "measure",
    "measuring_features": "measure_features",
    "metrics": (
        "BalancedScatter METRICS MISTAKE_METRICS calibration_error cdnv cdnv_directional "
        "effective_rank features_effective_rank frame_deviation frame_duality frame_spread "
        "gnc2_energy_gap gnc2_gaussian gnc2_log_mean gnc2_log_variance gnc2_margin "
        "gnc3_alignment_spread hierarchical_distance hug_inter hug_intra lca_accuracy "
        "mistake_severity nc1 nc1_trace_ratio nc1_trace_unbiased nc2_equiangle nc2_equinorm "
        "nc2_etf_distance nc2_max_angle nc2w_equiangle nc2w_equinorm nc2w_etf_distance "
        "nc2w_max_angle nc3_alignment nc3_duality nc3_subspace nc4_disagreement "
        "nc5_orthogonality preference_score principal_angles vci"
    ),
    "mistake_accumulator": "MistakeAccumulator",
    "mistakes": "Mistakes",
    "shards": "measure_shards",
    "splits": (
        "ClassCollapse SplitComparison class_collapse class_groups compare_splits "
        "wrong_label_collapse"
    ),
    "statistics": "ClassStatistics StatisticsAccumulator",
    "tap": "FeatureTap",
    "theory": "Prediction UnconstrainedOptimum predict unconstrained",
    "transfer": "TransferScores linear_probe transfer_scores",
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
