"""Rankings and least risk against slow loops; ties, batches and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import neuralcollapse.decisions
from neuralcollapse.decisions import conditional_risk, minimum_risk, ranking

# ((A, B), (C, D)): siblings at distance 1, the others at 2.
PAIRS = torch.tensor([[0, 1, 2, 2], [1, 0, 2, 2], [2, 2, 0, 1], [2, 2, 1, 0]], dtype=torch.float64)


def softmax(num_samples: int, num_classes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num_samples, num_classes, generator=generator, dtype=torch.float64)
    return logits.softmax(1)


def metric(num_classes: int, seed: int = 1) -> Tensor:
    """Distances between random points."""
    points = torch.randn(num_classes, 3, generator=torch.Generator().manual_seed(seed)).double()
    return (points[:, None] - points).norm(dim=2)


def slow_risks(probabilities: Tensor, cost: Tensor) -> np.ndarray:
    p, c = probabilities.double().numpy(), cost.double().numpy()
    classes = range(len(c))
    return np.array([[sum(c[j, k] * row[j] for j in classes) for k in classes] for row in p])


# --- ranking ------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("levels", [2, 4, 1000])
def test_a_ranking_is_a_sort_by_score_then_index(levels: int, top: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, levels, (40, 7), generator=generator).float()
    scores[0] = -torch.inf
    expected = [sorted(range(7), key=lambda k: (-row[k], k))[:top] for row in scores.tolist()]
    assert ranking(scores, top).tolist() == expected
    assert ranking(scores.bfloat16(), 3).shape == (40, 3)


def test_a_ranking_does_not_depend_on_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randint(0, 3, (30, 9), generator=torch.Generator().manual_seed(1)).float()
    whole = ranking(scores, 4)
    monkeypatch.setattr(neuralcollapse.decisions, "_BLOCK_SCORES", 20)
    assert torch.equal(ranking(scores, 4), whole)
    assert torch.equal(torch.cat([ranking(part, 4) for part in scores.split(7)]), whole)


def test_no_samples_have_no_decisions() -> None:
    assert ranking(torch.zeros(0, 4), 2).shape == (0, 2)
    assert minimum_risk(torch.zeros(0, 4), PAIRS).shape == (0,)
    assert minimum_risk(torch.zeros(0, 4), PAIRS, top=9).shape == (0, 4)


# --- least risk ---------------------------------------------------------------------------------


def test_the_example_prefers_the_likelier_pair() -> None:
    probabilities = torch.tensor([[0.40, 0.0, 0.35, 0.25]])
    assert conditional_risk(probabilities, PAIRS)[0].tolist() == pytest.approx(
        [1.2, 1.6, 1.05, 1.15], abs=1e-7
    )
    assert minimum_risk(probabilities, PAIRS).tolist() == [2]
    assert minimum_risk(probabilities, PAIRS, top=4).tolist() == [[2, 3, 0, 1]]


@pytest.mark.parametrize("num_classes", [1, 2, 9])
def test_decisions_and_ranks_equal_the_slow_loops(num_classes: int) -> None:
    """With a cost that is no distance and not symmetric: [true, decided]."""
    generator = torch.Generator().manual_seed(2)
    cost = torch.randn(num_classes, num_classes, generator=generator, dtype=torch.float64)
    probabilities = softmax(50, num_classes)
    slow = slow_risks(probabilities, cost)
    assert conditional_risk(probabilities, cost).numpy() == pytest.approx(slow, rel=1e-12)
    assert minimum_risk(probabilities, cost).tolist() == slow.argmin(1).tolist()
    ranks = minimum_risk(probabilities, cost, top=num_classes)
    assert ranks.tolist() == slow.argsort(1).tolist()
    assert torch.equal(ranks[:, 0], minimum_risk(probabilities, cost))


def test_equal_costs_of_all_mistakes_give_the_argmax() -> None:
    probabilities = softmax(200, 6)
    cost = 1 - torch.eye(6)
    assert torch.equal(minimum_risk(probabilities, cost), probabilities.argmax(1))
    assert torch.equal(minimum_risk(probabilities, cost, top=6), ranking(probabilities, 6))


def test_a_class_above_one_half_wins_under_a_metric() -> None:
    probabilities = softmax(500, 8)
    sure = probabilities.max(1).values > 0.5
    assert 50 < int(sure.sum()) < 450
    decided = minimum_risk(probabilities, metric(8))
    assert torch.equal(decided[sure], probabilities.argmax(1)[sure])
    assert not torch.equal(decided, probabilities.argmax(1))  # and some unsure ones change


def test_a_scale_and_an_amount_per_true_class_change_nothing() -> None:
    probabilities, cost = softmax(100, 8), metric(8)
    shift = torch.linspace(-3, 5, 8, dtype=torch.float64)[:, None]
    whole = minimum_risk(probabilities, cost, top=8)
    assert torch.equal(minimum_risk(probabilities, 7 * cost + shift, top=8), whole)


def test_equal_risks_go_by_probability_then_by_index() -> None:
    # Classes 1, 2, 3 have no chance and equal risk, though summed up in another order.
    certain = torch.tensor([[1.0, 0, 0, 0]])
    flat = 0.1 * (1 - torch.eye(4))
    assert minimum_risk(certain, flat, top=4).tolist() == [[0, 1, 2, 3]]
    # Nothing costs anything: the probabilities decide.
    assert minimum_risk(
        torch.tensor([[0.1, 0.2, 0.4, 0.3]]), torch.zeros(4, 4), top=4
    ).tolist() == [[2, 3, 1, 0]]
    even = torch.full((1, 4), 0.25)
    assert minimum_risk(even, PAIRS, top=4).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_decisions_do_not_depend_on_the_cut(rows: int) -> None:
    """Also where siblings tie: products of other shapes round otherwise."""
    generator = torch.Generator().manual_seed(3)
    probabilities = torch.randint(0, 4, (64, 32), generator=generator).float() + 0.01
    probabilities /= probabilities.sum(1, keepdim=True)
    group = torch.arange(32) // 4
    cost = 0.3 + 0.7 * (group[:, None] != group).double()
    cost.fill_diagonal_(0)
    whole = minimum_risk(probabilities, cost, top=5)
    parts = [minimum_risk(part, cost, top=5) for part in probabilities.split(rows)]
    assert torch.equal(torch.cat(parts), whole)
    exact = [_by_fractions(row, group.tolist()) for row in probabilities]
    assert whole.tolist() == exact


def _by_fractions(row: Tensor, group: list[int]) -> list[int]:
    """The same order with integers: sixteen digits of each float32 are exact in Python."""
    from fractions import Fraction

    p = [Fraction(float(x)) for x in row]
    near, far = Fraction(3, 10), Fraction(1)
    risks = [
        sum(p[j] * (0 if j == k else near if group[j] == group[k] else far) for j in range(len(p)))
        for k in range(len(p))
    ]
    return sorted(range(len(p)), key=lambda k: (risks[k], -p[k], k))[:5]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_probabilities_of_lower_precision(dtype: torch.dtype) -> None:
    probabilities = softmax(20, 12).to(dtype)
    decided = minimum_risk(probabilities, metric(12).float())
    slow = slow_risks(probabilities, metric(12).float())
    assert decided.tolist() == slow.argmin(1).tolist()


REFUSED: dict[str, tuple[tuple[Any, Any], dict[str, Any], type[Exception], str]] = {
    "logits": (
        (torch.tensor([[2.0, -1.0, 0.0, 3.0]]), PAIRS),
        {},
        ValueError,
        r"probabilities must be at least 0 and sum to 1.*from -1 and sums from 4 .*softmax",
    ),
    "sums": ((torch.full((2, 4), 0.5), PAIRS), {}, ValueError, "sums from 2 to 2"),
    "nan": ((torch.full((2, 4), torch.nan), PAIRS), {}, ValueError, "probabilities must be finite"),
    "vector": ((torch.ones(4) / 4, PAIRS), {}, ValueError, "probabilities must be 2-D"),
    "cost of other classes": (
        (torch.ones(2, 3) / 3, PAIRS),
        {},
        ValueError,
        r"cost must have 3 rows \(the columns of probabilities\)",
    ),
    "integer cost": ((torch.ones(2, 4) / 4, PAIRS.long()), {}, TypeError, "cost must be floating"),
    "infinite cost": ((torch.ones(2, 4) / 4, PAIRS / 0), {}, ValueError, "cost must be finite"),
    "no classes": (
        (torch.ones(2, 0), torch.ones(0, 0)),
        {},
        ValueError,
        "probabilities must have at least one column",
    ),
    "top": ((torch.ones(2, 4) / 4, PAIRS), {"top": 0}, ValueError, "top must be at least 1, got 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_decided_is_refused(name: str) -> None:
    arguments, options, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        minimum_risk(*arguments, **options)


def test_scores_that_are_no_numbers_are_refused() -> None:
    scores = torch.zeros(3, 4)
    scores[1, 2] = torch.nan
    with pytest.raises(
        ValueError, match=r"scores must not be nan, got nan in 1 of 3 rows \(first: row 1"
    ):
        ranking(scores, 2)
    with pytest.raises(TypeError, match="scores must be floating point"):
        ranking(scores.long(), 2)
    with pytest.raises(ValueError, match="top must be at least 1"):
        ranking(torch.zeros(3, 4), 0)
