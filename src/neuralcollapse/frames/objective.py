"""What a spherical code minimises: an energy named by text or by its Riesz power."""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from neuralcollapse.energy import gaussian_energy, riesz_energy, separation
from neuralcollapse.scalars import check_choice, check_number
from neuralcollapse.specs import parse_spec

_FEW = 8192
NAMES = ("riesz", "log", "gaussian", "separation", "softmax_code")


@dataclass(frozen=True)
class Objective:
    """An energy of directions, the lower the more uniform.

    Attributes:
        name: "riesz", "gaussian", "separation" or "softmax_code"; the last two maximise the
            smallest distance.
        parameter: the power of "riesz" (0 is the logarithm), the scale of "gaussian".
    """

    name: str
    parameter: float = 0.0

    def __str__(self) -> str:
        if self.name == "riesz" and self.parameter == 0:
            return "log"
        number = repr(self.parameter).removesuffix(".0")
        return self.name if self.is_separation else f"{self.name}:{number}"

    @property
    def is_separation(self) -> bool:
        """Whether the smallest distance alone counts."""
        return self.name in ("separation", "softmax_code")

    def log_sum(self, counts: np.ndarray, squared: np.ndarray) -> float:
        """log(sum of counts * kernel(squared)) for a kernel above 0, without overflow."""
        if self.name == "gaussian":
            terms = -self.parameter * squared
        else:
            terms = -self.parameter / 2 * np.log(squared)
        peak = float(terms.max())
        return peak + math.log(float(counts @ np.exp(terms - peak)))

    def sum(self, counts: np.ndarray, squared: np.ndarray) -> float:
        """The energy of `counts` pairs at each squared distance; minus the smallest distance."""
        if self.is_separation:
            return -math.sqrt(float(squared.min()))
        if self.name == "riesz" and self.parameter == 0:
            return float(counts @ np.log(squared)) / -2
        if self.name == "riesz" and self.parameter < 0:
            return -float(counts @ squared ** (-self.parameter / 2))
        return _exponential(self.log_sum(counts, squared))

    def total(self, vectors: Tensor) -> float:
        """The energy of vectors (K, d), block by block; infinite where it overflows.

        In float64 for a few thousand vectors, in their own precision for more.
        """
        wide = vectors.double() if len(vectors) <= _FEW else vectors
        if self.is_separation:
            return -float(separation(wide))
        if self.name == "gaussian":
            return float(gaussian_energy(wide, self.parameter))
        if self.parameter > 16:
            return _exponential(float(riesz_energy(wide, self.parameter, log=True)))
        return float(riesz_energy(wide, self.parameter))


def _exponential(logarithm: float) -> float:
    return math.exp(logarithm) if logarithm < math.log(np.finfo(np.float64).max) else math.inf


def as_objective(energy: "str | float | Objective", argument: str = "energy") -> Objective:
    """The objective that a text, or the power of a Riesz energy, names.

    Raises:
        TypeError: if it is neither text nor a number.
        ValueError: if the name is unknown, or the power or scale makes no sense.

    Example:
        >>> str(as_objective("riesz")), str(as_objective(0)), str(as_objective("gaussian:0.5"))
        ('riesz:2', 'log', 'gaussian:0.5')
    """
    if isinstance(energy, Objective):
        return energy
    if not isinstance(energy, str):
        power = check_number(argument, energy, minimum=-2, exclusive=True)
        return Objective("riesz", power)
    spec = parse_spec(argument, energy)
    name = check_choice(argument, spec.name, NAMES)
    if name == "riesz":
        power = spec.arguments({"power": float}, "power").get("power", 2.0)
        return Objective("riesz", check_number("power", power, minimum=-2, exclusive=True))
    if name == "gaussian":
        scale = spec.arguments({"scale": float}, "scale").get("scale", 1.0)
        return Objective("gaussian", check_number("scale", scale, minimum=0, exclusive=True))
    spec.arguments({})
    return Objective("riesz", 0.0) if name == "log" else Objective(name)
