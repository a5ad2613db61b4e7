"""The frame of a given Gram matrix that lies nearest to class means."""

from typing import Any

import torch
from torch import Tensor

from neuralcollapse.checks import check_finite, check_matrix
from neuralcollapse.frames.frame import Frame
from neuralcollapse.precision import FullPrecision

# Eigenvalues of a Gram matrix below this share of the largest are rounding.
_RANK_SHARE = 1e-10
# A matrix whose asymmetry or negative eigenvalues exceed this share is no Gram matrix.
_MOST_OFF = 1e-5


def nearest_frame(means: Tensor, frame_gram: Tensor) -> Tensor:
    """(K, d), of all vectors with a Gram matrix, those nearest to the class means.

        argmin over V with V V^T = frame_gram of norm(V - means), Frobenius
        = root @ polar(root^T @ means),  root root^T = frame_gram

    the orthogonal Procrustes problem in closed form, for any Gram matrix: a simplex ETF's, that of
    a class hierarchy, one predicted for imbalanced classes. Only directions of the means that the
    frame can use are turned to; a factor on the means changes nothing, so they need no scale. The
    use of a nearest frame as a target in training: Markou, Ajanthan, Gould 2024, for the simplex
    ETF, which they find by optimisation on a manifold.

    Differentiable in both arguments where the solution is unique, that is where
    root^T @ means has the rank of the Gram matrix; the gradient is exact, also where singular
    values of it coincide.

    Args:
        means: (K, d), class means as they are; centre them for a frame that is centred.
        frame_gram: (K, K), symmetric, no eigenvalue negative, of rank at most d.

    Returns:
        (K, d), in the precision of the means, computed in double.

    Raises:
        ValueError: if shapes do not fit, the matrix is no Gram matrix, or its rank exceeds d.

    Example:
        >>> from neuralcollapse.geometry import simplex_gram
        >>> means = torch.tensor([[2.0, 0.1, 0.0], [-1.0, 1.5, 0.2], [-0.9, -1.8, 0.1]])
        >>> target = nearest_frame(means, simplex_gram(3))
        >>> torch.allclose(target @ target.T, simplex_gram(3).float(), atol=1e-6)
        True
    """
    if not len(check_matrix("means", means)):
        raise ValueError("means must hold at least one class, got none")
    check_finite("means", means)
    root = gram_root(frame_gram, len(means), means.shape[1]).to(means.device)
    # Off the graph of the gradient by autocast, and never in its precision.
    with FullPrecision(means.device.type):
        target = root @ polar(root.T @ means.double())
    return target.to(means.dtype)


def gram_root(frame_gram: Tensor, num_classes: int, dim: int) -> Tensor:
    """(K, r) float64, a root of a Gram matrix of rank r: root root^T = frame_gram.

    Gradients flow to the Gram matrix as far as its rank stays what it is.

    Raises:
        ValueError: as of `nearest_frame`.
    """
    if isinstance(frame_gram, Frame):
        raise TypeError("frame_gram must be a Gram matrix, got a Frame; pass frame.gram")
    check_matrix(
        "frame_gram", frame_gram, rows=num_classes, columns=num_classes, why="one per row of means"
    )
    check_finite("frame_gram", frame_gram)
    gram = frame_gram.double()
    size = gram.detach().abs().max()
    off = (gram - gram.T).detach().abs().max()
    if float(off) > _MOST_OFF * float(size):
        raise ValueError(
            f"frame_gram must be symmetric, got entries that differ by {float(off):.3g} from their "
            "mirror images; pass frame.gram, or vectors @ vectors.T"
        )
    with torch.no_grad():
        values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
        largest, least = float(values[-1]), float(values[0])
        if largest <= 0 or least < -_MOST_OFF * largest:
            raise ValueError(
                "frame_gram must have a positive and no negative eigenvalue, got values from "
                f"{least:.3g} to {largest:.3g}; pass frame.gram, or vectors @ vectors.T"
            )
        # Single precision leaves eigenvalues of 1e-7 where zeros are meant.
        single = torch.finfo(frame_gram.dtype).eps > 1e-10
        kept = values > (_MOST_OFF if single else _RANK_SHARE) * largest
        rank = int(kept.sum())
        if rank > dim:
            raise ValueError(
                f"frame_gram must have a rank of at most {dim}, the width of the means, got "
                f"{rank}; take means of more dimensions"
            )
        # Any root will do: an orthogonal factor behind it cancels in the product.
        basis = vectors[:, kept] / values[kept].sqrt()
    if not frame_gram.requires_grad:
        return gram @ basis
    # For G of rank r and fixed B with B^T G B = I at this point, G B (B^T G B)^(-1/2) is a root of
    # every Gram matrix of this rank nearby, and its derivative is known without that of eigh.
    inner = torch.linalg.cholesky(basis.T @ gram @ basis)
    return torch.linalg.solve_triangular(inner, (gram @ basis).T, upper=False).T


def polar(matrix: Tensor) -> Tensor:
    """(r, d), the rows with orthonormal columns or rows nearest to a matrix (r, d), r <= d.

    U V^T of the singular value decomposition U diag(s) V^T. Where a singular value is zero the
    solution is not unique; one is returned, and no gradient flows along what is open.
    """
    factor: Any = _Polar.apply(matrix)
    return factor


class _Polar(torch.autograd.Function):
    """The orthogonal factor of the polar decomposition.

    Its differential needs sums of singular values in the denominators only, and not the
    differences that make the derivative of a singular value decomposition explode.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
        ctx.save_for_backward(left, singular, right)
        return left @ right

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        left, singular, right = ctx.saved_tensors
        rotated = left.T @ grads[0]
        inside = rotated @ right.T
        sums = singular[:, None] + singular
        floor = max(rotated.shape) * torch.finfo(singular.dtype).eps * singular.max()
        inverse = torch.where(sums > floor, 1 / sums, 0.0)
        skew = (inside - inside.T) * inverse
        outside = rotated - inside @ right
        reach = torch.where(singular > floor, 1 / singular, 0.0)
        return left @ (skew @ right + reach[:, None] * outside)
