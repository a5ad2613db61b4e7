"""The directions that centred means span, and how far they go in each."""

import torch
from torch import Tensor


def mean_spectrum(centred: Tensor, uncentred: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values (R,) and directions (R, d) of centred means, those of rounding left out.

    R is K-1 for means in general position, and 0 for fewer than two or coinciding ones.

    Args:
        centred: (K, d) float64, any multiple of the means less their centre by row.
        uncentred: (K, d), the means: their size says what is rounding.
    """
    num_means, dim = centred.shape
    if num_means < 2:
        return centred.new_zeros(0), centred.new_zeros(0, dim)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    singular, directions = singular[: num_means - 1], directions[: num_means - 1]
    # A direction below the rounding of the means themselves, offset included, is not there.
    rounding = max(num_means, dim) * torch.finfo(torch.float64).eps * uncentred.double().norm()
    kept = singular > rounding
    return singular[kept], directions[kept]
