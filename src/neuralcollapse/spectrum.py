"""The directions that centred means span, and how far they go in each."""

import torch
from torch import Tensor

# A Gram matrix squares the singular values: down to this share of the largest, squared, the least
# of them keep nine digits.
_LEAST_EIGENVALUE = 1e-6
# Rounding of features to single precision moves their means by some 0.3 / sqrt(d) of it in every
# direction, and the operations that made the features by as much again; with room to spare. Where
# all directions are of that size, features in double precision may differ in them.
_SPACING = 4 * torch.finfo(torch.float32).eps
_STANDS_OUT = 1e-2


def mean_spectrum(centred: Tensor, uncentred: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values (R,) and directions (R, d) of centred means, those of rounding left out.

    R is K-1 for means in general position, or d where that is less, and 0 for fewer than two or
    coinciding ones. Means of more than d features behind a layer normalisation have d-1: it takes
    one direction out, in which what is left is the rounding of single precision. Such a direction
    is left out where it is a hundred times smaller than the largest. Where none is nearly lost they
    come from the Gram matrix, in less than half of the time.

    Args:
        centred: (K, d) float64, any multiple of the means less their centre by row.
        uncentred: (K, d), the means: their size says what is rounding.
    """
    num_means, dim = centred.shape
    if num_means < 2:
        return centred.new_zeros(0), centred.new_zeros(0, dim)
    rank = min(num_means - 1, dim)
    # A direction below the rounding of the means, or of what they are means of, offset included,
    # is not there.
    size = uncentred.double().norm()
    rounding = max(num_means, dim) * torch.finfo(torch.float64).eps * size
    single = _SPACING / dim**0.5 * size

    def stands(singular: Tensor, largest: Tensor) -> Tensor:
        return (singular > rounding) & (singular > single.minimum(_STANDS_OUT * largest))

    wide = num_means <= dim
    values, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    values, vectors = values.flip(0)[:rank], vectors.flip(1)[:, :rank]
    singular = values.clamp(min=0).sqrt()
    if bool((values[-1] > _LEAST_EIGENVALUE * values[0]) & stands(singular[-1], singular[0])):
        return singular, (vectors.T @ centred) / singular[:, None] if wide else vectors.T
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    singular, directions = singular[:rank], directions[:rank]
    kept = stands(singular, singular[0])
    return singular[kept], directions[kept]
