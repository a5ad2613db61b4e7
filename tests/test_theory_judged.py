"""Every closed form against direct minimisation over all features, on both sides of each boundary.

The two share nothing but the losses: `predict` solves for singular values, `unconstrained` goes
downhill.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, normalize

from cases.predictions import (
    BALANCED_COUNTS,
    DYING_COUNTS,
    PREDICTION_CASES,
    STEP_COUNTS,
    TAIL_COUNTS,
    PredictionCase,
    with_scales,
    with_targets,
    with_weights,
)
from cases.predictions import prediction_grid as grid
from neuralcollapse import CrossEntropy
from neuralcollapse.losses import AbstractLoss
from neuralcollapse.losses.loss import logits
from neuralcollapse.theory import (
    Prediction,
    UnconstrainedOptimum,
    balance_residual,
    certificate,
    effective_feature_decay,
    equalising_class_weights,
    layer_peeled,
    max_weight_decay,
    predict,
    spherical,
    unconstrained,
)

# --- losses that the library does not have, from their definitions --------------------------------


class _Focal(AbstractLoss):
    name = "focal"

    def __init__(self, power: float):
        super().__init__()
        self.power = power

    def terms(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        logs = log_softmax(logits(features, weight, bias), 1).gather(1, labels[:, None])
        return {"focal": -((1 - logs.exp()) ** self.power * logs).mean()}


class _Scaled(AbstractLoss):
    """CDT: log sum_c exp(d_c z_c - d_y z_y). LDT: log sum_c exp(d_y (z_c - z_y))."""

    name = "scaled"
    scales: Tensor

    def __init__(self, scales: Sequence[float], by_label: bool):
        super().__init__()
        self.register_buffer("scales", torch.tensor(scales, dtype=torch.float64))
        self.by_label = by_label

    def terms(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        factor = self.scales[labels][:, None] if self.by_label else self.scales
        return {"scaled": cross_entropy(factor * logits(features, weight, bias), labels)}


class _Targets(AbstractLoss):
    """Half the squared distance to a row of a matrix."""

    name = "targets"
    targets: Tensor

    def __init__(self, targets: Tensor):
        super().__init__()
        self.register_buffer("targets", targets)

    def terms(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        residuals = logits(features, weight, bias) - self.targets[labels]
        return {"targets": residuals.square().sum(1).mean() / 2}


# Arguments of `predict` that are part of the loss for `unconstrained`.
_OF_THE_LOSS = ("class_scales", "targets", "label_smoothing", "focal_power")


def judge_loss(loss: str, arguments: dict[str, Any]) -> Any:
    """The loss that `predict` knows by a name and options."""
    if arguments.get("targets") is not None:
        return _Targets(arguments["targets"])
    if loss in ("cdt", "ldt"):
        return _Scaled(arguments["class_scales"], by_label=loss == "ldt")
    if loss == "focal":
        return _Focal(arguments["focal_power"])
    if loss == "label_smoothing":
        return CrossEntropy(arguments.get("label_smoothing", 0.1))
    return "mse" if loss == "weighted_mse" else loss


def both(
    loss: str, counts: Sequence[int], starts: int = 2, **arguments: Any
) -> tuple[Prediction, UnconstrainedOptimum]:
    """What theory says, and what is found."""
    others = {key: value for key, value in arguments.items() if key not in _OF_THE_LOSS}
    found = unconstrained(judge_loss(loss, arguments), counts, starts=starts, **others)
    return predict(counts, loss=loss, **arguments), found  # pyright: ignore[reportArgumentType]


# The objective is flat at its minimum: found to 1e-12 and better. Positions are found to the square
# root of that, over curvatures down to 1e-2.
OBJECTIVE, POSITION = 1e-9, 1e-5


def assert_close(found: Tensor, predicted: Tensor, what: str) -> None:
    """Equal up to a share of the largest entry; around zero, up to 1e-6."""
    bound = POSITION * float(predicted.abs().max()) + 1e-6
    worst = float((found - predicted).abs().max())
    assert worst <= bound, f"{what}: {worst:.1e} is above {bound:.1e}"


def assert_agree(prediction: Prediction, found: UnconstrainedOptimum, one_hot: bool = True) -> None:
    """Objective, Gram blocks, logits, bias, singular values and fates of classes agree."""
    assert found.spread < 1e-5
    assert prediction.objective == pytest.approx(found.objective, abs=OBJECTIVE)
    assert_close(found.gram_classifier, prediction.gram_classifier, "classifier")
    assert_close(found.gram_features, prediction.gram_features, "features")
    assert_close(found.logits, prediction.logits, "logits")
    if one_hot:
        assert_close(found.logits.diagonal(), prediction.logit, "logit")
        confidence = found.logits.softmax(1).diagonal()
        assert_close(confidence, prediction.confidence, "confidence")
    else:
        assert bool(prediction.logit.isnan().all())
        assert bool(prediction.confidence.isnan().all())
    norms = prediction.gram_classifier.diagonal()
    assert_close(prediction.classifier_norm_squared, norms, "classifier norms")
    norms = prediction.gram_features.diagonal()
    assert_close(prediction.feature_norm_squared, norms, "feature norms")
    if found.bias is not None:
        assert_close(found.bias - found.bias.mean(), prediction.bias - prediction.bias.mean(), "b")
    for layer, values in zip(found.layers, prediction.layers, strict=True):
        measured = torch.linalg.svdvals(layer)
        # Singular values are square roots of what the Gram matrices hold.
        assert_close(measured[: len(values)], values, "singular values") if len(values) else None
        assert float(measured[len(values) :].sum()) < 1e-3
    assert_fates(prediction, found)


def assert_fates(prediction: Prediction, found: UnconstrainedOptimum) -> None:
    """Classes are dead, merged or apart as the prediction says."""
    means = found.class_means
    for k, status in enumerate(prediction.status):
        if status in ("collapsed", "metastable"):
            # A norm is found to the square root of what its square is.
            assert float(means[k].norm()) < 1e-3, (k, status)
        elif status.startswith("merged with "):
            for other in status.removeprefix("merged with ").split(", "):
                assert float((means[k] - means[int(other)]).norm()) < 1e-3, (k, status)
        else:
            assert status == "alive", (k, status)
            assert float(means[k].norm()) > 1e-3, (k, status)


# --- grids ---------------------------------------------------------------------------------------

BALANCED, TAIL, STEP, DYING = BALANCED_COUNTS, TAIL_COUNTS, STEP_COUNTS, DYING_COUNTS
EVERY = (BALANCED, TAIL, DYING, STEP)
DECAYS = (0.005, 0.02, 0.06)
WHOLE_GRID = [
    *grid(["mse"], EVERY, DECAYS, ["none", "free"], [1, 2, 3]),
    *grid(["mse"], [BALANCED, TAIL, STEP], [0.0005, 0.005, 0.02], ["none", "free"], [6]),
    *grid(["mse"], EVERY, DECAYS, [0.01, 0.2, 1.0, 100.0]),
    *grid(["ce"], [*EVERY, (10, 4)], DECAYS, ["none", "free", 0.05]),
    *grid(
        ["label_smoothing"], EVERY, DECAYS, ["none", "free", 0.05],
        options=lambda _: {"label_smoothing": 0.2},
    ),
    *(
        case
        for power in (1.0, 2.0)
        for case in grid(
            ["focal"], [BALANCED, (3,) * 6], DECAYS, ["none", "free"],
            options=lambda _, power=power: {"focal_power": power},
        )
    ),
    *grid(["cdt", "ldt"], EVERY[:3], DECAYS, ["none", "free", 0.05], options=with_scales),
    *grid(["weighted_mse"], EVERY[:3], DECAYS, ["none", "free", 0.05], options=with_weights),
    *grid(["mse"], [TAIL, DYING], DECAYS, ["none", "free"], [1, 2, 3], options=with_targets),
]  # fmt: skip


@pytest.mark.parametrize("case", PREDICTION_CASES, ids=operator.attrgetter("name"))
def test_predictions_are_what_is_found(case: PredictionCase) -> None:
    assert_agree(
        *both(starts=case.starts, **case.arguments), one_hot="targets" not in case.arguments
    )


@pytest.mark.long
@pytest.mark.parametrize("case", WHOLE_GRID, ids=operator.attrgetter("name"))
def test_predictions_are_what_is_found_on_the_whole_grid(case: PredictionCase) -> None:
    assert_agree(
        *both(starts=case.starts, **case.arguments), one_hot="targets" not in case.arguments
    )


# --- both sides of each boundary ------------------------------------------------------------------


def decay_of_threshold(threshold: float, total: int, depth: int) -> float:
    """The equal decay of layers and features at which classes of this size are at the threshold.

    Inverted from n* = M^2 N (N Lam)^(1/M) / (M - 1)^((M-1)/M), Lam the product of all decays.
    """
    root = threshold * (depth - 1) ** ((depth - 1) / depth) / (depth**2 * total)
    return (root**depth / total) ** (1 / (depth + 1))


@pytest.mark.parametrize("side", [0.97, 1.03])
@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_a_class_lives_above_its_threshold(depth: int, side: float) -> None:
    """Squared error without bias: the class of 4 is alive at n* = 3.88, not at n* = 4.12."""
    counts = (12, 8, 4)
    decay = decay_of_threshold(4 * side, sum(counts), depth)
    prediction, found = both("mse", counts, weight_decay=decay, feature_decay=decay, depth=depth)
    assert prediction.threshold == pytest.approx(4 * side, rel=1e-9)
    status = "alive" if side < 1 else "collapsed" if depth == 1 else "metastable"
    assert prediction.status == ("alive", "alive", status)
    assert_agree(prediction, found)


@pytest.mark.parametrize("depth", [2, 3])
def test_below_the_spinodal_a_class_cannot_live(depth: int) -> None:
    counts = (24, 12, 2)
    decay = decay_of_threshold(4, sum(counts), depth)
    prediction, found = both("mse", counts, weight_decay=decay, feature_decay=decay, depth=depth)
    assert prediction.spinodal is not None
    assert 2 < prediction.spinodal < 4
    assert prediction.status == ("alive", "alive", "collapsed")
    assert_agree(prediction, found)


@pytest.mark.parametrize("side", [0.97, 1.03])
@pytest.mark.parametrize("bias", ["none", "free", 0.05])
def test_minorities_merge_beyond_their_threshold(bias: Any, side: float) -> None:
    """Cross entropy: classes of 3 merge from sqrt(weight_decay * feature_decay) = sqrt(3) / N."""
    counts = (10, 10, 3, 3, 3)
    decay = side * math.sqrt(3) / sum(counts)
    prediction, found = both(
        "ce", counts, weight_decay=2 * decay, feature_decay=decay / 2, bias=bias
    )
    merged = ("merged with 3, 4", "merged with 2, 4", "merged with 2, 3")
    assert prediction.status[2:] == (("alive",) * 3 if side < 1 else merged)
    assert_agree(prediction, found)


@pytest.mark.parametrize("side", [0.97, 1.03])
@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize("counts", [(6,) * 4, (20, 6, 3, 2)])
def test_everything_collapses_beyond_the_last_threshold(
    counts: tuple[int, ...], bias: Any, side: float
) -> None:
    """Cross entropy: the spectral norm of the gradient at zero, over the square roots of counts."""
    sizes, total = torch.tensor(counts, dtype=torch.float64), sum(counts)
    outputs = sizes / total if bias == "free" else torch.full((len(counts),), 1 / len(counts))
    gradient = (outputs[:, None] - torch.eye(len(counts))) * sizes.sqrt() / total
    decay = side * float(torch.linalg.matrix_norm(gradient.double(), 2))
    prediction, found = both("ce", counts, weight_decay=decay, feature_decay=decay, bias=bias)
    assert prediction.rank == (0 if side > 1 else 3 if len(set(counts)) == 1 else 1)
    assert_agree(prediction, found)


@pytest.mark.parametrize("side", [0.97, 1.03])
def test_features_that_are_not_negative_die_at_a_threshold_of_their_own(side: float) -> None:
    """Cross entropy: n = N^2 * weight_decay * feature_decay * K / (K - 1)."""
    counts = (20, 9, 4)
    decay = side * math.sqrt(4 * 2 / 3) / sum(counts)
    prediction, found = both(
        "ce", counts, starts=6, weight_decay=decay, feature_decay=decay, activation="relu"
    )
    assert prediction.status == ("alive", "alive", "alive" if side < 1 else "collapsed")
    assert_agree(prediction, found)


@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_axes_of_their_own_are_refused_where_sharing_them_is_better(loss: Any) -> None:
    """Imbalanced counts, free bias: the best orthogonal means lie above what is found."""
    arguments: dict[str, Any] = {
        "weight_decay": 0.005, "feature_decay": 0.004, "bias": "free", "activation": "relu",
    }  # fmt: skip
    with pytest.raises(ValueError, match="where that is not proved"):
        predict(TAIL, loss=loss, **arguments)
    found = unconstrained(loss, TAIL, starts=4, **arguments)
    directions = normalize(found.class_means)
    assert float((directions @ directions.T).triu(1).max()) > 0.1


@pytest.mark.parametrize("decay", [0.051, 0.054])
def test_with_a_bias_features_that_are_not_negative_die_where_they_gain_too_little(
    decay: float,
) -> None:
    """A class without features gains sqrt(n) |e_k - softmax(b)| / N, and pays the decay."""
    counts = (20, 9, 4)
    prediction, found = both(
        "ce", counts, starts=8, weight_decay=decay, feature_decay=decay, bias=0.5, activation="relu"
    )
    dead = prediction.status[2] == "collapsed"
    assert dead == (decay > 0.0527)
    if dead:
        outputs = prediction.bias.softmax(0)
        gain = 2 / 33 * float((torch.tensor([0.0, 0.0, 1.0]) - outputs).norm())
        assert gain < decay
    assert_agree(prediction, found)


@pytest.mark.long
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("counts", EVERY)
@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_features_that_are_not_negative(loss: str, counts: Sequence[int], decay: float) -> None:
    assert_agree(
        *both(
            loss, counts, starts=8, weight_decay=decay, feature_decay=decay / 2, activation="relu"
        )
    )


@pytest.mark.parametrize("side", [0.97, 1.03])
def test_the_bias_takes_the_constant_direction_at_its_boundary(side: float) -> None:
    """Balanced, decayed bias: the classifier's mean is zero iff b / (1 + b) <= K sqrt(n w h)."""
    decay = 0.01
    level = 4 * math.sqrt(6) * decay * side
    prediction, found = both(
        "mse", BALANCED, weight_decay=decay, feature_decay=decay, bias=level / (1 - level)
    )
    constant = float(prediction.gram_classifier.sum())
    assert constant > 1e-3 if side > 1 else constant == pytest.approx(0, abs=1e-12)
    assert_agree(prediction, found)


# --- widths, unequal decays, invariances ----------------------------------------------------------


@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize("depth", [1, 2])
def test_narrow_layers_keep_the_strongest_modes(depth: int, bias: Any) -> None:
    arguments: dict[str, Any] = {"weight_decay": 0.01, "feature_decay": 0.01, "bias": bias}
    assert_agree(*both("mse", TAIL, **arguments, depth=depth, dim=2))


@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize("depth", [1, 2])
def test_where_modes_are_tied_singular_values_are_all_there_is(depth: int, bias: Any) -> None:
    prediction, found = both(
        "mse", BALANCED, weight_decay=0.01, feature_decay=0.01, bias=bias, depth=depth, dim=2
    )
    assert prediction.objective == pytest.approx(found.objective, abs=OBJECTIVE)
    for predicted, measured in (
        (prediction.gram_classifier, found.gram_classifier),
        (prediction.gram_features, found.gram_features),
    ):
        values = torch.linalg.eigvalsh(predicted)
        assert_close(torch.linalg.eigvalsh(measured), values, "eigenvalues")
    assert any("not unique" in warning for warning in prediction.warnings)


@pytest.mark.parametrize("bias", ["none", "free"])
def test_every_layer_has_its_own_decay(bias: Any) -> None:
    decays = (0.004, 0.005, 0.003)
    prediction, found = both(
        "mse", TAIL, weight_decay=decays, feature_decay=0.002, depth=3, bias=bias
    )
    assert_agree(prediction, found)
    # Not the same, so that an exchanged order would be seen.
    assert float((prediction.layers[0] - prediction.layers[2]).abs().max()) > 0.1


def test_one_sample_per_class_and_two_classes() -> None:
    for counts in ((1, 1), (1, 1, 1), (3, 1)):
        for loss in ("mse", "ce"):
            assert_agree(*both(loss, counts, weight_decay=0.02, feature_decay=0.03))


# --- deep cross entropy: nothing is proved, so the lower objective is nearer the truth ------------

DEEP = [(6, 2, 2), (4, 2, 3), (4, 6, 2), (3, 2, 3)]  # classes, samples each, depth


def objective_of(prediction: Prediction, decay: float) -> float:
    """The least objective of any layers and features with these logits.

    Loss plus (M + 1) / 2 Lam^(1/(M+1)) sum_i s_i^(2/(M+1)), s the singular values of the logits
    times the square root of the counts, and Lam the product of all decays.
    """
    depth, counts = prediction.depth, prediction.counts.double()
    scores, labels = prediction.logits, torch.arange(prediction.num_classes)
    losses = cross_entropy(scores, labels, reduction="none")
    values = torch.linalg.svdvals(scores * counts.sqrt()[:, None])
    values = values[values > 1e-9 * values.max()]
    penalty = (depth + 1) / 2 * decay * values.pow(2 / (depth + 1)).sum()
    return float((counts * losses).sum() / counts.sum() + penalty)


@pytest.mark.parametrize(
    "classes, each, depth",
    [DEEP[0], *(pytest.param(*case, marks=pytest.mark.long) for case in DEEP[1:])],
)
def test_deep_cross_entropy_is_as_low_as_what_is_found(classes: int, each: int, depth: int) -> None:
    decay = 1e-3
    arguments: dict[str, Any] = {"weight_decay": decay, "feature_decay": decay, "depth": depth}
    prediction, found = both("ce", (each,) * classes, starts=8, **arguments)
    assert prediction.objective <= found.objective + OBJECTIVE
    # It is attained, too.
    assert objective_of(prediction, decay) == pytest.approx(prediction.objective, abs=1e-8)
    assert prediction.warnings
    simplex = max(prediction.branches, key=lambda branch: branch.rank)
    assert simplex.rank == classes - 1
    if (depth == 3 and classes > 3) or classes == 6:
        # Few large singular values beat many small ones: the simplex is not the optimum.
        assert found.objective < simplex.objective - 1e-3
        assert prediction.kind != "simplex ETF"
        assert prediction.rank < classes - 1
    else:
        assert prediction.kind == "simplex ETF"
        assert_agree(prediction, found)


# --- constraints instead of decay -----------------------------------------------------------------


def least(closure: Callable[[Tensor], Tensor], size: int, starts: int = 3) -> float:
    """The least value of a function of a vector, by L-BFGS from random starts."""
    values: list[float] = []
    generator = torch.Generator().manual_seed(0)
    for _ in range(starts):
        point = torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()
        optimiser = torch.optim.LBFGS(
            [point], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-14,
            line_search_fn="strong_wolfe", history_size=30,
        )  # fmt: skip

        def step(point: Tensor = point, optimiser: torch.optim.Optimizer = optimiser) -> Tensor:
            optimiser.zero_grad()
            value = closure(point)
            value.backward()
            return value

        optimiser.step(step)  # pyright: ignore[reportArgumentType]
        values.append(float(closure(point.detach())))
    return min(values)


def test_cosines_over_a_temperature() -> None:
    labels = torch.arange(4).repeat_interleave(3)

    def loss(point: Tensor) -> Tensor:
        features, weight = normalize(point[:48].view(12, 4)), normalize(point[48:].view(4, 4))
        return cross_entropy(features @ weight.T / 0.4, labels)

    prediction = spherical((3,) * 4, temperature=0.4)
    assert least(loss, 64, starts=1) == pytest.approx(prediction.objective, abs=OBJECTIVE)


@pytest.mark.parametrize("feature_energy", [1.0, 6.0])
def test_bounded_energies(feature_energy: float) -> None:
    counts = torch.tensor([8, 8, 2, 2])
    labels = torch.arange(4).repeat_interleave(counts)
    shares = (1 / counts.double())[labels][:, None] / 4

    def loss(point: Tensor) -> Tensor:
        # Both bounds are reached at the optimum: the loss falls with the size of the logits.
        features, weight = point[:80].view(20, 4), point[80:].view(4, 4)
        features = features * (feature_energy / (shares * features.square()).sum()).sqrt()
        weight = weight * (1.5 * 4 / weight.square().sum()).sqrt()
        return cross_entropy(features @ weight.T, labels)

    prediction = layer_peeled(counts, weight_energy=1.5, feature_energy=feature_energy)
    assert least(loss, 96) == pytest.approx(prediction.objective, abs=1e-8)


# --- advice and identities ------------------------------------------------------------------------


@pytest.mark.parametrize("depth, min_logit", [(1, 0.8), (2, 0.9), (3, 0.5)])
def test_the_largest_safe_decay_is_safe_and_the_largest(depth: int, min_logit: float) -> None:
    decay = max_weight_decay(TAIL, depth, min_logit)
    for factor in (0.99, 1.01):
        found = unconstrained(
            "mse", TAIL, depth=depth, weight_decay=factor * decay, feature_decay=factor * decay,
            starts=2,
        )  # fmt: skip
        fitted = float(found.logits.diagonal().min())
        assert fitted > min_logit if factor < 1 else fitted < min_logit


def test_equalising_weights_equalise() -> None:
    found = unconstrained(
        "mse", TAIL, weight_decay=0.02, feature_decay=0.02, starts=2,
        class_weights=equalising_class_weights(TAIL).tolist(),
    )  # fmt: skip
    fitted = found.logits.diagonal()
    assert float(fitted.max() - fitted.min()) < 1e-6
    assert float(fitted.min()) > 0.3


@pytest.mark.parametrize("bias", ["none", "free", 0.05])
@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_what_is_found_passes_the_tests_of_theory(loss: Any, bias: Any) -> None:
    found = unconstrained(loss, TAIL, weight_decay=0.02, feature_decay=0.01, bias=bias, starts=1)
    decays: dict[str, Any] = {"weight_decay": 0.02, "feature_decay": 0.01}
    residual = balance_residual(found.weight, found.features, **decays)
    assert float(residual) < 1e-6
    effective = effective_feature_decay(found.weight, found.features, weight_decay=0.02)
    assert effective == pytest.approx(0.01, rel=1e-6)
    gap = certificate(found.logits, TAIL, **decays, loss=loss, bias=bias, bias_values=found.bias)
    assert gap < 1e-6


def test_a_deep_optimum_is_balanced_next_to_the_features() -> None:
    found = unconstrained("mse", TAIL, weight_decay=(0.02, 0.01), feature_decay=0.01, depth=2)
    residual = balance_residual(
        found.layers[0], found.features, weight_decay=0.02, feature_decay=0.01
    )
    assert float(residual) < 1e-6
