"""Out-of-distribution detection from collapse: scores of features, fitted once, for any data."""

from neuralcollapse.ood.boundaries import FDBD as FDBD
from neuralcollapse.ood.boundaries import NCI as NCI
from neuralcollapse.ood.boundaries import NearestMean as NearestMean
from neuralcollapse.ood.detector import AbstractDetector as AbstractDetector
from neuralcollapse.ood.evaluation import Separation as Separation
from neuralcollapse.ood.evaluation import separation_of as separation_of
from neuralcollapse.ood.subspaces import NECO as NECO
from neuralcollapse.ood.subspaces import Residual as Residual
from neuralcollapse.ood.subspaces import ViM as ViM

DETECTORS: tuple[type[AbstractDetector], ...] = (NECO, NCI, FDBD, ViM, Residual, NearestMean)
