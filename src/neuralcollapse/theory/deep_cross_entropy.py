"""Cross entropy with several linear layers: not convex, and the simplex ETF is not its optimum.

The decays then charge the singular values of the logits sqrt(counts) to the power 2 / (M + 1),
which favours few large ones over many small ones. What is reported is the best critical point
found, beside the simplex ETF; none is proved to be the global optimum.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from neuralcollapse.theory.assembly import assembled
from neuralcollapse.theory.class_losses import SoftmaxLoss
from neuralcollapse.theory.convex import Program, solved
from neuralcollapse.theory.cross_entropy import minimum_of, program, start_of
from neuralcollapse.theory.matrices import Groups
from neuralcollapse.theory.prediction import Prediction
from neuralcollapse.theory.problem import Problem
from neuralcollapse.theory.spectrum import Spectrum, mode_costs

Array = NDArray[np.float64]

# Up to so many classes patterns are also searched for by direct minimisation.
_SEARCHED = 24
_RESTARTS = 6
# Patterns with more classes are not tried but for the simplex and pairs.
_DENSE = 300


def compared(problem: Problem) -> Prediction:
    """The best critical point found, with the simplex ETF (or its continuation) beside it."""
    first = (_balanced_branch if problem.balanced else _continued_branch)(problem)
    others = [*(_patterns(problem) if problem.balanced else []), *_searched(problem)]
    # A branch counts as lower where it is so beyond what an optimiser leaves.
    lower = min(others, key=lambda branch: branch.objective, default=first)
    best = lower if lower.objective < first.objective * (1 - 1e-9) else first
    name = "the simplex ETF" if problem.balanced else "the full-rank branch"
    warnings = [
        "deep linear cross entropy is not convex: this is the best critical point found, not a "
        "proven global optimum",
    ]
    if best is not first:
        warnings.append(
            f"{name} has rank {first.rank} and objective {first.objective:.9g}; a critical point "
            f"of rank {lower.rank} has {lower.objective:.9g}, so {name} is not the global optimum"
        )
    else:
        warnings.append(
            f"{name} has the lowest objective found, {first.objective:.9g}, before rank "
            f"{lower.rank} with {lower.objective:.9g}"
        )
    branches = (first,) if lower is first else (first, lower)
    return dataclasses.replace(best, warnings=(*warnings, *best.warnings), branches=branches)


def _described(
    problem: Problem, spectrum: Spectrum, bias: Array, objective: float, kind: str, regime: str
) -> Prediction:
    return assembled(
        problem,
        spectrum,
        bias,
        objective,
        kind=kind,
        regime=f"cross entropy with {problem.depth} linear layers; {regime}",
        threshold=None,
        spinodal=None,
        reference="Garrod, Keating 2024",
    )


def _scaled(
    problem: Problem, groups: Groups, contrast: Array, reduced: Array
) -> tuple[Spectrum, float]:
    """The best multiple of a pattern of logits, and its objective."""
    question = program(problem, groups)
    column = question.column
    unit = Spectrum.of(groups, contrast, reduced, column)
    keep = unit.values > 1e-9 * max(float(unit.values.max()), float(unit.contrast.max()))
    values = np.where(keep, unit.values, 0.0)
    # Costs are homogeneous of this degree in the scale.
    degree = 2 / (problem.depth + 1)
    price = (groups.contrasts * mode_costs(unit.contrast, problem.decays)).sum()
    price += mode_costs(values, problem.decays).sum()
    zero = np.zeros(len(groups))

    def losses(sizes: Array) -> tuple[Array, Array]:
        results = []
        for size in np.atleast_1d(sizes):
            scores = question.scores(size * contrast * column, size * reduced * column, zero)
            value, slope, _ = question.loss(scores)
            by_contrast, by_reduced, _ = question.gradients(slope)
            along = groups.contrasts @ (by_contrast * contrast * column)
            results.append((value, along + (by_reduced * reduced * column).sum()))
        value, slope = np.array(results).T
        return value, slope

    def objective(sizes: Array) -> Array:
        return losses(sizes)[0] + price * np.atleast_1d(sizes) ** degree

    def derivative(sizes: Array) -> Array:
        result = losses(sizes)[1] + price * degree * np.atleast_1d(sizes) ** (degree - 1)
        return result if np.ndim(sizes) else result[0]

    size = minimum_of(objective, derivative, np.geomspace(1e-3, 3e3, 200))
    best = float(objective(np.array(size))[0])
    # Zero is a local minimum at any decay; log K is what it costs.
    if best >= math.log(problem.num_classes):
        size, best = 0.0, math.log(problem.num_classes)
    spectrum = Spectrum(groups, size * unit.contrast, size * values, unit.left, unit.right, column)
    return spectrum, best


def _balanced_branch(problem: Problem) -> Prediction:
    """The simplex ETF at its best scale."""
    groups = Groups.alike(problem.counts)
    spectrum, objective = _scaled(problem, groups, np.ones(1), np.zeros((1, 1)))
    alive = spectrum.rank > 0
    return _described(
        problem,
        spectrum,
        np.zeros(1),
        objective,
        "simplex ETF" if alive else "spectral",
        "simplex ETF, a critical point" if alive else "total collapse",
    )


def _patterns(problem: Problem) -> list[Prediction]:
    """Balanced counts: blocks of simplices, of which pairs are the orthoplex; and the polygon."""
    classes = problem.num_classes
    found: list[tuple[str, NDArray]] = []
    if classes <= _DENSE:
        for block in range(2, classes // 2 + 1):
            if classes % block == 0:
                simplex = np.eye(block) - 1 / block
                what = "pairs of opposite classes" if block == 2 else f"simplices of {block}"
                found.append((what, np.kron(np.eye(classes // block), simplex)))
        if classes > 3:
            angles = 2 * np.pi * np.arange(classes) / classes
            found.append(("a polygon", np.cos(angles[:, None] - angles)))
    groups = Groups.single(classes)
    branches = []
    for what, pattern in found:
        spectrum, objective = _scaled(problem, groups, np.zeros(classes), pattern)
        if spectrum.rank:
            regime = f"{what}, rank {spectrum.rank}"
            branches.append(
                _described(problem, spectrum, np.zeros(classes), objective, "numeric", regime)
            )
    return branches


def _continued_branch(problem: Problem) -> Prediction:
    """Imbalanced counts: the minimum reached from the optimum of one layer."""
    shallow = dataclasses.replace(
        problem, weight_decay=(problem.nuclear_decay,), feature_decay=problem.nuclear_decay
    )
    groups = Groups.single(problem.num_classes)
    question = program(shallow, groups)
    start = solved(question, start_of(groups, question.column)).reduced
    if not start.any():
        start = start_of(groups, question.column)
    spectrum, bias, objective = _descended(problem, question, start)
    regime = f"reached from the optimum of one layer, rank {spectrum.rank}"
    return _described(problem, spectrum, bias, objective, "numeric", regime)


def _searched(problem: Problem) -> list[Prediction]:
    """Minima reached from random starts, always the same ones."""
    classes = problem.num_classes
    if classes > _SEARCHED:
        return []
    groups = Groups.single(classes)
    question = program(problem, groups)
    random = np.random.default_rng(0)
    branches = []
    for _ in range(_RESTARTS):
        start = random.standard_normal((classes, classes)) * question.column
        spectrum, bias, objective = _descended(problem, question, start)
        regime = f"found from a random start, rank {spectrum.rank}"
        branches.append(_described(problem, spectrum, bias, objective, "numeric", regime))
    return branches


def _descended(problem: Problem, question: Program, start: Array) -> tuple[Spectrum, Array, float]:
    """The minimum reached from logits times sqrt(counts) by minimising over all layers."""
    classes, layers = problem.num_classes, problem.depth + 1
    # Layers and features are scaled so that all have the same decay.
    decay = math.exp(sum(math.log(value) for value in problem.decays) / layers)
    left, values, right = np.linalg.svd(start)
    root = np.diag(values ** (1 / layers))
    factors = [root @ right, *[root] * (layers - 2), left @ root]
    shape = (layers, classes, classes)
    zero = np.zeros(classes)
    assert isinstance(question.loss, SoftmaxLoss)

    def objective(packed: Array) -> tuple[float, Array]:
        matrices, bias = packed[:-classes].reshape(shape), packed[-classes:]
        before = [np.eye(classes)]
        for matrix in matrices:
            before.append(matrix @ before[-1])
        used = zero if question.bias_decay is None else bias
        value, slope, _ = question.loss(question.scores(zero, before[-1], used))
        _, after, by_bias = question.gradients(slope)
        value += decay / 2 * (matrices**2).sum()
        gradient = np.empty_like(packed)
        for j in reversed(range(layers)):
            by_matrix = after @ before[j].T + decay * matrices[j]
            gradient[j * classes**2 : (j + 1) * classes**2] = by_matrix.ravel()
            after = matrices[j].T @ after
        if question.bias_decay is None:
            gradient[-classes:] = bias
            return float(value + (bias**2).sum() / 2), gradient
        gradient[-classes:] = by_bias + question.bias_decay * bias
        return float(value + question.bias_decay / 2 * (bias**2).sum()), gradient

    result = minimize(
        objective,
        np.append(np.stack(factors).ravel(), zero),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 20000, "maxfun": 40000, "maxcor": 30, "ftol": 0, "gtol": 1e-11},
    )
    product = np.eye(classes)
    for matrix in result.x[:-classes].reshape(shape):
        product = matrix @ product
    left, values, right = np.linalg.svd(product)
    values = np.where(values > 1e-6 * max(float(values[0]), 1.0), values, 0.0)
    spectrum = Spectrum(question.groups, zero, values, left, right.T, question.column)
    bias = zero if question.bias_decay is None else result.x[-classes:]
    if question.bias_decay == 0:
        bias = bias - bias.mean()
    value, _, _ = question.loss(question.scores(zero, (left * values) @ right, bias))
    value += (question.bias_decay or 0.0) / 2 * float((bias**2).sum())
    return spectrum, bias, value + spectrum.cost(problem.decays)
