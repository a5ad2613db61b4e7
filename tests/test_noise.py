"""What noise makes of metrics: expected values, bias, and rounding to a number format."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cases.worlds import simplex_vertices
from neuralcollapse import (
    ClassStatistics,
    cdnv,
    measure_features,
    nc1,
    nc1_trace_ratio,
    nc1_trace_unbiased,
    vci,
)
from neuralcollapse.metrics.noise import (
    null_values,
    rounding_directions,
    rounding_note,
    rounding_share,
)


def balanced(num_classes: int, samples: int) -> Tensor:
    return torch.full((num_classes,), samples)


# K, d, n; then means of 300 Monte Carlo runs with their standard errors, done elsewhere.
MONTE_CARLO = [
    (10, 64, 20, (3.154, 0.015), (21.083, 0.074), (9.764, 0.034)),
    (5, 32, 50, (7.277, 0.063), (62.32, 0.47), (26.17, 0.20)),
    (40, 16, 30, (20.84, 0.13), (29.926, 0.103), (16.626, 0.062)),
]


@pytest.mark.parametrize("case", MONTE_CARLO)
def test_pure_noise_gives_what_monte_carlo_gave(case: Any) -> None:
    num_classes, dim, samples, *expected = case
    null = null_values(balanced(num_classes, samples), dim)
    for key, (mean, error) in zip(("nc1", "nc1_trace_ratio", "cdnv"), expected, strict=True):
        assert abs(null[key] - mean) < 3 * error, key


@pytest.mark.parametrize("counts", [[20] * 6, [3, 3, 40, 7, 1, 12]])
def test_pure_noise_is_measured_as_that(counts: list[int]) -> None:
    """200 runs here, classes of unequal size among them: within four standard errors."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    runs: dict[str, list[float]] = {"nc1": [], "nc1_trace_ratio": [], "vci": [], "cdnv": []}
    for _ in range(200):
        features = torch.randn(len(labels), 24, generator=generator, dtype=torch.float64)
        statistics = ClassStatistics.from_features(features, labels, len(counts))
        for function in (nc1, nc1_trace_ratio, vci, cdnv):
            runs[function.__name__].append(float(function(statistics)))
    null = null_values(torch.tensor(counts), 24)
    assert set(null) == ({"cdnv"} if len(set(counts)) > 1 else set(runs))
    for key, value in null.items():
        values = torch.tensor(runs[key])
        assert abs(float(values.mean()) - value) < 4 * float(values.std()) / 200**0.5, key


def test_where_no_expectation_exists_none_is_given() -> None:
    assert null_values(torch.tensor([5, 0, 0]), 8) == {}
    assert null_values(torch.tensor([], dtype=torch.int64), 8) == {}
    assert "nc1" not in null_values(balanced(8, 5), 8)  # K = d: infinite
    assert "nc1" not in null_values(balanced(10, 5), 8)  # K = d + 2: infinite
    assert "nc1" in null_values(balanced(11, 5), 8)
    assert set(null_values(balanced(2, 5), 1)) == {"vci"}


@pytest.mark.parametrize(("dim", "num_classes"), [(29, 5), (40, 5), (3, 10)])
def test_noise_that_a_linear_map_fits_has_the_vci_of_collapse(dim: int, num_classes: int) -> None:
    """From N = d+1 samples down it is 0, and beside it stands that noise has that too."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % num_classes
    found = [
        float(
            vci(
                ClassStatistics.from_features(
                    torch.randn(30, dim, generator=generator, dtype=torch.float64),
                    labels,
                    num_classes,
                )
            )
        )
        for _ in range(200)
    ]
    values, null = torch.tensor(found), null_values(labels.bincount(), dim)["vci"]
    assert (null == 0) == (dim >= 29)
    # Four standard errors; where all is fitted, the rounding of double precision.
    assert abs(float(values.mean()) - null) < 4 * float(values.std()) / 200**0.5 + 1e-9


def test_unseen_classes_do_not_count() -> None:
    assert null_values(torch.tensor([4, 0, 4, 4]), 8) == null_values(balanced(3, 4), 8)


# --- bias ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("global_mean", ["class", "sample"])
@pytest.mark.parametrize("counts", [[5] * 10, [2, 3, 4, 5, 6, 7, 8, 9, 10, 20]])
def test_the_corrected_ratio_is_that_of_the_population(counts: list[int], global_mean: Any) -> None:
    """Noise of 0.3^2 / d on a unit simplex: the ratio is 0.09 whatever the sample size."""
    generator = torch.Generator().manual_seed(0)
    vertices = torch.from_numpy(simplex_vertices(10, 64))
    vertices = vertices / vertices.norm(dim=1, keepdim=True)
    labels = torch.repeat_interleave(torch.arange(10), torch.tensor(counts))
    corrected, plain = [], []
    for _ in range(200):
        noise = 0.3 / 8 * torch.randn(len(labels), 64, generator=generator, dtype=torch.float64)
        statistics = ClassStatistics.from_features(vertices[labels] + noise, labels, 10)
        corrected.append(float(nc1_trace_unbiased(statistics, global_mean=global_mean)))
        plain.append(float(nc1_trace_ratio(statistics, global_mean=global_mean)))
    between = 1.0
    if global_mean == "sample":  # of means that are not centred at their weighted mean
        share = torch.tensor(counts).double() / sum(counts)
        centred = vertices - (share[:, None] * vertices).sum(0)
        between = float(centred.square().sum()) / 10
    values = torch.tensor(corrected)
    # A ratio of unbiased parts is biased by the variance of its denominator, some 1e-4 here.
    error = 4 * float(values.std()) / 200**0.5 + 1e-4
    assert abs(float(values.mean()) - 0.09 / between) < error
    if counts == [5] * 10 and global_mean == "class":
        assert sum(plain) / 200 == pytest.approx(0.0708, abs=3e-4)


def test_where_the_corrected_ratio_is_undefined_it_says_why() -> None:
    singles = measure_features(torch.eye(4), torch.arange(4))
    assert "no class has two samples" in singles.undefined["nc1_trace_unbiased"]
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20) % 10
    # Noise alone: now and then the means lie nearer than expected.
    measured = (
        measure_features(torch.randn(20, 4, generator=generator), labels) for _ in itertools.count()
    )
    found = next(one for one in measured if math.isnan(one["nc1_trace_unbiased"]))
    assert "noise of so few samples" in found.undefined["nc1_trace_unbiased"]
    assert not math.isnan(found["nc1_trace_ratio"])


def test_a_class_of_one_sample_varies_as_the_others_do() -> None:
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0], [0.0, 5.0]])
    features, labels = features.double(), torch.tensor([0, 0, 1, 1, 2])
    statistics = ClassStatistics.from_features(features, labels, 3)
    means = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
    between = float((means - means.mean(0)).square().sum()) / 3
    within = 6 / 2
    noise = (1 - 1 / 3) * (2 / 2 + 4 / 2 + within / 1) / 3
    expected = within / (between - noise)
    assert float(nc1_trace_unbiased(statistics)) == pytest.approx(expected, rel=1e-12)


# --- rounding -----------------------------------------------------------------------------------


def collapsed(ratio: float, offset: float) -> tuple[Tensor, Tensor]:
    """Isotropic noise of trace `ratio` on a unit simplex of 10 in 512 dimensions, moved."""
    generator = torch.Generator().manual_seed(0)
    vertices = torch.from_numpy(simplex_vertices(10, 512))
    vertices = vertices / vertices.norm(dim=1, keepdim=True)
    away = torch.randn(512, generator=generator, dtype=torch.float64)
    labels = torch.arange(2000) % 10
    noise = torch.randn(2000, 512, generator=generator, dtype=torch.float64) * (ratio / 512) ** 0.5
    return vertices[labels] + noise + offset * away / away.norm(), labels


@pytest.mark.parametrize("offset", [0.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_share_of_rounding_is_what_rounding_adds(dtype: torch.dtype, offset: float) -> None:
    """Where rounding is small beside the variance, the measured variance grows by its share."""
    eps = torch.finfo(dtype).eps
    features, labels = collapsed(30 * eps**2 * (1 + offset**2) * 0.045, offset)
    exact = ClassStatistics.from_features(features, labels, 10, scatter=False)
    rounded = ClassStatistics.from_features(features.to(dtype), labels, 10, scatter=False)
    grown = float(rounded.spread.sum() / exact.spread.sum()) - 1
    # A coordinate's place in its binade is not uniform over 10 vertices; an offset leaves less of
    # it to chance.
    assert rounding_share(rounded, dtype) == pytest.approx(grown, rel=0.4)
    assert grown == pytest.approx(1 / 30, rel=0.4)


# NC1 of isotropic noise of trace r is r (K-1)^2 / (d K) = r 81 / 5120. Known, as NC1 measured over
# true NC1: 1.05 for bfloat16 at 1e-6 and 1.46 at 1e-7, with an offset of 10 it is 1.39 at 1e-5; for
# float16 1.07 at 1e-8.
LEVELS = [
    (torch.bfloat16, 0.0, 1e-4, False),
    (torch.bfloat16, 0.0, 1e-7, True),
    (torch.bfloat16, 0.0, 1e-8, True),
    (torch.bfloat16, 10.0, 1e-3, False),
    (torch.bfloat16, 10.0, 1e-5, True),
    (torch.float16, 0.0, 1e-6, False),
    (torch.float16, 0.0, 1e-9, True),
    (torch.float16, 10.0, 1e-8, True),
    (torch.float32, 0.0, 1e-8, False),
]


@pytest.mark.parametrize("dtype, offset, level, warned", LEVELS)
def test_collapse_that_the_format_made_is_told(
    dtype: torch.dtype, offset: float, level: float, warned: bool
) -> None:
    features, labels = collapsed(level * 5120 / 81, offset)
    found = measure_features(features.to(dtype), labels)
    assert any("number format" in note for note in found.notes) == warned
    assert ("number format" in str(found)) == warned
    if not warned:
        assert found["nc1"] == pytest.approx(level, rel=0.1)


def test_equal_samples_in_half_precision_are_told() -> None:
    found = measure_features(torch.eye(3).half().repeat(4, 1), torch.arange(3).repeat(4))
    assert any("none is left" in note for note in found.notes)


# --- beside the metrics -------------------------------------------------------------------------


def test_null_and_floor_stand_beside_the_metrics() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(600, 8, generator=generator), torch.arange(600) % 20
    found = measure_features(features, labels, torch.randn(20, 8, generator=generator))
    assert found.null == null_values(balanced(20, 30), 8)
    floor = math.sqrt(2 - 2 * math.sqrt(8 / 19))
    assert found.floor == pytest.approx(
        dict.fromkeys(("nc2_etf_distance", "nc2w_etf_distance"), floor)
    )
    assert found["nc2_etf_distance"] > floor
    values = found.to_dict()
    assert values["null"] == found.null
    assert values["floor"] == found.floor
    line = next(line for line in str(found).splitlines() if line.startswith("cdnv "))
    assert f"~{found.null['cdnv']:.3g}" in line.split()
    assert f">={floor:.3g}" in str(found)
    assert "what pure noise gives" in str(found)
    again = type(found).from_dict(values)
    assert (again.null, again.floor, again.notes) == (found.null, found.floor, found.notes)
    assert measure_features(features, labels, normalize=True).null == {}


@pytest.mark.parametrize(
    "num_classes, dim, floor",
    [
        (100, 64, 0.6260507),
        (1000, 512, 0.7537907),
        (10000, 512, 1.2439570),
        (29233, 768, 1.2945361),
    ],
)
def test_the_floor_of_the_distance_to_a_simplex(num_classes: int, dim: int, floor: float) -> None:
    from neuralcollapse import METRICS

    row = next(metric for metric in METRICS if metric.key == "nc2_etf_distance")
    assert row.floor is not None
    assert row.floor(num_classes, dim) == pytest.approx(floor, abs=5e-8)
    assert row.floor(dim + 1, dim) == 0


def test_there_is_no_note_where_there_is_nothing_to_tell() -> None:
    features = torch.tensor([[4.0], [4.01], [-4.0], [-4.01]])
    statistics = ClassStatistics.from_features(features, torch.tensor([0, 0, 1, 1]), 2)
    assert rounding_note(statistics, None) is None
    assert rounding_note(statistics, torch.float32) is None
    assert "rounding to bfloat16 makes" in str(rounding_note(statistics, torch.bfloat16))
    # 0.045 * (2^-10 * 4 / 0.005)^2 is 0.03: below the level.
    assert rounding_note(statistics, torch.float16) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_note_where_rounding_fills_the_direction_that_a_normalisation_leaves_out(
    dtype: torch.dtype,
) -> None:
    """100 classes in 64 dimensions, of which a layer normalisation leaves 63."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2000) % 100
    features = torch.randn(100, 64, generator=generator)[labels]
    features = features + 0.5 * torch.randn(2000, 64, generator=generator)
    normal = torch.nn.functional.layer_norm(features, (64,))
    single = ClassStatistics.from_features(normal, labels, 100)
    rounded = ClassStatistics.from_features(normal.to(dtype), labels, 100)
    assert float(nc1(rounded)) > 1.5 * float(nc1(single))
    note = str(rounding_note(rounded, dtype))
    assert note.startswith("in the direction where class means differ least, it is rounding to")
    assert rounding_directions(rounded, dtype) == 1
    # Nothing to tell of the same features without it, which differ in all directions.
    whole = ClassStatistics.from_features(features.to(dtype), labels, 100)
    assert float(nc1(whole)) == pytest.approx(
        float(nc1(ClassStatistics.from_features(features, labels, 100))), rel=1e-3
    )
    assert rounding_note(whole, dtype) is None
