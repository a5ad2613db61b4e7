"""Crops and mirror images: what they may do, and that it does not depend on who shares a batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from neuralcollapse.train.augmentation import augment
from neuralcollapse.train.samples import EpochOrder


def pictures(number: int, height: int = 16, width: int = 16, channels: int = 2) -> Tensor:
    """All pixels different and none of them zero."""
    numbers = torch.arange(1, number * channels * height * width + 1, dtype=torch.float32)
    return numbers.view(number, channels, height, width)


def order_of(seed: int = 0, epoch: int = 0, rank: int = 0, world: int = 1) -> EpochOrder:
    order = EpochOrder(64, 8, seed, rank, world)
    order.epoch = epoch
    return order


def shifts(image: Tensor, margin_down: int, margin_right: int) -> list[Tensor]:
    """Every shift of one image within the margins, zeros coming in; slow and plain."""
    height, width = image.shape[1:]
    results = []
    for down in range(-margin_down, margin_down + 1):
        for right in range(-margin_right, margin_right + 1):
            moved = torch.zeros_like(image)
            for row in range(height):
                for column in range(width):
                    if 0 <= row + down < height and 0 <= column + right < width:
                        moved[:, row, column] = image[:, row + down, column + right]
            results.append(moved)
    return results


@pytest.mark.parametrize("height, width, margin", [(16, 16, 2), (6, 6, 1), (16, 24, 2)])
@pytest.mark.parametrize("kind", ["crop", "crop-flip"])
def test_an_image_is_shifted_by_an_eighth_at_most_and_perhaps_mirrored(
    kind: str, height: int, width: int, margin: int
) -> None:
    images = pictures(8, height, width)
    results = augment(images, kind, order_of(), 0)
    assert results.shape == images.shape
    for image, result in zip(images, results, strict=True):
        possible = shifts(image, margin, margin)
        if kind == "crop-flip":
            possible += [shifted.flip(2) for shifted in possible]
        assert any(torch.equal(result, candidate) for candidate in possible)


def test_every_shift_and_both_mirrors_happen() -> None:
    image = pictures(1, 8, 8)[0]
    candidates = shifts(image, 1, 1)
    candidates += [shifted.flip(2) for shifted in candidates]
    seen = set()
    for step in range(40):
        for result in augment(image.expand(8, -1, -1, -1), "crop-flip", order_of(), step):
            seen |= {n for n, candidate in enumerate(candidates) if torch.equal(result, candidate)}
    assert seen == set(range(18))  # 320 draws: one of 18 is missed with probability 2e-7


def test_none_gives_the_images_themselves() -> None:
    images = pictures(8)
    assert augment(images, "none", order_of(), 0) is images
    vectors = torch.randn(8, 5)
    assert augment(vectors, "none", order_of(), 0) is vectors


@pytest.mark.parametrize("world", [2, 4])
def test_processes_augment_as_one(world: int) -> None:
    """Whoever gets a sample does to it what one process alone does."""
    images = pictures(64)

    def augmented(order: EpochOrder) -> dict[int, Tensor]:
        results = {}
        for step, positions in enumerate(order):
            shown = augment(images[positions], "crop-flip", order, step)
            results |= dict(zip(positions.tolist(), shown, strict=True))
        return results

    alone = augmented(order_of())
    together: dict[int, Tensor] = {}
    for rank in range(world):
        together |= augmented(order_of(0, 0, rank, world))
    assert sorted(together) == sorted(alone) == list(range(64))
    assert all(torch.equal(together[position], alone[position]) for position in alone)


def test_what_happens_depends_on_seed_epoch_and_step_only() -> None:
    images = pictures(8)

    def result(seed: int, epoch: int, step: int) -> Tensor:
        return augment(images, "crop-flip", order_of(seed, epoch), step)

    first = result(0, 0, 0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert torch.equal(result(0, 0, 0), first)
    assert torch.equal(torch.get_rng_state(), before)
    for other in (result(1, 0, 0), result(0, 1, 0), result(0, 0, 1)):
        assert not torch.equal(other, first)


def test_the_images_given_stay_as_they_were() -> None:
    images = pictures(8)
    augment(images, "crop-flip", order_of(), 0)
    assert torch.equal(images, pictures(8))


@pytest.mark.parametrize("kind", ["crop", "crop-flip"])
def test_vectors_cannot_be_cropped(kind: str) -> None:
    with pytest.raises(ValueError, match="augment must be none for inputs that are not images"):
        augment(torch.randn(8, 5), kind, order_of(), 0)
