"""NC4: does the classifier decide as the nearest class mean does?"""

import torch
from torch import Tensor
from torch.nn.functional import linear

from neuralcollapse.checks import check_matrix, check_vector
from neuralcollapse.precision import FullPrecision
from neuralcollapse.sphere import directions
from neuralcollapse.statistics import ClassStatistics, check_statistics

# Scores per block: 2^22 floats are 16 MiB.
_BLOCK_SCORES = 1 << 22
# Features per block, which are moved: they stay in the processor's cache.
_BLOCK_FEATURES = 1 << 20
# For fewer classes the product that is saved costs less than finding out whether it can be.
_LEAST_CLASSES = 64
# Where logits settle the nearest mean of fewer samples than this, asking them is given up.
_LEAST_SETTLED = 0.25


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
        self._classes = check_statistics(statistics).seen.nonzero().squeeze(1)
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
            scores = ((features.to(dtype) - centre) @ means.T).sub_(half_squares)
        return self._classes[_first_largest(scores)]


def linear_decision(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(N,) int64, argmax of the logits features @ weight.T + bias, in float32 or better."""
    return _first_largest(_logits(features, weight, bias))


class DualDecisions:
    """Decisions of a classifier and of the nearest class mean, mostly by one matrix product.

    Up to a vector that all classes share, which decides nothing, the class means (from their global
    mean) are scale * w_k + e_k, and the e_k are short where classifier and means are dual (NC3). Of

        <h, mu_k> - |mu_k|^2 / 2 = scale * logit_k(h) + shift_k + <h, e_k>

    the last term is then too small to matter: at most norm(h) norm(e_k). Samples for which that
    bound, or rounding, leaves the nearest mean open are looked at by `NearestMean`; where most are
    left open, all further ones are.

    Args:
        statistics: with at least one class seen.
        weight: (K, d), the classifier.
        bias: (K,), or None.
        normalize: the class means are of features at unit length; the classifier has them as they
            are.
    """

    def __init__(
        self,
        statistics: ClassStatistics,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        normalize: bool = False,
    ):
        self._weight, self._bias, self._normalize = weight, bias, normalize
        self._nearest = NearestMean(statistics)
        self._bound: dict[torch.dtype, _DualBound] = {}
        self._statistics = statistics
        # With unit features the logits are of other vectors than the scores.
        self._asks_logits = not normalize and len(weight) >= _LEAST_CLASSES

    @torch.no_grad()
    def __call__(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) and (N,) int64: what the classifier chooses of features (N, d), and what is nearest.

        In blocks of rows, so that the scores of many classes stay small.
        """
        classes, dim = self._weight.shape
        rows = max(1, min(_BLOCK_SCORES // classes, _BLOCK_FEATURES // dim))
        chosen, nearest = torch.empty(2, len(features), dtype=torch.int64, device=features.device)
        for start in range(0, len(features), rows):
            part = slice(start, start + rows)
            chosen[part], nearest[part] = self._decide(features[part])
        return chosen, nearest

    def _decide(self, block: Tensor) -> tuple[Tensor, Tensor]:
        logits = _logits(block, self._weight, self._bias)
        chosen = _first_largest(logits)
        if not self._asks_logits:
            return chosen, self._nearest(directions(block) if self._normalize else block)
        if logits.dtype not in self._bound:
            self._bound[logits.dtype] = _DualBound(
                self._statistics, self._weight, self._bias, logits.dtype
            )
        nearest, settled = self._bound[logits.dtype].nearest(block, logits)
        left = (~settled).nonzero().squeeze(1)
        if len(left):
            nearest[left] = self._nearest(block[left])
        self._asks_logits = len(block) - len(left) >= _LEAST_SETTLED * len(block)
        return chosen, nearest


class _DualBound:
    """What the logits of a classifier tell about the nearest class mean."""

    def __init__(
        self, statistics: ClassStatistics, weight: Tensor, bias: Tensor | None, dtype: torch.dtype
    ):
        seen = statistics.seen
        self._centre = statistics.global_mean().to(dtype)
        self._centre_size = float(self._centre.double().norm())
        means = statistics.seen_means.double() - self._centre.double()
        rows = weight[seen].double()
        own = torch.zeros_like(rows[:, 0]) if bias is None else bias[seen].double()
        centred, spread = rows - rows.mean(0), means - means.mean(0)
        size = centred.square().sum()
        scale = float((centred * spread).sum() / size) if bool(size > 0) else 0.0
        lengths = (spread - scale * centred).norm(dim=1)
        shifts = -scale * (own + rows @ self._centre.double()) - means.square().sum(1) / 2
        # Classes never seen are never nearest.
        self._shifts = shifts.new_full((len(weight),), -torch.inf).to(dtype)
        self._shifts[seen] = shifts.to(dtype)
        self._lengths = torch.zeros_like(self._shifts)
        self._lengths[seen] = lengths.to(dtype)
        self._scale, self._longest = scale, float(lengths.max())
        # Of a product of d terms and a few more operations, in the worst case.
        self._rounding = (statistics.dim + 8) * torch.finfo(dtype).eps
        self._row_size = abs(scale) * float(rows.norm(dim=1).max())
        self._shift_size = abs(scale) * float(own.abs().max()) + float(shifts.abs().max())

    def nearest(self, block: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) the class whose mean is nearest by the logits, and (B,) whether it surely is.

        Overwrites the logits.
        """
        scores = torch.add(self._shifts, logits, alpha=self._scale, out=logits)
        nearest = _first_largest(scores)
        best = scores.gather(1, nearest[:, None])
        second = scores.scatter_(1, nearest[:, None], -torch.inf).amax(1)
        moved = (block.to(scores.dtype) - self._centre).norm(dim=1)
        rounding = self._rounding * (
            (moved + self._centre_size) * self._row_size + self._shift_size
        )
        reach = moved * (self._lengths[nearest] + self._longest) * (1 + self._rounding)
        return nearest, best.squeeze(1) - second > reach + 2 * rounding


def _logits(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, K), in float32 or better."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    shift = None if bias is None else bias.to(dtype)
    with FullPrecision(features.device.type):
        return linear(features.to(dtype), weight.to(dtype), shift)


def _first_largest(scores: Tensor) -> Tensor:
    """(N,) int64, the first of the largest in each row."""
    if scores.device.type == "cpu":  # NumPy's is a vector operation, torch's is not
        return torch.from_numpy(scores.detach().numpy().argmax(1))
    return scores.argmax(1)


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
    classes, dim = check_statistics(statistics).num_classes, statistics.dim
    check_matrix("features", features, columns=dim, why="the width of the class means")
    check_matrix("weight", weight, rows=classes, columns=dim, why="the shape of the class means")
    if bias is not None:
        check_vector("bias", bias, classes, "one entry per row of weight")
    if not len(features) or int(statistics.seen.sum()) < 2:
        return torch.full((), torch.nan, dtype=torch.float64, device=features.device)
    chosen, nearest = DualDecisions(statistics, weight, bias)(features)
    return (chosen != nearest).double().mean()
