"""Potentials of points on the sphere: exact values, digits near coincidence, bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cases.worlds import cross_polytope, rotation, simplex_vertices
from neuralcollapse import energy
from neuralcollapse.energy import (
    gaussian_energy,
    gaussian_log_determinant,
    max_cosine,
    pair_energy,
    riesz_energy,
    separation,
)
from reference import energy as reference

POWERS = [-1.5, -1.0, -0.5, 0.0, 1.0, 2.0, 3.7]

# Every potential with what the loops say; the sums over pairs first.
SUMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[np.ndarray], float]]] = {
    **{
        f"riesz {power:g}": (
            lambda v, s=power: riesz_energy(v, s),
            lambda v, s=power: reference.riesz(v, s),
        )
        for power in POWERS
    },
    "log riesz": (lambda v: riesz_energy(v, 3, log=True), lambda v: reference.log_riesz(v, 3)),
    "gaussian": (lambda v: gaussian_energy(v, 0.7), lambda v: reference.gaussian(v, 0.7)),
    "log gaussian": (
        lambda v: gaussian_energy(v, 5, log=True),
        lambda v: math.log(reference.gaussian(v, 5)),
    ),
}
ALL = {
    **SUMS,
    "log-determinant": (
        lambda v: gaussian_log_determinant(v, 1.3, jitter=1e-3),
        lambda v: reference.gaussian_log_determinant(v, 1.3, 1e-3),
    ),
    "separation": (separation, lambda v: min(reference.distances(v))),
    "max cosine": (max_cosine, lambda v: 1 - min(reference.distances(v)) ** 2 / 2),
}
potentials = pytest.mark.parametrize("potential, loops", ALL.values(), ids=ALL)


def spread(count: int, dim: int, seed: int = 0) -> Tensor:
    """Vectors in random directions, of lengths from 0.1 to 10."""
    rng = np.random.default_rng(seed)
    lengths = 10.0 ** rng.uniform(-1, 1, (count, 1))
    return torch.from_numpy(rng.standard_normal((count, dim)) * lengths)


def clustered(dim: int, distance: float, count: int) -> Tensor:
    """Half of the vectors at about `distance` from one point, half far away."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    noise /= noise.norm(dim=1, keepdim=True)
    centre = noise[0].clone()
    noise[: count // 2] = centre + noise[: count // 2] * distance / math.sqrt(2)
    return noise


def polygon(count: int) -> Tensor:
    angles = 2 * np.pi * np.arange(count) / count
    return torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], 1))


def icosahedron() -> Tensor:
    golden = (1 + 5**0.5) / 2
    corners = [
        np.roll([0.0, one, other], turn)
        for turn in range(3)
        for one in (-1, 1)
        for other in (-golden, golden)
    ]
    return torch.from_numpy(np.stack(corners))


def bipyramid() -> Tensor:
    """Three points on the equator and both poles."""
    equator = torch.nn.functional.pad(polygon(3), (0, 1))
    poles = torch.tensor([[0, 0, 1], [0, 0, -1]], dtype=torch.float64)
    return torch.cat([equator, poles])


# --- the definition ------------------------------------------------------------------------------


@potentials
@pytest.mark.parametrize("count, dim", [(2, 1), (2, 3), (13, 5), (6, 20)])
def test_the_loops_agree(potential: Any, loops: Any, count: int, dim: int) -> None:
    vectors = spread(count, dim, seed=5) if dim > 1 else torch.tensor([[2.0], [-3.0]]).double()
    expected = torch.tensor(loops(vectors.numpy()), dtype=torch.float64)
    torch.testing.assert_close(potential(vectors), expected, rtol=1e-11, atol=1e-12)


@potentials
def test_rotation_length_and_order_do_not_matter(potential: Any, loops: Any) -> None:
    vectors = spread(9, 4)
    turned = vectors.flip(0) @ torch.from_numpy(rotation(4, 2)) * torch.arange(1, 10)[:, None]
    torch.testing.assert_close(potential(turned), potential(vectors), rtol=1e-11, atol=1e-12)


@potentials
def test_gradients(potential: Any, loops: Any) -> None:
    vectors = spread(6, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(potential, vectors)


@potentials
def test_float32_follows_float64(potential: Any, loops: Any) -> None:
    vectors = spread(30, 8)
    value = potential(vectors.float())
    assert value.dtype == torch.float32
    # Cosines of float32 err by some 1e-7, which the closest pairs multiply.
    torch.testing.assert_close(value.double(), potential(vectors), rtol=1e-5, atol=1e-5)


@potentials
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(potential: Any, loops: Any, dtype: Any) -> None:
    half = spread(8, 5).to(dtype).requires_grad_()
    single = half.detach().float().requires_grad_()
    # Autocast must not take the products down either.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = potential(half)
    value.backward()
    potential(single).backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, potential(single), rtol=1e-6, atol=1e-6)
    assert half.grad is not None
    assert single.grad is not None
    torch.testing.assert_close(half.grad, single.grad.to(dtype), rtol=1e-2, atol=1e-6)


def test_a_second_derivative_is_refused() -> None:
    vectors = spread(4, 3).requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(riesz_energy(vectors, 1), vectors, create_graph=True)


def test_without_gradients_there_is_no_graph() -> None:
    vectors = spread(4, 3).requires_grad_()
    with torch.no_grad():
        assert not riesz_energy(vectors, 1).requires_grad
    assert not riesz_energy(vectors.detach(), 1).requires_grad


def test_a_kernel_of_ones_own() -> None:
    def squared_logarithm(squared: Tensor) -> tuple[Tensor, Tensor]:
        logarithm = squared.log() / 2
        return logarithm.square(), logarithm / squared

    vectors = spread(7, 3).requires_grad_()
    expected = sum(
        math.log(distance) ** 2 for distance in reference.distances(vectors.detach().numpy())
    )
    assert float(pair_energy(vectors.detach(), squared_logarithm)) == pytest.approx(expected)
    assert torch.autograd.gradcheck(lambda v: pair_energy(v, squared_logarithm), vectors)


# --- exact values --------------------------------------------------------------------------------


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("count", [2, 3, 4, 10, 40])
def test_the_simplex(count: int, power: float) -> None:
    vectors = torch.from_numpy(simplex_vertices(count, count + 1))
    pairs, squared = count * (count - 1) / 2, 2 * count / (count - 1)
    term = math.copysign(squared ** (-power / 2), power) if power else -math.log(squared) / 2
    assert float(riesz_energy(vectors, power)) == pytest.approx(pairs * term, rel=1e-12)
    assert float(separation(vectors)) == pytest.approx(math.sqrt(squared), rel=1e-12)
    assert float(max_cosine(vectors)) == pytest.approx(-1 / (count - 1), abs=1e-12)
    overlap = math.exp(-squared)
    determinant = (count - 1) * math.log(1 - overlap) + math.log(1 + (count - 1) * overlap)
    found = gaussian_log_determinant(vectors, jitter=0)
    assert float(found) == pytest.approx(determinant, rel=1e-10)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("dim", [2, 3, 5, 10])
def test_the_cross_polytope(dim: int, power: float) -> None:
    vectors = torch.from_numpy(cross_polytope(dim))
    far, near = (
        math.copysign(squared ** (-power / 2), power) if power else -math.log(squared) / 2
        for squared in (4, 2)
    )
    expected = dim * far + 2 * dim * (dim - 1) * near
    assert float(riesz_energy(vectors, power)) == pytest.approx(expected, rel=1e-12)
    assert float(max_cosine(vectors)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "vectors, logarithmic, coulomb, squared",
    [
        (bipyramid()[-2:], -0.693147181, 0.5, 0.25),
        (bipyramid()[:3], -1.647918433, 1.732050808, 1.0),
        (torch.from_numpy(simplex_vertices(4, 3)), -2.942487759, 3.674234614, 2.25),
        (bipyramid(), -4.420507155, 6.474691495, 4.25),
        (torch.from_numpy(cross_polytope(3)), -6.238324625, 9.985281374, 6.75),
        (icosahedron(), -21.606145230, 49.165253058, 39.0),
        (polygon(10), -11.512925465, 38.624498980, 41.25),
    ],
    ids=["2", "3", "4", "5", "6", "12", "decagon"],
)
def test_known_minimal_energies(
    vectors: Tensor, logarithmic: float, coulomb: float, squared: float
) -> None:
    # Nine decimals are known.
    for power, expected in ((0, logarithmic), (1, coulomb), (2, squared)):
        assert float(riesz_energy(vectors, power)) == pytest.approx(expected, abs=6e-10)


@pytest.mark.parametrize(
    "vectors, expected",
    [
        (torch.from_numpy(simplex_vertices(10, 9)), -0.351589856),
        (torch.from_numpy(simplex_vertices(100, 99)), -11.438204789),
        (bipyramid(), -0.110852002),
        # log(1 + 4 a + b) + 3 log(1 - b) + 2 log(1 - 2 a + b), a = exp(-2), b = exp(-4)
        (torch.from_numpy(cross_polytope(3)), -0.192644393),
    ],
)
def test_known_log_determinants(vectors: Tensor, expected: float) -> None:
    value = float(gaussian_log_determinant(vectors, jitter=0))
    assert value == pytest.approx(expected, abs=6e-10)


@pytest.mark.parametrize("count, degrees", [(4, 109.4712206), (6, 90.0), (12, 63.4349488)])
def test_known_separations(count: int, degrees: float) -> None:
    points = {4: torch.from_numpy(simplex_vertices(4, 3)), 6: bipyramid(), 12: icosahedron()}
    angle = 2 * math.asin(float(separation(points[count])) / 2)
    assert math.degrees(angle) == pytest.approx(degrees, abs=1e-7)


# --- large powers --------------------------------------------------------------------------------


def test_the_newtonian_power_in_512_dimensions() -> None:
    vectors = spread(20, 512).float()
    expected = reference.log_riesz(vectors.numpy(), 510)
    value = float(riesz_energy(vectors, 510, log=True))
    # The logarithm of a distance errs by some 1e-7, times 510.
    assert value == pytest.approx(expected, abs=2e-4)
    simplex = torch.from_numpy(simplex_vertices(10, 512)).float()
    assert float(riesz_energy(simplex, 510)) == 0.0
    value = float(riesz_energy(simplex, 510, log=True))
    assert value == pytest.approx(math.log(45) - 255 * math.log(20 / 9), abs=2e-4)


def test_large_powers_tend_to_the_separation() -> None:
    vectors = spread(30, 6)
    value = riesz_energy(vectors, 1e5, log=True) / 1e5
    # At most log(435) / 1e5 above.
    torch.testing.assert_close(value, -separation(vectors).log(), rtol=0, atol=1e-4)


def test_the_gradient_of_a_large_power_falls_on_the_closest_pair() -> None:
    vectors = torch.tensor([[0.0, 0, 1], [0, 1, 0], [1, 0, 0.0], [1, 0.2, 0]]).requires_grad_()
    riesz_energy(vectors, 510, log=True).backward()
    assert vectors.grad is not None
    assert bool((vectors.grad[:2] == 0).all())
    assert bool((vectors.grad[2:].norm(dim=1) > 500).all())


# --- points that nearly or exactly coincide ------------------------------------------------------


@pytest.mark.parametrize("distance", [1e-4, 1e-2, 0.12])
@pytest.mark.parametrize("power", [-1.0, 0.0, 2.0])
def test_float32_near_coincidence(power: float, distance: float) -> None:
    vectors = clustered(512, distance, 200).float()
    # The definition in float64, of the very same float32 vectors.
    wide = vectors.double()
    units = (wide / wide.norm(dim=1, keepdim=True)).requires_grad_()
    k, j = torch.triu_indices(200, 200, 1)
    squared = (units[k] - units[j]).square().sum(1)
    terms = math.copysign(1, power) * squared ** (-power / 2) if power else -squared.log() / 2
    leaf = vectors.clone().requires_grad_()
    value = riesz_energy(leaf, power)
    assert float(value.detach()) == pytest.approx(float(terms.detach().sum()), rel=1e-3)
    # The close half alone, where nothing hides an error.
    cluster = (k < 100) & (j < 100)
    expected = float(terms.detach()[cluster].sum())
    assert float(riesz_energy(vectors[:100], power)) == pytest.approx(expected, rel=1e-3)
    value.backward()
    terms.sum().backward()
    assert leaf.grad is not None
    assert units.grad is not None
    u, g = units.detach(), units.grad
    tangent = (g - (g * u).sum(1, keepdim=True) * u) / wide.norm(dim=1, keepdim=True)
    assert float((leaf.grad - tangent).norm()) < 1e-3 * float(tangent.norm())


def test_float32_separation_near_coincidence() -> None:
    vectors = clustered(512, 1e-4, 200).float()
    wide = vectors.double()
    wide = wide / wide.norm(dim=1, keepdim=True)
    expected = float(torch.nn.functional.pdist(wide).min())
    assert float(separation(vectors)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", [-0.5, 0.0, 1.0, 2.0])
def test_coincident_points_are_pushed_apart(power: float, dtype: torch.dtype) -> None:
    point = torch.tensor([0.3, -1.0, 0.5], dtype=dtype)
    vectors = torch.stack([point, point, -point]).requires_grad_()
    value = riesz_energy(vectors, power, min_distance=1e-3)
    # The tangent at 1e-3, reached at 0; the antipodal point lies at 2.
    terms = [-math.log(1e-3) + 1, -math.log(2)]
    if power:
        at = math.copysign(1e-3**-power, power)
        terms = [at * (1 + power), math.copysign(2**-power, power)]
    terms = [terms[0], terms[1], terms[1]]
    assert float(value.detach()) == pytest.approx(sum(terms), rel=1e-5)
    value.backward()
    gradient = vectors.grad
    assert gradient is not None
    slope = abs(power or 1) * 1e-3 ** (-power - 1)
    torch.testing.assert_close(gradient[0], -gradient[1])
    force = float(gradient[0].norm() * point.norm())
    assert force == pytest.approx(slope, rel=1e-4)
    apart = (vectors - 1e-4 / slope * gradient).detach()
    assert float(separation(apart)) > 1e-4
    assert float(riesz_energy(apart, power, min_distance=1e-3)) < float(value.detach())


@potentials
@pytest.mark.parametrize("dim", [1, 2, 7])
def test_all_points_in_one_place(potential: Any, loops: Any, dim: int) -> None:
    vectors = torch.ones(5, dim).requires_grad_()
    value = potential(vectors)
    value.backward()
    assert bool(torch.isfinite(value))
    assert vectors.grad is not None
    assert bool(torch.isfinite(vectors.grad).all())


@pytest.mark.parametrize(
    "name", [name for name in ALL if name != "max cosine"]
)  # a cosine is flat at 1
def test_descent_from_coincidence(name: str) -> None:
    potential = ALL[name][0]
    sign = -1 if name in ("separation", "log-determinant") else 1
    vectors = torch.ones(3, 4).requires_grad_()
    (sign * potential(vectors)).backward()
    assert vectors.grad is not None
    size = float(vectors.grad.abs().max())
    assert size > 0
    moved = (vectors - 1e-2 / size * vectors.grad).detach()
    assert float(sign * potential(moved)) < float(sign * potential(vectors).detach())
    assert float((moved - moved[0]).norm()) > 1e-3


def test_the_kernel_is_continuous_at_the_smallest_distance() -> None:
    def at(distance: float) -> Tensor:
        angle = 2 * math.asin(distance / 2)
        return torch.tensor([[1, 0], [math.cos(angle), math.sin(angle)]], dtype=torch.float64)

    below, above = (
        float(riesz_energy(at(0.1 + step), 2, min_distance=0.1)) for step in (-1e-6, 1e-6)
    )
    # The slope is the same on both sides, -2 / 0.1^3.
    assert below - above == pytest.approx(2e-6 * 2e3, rel=1e-3)
    vectors = torch.cat([at(0.05), -at(0.3)]).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: riesz_energy(v, 2, min_distance=0.1), vectors)


def test_a_wide_smallest_distance() -> None:
    # All pairs are then taken by their differences.
    vectors = spread(6, 3)
    pairs = [
        2.5**-1 + (distance - 2.5) * -(2.5**-2) for distance in reference.distances(vectors.numpy())
    ]
    value = float(riesz_energy(vectors, 1, min_distance=2.5))
    assert value == pytest.approx(sum(pairs), rel=1e-12)


# --- blocks, memory, subsampling -----------------------------------------------------------------


@potentials
@pytest.mark.parametrize("block, exact", [(1, 1), (7, 3), (29, 100)])
def test_blocks_do_not_matter(
    potential: Any, loops: Any, block: int, exact: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = torch.cat([spread(26, 5), clustered(5, 1e-5, 4)]).requires_grad_()
    (expected,) = torch.autograd.grad(potential(vectors), vectors)
    whole = potential(vectors)
    monkeypatch.setattr(energy, "_BLOCK", block)
    monkeypatch.setattr(energy, "_EXACT_PAIRS", exact)
    torch.testing.assert_close(potential(vectors), whole, rtol=1e-11, atol=1e-11)
    (gradient,) = torch.autograd.grad(potential(vectors), vectors)
    size = float(expected.abs().max())
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-11 * size)


class LargestTensor(TorchDispatchMode):
    """Records the most entries that one tensor held."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, tuple | list) else (results,):
            if isinstance(result, Tensor):
                self.largest = max(self.largest, result.numel())
        return results


@pytest.mark.parametrize(
    "call",
    [
        lambda v: riesz_energy(v, 2),
        lambda v: riesz_energy(v, 510, log=True),
        lambda v: gaussian_energy(v, 1.0),
        separation,
        lambda v: riesz_energy(v, 2, num_pairs=3000),
    ],
    ids=["riesz", "log riesz", "gaussian", "separation", "sampled"],
)
@pytest.mark.parametrize("near", [0.0, 1e-4])
def test_no_tensor_outgrows_vectors_and_blocks(
    call: Any, near: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "_BLOCK", 64)
    monkeypatch.setattr(energy, "_EXACT_PAIRS", 128)
    count, dim = 500, 8
    vectors = clustered(dim, near, count) if near else spread(count, dim)
    leaf = vectors.float().requires_grad_()
    with LargestTensor() as mode:
        call(leaf).backward()
    # The indices of the close pairs of a block are two numbers each.
    assert mode.largest <= max(count * dim, 2 * 64 * 64)
    assert mode.largest < count * count / 25


def batches(count: int, dtype: torch.dtype = torch.float64) -> Iterator[torch.Generator]:
    for seed in range(count):
        yield torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["riesz 0", "riesz 2", "gaussian"])
def test_sampled_pairs_are_unbiased(name: str) -> None:
    calls: dict[str, Callable[..., Tensor]] = {
        "riesz 0": lambda v, **options: riesz_energy(v, 0, **options),
        "riesz 2": lambda v, **options: riesz_energy(v, 2, **options),
        "gaussian": lambda v, **options: gaussian_energy(v, 0.7, **options),
    }
    potential = calls[name]
    vectors = spread(11, 4).requires_grad_()
    whole = potential(vectors)
    (slope,) = torch.autograd.grad(whole, vectors)
    values, slopes = [], []
    for generator in batches(400):
        value = potential(vectors, num_pairs=20, generator=generator)
        slopes.append(torch.autograd.grad(value, vectors)[0])
        values.append(value.detach())
    for draws, expected in ((torch.stack(values), whole), (torch.stack(slopes), slope)):
        error = draws.std(0) / len(draws) ** 0.5
        # 45 numbers at once: 4.5 standard errors are passed by chance once in 3,000 times.
        assert bool(((draws.mean(0) - expected).abs() < 4.5 * error).all())


def test_many_samples_come_near_the_whole(generator: torch.Generator) -> None:
    vectors = torch.cat([spread(40, 6), torch.ones(2, 6, dtype=torch.float64)]).requires_grad_()

    def energy_of(**options: Any) -> Tensor:
        return riesz_energy(vectors, 3, log=True, min_distance=0.1, **options)

    sampled = energy_of(num_pairs=200_000, generator=generator)
    # The coincident pair holds most of the energy and is drawn some 230 times.
    assert float(sampled.detach()) == pytest.approx(float(energy_of().detach()), abs=0.25)
    (gradient,) = torch.autograd.grad(sampled, vectors)
    (expected,) = torch.autograd.grad(energy_of(), vectors)
    assert float((gradient - expected).norm()) < 0.25 * float(expected.norm())


def test_samples_follow_the_generator() -> None:
    vectors = spread(20, 3)
    first, again, other = (
        riesz_energy(vectors, 1, num_pairs=5, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    # Two points have one pair, whichever is drawn.
    pair = spread(2, 3)
    torch.testing.assert_close(riesz_energy(pair, 1, num_pairs=3), riesz_energy(pair, 1))


# --- refusals ------------------------------------------------------------------------------------


@potentials
@pytest.mark.parametrize(
    "spoil, told",
    [
        (0.0, r"vectors must not be zero, got 1 zero rows of 4 \(first: row 2\); .* leave it out"),
        (math.nan, r"vectors must be finite, got NaN or infinity in 1 of 4 rows \(first: row 2\)"),
        (math.inf, r"vectors must be finite, got NaN or infinity in 1 of 4 rows \(first: row 2\)"),
    ],
)
def test_rows_without_a_direction(potential: Any, loops: Any, spoil: float, told: str) -> None:
    vectors = spread(4, 3)
    vectors[2] = spoil
    with pytest.raises(ValueError, match=told):
        potential(vectors)


@potentials
@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (4, 0)])
def test_too_few_points(potential: Any, loops: Any, shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"2 points or more, got {shape[0]} rows of {shape[1]};"):
        potential(torch.ones(shape))


@potentials
def test_other_things_than_vectors(potential: Any, loops: Any) -> None:
    with pytest.raises(TypeError, match=r"vectors must be a torch\.Tensor, got list"):
        potential([[1.0, 0.0]])
    with pytest.raises(TypeError, match="vectors must be floating point, got int64"):
        potential(torch.eye(3, dtype=torch.int64))


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda v: riesz_energy(v, -2), "power must be finite and above -2, got -2"),
        (lambda v: riesz_energy(v, math.nan), "power must be finite and above -2, got nan"),
        (lambda v: riesz_energy(v, 0, log=True), "power must be finite and above 0, got 0"),
        (lambda v: riesz_energy(v, 1, min_distance=0), "min_distance must be finite and above 0"),
        (lambda v: riesz_energy(v, 1, num_pairs=0), "num_pairs must be at least 1, got 0"),
        (lambda v: gaussian_energy(v, 0), "scale must be finite and above 0, got 0"),
        (lambda v: gaussian_log_determinant(v, -1), "scale must be finite and above 0, got -1"),
        (lambda v: gaussian_log_determinant(v, 1, jitter=-1), "jitter must be finite and at least"),
        (
            lambda v: gaussian_log_determinant(torch.ones_like(v), jitter=0),
            "jitter must make the Gram matrix of 4 vectors positive definite, got 0; use jitter",
        ),
        (
            lambda v: riesz_energy(torch.ones_like(v).float(), 8),
            r"energy and gradient must fit into torch\.float32, .*; use log=True",
        ),
    ],
)
def test_arguments_that_make_no_sense(call: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call(spread(4, 3))


def test_lengths_at_the_ends_of_the_range() -> None:
    vectors = spread(5, 3)
    ends = torch.tensor([1e-30, 1e30, 1.0, 1e-38, 1e37])[:, None]
    torch.testing.assert_close(
        riesz_energy(vectors.float() * ends, 1), riesz_energy(vectors.float(), 1)
    )


@pytest.mark.parametrize("spread", [1.0, 0.1], ids=["apart", "bundled"])
def test_a_determinant_in_float32(spread: float) -> None:
    """Where the jitter bounds the condition number, single precision keeps its digits."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(200, 64, generator=generator) * spread
    rows += (1 - spread) * torch.randn(1, 64, generator=generator)
    single = rows.requires_grad_()
    double = rows.detach().double().requires_grad_()
    values = [gaussian_log_determinant(some, jitter=0.1) for some in (single, double)]
    assert values[0].dtype == torch.float32
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-5)
    one, other = (
        torch.autograd.grad(value, some)[0].double()
        for value, some in zip(values, (single, double), strict=True)
    )
    # Condition number up to 2000, times the rounding of float32.
    assert float((one - other).norm()) < 2e-4 * float(other.norm())


@pytest.mark.parametrize("distance, jitter", [(1e-4, 0.1), (1.0, 1e-6)])
def test_a_determinant_that_needs_float64(distance: float, jitter: float) -> None:
    """Two points nearly meet, or almost nothing bounds the condition number: as in float64."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(50, 3, generator=generator)
    away = torch.randn(3, generator=generator)
    rows[1] = rows[0] + distance * rows[0].norm() * away / away.norm()
    single = rows.requires_grad_()
    double = rows.detach().double().requires_grad_()
    one, other = (
        torch.autograd.grad(gaussian_log_determinant(some, jitter=jitter), some)[0].double()
        for some in (single, double)
    )
    # The same computation: only the result is rounded to float32.
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7 * float(other.abs().max()))
