"""Features that cannot be negative, behind a ReLU, and one linear layer.

Class means on axes of their own (orthogonal, with disjoint supports) make the classes decouple:
what each costs beside its loss is sqrt(weight_decay * feature_decay * counts) times the length of
its logits. That is a closed form for cross entropy without bias, and a convex program otherwise.

That no other features are better is a matter of duality. With G the gradient of the loss by the
logits, one row per sample, a point is optimal if norm(G^T h) <= sqrt(weight_decay * feature_decay)
for every unit h that is not negative; and with M = G G^T such an h has

    norm(G^T h)^2 <= largest eigenvalue of max(M, 0)

which is the largest entry of the diagonal where the gradients of different classes are at obtuse
angles. So every result comes with a bound on what it lacks. With imbalanced counts and a bias of
little or no decay some angles are acute: classes had better share axes, and the bound says so.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, minres

from neuralcollapse.theory.assembly import described, statuses
from neuralcollapse.theory.class_losses import Scores
from neuralcollapse.theory.convex import Program
from neuralcollapse.theory.cross_entropy import LOSS_NAMES, alike, program
from neuralcollapse.theory.matrices import GroupedMatrix, Groups
from neuralcollapse.theory.prediction import Prediction
from neuralcollapse.theory.problem import SQUARED, Problem

Array = NDArray[np.float64]

_MANY_MINIMA = (
    "features that cannot be negative have many bad local minima, in which classes share an axis: "
    "a small initialisation is often stuck"
)
# The optimiser leaves less than this; where axes of their own are not optimal it is far more.
_CERTIFIED = 1e-8
# Length of a class's logits, relative to the longest, below which it is dead.
_DEAD = 1e-6


def rectified(problem: Problem) -> Prediction:
    """Cross entropy, one layer without bias, features not negative: orthogonal class means.

    The classes decouple, with logits m_k (e_k - 1 / K) and

        m_k = max(0, log(sqrt(K (K - 1) n_k / (N^2 weight_decay feature_decay)) - K + 1))

    A class is dead if n_k <= N^2 weight_decay feature_decay K / (K - 1).
    """
    counts, classes = problem.counts, problem.num_classes
    reach = problem.num_samples * problem.nuclear_decay
    inner = np.sqrt(classes * (classes - 1) * counts) / reach - classes + 1
    margins = np.log(np.maximum(inner, 1.0))
    lengths = margins * math.sqrt(1 - 1 / classes)
    ratio = np.sqrt(problem.feature_decay * counts / problem.weight_decay[0])
    losses = np.log1p((classes - 1) * np.exp(-margins))
    objective = counts @ losses / problem.num_samples
    objective += problem.nuclear_decay * (np.sqrt(counts) @ lengths)
    threshold = reach**2 * classes / (classes - 1)

    groups = Groups.alike(counts)
    margin, length, slope = (groups.each(values) for values in (margins, lengths, ratio))
    root = np.sqrt(groups.sizes / classes)
    centring = np.eye(len(groups)) - np.outer(root, root)
    # W = centring * diag(sqrt(squares)) Q^T, with Q the axes that the features lie on.
    squares = classes / (classes - 1) * length * slope
    inner = centring * np.sqrt(squares)
    classifier = GroupedMatrix(groups, squares, inner @ inner.T)
    features = GroupedMatrix(groups, length / slope, length / slope)
    logits = GroupedMatrix(groups, margin, centring * margin)
    repeated = np.repeat(np.sqrt(squares), groups.contrasts.astype(int))
    values = np.concatenate([repeated, np.linalg.svd(inner, compute_uv=False)])
    values = -np.sort(-values[values > 1e-9 * max(float(values.max()), 1e-300)])
    alive = int((groups.sizes * (margin > 0)).sum())
    return described(
        problem,
        classifier,
        features,
        logits,
        np.zeros(len(groups)),
        objective=float(objective),
        kind="orthogonal frame" if problem.balanced and alive else "general orthogonal frame",
        regime="cross entropy with features that cannot be negative: orthogonal class means, "
        f"centred classifier; {alive} of {classes} classes survive",
        threshold=threshold,
        spinodal=threshold,
        rank=min(alive, classes - 1),
        status=statuses(groups, margin == 0, np.zeros(len(groups), dtype=bool)),
        layers=(values,),
        reference="Dang et al. 2024",
        warnings=(_MANY_MINIMA,),
    )


def rectified_by_program(problem: Problem) -> Prediction:
    """Any convex loss and bias, one layer, features not negative: each class on its own axis.

        min loss(Z + b) + sqrt(weight_decay * feature_decay) * sum_k sqrt(counts_k) norm(z_k)
            + bias_decay / 2 * norm(b)^2

    with z_k the logits of class k, and a certificate against all other features. With imbalanced
    counts and a bias of little decay other features are better, and this is refused.

    Raises:
        ValueError: if the certificate does not prove the optimality.
    """
    groups = alike(problem)
    question = program(problem, groups)
    scores, bias, objective, certificate = _minimum(question)
    if certificate > _CERTIFIED:
        raise ValueError(
            "activation='relu' must come with a set-up whose best class means are at right angles, "
            f"got loss={problem.loss!r}, bias={problem.bias!r} and counts from "
            f"{int(problem.counts.min())} to {int(problem.counts.max())}, where that is not proved "
            f"(the bound is {certificate:.1e} of the objective); leave the bias out, give it more "
            "decay, or ask `unconstrained`"
        )
    lengths = _lengths(groups, scores)
    dead = lengths <= _DEAD * max(float(lengths.max()), 1.0)
    alive = int(groups.sizes[~dead].sum())
    softmax = problem.loss not in SQUARED
    if problem.bias == "free" and softmax and problem.loss != "cdt":
        bias = bias - (groups.sizes @ bias) / groups.num_classes
    warnings: tuple[str, ...] = (_MANY_MINIMA,)
    if problem.bias == "free" and softmax and problem.loss != "cdt":
        warnings += ("not unique: a constant added to the bias changes nothing; its mean is zero",)
    decided = dead & (bias >= bias.max()) & (bias > bias.min())
    if decided.any():
        names = [str(k) for k in np.flatnonzero(decided[groups.index])]
        which = f"class {names[0]} has" if len(names) == 1 else f"classes {', '.join(names)} have"
        warnings += (
            f"{which} features of zero and the largest bias, which decides for what lies at zero",
        )
    # norm(w)^2 and norm(h)^2 of an axis have the product norm(z)^2, and balance decays and counts.
    column = question.column
    slope = column * math.sqrt(problem.feature_decay / problem.weight_decay[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        stretch = np.where(dead, 0.0, np.sqrt(slope / lengths))
    axes = _matrix(groups, Scores(scores.own * stretch, scores.between * stretch))
    logits = _matrix(groups, Scores(scores.own * ~dead, scores.between * ~dead))
    inner = np.asarray(axes.reduced)
    classifier = GroupedMatrix(groups, axes.contrast**2, inner @ inner.T)
    squares = np.where(dead, 0.0, lengths / slope)
    values = np.concatenate(
        [
            np.repeat(np.abs(axes.contrast), groups.contrasts.astype(int)),
            np.linalg.svd(inner, compute_uv=False),
        ]
    )
    values = -np.sort(-values[values > 1e-9 * max(float(values.max()), 1e-300)])
    return described(
        problem,
        classifier,
        GroupedMatrix(groups, squares, squares),
        logits,
        bias,
        objective=objective,
        kind="numeric",
        regime=f"{LOSS_NAMES[problem.loss]} with features that cannot be negative: orthogonal "
        f"class means, convex program over {len(groups)} groups; {alive} of "
        f"{problem.num_classes} classes have features above zero",
        threshold=None,
        spinodal=None,
        rank=len(values),
        status=statuses(groups, dead, np.zeros(len(groups), dtype=bool), decided=decided),
        layers=(values,),
        certificate=certificate,
        reference="derived",
        warnings=warnings,
    )


def _minimum(question: Program) -> tuple[Scores, Array, float, float]:
    """(logits of the groups without bias, bias, objective, certificate).

    Each class's logits are a vector times a number, whose squared norms are decayed: smooth, and
    its minima are those of the program.
    """
    groups, several = question.groups, _others(question.groups)
    number, sizes = len(groups), groups.sizes
    prices = sizes * question.price * question.column

    def unpacked(packed: Array) -> tuple[Array, Array, Array, Array]:
        own, factor, bias = packed[: 3 * number].reshape(3, number)
        return own, packed[3 * number :].reshape(number, number), factor, bias

    decay = question.bias_decay
    # A bias of much decay is sought in small units.
    unit = 1 / math.sqrt(max(1.0, decay or 0.0))

    def shifts(bias: Array) -> Array:
        return np.zeros(number) if decay is None else unit * bias

    def objective(packed: Array) -> tuple[float, Array]:
        own, between, factor, bias = unpacked(packed)
        shift = shifts(bias)
        value, slope, _ = question.loss(
            Scores(own * factor + shift, between * factor + shift[:, None])
        )
        value += prices @ (own**2 + (several * between**2).sum(0) + factor**2) / 2
        by_own = slope.own * factor + prices * own
        by_between = slope.between * factor + prices * several * between
        by_factor = slope.own * own + (slope.between * between).sum(0) + prices * factor
        # A bias that is not there stays at zero.
        own_decay = 1.0 if decay is None else decay * unit**2
        by_bias = own_decay * sizes * bias
        value += bias @ by_bias / 2
        if decay is not None:
            by_bias = by_bias + unit * (slope.own + slope.between.sum(1))
        gradient = np.concatenate([by_own, by_factor, by_bias, by_between.ravel()])
        # In units of the price, beside which the optimiser's tolerances are meant.
        return float(value) / question.price, gradient / question.price

    def second(packed: Array, change: Array) -> Array:
        """The second derivative applied to a change."""
        own, between, factor, bias = unpacked(packed)
        own_by, between_by, factor_by, bias_by = unpacked(change)
        shift, shift_by = shifts(bias), shifts(bias_by)
        _, slope, curvature = question.loss(
            Scores(own * factor + shift, between * factor + shift[:, None])
        )
        turned = curvature(
            Scores(
                own_by * factor + own * factor_by + shift_by,
                between_by * factor + between * factor_by + shift_by[:, None],
            )
        )
        by_own = turned.own * factor + slope.own * factor_by + prices * own_by
        by_between = turned.between * factor + slope.between * factor_by
        by_between += prices * several * between_by
        by_factor = turned.own * own + slope.own * own_by + prices * factor_by
        by_factor += (turned.between * between + slope.between * between_by).sum(0)
        by_bias = (1.0 if decay is None else decay * unit**2) * sizes * bias_by
        if decay is not None:
            by_bias = by_bias + unit * (turned.own + turned.between.sum(1))
        changed = np.concatenate([by_own, by_factor, by_bias, by_between.ravel()])
        return changed / question.price

    off = np.where(several > 0, -1.0 / groups.num_classes, 0.0)
    point = np.concatenate([np.ones(number), np.ones(number), np.zeros(number), off.ravel()])
    options = {"maxiter": 20000, "maxfun": 40000, "maxcor": 30, "ftol": 0, "gtol": 1e-12}
    point = minimize(objective, point, jac=True, method="L-BFGS-B", options=options).x
    own, between, factor, bias = unpacked(_newton(objective, second, point))
    scores = Scores(own * factor, np.where(several > 0, between * factor, 0.0))
    value, gap = _bounded(question, scores, shifts(bias))
    return scores, shifts(bias), value, gap / value


def _newton(
    objective: Callable[[Array], tuple[float, Array]],
    second: Callable[[Array, Array], Array],
    point: Array,
    steps: int = 20,
) -> Array:
    """Newton's method, by minimal residuals, while it makes the gradient smaller."""
    gradient = objective(point)[1]
    for _ in range(steps):
        start = point

        def product(change: Array, start: Array = start) -> Array:
            return second(start, change)

        shape = (len(point), len(point))
        operator = LinearOperator(shape, matvec=product, dtype=float)  # pyright: ignore
        moved = point + minres(operator, -gradient, rtol=1e-6, maxiter=400)[0]
        new = objective(moved)[1]
        if not np.linalg.norm(new) < 0.5 * np.linalg.norm(gradient):
            break
        point, gradient = moved, new
    return point


def _bounded(question: Program, scores: Scores, bias: Array) -> tuple[float, float]:
    """(objective, how far it can be from the minimum over all features that are not negative)."""
    groups, several = question.groups, _others(question.groups)
    sizes = groups.sizes
    shifted = Scores(scores.own + bias, scores.between + bias[:, None])
    loss, slope, _ = question.loss(shifted)
    paid = question.price * (sizes * question.column * _lengths(groups, scores)).sum()
    # The gradient by the logits of one class: `slope` is summed over classes and over outputs.
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.where(several > 0, slope.between / (several * sizes), 0.0)
    matrix = _matrix(groups, Scores(slope.own / sizes, between))
    inner = np.asarray(matrix.reduced) / question.column
    contrast = matrix.contrast / question.column
    products = GroupedMatrix(groups, contrast**2, inner.T @ inner)
    # What pairs of classes have in common counts where it is positive.
    positive = _matrix(groups, Scores(products.own, np.maximum(products.between, 0.0)))
    largest = max(
        float(np.linalg.eigvalsh(np.asarray(positive.reduced))[-1]),
        float((positive.contrast * (groups.contrasts > 0)).max()),
    )
    scale = min(1.0, question.price / math.sqrt(largest)) if largest > 0 else 1.0
    along = slope.own @ scores.own + (slope.between * scores.between).sum()
    value, gap = loss + paid, (1 - scale) * loss + paid + scale * along
    by_bias, root = slope.own + slope.between.sum(1), np.sqrt(sizes)
    if question.bias_decay:
        rest = question.bias_decay * bias * root + scale * by_bias / root
        value += question.bias_decay / 2 * (sizes * bias**2).sum()
        gap += (rest**2).sum() / (2 * question.bias_decay)
    elif question.bias_decay is not None:
        gap += np.linalg.norm(by_bias / root) * (np.sqrt((sizes * bias**2).sum()) + 1)
    return float(value), float(max(gap, 0.0))


def _others(groups: Groups) -> Array:
    """(G, G), outputs of a group (row) other than that of a class of a group (column)."""
    others = np.tile(groups.sizes[:, None], (1, len(groups)))
    np.fill_diagonal(others, groups.contrasts)
    return others


def _lengths(groups: Groups, scores: Scores) -> Array:
    """(G,), the norm of the logits of one class of each group."""
    return np.sqrt(scores.own**2 + (_others(groups) * scores.between**2).sum(0))


def _matrix(groups: Groups, scores: Scores) -> GroupedMatrix:
    """(K, K), row = output, column = class."""
    alone = groups.contrasts == 0
    contrast = scores.own - np.where(alone, 0.0, np.diagonal(scores.between))
    between = scores.between.copy()
    # A group of one has no other class: its entry is all on the diagonal.
    between[alone, alone] = 0.0
    reduced = between * np.sqrt(np.outer(groups.sizes, groups.sizes)) + np.diag(contrast)
    return GroupedMatrix(groups, contrast, reduced)
