"""NC4: does the classifier decide as the nearest class mean does?"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

from neuralcollapse.checks import check_matrix, check_vector
from neuralcollapse.precision import FullPrecision
from neuralcollapse.statistics import ClassStatistics

# Scores per block: 2^22 floats are 16 MiB.
_BLOCK_SCORES = 1 << 22
# Features per block, which are moved: they stay in the processor's cache.
_BLOCK_FEATURES = 1 << 20


class NearestMean:
    """Classifies features by the Euclidean distance to the class means of the classes seen.

    Works relative to the global mean, so that an offset common to all features, however large,
    does not drown the distances in float32.

    Args:
        statistics: with at least one class seen.

    Example:
        >>> features = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
        >>> rule = NearestMean(ClassStatistics.from_features(features, torch.tensor([0, 2]), 3))
        >>> rule(torch.tensor([[3.0, 1.0]])).tolist()
        [2]
    """

    def __init__(self, statistics: ClassStatistics):
        self._classes = statistics.seen.nonzero().squeeze(1)
        self._centre = statistics.global_mean()
        self._means = statistics.seen_means
        self._moved: dict[torch.dtype, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, features: Tensor) -> Tensor:
        """(N,) int64, the nearest class of each row of features (N, d)."""
        dtype = torch.promote_types(features.dtype, torch.float32)
        if dtype not in self._moved:
            # Rounded first, so that means and features are moved by exactly the same.
            centre = self._centre.to(dtype)
            means = self._means - centre
            half_squares = (means.square().sum(1) / 2).to(dtype)
            self._moved[dtype] = centre, means.to(dtype), half_squares
        centre, means, half_squares = self._moved[dtype]
        # argmin of the distance = argmax of <h, mu> - |mu|^2 / 2; |h|^2 does not matter.
        with FullPrecision(features.device.type):
            scores = (features.to(dtype) - centre) @ means.T - half_squares
        return self._classes[scores.argmax(1)]


def linear_decision(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(N,) int64, argmax of the logits features @ weight.T + bias, in float32 or better."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    shift = None if bias is None else bias.to(dtype)
    with FullPrecision(features.device.type):
        return linear(features.to(dtype), weight.to(dtype), shift).argmax(1)


def nc4_disagreement(
    statistics: ClassStatistics, features: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Share of samples where classifier and nearest class mean decide differently; 0 at collapse.

        mean_i(argmax_k(w_k . h_i + b_k) != argmin_k(norm(h_i - mu_k)))

    Source: Papyan, Han, Donoho 2020.

    The bias takes part. Classes never seen have no mean and cannot be nearest; the classifier may
    still choose them. Blind to whether either decision is right.

    Args:
        statistics: whose class means decide; of these features or of the training set.
        features: (N, d).
        weight: (K, d), the classifier.
        bias: (K,), or None.

    Returns:
        0-d float64, in [0, 1]; nan without samples or for fewer than two classes.

    Raises:
        ValueError: if shapes do not fit.
    """
    classes, dim = statistics.num_classes, statistics.dim
    check_matrix("features", features, columns=dim, why="the width of the class means")
    check_matrix("weight", weight, rows=classes, columns=dim, why="the shape of the class means")
    if bias is not None:
        check_vector("bias", bias, classes, "one entry per row of weight")
    if not len(features) or int(statistics.seen.sum()) < 2:
        return torch.full((), torch.nan, dtype=torch.float64, device=features.device)
    differing, _ = decision_counts(NearestMean(statistics), features, weight, bias)
    return torch.as_tensor(differing / len(features), dtype=torch.float64)


def decision_counts(
    rule: Callable[[Tensor], Tensor],
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    labels: Tensor | None = None,
) -> tuple[int, int]:
    """How many samples the classifier decides unlike the rule, and how many like the labels.

    Works on some rows at a time, so that the scores of many classes stay small.
    """
    rows = max(1, min(_BLOCK_SCORES // len(weight), _BLOCK_FEATURES // weight.shape[1]))
    differing = correct = torch.zeros((), dtype=torch.int64, device=features.device)
    for start in range(0, len(features), rows):
        block = features[start : start + rows]
        chosen = linear_decision(block, weight, bias)
        differing = differing + (chosen != rule(block)).sum()
        if labels is not None:
            correct = correct + (chosen == labels[start : start + rows]).sum()
    return int(differing), int(correct)
