"""The last step to the largest smallest distance: min t with every cosine at most t."""

import numpy as np
from scipy.optimize import minimize

from neuralcollapse.frames.descent import unit

# Numbers up to which the dense quadratic programs of SLSQP take a fraction of a second.
MAX_NUMBERS = 200


def largest_cosine(points: np.ndarray) -> float:
    """The largest cosine between two of the unit rows."""
    cosines = points @ points.T
    np.fill_diagonal(cosines, -np.inf)
    return float(cosines.max())


def constrained(points: np.ndarray, steps: int = 200) -> np.ndarray:
    """Unit rows (K, d) of least largest cosine nearby, by sequential quadratic programming.

        min t    where  <u_k, u_j> <= t for k < j,  <u_k, u_k> = 1

    Returns the rows as given where the method does not find better ones.
    """
    shape = count, dim = points.shape
    first, second = np.triu_indices(count, 1)
    pairs, rows = np.arange(len(first)), np.arange(count)
    slope = np.zeros(count * dim + 1)
    slope[-1] = 1

    def slack(numbers: np.ndarray) -> np.ndarray:
        vectors = numbers[:-1].reshape(shape)
        return numbers[-1] - np.einsum("pd,pd->p", vectors[first], vectors[second])

    def slack_slopes(numbers: np.ndarray) -> np.ndarray:
        vectors = numbers[:-1].reshape(shape)
        slopes = np.zeros((len(first), count, dim))
        slopes[pairs, first] = -vectors[second]
        slopes[pairs, second] = -vectors[first]
        return np.column_stack([slopes.reshape(len(first), -1), np.ones(len(first))])

    def lengths(numbers: np.ndarray) -> np.ndarray:
        return np.square(numbers[:-1].reshape(shape)).sum(1) - 1

    def length_slopes(numbers: np.ndarray) -> np.ndarray:
        slopes = np.zeros((count, count, dim))
        slopes[rows, rows] = 2 * numbers[:-1].reshape(shape)
        return np.column_stack([slopes.reshape(count, -1), np.zeros(count)])

    before = largest_cosine(points)
    found = minimize(
        lambda numbers: numbers[-1],
        np.append(points.ravel(), before),
        jac=lambda numbers: slope,
        method="SLSQP",
        constraints=[
            {"type": "ineq", "fun": slack, "jac": slack_slopes},
            {"type": "eq", "fun": lengths, "jac": length_slopes},
        ],
        options={"maxiter": steps, "ftol": 1e-15},
    )
    if not np.isfinite(found.x).all():
        return points
    polished = unit(found.x[:-1].reshape(shape))
    return polished if largest_cosine(polished) < before else points
