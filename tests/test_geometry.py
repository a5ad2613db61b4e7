"""Gram matrices forget rotation and width, and their distance compares shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cases.worlds import World, harmonic_frame, rotation, simplex_vertices, world_cases
from neuralcollapse import Geometry, gram_distance
from neuralcollapse.geometry import simplex_gram
from neuralcollapse.metrics import etf_distance


def gram_loops(left: np.ndarray, right: np.ndarray) -> torch.Tensor:
    return torch.tensor([[float(sum(a * b)) for b in right] for a in left], dtype=torch.float64)


@pytest.mark.parametrize("w", **world_cases)
def test_the_blocks_are_inner_products(w: World) -> None:
    means, weight = w.statistics().centred_means(), w.weight[w.statistics().seen]
    geometry = Geometry.from_vectors(means, weight)
    size = max(1.0, float(means.square().sum()), float(weight.square().sum()))
    for block, left, right in (
        (geometry.means, means, means),
        (geometry.weight, weight, weight),
        (geometry.cross, weight, means),
    ):
        assert block is not None
        torch.testing.assert_close(
            block, gram_loops(left.numpy(), right.numpy()), rtol=0, atol=1e-14 * size
        )
    alone = Geometry.from_vectors(means)
    assert alone.weight is None
    assert alone.cross is None


def test_mixed_precision_takes_that_of_the_means() -> None:
    means = torch.from_numpy(simplex_vertices(4, 6))
    geometry = Geometry.from_vectors(means, means.to(torch.bfloat16))
    assert geometry.weight is not None
    assert geometry.weight.dtype == torch.float64


@pytest.mark.parametrize("num_classes", [2, 3, 10, 64])
def test_the_simplex_gram_is_that_of_its_vertices(num_classes: int) -> None:
    vertices = torch.from_numpy(simplex_vertices(num_classes, num_classes + 3))
    scaled = vertices @ vertices.T * (1 - 1 / num_classes)
    torch.testing.assert_close(simplex_gram(num_classes), scaled, rtol=0, atol=1e-14)


@pytest.mark.parametrize("w", **world_cases)
def test_the_distance_forgets_scale_rotation_and_width(w: World) -> None:
    means = w.statistics().centred_means()
    gram = Geometry.from_vectors(means).means
    width = means.shape[1] + 4
    turn = torch.from_numpy(rotation(width, 1))[: means.shape[1]]
    other = Geometry.from_vectors(7 * means @ turn).means
    assert float(gram_distance(gram, other)) == pytest.approx(0, abs=1e-12)
    target = simplex_gram(len(gram))
    assert float(gram_distance(gram, target)) == pytest.approx(
        float(etf_distance(means)), abs=1e-12
    )


def test_the_distance_is_one() -> None:
    generator = torch.Generator().manual_seed(0)
    grams = []
    for _ in range(3):
        vectors = torch.randn(5, 4, generator=generator, dtype=torch.float64)
        grams.append(vectors @ vectors.T)
    a, b, c = grams
    assert float(gram_distance(a, b)) == float(gram_distance(b, a))
    assert 0 < float(gram_distance(a, c)) <= float(gram_distance(a, b) + gram_distance(b, c))
    assert float(gram_distance(a, -a)) == pytest.approx(2, rel=1e-14)
    # Orthogonal matrices: sqrt(2), the most that two Gram matrices can be apart.
    first = torch.diag(torch.tensor([1.0, 0.0]))
    second = torch.diag(torch.tensor([0.0, 1.0]))
    assert float(gram_distance(first, second)) == pytest.approx(math.sqrt(2), rel=1e-14)
    assert gram_distance(first, second).dtype == torch.float64


@pytest.mark.parametrize("num_classes, dim", [(8, 4), (30, 10)])
def test_the_route_through_d_x_d_equals_the_gram_distance(num_classes: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for vectors in (
        torch.randn(num_classes, dim, generator=generator, dtype=torch.float64),
        torch.from_numpy(harmonic_frame(num_classes, dim)),
    ):
        dense = gram_distance(vectors @ vectors.T, simplex_gram(num_classes))
        assert float(etf_distance(vectors)) == pytest.approx(float(dense), rel=1e-12)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"equal shapes, got \(2, 2\) and \(3, 3\)"):
        gram_distance(torch.eye(2), torch.eye(3))
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        simplex_gram(1)
    with pytest.raises(ValueError, match=r"weight must have 3 rows.*got shape \(4, 5\)"):
        Geometry.from_vectors(torch.ones(3, 5), torch.ones(4, 5))
    with pytest.raises(ValueError, match="centred_means must be 2-D"):
        Geometry.from_vectors(torch.ones(3))
