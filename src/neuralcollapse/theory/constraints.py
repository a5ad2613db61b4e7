"""Cross entropy under constraints in place of decays: the sphere, and layer-peeled norms."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from neuralcollapse.scalars import check_integer, check_number
from neuralcollapse.theory.assembly import assembled, described
from neuralcollapse.theory.class_losses import SoftmaxLoss
from neuralcollapse.theory.convex import Program, Solution, solved
from neuralcollapse.theory.cross_entropy import start_of
from neuralcollapse.theory.matrices import GroupedMatrix, Groups
from neuralcollapse.theory.modes import root_between
from neuralcollapse.theory.prediction import Prediction
from neuralcollapse.theory.problem import Problem, checked_counts, checked_width
from neuralcollapse.theory.spectrum import Spectrum

Array = NDArray[np.float64]


def spherical(
    counts: Sequence[int] | Tensor, *, temperature: float, dim: int | None = None
) -> Prediction:
    """Cross entropy of cosines over a temperature, balanced counts: a simplex ETF of unit vectors.

        objective = log(1 + (K - 1) exp(-K / ((K - 1) temperature)))

    Source: Yaras et al. 2022. No decay acts on features or classifier; their lengths do not matter
    and are shown as one.

    Args:
        counts: (K,), samples per class, all equal.
        temperature: what the cosines are divided by, above 0.
        dim: d, at least K-1.

    Raises:
        ValueError: if the counts differ, or dim is below K-1: no closed form is known there.

    Example:
        >>> round(spherical([100] * 4, temperature=1 / 3).objective, 8)
        0.05349045
    """
    sizes = checked_counts(counts)
    temperature = check_number("temperature", temperature, minimum=0, exclusive=True)
    classes = len(sizes)
    if (sizes != sizes[0]).any():
        raise ValueError(
            f"counts must be equal for cosines, got {int(sizes.min())} to {int(sizes.max())}; no "
            "closed form is known for imbalanced classes on the sphere"
        )
    width = checked_width(dim, None, 1)
    if width is not None and width < classes - 1:
        raise ValueError(
            f"dim must be at least {classes - 1} for {classes} classes, got {width}; no closed "
            "form is known for fewer dimensions"
        )
    groups = Groups.alike(sizes)
    scale = np.array([classes / (classes - 1)])
    one, zero = np.ones((1, 1)), np.zeros(1)
    spectrum = Spectrum(groups, scale, zero, one, one, np.ones(1))
    problem = Problem(counts=sizes, loss="ce", weight_decay=(1.0,), feature_decay=1.0)
    unit = spectrum.classifier_gram(problem.decays)
    margin = float(scale[0]) / temperature
    return described(
        problem,
        unit,
        unit,
        GroupedMatrix(groups, scale / temperature, np.zeros((1, 1))),
        zero,
        objective=math.log1p((classes - 1) * math.exp(-margin)),
        kind="simplex ETF",
        regime=f"cross entropy of cosines at temperature {temperature:g}, balanced",
        rank=spectrum.rank,
        status=("alive",) * classes,
        layers=spectrum.layers(problem.decays),
        weight_decay=None,
        feature_decay=None,
        threshold=None,
        spinodal=None,
        reference="Yaras et al. 2022",
        temperature=temperature,
    )


def layer_peeled(
    counts: Sequence[int] | Tensor, *, weight_energy: float, feature_energy: float
) -> Prediction:
    """Cross entropy with bounded mean squares of classifier and features, no bias, no decay.

        min mean loss   subject to   mean_k |w_k|^2 <= weight_energy,
                                     mean_k mean_(i in k) |h_i|^2 <= feature_energy

    The problem: Fang et al. 2021. It is the convex program with the nuclear norm of the logits
    themselves (not times sqrt(counts)) bounded by K sqrt(weight_energy feature_energy). With p its
    multiplier, classes of equal count n merge where n <= N p.

    Args:
        counts: (K,), samples per class.
        weight_energy: above 0.
        feature_energy: above 0.

    Returns:
        A prediction whose threshold is N p. Its certificate bounds the objective with that
        multiplier.

    Raises:
        ValueError: if an energy is not positive.

    Example:
        >>> merged = layer_peeled([1230] * 5 + [100] * 5, weight_energy=1, feature_energy=5)
        >>> merged.status[5]
        'merged with 6, 7, 8, 9'
    """
    sizes = checked_counts(counts)
    weight_energy = check_number("weight_energy", weight_energy, minimum=0, exclusive=True)
    feature_energy = check_number("feature_energy", feature_energy, minimum=0, exclusive=True)
    groups = Groups.alike(sizes)
    each = groups.each(sizes)
    classes, total = len(sizes), sizes.sum()
    energy = classes * math.sqrt(weight_energy * feature_energy)
    price, solution = _priced(groups, each, energy)
    program = _peeled_program(groups, each, price)
    spectrum = solution.spectrum(program)
    # Decays of product one whose ratio splits the nuclear norm as the energies ask.
    ratio = math.sqrt(feature_energy / weight_energy)
    problem = Problem(counts=sizes, loss="ce", weight_decay=(ratio,), feature_decay=1 / ratio)
    nuclear = spectrum.cost(problem.decays)
    merged = (groups.contrasts > 0) & (spectrum.contrast == 0)
    regime = "cross entropy under layer-peeled constraints"
    if merged.any():
        regime += f"; minority collapse: {int(groups.sizes[merged].sum())} classes merge"
    return assembled(
        problem,
        spectrum,
        solution.bias,
        solution.objective - price * nuclear,
        kind="simplex ETF" if len(groups) == 1 else "numeric",
        regime=regime,
        weight_decay=None,
        feature_decay=None,
        threshold=float(total * price),
        spinodal=float(total * price),
        certificate=solution.certificate,
        reference="Fang et al. 2021",
    )


def layer_peeled_collapse_ratio(
    majority_classes: int, minority_classes: int, *, weight_energy: float, feature_energy: float
) -> float:
    """How many times larger majority classes must be for minority classes to merge.

    The ratio at which the multiplier of `layer_peeled` is the minority's share of the samples.

    Args:
        majority_classes: at least 1.
        minority_classes: at least 2: one class has nothing to merge with.
        weight_energy: above 0.
        feature_energy: above 0.

    Raises:
        ValueError: if minority classes do not merge at any ratio up to 1e8.

    Example:
        >>> ratio = layer_peeled_collapse_ratio(5, 5, weight_energy=1, feature_energy=5)
        >>> round(ratio, 4)
        12.1924
    """
    majority = check_integer("majority_classes", majority_classes, 1)
    minority = check_integer("minority_classes", minority_classes, 2)
    weight_energy = check_number("weight_energy", weight_energy, minimum=0, exclusive=True)
    feature_energy = check_number("feature_energy", feature_energy, minimum=0, exclusive=True)
    groups = Groups(
        np.repeat([0, 1], [majority, minority]), np.array([majority, minority], dtype=float)
    )
    energy = (majority + minority) * math.sqrt(weight_energy * feature_energy)

    def excess(log_ratio: float) -> float:
        each = np.array([math.exp(log_ratio), 1.0])
        price = 1 / float(groups.sizes @ each)
        return (
            _nuclear(groups, solved(_peeled_program(groups, each, price), _start(groups))) - energy
        )

    low, high = 1e-6, math.log(1e8)
    if excess(high) < 0:
        raise ValueError(
            "weight_energy and feature_energy are too large for a ratio below 1e8, got "
            f"{weight_energy:g} and {feature_energy:g}"
        )
    return math.exp(root_between(excess, low, high))


def _peeled_program(groups: Groups, each: Array, price: float) -> Program:
    weights = groups.sizes * each / (groups.sizes @ each)
    loss = SoftmaxLoss(groups, weights, 0.0, np.ones((len(groups), len(groups))))
    return Program(loss, np.ones(len(groups)), price, None)


def _start(groups: Groups) -> Array:
    return start_of(groups, np.ones(len(groups)))


def _nuclear(groups: Groups, solution: Solution) -> float:
    values = np.linalg.svd(solution.reduced, compute_uv=False)
    return float(values.sum() + groups.contrasts @ solution.contrast)


def _priced(groups: Groups, each: Array, energy: float) -> tuple[float, Solution]:
    """The multiplier at which the nuclear norm is `energy`, and the solution there."""
    start = _start(groups)

    def excess(log_price: float) -> float:
        program = _peeled_program(groups, each, math.exp(log_price))
        return math.log(max(_nuclear(groups, solved(program, start)), 1e-300) / energy)

    # At a price of one nothing is worth its nuclear norm; the loss falls as exp(-logits).
    low = high = 0.0
    while excess(low) < 0:
        low, high = low - 2.0, low
    log_price = root_between(excess, low, high)
    price = math.exp(log_price)
    return price, solved(_peeled_program(groups, each, price), start)
