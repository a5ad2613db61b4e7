"""Frames against their closed forms: unit norms, the right angles, and a chosen orientation."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from cases.frames import FrameCase, frame_cases
from neuralcollapse import Frame, orthogonal_frame, simplex_etf

# float64 rounds each of d products; float32 rounds each entry once, from float64.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_is_frame(case: FrameCase, frame: Frame, num_classes: int, dim: int) -> None:
    vectors = frame.vectors.double()
    tolerance = TOLERANCE[frame.vectors.dtype]
    assert vectors.shape == (num_classes, dim)
    assert bool(torch.isfinite(vectors).all())
    shape, cosine = (num_classes, num_classes), case.cosine(num_classes)
    expected = torch.full(shape, cosine, dtype=torch.float64)
    expected.fill_diagonal_(1)
    torch.testing.assert_close(vectors @ vectors.T, expected, rtol=0, atol=tolerance)
    if case.sums_to_zero:
        # K rounded entries per coordinate.
        assert float(vectors.sum(0).abs().max()) < num_classes * tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("case", **frame_cases)
def test_every_size_that_it_promises(case: FrameCase, seed: int | None, dtype: torch.dtype) -> None:
    for num_classes in range(2, 51):
        for spare in (0, 1, 7):
            dim = case.min_dim(num_classes) + spare
            made_by = None if seed is None else generator(seed)
            assert_is_frame(
                case, case.make(num_classes, dim, made_by, dtype=dtype), num_classes, dim
            )


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("case", **frame_cases)
def test_a_thousand_classes(case: FrameCase, seed: int | None) -> None:
    dim = case.min_dim(1000)
    made_by = None if seed is None else generator(seed)
    frame = case.make(1000, dim, made_by, dtype=torch.float64)
    assert_is_frame(case, frame, 1000, dim)


@pytest.mark.parametrize("case", **frame_cases)
def test_what_the_frame_says_of_itself(case: FrameCase) -> None:
    frame = case.make(7, 12, generator(3), dtype=torch.float64)
    cosine = case.cosine(7)
    assert (frame.num_classes, frame.dim) == (7, 12)
    torch.testing.assert_close(frame.gram, frame.vectors @ frame.vectors.T)
    assert frame.max_cosine == pytest.approx(cosine, abs=1e-12)
    assert frame.bound is not None
    # No K unit vectors have a largest cosine below -1/(K-1).
    assert frame.bound == pytest.approx(-1 / 6, rel=1e-14)
    assert frame.gap == pytest.approx(cosine + 1 / 6, abs=1e-12)
    assert dataclasses.replace(frame, bound=None).gap is None
    assert frame.kind
    assert isinstance(frame.vectors, Tensor)
    with pytest.raises(dataclasses.FrozenInstanceError):
        frame.kind = "other"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("case", **frame_cases)
def test_float32_is_the_default(case: FrameCase) -> None:
    assert case.make(4, 6).vectors.dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert case.make(4, 6).vectors.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dim", [6, 20])
@pytest.mark.parametrize("case", **frame_cases)
def test_the_generator_decides_and_nothing_else(case: FrameCase, dim: int) -> None:
    def vectors(seed: int | None) -> Tensor:
        return case.make(6, dim, None if seed is None else generator(seed)).vectors

    before = torch.get_rng_state()
    assert torch.equal(vectors(5), vectors(5))
    assert torch.equal(vectors(None), vectors(None))
    assert float((vectors(5) - vectors(6)).abs().max()) > 0.1
    assert float((vectors(5) - vectors(None)).abs().max()) > 0.1
    assert torch.equal(torch.get_rng_state(), before)
    # One generator in use gives one frame after the other.
    running = generator(5)
    first, second = (case.make(6, dim, running).vectors for _ in range(2))
    assert torch.equal(first, vectors(5))
    assert float((first - second).abs().max()) > 0.1


@pytest.mark.parametrize("case", **frame_cases)
def test_without_a_generator_the_first_coordinates_are_used(case: FrameCase) -> None:
    frame = case.make(5, 11)
    used = case.min_dim(5)
    assert bool((frame.vectors[:, used:] == 0).all())
    assert int(torch.linalg.matrix_rank(frame.vectors[:, :used])) == used


@pytest.mark.parametrize("case", **frame_cases)
def test_random_orientations_prefer_no_direction(case: FrameCase) -> None:
    """The first vector of many frames: mean 0, every coordinate of variance 1/d."""
    made_by = generator(0)
    firsts = torch.stack([case.make(3, 4, made_by).vectors[0] for _ in range(2000)]).double()
    # Standard errors of 2000: 0.5 / sqrt(2000) = 0.011 of a mean, 0.008 of a mean square.
    assert float(firsts.mean(0).abs().max()) < 4 * 0.011
    torch.testing.assert_close(
        firsts.T @ firsts / 2000, torch.eye(4).double() / 4, rtol=0, atol=4 * 0.008
    )


REFUSED: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "one class": ((1, 4), ValueError, "num_classes must be at least 2, got 1"),
    "no class": ((0, 4), ValueError, "num_classes must be at least 2, got 0"),
    "fraction of a class": ((3.5, 4), TypeError, "num_classes must be an integer, got 3.5"),
    "text": ((3, "4"), TypeError, "dim must be an integer, got '4'"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("case", **frame_cases)
def test_sizes_that_make_no_sense_are_refused(case: FrameCase, name: str) -> None:
    arguments, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        case.make(*arguments)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("case", **frame_cases)
def test_too_few_dimensions_are_refused_with_the_number_needed(
    case: FrameCase, num_classes: int
) -> None:
    needed = (case.needs or case.min_dim)(num_classes)
    with pytest.raises(ValueError, match=rf"dim must be at least {needed}, got {needed - 1}"):
        case.make(num_classes, needed - 1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("case", **frame_cases)
def test_vectors_of_integers_are_refused(case: FrameCase, dtype: torch.dtype) -> None:
    with pytest.raises((TypeError, ValueError), match="dtype must be"):
        case.make(3, 4, dtype=dtype)


def test_the_two_frames_are_related() -> None:
    """Centred and scaled to unit length, right angles are a simplex."""
    right = orthogonal_frame(6, 9, generator(2), dtype=torch.float64).vectors
    centred = torch.nn.functional.normalize(right - right.mean(0))
    simplex = simplex_etf(6, 9, dtype=torch.float64).gram
    torch.testing.assert_close(centred @ centred.T, simplex, rtol=0, atol=1e-12)
