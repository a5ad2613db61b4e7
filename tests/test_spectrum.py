"""Directions of class means, from the Gram matrix and where that cannot tell from the rows."""

import numpy as np
import pytest
import torch

from neuralcollapse.spectrum import mean_spectrum


def means(num_means: int, dim: int, condition: float, offset: float = 0.0) -> torch.Tensor:
    """Means whose centred singular values fall geometrically from 1 to 1 / condition."""
    generator = np.random.default_rng(0)
    rank = min(num_means - 1, dim)
    left = np.linalg.qr(generator.standard_normal((num_means, rank)))[0]
    left -= left.mean(0)
    left = np.linalg.qr(left)[0]
    right = np.linalg.qr(generator.standard_normal((dim, rank)))[0]
    values = condition ** -(np.arange(rank) / max(1, rank - 1))
    return torch.from_numpy(left * values @ right.T + offset)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (7, 6), (6, 6), (2, 5)])
@pytest.mark.parametrize("condition", [1.5, 900.0, 1100.0, 1e6])
def test_values_and_directions(shape: tuple[int, int], condition: float) -> None:
    rows = means(*shape, condition)
    centred = rows - rows.mean(0)
    singular, directions = mean_spectrum(centred, rows)
    rank = min(shape[0] - 1, shape[1])
    exact = np.linalg.svd(centred.numpy(), compute_uv=False)[:rank]
    # Eigenvalues down to 1e-6 of the largest lose six of sixteen digits, and smaller ones are not
    # taken from the Gram matrix; the rounding of the rows themselves is 1e-16 of the largest.
    assert singular.numpy() == pytest.approx(exact, rel=1e-9, abs=1e-15)
    assert torch.allclose(
        directions @ directions.T, torch.eye(rank, dtype=torch.float64), atol=1e-10
    )
    moved = centred @ directions.T
    assert torch.allclose(moved @ directions, centred, atol=1e-12)
    assert moved.norm(dim=0).numpy() == pytest.approx(exact, rel=1e-5, abs=1e-15)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_directions_of_rounding_are_left_out(offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(8, 2, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64)).Q
    rows = plane @ turn[:2] + offset
    singular, directions = mean_spectrum(rows - rows.mean(0), rows)
    assert directions.shape == (2, 5)
    assert len(singular) == 2


@pytest.mark.parametrize("num_samples", [1, 40])
def test_a_layer_normalisation_takes_one_direction_out(num_samples: int) -> None:
    """In single precision: what rounding leaves of it is no direction of the means."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, num_samples, 16, generator=generator)
    scale, shift = torch.rand(2, 16, generator=generator) + 0.5
    rows = torch.nn.functional.layer_norm(inputs, (16,), scale, shift).double().mean(1)
    singular, directions = mean_spectrum(rows - rows.mean(0), rows)
    assert directions.shape == (15, 16)
    # What is out is the direction with the inverse scales.
    lost = 1 / scale.double()
    assert (directions @ lost).abs().max() < 1e-6 * lost.norm()
    assert len(singular) == 15


def test_directions_below_single_precision_are_left_out() -> None:
    """Of six means in general position, where two of five directions are of 1e-7 and less."""
    rows = means(6, 20, 1e10)
    singular, _ = mean_spectrum(rows - rows.mean(0), rows)
    assert singular.numpy() == pytest.approx([1, 10**-2.5, 1e-5], rel=1e-9)


@pytest.mark.parametrize("offset", [1e6, 1e12])
def test_means_that_differ_by_rounding_have_no_direction(offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.full((4, 5), offset, dtype=torch.float64)
    spacing = torch.finfo(torch.float64).eps * offset
    rows += spacing * torch.randint(0, 2, (4, 5), generator=generator)
    assert len(mean_spectrum(rows - rows.mean(0), rows)[0]) == 0


def test_no_means_and_equal_means() -> None:
    for rows in (torch.zeros(0, 3), torch.ones(1, 3), torch.ones(4, 3)):
        wide = rows.double()
        singular, directions = mean_spectrum(wide - wide.mean(0), wide)
        assert singular.shape == (0,)
        assert directions.shape == (0, 3)


def test_all_directions_may_be_small_in_double_precision() -> None:
    """Means 1e-5 apart, 1000 away: below single precision, and good to six digits in double."""
    generator = torch.Generator().manual_seed(0)
    centred = torch.randn(4, 8, generator=generator, dtype=torch.float64)
    centred = 1e-5 * (centred - centred.mean(0))
    singular, directions = mean_spectrum(centred, 1000 + centred)
    assert torch.allclose(singular, torch.linalg.svdvals(centred)[:3])
    assert len(directions) == 3
