"""Metrics near collapse, far from the origin, in blocks and in other precisions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import neuralcollapse as nc
import neuralcollapse.metrics.decision
import neuralcollapse.metrics.pairs
import reference.metrics
from cases.worlds import World, rotation, simplex_vertices, world, world_cases
from metric_values import all_values, assert_equal_values, by_name, of_features, reference_values
from neuralcollapse import ClassStatistics
from neuralcollapse.metrics import NearestMean, equiangle, evaluate, linear_decision
from neuralcollapse.metrics.decision import DualDecisions


@pytest.mark.parametrize("block", [1, 3, 7])
@pytest.mark.parametrize("w", **world_cases)
def test_blockwise_sweeps_equal_the_dense_ones(
    w: World, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The incumbent raises where one class is left for the last tile."""
    dense = all_values(w)
    monkeypatch.setattr(neuralcollapse.metrics.pairs, "_BLOCK", block)
    monkeypatch.setattr(neuralcollapse.metrics.decision, "_BLOCK_SCORES", block)
    assert_equal_values(all_values(w), dense, 1e-12)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6, 1e-8])
def test_cdnv_of_means_that_nearly_coincide(gap: float) -> None:
    """Squared distances from inner products lose their digits below 1e-4."""
    means = 8 * simplex_vertices(6, 64, 3)
    means[1] = means[0] + gap * rotation(64, 4)[0]
    w = world("near", means, 4, 1e-3, in_pairs=True, seed=5)
    # The input itself is rounded to 1e-16 * 8: the gap holds that many digits, no more.
    tolerance = max(1e-9, 1e-14 / gap)
    expected = reference_values(w)["cdnv"]
    assert all_values(w)["cdnv"] == pytest.approx(expected, rel=tolerance, abs=0)


@pytest.mark.parametrize("w", **world_cases)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_variability_is_never_negative(w: World, dtype: torch.dtype) -> None:
    """Asked as "NC is negative?": the float32 inverse of a covariance of rank K-1 gave -187."""
    values = all_values(w, dtype=dtype)
    assert values["nc1"] >= 0
    assert values["nc1_trace_ratio"] >= 0
    assert values["cdnv"] >= 0
    assert bool((w.statistics(dtype).spread >= 0).all())


@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-5, 1e-7])
def test_nc1_in_many_dimensions_near_total_collapse(noise: float) -> None:
    """K = 10, d = 512, float32 features; the published routes give -187, 2e7 or 6 % of it."""
    w = world("flat", simplex_vertices(10, 512, 1) + 1, 6, noise / 512**0.5, seed=2)
    single = w.replace(features=w.features.float().double())
    expected = reference_values(single)["nc1"]
    nc1 = all_values(single, dtype=torch.float32)["nc1"]
    assert nc1 == pytest.approx(expected, rel=1e-4, abs=0)


def test_nc1_sees_directions_that_the_means_hardly_span() -> None:
    """A pseudo-inverse in float32 drops them and is 94 % low."""
    w = by_name("steep hierarchy")
    m = reference.metrics.moments(w.features.numpy(), w.labels.numpy(), w.num_classes)
    singular = np.linalg.svd(m.centred(), compute_uv=False)
    assert singular[4] / singular[0] < 1e-4
    directions = np.linalg.svd(m.centred())[2]
    smallest = float(directions[4] @ m.within @ directions[4]) / singular[4] ** 2
    assert smallest > 0.5 * all_values(w)["nc1"]


def test_nc1_leaves_out_directions_that_the_means_do_not_span() -> None:
    w = by_name("means in a plane")
    louder = w.features.clone()
    louder[:, 2:] *= 100
    assert all_values(w.replace(features=louder))["nc1"] == pytest.approx(all_values(w)["nc1"])
    assert all_values(w.replace(features=louder))["nc1_trace_ratio"] > 100


@pytest.mark.parametrize("offset", [0.0, 10.0, 1e3, 1e5])
def test_nc1_takes_the_rounding_of_an_offset_for_no_direction(offset: float) -> None:
    """Rotated and moved, a plane of means is one up to 1e-16 of the offset; NC1 was 7e26."""
    w = by_name("means in a plane")
    moved = w.replace(features=w.features @ torch.from_numpy(rotation(8, 5)) + offset)
    assert all_values(moved)["nc1"] == pytest.approx(all_values(w)["nc1"], rel=1e-8)


@pytest.mark.parametrize("offset", [0.0, 700.0, 7000.0, 1e6])
def test_nearest_means_far_from_the_origin(offset: float) -> None:
    """|x|^2 + |m|^2 - 2 x m in float32 is right for 12.6 % at 7000 class distances."""
    w = world("far", simplex_vertices(10, 16, 2) + offset, 20, 0.3, seed=3)
    features = w.features.float()
    statistics = ClassStatistics.from_features(features, w.labels, 10)
    exact = torch.cdist(
        features.double(), statistics.means, compute_mode="donot_use_mm_for_euclid_dist"
    )
    nearest, second = exact.sort(dim=1).values[:, :2].unbind(1)
    # Samples closer to the border than float32 can tell are nobody's.
    clear = second - nearest > 1e-5 * second
    assert clear.sum() > 0.9 * len(clear)
    assert torch.equal(NearestMean(statistics)(features)[clear], exact.argmin(1)[clear])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_classifiers_and_parameters(dtype: torch.dtype) -> None:
    """The incumbent raises on bfloat16 weights and on weights that require gradients."""
    w = by_name("noisy")
    rounded = w.replace(
        features=w.features.to(dtype).double(),
        weight=w.weight.to(dtype).double(),
        bias=w.bias.to(dtype).double(),
    )
    weight = torch.nn.Parameter(rounded.weight.to(dtype))
    bias = torch.nn.Parameter(rounded.bias.to(dtype))
    features = rounded.features.to(dtype).requires_grad_()
    statistics = ClassStatistics.from_features(features, w.labels, w.num_classes)
    assert not nc.hug_intra(statistics, features, w.labels).requires_grad
    assert not nc.cdnv_directional(statistics, features, w.labels).requires_grad
    known = of_features(statistics, features, w.labels, weight, bias)
    values, _ = evaluate(statistics, weight, known=known)
    assert_equal_values(values, reference_values(rounded), 1e-5, 1e-6)


def test_decisions_ignore_autocast() -> None:
    """Eight bits would decide half of these pairs by rounding."""
    means = torch.tensor([[1.0, 0.0], [1.001, 0.0]])
    features, labels = means.repeat(50, 1), torch.arange(2).repeat(50)
    features = features + torch.randn(100, 2, generator=torch.Generator().manual_seed(0)) * 1e-5
    statistics = ClassStatistics.from_features(features, labels, 2)
    weight, bias = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0.0, -1.0005])
    with torch.autocast("cpu", torch.bfloat16):
        value = nc.nc4_disagreement(statistics, features, weight, bias)
        chosen, nearest = DualDecisions(statistics, weight, bias)(features)
    assert float(value) == 0
    assert torch.equal(chosen, labels)
    assert torch.equal(nearest, labels)


def test_ties_go_to_the_first_class() -> None:
    statistics = ClassStatistics.from_features(torch.eye(2), torch.tensor([0, 1]), 2)
    assert NearestMean(statistics)(torch.ones(1, 2)).tolist() == [0]
    assert linear_decision(torch.ones(1, 2), torch.ones(3, 2)).tolist() == [0]


@pytest.mark.parametrize("num_vectors, dim", [(9, 8), (200, 8), (700, 5)])
def test_the_variation_of_angles_takes_no_pairs_where_it_has_many_digits(
    num_vectors: int, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = torch.randn(num_vectors, dim, generator=torch.Generator().manual_seed(0)) + 0.3
    units = vectors.double() / vectors.double().norm(dim=1, keepdim=True)
    above = torch.ones(num_vectors, num_vectors).triu(1).bool()
    cosines = (units @ units.T)[above]
    monkeypatch.setattr("neuralcollapse.metrics.angles.pair_metrics", None)
    # Of a variance 1e-4 of its terms, 12 digits are left.
    assert float(equiangle(vectors)) == pytest.approx(float(cosines.std(correction=0)), rel=1e-11)


def test_angles_that_hardly_vary_are_taken_pair_by_pair() -> None:
    """More vectors than dimensions: all alike, nearly alike, and a simplex of d + 1."""
    alike = torch.ones(50, 3, dtype=torch.float64)
    assert float(equiangle(alike)) < 1e-15
    generator = torch.Generator().manual_seed(0)
    near = alike + 1e-6 * torch.randn(50, 3, generator=generator, dtype=torch.float64)
    units = near / near.norm(dim=1, keepdim=True)
    first, second = torch.triu_indices(50, 50, 1)
    # 1 - cos = |u - v|^2 / 2 keeps the digits that the cosine, near 1, has lost.
    gaps = (units[first] - units[second]).square().sum(1) / 2
    # Cosines near 1 are rounded by 1e-16, their differences here are 1e-12.
    assert float(equiangle(near)) == pytest.approx(float(gaps.std(correction=0)), rel=1e-3)
    assert float(equiangle(torch.as_tensor(simplex_vertices(8, 7)))) < 1e-14


def test_what_a_layer_normalisation_takes_out_does_not_count() -> None:
    """More classes than dimensions behind it: in single precision as in double."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1200) % 40
    inputs = (
        torch.randn(1200, 16, generator=generator)
        + torch.randn(40, 16, generator=generator)[labels]
    )
    scale, shift = torch.rand(2, 16, generator=generator) + 0.5
    single, double = (
        ClassStatistics.from_features(
            torch.nn.functional.layer_norm(inputs.to(t), (16,), scale.to(t), shift.to(t)),
            labels,
            40,
        )
        for t in (torch.float32, torch.float64)
    )
    # 24 bits of the features, and scatter in single precision; it was 10^6 times as large.
    assert float(nc.nc1(single)) == pytest.approx(float(nc.nc1(double)), rel=1e-5)
    assert float(nc.vci(single)) == pytest.approx(float(nc.vci(double)), rel=1e-5)
