"""The unit sphere: directions of vectors, safe at zero."""

import torch
from torch import Tensor


def directions(vectors: Tensor) -> Tensor:
    """Vectors (..., d) at unit length, in float32 or better; a zero vector stays zero.

    The gradient is finite at zero too, and points where it would point for a vector of length 1.

    Example:
        >>> directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    norms = wide.norm(dim=-1, keepdim=True)
    return wide / torch.where(norms > 0, norms, 1.0)
