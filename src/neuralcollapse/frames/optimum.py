"""The arrangement of least energy: in closed form, from the cache, or solved for."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from neuralcollapse.frames.bounds import max_cosine_bound
from neuralcollapse.frames.closed_forms import ClosedForm, check_code_size, closed_form
from neuralcollapse.frames.frame import Frame, embed
from neuralcollapse.frames.objective import Objective, as_objective


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
        """The energy per pair."""
        return self.total / self.num_pairs

    def __float__(self) -> float:
        return self.total


def reference_energy(
    num_classes: int, dim: int, power: str | float = 2.0, *, solve: bool = True
) -> ReferenceEnergy:
    """The least energy known of K directions in d dimensions, and how well it is known."""
    objective = as_objective(power, "power")
    num_classes, dim = check_code_size(num_classes, dim)
    num_pairs = num_classes * (num_classes - 1) // 2
    form = closed_form(num_classes, dim, objective)
    if form is not None:
        total = objective.sum(form.counts, form.squared)
        return ReferenceEnergy(total, num_pairs, form.status, form.kind)
    return ReferenceEnergy(math.nan, num_pairs, "unknown", "")


def framed(
    form: ClosedForm,
    dim: int,
    objective: Objective,
    generator: torch.Generator | None,
    dtype: torch.dtype,
) -> Frame:
    """The frame of a closed form."""
    vectors = embed(form.vectors(), dim, generator, dtype)
    num_classes = len(vectors)
    energy = objective.sum(form.counts, form.squared)
    facts = {"energy": energy} if np.isfinite(energy) else {}
    return Frame(form.kind, vectors, max_cosine_bound(num_classes, dim), form.status, facts)


def optimal_configuration(
    num_classes: int,
    dim: int,
    power: str | float = 2.0,
    generator: torch.Generator | None = None,
    *,
    solve: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Frame:
    """The arrangement of least energy known of K directions in d dimensions."""
    objective = as_objective(power, "power")
    form = closed_form(num_classes, dim, objective)
    if form is None:
        raise ValueError("no closed form")
    return framed(form, dim, objective, generator, dtype)
