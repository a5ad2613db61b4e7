"""The numeric judge against slow loops, known exact numbers and the conditions of a minimum."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reference.losses
from neuralcollapse import CrossEntropy, SquaredError
from neuralcollapse.losses import AbstractLoss
from neuralcollapse.losses.loss import logits
from neuralcollapse.theory import UnconstrainedOptimum, unconstrained


@dataclass(frozen=True)
class Case:
    """A problem whose exact optimum is known, to about ten digits."""

    name: str
    loss: Any
    counts: Sequence[int]
    objective: float
    weight: Sequence[float] | None = None  # squared norms of the classifier's rows
    means: Sequence[float] | None = None  # squared norms of the class means
    logits: Sequence[float] | None = None  # of the true class, bias included
    arguments: dict[str, Any] = field(default_factory=dict)

    def solve(self, **changes: Any) -> UnconstrainedOptimum:
        # Where one stationary point is the minimum, or modes are mended, two starts will do.
        arguments = self.arguments
        hard = "activation" in arguments or (self.loss == "ce" and "depth" in arguments)
        starts = {} if hard else {"starts": 2}
        return unconstrained(self.loss, self.counts, **{**starts, **arguments, **changes})


def case(name: str, loss: Any, counts: Sequence[int], objective: float, **rest: Any) -> Case:
    known = {key: rest.pop(key) for key in ("weight", "means", "logits") if key in rest}
    return Case(name, loss, counts, objective, **known, arguments=rest)


LONG_TAIL = (20, 10, 5, 3)
DYING = (30, 12, 5, 4, 2)

CASES = (
    case(
        "balanced", "mse", (6,) * 4, 0.0600477335393, weight_decay=0.01, feature_decay=0.004,
        weight=[1.45319333848] * 4, means=[0.605497224368] * 4, logits=[0.938032266461] * 4,
    ),
    case(
        "balanced, free bias", "mse", (6,) * 4, 0.0450358001545, weight_decay=0.01,
        feature_decay=0.004, bias="free", weight=[1.08989500386] * 4, means=[0.454122918276] * 4,
        logits=[0.953524199846] * 4,
    ),
    case(
        "balanced, two layers", "mse", (6,) * 4, 0.0684933406079, depth=2,
        weight_decay=(0.01, 0.013), feature_decay=0.002, weight=[0.970158712751] * 4,
        means=[0.935862023371] * 4, logits=[0.952856073028] * 4,
    ),
    case(
        "balanced, two layers, free bias", "mse", (6,) * 4, 0.0513700054559, depth=2,
        weight_decay=(0.01, 0.013), feature_decay=0.002, bias="free",
        weight=[0.727619034563] * 4,
    ),
    case(
        "balanced, three layers", "mse", (6,) * 4, 0.0489737105248, depth=3,
        weight_decay=(0.006, 0.008, 0.005), feature_decay=0.001, weight=[0.937774386994] * 4,
        means=[1.01379921937] * 4, logits=[0.975046122745] * 4,
    ),
    case(
        "long tail", "mse", LONG_TAIL, 0.0782422933914, weight_decay=0.01, feature_decay=0.005,
        weight=[2.97227766017, 2.0460679775, 1.39113883008, 1.03474487139],
        means=[0.297227766017, 0.4092135955, 0.556455532034, 0.689829914261],
        logits=[0.939916724457, 0.915029416855, 0.879833448914, 0.844865649624],
    ),
    case(
        "long tail, free bias", "mse", LONG_TAIL, 0.054789817490, weight_decay=0.01,
        feature_decay=0.005, bias="free",
    ),
    case(
        "long tail, two layers", "mse", LONG_TAIL, 0.049347037018, depth=2,
        weight_decay=(0.004, 0.006), feature_decay=0.003,
        weight=[5.16073595786, 3.19426769664, 1.95512320742, 1.34589323843],
        means=[0.185485596168, 0.291856937403, 0.456668890399, 0.631492820037],
    ),
    case(
        "long tail, two layers, free bias", "mse", LONG_TAIL, 0.0355890208277, depth=2,
        weight_decay=(0.004, 0.006), feature_decay=0.003, bias="free",
    ),
    case(
        "dying classes", "mse", DYING, 0.376619542589, weight_decay=0.02,
        feature_decay=0.0800996796012816,
        weight=[6.71599060247, 2.68723512108, 0.229638198351, 0, 0],
        means=[0.055896941044, 0.0559143959639, 0.0114676213186, 0, 0],
    ),
    case(
        "dying classes, two layers", "mse", DYING, 0.257588778179, depth=2, weight_decay=0.01,
        feature_decay=0.08501145240702057,
        weight=[34.0798643717, 15.551780914, 5.46076498464, 0, 0],
        means=[0.0228902343, 0.038657287978, 0.054976780394, 0, 0],
    ),
    case(
        "dying classes, three layers", "mse", DYING, 0.230540461984, depth=3, weight_decay=0.01,
        feature_decay=0.0633674930590416,
        means=[0.018857280182, 0.035998753491, 0.0626167789598, 0, 0],
    ),
    case(
        "bias hardly decayed", "mse", (6,) * 4, 0.0600477335393 - 0.25 * 0.0600477335393
        + 0.05 / 1.05 / 8, weight_decay=0.01, feature_decay=0.004, bias=0.05,
    ),
    case(
        "class weights that equalise too much", "mse", LONG_TAIL, 0.148884586783,
        weight_decay=0.01, feature_decay=0.02, class_weights=[38 / 4 / n for n in LONG_TAIL],
        logits=[0.747017787, 0.821114562, 0.873508894, 0.902020410],
    ),
    case(
        "class weights that kill", "mse", LONG_TAIL, 0.12911775953, weight_decay=0.01,
        feature_decay=0.02, class_weights=[1, 0.3, 2, 0.2],
        logits=[0.879833449, 0.433529446, 0.879833449, 0],
    ),
    case(
        "cross entropy", "ce", (6,) * 4, 0.239063583079, weight_decay=0.01, feature_decay=0.004,
        weight=[0.75 * 4.78682772079 / 0.75] * 4, means=[1.99451155033] * 4,
        logits=[0.75 * 4.11984534306] * 4,
    ),
    *(
        case(
            f"cross entropy, two sizes, {share:g} of the threshold", "ce", (20,) * 3 + (4,) * 3,
            objective, weight_decay=share / 36, feature_decay=share / 36,
            logits=[large] * 3 + [small] * 3,
        )
        for share, objective, large, small in (
            (0.3, 0.607454043895, 3.04754098, 2.33290162),
            (0.9, 1.288641945966, 1.87801672, 0.602026546),
            (1.2, 1.490335855768, 1.47072402, 0.14743997),
        )
    ),
    case(
        "features that are not negative", "ce", (12, 8, 5, 3), 0.170321122302, activation="relu",
        weight_decay=0.004, feature_decay=0.003,
        weight=[11.1988244052, 9.38065743898, 7.75079534848, 6.42549238526],
        means=[1.38375171229, 1.62108582687, 1.94179248679, 2.35278550251],
    ),
    case(
        "features that are not negative, steeper", "ce", (20, 6, 3, 2), 0.632915204903,
        activation="relu", weight_decay=0.02, feature_decay=0.02,
    ),
    case(
        "cross entropy, two layers, six classes", "ce", (2,) * 6, 0.004335910590, depth=2,
        weight_decay=1e-4, feature_decay=1e-4,
    ),
    case(
        "cross entropy, three layers, four classes", "ce", (2,) * 4, 0.002216781, depth=3,
        weight_decay=1e-4, feature_decay=1e-4,
    ),
)  # fmt: skip

cases = {"argvalues": CASES, "ids": [c.name for c in CASES]}


@pytest.fixture(scope="module", params=CASES, ids=[c.name for c in CASES])
def solved(request: pytest.FixtureRequest) -> tuple[Case, UnconstrainedOptimum]:
    """Each problem is solved once."""
    return request.param, request.param.solve()


def test_the_exact_optimum_is_found(solved: tuple[Case, UnconstrainedOptimum]) -> None:
    case, best = solved
    # The least number of digits among the known values is nine.
    assert best.objective == pytest.approx(case.objective, abs=2e-9)
    for known, found in (
        (case.weight, best.gram_classifier),
        (case.means, best.gram_features),
        (case.logits, best.logits),
    ):
        if known is not None:
            assert found is not None
            # A gradient of 1e-9 over a curvature of 1e-2 leaves seven digits.
            assert found.diagonal().tolist() == pytest.approx(known, abs=1e-6, rel=1e-6)


def test_the_gradient_is_tiny_and_the_features_have_collapsed(
    solved: tuple[Case, UnconstrainedOptimum],
) -> None:
    _, best = solved
    # Sums of hundreds of terms of size one, rounded at 1e-16 and scaled by up to 30.
    assert best.gradient_norm < 1e-7
    assert best.spread < 1e-6
    assert best.objective <= min(best.objectives) + 1e-12


def slow_objective(case: Case, best: UnconstrainedOptimum) -> float:
    """The objective written from its definition, sample by sample and entry by entry."""
    arguments, number = case.arguments, len(best.labels)
    depth = arguments.get("depth", 1)
    decays = arguments["weight_decay"]
    decays = [decays] * depth if isinstance(decays, float) else list(decays)
    factors = arguments.get("class_weights") or [1.0] * len(case.counts)
    value = 0.0
    for feature, label in zip(best.features.numpy(), best.labels.tolist(), strict=True):
        vector = feature
        for layer in best.layers:
            vector = np.array([sum(a * b for a, b in zip(row, vector)) for row in layer.numpy()])  # noqa: B905
        if best.bias is not None:
            vector = vector + best.bias.numpy()
        if case.loss == "mse":
            loss = sum((z - (k == label)) ** 2 for k, z in enumerate(vector)) / 2
        else:
            loss = math.log(sum(math.exp(z - vector[label]) for z in vector))
        value += factors[label] * loss / number
        value += arguments["feature_decay"] / 2 * sum(x * x for x in feature)
    for layer, decay in zip(best.layers, decays, strict=True):
        value += decay / 2 * sum(x * x for x in layer.flatten().tolist())
    bias = arguments.get("bias", "none")
    if isinstance(bias, float) and best.bias is not None:
        value += bias / 2 * sum(x * x for x in best.bias.tolist())
    return value


def test_the_objective_is_the_definition(solved: tuple[Case, UnconstrainedOptimum]) -> None:
    case, best = solved
    assert slow_objective(case, best) == pytest.approx(best.objective, rel=1e-12)


def test_no_step_nearby_is_lower(solved: tuple[Case, UnconstrainedOptimum]) -> None:
    case, best = solved
    rng = np.random.default_rng(0)

    def moved(tensor: Tensor, size: float) -> Tensor:
        return tensor + size * torch.from_numpy(rng.standard_normal(tuple(tensor.shape)))

    for size in (1e-4, 1e-2):
        features = moved(best.features, size)
        if case.arguments.get("activation") == "relu":
            features = features.clamp(min=0)
        other = UnconstrainedOptimum(
            0.0,
            tuple(moved(layer, size) for layer in best.layers),
            features,
            best.labels,
            None if best.bias is None else moved(best.bias, size),
            0.0,
            (),
        )
        assert slow_objective(case, other) > best.objective


def test_layers_and_features_are_balanced(solved: tuple[Case, UnconstrainedOptimum]) -> None:
    """decay_{j+1} W_{j+1}^T W_{j+1} = decay_j W_j W_j^T, a condition of every stationary point."""
    case, best = solved
    depth, decays = len(best.layers), case.arguments["weight_decay"]
    decays = [decays] * depth if isinstance(decays, float) else list(decays)
    if case.arguments.get("activation") == "relu":
        return  # only up to what the bound holds back
    products = [case.arguments["feature_decay"] * best.features.T @ best.features]
    for layer, decay in zip(best.layers, decays, strict=True):
        left = decay * layer.T @ layer
        torch.testing.assert_close(left, products[-1], rtol=0, atol=1e-7)
        products.append(decay * layer @ layer.T)


@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize("counts", [(9, 6, 4, 2), (12, 12, 2, 2)])
@pytest.mark.parametrize("name", ["mse", "ce"])
@pytest.mark.parametrize("decay", [0.01, 0.06])
def test_one_layer_and_a_convex_loss_carry_a_certificate(
    name: Any, counts: tuple[int, ...], bias: Any, decay: float
) -> None:
    """The spectral norm of the logits' gradient is sqrt(weight_decay * feature_decay) at most."""
    best = unconstrained(
        name, counts, weight_decay=decay, feature_decay=2 * decay, bias=bias, starts=1
    )
    scores = best.features @ best.weight.T
    if best.bias is not None:
        scores = scores + best.bias
    onehot = torch.eye(len(counts), dtype=torch.float64)[best.labels]
    outputs = scores if name == "mse" else scores.softmax(1)
    gradient = (outputs - onehot) / sum(counts)
    bound = math.sqrt(2) * decay
    assert float(torch.linalg.matrix_norm(gradient, 2)) <= bound * (1 + 1e-6)
    if bias == "free":
        # As far as the gradient goes to zero.
        assert float(gradient.sum(0).abs().max()) < 1e-7


@pytest.mark.parametrize("scale", [0.98, 1.02])
def test_a_class_dies_at_its_threshold(scale: float) -> None:
    """Squared error, one layer: zero from n = N^2 * weight_decay * feature_decay on."""
    counts = (12, 8, 4)
    decay = scale * math.sqrt(4) / sum(counts)
    best = unconstrained("mse", counts, weight_decay=decay, feature_decay=decay, starts=2)
    weight = best.gram_classifier
    if scale < 1:
        assert float(weight[2, 2]) == pytest.approx(2 * (1 - scale), rel=1e-6)
    else:
        assert float(weight[2, 2]) < 1e-10
    assert float(weight[1, 1]) > 0.5


@pytest.mark.parametrize("scale", [0.97, 1.03])
@pytest.mark.parametrize("bias", ["none", "free"])
def test_minorities_merge_at_their_threshold(scale: float, bias: Any) -> None:
    """Cross entropy, two sizes: the small classes share one vector from sqrt(n_B) / N on."""
    counts = (10, 10, 3, 3, 3)
    decay = scale * math.sqrt(3) / sum(counts)
    best = unconstrained("ce", counts, weight_decay=decay, feature_decay=decay, bias=bias, starts=2)
    small = best.class_means[2:]
    spread = float((small - small.mean(0)).norm())
    assert spread > 0.1 if scale < 1 else spread < 1e-5


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_narrow_layers_keep_the_largest_classes(depth: int) -> None:
    """Width R below K: the R largest classes as they would be, the rest zero."""
    arguments: dict[str, Any] = {
        "weight_decay": 0.004, "feature_decay": 0.003, "depth": depth, "starts": 2
    }  # fmt: skip
    wide = unconstrained("mse", LONG_TAIL, **arguments)
    narrow = unconstrained("mse", LONG_TAIL, **arguments, dim=2)
    expected = wide.gram_classifier.diagonal() * torch.tensor([1, 1, 0, 0])
    torch.testing.assert_close(narrow.gram_classifier, torch.diag(expected), rtol=1e-6, atol=1e-6)
    assert narrow.objective > wide.objective
    if depth == 3:
        between = unconstrained("mse", LONG_TAIL, **arguments, widths=(4, 2))
        assert between.objective == pytest.approx(narrow.objective, abs=1e-12)


class _Doubled(AbstractLoss):
    """Twice the squared error of everything: another loss than the library's."""

    name = "doubled"

    def terms(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        targets = torch.eye(len(weight), dtype=features.dtype)[labels]
        return {"doubled": (logits(features, weight, bias) - targets).square().sum(1).mean()}


def test_any_loss_with_the_same_door_is_taken() -> None:
    doubled = unconstrained(_Doubled(), LONG_TAIL, weight_decay=0.02, feature_decay=0.01)
    plain = unconstrained("mse", LONG_TAIL, weight_decay=0.01, feature_decay=0.005)
    assert doubled.objective == pytest.approx(2 * plain.objective, rel=1e-10)
    torch.testing.assert_close(doubled.logits, plain.logits, rtol=0, atol=1e-7)


def test_names_are_the_librarys_losses() -> None:
    for name, loss in (("mse", SquaredError()), ("ce", CrossEntropy())):
        arguments: dict[str, Any] = {"weight_decay": 0.01, "feature_decay": 0.01, "starts": 1}
        by_name = unconstrained(name, (3, 2), **arguments)  # pyright: ignore[reportArgumentType]
        assert by_name.objective == unconstrained(loss, (3, 2), **arguments).objective


def test_the_data_loss_is_that_of_the_reference_loops() -> None:
    """With decays that cost nothing to subtract: smoothing, adjustment and weights alike."""
    counts = (4, 2)
    for loss, slow in (
        (CrossEntropy(0.1), lambda *a: reference.losses.cross_entropy(*a, smoothing=0.1)),
        (
            CrossEntropy(class_counts=counts),
            lambda *a: reference.losses.cross_entropy(*a, counts=counts),
        ),
    ):
        best = unconstrained(
            loss, counts, weight_decay=0.02, feature_decay=0.01, bias=0.5, starts=1
        )
        assert best.bias is not None
        operands = (best.features, best.labels, best.weight, best.bias)
        value = slow(*(operand.numpy() for operand in operands))
        value += 0.01 * float(best.weight.square().sum()) + 0.25 * float(best.bias.square().sum())
        value += 0.005 * float(best.features.square().sum())
        # The prior is kept in float32 by the loss.
        assert value == pytest.approx(best.objective, rel=1e-7)


def test_a_loss_that_is_given_stays_as_it_is() -> None:
    loss = CrossEntropy(class_counts=(4, 2))
    unconstrained(loss, (4, 2), weight_decay=0.02, feature_decay=0.01, starts=1)
    assert loss.log_prior is not None
    assert loss.log_prior.dtype == torch.float32


def test_classes_may_come_in_any_order() -> None:
    arguments: dict[str, Any] = {
        "weight_decay": 0.01,
        "feature_decay": 0.005,
        "bias": "free",
        "starts": 1,
    }
    first = unconstrained("mse", (9, 5, 2), **arguments)
    other = unconstrained("mse", (2, 9, 5), **arguments)
    order = torch.tensor([2, 0, 1])
    assert first.objective == pytest.approx(other.objective, abs=1e-12)
    torch.testing.assert_close(first.logits[order][:, order], other.logits, rtol=0, atol=1e-6)


def test_more_samples_and_less_decay_are_the_same() -> None:
    """Counts times t and feature decay over t: means, weights and objective stay."""
    once = unconstrained("ce", (3, 2, 1), weight_decay=0.02, feature_decay=0.03, starts=1)
    thrice = unconstrained("ce", (9, 6, 3), weight_decay=0.02, feature_decay=0.01, starts=1)
    assert once.objective == pytest.approx(thrice.objective, abs=1e-12)
    torch.testing.assert_close(once.gram_features, thrice.gram_features, rtol=0, atol=1e-6)
    torch.testing.assert_close(once.gram_classifier, thrice.gram_classifier, rtol=0, atol=1e-6)


def test_what_the_optimum_says_of_itself() -> None:
    arguments: dict[str, Any] = {
        "weight_decay": (0.01, 0.02), "feature_decay": 0.01, "depth": 2, "dim": 5, "widths": (4,),
    }  # fmt: skip
    best = unconstrained("mse", (4, 2, 1), **arguments, starts=2)
    assert [tuple(layer.shape) for layer in best.layers] == [(4, 5), (3, 4)]
    assert best.features.shape == (7, 5)
    assert best.labels.tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert best.bias is None
    assert len(best.objectives) == 2
    torch.testing.assert_close(best.weight, best.layers[1] @ best.layers[0])
    torch.testing.assert_close(best.class_means[0], best.features[:4].mean(0))
    torch.testing.assert_close(best.logits, best.class_means @ best.weight.T)
    torch.testing.assert_close(best.gram_classifier, best.weight @ best.weight.T)
    torch.testing.assert_close(best.gram_features, best.class_means @ best.class_means.T)
    centred = best.class_means - best.class_means.mean(0)
    torch.testing.assert_close(best.geometry.means, centred @ centred.T)
    assert best.geometry.cross is not None
    torch.testing.assert_close(best.geometry.cross, best.weight @ centred.T)
    assert all(t.dtype == torch.float64 for t in (best.features, *best.layers))
    with pytest.raises(AttributeError, match="cannot assign"):
        best.objective = 0.0  # pyright: ignore[reportAttributeAccessIssue]


def test_the_generator_decides_and_nothing_else() -> None:
    arguments: dict[str, Any] = {"weight_decay": 0.01, "feature_decay": 0.01, "starts": 1}

    def features(seed: int | None) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return unconstrained("mse", (3, 2), **arguments, generator=generator).features

    before = torch.get_rng_state()
    assert torch.equal(features(None), features(None))
    assert torch.equal(features(3), features(3))
    assert not torch.equal(features(3), features(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_deep_squared_error_does_not_depend_on_luck() -> None:
    """Single starts end in different places; adding and dropping directions mends each."""
    for seed, starts in itertools.product(range(3), (1, 2)):
        best = unconstrained(
            "mse", DYING, depth=2, weight_decay=0.01, feature_decay=0.08501145240702057,
            generator=torch.Generator().manual_seed(seed), starts=starts,
        )  # fmt: skip
        assert best.objective == pytest.approx(0.257588778179, abs=1e-11)


def test_too_few_iterations_are_told() -> None:
    with pytest.warns(RuntimeWarning, match="not stationary.*raise max_iterations"):
        unconstrained("ce", (5, 3), weight_decay=1e-3, feature_decay=1e-3, max_iterations=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unconstrained("ce", (5, 3), weight_decay=1e-3, feature_decay=1e-3)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"counts": (5, 0)}, ValueError, r"counts\[1\] must be at least 1, got 0; leave out"),
    ({"counts": (5, -2)}, ValueError, r"counts\[1\] must be at least 1, got -2"),
    ({"counts": (5, 2.5)}, TypeError, r"counts\[1\] must be an integer, got 2.5"),
    ({"counts": (5,)}, ValueError, "counts must name at least two classes, got 1"),
    ({"counts": 5}, TypeError, "counts must be a sequence of samples per class, got int"),
    ({"weight_decay": 0}, ValueError, "weight_decay must be above 0, got 0; without decay"),
    ({"weight_decay": -1.0}, ValueError, "weight_decay must be .*at least 0, got -1"),
    ({"weight_decay": math.nan}, ValueError, "weight_decay must be finite"),
    ({"weight_decay": (0.1, 0.1)}, ValueError, r"one number or one per layer \(depth=1\), got 2"),
    ({"weight_decay": "0.1"}, TypeError, "weight_decay must be a number"),
    ({"feature_decay": 0.0}, ValueError, "feature_decay must be above 0, got 0; without decay"),
    ({"depth": 0}, ValueError, "depth must be at least 1, got 0"),
    ({"depth": 1.5}, TypeError, "depth must be an integer"),
    ({"bias": "some"}, ValueError, "bias must be one of none, free, got 'some'"),
    ({"bias": -0.5}, ValueError, "bias must be finite and at least 0, got -0.5"),
    ({"dim": 0}, ValueError, "dim must be at least 1, got 0"),
    (
        {"widths": (3,)},
        ValueError,
        "widths must name the 0 widths between the 1 linear layers, got 1",
    ),
    ({"depth": 2, "widths": (0,)}, ValueError, r"widths\[0\] must be at least 1, got 0"),
    ({"activation": "tanh"}, ValueError, "activation must be one of linear, relu, got 'tanh'"),
    (
        {"class_weights": (1.0,)},
        ValueError,
        r"class_weights must have one entry per class \(2\), got 1",
    ),
    ({"class_weights": (1.0, 0.0)}, ValueError, r"class_weights\[1\] must be .*above 0, got 0"),
    ({"loss": "hinge"}, ValueError, "loss must be one of mse, ce, got 'hinge'"),
    ({"loss": torch.nn.MSELoss()}, TypeError, "loss must be an AbstractLoss or .*got MSELoss"),
    ({"starts": 0}, ValueError, "starts must be at least 1, got 0"),
    ({"max_iterations": 0}, ValueError, "max_iterations must be at least 1, got 0"),
]


@pytest.mark.parametrize("changes, error, message", REFUSED)
def test_bad_input_is_refused(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {"weight_decay": 0.1, "feature_decay": 0.1, "counts": (5, 3)}
    arguments = {"loss": "mse", **arguments, **changes}
    loss, counts = arguments.pop("loss"), arguments.pop("counts")
    with pytest.raises(error, match=message):
        unconstrained(loss, counts, **arguments)


class _Unbounded(AbstractLoss):
    """Falls faster than any decay rises."""

    name = "unbounded"

    def terms(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        return {"unbounded": -logits(features, weight, bias).square().sum().exp()}


def test_a_loss_without_a_minimum_is_refused() -> None:
    with pytest.raises(ValueError, match="loss must be bounded below"):
        unconstrained(_Unbounded(), (2, 1), weight_decay=0.1, feature_decay=0.1, starts=1)
