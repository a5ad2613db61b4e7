"""Cross entropy and its relatives with one linear layer.

With balanced counts the optimum is a simplex ETF whose scale solves one equation; with imbalanced
counts it is the solution of a convex program, which is certified.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from neuralcollapse.theory.assembly import assembled
from neuralcollapse.theory.class_losses import ClassLoss, SoftmaxLoss, SquaredLoss
from neuralcollapse.theory.comparison import nearly_merged
from neuralcollapse.theory.convex import Program, certified, solved
from neuralcollapse.theory.matrices import Groups
from neuralcollapse.theory.modes import root_between
from neuralcollapse.theory.prediction import Prediction
from neuralcollapse.theory.problem import SQUARED, Problem
from neuralcollapse.theory.spectrum import Spectrum

Array = NDArray[np.float64]

# A certificate above this is reported as a failure of the optimiser.
_CERTIFIED = 1e-8


def balanced(problem: Problem) -> Prediction:
    """Cross entropy, smoothed or focal too, with balanced counts: a simplex ETF.

    The class means of the logits are a (I - 1 1^T / K), where a >= 0 minimises

        loss(a) + sqrt(weight_decay * feature_decay) * (K - 1) * sqrt(n) * a

    For cross entropy with label smoothing s, q = 1 - s - K sqrt(n weight_decay feature_decay),

        a = log((1 + q (K - 1)) / (1 - q)), or 0 where q <= 0
    """
    count, classes = float(problem.counts[0]), problem.num_classes
    price = problem.nuclear_decay * math.sqrt(count)  # of a, for each of the K - 1 modes
    reach = problem.num_samples * problem.nuclear_decay
    if problem.loss == "focal":
        size, slope, steepest = _focal_scale(problem.focal_power, classes, (classes - 1) * price)
        # Zero loses to `slope` on average, and to `steepest` at its steepest.
        threshold, spinodal = (
            (reach * (classes - 1) / (classes * value)) ** 2 for value in (slope, steepest)
        )
        loss_value = float(focal_loss(size, problem.focal_power, classes))
    else:
        kept = 1 - problem.label_smoothing
        hit = kept - classes * price
        size = math.log((1 + hit * (classes - 1)) / (1 - hit)) if hit > 0 else 0.0
        threshold = spinodal = (reach / kept) ** 2
        spread = problem.label_smoothing * (1 - 1 / classes)
        loss_value = math.log1p((classes - 1) * math.exp(-size)) + spread * size
    groups = Groups.alike(problem.counts)
    root, zero = np.sqrt(problem.counts[:1]), np.zeros(1)
    one = np.ones((1, 1))
    spectrum = Spectrum(groups, size * root, zero, one, one, root)
    certificate = None
    if problem.loss != "focal":
        solution = certified(program(problem, groups), size * root, np.zeros((1, 1)), zero)
        certificate = solution.certificate
    return assembled(
        problem,
        spectrum,
        zero,
        loss_value + spectrum.cost(problem.decays),
        kind="simplex ETF" if size else "spectral",
        regime=f"balanced {LOSS_NAMES[problem.loss]}; "
        + (f"logit margin {size:.6g}" if size else "total collapse"),
        metastable=None,
        threshold=threshold,
        spinodal=spinodal,
        certificate=certificate,
        reference="Zhu et al. 2021" if problem.loss == "ce" else "Zhou et al. 2022",
    )


LOSS_NAMES = {
    "mse": "squared error",
    "weighted_mse": "class-weighted squared error",
    "ce": "cross entropy",
    "label_smoothing": "cross entropy with label smoothing",
    "focal": "focal loss",
    "cdt": "class-dependent temperatures (CDT)",
    "ldt": "label-dependent temperatures (LDT)",
}


def focal_loss(margin: Array | float, power: float, classes: int) -> Array:
    """(1 - p)^power * -log(p) for the logits margin * (I - 1 1^T / K)."""
    miss = 1 / (1 + np.exp(margin) / (classes - 1))
    return miss**power * np.log1p((classes - 1) * np.exp(-np.asarray(margin)))


def _focal_slope(margin: Array | float, power: float, classes: int) -> Array:
    """The derivative of `focal_loss`, not positive."""
    miss = 1 / (1 + np.exp(margin) / (classes - 1))
    log_hit = -np.log1p((classes - 1) * np.exp(-np.asarray(margin)))
    return miss**power * (power * (1 - miss) * log_hit - miss)


def _focal_scale(power: float, classes: int, price: float) -> tuple[float, float, float]:
    """(a at the global minimum, greatest mean descent from zero, steepest descent)."""
    # The loss is below 1e-300 beyond.
    margins = np.linspace(0, 700 / (1 + power) + math.log(classes), 20001)
    values = focal_loss(margins, power, classes)
    slopes = -_focal_slope(margins, power, classes)
    mean = np.append(slopes[0], (values[0] - values[1:]) / margins[1:])
    size = minimum_of(
        lambda a: focal_loss(a, power, classes) + price * a,
        lambda a: _focal_slope(a, power, classes) + price,
        margins,
    )
    return size, float(mean.max()), float(slopes.max())


def minimum_of(
    value: Callable[[Array], Array], slope: Callable[[Array], Array], grid: Array
) -> float:
    """Where a function is least, at the start of the grid or at a root of its slope.

    The slope may change its sign once between points of the grid.
    """
    slopes = slope(grid)
    places = np.flatnonzero((slopes[:-1] < 0) & (slopes[1:] >= 0))
    roots = [
        root_between(lambda a: float(slope(np.array(a))), grid[i], grid[i + 1]) for i in places
    ]
    candidates = np.array([grid[0], *roots])
    return float(candidates[np.argmin(value(candidates))])


def alike(problem: Problem) -> Groups:
    """Classes that the problem does not tell apart."""
    keys = [problem.counts]
    keys += [key for key in (problem.class_weights, problem.class_scales) if key is not None]
    return Groups.alike(*keys)


def class_loss(problem: Problem, groups: Groups) -> ClassLoss:
    """The loss as a function of the logits of alike classes."""
    each = groups.each(problem.counts)
    weights = groups.sizes * each / problem.num_samples
    if problem.loss in SQUARED:
        if problem.class_weights is not None:
            weights = weights * groups.each(problem.class_weights)
        return SquaredLoss(groups, weights)
    scales = np.ones((len(groups), len(groups)))
    if problem.class_scales is not None:
        own = groups.each(problem.class_scales)
        # CDT scales the logits of an output, LDT those of a sample.
        scales = scales * (own[:, None] if problem.loss == "cdt" else own)
    return SoftmaxLoss(groups, weights, problem.label_smoothing, scales)


def program(problem: Problem, groups: Groups) -> Program:
    """The convex program of one linear layer."""
    if isinstance(problem.bias, str):
        decay = 0.0 if problem.bias == "free" else None
    else:
        decay = problem.bias
    column = np.sqrt(groups.each(problem.counts))
    return Program(class_loss(problem, groups), column, problem.nuclear_decay, decay)


def start_of(groups: Groups, column: Array) -> Array:
    """(G, G), logits of margin 3 between all classes, columns scaled."""
    root = np.sqrt(groups.sizes / groups.num_classes)
    return 3 * (np.eye(len(groups)) - np.outer(root, root)) * column


def by_program(problem: Problem) -> Prediction:
    """Any counts: the convex program over the logits, certified by duality.

        min mean loss(Z + b) + sqrt(weight_decay * feature_decay) nuclear_norm(Z sqrt(counts))

    Classes of one group (equal counts, and weights or scales) merge into one vector, exactly, once
    their count is at or below the threshold (N sqrt(weight_decay * feature_decay) / factor)^2, with
    the factor 1 for cross entropy; in a group of one, nothing merges, but the rank falls.
    """
    groups = alike(problem)
    question = program(problem, groups)
    start = start_of(groups, question.column)
    if problem.loss in SQUARED:
        start = np.diag(question.column)
    solution = solved(question, start)
    spectrum = solution.spectrum(question)
    bias = solution.bias
    if problem.bias == "free" and problem.loss in ("ce", "label_smoothing", "ldt"):
        bias = bias - (groups.sizes @ bias) / groups.num_classes
    warnings: tuple[str, ...] = ()
    if solution.certificate > _CERTIFIED:
        warnings = (
            f"the optimiser stopped at a certificate of {solution.certificate:.1e}: the objective "
            "may be above the minimum by that share",
        )
    if problem.bias == "free" and problem.loss not in (*SQUARED, "cdt"):
        warnings += ("not unique: a constant added to the bias changes nothing; its mean is zero",)
    warnings += _nearly_merging(problem, spectrum)
    threshold = _merging_threshold(problem)
    return assembled(
        problem,
        spectrum,
        bias,
        solution.objective,
        kind="numeric",
        regime=_program_regime(problem, groups, spectrum),
        threshold=threshold,
        spinodal=threshold,
        certificate=solution.certificate,
        reference=_REFERENCES.get(problem.loss, "derived"),
        warnings=warnings,
    )


def _nearly_merging(problem: Problem, spectrum: Spectrum) -> tuple[str, ...]:
    """The classes that come close to another's vector, and not by exact merging, in words."""
    groups = spectrum.groups
    features = spectrum.feature_gram(problem.decays)
    # Two classes stand for each group: what holds for them holds for all.
    twice = np.tile(np.arange(len(groups)), 2)
    gram = features.between[np.ix_(twice, twice)]
    np.fill_diagonal(gram, features.own[twice])
    near = nearly_merged(torch.from_numpy(gram)).numpy()
    exactly = (groups.contrasts == 0) | (spectrum.contrast == 0)
    near &= ~((twice[:, None] == twice) & exactly[twice])
    close = near.any(1)[: len(groups)]
    if not close.any():
        return ()
    members = np.flatnonzero(close[groups.index])
    names = ", ".join(map(str, members[:_NAMED])) + (" and others" if len(members) > _NAMED else "")
    return (
        f"nearly merged: the means of classes {names} come within a tenth of the largest distance "
        "of another's; different counts do not merge exactly",
    )


_NAMED = 10
_REFERENCES = {"ce": "Hong, Ling 2023", "cdt": "Behnia et al. 2023", "ldt": "Behnia et al. 2023"}


def _merging_threshold(problem: Problem) -> float | None:
    """Samples per class at or below which equal classes merge; None where it differs by class."""
    factor: Array | float = 1.0
    if problem.loss == "label_smoothing":
        factor = 1 - problem.label_smoothing
    elif problem.class_scales is not None:
        factor = problem.class_scales
    elif problem.class_weights is not None:
        factor = problem.class_weights
    factors = np.atleast_1d(factor)
    if not bool((factors == factors[0]).all()):
        return None
    return float((problem.num_samples * problem.nuclear_decay / factors[0]) ** 2)


def _program_regime(problem: Problem, groups: Groups, spectrum: Spectrum) -> str:
    name = LOSS_NAMES[problem.loss]
    balance = "balanced" if problem.balanced else "imbalanced"
    if not spectrum.rank:
        return f"{balance} {name}; total collapse"
    merged = (groups.contrasts > 0) & (spectrum.contrast == 0)
    form = "two clusters of equal classes" if len(groups) == 2 else f"{len(groups)} groups"
    regime = f"{balance} {name}, convex program over {form}, rank {spectrum.rank}"
    if merged.any():
        return f"{regime}; minority collapse: {int(groups.sizes[merged].sum())} classes merge"
    return regime
