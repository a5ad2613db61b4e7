"""One-vs-rest distances against closed forms and another solver; bounds on the best margin."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import neuralcollapse.frames.margins
from neuralcollapse import (
    max_cosine,
    one_vs_rest_distance,
    orthogonal_frame,
    simplex_etf,
    softmax_code_bounds,
    softmax_code_margin,
    spherical_code,
)


def random_directions(num_classes: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(num_classes, dim, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(points)


def polygon(num_classes: int) -> torch.Tensor:
    angles = torch.arange(num_classes, dtype=torch.float64) * (2 * math.pi / num_classes)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
def test_the_simplex(num_classes: int) -> None:
    frame = simplex_etf(num_classes, num_classes + 3, dtype=torch.float64)
    distances = one_vs_rest_distance(frame.vectors)
    expected = torch.full((num_classes,), num_classes / (num_classes - 1), dtype=torch.float64)
    torch.testing.assert_close(distances, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("num_classes", [5, 8, 10, 31])
def test_the_polygon(num_classes: int) -> None:
    expected = 1 - math.cos(2 * math.pi / num_classes)
    distances = one_vs_rest_distance(polygon(num_classes))
    torch.testing.assert_close(
        distances, torch.full((num_classes,), expected, dtype=torch.float64), rtol=1e-10, atol=0
    )


ARRANGEMENTS = {
    "directions": lambda: random_directions(60, 64),
    "more than dimensions": lambda: random_directions(60, 9),
    "around zero": lambda: random_directions(60, 3),
    "clusters": lambda: random_directions(10, 20).repeat(4, 1) + 0.1 * random_directions(40, 20, 1),
    "of low rank": lambda: (
        random_directions(40, 5) @ random_directions(5, 30, 1) + 0.1 * random_directions(40, 30, 2)
    ),
    "almost a simplex": lambda: (
        simplex_etf(40, 40, dtype=torch.float64).vectors + 0.01 * random_directions(40, 40)
    ),
    "twins": lambda: random_directions(20, 30).repeat(2, 1),
    "a class in the middle of others": lambda: torch.cat(
        [random_directions(20, 12)[:, :11].abs(), torch.ones(20, 1).double()], dim=1
    ).index_fill(0, torch.tensor([7]), 0.5),
    "two": lambda: random_directions(2, 5),
    "three in a plane": lambda: random_directions(3, 2),
}


@pytest.mark.parametrize("name", ARRANGEMENTS)
@pytest.mark.parametrize("block", [1 << 20, 100])
def test_the_least_distance_is_that_of_all(
    name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounds leave out problems, never the answer."""
    monkeypatch.setattr(neuralcollapse.frames.margins, "_BLOCK_WEIGHTS", block)
    monkeypatch.setattr(neuralcollapse.frames.margins, "_EASY_DIM", 0)
    points = ARRANGEMENTS[name]()
    distances = one_vs_rest_distance(points)
    # The same problems, solved alike; where all lie among the others, solved to 1e-12.
    assert softmax_code_margin(points) == pytest.approx(float(distances.min()), rel=0, abs=1e-12)


@pytest.mark.parametrize("name", ["directions", "clusters", "almost a simplex", "around zero"])
def test_few_problems_are_solved(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far from collapse too, where no bound is tight from the start."""
    monkeypatch.setattr(neuralcollapse.frames.margins, "_EASY_DIM", 0)
    solved = []
    solve = neuralcollapse.frames.margins._hull_distance
    monkeypatch.setattr(
        neuralcollapse.frames.margins,
        "_hull_distance",
        lambda *given: solved.append(given) or solve(*given),
    )
    softmax_code_margin(ARRANGEMENTS[name]())
    # One at each of nine looks, and a few in the end: of 40 or 60.
    assert 1 <= len(solved) <= 12


def test_in_few_dimensions_all_are_solved() -> None:
    points = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert softmax_code_margin(points) == float(one_vs_rest_distance(points).min())


def test_right_angles() -> None:
    """The hull of the other axes is nearest at its centre: sqrt(1 + 1/(K-1))."""
    frame = orthogonal_frame(5, 5, dtype=torch.float64)
    assert softmax_code_margin(frame.vectors) == pytest.approx(math.sqrt(5 / 4), rel=1e-12)
    # With the negative of one axis, zero lies in the hull of most.
    cross = torch.cat([torch.eye(3), -torch.eye(3)]).double()[:5]
    assert one_vs_rest_distance(cross).tolist() == pytest.approx(
        [1, 1, math.sqrt(1 + 0), 1, 1], rel=1e-12
    )


def test_a_class_in_the_hull_of_others() -> None:
    twice = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
    distances = one_vs_rest_distance(twice)
    assert distances[[0, 2]].tolist() == pytest.approx([0, 0], abs=1e-12)
    assert softmax_code_margin(twice) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("size", [(4, 6), (6, 2), (9, 3), (12, 5)])
def test_against_a_general_solver(size: tuple[int, int]) -> None:
    """The quadratic program as it is written down."""
    points = random_directions(*size).numpy()
    for k in range(size[0]):
        others = np.delete(points, k, axis=0)

        def squared(share: np.ndarray, k: int = k, others: np.ndarray = others) -> float:
            return float(np.sum((share @ others - points[k]) ** 2))

        count = len(others)
        found = minimize(
            squared,
            np.full(count, 1 / count),
            method="SLSQP",
            bounds=[(0, 1)] * count,
            constraints=[{"type": "eq", "fun": lambda share: share.sum() - 1}],
            options={"ftol": 1e-14, "maxiter": 500},
        )
        ours = float(one_vs_rest_distance(torch.from_numpy(points), torch.tensor([k])))
        # The general solver stops a little above the minimum; ours is exact.
        assert ours == pytest.approx(math.sqrt(found.fun), abs=1e-5)
        assert ours <= math.sqrt(found.fun) + 1e-9


def test_the_margin_is_at_least_one_minus_the_largest_cosine() -> None:
    for num_classes, dim in ((5, 8), (20, 3), (40, 6)):
        points = random_directions(num_classes, dim)
        assert softmax_code_margin(points) >= 1 - float(max_cosine(points)) - 1e-12


# Largest margins found by maximising them directly.
MARGINS = {
    (7, 3): 0.7898617,
    (8, 3): 0.7387961,
    (9, 3): 0.6666667,
    (10, 3): 0.5956057,
    (12, 3): 0.5527864,
    (10, 4): 5 / 6,
}


@pytest.mark.parametrize("size", MARGINS, ids=str)
def test_codes_have_the_margins_known(size: tuple[int, int]) -> None:
    code = spherical_code(*size, energy="separation", dtype=torch.float64, starts=12)
    assert softmax_code_margin(code.vectors) == pytest.approx(MARGINS[size], abs=1e-7)
    lower, upper = softmax_code_bounds(*size)
    assert lower < MARGINS[size] < upper


def test_the_bounds() -> None:
    assert softmax_code_bounds(4, 3) == pytest.approx((4 / 3, 4 / 3), rel=1e-15)
    assert softmax_code_bounds(2, 1) == (2, 2)
    assert softmax_code_bounds(5, 2) == pytest.approx((0.690983006,) * 2, abs=1e-9)
    assert softmax_code_bounds(8, 2) == pytest.approx((0.292893219,) * 2, abs=1e-9)
    assert softmax_code_bounds(100, 64) == softmax_code_bounds(6, 3) == (1, 1)
    # Sharper than the general bounds in use: 0.0556 and 1.155, 0.102 and 1.165.
    for size, others in {(12, 3): (0.05556, 1.1547), (1000, 10): (0.10173, 1.16517)}.items():
        lower, upper = softmax_code_bounds(*size)
        assert others[0] < lower < upper <= 1 < others[1]


def test_only_directions_count_and_a_subset_is_a_subset() -> None:
    points = random_directions(8, 3)
    lengths = torch.tensor([[1e-30], [1e30], [1.0], [2.0], [3.0], [0.1], [7.0], [5.0]]).double()
    whole = one_vs_rest_distance(points)
    torch.testing.assert_close(one_vs_rest_distance(points * lengths), whole, rtol=1e-10, atol=0)
    assert torch.equal(one_vs_rest_distance(points, torch.tensor([5, 2])), whole[[5, 2]])
    assert softmax_code_margin(points) == float(whole.min())
    float32 = one_vs_rest_distance(points.float().requires_grad_())
    assert float32.dtype == torch.float64
    torch.testing.assert_close(float32, whole, rtol=0, atol=1e-6)


REFUSED: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "a list": (([[1.0]],), TypeError, "weight must be a torch.Tensor"),
    "one row": ((torch.ones(1, 3),), ValueError, "weight must have 2 rows or more, got 1"),
    "integers": ((torch.ones(2, 3).long(),), TypeError, "weight must be floating point"),
    "not a number": ((torch.full((2, 3), torch.nan),), ValueError, "weight must be finite"),
    "a zero row": ((torch.eye(3)[:, :2],), ValueError, "weight must have no zero row, got one at"),
    "no rows": (
        (torch.eye(3), torch.zeros(0).long()),
        ValueError,
        r"rows must be one or more indices in \[0, 3\)",
    ),
    "a row too many": (
        (torch.eye(3), torch.tensor([3])),
        ValueError,
        r"rows must be one or more indices in \[0, 3\), got \[3\]",
    ),
    "a fraction": ((torch.eye(3), torch.tensor([0.5])), TypeError, "rows must be a 1-D tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("function", [one_vs_rest_distance, softmax_code_margin])
def test_what_has_no_margin_is_refused(function: Any, name: str) -> None:
    arguments, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        function(*arguments)


def test_bounds_of_senseless_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        softmax_code_bounds(1, 3)
    with pytest.raises(ValueError, match="dim must be at least 2, got 1"):
        softmax_code_bounds(5, 1)
