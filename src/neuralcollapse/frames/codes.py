"""Spherical codes: K directions in d dimensions, as uniform as an energy asks for."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuralcollapse.frames.bounds import max_cosine_bound
from neuralcollapse.frames.closed_forms import (
    PROVED,
    ClosedForm,
    balanced_sizes,
    check_code_size,
    closed_form,
    simplices,
    unbalanced_sizes,
)
from neuralcollapse.frames.descent import MAX_DENSE, Smooth, descend, descend_blockwise
from neuralcollapse.frames.frame import Frame, embed
from neuralcollapse.frames.margins import softmax_code_margin
from neuralcollapse.frames.objective import Objective, as_objective
from neuralcollapse.frames.polish import MAX_NUMBERS, constrained
from neuralcollapse.scalars import check_boolean, check_integer

# Powers through which a start is led, and beyond which an energy counts as steep.
_GENTLE_POWERS, _STEEP_POWER = (2.0, 8.0), 32.0
# Scales of the smoothed largest cosine, each four times the one before.
_SCALES = tuple(16.0 * 4**k for k in range(7))
# Margins of so many take seconds.
_MOST_MARGINS = 1000
# A largest cosine so close to its bound is optimal for all purposes.
_MEETS = 1e-6


def spherical_code(
    num_classes: int,
    dim: int,
    generator: torch.Generator | None = None,
    *,
    energy: str | float = 2.0,
    starts: int | None = None,
    steps: int | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool | None = None,
) -> Frame:
    """K unit vectors in any number of dimensions, spread as evenly as an energy asks for.

    Where the optimum is known in closed form (see `closed_form_status`), it is that. Otherwise the
    best of several random starts: L-BFGS on the sphere, for steep energies with powers that rise to
    the one asked for; for "separation" then sequential quadratic programming on the largest cosine
    where K d <= 200, and beyond a smoothed largest cosine, ever steeper. More than 4096 vectors are
    solved block by block in float32, with memory O(K d) and time O(K^2 d) for each step.

    `bound` is `max_cosine_bound`, whatever the energy; `facts["energy"]` is the energy as a sum
    over unordered pairs, and minus the smallest distance for "separation" and "softmax_code".

    Args:
        num_classes: K, at least 2.
        dim: d, at least 1, and at least 2 for K > 2.
        generator: draws the starts, or the orientation of a closed form. Without one the result is
            always the same. One on a GPU solves large problems there.
        energy: a Riesz power above -2, or one of "riesz:POWER", "log", "gaussian:SCALE",
            "separation" for the largest smallest distance, and "softmax_code" for the largest
            one-vs-rest margin. The two are the same where proved and in all cases computed; the
            latter is solved as the former, and up to 1000 classes its margin is `facts["margin"]`.
        starts: random starts; by default 32 for K d <= 60, 16 to 200, 4 to 2,000, 2 to 10,000, 1
            beyond. Fewer are made where the largest cosine meets its bound.
        steps: of each of the stages of a start, at most; by default fewer the larger K d.
        dtype: of the vectors.
        progress: show a bar on standard error; by default for long solves on a terminal.

    Raises:
        ValueError: if K < 2, dim is too small, or the energy, power or scale makes no sense.

    Example:
        >>> frame = spherical_code(12, 3, energy="separation", starts=2)  # the icosahedron
        >>> round(frame.max_cosine, 4), round(abs(frame.gap), 4)
        (0.4472, 0.0)
    """
    num_classes, dim = check_code_size(num_classes, dim)
    objective = as_objective(energy)
    if progress is not None:
        check_boolean("progress", progress)
    starts = _default_starts(num_classes * dim) if starts is None else starts
    starts = check_integer("starts", starts, 1)
    steps = _default_steps(num_classes, dim) if steps is None else check_integer("steps", steps, 1)
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, got {dtype}")
    form = closed_form(num_classes, dim, objective)
    if form is not None:
        return framed(form, dim, objective, generator, dtype)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    problem = _Problem(num_classes, dim, objective, max_cosine_bound(num_classes, dim))
    with _progress(progress, starts, num_classes * dim) as tick:
        vectors, made = problem.best(starts, steps, generator, tick)
    return problem.certified(vectors, made, dtype)


def framed(
    form: ClosedForm,
    dim: int,
    objective: Objective,
    generator: torch.Generator | None,
    dtype: torch.dtype,
) -> Frame:
    """The frame of a closed form."""
    vectors = embed(form.vectors(), dim, generator, dtype)
    energy = objective.sum(form.counts, form.squared)
    return Frame(
        form.kind,
        vectors,
        max_cosine_bound(len(vectors), dim),
        form.status,
        _facts(objective, energy, vectors),
    )


def _facts(objective: Objective, energy: float, vectors: Tensor) -> dict[str, float]:
    facts = {"energy": energy} if np.isfinite(energy) else {}
    if objective.name == "softmax_code" and len(vectors) <= _MOST_MARGINS:
        facts["margin"] = softmax_code_margin(vectors)
    return facts


def _default_starts(numbers: int) -> int:
    """Many where a start costs little."""
    return next(starts for most, starts in _STARTS if numbers <= most)


_STARTS = ((60, 32), (200, 16), (2_000, 4), (10_000, 2), (sys.maxsize, 1))


def _default_steps(num_classes: int, dim: int) -> int:
    if num_classes > MAX_DENSE:
        return 40
    return min(2000, max(60, 12_000_000 // (num_classes * dim)))


@contextmanager
def _progress(wanted: bool | None, starts: int, numbers: int) -> Iterator[Callable[[float], None]]:
    """Counts finished starts on standard error; by default on a terminal and for long solves."""
    if wanted is None:
        wanted = sys.stderr.isatty() and numbers > 2_000
    if not wanted:
        yield lambda share: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("spherical code", total=starts)
        yield lambda share: bar.advance(task, share)


@dataclass(frozen=True)
class _Problem:
    """What is to be solved; `bound` is the proven lower bound on the largest cosine."""

    num_classes: int
    dim: int
    objective: Objective
    bound: float

    def best(
        self,
        starts: int,
        steps: int,
        generator: torch.Generator,
        tick: Callable[[float], None],
    ) -> tuple[Tensor, int]:
        """The vectors of least energy of several starts, and how many were made."""
        best, best_value = torch.empty(0), np.inf
        made = 0
        for vectors in self._solutions(starts, steps, generator, tick):
            made += 1
            value = self.objective.total(vectors)
            # Starts that end in the same place differ by rounding: the first of them stays.
            if made == 1 or value < best_value - 1e-13 * abs(best_value):
                best, best_value = vectors, value
            if self._proved(best_value):
                break
        return best, min(made, starts)

    def _proved(self, value: float) -> bool:
        """Whether an energy, minus the smallest distance, meets the bound on the largest cosine."""
        return self.objective.is_separation and 1 - value**2 / 2 - self.bound < _MEETS

    def certified(self, vectors: Tensor, made: int, dtype: torch.dtype) -> Frame:
        """The frame, with what is known of its optimality."""
        status = f"best of {made} start{'s' if made > 1 else ''}"
        energy = self.objective.total(vectors)
        if self._proved(energy):
            status = f"{PROVED} to {_MEETS:g}"
        return Frame(
            f"spherical code for {self.objective}",
            vectors.to(dtype),
            self.bound,
            status,
            _facts(self.objective, energy, vectors),
        )

    def _solutions(
        self,
        starts: int,
        steps: int,
        generator: torch.Generator,
        tick: Callable[[float], None],
    ) -> Iterator[Tensor]:
        """What each start leads to."""
        for place in range(starts):
            points = torch.randn(
                self.num_classes,
                self.dim,
                generator=generator,
                dtype=torch.float32 if self.num_classes > MAX_DENSE else torch.float64,
                device=generator.device,
            )
            points = torch.nn.functional.normalize(points)
            if self.num_classes > MAX_DENSE:
                yield self._blockwise(points, steps, tick).cpu()
            else:
                yield self._dense(points.cpu().numpy(), steps, place, tick)
        # Known arrangements that may be optimal.
        if self.num_classes <= 2 * self.dim:
            for sizes in (balanced_sizes, unbalanced_sizes):
                form = simplices(sizes(self.num_classes, self.dim), PROVED)
                vectors = embed(form.vectors(), self.dim, generator, torch.float64)
                yield self._dense(vectors.numpy(), steps, 0, lambda share: None)

    def _dense(
        self, points: np.ndarray, steps: int, place: int, tick: Callable[[float], None]
    ) -> Tensor:
        """A minimum from one start, with matrices of all pairs."""
        stages = _stages(self.objective, points.size, place)
        for stage in stages:
            points = descend(points, stage, steps)
            tick(1 / len(stages))
        if self.objective.is_separation and points.size <= MAX_NUMBERS:
            points = constrained(points)
        return torch.from_numpy(points)

    def _blockwise(self, points: Tensor, steps: int, tick: Callable[[float], None]) -> Tensor:
        """A minimum from one start, without a matrix of all pairs."""
        stages = _stages(self.objective, points.numel(), 0)
        for stage in stages:
            share = 1 / steps / len(stages)
            points = descend_blockwise(points, stage, steps, lambda share=share: tick(share))
        return points


def _stages(objective: Objective, numbers: int, place: int) -> list[Smooth]:
    """The energies that a start goes through, the last the one asked for, or near it.

    Steep energies have many poor minima. Of four starts, three go straight to a power of 32, and
    one comes down through gentle powers: each way finds optima that the other misses.
    """
    if objective.is_separation and numbers > MAX_NUMBERS:
        return [Smooth("gaussian", scale) for scale in _SCALES]
    if objective.name == "gaussian":
        return [Smooth("gaussian", objective.parameter)]
    power = np.inf if objective.is_separation else objective.parameter
    gentle = [Smooth("riesz", s) for s in _GENTLE_POWERS if s < power] if place % 4 == 3 else []
    if power < _STEEP_POWER:
        return [*(gentle if power > 8 else []), Smooth("riesz", power)]
    steep = [Smooth("riesz", _STEEP_POWER)]
    while np.isfinite(power) and steep[-1].parameter < power:
        steep.append(Smooth("riesz", min(power, 4 * steep[-1].parameter)))
    return gentle + steep
