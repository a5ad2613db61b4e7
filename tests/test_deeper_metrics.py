"""Directional CDNV, VCI, effective rank, Gaussian potential, subspaces, NC5, and weightings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

import neuralcollapse as nc
import neuralcollapse.metrics.directional
import neuralcollapse.metrics.variability
import reference.metrics
from cases.worlds import WORLDS, World, collapsed, cross_polytope, rotation, simplex_vertices, world
from neuralcollapse import BalancedScatter, ClassStatistics, measure, measure_features
from neuralcollapse.metrics import METRICS, DirectionalSpread
from neuralcollapse.metrics.variability import Weighting

UNEVEN = [w for w in WORLDS if w.name in ("long tail", "minority merged", "some singletons")]
uneven_worlds = {"argvalues": UNEVEN, "ids": [w.name for w in UNEVEN]}


def by_name(name: str) -> World:
    return next(w for w in WORLDS if w.name == name)


def moments(w: World) -> reference.metrics.Moments:
    return reference.metrics.moments(w.features.numpy(), w.labels.numpy(), w.num_classes)


def target(key: str, num_classes: int, dim: int) -> float:
    return next(row for row in METRICS if row.key == key).collapse_value(num_classes, dim)


def test_two_classes_by_hand() -> None:
    w = by_name("by hand")
    statistics = w.statistics()
    assert float(nc.cdnv_directional(statistics, w.features, w.labels)) == 0.0625
    assert float(nc.vci(statistics)) == pytest.approx(1 / 9, rel=1e-14)
    assert float(nc.gnc2_gaussian(statistics)) == pytest.approx(-8, rel=1e-14)
    assert float(nc.nc3_subspace(statistics, w.weight)) == pytest.approx(0.5**0.5, rel=1e-14)
    assert float(nc.effective_rank(statistics)) == pytest.approx(1, rel=1e-14)


# --- directional CDNV -----------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 2048])
@pytest.mark.parametrize("cut", [1, 3, 50])
def test_directional_cdnv_in_parts_is_that_of_the_whole(
    cut: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = by_name("long tail")
    whole = nc.cdnv_directional(w.statistics(), w.features, w.labels)
    monkeypatch.setattr(neuralcollapse.metrics.directional, "_BLOCK_SCORES", 40)
    monkeypatch.setattr(neuralcollapse.metrics.directional, "_KEPT_CLASSES", kept)
    spread = DirectionalSpread(w.statistics())
    for features, labels in zip(w.features.split(cut), w.labels.split(cut), strict=True):
        spread.update(features, labels)
    torch.testing.assert_close(spread.result(), whole, rtol=1e-12, atol=0)


def test_directional_cdnv_of_isotropic_noise_is_cdnv_over_d() -> None:
    w = world("noise", 3 * simplex_vertices(6, 24), 4000, 1.0, seed=1)
    statistics = w.statistics()
    value = float(nc.cdnv_directional(statistics, w.features, w.labels))
    # A variance of 4000 samples is known to sqrt(2 / 4000) = 2 %; 30 pairs average over it.
    assert value == pytest.approx(float(nc.cdnv(statistics)) / 24, rel=0.02)


@pytest.mark.parametrize("w", WORLDS, ids=[w.name for w in WORLDS])
def test_directional_cdnv_never_exceeds_cdnv(w: World) -> None:
    statistics = w.statistics()
    value = float(nc.cdnv_directional(statistics, w.features, w.labels))
    assert value <= float(nc.cdnv(statistics)) * (1 + 1e-9)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
def test_directional_cdnv_of_means_that_nearly_coincide(gap: float) -> None:
    means = 8 * simplex_vertices(6, 64, 3)
    means[1] = means[0] + gap * rotation(64, 4)[0]
    w = world("near", means, 4, 1e-3, in_pairs=True, seed=5)
    value = float(nc.cdnv_directional(w.statistics(), w.features, w.labels))
    expected = reference.metrics.cdnv_directional(w.features.numpy(), w.labels.numpy(), moments(w))
    # The projections are differences of scores of size 8 * 1e-3: 1e-18 beside gap * 1e-3.
    assert value == pytest.approx(expected, rel=max(1e-9, 1e-14 / gap))


def test_directional_cdnv_of_coinciding_means_is_undefined() -> None:
    features = torch.tensor([[0.0], [2.0], [0.0], [2.0], [5.0]])
    labels = torch.tensor([0, 0, 1, 1, 2])
    statistics = ClassStatistics.from_features(features, labels, 3)
    assert math.isnan(float(nc.cdnv_directional(statistics, features, labels)))


def test_many_classes_leave_directional_cdnv_out_with_a_reason() -> None:
    features = torch.randn(1001, 3, generator=torch.Generator().manual_seed(0))
    measurement = measure_features(features, torch.arange(1001))
    assert "takes long for more than 1000 classes" in measurement.undefined["cdnv_directional"]


# --- VCI ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("w", WORLDS, ids=[w.name for w in WORLDS])
def test_vci_has_two_routes_to_one_value(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the inverse of the covariance, and, where that is singular, by directions."""
    value = float(nc.vci(w.statistics()))
    monkeypatch.setattr(neuralcollapse.metrics.variability, "_LEAST_PIVOT", 2.0)
    assert float(nc.vci(w.statistics())) == pytest.approx(value, rel=1e-8, abs=1e-13)
    assert 0 <= value <= 1


def test_vci_does_not_see_an_invertible_linear_map() -> None:
    w = by_name("noisy")
    squeeze = torch.from_numpy(rotation(8, 3)) * torch.logspace(-2, 2, 8, dtype=torch.float64)
    bent = w.replace(features=w.features @ squeeze)
    assert float(nc.vci(bent.statistics())) == pytest.approx(
        float(nc.vci(w.statistics())), rel=1e-8
    )
    assert float(nc.nc1(bent.statistics())) != pytest.approx(float(nc.nc1(w.statistics())), rel=0.1)


def test_vci_keeps_its_digits_near_collapse() -> None:
    """One minus a trace near one would be 0 or negative here."""
    w = world("tight", simplex_vertices(5, 6, 2), 20, 1e-9, seed=4)
    value, ratio = float(nc.vci(w.statistics())), float(nc.nc1(w.statistics()))
    assert 1e-19 < value < 1e-16
    # With c_i the eigenvalues of pinv(S_B) S_W on the means, nc1 K is their sum, and noise of 80
    # degrees of freedom in 6 - 4 directions across explains 2 of 95 parts of it.
    assert value == pytest.approx(5 * ratio / 4, rel=0.1)


# --- effective rank and subspaces -----------------------------------------------------------------


def test_effective_rank_counts_directions() -> None:
    for num_classes, dim in ((4, 3), (4, 9), (10, 12)):
        w = collapsed(num_classes, dim)
        assert float(nc.effective_rank(w.statistics())) == pytest.approx(num_classes - 1)
        assert float(nc.features_effective_rank(w.statistics())) == pytest.approx(num_classes - 1)
        assert target("effective_rank", num_classes, dim) == num_classes - 1
    polytope = world("cross-polytope", cross_polytope(5), 2, 0.0)
    assert float(nc.effective_rank(polytope.statistics())) == pytest.approx(5)
    assert target("effective_rank", 10, 5) == 5
    # Three classes of six on one spot: the means are a simplex of four, one corner of which
    # counts three times.
    assert float(nc.effective_rank(by_name("minority merged").statistics())) < 3.1


def test_effective_rank_of_features_is_the_entropy_of_their_spectrum() -> None:
    w = by_name("long tail")
    features = w.features.numpy()
    values = np.linalg.eigvalsh(np.cov(features.T, ddof=0))
    shares = values / values.sum()
    expected = math.exp(-float(np.sum(shares * np.log(shares))))
    assert float(nc.features_effective_rank(w.statistics())) == pytest.approx(expected, rel=1e-10)


def test_principal_angles_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for rows, others in ((2, 2), (3, 5), (6, 2)):
        one, two = rng.standard_normal((rows, 9)), rng.standard_normal((others, 9))
        two[0] = one[0]  # an angle of zero
        angles = nc.principal_angles(torch.from_numpy(one), torch.from_numpy(two))
        expected = np.sort(scipy.linalg.subspace_angles(one.T, two.T))
        assert float(angles[0]) < 1e-14
        # scipy leaves 2e-8 where the angle is zero.
        assert angles.numpy() == pytest.approx(expected, abs=1e-7)


def test_small_principal_angles_keep_their_digits() -> None:
    """The arc cosine of 1 - 1e-20 is 0."""
    first, second = torch.eye(2, dtype=torch.float64)[:1], torch.tensor([[1.0, 1e-10]]).double()
    assert float(nc.principal_angles(first, second)) == pytest.approx(1e-10, rel=1e-6)


def test_subspaces_of_different_rank_are_not_the_same() -> None:
    w = collapsed()
    flat = w.weight.clone()
    flat[2], flat[3] = -flat[0], -flat[1]  # two of the three directions of the means
    assert float(nc.nc3_subspace(w.statistics(), flat)) == pytest.approx(2 / 3)
    assert math.isnan(float(nc.nc3_subspace(w.statistics(), torch.ones(4, 6))))
    assert math.isnan(float(nc.nc3_subspace(w.statistics(), w.weight * torch.inf)))


# --- the Gaussian potential -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "num_classes, value", [(4, -5.3333333), (10, -4.4444444), (100, -4.040404)]
)
def test_gaussian_potential_of_a_simplex(num_classes: int, value: float) -> None:
    found = float(nc.gnc2_gaussian(collapsed(num_classes, num_classes, count=2).statistics()))
    assert found == pytest.approx(value, rel=1e-6)
    assert target("gnc2_gaussian", num_classes, num_classes) == pytest.approx(value, rel=1e-6)


def test_gaussian_potential_where_no_simplex_fits() -> None:
    angles = 2 * np.pi * np.arange(7) / 7
    polygon = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for means in (cross_polytope(4), polygon):
        statistics = world("best known", 3 * means, 2, 0.0).statistics()
        known = target("gnc2_gaussian", *means.shape)
        assert float(nc.gnc2_gaussian(statistics)) == pytest.approx(known, rel=1e-12)
    assert math.isnan(target("gnc2_gaussian", 9, 3))
    with pytest.raises(ValueError, match="scale must be finite and above 0, got 0"):
        nc.gnc2_gaussian(statistics, scale=0)


# --- NC5 ------------------------------------------------------------------------------------------


def test_nc5_is_the_mean_cosine_with_the_mean_outside() -> None:
    w = by_name("one class longer")
    outsiders = torch.randn(7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = float(nc.nc5_orthogonality(w.statistics(), outsiders))
    expected = reference.metrics.outside_cosine(moments(w), outsiders.numpy())
    assert value == pytest.approx(expected, rel=1e-12)
    assert value > 0.05
    measured = measure_features(w.features, w.labels, outsiders=outsiders.numpy())
    assert measured["nc5_orthogonality"] == pytest.approx(value, rel=1e-12)
    unit = measure_features(w.features, w.labels, outsiders=outsiders, normalize=True)
    assert unit["nc5_orthogonality"] != pytest.approx(value, rel=1e-3)


def test_a_model_is_measured_with_outsiders() -> None:
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    inputs, labels = torch.randn(30, 4, generator=generator), torch.arange(30) % 3
    outside = torch.randn(20, 4, generator=generator)
    batches = [(part, torch.zeros(len(part))) for part in outside.split(8)]
    measured = measure(model, [(inputs, labels)], outsiders=batches, progress=False)
    with torch.no_grad():
        features, others = model[:2](inputs), model[:2](outside)
    expected = measure_features(features, labels, outsiders=others)["nc5_orthogonality"]
    assert measured["nc5_orthogonality"] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="outsiders must yield at least one sample, got none"):
        measure(model, [(inputs, labels)], outsiders=[], progress=False)


def test_nc5_without_outsiders_or_direction_says_why() -> None:
    w = by_name("noisy")
    plain = measure_features(w.features, w.labels)
    assert "nc5_orthogonality" not in {**plain.metrics, **plain.undefined}
    assert "nc5_orthogonality" not in str(plain)
    none = measure_features(w.features, w.labels, outsiders=torch.zeros(0, 8))
    assert none.undefined["nc5_orthogonality"] == "outsiders hold no sample"
    assert "nc5_orthogonality" in str(none)
    zero = measure_features(w.features, w.labels, outsiders=torch.zeros(3, 8))
    assert "zero" in zero.undefined["nc5_orthogonality"]
    with pytest.raises(ValueError, match=r"outsiders must have 8 columns .*got shape \(3, 7\)"):
        measure_features(w.features, w.labels, outsiders=torch.zeros(3, 7))
    with pytest.raises(ValueError, match="outsiders must be finite"):
        measure_features(w.features, w.labels, outsiders=torch.full((3, 8), math.nan))


# --- weightings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("global_mean", ["class", "sample"])
@pytest.mark.parametrize("weighting", [None, "balanced", "samples"])
@pytest.mark.parametrize("w", **uneven_worlds)
def test_covariances_are_weighted_as_asked(
    w: World, weighting: Weighting, global_mean: str
) -> None:
    m = moments(w)
    between = reference.metrics.between_rows(m, global_mean, weighting)
    within = m.within
    if weighting == "balanced":
        within = reference.metrics.balanced_within(w.features.numpy(), w.labels.numpy(), m)
    found = measure_features(
        w.features, w.labels, num_classes=w.num_classes, weighting=weighting,
        global_mean=global_mean,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    ratio = np.trace(within) / np.sum(between**2)
    assert found["nc1_trace_ratio"] == pytest.approx(ratio, rel=1e-9)
    # The reference's pseudo-inverse of d x d squares the condition of "minority merged", 1e3.
    expected = reference.metrics.weighted_nc1(between, within)
    assert found["nc1"] == pytest.approx(expected, rel=1e-6)
    total = np.linalg.pinv(within + between.T @ between, rcond=1e-13)
    rank = np.linalg.matrix_rank(between)
    share = 1 - np.trace(total @ between.T @ between) / rank
    assert found["vci"] == pytest.approx(share, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("w", **uneven_worlds)
def test_weightings_differ_and_say_so(w: World) -> None:
    kinds: list[Weighting | None] = [None, "balanced", "samples"]
    found = [measure_features(w.features, w.labels, weighting=kind) for kind in kinds]
    assert len({round(one["nc1"], 6) for one in found}) == 3
    within = [one.conventions["within_covariance"] for one in found]
    between = [one.conventions["between_covariance"] for one in found]
    assert within[0] == within[2] == "divided by the number of samples"
    assert within[1] == "mean over the classes seen of their own covariances"
    assert between[0] == between[1] == "divided by the number of classes seen"
    assert between[2] == "classes weighted by their share of the samples"


def test_classes_of_equal_size_have_one_weighting() -> None:
    w = by_name("noisy")
    plain = nc.nc1(w.statistics()), nc.vci(w.statistics()), nc.nc1_trace_ratio(w.statistics())
    for kind in ("balanced", "samples"):
        for metric, value in zip((nc.nc1, nc.vci, nc.nc1_trace_ratio), plain, strict=True):
            found = metric(w.statistics(), weighting=kind)
            torch.testing.assert_close(found, value, rtol=1e-12, atol=0)


def test_a_balanced_scatter_comes_in_parts() -> None:
    w = by_name("long tail")
    whole, parts = BalancedScatter(w.statistics()), BalancedScatter(w.statistics())
    whole.update(w.features, w.labels)
    for features, labels in zip(w.features.split(7), w.labels.split(7), strict=True):
        parts.update(features, labels)
    torch.testing.assert_close(parts.totals, whole.totals, rtol=1e-12, atol=1e-12)


def test_pooled_statistics_cannot_be_balanced() -> None:
    statistics = by_name("long tail").statistics()
    for metric in (nc.nc1, nc.vci):
        with pytest.raises(ValueError, match=r"measure_features.*BalancedScatter look at the feat"):
            metric(statistics, weighting="balanced")
    with pytest.raises(ValueError, match="weighting must be one of balanced, samples, got 'class'"):
        nc.nc1(statistics, weighting="class")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="weighting must be one of balanced, samples, got 'all'"):
        measure_features(torch.eye(2), torch.arange(2), weighting="all")  # pyright: ignore
    values, reasons = nc.metrics.evaluate(statistics, weighting="balanced")
    assert math.isnan(values["nc1"])
    assert "balanced classes need the features" in reasons["nc1"]
    assert values["nc1_trace_ratio"] == pytest.approx(
        float(nc.nc1_trace_ratio(statistics, weighting="balanced"))
    )


def test_a_loader_that_runs_once_gives_no_balanced_covariance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neuralcollapse.measuring, "_KEPT_BYTES", 0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    batch: tuple[Tensor, Tensor] = torch.randn(10, 4), torch.tensor([0, 1, 1, 1, 1, 1, 2, 2, 2, 2])
    once = measure(model, iter([batch]), weighting="balanced", progress=False)
    assert "only once" in once.undefined["nc1"]
    assert "only once" in once.undefined["vci"]
    assert "only once" in once.undefined["cdnv_directional"]
    twice = measure(model, [batch], weighting="balanced", progress=False)
    assert math.isfinite(twice["nc1"])
    assert math.isfinite(twice["cdnv_directional"])
