"""Proven lower bounds on the largest cosine between two of K directions."""

import math

from neuralcollapse.frames.closed_forms import check_code_size


def max_cosine_bound(num_classes: int, dim: int) -> float:
    """Largest proven lower bound."""
    num_classes, dim = check_code_size(num_classes, dim)
    if num_classes <= dim + 1:
        return -1 / (num_classes - 1)
    if dim == 2:
        return math.cos(2 * math.pi / num_classes)
    return 0.0
