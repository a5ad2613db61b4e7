"""The arrangement of least energy: in closed form, from the cache, or solved for."""

import contextlib
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from neuralcollapse.frames.closed_forms import check_code_size, closed_form
from neuralcollapse.frames.codes import framed, spherical_code
from neuralcollapse.frames.frame import Frame, embed
from neuralcollapse.frames.objective import Objective, as_objective
from neuralcollapse.scalars import check_boolean

CACHE_VARIABLE = "NEURALCOLLAPSE_CACHE"


@dataclass(frozen=True)
class ReferenceEnergy:
    """The least energy known of K directions in d dimensions.

    Attributes:
        total: the sum over the K(K-1)/2 unordered pairs, for "separation" and "softmax_code" minus
            the smallest distance; nan where nothing is known, infinite where it overflows.
        num_pairs: K(K-1)/2.
        status: "proved", "best known", "best of N starts", or "unknown".
        kind: the arrangement that has it; empty where nothing is known.
    """

    total: float
    num_pairs: int
    status: str
    kind: str

    @property
    def mean(self) -> float:
        """The energy per pair, of energies that are sums over pairs."""
        return self.total / self.num_pairs

    def __float__(self) -> float:
        return self.total


def reference_energy(
    num_classes: int,
    dim: int,
    power: str | float = 2.0,
    *,
    solve: bool = True,
    cache: str | Path | bool = True,
) -> ReferenceEnergy:
    """The least energy known of K directions in d dimensions; nan where none is known.

        sum over k < j of sign(s) norm(u_k - u_j)^(-s), or of -log(norm(u_k - u_j)) for s = 0

    with s = `power`: what no arrangement is known to fall below, the reference of a gap.

    Args:
        num_classes: K, at least 2.
        dim: d, at least 1, and at least 2 for K > 2.
        power: a Riesz power above -2, 0 for the logarithm, or one of the energies that
            `spherical_code` takes by name.
        solve: solve for the arrangement where there is no closed form: a second for K d up to some
            hundreds, a minute for K = 1000 in 128 dimensions. Otherwise only the cache is read.
        cache: True keeps what was solved for in the user's cache folder ($NEURALCOLLAPSE_CACHE, or
            neuralcollapse in $XDG_CACHE_HOME or ~/.cache), a path in another, False nowhere.

    Returns:
        The total, its mean over pairs, and how well it is known.

    Raises:
        ValueError: if K < 2, dim is too small, or the power makes no sense.

    Example:
        >>> energy = reference_energy(num_classes=4, dim=3, power=1)
        >>> energy.total, energy.mean, energy.status
        (3.674235, 0.612372, 'proved')
    """
    check_boolean("solve", solve)
    objective = as_objective(power, "power")
    num_classes, dim = check_code_size(num_classes, dim)
    num_pairs = num_classes * (num_classes - 1) // 2
    form = closed_form(num_classes, dim, objective)
    if form is not None:
        total = objective.sum(form.counts, form.squared)
        return ReferenceEnergy(total, num_pairs, form.status, form.kind)
    frame = _solved(num_classes, dim, objective, solve, cache)
    if frame is None:
        return ReferenceEnergy(math.nan, num_pairs, "unknown", "")
    total = frame.facts.get("energy", math.inf)
    return ReferenceEnergy(total, num_pairs, frame.status, frame.kind)


def optimal_configuration(
    num_classes: int,
    dim: int,
    power: str | float = 2.0,
    generator: torch.Generator | None = None,
    *,
    solve: bool = True,
    cache: str | Path | bool = True,
    dtype: torch.dtype = torch.float32,
) -> Frame:
    """The arrangement of least energy known of K directions in d dimensions.

    In closed form where there is one; otherwise what `spherical_code` finds with its defaults,
    always the same, kept in a cache. `status` says which.

    Args:
        num_classes: K, at least 2.
        dim: d, at least 1, and at least 2 for K > 2.
        power: a Riesz power above -2, 0 for the logarithm, or one of the energies that
            `spherical_code` takes by name.
        generator: for a random orientation.
        solve: solve where there is no closed form and nothing in the cache.
        cache: as for `reference_energy`.
        dtype: of the vectors.

    Raises:
        ValueError: if K < 2, dim is too small, the power makes no sense, or there is neither a
            closed form nor anything in the cache and `solve` is False.

    Example:
        >>> frame = optimal_configuration(num_classes=7, dim=4)
        >>> frame.kind, frame.status
        ('3 orthogonal simplices of 3 + 2x2 vectors', 'best known')
    """
    check_boolean("solve", solve)
    objective = as_objective(power, "power")
    num_classes, dim = check_code_size(num_classes, dim)
    form = closed_form(num_classes, dim, objective)
    if form is not None:
        return framed(form, dim, objective, generator, dtype)
    frame = _solved(num_classes, dim, objective, solve, cache)
    if frame is None:
        raise ValueError(
            f"solve must be true for {num_classes} classes in {dim} dimensions and {objective}, "
            "for which there is no closed form and nothing in the cache, got False"
        )
    return replace(frame, vectors=embed(frame.vectors, dim, generator, dtype))


def cache_folder() -> Path:
    """Where solved arrangements are kept unless the caller names another folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "neuralcollapse"


def _solved(
    num_classes: int, dim: int, objective: Objective, solve: bool, cache: str | Path | bool
) -> Frame | None:
    """The solver's answer, from the cache if it is there."""
    if cache is False:
        file = None
    else:
        name = f"code-{num_classes}-{dim}-{str(objective).replace(':', '-')}.safetensors"
        file = (cache_folder() if cache is True else Path(cache)) / name
    frame = None if file is None else _cached(file, num_classes, dim, objective)
    if frame is not None or not solve:
        return frame
    frame = spherical_code(num_classes, dim, energy=str(objective), dtype=torch.float64)
    if file is not None:
        # A cache that cannot be written is no reason to fail.
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            frame.save(file)
    return frame


def _cached(file: Path, num_classes: int, dim: int, objective: Objective) -> Frame | None:
    """A frame from the cache, or None where the file is missing, damaged or another's."""
    try:
        frame = Frame.load(file)
    except ValueError:
        return None
    if frame.vectors.dtype != torch.float64 or frame.vectors.shape != (num_classes, dim):
        return None
    energy = objective.total(frame.vectors)
    claimed = frame.facts.get("energy", math.inf)
    sound = energy == claimed or math.isclose(energy, claimed, rel_tol=1e-6)
    return frame if sound else None
