"""One pass, in place: the statistics against two passes in float64, with scatter and without."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reference.metrics
from cases.worlds import World, simplex_vertices, world, world_cases
from neuralcollapse import ClassStatistics, StatisticsAccumulator, cdnv
from passes import (
    accumulated,
    assert_equal_variability,
    assert_same,
    in_batches,
    tight_world,
    two_passes,
)

# --- against the definition ---------------------------------------------------------------------


@pytest.mark.parametrize("w", **world_cases)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_one_pass_equals_two_passes(w: World, dtype: torch.dtype) -> None:
    """On the same rounded numbers: half precision is accumulated in float32 or better."""
    features = w.features.to(dtype)
    expected = two_passes(features, w.labels, w.num_classes)
    statistics = ClassStatistics.from_features(features, w.labels, w.num_classes)
    assert_same(statistics, expected, 1e-12 if dtype == torch.float64 else 5e-7)
    assert statistics.scatter is not None
    assert float(statistics.scatter.trace()) == pytest.approx(
        float(statistics.spread.sum()), rel=5e-7, abs=1e-30
    )
    torch.testing.assert_close(statistics.scatter, statistics.scatter.T, rtol=0, atol=0)


@pytest.mark.parametrize("global_mean", ["class", "sample"])
@pytest.mark.parametrize("w", **world_cases)
def test_the_views_follow_their_definitions(w: World, global_mean: Any) -> None:
    statistics = w.statistics()
    m = reference.metrics.moments(w.features.numpy(), w.labels.numpy(), w.num_classes)
    assert statistics.num_classes == w.num_classes
    assert statistics.dim == w.features.shape[1]
    assert statistics.num_samples == len(w.labels)
    assert statistics.seen.nonzero().flatten().tolist() == m.seen
    size = np.abs(m.means).max()

    def close(value: Tensor, expected: np.ndarray, scale: float) -> None:
        torch.testing.assert_close(
            value, torch.from_numpy(np.asarray(expected)), rtol=1e-12, atol=1e-14 * scale
        )

    close(statistics.variances, m.spread, 0)
    close(statistics.within_covariance, m.within, float(np.trace(m.within)) * 100)
    # The incumbent's mean over samples raises.
    close(statistics.global_mean(global_mean), m.centre(global_mean), size)
    close(statistics.centred_means(global_mean), m.centred(global_mean), size)


@pytest.mark.parametrize("batch", [1, 7, 64, 300])
@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-5, 3e-6])
def test_near_total_collapse_in_float32(noise: float, batch: int) -> None:
    """The demand of the issue: deviation 1e-5 beside means of 30 gives NC1 to 1e-4 relative."""
    w = tight_world(noise)
    features = w.features.float()
    for dtype in (torch.float64, torch.float32):
        statistics = accumulated(in_batches(features, w.labels, batch), 5, dtype=dtype)
        assert_equal_variability(statistics, features, w.labels)


@pytest.mark.parametrize("distance", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("first", [True, False])
def test_an_outlier_is_no_bad_anchor(distance: float, first: bool) -> None:
    """The first sample of a class anchors it; an outlier there must not drown the others."""
    w = tight_world(1e-5)
    features = w.features.float()
    centred = torch.from_numpy(simplex_vertices(5, 16, 3))
    across = torch.linalg.svd(centred).Vh[-1].float()
    outliers = features.new_zeros(5, 16)
    for k in range(5):
        outliers[k] = features[w.labels == k][0] + distance * across
    position = 0 if first else 150
    features = torch.cat([features[:position], outliers, features[position:]])
    labels = torch.cat([w.labels[:position], torch.arange(5), w.labels[position:]])
    expected = two_passes(features, labels, 5)
    for size in (1, 5, 305):
        statistics = accumulated(in_batches(features, labels, size), 5)
        assert_same(statistics, expected, 1e-6)


def test_a_long_stream_does_not_drift() -> None:
    """60,000 rows in float32: sums of the residuals are kept in double."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (60_000,), generator=generator)
    means = 5 * torch.randn(10, 8, generator=generator)
    features = means[labels] + torch.randn(60_000, 8, generator=generator)
    residuals = torch.zeros(10, 8, dtype=torch.float64)
    residuals.index_add_(0, labels, features.double())
    exact_means = residuals / torch.bincount(labels)[:, None]
    gaps = features.double() - exact_means[labels]
    exact = ClassStatistics(
        torch.bincount(labels, minlength=10),
        exact_means,
        torch.zeros(10, dtype=torch.float64).index_add_(0, labels, gaps.square().sum(1)),
        gaps.T @ gaps,
    )
    assert_same(accumulated(in_batches(features, labels, 512), 10), exact, 2e-7)
    # Sums in float32 add the rounding of 6,000 additions per class.
    single = accumulated(in_batches(features, labels, 512), 10, dtype=torch.float32)
    assert_same(single.to(dtype=torch.float64), exact, 1e-4)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale_of_features_does_not_matter(scale: float) -> None:
    w = world("noisy", simplex_vertices(5, 8), 12, 0.3)
    small = ClassStatistics.from_features((scale * w.features).float(), w.labels, 5)
    expected = two_passes((scale * w.features).float(), w.labels, 5)
    assert_same(small, expected, 5e-7)


@pytest.mark.parametrize("scatter", [True, False])
def test_squares_that_overflow_are_reported(scatter: bool) -> None:
    """1e25 is a float32 whose square is not; double precision takes it."""
    w = world("noisy", simplex_vertices(5, 8), 12, 0.3)
    large = 1e25 * w.features
    with pytest.raises(ValueError, match=r"features .*overflow.*float64"):
        accumulated([(large.float(), w.labels)], 5, scatter=scatter)
    assert float(cdnv(accumulated([(large, w.labels)], 5, scatter=scatter))) == pytest.approx(
        float(cdnv(w.statistics())), rel=1e-9
    )
    with pytest.raises(ValueError, match=r"overflows; scale them down$"):
        accumulated([(1e160 * large, w.labels)], 5, scatter=scatter)


@pytest.mark.parametrize("scatter", [True, False])
def test_squares_that_vanish_are_reported(scatter: bool) -> None:
    """1e-25 is a float32 whose square is none: what lies apart would pass for collapsed."""
    w = world("noisy", simplex_vertices(5, 8), 12, 0.3)
    tiny = 1e-25 * w.features
    with pytest.raises(ValueError, match=r"features must be large enough .* float64$"):
        accumulated([(tiny.float(), w.labels)], 5, scatter=scatter)
    assert float(cdnv(accumulated([(tiny, w.labels)], 5, scatter=scatter))) == pytest.approx(
        float(cdnv(w.statistics())), rel=1e-9
    )
    for scale in (1e-160, 1e-200, 1e-310):
        with pytest.raises(ValueError, match=r"features must be large .*e-.*; scale them up$"):
            accumulated([(scale * w.features, w.labels)], 5, scatter=scatter)
        with pytest.raises(ValueError, match=r"features must be large enough"):
            accumulated([(scale * w.features[:1], w.labels[:1])], 5, scatter=scatter)


@pytest.mark.parametrize("scatter", [True, False])
def test_small_features_and_collapsed_ones_are_not_refused(scatter: bool) -> None:
    w = world("noisy", simplex_vertices(5, 8), 12, 0.3)
    small = (1e-15 * w.features).float()
    found, wanted = accumulated([(small, w.labels)], 5, scatter=scatter), w.statistics()
    torch.testing.assert_close(1e30 * found.spread, wanted.spread, rtol=1e-6, atol=0)
    # One sample a class, all samples alike, and all zero: no square is lost.
    one = torch.arange(5)
    accumulated([((1e-30 * w.features[:5]).float(), one)], 5, scatter=scatter)
    vertices = torch.as_tensor(simplex_vertices(5, 8))[w.labels]
    same = (1e-30 * vertices).float()
    for features in (same, torch.zeros_like(same)):
        assert not accumulated([(features, w.labels)], 5, scatter=scatter).spread.any()
    # A deviation of 1e-25 beside means of size one is nothing.
    beside = torch.cat([30 * vertices, 1e-25 * w.features], dim=1).float()
    assert not accumulated([(beside, w.labels)], 5, scatter=scatter).spread.any()


# --- without scatter, and as values --------------------------------------------------------------


@pytest.mark.parametrize("distance", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64])
def test_without_scatter_a_first_sample_apart_costs_few_digits(
    distance: float, dtype: torch.dtype | None
) -> None:
    """The anchor is the outlier: its own square is most of the spread, and bounds what is lost."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1000, 8, generator=generator)
    features[0] += distance
    labels = torch.zeros(1000, dtype=torch.int64)
    light = accumulated(in_batches(features, labels, 64), 1, scatter=False, dtype=dtype)
    truth = two_passes(features, labels, 1)
    # n + 1 roundings of 6e-8, one a sample, at random: times the root of n. After 64 samples the
    # anchor lies at the mean, and the others' are small, as are those of sums in float32.
    torch.testing.assert_close(light.spread, truth.spread, rtol=4e-6, atol=0)


@pytest.mark.parametrize("batch", [512, 60_000])
@pytest.mark.parametrize("deviation", [1.0, 1e-5])
def test_without_scatter_a_long_stream_does_not_drift(batch: int, deviation: float) -> None:
    """Sums are in float32, and their anchors move: 30,000 rows a class, a mean of size 5."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60_000) % 2
    means = 5 * torch.randn(2, 8, generator=generator)
    features = means[labels] + deviation * torch.randn(60_000, 8, generator=generator)
    light = accumulated(in_batches(features, labels, batch), 2, scatter=False)
    truth = two_passes(features, labels, 2)
    torch.testing.assert_close(light.spread, truth.spread, rtol=2e-7, atol=0)
    # In deviations: the first block rounds as its sum grows, what follows hardly at all.
    error = float((light.means - truth.means).abs().max()) / deviation
    assert error < 3e-7


def test_without_scatter_anchors_move_for_the_classes_that_grow() -> None:
    """Widths and numbers of classes at which anchors are looked for in the midst of batches."""
    generator = torch.Generator().manual_seed(0)
    share = 1 / torch.arange(1, 301)
    labels = torch.multinomial(share, 20_000, replacement=True, generator=generator)
    features = 10 * torch.randn(300, 5, generator=generator)[labels]
    features += torch.randn(20_000, 5, generator=generator)
    light = accumulated(in_batches(features, labels, 100), 300, scatter=False)
    # Anchors of rare classes are samples, some 3 deviations away: see above.
    assert_same(light, replace(two_passes(features, labels, 300), scatter=None), 4e-6)


def test_without_scatter_equal_samples_have_no_spread() -> None:
    features = torch.full((50, 3), 0.1)
    light = accumulated([(features, torch.zeros(50).long())], 2, scatter=False)
    assert light.spread.tolist() == [0, 0]
    assert light.means[0].tolist() == pytest.approx([0.1] * 3, rel=1e-7)


def test_without_scatter_everything_else_is_the_same() -> None:
    w = tight_world(1e-5)
    batches = in_batches(w.features.float(), w.labels, 64)
    full, light = accumulated(batches, 5), accumulated(batches, 5, scatter=False)
    assert light.scatter is None
    # Squares to the anchor rather than to the running mean: float32 rounding, averaged.
    torch.testing.assert_close(light.spread, full.spread, rtol=1e-6, atol=0)
    assert torch.equal(light.means, full.means)
    assert float(cdnv(light)) == pytest.approx(float(cdnv(full)), rel=1e-6)
    with pytest.raises(ValueError, match=r"within_covariance needs.*scatter=True"):
        _ = light.within_covariance


@pytest.mark.parametrize("scatter", [False, True])
@pytest.mark.parametrize("made_inside", [False, True])
def test_batches_of_inference_mode_and_others_add_up(scatter: bool, made_inside: bool) -> None:
    features = torch.randn(90, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(90) % 4
    parts = list(zip(features.split(20), labels.split(20), strict=True))
    with torch.inference_mode(made_inside):
        accumulator = StatisticsAccumulator(4, 5, scatter=scatter)
    for number, (some, own) in enumerate(parts):
        with torch.inference_mode(number % 2 == 0):
            accumulator.update(some, own)
    wanted = StatisticsAccumulator(4, 5, scatter=scatter)
    for some, own in parts:
        wanted.update(some, own)
    found, expected = accumulator.result(), wanted.result()
    assert torch.equal(found.means, expected.means)
    assert torch.equal(found.spread, expected.spread)


def test_statistics_are_frozen() -> None:
    statistics = ClassStatistics.from_features(torch.eye(2), torch.tensor([0, 1]), 2)
    with pytest.raises(AttributeError):
        statistics.counts = torch.zeros(2)  # pyright: ignore[reportAttributeAccessIssue]


def test_other_types_and_devices() -> None:
    w = world("noisy", simplex_vertices(4, 6), [5, 0, 5, 5], 0.3)
    single = w.statistics().to(dtype=torch.float32)
    assert single.counts.dtype == torch.int64
    assert single.scatter is not None
    assert {single.means.dtype, single.spread.dtype, single.scatter.dtype} == {torch.float32}
    assert_same(single.to("cpu", torch.float64), w.statistics(), 1e-6)


# --- devices ------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_with_reduced_products_allowed() -> None:
    w = tight_world(1e-5)
    features = w.features.float()
    expected = two_passes(features, w.labels, 5)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cuda", torch.bfloat16):
            statistics = accumulated(
                in_batches(features.cuda(), w.labels.cuda(), 64), 5, device="cuda"
            )
    finally:
        torch.set_float32_matmul_precision("highest")
    assert_same(statistics.to("cpu"), expected, 1e-6)
