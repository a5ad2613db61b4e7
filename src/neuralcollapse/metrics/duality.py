"""NC3: does the classifier point where the class means are?"""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from neuralcollapse.checks import check_matrix
from neuralcollapse.statistics import ClassStatistics, GlobalMean, check_statistics

# Classes at a time: of a million, double copies would take gigabytes.
_ROWS = 1 << 13


def nc3_duality(
    statistics: ClassStatistics, weight: Tensor, *, global_mean: GlobalMean = "class"
) -> Tensor:
    """Distance between the classifier and the centred class means up to scale; 0 at collapse.

        norm(W / norm(W) - M / norm(M)), Frobenius norms, not squared

    Source: Papyan, Han, Donoho 2020, who square it.

    with M the centred means of the classes seen and W their rows of the classifier. Not zero for
    an uncentred classifier (a row mean that the logits do not feel) or for one that has the
    directions but not the relative norms of the means.

    Args:
        statistics: of the features that enter the classifier.
        weight: (K, d), the classifier.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).

    Returns:
        0-d float64, in [0, 2]; nan for fewer than two classes, or if W or M is zero.

    Raises:
        ValueError: if the shape of the weight is not that of the class means.

    Example:
        >>> import torch
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0]])
        >>> statistics = ClassStatistics.from_features(features, torch.tensor([0, 0, 1, 1]), 2)
        >>> weight = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
        >>> round(float(nc3_duality(statistics, weight)), 6)  # sqrt(2 - sqrt(2))
        0.765367
    """
    rows, centred = _matched(statistics, weight, global_mean)
    if len(centred) < 2:
        return _undefined(centred)
    blocks = [*zip(rows.split(_ROWS), centred.split(_ROWS), strict=True)]
    size = torch.stack([block.double().norm() for block, _ in blocks]).norm()
    spread = centred.norm()
    gaps = [(block.double() / size - means / spread).norm() for block, means in blocks]
    return torch.stack(gaps).norm()


def nc3_alignment(
    statistics: ClassStatistics, weight: Tensor, *, global_mean: GlobalMean = "class"
) -> Tensor:
    """Mean cosine between each row of the classifier and its centred class mean; 1 at collapse.

        mean_k(cos(w_k, mu_k - mu_G)) over the classes seen

    Source: Jiang et al. 2024, as one minus it. Blind to norms, of single classes and as a whole.

    Args:
        statistics: of the features that enter the classifier.
        weight: (K, d), the classifier.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).

    Returns:
        0-d float64, in [-1, 1]; nan for fewer than two classes, or if a row or mean is zero.

    Raises:
        ValueError: if the shape of the weight is not that of the class means.
    """
    return _cosines(statistics, weight, global_mean).mean()


def gnc3_alignment_spread(
    statistics: ClassStatistics, weight: Tensor, *, global_mean: GlobalMean = "class"
) -> Tensor:
    """Variation of the cosines between classifier rows and centred class means; 0 at collapse.

        std_k(cos(w_k, mu_k - mu_G)) / abs(mean_k(cos(w_k, mu_k - mu_G))) over the classes seen

    with the population standard deviation. Source: Wu, Papyan 2024, as uniform duality. Whether all
    classes are aligned equally well; blind to how well, or whether the wrong way round, which is
    `nc3_alignment`, and to norms. Far from collapse the mean is near zero and the ratio has no
    bound.

    Args:
        statistics: of the features that enter the classifier.
        weight: (K, d), the classifier.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).

    Returns:
        0-d float64, at least 0; nan for fewer than two classes, or if a row or mean is zero;
        infinite if the cosines differ and their mean is zero.

    Raises:
        ValueError: if the shape of the weight is not that of the class means.
    """
    cosines = _cosines(statistics, weight, global_mean)
    return cosines.std(correction=0) / cosines.mean().abs()


def _cosines(statistics: ClassStatistics, weight: Tensor, global_mean: GlobalMean) -> Tensor:
    """(K seen,), the cosines of rows and centred means; nan where they are not defined."""
    rows, centred = _matched(statistics, weight, global_mean)
    if len(centred) < 2:
        return _undefined(centred)[None]
    cosines, degenerate = [], centred.new_zeros((), dtype=torch.bool)
    for block, means in zip(rows.split(_ROWS), centred.split(_ROWS), strict=True):
        wide = block.double()
        degenerate = degenerate | (wide.norm(dim=1) == 0).any() | (means.norm(dim=1) == 0).any()
        cosines.append(cosine_similarity(wide, means, dim=1, eps=0.0))
    return torch.cat(cosines).masked_fill(degenerate, torch.nan)


def _matched(
    statistics: ClassStatistics, weight: Tensor, global_mean: GlobalMean
) -> tuple[Tensor, Tensor]:
    """Rows of the classifier as given, and centred means in float64, of the classes seen."""
    classes, dim = check_statistics(statistics).num_classes, statistics.dim
    check_matrix("weight", weight, rows=classes, columns=dim, why="the shape of the class means")
    centred = statistics.centred_means(global_mean).double()
    seen = statistics.seen
    weight = weight.to(centred.device)
    return weight if bool(seen.all()) else weight[seen], centred


def _undefined(like: Tensor) -> Tensor:
    return like.new_full((), torch.nan)
