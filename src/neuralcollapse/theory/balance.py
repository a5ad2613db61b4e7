"""Balance of a layer and what enters it: stationary or not, and the decay that features felt."""

from torch import Tensor

from neuralcollapse.checks import check_matrix
from neuralcollapse.statistics import ClassStatistics
from neuralcollapse.theory.problem import checked_decay


def balance_residual(
    weight: Tensor,
    features: Tensor | ClassStatistics,
    *,
    weight_decay: float,
    feature_decay: float,
) -> Tensor:
    """How far a layer and what enters it are from stationarity; 0 at any critical point.

        norm(weight_decay W^T W - feature_decay sum_i h_i h_i^T)
            / (norm(weight_decay W^T W) + norm(feature_decay sum_i h_i h_i^T))

    in Frobenius norms. It holds for any loss, counts and bias, and needs no labels: the gradient by
    the logits enters both sides alike. For deep heads W is the layer next to the features.

    Args:
        weight: (K, d), the layer.
        features: (N, d), of all training samples, or their statistics with scatter.
        weight_decay: of the layer.
        feature_decay: of the features, summed over the training set.

    Returns:
        0-d float64, in [0, 1]; nan where weight and features are zero.

    Raises:
        ValueError: if shapes do not fit or a decay is not positive.
    """
    moments = _second_moments(weight, features)
    left = checked_decay("weight_decay", weight_decay) * weight.detach().double()
    left = left.T @ weight.detach().double()
    right = checked_decay("feature_decay", feature_decay) * moments
    return (left - right).norm() / (left.norm() + right.norm())


def effective_feature_decay(
    weight: Tensor, features: Tensor | ClassStatistics, *, weight_decay: float
) -> float:
    """The feature decay that a trained network's norms amount to.

        weight_decay * norm(W)^2 / sum_i norm(h_i)^2

    exact at any critical point with feature decay, and the figure to predict with where none was
    set explicitly. For deep heads W is the layer next to the features.

    Args:
        weight: (K, d), the layer.
        features: (N, d), of all training samples, or their statistics.
        weight_decay: of the layer.

    Raises:
        ValueError: if shapes do not fit, weight_decay is not positive, or all features are zero.

    Example:
        >>> import torch
        >>> effective_feature_decay(torch.eye(2), 2 * torch.eye(2), weight_decay=0.04)
        0.01
    """
    weight_decay = checked_decay("weight_decay", weight_decay)
    energy = _energy(weight, features)
    if not energy > 0:
        raise ValueError(
            "features must not all be zero, got a sum of squares of 0; has the network died?"
        )
    return weight_decay * float(weight.detach().double().square().sum()) / energy


def _energy(weight: Tensor, features: Tensor | ClassStatistics) -> float:
    """The summed squared norm of all features."""
    if isinstance(features, ClassStatistics):
        check_matrix("weight", weight, columns=features.dim, why="the width of the features")
        means = features.seen_means.double()
        squares = features.counts[features.seen].double() @ means.square().sum(1)
        return float(squares + features.spread[features.seen].double().sum())
    check_matrix("features", features)
    check_matrix("weight", weight, columns=features.shape[1], why="the width of the features")
    return float(features.detach().double().square().sum())


def _second_moments(weight: Tensor, features: Tensor | ClassStatistics) -> Tensor:
    """(d, d), sum over the samples of h h^T."""
    if isinstance(features, ClassStatistics):
        check_matrix("weight", weight, columns=features.dim, why="the width of the features")
        if features.scatter is None:
            raise ValueError(
                "features must hold their scatter for the balance residual; accumulate with "
                "scatter=True"
            )
        means = features.seen_means.double()
        counts = features.counts[features.seen].double()
        return features.scatter.double() + means.T @ (counts[:, None] * means)
    check_matrix("features", features)
    check_matrix("weight", weight, columns=features.shape[1], why="the width of the features")
    rows = features.detach().double()
    return rows.T @ rows
