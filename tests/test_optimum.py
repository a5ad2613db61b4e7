"""The least energies against their closed forms, tables and the solver; the cache of solutions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuralcollapse import (
    Frame,
    closed_form_status,
    optimal_configuration,
    reference_energy,
    riesz_energy,
    spherical_code,
)
from neuralcollapse.frames.closed_forms import balanced_sizes, simplices, unbalanced_sizes
from neuralcollapse.frames.objective import Objective, as_objective
from neuralcollapse.frames.optimum import CACHE_VARIABLE, cache_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for every test."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def pair_sum(vectors: torch.Tensor, power: float) -> float:
    """The energy by a loop over pairs."""
    points = vectors.double().numpy()
    total = 0.0
    for k in range(len(points)):
        for j in range(k):
            distance = float(np.linalg.norm(points[k] - points[j]))
            if power == 0:
                total -= math.log(distance)
            else:
                total += math.copysign(distance**-power, power)
    return total


# Energies of powers -1, 0, 1 and 2 (None where not tabulated) by classes and dimensions.
TABLE: dict[tuple[int, int], tuple[float | None, ...]] = {
    (2, 1): (-2, -0.693147181, 0.5, 0.25),
    (3, 2): (-5.196152423, -1.647918433, 1.732050808, 1),
    (4, 3): (-9.797958971, -2.942487759, 3.674234614, 2.25),
    (10, 9): (-67.082039325, -17.966423165, 30.186917696, 20.25),
    (100, 512): (-7035.623639735, -1740.413853123, 3482.633701669, 2450.25),
    (4, 2): (None, -2.772588722, 3.828427125, 2.5),
    (6, 3): (None, -6.238324625, 9.985281374, 6.75),
    (10, 5): (None, -17.328679514, 30.784271247, 21.25),
    (20, 10): (None, -69.314718056, 132.279220614, 92.5),
    (5, 3): (None, -4.42050716, 6.47469149, 4.25),
    (6, 4): (None, -6.41499918, 9.82806265, 6.5),
    (12, 10): (None, -25.60868031, 44.82076085, 30.5),
    (100, 64): (None, -1735.34139515, 3487.62216562, 2459.0),
    (1000, 512): (None, None, None, 249622.0),
    (5, 2): (None, -4.023594781, None, 5),
    (8, 2): (None, -8.317766167, None, 21),
    (10, 2): (-63.137515147, -11.512925465, 38.624498980, 41.25),
}


@pytest.mark.parametrize("size", TABLE, ids=str)
def test_closed_forms_have_the_energies_of_the_tables(size: tuple[int, int]) -> None:
    for power, expected in zip((-1, 0, 1, 2), TABLE[size], strict=True):
        if expected is not None:
            energy = reference_energy(*size, power, solve=False)
            assert energy.total == pytest.approx(expected, rel=3e-9)  # as many digits as printed
            assert float(energy) == energy.total
            pairs = size[0] * (size[0] - 1) / 2
            assert energy.mean == pytest.approx(expected / pairs, rel=3e-9)


SIZES = [(2, 1), (5, 8), (9, 8), (7, 2), (16, 8), (10, 8), (13, 8), (15, 8)]


@pytest.mark.parametrize("power", [-1.5, -1, 0, 0.5, 1, 2, "gaussian:0.7", "separation"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_vectors_have_the_energy_that_is_said(size: tuple[int, int], power: Any) -> None:
    if not closed_form_status(*size, power):
        pytest.skip("no closed form")
    energy = reference_energy(*size, power, solve=False)
    frame = optimal_configuration(*size, power, solve=False, dtype=torch.float64)
    assert frame.vectors.shape == size
    objective = as_objective(power)
    if objective.name == "riesz":
        assert energy.total == pytest.approx(pair_sum(frame.vectors, objective.parameter), 1e-12)
    assert objective.total(frame.vectors) == pytest.approx(energy.total, rel=1e-12)
    assert frame.facts["energy"] == energy.total
    assert (frame.kind, frame.status) == (energy.kind, energy.status)
    assert frame.gap is not None
    # Beside the polygon, whose bound is its own cosine, all meet Rankin's bounds.
    assert frame.gap == pytest.approx(0, abs=1e-14)


def test_what_is_known_where() -> None:
    def statuses(energy: Any) -> list[str]:
        return [closed_form_status(num_classes, 5, energy) for num_classes in range(2, 13)]

    simplex = ["proved"] * 5
    assert statuses("log") == [*simplex, "proved", "best known", "best known", "proved", "", ""]
    assert statuses(2) == [*simplex, *["best known"] * 3, "proved", "", ""]
    assert statuses(3) == [*simplex, "", "", "", "proved", "", ""]
    assert statuses("gaussian:1") == statuses(3)
    assert statuses("separation") == statuses("softmax_code") == [*["proved"] * 9, "", ""]
    assert {closed_form_status(num_classes, 2, 7) for num_classes in range(2, 40)} == {"proved"}


def test_at_power_two_all_unions_tie_below_balanced_wins_and_above_unbalanced() -> None:
    def energy(power: float, sizes: list[int]) -> float:
        form = simplices(sizes, "")
        return Objective("riesz", power).sum(form.counts, form.squared)

    for power in (-1, 0, 1, 1.9, 2.1, 4, 8):
        balanced, unbalanced = (
            energy(power, sizes(13, 9)) for sizes in (balanced_sizes, unbalanced_sizes)
        )
        between = energy(power, [5, 4, 2, 2])
        if power < 2:
            assert balanced < between < unbalanced
        else:
            assert unbalanced < between < balanced
    tied = [energy(2, sizes) for sizes in ([4, 3, 3, 3], [5, 4, 2, 2], [7, 2, 2, 2])]
    assert tied == pytest.approx([(13**2 - 13 - 9) / 4] * 3, rel=1e-14)
    # d = 4, K = 6 at power 4, to all digits.
    assert energy(4, [4, 2]) == pytest.approx(2.90625, rel=1e-14)
    assert energy(4, [3, 3]) == pytest.approx(2.916667, rel=1e-6)


def test_parts_of_a_cross_polytope_are_worse() -> None:
    """As are the square pyramid's 6.65685425 and 4.5 for five points in three dimensions."""
    for num_classes, dim in ((5, 3), (9, 6), (12, 10)):
        axes = torch.cat([torch.eye(dim), -torch.eye(dim)]).double()[:num_classes]
        for power in (-1, 0, 1, 2):
            assert reference_energy(num_classes, dim, power).total < pair_sum(axes, power) - 0.01


@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("size", [(5, 3), (7, 4), (7, 5), (8, 5), (9, 5), (10, 6), (8, 2), (8, 4)])
def test_the_solver_does_not_beat_what_is_best_known(size: tuple[int, int], power: float) -> None:
    """And, from random starts alone, reaches it."""
    from neuralcollapse.frames.descent import Smooth, descend, unit

    rng = np.random.default_rng(0)
    known = reference_energy(*size, power).total
    found = [
        pair_sum(
            torch.from_numpy(
                descend(unit(rng.standard_normal(size)), Smooth("riesz", power), 1000)
            ),
            power,
        )
        for _ in range(10)
    ]
    assert min(found) == pytest.approx(known, rel=1e-10)


def test_above_power_two_a_union_is_not_claimed_to_be_best() -> None:
    """A union is beaten at power 16 by something like a square pyramid."""
    assert closed_form_status(5, 3, 16) == ""
    union = simplices([3, 2], "")
    least = reference_energy(5, 3, 16)
    assert least.total < 0.997 * Objective("riesz", 16).sum(union.counts, union.squared)
    assert least.status == "best of 32 starts"


def test_where_a_union_is_best_the_solver_says_its_energy() -> None:
    union = simplices([4, 2], "")
    expected = Objective("riesz", 4).sum(union.counts, union.squared)
    assert reference_energy(6, 4, 4).total == pytest.approx(expected, rel=1e-12)


def test_solved_for_and_kept(cache: Path) -> None:
    assert math.isnan(reference_energy(7, 3, 1, solve=False).total)
    assert reference_energy(7, 3, 1, solve=False).status == "unknown"
    with pytest.raises(ValueError, match="solve must be true for 7 classes in 3 dimensions"):
        optimal_configuration(7, 3, 1, solve=False)
    assert not cache.exists()
    solved = reference_energy(7, 3, 1)
    assert solved.total == pytest.approx(14.452977414, rel=1e-9)
    (file,) = cache.iterdir()
    assert file.name == "code-7-3-riesz-1.safetensors"
    assert reference_energy(7, 3, 1, solve=False) == solved
    frame = optimal_configuration(7, 3, 1, solve=False, dtype=torch.float64)
    assert pair_sum(frame.vectors, 1) == pytest.approx(solved.total, rel=1e-12)
    # Another power is another file.
    assert math.isnan(reference_energy(7, 3, 1.0000001, solve=False).total)


def test_a_generator_turns_the_solution(cache: Path) -> None:
    def vectors(seed: int | None) -> torch.Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return optimal_configuration(7, 3, "log", generator, dtype=torch.float64).vectors

    plain, turned, other = vectors(None), vectors(1), vectors(2)
    torch.testing.assert_close(turned @ turned.T, plain @ plain.T, rtol=0, atol=1e-12)
    assert float((turned - plain).abs().max()) > 0.1
    assert float((turned - other).abs().max()) > 0.1
    assert torch.equal(vectors(1), turned)


def test_another_folder_and_none(tmp_path: Path, cache: Path) -> None:
    reference_energy(7, 3, 0, cache=tmp_path / "mine" / "codes")
    assert [file.name for file in (tmp_path / "mine" / "codes").iterdir()] == [
        "code-7-3-log.safetensors"
    ]
    assert not math.isnan(reference_energy(7, 3, 0, cache=False).total)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not math.isnan(reference_energy(7, 3, 0, cache=tmp_path / "file" / "below").total)


def damaged(file: Path, how: str) -> None:
    frame = Frame.load(file)
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-7])
    elif how == "a pickle":
        torch.save({"vectors": frame.vectors}, file)
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "another size":
        spherical_code(8, 3, energy=0, starts=1, dtype=torch.float64).save(file)
    elif how == "another energy":
        Frame(frame.kind, frame.vectors, frame.bound, "proved", {"energy": -100.0}).save(file)
    elif how == "no energy":
        Frame(frame.kind, frame.vectors, frame.bound, frame.status).save(file)
    elif how == "not a number":
        vectors = frame.vectors.clone()
        vectors[0, 0] = torch.nan
        Frame(frame.kind, vectors, frame.bound, frame.status, frame.facts).save(file)
    elif how == "a folder":
        file.unlink()
        file.mkdir()


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "a pickle",
        "empty",
        "another size",
        "another energy",
        "no energy",
        "not a number",
        "a folder",
    ],
)
def test_a_damaged_cache_is_made_anew(
    cache: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuralcollapse.frames.codes._STARTS", ((100, 1),))
    solved = reference_energy(7, 3, 0)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    damaged(file, how)
    assert math.isnan(reference_energy(7, 3, 0, solve=False).total)
    assert reference_energy(7, 3, 0) == solved
    if how != "a folder":
        assert file.read_bytes() == whole


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "neuralcollapse"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "neuralcollapse"


def test_high_powers_neither_vanish_nor_overflow() -> None:
    """The Newtonian power of 512 dimensions."""
    energy = reference_energy(10, 512, 510).total
    assert math.log(energy) == pytest.approx(math.log(45) - 255 * math.log(20 / 9), rel=1e-12)
    frame = optimal_configuration(10, 512, 510, dtype=torch.float64)
    assert math.log(energy) == pytest.approx(float(riesz_energy(frame.vectors, 510, log=True)))
    # Forty points on a circle come closer than 1.
    assert reference_energy(40, 2, 4000).total == math.inf


REFUSED: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "one class": ((1, 3, 2), ValueError, "num_classes must be at least 2, got 1"),
    "no dimension": ((2, 0, 2), ValueError, "dim must be at least 1, got 0"),
    "a line": ((3, 1, 2), ValueError, "dim must be at least 2, got 1; one dimension has two"),
    "power -2": ((5, 3, -2), ValueError, "power must be finite and above -2, got -2"),
    "not a number": ((5, 3, math.nan), ValueError, "power must be finite and above -2, got nan"),
    "infinite": ((5, 3, math.inf), ValueError, "power must be finite and above -2, got inf"),
    "unknown": ((5, 3, "entropy"), ValueError, "power must be one of riesz, log, gaussian"),
    "no scale": ((5, 3, "gaussian:0"), ValueError, "scale must be finite and above 0"),
    "log of what": ((5, 3, "log:3"), ValueError, "power 'log' takes no value without a name"),
    "nothing": ((5, 3, None), TypeError, "power must be a number, got None"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("function", [reference_energy, optimal_configuration])
def test_questions_that_make_no_sense_are_refused(function: Any, name: str) -> None:
    arguments, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        function(*arguments)
    with pytest.raises(error):
        closed_form_status(*arguments)
