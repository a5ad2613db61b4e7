"""Metrics of pairs share one sweep, and are what they are alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import neuralcollapse as nc
from cases.worlds import World, simplex_vertices, world_cases
from metric_values import GLOBAL_MEANS
from neuralcollapse import METRICS, ClassStatistics
from neuralcollapse.metrics import evaluate, evaluation, pairs
from neuralcollapse.statistics import GlobalMean
from test_statistics_memory import Allocations

ROWS = [row for row in METRICS if row.of_pairs is not None]
SWEPT = [row for row in ROWS if row.takes_pairs]


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def points(vectors: Tensor) -> ClassStatistics:
    """Two samples a class, at the vectors on the mean."""
    noise = 0.1 * normals(*vectors.shape, seed=9)
    features = torch.cat([vectors + noise, vectors - noise])
    return ClassStatistics.from_features(
        features, torch.arange(len(vectors)).repeat(2), len(vectors)
    )


def alone(row: Any, w: World, global_mean: GlobalMean, **options: Any) -> float:
    statistics = w.statistics()
    argument = w.weight[statistics.seen] if row.needs == ("weight",) else statistics
    if row.takes_global_mean:
        options["global_mean"] = global_mean
    return float(row.function(argument, **options))


def test_every_metric_that_takes_pairs_joins_the_sweep() -> None:
    assert {row.key for row in METRICS if row.takes_pairs} == {row.key for row in SWEPT}
    assert {row.key for row in ROWS} - {row.key for row in SWEPT} == {
        "nc2_equiangle",
        "nc2w_equiangle",
    }


@pytest.mark.parametrize("drawn", [None, 500])
@pytest.mark.parametrize("w", **world_cases)
@pytest.mark.parametrize("global_mean", GLOBAL_MEANS)
def test_together_they_are_what_they_are_alone(
    global_mean: GlobalMean, w: World, drawn: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if drawn:
        monkeypatch.setattr(evaluation, "_MOST_SWEPT", 1)
        monkeypatch.setattr(evaluation, "_DRAWN", drawn)
    values, _ = evaluate(w.statistics(), w.weight, global_mean=global_mean)
    for row in SWEPT:
        generator = torch.Generator().manual_seed(0)
        expected = alone(row, w, global_mean, num_pairs=drawn, generator=generator)
        if math.isinf(expected):
            expected = math.nan
        assert values[row.key] == pytest.approx(expected, rel=0, abs=0, nan_ok=True), row.key
    for row in ROWS:
        if not row.takes_pairs:
            # For K > d alone from a d x d matrix; a variance of 1e-4 of its terms keeps 12 digits.
            expected = alone(row, w, global_mean)
            assert values[row.key] == pytest.approx(expected, rel=1e-11, abs=1e-13, nan_ok=True)


@pytest.mark.parametrize("global_mean, sweeps", [("class", 2), ("sample", 3)])
def test_the_same_vectors_are_swept_once(
    global_mean: GlobalMean, sweeps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CDNV takes no global mean; the others look at directions from the one that was asked for."""
    calls = {"all": 0, "drawn": 0}
    products, draws = pairs.pair_products, pairs.drawn_pairs

    def counted_products(rows: Tensor) -> Any:
        calls["all"] += 1
        return products(rows)

    def counted_draws(*given: Any) -> Any:
        calls["drawn"] += 1
        return draws(*given)

    monkeypatch.setattr(pairs, "pair_products", counted_products)
    monkeypatch.setattr(pairs, "drawn_pairs", counted_draws)
    statistics, weight = points(normals(12, 5)), normals(12, 5, seed=1)
    evaluate(statistics, weight, global_mean=global_mean)
    assert calls == {"all": sweeps, "drawn": 0}
    asked = {row.key: "not asked for" for row in METRICS if row.key != "nc2_equiangle"}
    evaluate(statistics, weight, global_mean=global_mean, known=asked)
    assert calls == {"all": sweeps, "drawn": 0}, "a d x d matrix tells it"
    monkeypatch.setattr(evaluation, "_MOST_SWEPT", 1)
    monkeypatch.setattr(evaluation, "_DRAWN", 100)
    evaluate(statistics, weight, global_mean=global_mean)
    assert calls == {"all": sweeps, "drawn": sweeps}


def test_no_array_of_all_pairs() -> None:
    num_classes, dim = 1500, 4
    statistics, weight = points(normals(num_classes, dim)), normals(num_classes, dim, seed=1)
    others = {row.key: "not asked for" for row in METRICS if row.of_pairs is None}
    with Allocations() as seen:
        evaluate(statistics, weight, known=others)
    # Indices of the pairs of a block on the diagonal are twice as large as its products.
    assert 8 * pairs._BLOCK**2 <= seen.largest <= 2 * 8 * pairs._BLOCK**2 < 8 * num_classes**2 / 15


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("drawn", [None, 2000])
def test_directions_that_nearly_coincide(gap: float, drawn: int | None) -> None:
    """1 / distance^2 of that pair is all there is to see; from cosines it is wrong below 1e-7."""
    vectors = torch.from_numpy(simplex_vertices(6, 16, 3))
    vectors[1] = vectors[0] + gap * normals(16)
    statistics = points(vectors)
    means = statistics.means
    units = means / means.norm(dim=1, keepdim=True)
    k, j = torch.triu_indices(6, 6, 1)
    if drawn:
        both = list(pairs.drawn_pairs(6, drawn, torch.Generator().manual_seed(0)))
        k, j = (torch.cat(some) for some in zip(*both, strict=True))
    expected = (units[k] - units[j]).square().sum(1).reciprocal().mean()
    found = nc.hug_inter(
        statistics,
        centred=False,
        num_pairs=drawn,
        generator=torch.Generator().manual_seed(0),
    )
    # Squared distances above 1e-6 are known to 1e-16 of 1, those below to the input's 1e-16 / gap.
    assert float(found) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 2.0, 100.0, 1e4])
def test_gaussian_potentials_of_which_all_terms_vanish(scale: float) -> None:
    means = normals(40, 6)
    k, j = torch.triu_indices(40, 40, 1)
    units = means - means.mean(0)
    units = units / units.norm(dim=1, keepdim=True)
    squared = (units[k] - units[j]).square().sum(1)
    expected = (-scale * squared).logsumexp(0) - math.log(len(k))
    found = nc.gnc2_gaussian(points(means), scale=scale)
    # Distances are exact to a few 1e-16, which the scale multiplies; so is the value.
    assert float(found) == pytest.approx(float(expected), rel=1e-13)
    assert (-1e4 * squared).exp().sum() == 0


def test_a_mean_at_the_global_mean_has_distances_and_no_direction() -> None:
    line = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    features = torch.cat([line + 0.5, line - 0.5])
    statistics = ClassStatistics.from_features(features, torch.arange(3).repeat(2), 3)
    values, reasons = evaluate(statistics)
    # Variances 1/2; distances 1, 1 and 2.
    assert values["cdnv"] == pytest.approx((0.5 + 0.5 + 0.125) / 3, rel=1e-15)
    assert "global mean" in reasons["gnc2_log_mean"]


def test_a_classifier_that_is_trained_feels_its_angles() -> None:
    """Metrics of the weight alone can serve as penalties: the gradient is that of the formula."""
    weight = normals(5, 3).requires_grad_()
    nc.nc2w_max_angle(weight).backward()
    other = weight.detach().clone().requires_grad_()
    units = other / other.norm(dim=1, keepdim=True)
    k, j = torch.triu_indices(5, 5, 1)
    ((units[k] * units[j]).sum(1) + 0.25).abs().mean().backward()
    assert weight.grad is not None
    assert other.grad is not None
    torch.testing.assert_close(weight.grad, other.grad, rtol=1e-12, atol=1e-14)
