"""Rows of generalised collapse: exact values, closed forms, what moves them, and the HUG loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import neuralcollapse as nc
import neuralcollapse.frames.margins
import neuralcollapse.metrics.spread_within
import reference.metrics
from cases.worlds import cross_polytope, rotation, simplex_vertices
from neuralcollapse import METRICS, ClassStatistics
from neuralcollapse.losses.hug import HUG
from neuralcollapse.metrics import SpreadWithin, evaluate
from processes import look_at_shares, run_processes

# Sums of at most some thousand terms of order one in float64.
EXACT = 1e-12


def points(vectors: np.ndarray | Tensor) -> ClassStatistics:
    """One sample a class."""
    features = torch.as_tensor(vectors, dtype=torch.float64)
    return ClassStatistics.from_features(features, torch.arange(len(features)), len(features))


def polygon(num_classes: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(num_classes) / num_classes
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def orthogonal_simplices(*sizes: int) -> np.ndarray:
    vectors = np.zeros((sum(sizes), sum(sizes) - len(sizes)))
    row = column = 0
    for size in sizes:
        part = simplex_vertices(size, size - 1)
        vectors[row : row + size, column : column + size - 1] = part
        row, column = row + size, column + size - 1
    return vectors


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# (vectors, sums over pairs of -log r and of 1/r^2)
CLOSED_FORMS = {
    "simplex of 4": (simplex_vertices(4, 5), -2.942487759, 2.25),
    "simplex of 10": (simplex_vertices(10, 9), -17.966423165, 20.25),
    "cross-polytope in 3": (cross_polytope(3), -6.238324625, 6.75),
    "cross-polytope in 10": (cross_polytope(10), -69.314718056, 92.5),
    "pentagon": (polygon(5), -4.023594781, 5.0),
    "octagon": (polygon(8), -8.317766167, 21.0),
    "decagon": (polygon(10), -11.512925465, 41.25),
    "simplices of 3 and 2": (orthogonal_simplices(3, 2), -4.42050716, 4.25),
    "simplices of 3 and 3": (orthogonal_simplices(3, 3), -6.41499918, 6.5),
    "simplices of 6 and 6": (orthogonal_simplices(6, 6), -25.60868031, 30.5),
}
forms = pytest.mark.parametrize("name", CLOSED_FORMS)


@forms
def test_exact_values_at_the_closed_forms(name: str) -> None:
    vectors, log_energy, riesz_energy = CLOSED_FORMS[name]
    statistics = points(7 * vectors + 2)
    pairs = math.comb(len(vectors), 2)
    # The sums are printed with eight or nine decimals.
    assert float(nc.gnc2_log_mean(statistics)) * pairs == pytest.approx(log_energy, abs=6e-9)
    assert float(nc.hug_inter(statistics)) * pairs == pytest.approx(riesz_energy, rel=EXACT)


@forms
def test_gaps_vanish_at_the_closed_forms_and_open_when_these_break(name: str) -> None:
    vectors, _, _ = CLOSED_FORMS[name]
    turned = vectors @ rotation(vectors.shape[1], 5)
    whole, broken = points(3 * turned - 1), points(turned + 0.2 * normals(*turned.shape).numpy())
    for power in (0, 1.0, -1.0):
        assert float(nc.gnc2_energy_gap(whole, power=power)) == pytest.approx(0, abs=EXACT)
        assert float(nc.gnc2_energy_gap(broken, power=power)) > 1e-3
    # At power 2 the simplices of any sizes are equally good.
    assert float(nc.gnc2_energy_gap(whole, power=2)) == pytest.approx(0, abs=EXACT)
    assert float(nc.gnc2_margin(whole)) == pytest.approx(1, rel=1e-9)
    assert float(nc.gnc2_margin(broken)) < 0.98


def test_more_classes_than_a_simplex_has_no_equal_distances() -> None:
    """Zero variance is not collapse for K > d+1, and collapse has no zero variance."""
    decagon = points(polygon(10))
    assert float(nc.gnc2_energy_gap(decagon)) == pytest.approx(0, abs=EXACT)
    chords = [math.log(2 * math.sin(math.pi * step / 10)) for step in range(1, 10)]
    expected = np.var(chords)
    assert float(nc.gnc2_log_variance(decagon)) == pytest.approx(expected, rel=1e-10)
    assert expected > 0.18
    row = next(metric for metric in METRICS if metric.key == "gnc2_log_variance")
    assert math.isnan(row.collapse_value(10, 2))
    assert row.collapse_value(3, 2) == 0


@pytest.mark.parametrize("power, worse", [(0, True), (2, False)])
def test_the_best_sizes_of_simplices_depend_on_the_power(power: float, worse: bool) -> None:
    """Eight classes in six dimensions: 4+4 against 6+2."""
    uneven = points(orthogonal_simplices(6, 2))
    gap = float(nc.gnc2_energy_gap(uneven, power=power))
    assert gap > 1e-4 if worse else gap == pytest.approx(0, abs=EXACT)


def test_centring_moves_directions_that_do_not_sum_to_zero() -> None:
    """Eleven electrons on a sphere: the least energy of the raw directions is not of the centred.

    40.596450508 and 40.596475185.
    """
    frame = nc.spherical_code(
        11,
        3,
        energy="riesz:1",
        starts=8,
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float64,
    )
    statistics = points(frame.vectors)
    pairs = math.comb(11, 2)
    least = 40.596450508 / pairs
    raw = nc.gnc2_energy_gap(statistics, power=1.0, centred=False, reference=least) * pairs
    centred = nc.gnc2_energy_gap(statistics, power=1.0, reference=least) * pairs
    assert float(raw) == pytest.approx(0, abs=1e-8)
    assert float(centred) == pytest.approx(40.596475185 - 40.596450508, abs=1e-8)


def test_random_directions_have_their_expected_energy() -> None:
    """The mean of 1 / r^2 over the sphere is (d-2) / (2 (d-3)); centred, it is lower."""
    dim = 16
    values = [float(nc.hug_inter(points(normals(200, dim, seed=s)), centred=False)) for s in (1, 2)]
    # Pairs are nearly independent: the spread of 1 / r^2 is 0.15, over 141 root-pairs 0.001.
    assert values == pytest.approx([(dim - 2) / (2 * (dim - 3))] * 2, abs=4e-3)


def test_a_common_offset_is_seen_without_centring_only() -> None:
    w = simplex_vertices(5, 6)
    for metric in (nc.gnc2_energy_gap, nc.gnc2_log_mean, nc.gnc2_log_variance, nc.hug_inter):
        centred = [float(metric(points(w + shift))) for shift in (0.0, 10.0)]
        raw = [float(metric(points(w + shift), centred=False)) for shift in (0.0, 10.0)]
        assert centred[0] == pytest.approx(centred[1], abs=1e-10)
        # The variance alone may fall: all directions become one.
        assert abs(raw[0] - raw[1]) > 0.01 or metric is nc.gnc2_log_variance
        assert raw[0] == pytest.approx(centred[0], abs=1e-10)
    margins = [float(nc.gnc2_margin(points(w + shift), centred=False)) for shift in (0.0, 10.0)]
    assert margins[0] == pytest.approx(1)
    assert margins[1] < 0.5


# --- margins --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 1), (2, 4), (3, 2), (4, 7), (6, 5), (7, 5), (8, 2), (9, 3)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_margin_is_that_of_every_class_searched(shape: tuple[int, int], seed: int) -> None:
    """Bounds leave out classes and dimensions, never the answer."""
    vectors = normals(*shape, seed=seed)
    found = float(nc.gnc2_margin(points(vectors), centred=False, reference=1.0))
    units = [reference.metrics.direction(row) for row in vectors.numpy()]
    distances = [
        reference.metrics.hull_distance(units[k], np.delete(units, k, axis=0))
        for k in range(len(units))
    ]
    assert found == pytest.approx(min(distances), rel=1e-8, abs=1e-9)


def test_near_collapse_one_program_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    solve = neuralcollapse.frames.margins._hull_distance

    def counted(*given: Any) -> float:
        calls.append(given)
        return solve(*given)

    monkeypatch.setattr(neuralcollapse.frames.margins, "_hull_distance", counted)
    vectors = torch.from_numpy(simplex_vertices(50, 64)) + 1e-3 * normals(50, 64)
    assert 0.9 < float(nc.gnc2_margin(points(vectors))) < 1
    assert len(calls) <= 2


def test_margins_of_many_classes_are_left_out_of_the_table() -> None:
    values, reasons = evaluate(points(normals(201, 128)))
    assert math.isnan(values["gnc2_margin"])
    assert reasons["gnc2_margin"] == (
        "takes long for more than 200 classes, got 201; call gnc2_margin if that is meant"
    )


# --- references -----------------------------------------------------------------------------------


def test_without_a_closed_form_the_reason_says_what_to_do() -> None:
    statistics = points(normals(12, 3))
    values, reasons = evaluate(statistics)
    assert math.isnan(values["gnc2_energy_gap"])
    assert math.isnan(values["gnc2_margin"])
    assert "reference_energy(12, 3, 'log') solves for it once" in reasons["gnc2_energy_gap"]
    assert "reference_energy(12, 3, 'softmax_code') solves for it" in reasons["gnc2_margin"]
    nc.reference_energy(12, 3, "log")
    nc.reference_energy(12, 3, "softmax_code")
    values, reasons = evaluate(statistics)
    assert "gnc2_energy_gap" not in reasons
    assert values["gnc2_energy_gap"] == pytest.approx(
        values["gnc2_log_mean"] + 21.606145230 / 66, abs=1e-8
    )
    # The icosahedron: 1 - 1/sqrt(5).
    share = float(nc.gnc2_margin(statistics, reference=1 - 1 / math.sqrt(5)))
    assert values["gnc2_margin"] == pytest.approx(share, rel=1e-6)


def test_a_reference_by_hand_is_taken() -> None:
    statistics = points(normals(12, 3))
    log_mean = float(nc.gnc2_log_mean(statistics))
    assert float(nc.gnc2_energy_gap(statistics, reference=log_mean - 0.25)) == pytest.approx(0.25)
    whole = float(nc.gnc2_margin(statistics, reference=1.0))
    assert float(nc.gnc2_margin(statistics, reference=0.5)) == pytest.approx(2 * whole)


def test_coinciding_directions_are_infinite_with_a_reason() -> None:
    """Class means on one ray: no uniformity, however far apart they lie."""
    means = np.array([[1.0, 0.0], [2.0, 0.0], [-1.0, 2.0], [-2.0, -2.0]])
    statistics = points(means)
    values, reasons = evaluate(statistics)
    for key in ("gnc2_energy_gap", "gnc2_log_mean", "gnc2_log_variance", "hug_inter"):
        assert math.isnan(values[key])
        assert reasons[key] == "infinite: two class means have the same direction"
    assert values["gnc2_margin"] == pytest.approx(0, abs=1e-9)
    assert float(nc.gnc2_energy_gap(statistics)) == math.inf
    assert float(nc.gnc2_energy_gap(statistics, power=-1)) > 0.05
    assert math.isfinite(values["cdnv"])


def test_three_classes_in_one_dimension_have_no_room() -> None:
    statistics = points(np.array([[-1.0], [0.5], [3.0]]))
    values, reasons = evaluate(statistics)
    assert reasons["gnc2_energy_gap"] == "infinite: two class means have the same direction"
    assert reasons["gnc2_margin"] == "one dimension has two directions, not 3"
    assert math.isnan(values["hug_inter"])
    for metric in METRICS:
        assert not math.isinf(metric.collapse_value(3, 1)), metric.key


def test_cosines_that_cancel_have_no_variation() -> None:
    statistics = points(np.array([[1.0, 0.0], [-1.0, 0.0]]))
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    _, reasons = evaluate(statistics, weight)
    assert "mean cosine" in reasons["gnc3_alignment_spread"]
    # All alike, but the wrong way round: nothing to see here, alignment says -1.
    assert float(nc.gnc3_alignment_spread(statistics, -statistics.means)) == 0


# --- the gap that is trained ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_rows_are_the_terms_of_the_loss(dtype: torch.dtype) -> None:
    labels = torch.tensor([0] * 7 + [1] * 2 + [2] * 5 + [3])
    features = (normals(15, 6) + normals(4, 6, seed=1)[labels] + 0.5).to(dtype)
    statistics = ClassStatistics.from_features(features, labels, 4)
    terms = HUG().terms(features, labels, statistics.means)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-6
    inter = nc.hug_inter(statistics, centred=False)
    intra = nc.hug_intra(statistics, features, labels, centred=False)
    assert float(inter) == pytest.approx(float(terms["inter"]), rel=tolerance)
    assert float(intra) == pytest.approx(float(terms["intra"]), rel=tolerance)
    assert float(nc.hug_inter(statistics)) != pytest.approx(float(inter), rel=1e-2)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_hug_intra_far_from_the_origin(offset: float) -> None:
    """Means and samples are moved by the same rounded origin."""
    labels = torch.arange(4).repeat(5)
    vertices = torch.from_numpy(simplex_vertices(4, 8))
    noise = 1e-3 if offset < 1e4 else 0.25
    features = (vertices[labels] + noise * normals(20, 8) + offset).float()
    m = reference.metrics.moments(features.double().numpy(), labels.numpy(), 4)
    expected = reference.metrics.hug_intra(features.double().numpy(), labels.numpy(), m, m.centre())
    statistics = ClassStatistics.from_features(features, labels, 4)
    # Both directions bend a little: by the rounding of the offset, 6e-8 of it, beside radius 1.
    tolerance = max(1e-4, 0.1 * 6e-8 * offset)
    assert float(nc.hug_intra(statistics, features, labels)) == pytest.approx(
        expected, rel=tolerance
    )


def test_hug_intra_in_parts_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(3).repeat(8)
    features = normals(24, 5) + 2 * normals(3, 5, seed=1)[labels]
    statistics = ClassStatistics.from_features(features, labels, 3)
    whole = float(nc.hug_intra(statistics, features, labels))
    monkeypatch.setattr(neuralcollapse.metrics.spread_within, "_BLOCK_FEATURES", 11)
    parts = [SpreadWithin(statistics), SpreadWithin(statistics)]
    parts[0].update(features[:7], labels[:7])
    parts[0].update(features[7:9], labels[7:9])
    parts[1].update(features[9:], labels[9:])
    parts[0].totals += parts[1].totals
    assert float(parts[0].result()) == pytest.approx(whole, rel=EXACT)


def test_samples_of_a_class_never_seen_are_undefined() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    features = normals(4, 3)
    statistics = ClassStatistics.from_features(features, labels, 3)
    assert math.isfinite(float(nc.hug_intra(statistics, features, labels)))
    assert math.isnan(float(nc.hug_intra(statistics, features, labels + 1)))
    assert math.isnan(float(nc.hug_intra(statistics, features[:0], labels[:0])))


# --- processes ------------------------------------------------------------------------------------


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_take_one_second_look(tmp_path: Path) -> None:
    """Also where one process has nothing to look at."""
    run_processes(look_at_shares, tmp_path)
