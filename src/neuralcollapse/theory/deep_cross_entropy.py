"""Cross entropy with several linear layers: not convex, and the simplex ETF is not its optimum.

The decays then charge the singular values of the logits sqrt(counts) to the power 2 / (M + 1),
which favours few large ones over many small ones. What is reported is the best critical point
found, beside the simplex ETF; none is proved to be the global optimum.
"""

import dataclasses
import functools
import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from neuralcollapse.theory.assembly import assembled
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
# Starts of each low rank up to this one, and the logit of the true class that they begin with.
_FEW, _RESTARTS_OF_RANK, _LENGTH = 6, 3, 6.0
# A larger entry of the gradient is told of.
_CONVERGED = 1e-7
# Up to so many classes patterns other than the simplex are tried: they need square matrices.
_DENSE = 2000


def compared(problem: Problem) -> Prediction:
    """The best critical point found, with the simplex ETF (or its continuation) beside it."""
    if problem.balanced:
        first, *others = _patterns(problem)
        name = "the simplex ETF"
    else:
        first, *others = [_continued_branch(problem)]
        name = "the full-rank branch"
    lower = functools.reduce(_lower, [*others, *_searched(problem)] or [first])
    best = _lower(first, lower)
    warnings = [
        "deep linear cross entropy is not convex: this is the best critical point found, not a "
        "proven global optimum",
    ]
    if best is not first:
        warnings.append(
            f"{name} has rank {first.rank} and objective {first.objective:.9g}; a critical point "
            f"of rank {lower.rank} has {lower.objective:.9g}, so {name} is not the global optimum"
        )
        if problem.balanced:
            warnings.append("not unique: exchanging classes gives others of the same objective")
    elif lower is first:
        warnings.append(
            f"no other critical point was looked for with {problem.num_classes} classes"
        )
    else:
        warnings.append(f"no critical point was found with an objective below that of {name}")
    branches = (first,) if lower is first else (first, lower)
    return dataclasses.replace(best, warnings=(*warnings, *best.warnings), branches=branches)


def _lower(first: Prediction, second: Prediction) -> Prediction:
    """The one of lower objective; the first where they differ by what an optimiser leaves."""
    return second if second.objective < first.objective * (1 - 1e-9) else first


def _described(
    problem: Problem,
    spectrum: Spectrum,
    bias: Array,
    objective: float,
    kind: str,
    regime: str,
    steepness: float = 0.0,
) -> Prediction:
    """A branch; `steepness` is the largest entry of the gradient that an optimiser left."""
    warnings = ()
    if steepness > _CONVERGED:
        warnings = (f"the optimiser stopped at a gradient of {steepness:.1e}",)
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
        warnings=warnings,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Pattern:
    """Logits alike for all classes, up to a factor.

    Attributes:
        name: what it is.
        block: number of classes in each simplex, or 0 for the polygon.
        row: (K,), logits of a sample of the first class.
        value: each singular value that is not zero.
        rank: how many there are.
    """

    name: str
    block: int
    row: Array
    value: float
    rank: int

    def matrix(self) -> Array:
        """(K, K), the logits of all classes."""
        classes = len(self.row)
        if self.block:
            simplex = np.eye(self.block) - 1 / self.block
            return np.asarray(np.kron(np.eye(classes // self.block), simplex), dtype=np.float64)
        turns = np.arange(classes)
        return self.row[(turns[:, None] - turns) % classes]


def _tried(classes: int) -> list[_Pattern]:
    """The simplex; simplices at right angles, of which pairs are the orthoplex; the polygon."""
    patterns = []
    for block in [classes, *(m for m in range(2, classes // 2 + 1) if classes % m == 0)]:
        row = np.zeros(classes)
        row[:block] = -1 / block
        row[0] += 1
        name = {classes: "simplex ETF", 2: "pairs of opposite classes"}.get(block)
        name = name or f"{classes // block} simplices of {block} classes"
        patterns.append(_Pattern(name, block, row, 1.0, classes - classes // block))
    if classes > 3:
        row = np.cos(2 * np.pi * np.arange(classes) / classes)
        patterns.append(_Pattern("a polygon", 0, row, classes / 2, 2))
    return patterns


def _best_scale(problem: Problem, pattern: _Pattern) -> tuple[float, float]:
    """(the best factor of a pattern, its objective); 0 where nothing beats zero."""
    decays, count = problem.decays, problem.counts[0]
    value = np.array(pattern.value * math.sqrt(count))
    price = pattern.rank * float(mode_costs(value, decays))
    degree = 2 / (problem.depth + 1)  # costs grow with the factor to this power

    def hits(sizes: Array) -> tuple[Array, Array]:
        scores = np.multiply.outer(sizes, pattern.row - pattern.row[0])
        total = np.exp(scores).sum(-1)
        return np.log(total), (np.exp(scores) @ (pattern.row - pattern.row[0])) / total

    def objective(sizes: Array) -> Array:
        return hits(sizes)[0] + price * sizes**degree

    def derivative(sizes: Array) -> Array:
        return hits(sizes)[1] + price * degree * sizes ** (degree - 1)

    size = minimum_of(objective, derivative, np.geomspace(1e-3, 3e3, 200))
    best, zero = float(objective(np.array(size))), math.log(problem.num_classes)
    return (size, best) if best < zero else (0.0, zero)


def _patterns(problem: Problem) -> list[Prediction]:
    """Balanced counts: the simplex ETF, and the best other pattern where it does not vanish."""
    patterns = _tried(problem.num_classes)
    if problem.num_classes > _DENSE:
        patterns = patterns[:1]
    simplex, *others = ((pattern, *_best_scale(problem, pattern)) for pattern in patterns)
    pattern, size, objective = simplex
    groups = Groups.alike(problem.counts)
    column = np.sqrt(problem.counts[:1])
    one = np.ones((1, 1))
    spectrum = Spectrum(groups, size * column, np.zeros(1), one, one, column)
    alive = size > 0
    kind = "simplex ETF" if alive else "spectral"
    regime = f"{pattern.name}, a critical point" if alive else "total collapse"
    branches = [_described(problem, spectrum, np.zeros(1), objective, kind, regime)]
    others = [other for other in others if other[1] > 0]
    if others:
        pattern, size, objective = min(others, key=lambda other: other[2])
        classes = problem.num_classes
        groups, column = Groups.single(classes), np.sqrt(problem.counts)
        # Symmetric without negative eigenvalues: eigenvectors are singular vectors.
        _, vectors = np.linalg.eigh(pattern.matrix())
        values = np.where(np.arange(classes) >= classes - pattern.rank, pattern.value, 0.0)
        spectrum = Spectrum(
            groups, np.zeros(classes), size * values * column, vectors, vectors, column
        )
        regime = f"{pattern.name}, rank {pattern.rank}"
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
    spectrum, bias, objective, steepness = _descended(problem, question, start)
    regime = f"reached from the optimum of one layer, rank {spectrum.rank}"
    return _described(problem, spectrum, bias, objective, "numeric", regime, steepness)


def _searched(problem: Problem) -> list[Prediction]:
    """Minima reached from random starts, always the same ones."""
    classes = problem.num_classes
    if classes > _SEARCHED:
        return []
    groups = Groups.single(classes)
    question = program(problem, groups)
    random = np.random.default_rng(0)
    starts = [random.standard_normal((classes, classes)) for _ in range(_RESTARTS)]
    for rank in range(2, min(classes, _FEW + 1)):
        # Classes spread over a sphere of few dimensions: a start of full rank seldom ends there.
        for _ in range(_RESTARTS_OF_RANK):
            points = random.standard_normal((classes, rank))
            points /= np.linalg.norm(points, axis=1, keepdims=True)
            starts.append(_LENGTH * points @ points.T)
    branches = []
    for start in starts:
        start = start * question.column
        spectrum, bias, objective, steepness = _descended(problem, question, start)
        regime = f"found from a random start, rank {spectrum.rank}"
        branches.append(
            _described(problem, spectrum, bias, objective, "numeric", regime, steepness)
        )
    return branches


def _descended(
    problem: Problem, question: Program, start: Array
) -> tuple[Spectrum, Array, float, float]:
    """The minimum reached from logits times sqrt(counts), over all layers; and its steepness."""
    classes, layers = problem.num_classes, problem.depth + 1
    # Layers and features are scaled so that all have the same decay.
    decay = math.exp(sum(math.log(value) for value in problem.decays) / layers)
    left, values, right = np.linalg.svd(start)
    root = np.diag(values ** (1 / layers))
    factors = [root @ right, *[root] * (layers - 2), left @ root]
    shape = (layers, classes, classes)
    zero = np.zeros(classes)

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
        options={"maxiter": 8000, "maxfun": 16000, "maxcor": 30, "ftol": 0, "gtol": 1e-11},
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
    steepness = float(np.abs(objective(result.x)[1]).max())
    return spectrum, bias, value + spectrum.cost(problem.decays), steepness
