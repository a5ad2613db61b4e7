"""The simplex equiangular tight frame."""

import torch

from neuralcollapse.frames.frame import Frame, check_size, embed


def simplex_etf(
    num_classes: int,
    dim: int,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Frame:
    """K unit vectors whose cosines are all -1/(K-1), the widest angle that K vectors can share.

    The vertices of a regular simplex centred at the origin; their sum is zero and they span K-1
    dimensions, so dim = K-1 suffices.

    Args:
        num_classes: K, at least 2.
        dim: d, at least K-1.
        generator: for a random orientation; without one the frame lies in the first K-1
            coordinates, always the same.
        dtype: of the vectors; they are computed in float64.

    Raises:
        ValueError: if K < 2 or dim < K-1.

    Example:
        >>> frame = simplex_etf(num_classes=3, dim=2)
        >>> frame.gram.round(decimals=4).tolist()[0]
        [1.0, -0.5, -0.5]
    """
    num_classes, dim = check_size(num_classes, dim, 1)
    # Column j of the Helmert basis of the complement of (1, ..., 1): j ones, then -j, then zeros.
    rank = num_classes - 1
    step = torch.arange(1, num_classes, dtype=torch.float64)
    basis = torch.ones(num_classes, rank, dtype=torch.float64).triu()
    basis[1:].diagonal().copy_(-step)
    basis = basis / (step * (step + 1)).sqrt()
    vectors = basis * (num_classes / rank) ** 0.5
    placed = embed(vectors, dim, generator, dtype)
    return Frame("simplex ETF", placed, bound=-1 / rank, status="proved")
