"""Squared error: closed forms at any depth, for any counts.

Targets are fixed, so the optimum aligns its singular directions with those of the targets (von
Neumann's trace inequality), and each mode is the scalar problem of `modes`.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from neuralcollapse.theory.assembly import assembled
from neuralcollapse.theory.centred import centred_modes
from neuralcollapse.theory.matrices import FactoredMatrix, Groups
from neuralcollapse.theory.modes import (
    fitted_shares,
    jump_level,
    mode_scale,
    share_at_jump,
    spinodal_level,
)
from neuralcollapse.theory.prediction import Prediction
from neuralcollapse.theory.problem import Problem
from neuralcollapse.theory.spectrum import Spectrum, layer_squares, mode_costs, product_squares

Array = NDArray[np.float64]

# Rounding of a threshold: a count this close to it, relatively, counts as equal.
_EQUAL = 1e-12
# Singular vectors of more modes that differ would take tens of gigabytes.
_MOST_DISTINCT = 20_000
# Singular values below this share of the largest are rounding of zero.
_ROUNDING = 1e-13


def thresholds(problem: Problem) -> tuple[float, float]:
    """(threshold, spinodal): y^2 above which a mode survives, and has a local minimum.

    For y^2 = counts, without a bias, these are numbers of samples:

        threshold = M^2 N (N Lam)^(1/M) / (M - 1)^((M-1)/M)
    """
    scale = mode_scale(problem.decays, problem.num_samples)
    return scale / jump_level(problem.depth), scale / spinodal_level(problem.depth)


def without_bias(problem: Problem) -> Prediction:
    """One orthogonal direction per class, each with a length of its own.

    With y_k^2 = counts[k], share_k that of `modes`, classes up to the threshold exactly zero:

        logits = diag(share)

    Where the width is less than the number of classes, the most frequent survive.
    """
    counts, width = problem.counts, problem.width
    within = np.ones(problem.num_classes)
    tied = False
    if width is not None and width < problem.num_classes:
        order = np.argsort(-counts, kind="stable")
        within[order[width:]] = 0
        tied = counts[order[width - 1]] == counts[order[width]]
    groups = Groups.alike(counts, within)
    squares, within = groups.each(counts), groups.each(within) > 0
    threshold, spinodal = thresholds(problem)
    shares = fitted_shares(squares, problem.decays, problem.num_samples) * within
    values = np.sqrt(squares) * shares
    spectrum = Spectrum(groups, values, values, None, None, np.sqrt(squares))
    residual = (groups.sizes * squares * (1 - shares) ** 2).sum() / (2 * problem.num_samples)
    even = problem.balanced and spectrum.rank == problem.num_classes
    lost = int(((shares == 0) * groups.sizes).sum())
    warnings = _depth_warnings(problem, squares[within], groups.sizes[within])
    if tied and bool((shares > 0)[within].all()):
        warnings += (
            f"not unique: width {width} is below {problem.num_classes} classes, and classes of "
            "equal counts share what is left; any projector among them is as good, and the one "
            "shown keeps the first of them",
        )
    elif width is not None and not within.all():
        warnings += (
            f"width {width} is below {problem.num_classes} classes: the most frequent survive, the "
            "others are lost",
        )
    return assembled(
        problem,
        spectrum,
        np.zeros(len(groups)),
        float(residual + spectrum.cost(problem.decays)),
        kind="orthogonal frame" if even else "general orthogonal frame",
        regime=_regime_without_bias(problem, lost),
        metastable=within & (shares == 0) & (squares > spinodal),
        threshold=threshold,
        spinodal=spinodal,
        reference="Dang et al. 2023",
        warnings=warnings,
    )


def with_free_bias(problem: Problem) -> Prediction:
    """The bias takes the class frequencies, and the rest are modes of the centred targets.

        (I - counts 1^T / N) diag(sqrt(counts)) = U diag(y) V^T,    bias = counts / N

    With balanced counts, a simplex ETF.
    """
    counts, total = problem.counts, problem.num_samples
    groups = Groups.alike(counts)
    rank = problem.num_classes - 1
    narrow = problem.width is not None and problem.width < rank
    if narrow:
        groups = Groups.single(problem.num_classes)
    if len(groups) > _MOST_DISTINCT:
        raise ValueError(
            f"counts must have at most {_MOST_DISTINCT} different values with a free bias, got "
            f"{len(groups)}; round them, or leave the bias out"
        )
    if narrow:
        left, values, right = _centred_targets(counts)
    else:
        left, values, right = centred_modes(groups.sizes, groups.each(counts))
    each, several = groups.each(counts), groups.contrasts > 0
    threshold, spinodal = thresholds(problem)
    inner = fitted_shares(values**2, problem.decays, total)
    contrast = fitted_shares(each * several, problem.decays, total)
    warnings = _depth_warnings(
        problem, np.append(each, values**2), np.append(groups.contrasts, np.ones_like(values))
    )
    if narrow and problem.width is not None:
        warnings += _truncation_warnings(values, inner, problem.width)
        inner[problem.width :] = 0
    spectrum = Spectrum(
        groups, np.sqrt(each) * contrast, values * inner, left, right, np.sqrt(each)
    )
    residual = (values**2 * (1 - inner) ** 2).sum()
    residual += (groups.contrasts * each * (1 - contrast) ** 2).sum()
    even = problem.balanced and spectrum.rank == rank
    lost = rank - spectrum.rank
    regime = (
        "balanced squared error with a free bias"
        if problem.balanced
        else (
            "imbalanced squared error with a free bias, which takes the class frequencies; the "
            "rest are the singular directions of the centred targets"
        )
    )
    if lost:
        regime += (
            f"; {lost} of {rank} modes {_be(lost)} zero" if lost < rank else "; total collapse"
        )
    return assembled(
        problem,
        spectrum,
        each / total,
        float(residual / (2 * total) + spectrum.cost(problem.decays)),
        kind="simplex ETF" if even else "spectral",
        regime=regime,
        metastable=(contrast == 0) & (each > spinodal) & several,
        threshold=threshold,
        spinodal=spinodal,
        reference="Dang et al. 2023" if problem.balanced else "H. Liu 2024",
        warnings=warnings,
    )


def _centred_targets(counts: Array) -> tuple[Array, Array, Array]:
    """(left, values, right) of (I - counts 1^T / N) diag(sqrt(counts)), one class a row."""
    share = counts / counts.sum()
    centred = (np.eye(len(counts)) - share[:, None]) * np.sqrt(counts)
    left, values, right = np.linalg.svd(centred)
    # The last is the direction that the bias took.
    return left[:, :-1], values[:-1], right[:-1].T


def with_decayed_bias(problem: Problem) -> Prediction:
    """Balanced counts, one layer, a bias with decay: between simplex ETF and orthogonal frame.

    With t = K sqrt(n) sqrt(weight_decay * feature_decay) < 1 and r = decay / (1 + decay) of the
    bias, the logits' singular values times sqrt(n) are sqrt(n) (1 - t) on contrasts and, for r > t,
    sqrt(n) (1 - t / r) on the constant direction.
    """
    decay = float(problem.bias)
    count, total = float(problem.counts[0]), problem.num_samples
    classes, root = problem.num_classes, np.sqrt(count)
    price = problem.nuclear_decay * classes * root
    ratio = decay / (1 + decay)
    centred = max(0.0, root * (1 - price))
    constant = root * (1 - price / ratio) if ratio > price else 0.0
    level = (root - constant) / np.sqrt(total * classes) / (1 + decay)
    groups = Groups.alike(problem.counts)
    one = np.ones((1, 1))
    spectrum = Spectrum(
        groups, np.array([centred]), np.array([constant]), one, one, np.array([root])
    )
    residual = (classes - 1) * (root - centred) ** 2
    residual += (root - constant - level * np.sqrt(total * classes)) ** 2
    objective = residual / (2 * total) + decay / 2 * classes * level**2
    threshold, spinodal = thresholds(problem)
    if not centred:
        kind, between = "spectral", "total collapse"
    elif not constant:
        kind, between = "simplex ETF", "the bias takes the whole constant direction"
    else:
        kind, between = "spectral", "between simplex ETF and orthogonal frame"
    return assembled(
        problem,
        spectrum,
        np.array([level]),
        float(objective + spectrum.cost(problem.decays)),
        kind=kind,
        regime=f"balanced squared error with a decayed bias; {between}",
        threshold=threshold,
        spinodal=spinodal,
        reference="Zhou et al. 2022",
    )


def weighted(problem: Problem, class_weights: Array) -> Prediction:
    """Class-weighted squared error of one layer without bias.

    logit_k = max(0, 1 - N sqrt(weight_decay * feature_decay) / (weight_k sqrt(counts_k)))
    """
    groups = Groups.alike(problem.counts, class_weights)
    each, weights = groups.each(problem.counts), groups.each(class_weights)
    reach = problem.num_samples * problem.nuclear_decay
    shares = np.maximum(0.0, 1 - reach / (weights * np.sqrt(each)))
    values = np.sqrt(each) * shares
    spectrum = Spectrum(groups, values, values, None, None, np.sqrt(each))
    residual = (groups.sizes * weights * each * (1 - shares) ** 2).sum() / (2 * problem.num_samples)
    same = bool((weights == weights[0]).all())
    threshold = float(reach / weights[0]) ** 2 if same else None
    return assembled(
        problem,
        spectrum,
        np.zeros(len(groups)),
        float(residual + spectrum.cost(problem.decays)),
        kind="general orthogonal frame",
        regime="class-weighted squared error without bias; a class survives if its weight squared "
        f"times its count exceeds {reach**2:.6g}",
        threshold=threshold,
        spinodal=threshold,
        reference="derived",
    )


def to_targets(problem: Problem, targets: Array) -> Prediction:
    """Squared error to any targets, one row per class, with a free bias or none.

    The modes are the singular directions of the targets times sqrt(counts), with a free bias
    centred on their mean over the samples.
    """
    counts = problem.counts
    total, root = problem.num_samples, np.sqrt(problem.counts)
    free = problem.bias == "free"
    bias = counts @ targets / total if free else np.zeros(targets.shape[1])
    scaled = (targets - bias) * root[:, None]
    right, values, left = np.linalg.svd(scaled, full_matrices=False)
    left = left.T
    values[values <= _ROUNDING * max(float(values.max()), 1e-300)] = 0
    threshold, spinodal = thresholds(problem)
    shares = fitted_shares(values**2, problem.decays, total)
    warnings = _depth_warnings(problem, values**2, np.ones_like(values))
    if problem.width is not None and problem.width < np.count_nonzero(values):
        warnings += _truncation_warnings(values, shares, problem.width)
        shares[problem.width :] = 0
    sigma = values * shares
    products = product_squares(sigma, problem.decays)
    features = layer_squares(sigma, problem.decays, -1)
    means = right / root[:, None]
    classifier = FactoredMatrix(left, products, left)
    feature_gram = FactoredMatrix(means, features, means)
    logits = FactoredMatrix(left, sigma, means)
    norms = np.maximum(feature_gram.diagonal, 0)
    zero = norms <= 1e-24 * max(float(norms.max()), 1e-300)
    alive = sigma[sigma > 0]
    objective = ((values * (1 - shares)) ** 2).sum() / (2 * total)
    return Prediction(
        kind="spectral",
        regime="squared error to given targets"
        + (" with a free bias, which takes their mean" if free else " without bias")
        + f"; {len(alive)} of {np.count_nonzero(values)} modes survive",
        objective=float(objective + mode_costs(sigma, problem.decays).sum()),
        threshold=threshold,
        spinodal=spinodal,
        rank=len(alive),
        status=tuple("collapsed" if dead else "alive" for dead in zero),
        classifier_norm_squared=torch.from_numpy(np.maximum(classifier.diagonal, 0)),
        feature_norm_squared=torch.from_numpy(norms),
        logit=torch.full((len(counts),), torch.nan, dtype=torch.float64),
        bias=torch.from_numpy(bias),
        layers=tuple(
            torch.from_numpy(np.sqrt(layer_squares(alive, problem.decays, j)))
            for j in range(problem.depth)
        ),
        counts=torch.from_numpy(counts).long(),
        loss=problem.loss,
        weight_decay=problem.weight_decay,
        feature_decay=problem.feature_decay,
        reference="H. Liu 2024",
        warnings=warnings,
        classifier_matrix=classifier,
        feature_matrix=feature_gram,
        logit_matrix=logits,
    )


def _regime_without_bias(problem: Problem, lost: int) -> str:
    classes = problem.num_classes
    balance = "balanced" if problem.balanced else "imbalanced"
    regime = f"{balance} squared error without bias, depth {problem.depth}"
    if not lost:
        return f"{regime}; every class survives"
    which = f"{lost} of {classes} classes {_be(lost)}" if lost < classes else "all are"
    return f"{regime}; {which} zero"


def _depth_warnings(problem: Problem, squares: Array, repeated: Array) -> tuple[str, ...]:
    """What depth makes non-unique or local.

    Args:
        problem: what is minimised.
        squares: y^2 of the modes.
        repeated: how often each occurs.
    """
    if problem.depth == 1:
        return ()
    threshold, spinodal = thresholds(problem)
    warnings = (
        f"at depth {problem.depth} zero is a local minimum of every mode: a small initialisation "
        "can kill what the optimum keeps",
    )
    metastable = int(repeated[(squares > spinodal) & (squares <= threshold)].sum())
    if metastable:
        warnings += (
            f"metastable: {metastable} of {int(repeated.sum())} modes {_be(metastable)} zero at "
            "the optimum, with a local minimum that is not zero, in which training may stay",
        )
    if bool((np.abs(squares - threshold) <= _EQUAL * threshold).any()):
        share = share_at_jump(problem.depth)
        warnings += (
            "not unique: a mode lies exactly at the threshold, where zero and a fitted share of "
            f"{share:.4g} of its target cost the same",
        )
    return warnings


def _truncation_warnings(values: Array, shares: Array, width: int) -> tuple[str, ...]:
    """What a width below the rank makes non-unique."""
    if not shares[width:].any():
        return ()
    if values[width - 1] - values[width] > 1e-9 * values[0]:
        return (f"width {width} is below the rank: the modes of least energy are lost",)
    return (
        f"not unique: width {width} cuts through modes of equal energy, of which any choice is as "
        "good; only the singular values and the objective are determined",
    )


def _be(number: int) -> str:
    return "is" if number == 1 else "are"
