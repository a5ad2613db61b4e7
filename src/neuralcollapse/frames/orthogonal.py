"""The orthonormal frame."""

import torch

from neuralcollapse.frames.frame import Frame, check_size, embed


def orthogonal_frame(
    num_classes: int,
    dim: int,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Frame:
    """K unit vectors at right angles.

    What features that cannot be negative, and squared error without a bias, collapse to. Its
    `bound` is the simplex's, which it does not attain: centred, the two are the same.

    Args:
        num_classes: K, at least 2.
        dim: d, at least K.
        generator: for a random orientation; without one the vectors are the first K coordinate
            axes.
        dtype: of the vectors; they are computed in float64.

    Raises:
        ValueError: if K < 2 or dim < K.

    Example:
        >>> orthogonal_frame(num_classes=2, dim=3).vectors.tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    num_classes, dim = check_size(num_classes, dim, 0)
    axes = torch.eye(num_classes, dtype=torch.float64)
    vectors = embed(axes, dim, generator, dtype)
    return Frame("orthogonal frame", vectors, bound=-1 / (num_classes - 1), status="not optimal")
