"""What a loader draws at random, so that it can be run through again alike, and left as it was."""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch


class Draws(AbstractContextManager["Draws"]):
    """The random numbers that a loader will draw, to be drawn again at every pass.

        with Draws(loader) as draws:
            draws.rewind(): before each pass

    Those of the global generators of torch, NumPy and Python, and of the ones that the loader and
    its samplers hold. A shuffled loader then gives the same samples in the same order, with the
    same augmentation, as often as it is asked; workers that persist draw on. Afterwards all
    generators are as they were.

    Args:
        loader: of torch, or anything else; or what has such a `loader` and hands on its batches.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> loader = DataLoader(range(100), shuffle=True)
        >>> with Draws(loader) as draws:
        ...     first = next(iter(loader))
        ...     draws.rewind()
        ...     next(iter(loader)) == first
        tensor([True])
    """

    def __init__(self, loader: Any):
        self._sources: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
            (generator.get_state, generator.set_state)
            for generator in (torch.default_generator, *_generators_of(loader))
        ]
        self._sources += [
            (random.getstate, random.setstate),
            (np.random.get_state, np.random.set_state),
        ]
        self._states: list[Any] = []

    def __enter__(self) -> "Draws":
        self._states = [state_of() for state_of, _ in self._sources]
        return self

    def __exit__(self, *exception: object) -> None:
        self.rewind()

    def rewind(self) -> None:
        """Put every generator back to where it was at the start of the `with` block."""
        for (_, put_back), state in zip(self._sources, self._states, strict=True):
            put_back(state)


def _generators_of(loader: Any) -> Iterator[torch.Generator]:
    """The generators of a loader, of its samplers, and of what it hands on."""
    found: set[int] = set()
    for holder in _holders(loader):
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator) and id(generator) not in found:
            found.add(id(generator))
            yield generator


def _holders(loader: Any) -> Iterator[Any]:
    """A loader, its samplers, and the same of the one whose batches it hands on."""
    parts, seen = [loader], set()
    while parts:
        part = parts.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        parts += [getattr(part, name, None) for name in ("loader", "sampler", "batch_sampler")]
