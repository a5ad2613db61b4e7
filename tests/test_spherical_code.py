"""Spherical codes against known optima; the bounds that certify them; what is refused."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from neuralcollapse import Frame, max_cosine_bound, simplex_etf, spherical_code
from neuralcollapse.frames import bounds
from neuralcollapse.frames.descent import Smooth, descend, descend_blockwise, mean_energy, unit
from neuralcollapse.frames.polish import constrained, largest_cosine


def code(num_classes: int, dim: int, energy: Any, **options: Any) -> Frame:
    options = {"dtype": torch.float64, **options}
    return spherical_code(num_classes, dim, energy=energy, **options)


# Least energies in three dimensions: the logarithm, Thomson's (power 1), and power 2.
SPHERE = {
    2: (-0.693147181, 0.500000000, 0.25),
    3: (-1.647918433, 1.732050808, 1),
    4: (-2.942487759, 3.674234614, 2.25),
    5: (-4.420507155, 6.474691495, 4.25),
    6: (-6.238324625, 9.985281374, 6.75),
    7: (-8.182477864, 14.452977414, 10.25),
    8: (-10.428017781, 19.675287861, 14.336791084),
    9: (None, 25.759986531, None),
    10: (-15.563123389, 32.716949460, 25.041359722),
    11: (-18.420479721, 40.59645051, 31.834721637),
    12: (-21.606145230, 49.165253058, 39.000000000),
    13: (None, 58.853230612, None),
    14: (-28.407813009, 69.306363297, 57.121208598),
}
# Largest smallest angles in three dimensions, in degrees.
TAMMES = {
    4: 109.4712206,
    5: 90,
    6: 90,
    7: 77.8695422,
    8: 74.8584922,
    9: 70.5287794,
    10: 66.1468220,
    11: 63.4349488,
    12: 63.4349488,
    13: 57.1367031,
    14: 55.6705700,
    24: 43.6907671,
}


@pytest.mark.parametrize("num_classes", SPHERE)
def test_least_energies_in_three_dimensions(num_classes: int) -> None:
    for power, expected in zip((0, 1, 2), SPHERE[num_classes], strict=True):
        if expected is not None:
            # Eight starts suffice, the default is 32; the tables have nine digits.
            energy = code(num_classes, 3, power, starts=8).facts["energy"]
            assert energy == pytest.approx(expected, rel=2e-9)


@pytest.mark.parametrize("num_classes", TAMMES)
def test_largest_angles_in_three_dimensions(num_classes: int) -> None:
    frame = code(num_classes, 3, "separation")
    angle = math.degrees(math.acos(frame.max_cosine))
    assert angle == pytest.approx(TAMMES[num_classes], abs=1e-6)
    assert frame.facts["energy"] == pytest.approx(-2 * math.sin(math.radians(angle / 2)), 1e-12)


# Codes of proven optimality: their largest cosines.
SHARP = {
    (12, 3): 5**-0.5,
    (16, 5): 0.2,
    (27, 6): 0.25,
    (56, 7): 1 / 3,
    (240, 8): 0.5,
    (120, 4): math.cos(math.pi / 5),
}


@pytest.mark.parametrize("size", [(12, 3), (16, 5), (27, 6), (56, 7)])
def test_sharp_codes_are_found_and_proved(size: tuple[int, int]) -> None:
    frame = code(*size, "separation")
    assert frame.max_cosine == pytest.approx(SHARP[size], abs=1e-9)
    assert frame.status == "proved to 1e-06"
    assert frame.gap is not None
    assert 0 <= frame.gap < 1e-6


def test_different_energies_have_different_optima() -> None:
    """Ten points in four dimensions: two pentagons for power 1, Petersen's code for the angle."""
    assert code(10, 4, 1).facts["energy"] == pytest.approx(31.44148873, rel=1e-9)
    assert code(10, 4, 2).facts["energy"] == pytest.approx(22.5, rel=1e-9)
    assert code(10, 4, "separation").max_cosine == pytest.approx(1 / 6, abs=1e-9)


@pytest.mark.parametrize("energy", ["log", "riesz:1", 2.0, 7, "gaussian:1", "separation"])
@pytest.mark.parametrize("size", [(2, 1), (2, 5), (4, 3), (10, 9), (10, 30), (129, 128)])
def test_few_classes_have_the_simplex(size: tuple[int, int], energy: Any) -> None:
    frame = code(*size, energy)
    assert frame.max_cosine == pytest.approx(-1 / (size[0] - 1), abs=1e-12)
    assert (frame.kind, frame.status) == ("simplex ETF", "proved")


@pytest.mark.parametrize("energy", ["separation", "softmax_code"])
@pytest.mark.parametrize("size", [(5, 3), (6, 3), (100, 64), (128, 64)])
def test_up_to_twice_the_dimensions_right_angles_are_best(
    size: tuple[int, int], energy: str
) -> None:
    frame = code(*size, energy)
    assert frame.max_cosine == pytest.approx(0, abs=1e-12)
    assert (frame.bound, frame.status) == (0.0, "proved")
    if energy == "softmax_code":
        assert frame.facts["margin"] == pytest.approx(1, abs=1e-12)


def test_a_softmax_code_says_its_margin() -> None:
    frame = code(9, 4, "softmax_code")
    assert frame.facts["margin"] == pytest.approx(0.8379848, abs=1e-7)
    assert frame.facts["margin"] == pytest.approx(1 - frame.max_cosine, abs=1e-9)


def test_steep_energies_near_the_largest_angle() -> None:
    frame = code(9, 3, 2000)
    assert frame.max_cosine == pytest.approx(1 / 3, abs=1e-3)
    # The mean power of 36 distances exceeds the least distance by log(36) / power at most.
    least = code(9, 3, "separation").facts["energy"]
    bound = -2000 * math.log(-least) + math.log(36)
    assert -2000 * math.log(-least) <= math.log(frame.facts["energy"]) <= bound


def test_an_energy_that_overflows_is_left_out() -> None:
    # Forty points in three dimensions come closer than 1/2: 2^2000 is beyond float64.
    frame = code(40, 3, 3000, starts=1, steps=50)
    assert "energy" not in frame.facts


# --- the same every time --------------------------------------------------------------------------


@pytest.mark.parametrize("energy", ["log", "separation"])
def test_the_same_seed_gives_the_same_bytes(energy: str) -> None:
    def vectors(seed: int | None) -> torch.Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return spherical_code(9, 3, generator, energy=energy, starts=2).vectors

    before = torch.get_rng_state()
    assert torch.equal(vectors(5), vectors(5))
    assert torch.equal(vectors(None), vectors(None))
    assert not torch.equal(vectors(5), vectors(6))
    assert torch.equal(torch.get_rng_state(), before)


def test_more_starts_are_no_worse() -> None:
    energies = [code(16, 3, 1, starts=starts).facts["energy"] for starts in (1, 4, 16)]
    assert energies == sorted(energies, reverse=True)


def test_a_bar_is_shown_only_when_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, for all that rich knows
    code(9, 3, 1, starts=1)
    assert capsys.readouterr() == ("", "")
    code(9, 3, 1, starts=1, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "spherical code" in err


# --- the parts ------------------------------------------------------------------------------------

KERNELS = {
    "riesz -1": (Smooth("riesz", -1.0), lambda d: d),
    "log": (Smooth("riesz", 0.0), lambda d: -math.log(d)),
    "riesz 2": (Smooth("riesz", 2.0), lambda d: d**-2),
    "gaussian 3": (Smooth("gaussian", 3.0), lambda d: math.exp(-3 * d**2)),
}


@pytest.mark.parametrize("name", KERNELS)
def test_the_smooth_energies_are_what_they_say(name: str) -> None:
    energy, kernel = KERNELS[name]
    points = np.random.default_rng(0).standard_normal((7, 4)) * 3
    units = points / np.linalg.norm(points, axis=1, keepdims=True)
    mean = float(
        np.mean([kernel(np.linalg.norm(units[k] - units[j])) for k in range(7) for j in range(k)])
    )
    scale = energy.parameter * (2 if energy.name == "gaussian" else 1)
    expected = math.log(mean) / scale if energy.parameter else mean
    value, gradient = mean_energy(points, energy)
    assert value == pytest.approx(expected, rel=1e-12)
    step = 1e-6
    for place in ((0, 0), (3, 2), (6, 3)):
        moved = [points.copy() for _ in range(2)]
        moved[0][place] += step
        moved[1][place] -= step
        up, down = (mean_energy(m, energy)[0] for m in moved)
        # Central differences of step 1e-6 err by 1e-12 and by rounding over the step.
        assert gradient[place] == pytest.approx((up - down) / (2 * step), abs=1e-8)


@pytest.mark.parametrize("energy", [Smooth("riesz", 0.0), Smooth("riesz", 2.0)])
def test_block_by_block_leads_to_the_same_minimum(energy: Smooth) -> None:
    """The cross-polytope is the only minimum that descents from these points end in."""
    start = torch.nn.functional.normalize(
        torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    )
    ticks: list[int] = []
    blocks = descend_blockwise(start, energy, 300, lambda: ticks.append(1)).numpy()
    dense = descend(start.numpy(), energy, 300)
    assert len(ticks) == 300
    assert mean_energy(blocks, energy)[0] == pytest.approx(mean_energy(dense, energy)[0], abs=1e-8)


def test_the_polish_only_improves() -> None:
    rng = np.random.default_rng(3)
    for num_classes, dim in ((7, 3), (12, 4), (20, 3)):
        points = unit(rng.standard_normal((num_classes, dim)))
        polished = constrained(points)
        assert np.linalg.norm(polished, axis=1) == pytest.approx(1, abs=1e-12)
        assert largest_cosine(polished) < largest_cosine(points) - 0.1
        assert largest_cosine(constrained(polished)) <= largest_cosine(polished)


def test_thousands_of_classes_go_block_by_block() -> None:
    frame = spherical_code(4100, 8, energy=2, steps=2)
    random = torch.nn.functional.normalize(
        torch.randn(4100, 8, generator=torch.Generator().manual_seed(0))
    )
    assert frame.vectors.dtype == torch.float32
    norms = frame.vectors.double().norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-6)
    beginning = Frame("random", random)
    assert frame.facts["energy"] < 0.999 * energy_of(beginning)
    assert frame.status == "best of 1 start"


def energy_of(frame: Frame) -> float:
    from neuralcollapse import riesz_energy

    return float(riesz_energy(frame.vectors, 2))


@pytest.mark.long
def test_a_thousand_classes_in_128_dimensions() -> None:
    """Within 5 % of 0.07181.

    That came from one random start (NumPy seed 5) with the smoothed largest cosine, scales 16, 32,
    ..., 16384, 500 steps of L-BFGS each: 5,500 steps instead of the 650 here. The bound is 0.0366.
    """
    frame = spherical_code(1000, 128, energy="separation")
    assert frame.max_cosine < 1.05 * 0.07181
    assert frame.bound == pytest.approx(0.03658676, abs=1e-8)


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SHARP, ids=str)
def test_bounds_meet_sharp_codes_and_never_exceed_them(size: tuple[int, int]) -> None:
    bound = max_cosine_bound(*size)
    assert SHARP[size] - 1e-6 < bound <= SHARP[size] + 1e-12


# Largest cosines of known codes, optimal or not: no bound may lie above any of them.
KNOWN = {
    **{(num_classes, 3): math.cos(math.radians(a)) for num_classes, a in TAMMES.items()},
    (10, 4): 1 / 6,
    (24, 4): 0.5,
    (40, 5): 0.5,
    (72, 6): 0.5,
    (126, 7): 0.5,
    (275, 22): 1 / 6,
    (4600, 23): 1 / 3,
}


@pytest.mark.parametrize("size", KNOWN, ids=str)
def test_no_bound_exceeds_a_known_code(size: tuple[int, int]) -> None:
    # The angles are given to 1e-7 degrees.
    assert max_cosine_bound(*size) <= KNOWN[size] + 2e-9
    if size[0] > 2 * size[1]:
        assert bounds.volume_bound(*size) < KNOWN[size]


@pytest.mark.parametrize(
    "size", [(7, 3), (30, 3), (100, 3), (9, 4), (30, 4), (20, 5), (40, 8), (200, 10), (90, 40)]
)
def test_bounds_lie_below_what_is_achieved(size: tuple[int, int]) -> None:
    for energy in (2, "separation"):
        frame = code(*size, energy, starts=1, steps=60)
        assert frame.bound == max_cosine_bound(*size)
        assert frame.gap is not None
        assert frame.gap > 0


def test_bounds_grow_with_classes_and_shrink_with_dimensions() -> None:
    by_classes = [max_cosine_bound(num_classes, 5) for num_classes in range(2, 31, 4)]
    by_dim = [max_cosine_bound(40, dim) for dim in (2, 3, 4, 7, 15, 25, 39, 50)]
    assert all(a < b for a, b in pairwise(by_classes))
    assert all(a >= b for a, b in pairwise(by_dim))
    assert by_dim[0] == math.cos(2 * math.pi / 40)
    assert by_dim[-1] == -1 / 39


def test_the_caps_are_those_of_the_sphere() -> None:
    for fraction in (1e-6, 0.01, 0.3, 0.5):
        # In three dimensions a cap takes (1 - cos) / 2 of the sphere, in two its angle over pi.
        assert math.cos(bounds.cap_angle(fraction, 3)) == pytest.approx(1 - 2 * fraction, abs=1e-12)
        assert bounds.cap_angle(fraction, 2) == pytest.approx(math.pi * fraction, rel=1e-9)


def test_the_maximum_of_a_polynomial_is_never_underestimated() -> None:
    rng = np.random.default_rng(0)
    for dim, degree in ((3, 4), (4, 11), (24, 8), (200, 6)):
        for cosine in (0.0, 0.3, 0.9):
            coefficients = rng.exponential(size=degree) * rng.integers(0, 2, degree)
            points = np.linspace(-1, cosine, 20_001)
            values = 1 + coefficients @ bounds._gegenbauer(points, dim, degree)[1:]
            found = bounds._maximum(coefficients, dim, cosine)
            assert found >= max(0.0, values.max())
            # Cells end where the curvature moves the value by less than 1e-12.
            assert found == pytest.approx(max(0.0, values.max()), abs=1e-5)


def test_gegenbauer_polynomials_are_orthogonal_on_the_sphere() -> None:
    points, weights = np.polynomial.legendre.leggauss(60)
    rows = bounds._gegenbauer(points, 7, 6)
    density = (1 - points**2) ** ((7 - 3) / 2)
    gram = (rows * weights * density) @ rows.T
    assert gram == pytest.approx(np.diag(np.diag(gram)), abs=1e-14)
    assert bounds._gegenbauer(np.ones(1), 7, 6) == pytest.approx(1)


# --- bad input ------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "unknown energy": ({"energy": "foo"}, ValueError, "energy must be one of riesz, log, gaussian"),
    "power too low": ({"energy": -2}, ValueError, "energy must be finite and above -2, got -2"),
    "power as text": ({"energy": "riesz:-2"}, ValueError, "power must be finite and above -2"),
    "no number": ({"energy": "riesz:two"}, ValueError, "option power must be a number, got 'two'"),
    "not a number": ({"energy": math.nan}, ValueError, "energy must be finite"),
    "no start": ({"starts": 0}, ValueError, "starts must be at least 1, got 0"),
    "half a start": ({"starts": 1.5}, TypeError, "starts must be an integer"),
    "no step": ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
    "integers": ({"dtype": torch.int32}, ValueError, "dtype must be a floating-point type"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_make_no_sense_are_refused(name: str) -> None:
    options, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        spherical_code(9, 3, **options)


@pytest.mark.parametrize("function", [spherical_code, max_cosine_bound])
def test_sizes_that_make_no_sense_are_refused(function: Any) -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        function(1, 3)
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        function(2, 0)
    with pytest.raises(ValueError, match="dim must be at least 2, got 1; one dimension has two"):
        function(3, 1)


def test_the_simplex_is_the_code_of_few_classes() -> None:
    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(4)

    plain = simplex_etf(5, 7, generator()).vectors
    assert torch.equal(spherical_code(5, 7, generator()).vectors, plain)
