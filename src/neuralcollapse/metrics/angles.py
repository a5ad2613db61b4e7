"""NC2: are the class means, or the rows of the classifier, a simplex equiangular tight frame?"""

import torch
from torch import Tensor

from neuralcollapse.checks import check_matrix
from neuralcollapse.geometry import gram_distance, simplex_gram
from neuralcollapse.metrics.pairs import PairMean, Vectors, pair_metrics
from neuralcollapse.statistics import ClassStatistics, GlobalMean, check_statistics

# Below this share of the terms that it is the difference of, a variance has lost four digits.
_CANCELLED = 1e-4

# What `max_angle` and `equiangle` are made of.
MAX_ANGLE = PairMean(lambda pairs: (pairs.cosines + 1 / (len(pairs.vectors) - 1)).abs().sum())
EQUIANGLE = PairMean(
    lambda pairs: (pairs.cosines - pairs.vectors.mean_cosine).square().sum(),
    lambda mean, num_vectors, dim: mean.sqrt(),
)


def equinorm(vectors: Tensor) -> Tensor:
    """Variation of the norms of vectors (K, d); 0 if all are equally long.

        std_k(norm(v_k)) / mean_k(norm(v_k))

    with the population standard deviation.

    Returns:
        0-d float64, in [0, sqrt(K-1)]; nan for fewer than two vectors or all of them zero.
    """
    norms = check_matrix("vectors", vectors).double().norm(dim=1)
    if len(norms) < 2:
        return norms.new_full((), torch.nan)
    return norms.std(correction=0) / norms.mean()


def equiangle(vectors: Tensor) -> Tensor:
    """Variation of the angles between vectors (K, d); 0 if all pairs have the same cosine.

        std_{k<j}(cos(v_k, v_j))

    with the population standard deviation.

    Returns:
        0-d float64, in [0, 1]; nan for fewer than two vectors or a zero vector.
    """
    all_vectors = Vectors(check_matrix("vectors", vectors))
    count, dim = all_vectors.rows.shape
    if count > max(dim, 1):
        # The sum of all squared cosines is that of the squared entries of V^T V, which is d x d.
        units = all_vectors.rows / all_vectors.norms[:, None]
        whole = (units.T @ units).square().sum() / (count * (count - 1))
        own = units.norm(dim=1).pow(4).sum() / (count * (count - 1))
        variance = whole - own - all_vectors.mean_cosine.square()
        if bool(variance > _CANCELLED * whole):
            return variance.sqrt()
    return pair_metrics(all_vectors, [EQUIANGLE])[0]


def max_angle(
    vectors: Tensor, *, num_pairs: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Distance of the angles from the widest that K vectors can all have; 0 at the simplex.

        mean_{k<j}(abs(cos(v_k, v_j) + 1/(K-1)))

    Args:
        vectors: (K, d).
        num_pairs: draw so many pairs, with replacement, instead of taking all.
        generator: draws them.

    Returns:
        0-d float64, in [0, 2]; nan for fewer than two vectors or a zero vector.
    """
    all_vectors = Vectors(check_matrix("vectors", vectors))
    return pair_metrics(all_vectors, [MAX_ANGLE], num_pairs, generator)[0]


def etf_distance(vectors: Tensor) -> Tensor:
    """Distance of the Gram matrix of vectors (K, d) from the simplex ETF's; 0 at the simplex.

        norm(G / norm(G) - E / norm(E)), G = V V^T, E = I - J/K, Frobenius norms

    For K > d+1 it cannot fall below sqrt(2 - 2 sqrt(d/(K-1))), as G has rank d at most.

    Returns:
        0-d float64, in [0, sqrt(2)]; nan for fewer than two vectors or all of them zero.
    """
    vectors = check_matrix("vectors", vectors).double()
    num_vectors, dim = vectors.shape
    if num_vectors < 2:
        return vectors.new_full((), torch.nan)
    if num_vectors <= dim + 1:
        target = simplex_gram(num_vectors).to(vectors.device)
        return gram_distance(vectors @ vectors.T, target)
    # More vectors than dimensions: the same through d x d, norm(V V^T) = norm(V^T V) and
    # <G, E> = trace(G) - 1^T G 1 / K. Nothing cancels, as the distance is bounded from below.
    overlap = vectors.norm().square() - vectors.sum(0).square().sum() / num_vectors
    overlap = overlap / ((vectors.T @ vectors).norm() * (num_vectors - 1) ** 0.5)
    return (2 - 2 * overlap).clamp(min=0).sqrt()


def nc2_equinorm(statistics: ClassStatistics, *, global_mean: GlobalMean = "class") -> Tensor:
    """`equinorm` of the centred class means: 0 if all lie equally far from the global mean.

        std_k(norm(mu_k - mu_G)) / mean_k(norm(mu_k - mu_G))

    Source: Papyan, Han, Donoho 2020; the standard deviation is the population's.

    Blind to angles.
    """
    return equinorm(check_statistics(statistics).centred_means(global_mean))


def nc2_equiangle(statistics: ClassStatistics, *, global_mean: GlobalMean = "class") -> Tensor:
    """`equiangle` of the centred class means: 0 if all pairs have the same cosine.

        std_{k<j}(cos(mu_k - mu_G, mu_j - mu_G))

    Source: Papyan, Han, Donoho 2020; the standard deviation is the population's.

    Blind to norms, and to what the common cosine is.
    """
    return equiangle(check_statistics(statistics).centred_means(global_mean))


def nc2_max_angle(
    statistics: ClassStatistics,
    *,
    global_mean: GlobalMean = "class",
    num_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`max_angle` of the centred class means: 0 if all cosines are -1/(K-1).

        mean_{k<j}(abs(cos(mu_k - mu_G, mu_j - mu_G) + 1/(K-1)))

    Source: Papyan, Han, Donoho 2020.

    Blind to norms. The deviations are absolute: signed ones average to zero for every centred
    arrangement of equal norms.
    """
    centred = check_statistics(statistics).centred_means(global_mean)
    return max_angle(centred, num_pairs=num_pairs, generator=generator)


def nc2_etf_distance(statistics: ClassStatistics, *, global_mean: GlobalMean = "class") -> Tensor:
    """`etf_distance` of the centred class means: 0 if they form a simplex ETF.

        norm(G / norm(G) - E / norm(E)), G = centred centred^T

    After Zhu et al. 2021, who take it of the classifier.

    Sees norms and angles at once.
    """
    return etf_distance(check_statistics(statistics).centred_means(global_mean))


def nc2w_equinorm(weight: Tensor) -> Tensor:
    """`equinorm` of the rows of the classifier (K, d), uncentred."""
    return equinorm(check_matrix("weight", weight))


def nc2w_equiangle(weight: Tensor) -> Tensor:
    """`equiangle` of the rows of the classifier (K, d), uncentred."""
    return equiangle(check_matrix("weight", weight))


def nc2w_max_angle(
    weight: Tensor, *, num_pairs: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """`max_angle` of the rows of the classifier (K, d), uncentred."""
    check_matrix("weight", weight)
    return max_angle(weight, num_pairs=num_pairs, generator=generator)


def nc2w_etf_distance(weight: Tensor) -> Tensor:
    """`etf_distance` of the rows of the classifier (K, d), uncentred."""
    return etf_distance(check_matrix("weight", weight))
