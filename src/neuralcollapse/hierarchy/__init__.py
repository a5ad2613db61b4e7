"""Hierarchies of classes: parse, check, and measure distances under a named convention."""

from neuralcollapse.hierarchy.distances import DISTANCE_KINDS as DISTANCE_KINDS
from neuralcollapse.hierarchy.distances import DistanceCheck as DistanceCheck
from neuralcollapse.hierarchy.distances import check_distances as check_distances
from neuralcollapse.hierarchy.tree import Hierarchy as Hierarchy
