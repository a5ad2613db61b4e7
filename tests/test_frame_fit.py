"""Class means against a frame that was aimed at: slow loops, laws and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import neuralcollapse.metrics.pairs
from cases.worlds import WORLDS, World, rotation, world_cases
from neuralcollapse import (
    ClassStatistics,
    Frame,
    frame_deviation,
    frame_duality,
    frame_spread,
    nc2_max_angle,
    simplex_etf,
)

# The cosines of a frame of two pairs of siblings (decay rate 2), far from a simplex.
PAIRS = torch.full((4, 4), -0.4646335, dtype=torch.float64)
PAIRS[[0, 1, 2, 3], [1, 0, 3, 2]] = -0.0707329
PAIRS.fill_diagonal_(1)


def frame_of(gram: Tensor) -> Frame:
    values, vectors = torch.linalg.eigh(gram)
    return Frame("by hand", vectors * values.clamp(min=0).sqrt())


def at(means: Tensor) -> ClassStatistics:
    return ClassStatistics.from_features(means, torch.arange(len(means)), len(means))


def slow_gaps(world: World, gram: np.ndarray) -> list[float]:
    features, labels = world.features.numpy(), world.labels.numpy()
    present = sorted({*labels.tolist()})
    means = {k: features[labels == k].mean(0) for k in present}

    def cosine(k: int, j: int) -> float:
        norms = np.linalg.norm(means[k]) * np.linalg.norm(means[j])
        return float(means[k] @ means[j] / norms)

    return [
        cosine(k, j) - float(gram[k, j]) / math.sqrt(gram[k, k] * gram[j, j])
        for k in present
        for j in present
        if k < j
    ]


@pytest.mark.parametrize("world", **world_cases)
def test_both_equal_the_slow_loops_over_raw_means(world: World) -> None:
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((world.num_classes, 3))
    frame = Frame("random", torch.from_numpy(factor))
    gram = factor @ factor.T
    gaps = slow_gaps(world, gram)
    for target in (frame, torch.from_numpy(gram)):
        deviation = float(frame_deviation(world.statistics(), target))
        spread = float(frame_spread(world.statistics(), target))
        assert deviation == pytest.approx(np.mean(np.abs(gaps)), rel=1e-9, abs=1e-14)
        assert spread == pytest.approx(np.std(gaps), rel=1e-9, abs=1e-14)


def test_blocks_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    (long_tail,) = (w for w in WORLDS if w.name == "long tail")
    statistics, target = long_tail.statistics(), torch.eye(8, dtype=torch.float64)
    whole = float(frame_deviation(statistics, target)), float(frame_spread(statistics, target))
    monkeypatch.setattr(neuralcollapse.metrics.pairs, "_BLOCK", 3)
    parts = float(frame_deviation(statistics, target)), float(frame_spread(statistics, target))
    assert parts == pytest.approx(whole, rel=1e-14)


def test_multiples_of_the_vectors_are_at_zero_and_duality_sees_the_lengths() -> None:
    frame = frame_of(PAIRS)
    even, uneven = at(3 * frame.vectors), at(frame.vectors * torch.tensor([[1.0], [2], [3], [5]]))
    for target in (frame, frame.gram):
        for statistics in (even, uneven):
            # Cosines of float64 vectors.
            assert float(frame_deviation(statistics, target)) < 1e-14
            assert float(frame_spread(statistics, target)) < 1e-14
    assert float(frame_duality(even, frame)) < 1e-14
    assert float(frame_duality(uneven, frame)) > 0.1


def test_two_classes_exchanged_are_seen() -> None:
    frame = frame_of(PAIRS)
    statistics = at(frame.vectors[[0, 2, 1, 3]])
    # Of six pairs, two siblings have become strangers and two strangers siblings.
    gap = 0.4646335 - 0.0707329
    assert float(frame_deviation(statistics, frame)) == pytest.approx(4 / 6 * gap, rel=1e-6)
    assert float(frame_spread(statistics, frame)) == pytest.approx(math.sqrt(4 / 6) * gap, rel=1e-6)
    assert float(frame_duality(statistics, frame)) > 0.1
    # Siblings exchanged look alike to the cosines; only their vectors tell.
    siblings = at(frame.vectors[[1, 0, 2, 3]])
    assert float(frame_deviation(siblings, frame)) < 1e-14
    assert float(frame_duality(siblings, frame)) > 0.1


def test_rotations_are_seen_by_the_duality_alone() -> None:
    frame = frame_of(PAIRS)
    turned = at(frame.vectors @ torch.from_numpy(rotation(4, 3)))
    assert float(frame_deviation(turned, frame)) < 1e-14
    assert float(frame_duality(turned, frame)) > 0.1


def test_an_amount_common_to_all_cosines_is_seen_by_the_deviation_alone() -> None:
    statistics = at(torch.eye(4, dtype=torch.float64))
    target = simplex_etf(4, 3, dtype=torch.float64)
    assert float(frame_deviation(statistics, target)) == pytest.approx(1 / 3, rel=1e-12)
    assert float(frame_spread(statistics, target)) < 1e-14


def test_against_the_simplex_it_is_the_classic_metric() -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    centred = at(means - means.mean(0))
    target = simplex_etf(5, 4, dtype=torch.float64)
    assert float(frame_deviation(centred, target)) == pytest.approx(
        float(nc2_max_angle(centred)), rel=1e-12
    )


def test_centring_would_break_a_frame_that_is_not_centred() -> None:
    # Three leaves, two of them siblings: the sum of the vectors is not zero.
    gram = torch.tensor([[1, 0.2, -0.6], [0.2, 1, -0.6], [-0.6, -0.6, 1]], dtype=torch.float64)
    frame = frame_of(gram)
    centred = at(frame.vectors - frame.vectors.mean(0))
    assert float(frame_deviation(at(frame.vectors), frame)) < 1e-14
    assert float(frame_deviation(centred, frame)) > 0.05


def test_what_is_not_defined_is_nan() -> None:
    frame = simplex_etf(4, 3, dtype=torch.float64)
    one = ClassStatistics.from_features(torch.ones(2, 3).double(), torch.tensor([1, 1]), 4)
    dead = at(frame.vectors * torch.tensor([[1.0], [0], [1], [1]]))
    for statistics in (one, dead):
        assert math.isnan(float(frame_deviation(statistics, frame)))
        assert math.isnan(float(frame_spread(statistics, frame)))
    assert float(frame_duality(dead, frame)) > 0.1


def test_a_target_of_other_classes_is_refused() -> None:
    statistics = at(torch.eye(4))
    for metric in (frame_deviation, frame_spread):
        with pytest.raises(ValueError, match=r"target must have 4 rows \(the classes of the"):
            metric(statistics, simplex_etf(5, 4))
        with pytest.raises(ValueError, match="target must have 4 columns"):
            metric(statistics, torch.eye(4, 3))
        with pytest.raises(TypeError, match="target must be a Frame or its Gram matrix"):
            metric(statistics, np.eye(4))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"frame.vectors must have 4 columns \(the shape of the"):
        frame_duality(statistics, simplex_etf(4, 3))
    with pytest.raises(TypeError, match="frame must be a Frame, got Tensor"):
        frame_duality(statistics, torch.eye(4))  # pyright: ignore[reportArgumentType]
