"""Metrics of neural collapse, and the table that names them."""

from neuralcollapse.metrics.angles import equiangle as equiangle
from neuralcollapse.metrics.angles import equinorm as equinorm
from neuralcollapse.metrics.angles import etf_distance as etf_distance
from neuralcollapse.metrics.angles import max_angle as max_angle
from neuralcollapse.metrics.angles import nc2_equiangle as nc2_equiangle
from neuralcollapse.metrics.angles import nc2_equinorm as nc2_equinorm
from neuralcollapse.metrics.angles import nc2_etf_distance as nc2_etf_distance
from neuralcollapse.metrics.angles import nc2_max_angle as nc2_max_angle
from neuralcollapse.metrics.angles import nc2w_equiangle as nc2w_equiangle
from neuralcollapse.metrics.angles import nc2w_equinorm as nc2w_equinorm
from neuralcollapse.metrics.angles import nc2w_etf_distance as nc2w_etf_distance
from neuralcollapse.metrics.angles import nc2w_max_angle as nc2w_max_angle
from neuralcollapse.metrics.decision import NearestMean as NearestMean
from neuralcollapse.metrics.decision import linear_decision as linear_decision
from neuralcollapse.metrics.decision import nc4_disagreement as nc4_disagreement
from neuralcollapse.metrics.duality import nc3_alignment as nc3_alignment
from neuralcollapse.metrics.duality import nc3_duality as nc3_duality
from neuralcollapse.metrics.table import METRICS as METRICS
from neuralcollapse.metrics.table import Metric as Metric
from neuralcollapse.metrics.table import evaluate as evaluate
from neuralcollapse.metrics.variability import cdnv as cdnv
from neuralcollapse.metrics.variability import nc1 as nc1
from neuralcollapse.metrics.variability import nc1_trace_ratio as nc1_trace_ratio
