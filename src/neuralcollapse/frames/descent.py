"""Descent of smooth energies on products of spheres: all pairs at once, or block by block."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from neuralcollapse.energy import gaussian_energy, riesz_energy

# Matrices of all pairs up to this many points: 128 MiB each in float64.
MAX_DENSE = 4096


@dataclass(frozen=True)
class Smooth:
    """A smooth energy: "riesz" with a power, 0 being the logarithm, or "gaussian" with a scale."""

    name: str
    parameter: float


def unit(points: np.ndarray) -> np.ndarray:
    """The rows at unit length."""
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def descend(points: np.ndarray, energy: Smooth, steps: int, tolerance: float = 1e-10) -> np.ndarray:
    """Unit rows (K, d) of lower energy: L-BFGS on the normalised rows, with all pairs at once.

    Stops after so many steps, or where no entry of the gradient exceeds the tolerance.
    """
    shape = points.shape
    options = {"maxiter": steps, "maxfun": 2 * steps, "maxcor": 10, "gtol": tolerance, "ftol": 0.0}

    def function(entries: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = mean_energy(entries.reshape(shape), energy)
        return value, gradient.ravel()

    found = minimize(function, points.ravel(), jac=True, method="L-BFGS-B", options=options)
    return unit(found.x.reshape(shape))


def mean_energy(points: np.ndarray, energy: Smooth) -> tuple[float, np.ndarray]:
    """The energy on the scale of a logarithm of a distance or of half its square, and its gradient.

        riesz      log(mean of d^(-s)) / s, in the limit s = 0 mean of -log(d)
        gaussian   log(mean of exp(-scale d^2)) / (2 scale)

    over pairs; of the same minimisers as the sums, whatever the sign of s, and free of overflow.
    The gradient is by the rows before they are scaled to unit length.
    """
    count = len(points)
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    units = points / norms
    squared = units @ units.T
    squared *= -2
    squared += 2
    np.maximum(squared, 1e-14, out=squared)
    squared.flat[:: count + 1] = 1
    power = energy.parameter if energy.name == "riesz" else 0.0
    value = 0.0
    if energy.name == "gaussian":
        terms = squared * -energy.parameter
    else:
        terms = np.log(squared)
        if not power:
            value = -float(terms.sum()) / (2 * count * (count - 1))
        terms *= -power / 2
    terms.flat[:: count + 1] = -np.inf
    peak = float(terms.max())
    terms -= peak
    np.exp(terms, out=terms)
    total = float(terms.sum())
    mean = peak + math.log(total / (count * (count - 1)))
    terms *= 2 / total
    if energy.name == "gaussian":
        value = mean / (2 * energy.parameter)
    else:
        value = mean / power if power else value
        terms /= squared
    # d value / d cosine of each pair is now in `terms`.
    gradient = terms @ units
    gradient -= np.einsum("kd,kd->k", gradient, units)[:, None] * units
    return value, gradient / norms


def descend_blockwise(
    points: Tensor, energy: Smooth, steps: int, tick: Callable[[], None]
) -> Tensor:
    """Unit rows (K, d) of lower energy, with memory O(K d): gradient steps of adapted length.

    The length is Barzilai and Borwein's; a step that raises the energy above the last five values
    is taken back and halved. Of all points seen, the best are returned.
    """
    value, gradient = _tangent(points, energy)
    best, best_value, recent = points, value, [value]
    length = 0.1 / float(gradient.norm(dim=1).max().clamp(min=1e-30))
    for _ in range(steps):
        trial = torch.nn.functional.normalize(points - length * gradient)
        trial_value, trial_gradient = _tangent(trial, energy)
        tick()
        if trial_value > max(recent[-5:]):
            length /= 2
            continue
        moved, turned = trial - points, trial_gradient - gradient
        along = float((moved * turned).sum())
        length = float((moved * moved).sum()) / along if along > 0 else 2 * length
        longest = float(trial_gradient.norm(dim=1).max())
        if longest == 0:
            return trial
        # No point turns by more than about 0.3 radians at once.
        length = min(length, 0.3 / longest)
        points, value, gradient = trial, trial_value, trial_gradient
        recent.append(value)
        if value < best_value:
            best, best_value = points, value
    return best


def _tangent(points: Tensor, energy: Smooth) -> tuple[float, Tensor]:
    """The energy, as its logarithm where that exists, and its gradient along the sphere."""
    points = points.detach().requires_grad_()
    if energy.name == "gaussian":
        value = gaussian_energy(points, energy.parameter, log=True)
    else:
        value = riesz_energy(points, energy.parameter, log=energy.parameter > 0)
    (gradient,) = torch.autograd.grad(value, points)
    points = points.detach()
    return float(value), gradient - (gradient * points).sum(1, keepdim=True) * points
