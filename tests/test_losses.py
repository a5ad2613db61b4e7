"""Losses against slow loops, their gradients, and the geometry that minimising them leads to."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reference.metrics
from cases.losses import LossCase, loss_cases
from cases.worlds import simplex_vertices
from neuralcollapse import CrossEntropy, DotRegression, SquaredError, simplex_etf
from neuralcollapse.losses import AbstractLoss

# The classes of a batch; the second batch lacks classes 1 and 3.
BATCHES = {"all classes": [0, 3, 1, 2, 2, 0, 1, 3, 3], "classes missing": [0, 2, 2, 0, 2]}


def operands(
    case: LossCase, labels: list[int], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """(features, labels, weight, bias) of four classes in six dimensions."""
    generator = torch.Generator().manual_seed(len(labels))
    features = torch.randn(len(labels), 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(case.rows, 6, generator=generator, dtype=torch.float64)
    bias = torch.randn(case.rows, generator=generator, dtype=torch.float64)
    return (
        features.to(dtype),
        torch.tensor(labels),
        weight.to(dtype),
        bias.to(dtype) if case.takes_bias else None,
    )


def by_reference(case: LossCase, given: tuple[Tensor, Tensor, Tensor, Tensor | None]) -> float:
    arrays = [None if t is None else t.detach().double().numpy() for t in given]
    arrays[1] = given[1].numpy()
    return case.reference(*arrays)


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("case", **loss_cases)
def test_a_loss_equals_the_slow_loops(case: LossCase, with_bias: bool, labels: list[int]) -> None:
    features, indices, weight, bias = operands(case, labels)
    given = (features, indices, weight, bias if with_bias else None)
    loss = case.make()(*given)
    assert loss.shape == ()
    assert loss.dtype == torch.float64
    # A prior of logit adjustment and the targets of soft labels are kept in float32.
    tolerance = 1e-7 if {"class_counts", "sharpness"} & {*case.arguments} else 1e-12
    assert float(loss) == pytest.approx(by_reference(case, given), rel=tolerance)


@pytest.mark.parametrize("case", **loss_cases)
def test_the_terms_add_up_to_the_loss(case: LossCase) -> None:
    given = operands(case, BATCHES["all classes"])
    loss = case.make()
    terms = loss.terms(*given)
    assert terms
    assert all(isinstance(name, str) and term.shape == () for name, term in terms.items())
    assert float(sum(terms.values())) == pytest.approx(float(loss(*given)), rel=1e-14)


@pytest.mark.parametrize("case", **loss_cases)
def test_a_loss_is_a_mean(case: LossCase) -> None:
    """However the batch is cut or ordered; a batch repeated as a whole does not change it."""
    features, labels, weight, bias = operands(case, BATCHES["all classes"])
    loss = case.make()
    whole = float(loss(features, labels, weight, bias))
    if case.mean_over == "samples":
        parts = torch.arange(9).split(2)
    else:
        parts = [(labels == k).nonzero().squeeze(1) for k in range(4)]
    shares = [1 if case.mean_over == "classes" else len(part) for part in parts]
    values = [float(loss(features[part], labels[part], weight, bias)) for part in parts]
    mean = sum(n * value for n, value in zip(shares, values, strict=True)) / sum(shares)
    assert mean == pytest.approx(whole, rel=1e-12)
    order = torch.arange(9).flip(0).repeat(3)
    again = loss(features[order], labels[order], weight, bias)
    assert float(again) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("case", **loss_cases)
def test_a_mean_over_classes_is_none_over_samples(case: LossCase) -> None:
    """A class that has more samples weighs more, unless the mean is over classes."""
    features, labels, weight, bias = operands(case, BATCHES["all classes"])
    loss = case.make()
    longer = torch.cat([torch.arange(9), (labels == 1).nonzero().squeeze(1)])
    once = float(loss(features, labels, weight, bias))
    twice = float(loss(features[longer], labels[longer], weight, bias))
    assert (twice == pytest.approx(once, rel=1e-12)) == (case.mean_over == "classes")


@pytest.mark.parametrize("case", **loss_cases)
def test_a_loss_owns_nothing_and_changes_nothing(case: LossCase) -> None:
    given = operands(case, BATCHES["all classes"])
    copies = [None if t is None else t.clone() for t in given]
    loss = case.make()
    loss(*given)
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}
    for tensor, copy in zip(given, copies, strict=True):
        assert (tensor is None) == (copy is None)
        if tensor is not None and copy is not None:
            assert torch.equal(tensor, copy)
    assert isinstance(loss.name, str)
    assert loss.name


def test_known_values() -> None:
    labels, eye = torch.arange(3), torch.eye(3, dtype=torch.float64)
    # Logits of 0: log K. One logit of t: log(1 + (K-1) exp(-t)).
    assert float(CrossEntropy()(0 * eye, labels, eye)) == pytest.approx(math.log(3))
    expected = math.log(1 + 2 * math.exp(-5))
    assert float(CrossEntropy()(5 * eye, labels, eye)) == pytest.approx(expected, rel=1e-12)
    # Two residuals of 1 beside the true class and one of -1 on it, squared and halved.
    assert float(SquaredError()(0 * eye, labels, eye)) == 0.5
    assert float(SquaredError()(0 * eye, labels, eye, torch.ones(3).double())) == 1.0
    assert float(SquaredError(true_weight=4, target=3)(0 * eye, labels, eye)) == 18.0
    # Cosine 0 costs half a norm, cosine -1 two norms.
    assert float(DotRegression()(eye.roll(1, 0), labels, 7 * eye)) == 3.5
    assert float(DotRegression()(-eye, labels, 7 * eye)) == 14.0


def test_dot_regression_sees_directions_only() -> None:
    case = LossCase("", DotRegression, {}, lambda: 0.0, takes_bias=False)
    features, labels, weight, _ = operands(case, BATCHES["all classes"])
    lengths = torch.linspace(0.1, 9, 9, dtype=torch.float64)[:, None]
    one, other = (DotRegression()(h, labels, weight) for h in (features, lengths * features))
    assert float(one) == pytest.approx(float(other), rel=1e-12)
    others_moved = weight.clone()
    others_moved[1] *= -3
    mine = labels != 1
    assert float(DotRegression()(features[mine], labels[mine], weight)) == float(
        DotRegression()(features[mine], labels[mine], others_moved)
    )


def test_logit_adjustment_asks_more_of_rare_classes() -> None:
    """Menon et al. 2021: equal logits cost a rare class more, and equal counts change nothing."""
    features, weight = torch.zeros(1, 6), torch.zeros(4, 6)
    loss = CrossEntropy(class_counts=[1, 20, 300, 7])
    costs = [float(loss(features, torch.tensor([k]), weight)) for k in range(4)]
    assert costs == pytest.approx([-math.log(n / 328) for n in (1, 20, 300, 7)], rel=1e-6)
    even = CrossEntropy(class_counts=torch.full((4,), 25))
    given = operands(LossCase("", CrossEntropy, {}, lambda: 0.0), BATCHES["all classes"])
    assert float(even(*given)) == pytest.approx(float(CrossEntropy()(*given)), rel=1e-7)
    off = CrossEntropy(class_counts=[1, 20, 300, 7], adjustment=0.0)
    assert float(off(*given)) == pytest.approx(float(CrossEntropy()(*given)), rel=1e-12)


# --- gradients and precision ----------------------------------------------------------------------


@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("case", **loss_cases)
def test_gradients_are_those_of_the_values(case: LossCase, labels: list[int]) -> None:
    features, indices, weight, bias = operands(case, labels)
    loss = case.make()
    free = [weight] if bias is None else [weight, bias]
    if case.features_get_whole_gradient:
        free = [features, *free]
    if case.stops_gradient:
        free = [features]
    for tensor in free:
        tensor.requires_grad_()

    def value(*tensors: Tensor) -> Tensor:
        given = tensors if case.features_get_whole_gradient else (features, *tensors)
        return loss(given[0], indices, *(given[1:] or [weight]))

    assert torch.autograd.gradcheck(value, tuple(free))


@pytest.mark.parametrize("classifier", ["same", "float32"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", **loss_cases)
def test_half_precision_features(case: LossCase, dtype: torch.dtype, classifier: str) -> None:
    given = operands(case, BATCHES["all classes"], dtype)
    features, labels, weight, bias = given
    if classifier == "float32":
        weight, bias = weight.float(), None if bias is None else bias.float()
    features.requires_grad_()
    weight.requires_grad_()
    loss = case.make()(features, labels, weight, bias)
    assert loss.dtype == torch.float32
    # The reference sees the same rounded numbers; products have 8 or 11 bits.
    assert float(loss.detach()) == pytest.approx(by_reference(case, given), rel=1e-2)
    loss.backward()
    assert features.grad is not None
    assert weight.grad is not None
    assert features.grad.dtype == dtype
    for gradient in (features.grad, weight.grad):
        assert bool(torch.isfinite(gradient).all())
        assert bool((gradient != 0).any())


@pytest.mark.parametrize("case", **loss_cases)
def test_a_loss_works_under_autocast(case: LossCase) -> None:
    features, labels, weight, bias = operands(case, BATCHES["all classes"], torch.float32)
    outside = float(case.make()(features, labels, weight, bias))
    with torch.autocast("cpu", torch.bfloat16):
        inside = case.make()(features.requires_grad_(), labels, weight, bias)
    assert inside.dtype == torch.float32
    assert float(inside.detach()) == pytest.approx(outside, rel=1e-2)
    inside.backward()
    assert features.grad is not None
    assert bool(torch.isfinite(features.grad).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("case", **loss_cases)
def test_zero_features_have_a_finite_loss_and_gradient(case: LossCase, dtype: torch.dtype) -> None:
    """Dead samples and dead rows: 0 / 0 must not reach the optimiser."""
    features, labels, weight, bias = operands(case, BATCHES["all classes"], dtype)
    features[2:4] = 0
    if case.refuses_zero_rows:
        dead = weight.clone()
        dead[1] = 0
        with pytest.raises(ValueError, match=r"^weight must .*vectors must not be zero.*row 1"):
            case.make()(features, labels, dead, bias)
    else:
        weight[1] = 0
    features.requires_grad_()
    weight.requires_grad_()
    loss = case.make()(features, labels, weight, bias)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert features.grad is not None
    assert weight.grad is not None
    assert bool(torch.isfinite(features.grad).all())
    assert bool(torch.isfinite(weight.grad).all())


def test_a_zero_feature_counts_as_cosine_zero() -> None:
    weight = torch.eye(2, dtype=torch.float64)
    features = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    loss = DotRegression()(features, torch.tensor([0]), weight)
    assert float(loss.detach()) == 0.5


@pytest.mark.parametrize("case", **loss_cases)
def test_large_logits_do_not_overflow(case: LossCase) -> None:
    features, labels, weight, bias = operands(case, BATCHES["all classes"], torch.float32)
    assert bool(torch.isfinite(case.make()(1e4 * features, labels, 1e4 * weight, bias)))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_labels_of_any_integer_type(dtype: torch.dtype) -> None:
    features, labels, weight, _ = operands(
        LossCase("", CrossEntropy, {}, lambda: 0.0), BATCHES["all classes"]
    )
    for loss in (CrossEntropy(), SquaredError(), DotRegression()):
        same = loss(features, labels.to(dtype), weight)
        assert float(same) == float(loss(features, labels, weight))


# --- what is refused ------------------------------------------------------------------------------


H, Y, W, B = torch.ones(3, 6), torch.tensor([0, 1, 3]), torch.ones(4, 6), torch.ones(4)

REFUSED_CALLS: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "width": ((torch.ones(3, 5), Y, W), ValueError, r"weight must have 5 columns.*\(4, 6\)"),
    "images": ((torch.ones(3, 2, 3), Y, W), ValueError, r"features must be 2-D.*\(3, 2, 3\)"),
    "integers": ((H.long(), Y, W), TypeError, "features must be floating point, got int64"),
    "empty": (
        (H[:0], Y[:0], W),
        ValueError,
        "features must hold at least one sample, got an empty batch",
    ),
    "few labels": ((H, Y[:2], W), ValueError, "2 labels for 3 rows"),
    "one-hot": ((H, torch.eye(3, 4).long(), W), ValueError, "labels must be 1-D"),
    "soft labels": ((H, torch.rand(3), W), TypeError, "labels must be integers, got float32"),
    "label too large": (
        (H, Y + 1, W),
        ValueError,
        r"labels must lie in \[0, 4\), got values from 1 to 4; are your labels 1-based",
    ),
    "ignore index": ((H, Y - 100, W), ValueError, r"labels must lie in \[0, 4\).*ignore index"),
    "vector for weight": ((H, Y, W[0]), ValueError, "weight must be 2-D"),
    "no weight": ((H, Y, None), TypeError, "weight must be a torch.Tensor, got NoneType"),
}


@pytest.mark.parametrize("name", REFUSED_CALLS)
@pytest.mark.parametrize("case", **loss_cases)
def test_operands_that_do_not_fit_are_refused(case: LossCase, name: str) -> None:
    arguments, error, message = REFUSED_CALLS[name]
    with pytest.raises(error, match=message):
        case.make()(*arguments)


@pytest.mark.parametrize("case", **loss_cases)
def test_a_bias_that_does_not_fit_is_refused(case: LossCase) -> None:
    message = r"bias must have shape \(4,\).*got \(3,\)" if case.takes_bias else "bias must"
    with pytest.raises(ValueError, match=message):
        case.make()(H, Y, W, B[:3])
    if not case.takes_bias:
        with pytest.raises(ValueError, match=r"bias must be None.*head without bias"):
            case.make()(H, Y, W, B)


REFUSED_OPTIONS: list[tuple[Callable[..., AbstractLoss], dict[str, Any], type[Exception], str]] = [
    (CrossEntropy, {"label_smoothing": -0.1}, ValueError, "label_smoothing must be .*at least 0"),
    (CrossEntropy, {"label_smoothing": 1.0}, ValueError, "label_smoothing must be below 1"),
    (CrossEntropy, {"label_smoothing": math.nan}, ValueError, "label_smoothing must be finite"),
    (CrossEntropy, {"label_smoothing": "0.1"}, TypeError, "label_smoothing must be a number"),
    (CrossEntropy, {"adjustment": math.inf}, ValueError, "adjustment must be finite"),
    (CrossEntropy, {"class_counts": [3, 0, 2]}, ValueError, r"class_counts .*positive.*3.*0.*2"),
    (CrossEntropy, {"class_counts": [3, -1]}, ValueError, "class_counts must be .*positive"),
    (CrossEntropy, {"class_counts": [[3, 1]]}, ValueError, "class_counts must be 1-D"),
    (CrossEntropy, {"class_counts": [3, math.nan]}, ValueError, "class_counts must be"),
    (CrossEntropy, {"class_counts": [3, math.inf]}, ValueError, "class_counts must be"),
    (CrossEntropy, {"class_counts": []}, ValueError, "class_counts must be"),
    (SquaredError, {"true_weight": 0}, ValueError, "true_weight must be finite and above 0"),
    (SquaredError, {"true_weight": -2}, ValueError, "true_weight must be finite and above 0"),
    (SquaredError, {"target": 0}, ValueError, "target must be finite and above 0, got 0"),
    (SquaredError, {"target": math.inf}, ValueError, "target must be finite and above 0"),
    (DotRegression, {"feature_norm": 0}, ValueError, "feature_norm must be finite and above 0"),
    (DotRegression, {"feature_norm": None}, TypeError, "feature_norm must be a number, got None"),
]


@pytest.mark.parametrize("kind, options, error, message", REFUSED_OPTIONS)
def test_options_out_of_range_are_refused(
    kind: Callable[..., AbstractLoss], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kind(**options)


def test_class_counts_of_other_classes_are_refused() -> None:
    loss = CrossEntropy(class_counts=[1, 2, 3])
    with pytest.raises(ValueError, match=r"weight must have 3 rows \(the length of class_counts\)"):
        loss(H, Y, W)


# --- laws ---------------------------------------------------------------------------------------

CLASSES, WIDTH, COUNT = 4, 6, 3
# Balanced, and small enough that the features survive: K^2 n * weight_decay * feature_decay < 1.
WEIGHT_DECAY, FEATURE_DECAY = 2e-2, 1e-2


def minimised(
    loss: AbstractLoss, with_bias: bool, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Class means (K, d), weight (K, d) and loss where L-BFGS ends with free features."""
    generator = torch.Generator().manual_seed(seed)

    def free(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    labels = torch.arange(CLASSES).repeat(COUNT)
    features, weight, bias = free(len(labels), WIDTH), free(CLASSES, WIDTH), free(CLASSES)
    variables = [features, weight, bias] if with_bias else [features, weight]
    optimiser = torch.optim.LBFGS(
        variables,
        max_iter=2000,
        tolerance_grad=1e-8,
        tolerance_change=0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        value = loss(features, labels, weight, bias if with_bias else None)
        value = value + WEIGHT_DECAY / 2 * weight.square().sum()
        value = value + FEATURE_DECAY / 2 * features.square().sum()
        value.backward()
        return value

    optimiser.step(objective)
    gradients = [variable.grad for variable in variables]
    assert all(g is not None and float(g.abs().max()) < 1e-6 for g in gradients)  # it has arrived
    h, w = features.detach().numpy(), weight.detach().numpy()
    means = np.stack([h[labels.numpy() == k].mean(0) for k in range(CLASSES)])
    assert np.linalg.norm(means, axis=1).min() > 0.1  # and not at the origin
    spread = np.abs(h - means[labels.numpy()]).max()
    assert spread < 1e-4 * np.abs(means).max()  # NC1
    return means, w, float(loss(features, labels, weight, bias if with_bias else None).detach())


SIMPLEX, RIGHT_ANGLES = -1 / (CLASSES - 1), 0.0
LAWS: dict[str, tuple[AbstractLoss, bool, float]] = {
    "cross entropy": (CrossEntropy(), True, SIMPLEX),
    "cross entropy, no bias": (CrossEntropy(), False, SIMPLEX),
    "cross entropy, smoothed": (CrossEntropy(label_smoothing=0.1), True, SIMPLEX),
    "squared error": (SquaredError(), True, SIMPLEX),
    "squared error, no bias": (SquaredError(), False, RIGHT_ANGLES),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", LAWS)
def test_free_features_and_a_free_classifier_collapse(name: str, seed: int) -> None:
    """Zhu et al. 2021, Han et al. 2022: the simplex ETF, and right angles for MSE without bias."""
    loss, with_bias, cosine = LAWS[name]
    means, weight, _ = minimised(loss, with_bias, seed)
    # Centred, the orthogonal frame is a simplex; uncentred, only the simplex is one.
    centred = means - means.mean(0)
    for rows, expected in ((means, cosine), (weight, cosine), (centred, SIMPLEX)):
        assert reference.metrics.cosines(rows) == pytest.approx([expected] * 6, abs=1e-4)
        assert reference.metrics.equinorm(rows) == pytest.approx(0, abs=1e-4)
    assert reference.metrics.duality(weight, means) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("learned_lengths", [False, True])
def test_dot_regression_on_a_fixed_simplex_reaches_zero(learned_lengths: bool) -> None:
    weight = simplex_etf(5, 6, torch.Generator().manual_seed(1), dtype=torch.float64).vectors
    if learned_lengths:
        weight = weight * torch.linspace(1, 3, 5, dtype=torch.float64)[:, None]
    labels = torch.arange(5).repeat(3)
    features = torch.randn(15, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    features.requires_grad_()
    optimiser = torch.optim.LBFGS(
        [features],
        max_iter=500,
        tolerance_grad=1e-9,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    start = float(DotRegression()(features, labels, weight).detach())

    def objective() -> Tensor:
        optimiser.zero_grad()
        value = DotRegression()(features, labels, weight)
        value.backward()
        return value

    optimiser.step(objective)
    assert start > 0.1
    assert float(DotRegression()(features, labels, weight).detach()) < 1e-10
    directions = torch.nn.functional.normalize(features.detach())
    vertices = torch.nn.functional.normalize(weight)
    # The loss is the fourth power of the angle: 1e-10 is an angle of 5e-3.
    torch.testing.assert_close(directions, vertices[labels], rtol=0, atol=1e-2)


def test_at_the_optimum_the_loss_is_stationary() -> None:
    """A simplex that squared error cannot improve: zero loss needs no decay."""
    vertices = torch.from_numpy(simplex_vertices(4, 6))
    bias = torch.full((4,), 0.25, dtype=torch.float64)
    # W h + b is one-hot: (v_k . v_j + 1/3) * 3/4 = [k = j].
    features = (0.75 * vertices).requires_grad_()
    loss = SquaredError()(features, torch.arange(4), vertices, bias)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-28)
    loss.backward()
    assert features.grad is not None
    assert float(features.grad.abs().max()) < 1e-14
