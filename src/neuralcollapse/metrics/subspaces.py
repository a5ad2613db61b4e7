"""Subspaces: how many directions the class means fill, and whether the classifier spans them."""

import torch
from torch import Tensor

from neuralcollapse.checks import check_matrix
from neuralcollapse.spectrum import mean_spectrum
from neuralcollapse.statistics import ClassStatistics, GlobalMean, check_statistics


def effective_rank(statistics: ClassStatistics, *, global_mean: GlobalMean = "class") -> Tensor:
    """Number of directions that the class means fill, in [1, min(K-1, d)]; the most at collapse.

        exp(-sum_i(p_i log(p_i))),  p_i = s_i^2 / sum_j(s_j^2)

    with s_i the singular values of the centred class means, so that p_i are the shares of the
    eigenvalues of their covariance. Source: Roy, Vetterli 2007, for the singular values s_i of any
    matrix instead of their squares: this is the effective rank of the covariance matrix.

    For K <= d+1 it is K-1 for a simplex ETF, and for any other means of equal variance in K-1
    directions too; for K > d+1 it is d for every tight frame. A minority that has merged, or a
    hierarchy of classes, lowers it. Blind to how the means
    lie in their directions, as long as no direction has more variance than another.

    Args:
        statistics: of the features; only the class means are used.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).

    Returns:
        0-d float64; nan for fewer than two classes or coinciding class means.

    Example:
        >>> corners = torch.eye(4)
        >>> statistics = ClassStatistics.from_features(corners, torch.arange(4), 4)
        >>> round(float(effective_rank(statistics)), 6)
        3.0
    """
    centred = check_statistics(statistics).centred_means(global_mean).double()
    if len(centred) < 2:
        return centred.new_full((), torch.nan)
    wide = centred.shape[0] > centred.shape[1]
    gram = centred.T @ centred if wide else centred @ centred.T
    return _exponential_entropy(torch.linalg.eigvalsh(gram).clamp(min=0))


def features_effective_rank(statistics: ClassStatistics) -> Tensor:
    """Number of directions that the features fill, in [1, d]; K-1 at collapse to a simplex ETF.

        exp(-sum_i(p_i log(p_i))),  p_i the shares of the eigenvalues of the total covariance

    with every sample counted alike. Source: Roy, Vetterli 2007, of that matrix. Falls to K-1 from
    above as the noise within the classes vanishes, and below it where the class means themselves
    are flat (`effective_rank`): no row of the table, as neither direction is better.

    Args:
        statistics: with scatter.

    Returns:
        0-d float64; nan if all features are equal.

    Raises:
        ValueError: if the statistics hold no scatter.

    Example:
        >>> features = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> statistics = ClassStatistics.from_features(features, torch.tensor([0, 0, 1, 1]), 2)
        >>> round(float(features_effective_rank(statistics)), 6)  # shares 0.8 and 0.2
        1.649385
    """
    within = check_statistics(statistics).within_covariance.double()
    if not statistics.num_samples:
        return within.new_full((), torch.nan)
    centred = statistics.centred_means("sample").double()
    share = statistics.counts[statistics.seen].double() / statistics.num_samples
    total = within + centred.T @ (share[:, None] * centred)
    return _exponential_entropy(torch.linalg.eigvalsh(total).clamp(min=0))


def nc3_subspace(
    statistics: ClassStatistics, weight: Tensor, *, global_mean: GlobalMean = "class"
) -> Tensor:
    """Mean cosine of the angles between classifier's and class means' subspaces; 1 at collapse.

        sum_i(cos(principal angle i)) / max(rank(W), rank(M))

    with M the centred means of the classes seen and W their rows of the classifier, minus their
    mean, which the logits' differences do not feel. A direction that only one of the two spans
    counts as a right angle. After Rangamani et al. 2023, who measure how the span of the class
    means lies to that of the first singular vectors of the weight.

    Blind to which class is where, to norms, and, for K > d, where both span everything, to all.

    Args:
        statistics: of the features that enter the classifier.
        weight: (K, d), the classifier.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).

    Returns:
        0-d float64, in [0, 1]; nan for fewer than two classes, or if W or M spans nothing or is not
        finite.

    Raises:
        ValueError: if the shape of the weight is not that of the class means.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0]])
        >>> statistics = ClassStatistics.from_features(features, torch.tensor([0, 0, 1, 1]), 2)
        >>> weight = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
        >>> round(float(nc3_subspace(statistics, weight)), 6)  # 45 degrees
        0.707107
    """
    classes, dim = check_statistics(statistics).num_classes, statistics.dim
    check_matrix("weight", weight, rows=classes, columns=dim, why="the shape of the class means")
    centred = statistics.centred_means(global_mean).double()
    if len(centred) < 2:
        return centred.new_full((), torch.nan)
    rows = weight[statistics.seen].to(centred)
    if not bool(torch.isfinite(rows.sum())):
        return centred.new_full((), torch.nan)
    _, second = mean_spectrum(centred, statistics.seen_means)
    del centred  # of a million classes two gigabytes
    _, first = mean_spectrum(rows - rows.mean(0), rows)
    if not len(first) or not len(second):
        return rows.new_full((), torch.nan)
    return _cosines(first, second).sum() / max(len(first), len(second))


def principal_angles(first: Tensor, second: Tensor) -> Tensor:
    """Angles between the subspaces that the rows of two matrices span, the smallest first.

        arccos of the singular values of U V^T, U and V orthonormal bases of the two

    in radians, in [0, pi/2]; small ones from their sines, which keep their digits.

    Args:
        first: (n, d).
        second: (m, d).

    Returns:
        (min of the two ranks,) float64.

    Raises:
        ValueError: if the widths differ.

    Example:
        >>> principal_angles(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
        tensor([0.7854], dtype=torch.float64)
    """
    check_matrix("first", first)
    check_matrix("second", second, columns=first.shape[1], why="as of first")
    one, two = first.double(), second.double().to(first.device)
    one, two = _basis(one, one.norm()), _basis(two, two.norm())
    if len(one) < len(two):
        one, two = two, one
    # What is left of the smaller basis outside of the larger has the sines as singular values.
    sines = torch.linalg.svdvals(two - (two @ one.T) @ one).flip(0)
    cosines = _cosines(one, two)
    sines = sines.clamp(max=1)
    return torch.where(cosines > 0.5**0.5, sines.asin(), cosines.acos())


def _exponential_entropy(values: Tensor) -> Tensor:
    """exp of the entropy of the shares of values that are not negative; nan if all are zero."""
    shares = values / values.sum()
    return torch.special.entr(shares).sum().exp()


def _basis(rows: Tensor, size: Tensor) -> Tensor:
    """(r, d), orthonormal rows that span what rows of float64 span up to rounding of `size`."""
    _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
    return directions[singular > max(rows.shape) * torch.finfo(torch.float64).eps * size]


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    """(min of the ranks,), cosines of the principal angles of orthonormal rows, descending."""
    return torch.linalg.svdvals(first @ second.T).clamp(max=1)
