"""The modes of the squared error: the scalar problem of one, and those of centred targets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from class_counts import close
from neuralcollapse.theory import predict
from neuralcollapse.theory.centred import centred_modes
from neuralcollapse.theory.modes import (
    fitted_shares,
    jump_level,
    largest_root,
    share_at_jump,
    spinodal_level,
)

# --- the scalar problem ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "depth, jump, spinodal",
    [
        (1, 1, 1),
        (2, 0.5, 0.649519052838),
        (3, 0.529133683989, 0.839947366597),
        (4, 0.569876764239, 1.065205656063),
        (6, 0.637270409443, 1.542451351008),
        (9, 0.705511578653, 2.278008107682),
    ],
)
def test_levels_at_which_a_mode_dies(depth: int, jump: float, spinodal: float) -> None:
    close(jump_level(depth), jump, 1e-12)
    close(spinodal_level(depth), spinodal, 1e-12)
    # From the cost of a mode itself, on a fine grid: its derivative, and where zero becomes best.
    x = np.geomspace(1e-3, 20, 400_001)
    saving = 1 - 1 / (x**depth + 1)
    assert float((saving / x).max()) == pytest.approx(jump, rel=2e-3 if depth == 1 else 1e-6)
    slope = depth * x ** (depth - 1) / (x**depth + 1) ** 2
    assert float(slope.max()) == pytest.approx(spinodal, rel=2e-3 if depth == 1 else 1e-6)
    if depth > 1:
        at_jump = largest_root(jump, depth) ** depth
        assert at_jump / (1 + at_jump) == pytest.approx(share_at_jump(depth), rel=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3, 6, 20])
def test_the_root_is_the_largest_and_solves_the_equation(depth: int) -> None:
    for share in (1 - 1e-9, 0.9, 0.3, 1e-3, 1e-9, 1e-15):
        level = share * spinodal_level(depth)
        root = largest_root(level, depth)
        value = depth * root ** (depth - 1) / (root**depth + 1) ** 2
        assert value == pytest.approx(level, rel=1e-12)
        beyond = root * np.geomspace(1.0001, 1e3, 1000)
        assert bool(
            (depth / beyond / (beyond ** (depth / 2) + beyond ** (-depth / 2)) ** 2 < level).all()
        )
    with pytest.raises(ValueError, match="level must be at most"):
        largest_root(1.01 * spinodal_level(depth), depth)


def test_shares_at_the_jump_are_zero_and_jump_above_it() -> None:
    for depth in (2, 3, 6):
        decay = (0.01,) * (depth + 1)
        count = 50.0
        threshold = predict([50, 50], depth=depth, weight_decay=0.01, feature_decay=0.01).threshold
        assert threshold is not None
        squares = threshold * np.array([1 - 1e-9, 1 + 1e-9])
        below, above = fitted_shares(squares, decay, 2 * count)
        assert below == 0
        assert above == pytest.approx(share_at_jump(depth), abs=1e-4)


# --- the modes of centred targets -----------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 10**9), min_size=1, max_size=30, unique=True),
    seed=st.integers(0, 1000),
)
def test_modes_of_centred_targets_are_their_singular_vectors(counts: list[int], seed: int) -> None:
    each = np.sort(np.array(counts, dtype=float))
    sizes = np.random.default_rng(seed).integers(1, 5, len(each)).astype(float)
    left, values, right = centred_modes(sizes, each)
    # The definition, class by class, between the normalised indicators of the groups.
    index = np.repeat(np.arange(len(each)), sizes.astype(int))
    centred = np.eye(len(index)) - np.outer(each[index], np.ones(len(index))) / (sizes @ each)
    members = (index[:, None] == np.arange(len(each))) / np.sqrt(sizes)
    matrix = members.T @ (centred * np.sqrt(each[index])) @ members
    # Rounding of the sums over 30 groups, and of entries up to sqrt(1e9) for the matrix.
    assert np.abs(left.T @ left - np.eye(len(values))).max(initial=0) < 1e-13
    assert np.abs(right.T @ right - np.eye(len(values))).max(initial=0) < 1e-13
    np.testing.assert_allclose((left * values) @ right.T, matrix, atol=1e-13 * each[-1] ** 0.5)
    assert (np.diff(values) < 0).all()


def test_modes_of_neighbouring_counts() -> None:
    """The zeros lie between counts that are as close as counts can be."""
    each = np.arange(10**8, 10**8 + 200, dtype=float)
    left, values, right = centred_modes(np.ones(200), each)
    assert ((values**2)[::-1] > each[:-1]).all()
    assert ((values**2)[::-1] < each[1:]).all()
    # Their distance from a count is known to as many digits as that of a lone one.
    assert np.abs(left.T @ left - np.eye(199)).max() < 1e-12
    assert np.abs(right.T @ right - np.eye(199)).max() < 1e-12
