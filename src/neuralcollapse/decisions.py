"""Decisions from probabilities or scores: rankings without chance, and the class of least risk."""

from collections.abc import Iterator

import torch
from torch import Tensor

from neuralcollapse.checks import check_finite, check_matrix
from neuralcollapse.precision import FullPrecision
from neuralcollapse.scalars import check_integer

# Scores per block: 2^22 doubles are 32 MiB.
_BLOCK_SCORES = 1 << 22
# Risks are ranked in steps of 2^-40 of the largest cost, so that sums which are equal but were
# added up in another order are a tie and not a coin toss.
_RISK_STEPS = 2.0**40


def ranking(scores: Tensor, top: int) -> Tensor:
    """(N, min(top, K)) int64, the classes of the highest scores, best first; ties by lower index.

    The same on every machine and for every batch size, which `torch.topk` does not promise.

    Args:
        scores: (N, K), logits, probabilities, cosines or negative risks; -inf is a score, nan is
            not.
        top: how many classes of each row.

    Raises:
        ValueError: if a score is nan, or there are no classes.

    Example:
        >>> ranking(torch.tensor([[0.1, 0.7, 0.1, 0.7]]), top=3).tolist()
        [[1, 3, 0]]
    """
    check_matrix("scores", scores)
    top = min(check_integer("top", top, 1), _check_classes("scores", scores))
    if bool(scores.isnan().any()):
        bad = scores.isnan().any(1)
        raise ValueError(
            f"scores must not be nan, got nan in {int(bad.sum())} of {len(bad)} rows (first: row "
            f"{int(bad.nonzero()[0])}); remove or repair them"
        )
    if top == 1:
        return scores.argmax(1, keepdim=True)  # the first of several
    chosen = torch.empty(len(scores), top, dtype=torch.int64, device=scores.device)
    for rows in _row_blocks(*scores.shape):
        chosen[rows] = _best(scores[rows], top)
    return chosen


def conditional_risk(probabilities: Tensor, cost: Tensor) -> Tensor:
    """(N, K) float64, the expected cost of deciding for each class; 0 where nothing can be lost.

        risk_ik = sum_j(cost[j, k] * probabilities_ij)

    Args:
        probabilities: (N, K), rows that sum to 1.
        cost: (K, K), entry [true, decided] is what a decision costs. A matrix of distances
            between classes is such a cost; cost 1 for every mistake makes the risk 1 - p_k.

    Raises:
        ValueError: if shapes do not fit, a probability is negative, a row does not sum to 1, or
            a cost is not finite.
    """
    cost = _check_cost(probabilities, cost)
    _check_probabilities(probabilities)
    with FullPrecision(probabilities.device.type):
        return probabilities.double() @ cost


def minimum_risk(probabilities: Tensor, cost: Tensor, *, top: int | None = None) -> Tensor:
    """The classes whose expected cost is least: a decision rule for a classifier as it is.

        argmin_k(sum_j(cost[j, k] * probabilities_ij))

    Source: Karthik et al. 2021, for distances in a class hierarchy; the rule itself is the
    textbook's.

    Where one class is more probable than all others together and the cost is a metric, that class
    is chosen (triangle inequality): the rule changes unsure decisions, and the order of the
    classes behind the first. With cost 1 for every mistake it is the argmax. A factor on the cost,
    or an amount added to a row of it, changes nothing.

    Equal risks (closer than 2^-40 of the largest cost) are ordered by probability, then by index.
    Works on some rows at a time: beyond the arguments it needs memory for the cost in float64.

    Args:
        probabilities: (N, K), rows that sum to 1: a softmax, best in float32.
        cost: (K, K), entry [true, decided] is what a decision costs.
        top: also the classes behind the first: so many of each row, in the order of their risk.

    Returns:
        (N,) int64, or (N, min(top, K)) with `top`.

    Raises:
        ValueError: if shapes do not fit, a probability is negative, a row does not sum to 1, or
            a cost is not finite.

    Example:
        Two pairs of siblings, (0, 1) and (2, 3): class 0 leads, but the second pair is likelier.

        >>> cost = torch.tensor([[0, 1, 2, 2], [1, 0, 2, 2], [2, 2, 0, 1], [2, 2, 1, 0.0]])
        >>> probabilities = torch.tensor([[0.40, 0.0, 0.35, 0.25]])
        >>> minimum_risk(probabilities, cost).tolist()
        [2]
        >>> minimum_risk(probabilities, cost, top=4).tolist()
        [[2, 3, 0, 1]]
    """
    cost = _check_cost(probabilities, cost)
    _check_probabilities(probabilities)
    wanted = 1 if top is None else min(check_integer("top", top, 1), len(cost))
    step = float(cost.abs().max()) / _RISK_STEPS or 1.0
    chosen = torch.empty(len(probabilities), wanted, dtype=torch.int64, device=probabilities.device)
    for rows in _row_blocks(*probabilities.shape):
        block = probabilities[rows].double()
        with FullPrecision(block.device.type):
            risk = ((block @ cost) / step).round()
        if wanted == 1:
            least = risk == risk.amin(1, keepdim=True)
            chosen[rows] = block.masked_fill(~least, -1).argmax(1, keepdim=True)
        else:
            order = block.argsort(dim=1, descending=True, stable=True)
            best = risk.gather(1, order).argsort(dim=1, stable=True)[:, :wanted]
            chosen[rows] = order.gather(1, best)
    return chosen.squeeze(1) if top is None else chosen


def _best(scores: Tensor, top: int) -> Tensor:
    """Columns of the `top` highest scores of each row: a set without chance, then its order."""
    last = scores.topk(top, 1).values[:, -1:]
    above, level = scores > last, scores == last
    room = top - above.sum(1, keepdim=True)
    inside = above | (level & (level.cumsum(1) <= room))
    columns = inside.nonzero()[:, 1].view(len(scores), top)  # by index within each row
    order = scores.gather(1, columns).argsort(dim=1, descending=True, stable=True)
    return columns.gather(1, order)


def _row_blocks(num_rows: int, num_classes: int) -> Iterator[slice]:
    size = max(1, _BLOCK_SCORES // num_classes)
    for start in range(0, num_rows, size):
        yield slice(start, start + size)


def _check_classes(name: str, scores: Tensor) -> int:
    if not scores.shape[1]:
        raise ValueError(f"{name} must have at least one column (class), got {tuple(scores.shape)}")
    return scores.shape[1]


def _check_cost(probabilities: Tensor, cost: Tensor) -> Tensor:
    """The cost as (K, K) float64 on the device of the probabilities."""
    check_matrix("probabilities", probabilities)
    classes = _check_classes("probabilities", probabilities)
    check_matrix("cost", cost, rows=classes, columns=classes, why="the columns of probabilities")
    check_finite("cost", cost)
    return cost.to(probabilities.device, torch.float64)


def _check_probabilities(probabilities: Tensor) -> None:
    if not len(probabilities):
        return
    check_finite("probabilities", probabilities)
    sums = probabilities.double().sum(1)
    low, high = float(sums.min()), float(sums.max())
    # Probabilities in bfloat16 are each off by up to 2^-9 of themselves.
    if float(probabilities.min()) < 0 or low < 0.99 or high > 1.01:
        raise ValueError(
            "probabilities must be at least 0 and sum to 1 in every row, got values from "
            f"{float(probabilities.min()):.4g} and sums from {low:.4g} to {high:.4g}; turn logits "
            "into probabilities with logits.softmax(1)"
        )
