"""Proxies that are not simply learned: a frame that turns, class means, who gets which vector."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cases.worlds import rotation
from neuralcollapse import (
    HUG,
    ClassMeanHead,
    CosineHead,
    FixedHead,
    NormalizedCrossEntropy,
    RotatedHead,
    simplex_etf,
)
from neuralcollapse.heads import assigned
from neuralcollapse.losses.loss import total


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


# --- a frame that turns ---------------------------------------------------------------------------


@pytest.mark.parametrize("dim, rate, steps", [(6, 100.0, 300), (64, 1000.0, 100), (512, 1e4, 6)])
def test_the_rotation_stays_orthogonal(dim: int, rate: float, steps: int) -> None:
    """Large steps in float32; 1e-5 is promised, some roundings of float32 are found."""
    frame = simplex_etf(5, dim)
    head = RotatedHead(frame)
    optimiser = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9)
    labels = torch.arange(5).repeat(3)
    features = normal(15, dim)
    loss = HUG(detach_proxies=False)
    turned = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss(features, labels, head.operands(features)[1]).backward()
        optimiser.step()
        turn = head.rotation.detach()
        assert float((turn @ turn.T - torch.eye(dim)).abs().max()) < 1e-5
        weight = head.weight.detach()
        assert float((weight @ weight.T - frame.gram).abs().max()) < 1e-5
        turned.append(float((turn - torch.eye(dim)).norm()))
    assert float(head.skew.detach().abs().max()) > 1  # the steps were large
    assert max(turned) > 0.5


@pytest.mark.long
def test_the_rotation_stays_orthogonal_for_long_in_512_dimensions() -> None:
    test_the_rotation_stays_orthogonal(512, 1e4, 300)


def test_a_new_rotation_is_none_and_finds_one() -> None:
    """Features on a turned frame: the head turns until its vectors lie on them."""
    frame = simplex_etf(4, 5, dtype=torch.float64)
    head = RotatedHead(frame)
    assert torch.equal(head.rotation.detach(), torch.eye(5, dtype=torch.float64))
    assert torch.equal(head.weight.detach(), frame.vectors)
    turn = torch.linalg.matrix_exp(0.8 * (a := normal(5, 5, dtype=torch.float64)) - 0.8 * a.T)
    features = 3 * frame.vectors @ turn.T
    optimiser = torch.optim.LBFGS(head.parameters(), max_iter=300, line_search_fn="strong_wolfe")
    loss = HUG(intra_power=-2, detach_proxies=False)

    def objective() -> Tensor:
        optimiser.zero_grad()
        value = loss(features, torch.arange(4), head.weight)
        value.backward()
        return value

    optimiser.step(objective)
    # Three dimensions are spanned; in the others any rotation will do.
    torch.testing.assert_close(head.weight.detach(), features / 3, rtol=0, atol=1e-3)


def test_the_gradient_of_the_rotation() -> None:
    head = RotatedHead(simplex_etf(4, 5, dtype=torch.float64))
    with torch.no_grad():
        head.skew.copy_(normal(5, 5, dtype=torch.float64))
    upstream = normal(4, 5, seed=1, dtype=torch.float64)

    def value(skew: Tensor) -> Tensor:
        return (torch.func.functional_call(_Weight(head), {"head.skew": skew}) * upstream).sum()

    assert torch.autograd.gradcheck(value, head.skew.detach().clone().requires_grad_())


class _Weight(torch.nn.Module):
    def __init__(self, head: RotatedHead):
        super().__init__()
        self.head = head

    def forward(self) -> Tensor:
        return self.head.weight


# --- class means ----------------------------------------------------------------------------------


BATCHES = [
    ([0, 0, 2], 1),
    ([2, 1, 1, 1], 2),
    ([0, 2, 2, 0, 2], 3),
]


def moving_averages(start: np.ndarray, momentum: float) -> list[np.ndarray]:
    """The averages after each of `BATCHES`, by loops."""
    averages, seen, found = start.astype(np.float64).copy(), set(), []
    for labels, seed in BATCHES:
        features = normal(len(labels), 6, seed=seed).double().numpy()
        for k in set(labels):
            own = [h / np.sqrt(h @ h) for h, y in zip(features, labels, strict=True) if y == k]
            mean = sum(own) / len(own)
            averages[k] = momentum * averages[k] + (1 - momentum) * mean if k in seen else mean
            seen.add(k)
        found.append(averages.copy())
    return found


@pytest.mark.parametrize("through_batch", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.99])
def test_class_means_are_moving_averages(momentum: float, through_batch: bool) -> None:
    head = ClassMeanHead(4, 6, momentum=momentum, through_batch=through_batch, temperature=0.5)
    expected = moving_averages(head.means.numpy(), momentum)
    unseen = head.means[3].clone()
    for (labels, seed), averages in zip(BATCHES, expected, strict=True):
        features = normal(len(labels), 6, seed=seed)
        scaled, weight, bias = head.operands(features, torch.tensor(labels))
        assert bias is None
        lengths = np.linalg.norm(averages, axis=1, keepdims=True)
        np.testing.assert_allclose(head.means.numpy(), averages, rtol=0, atol=1e-6)
        np.testing.assert_allclose(weight.numpy(), averages / lengths, rtol=0, atol=2e-6)
        torch.testing.assert_close(scaled.norm(dim=1), torch.full((len(labels),), 2.0))
    assert torch.equal(head.means[3], unseen)
    assert head.seen.tolist() == [True, True, True, False]
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(4))


def test_class_means_stay_where_nothing_is_learned() -> None:
    head, features, labels = ClassMeanHead(4, 6), normal(8, 6), torch.arange(4).repeat(2)
    start = head.means.clone()
    head(features)
    head.operands(features)
    head.eval().operands(features, labels)
    assert torch.equal(head.means, start)
    assert not bool(head.seen.any())
    head.train().operands(features, labels)
    assert not torch.equal(head.means, start)


def test_class_means_have_nothing_to_optimise() -> None:
    """Neither a gradient nor a state: the optimiser of a model holds the backbone alone."""
    backbone = torch.nn.Linear(6, 6)
    model = torch.nn.Sequential(backbone, ClassMeanHead(4, 6))
    head = model[1]
    assert isinstance(head, ClassMeanHead)
    optimiser = torch.optim.AdamW(model.parameters())
    features, labels = backbone(normal(8, 6)), torch.arange(4).repeat(2)
    scaled, weight, _ = head.operands(features, labels)
    assert not weight.requires_grad
    NormalizedCrossEntropy()(scaled, labels, weight).backward()
    optimiser.step()
    assert list(head.parameters()) == []
    assert {*optimiser.state} == {backbone.weight, backbone.bias}
    assert {*head.state_dict()} == {"means", "seen"}
    other = ClassMeanHead(4, 6)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.weight, head.weight)
    assert bool(other.seen.all())


def in_double(momentum: float) -> ClassMeanHead:
    torch.manual_seed(0)
    head = ClassMeanHead(4, 3, momentum=momentum, through_batch=True).double()
    head.seen[0] = True
    return head


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_the_gradient_goes_through_the_batch(momentum: float) -> None:
    """As if the means were written out: unit features, averages, unit again."""
    labels = torch.tensor([0, 2, 0, 2, 2, 3])
    features = normal(6, 3, seed=4, dtype=torch.float64).requires_grad_()
    start = in_double(momentum).means
    upstream = normal(4, 3, seed=5, dtype=torch.float64)

    def by_hand(rows: Tensor) -> Tensor:
        units = rows / rows.norm(dim=1, keepdim=True)
        averages = []
        for k in range(4):
            own = units[labels == k]
            keep = 1.0 if not len(own) else momentum if k == 0 else 0.0
            fresh = own.mean(0) if len(own) else torch.zeros(3, dtype=torch.float64)
            averages.append(keep * start[k] + (1 - keep) * fresh)
        means = torch.stack(averages)
        return means / means.norm(dim=1, keepdim=True)

    def by_head(rows: Tensor) -> Tensor:
        return in_double(momentum).operands(rows, labels)[1]

    torch.testing.assert_close(by_head(features), by_hand(features), rtol=1e-12, atol=1e-14)
    ours, theirs = (
        torch.autograd.grad((way(features) * upstream).sum(), features)[0]
        for way in (by_head, by_hand)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(by_head, features)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_class_means_of_half_precision_are_kept_in_float32(dtype: torch.dtype) -> None:
    head, labels = ClassMeanHead(4, 6, through_batch=True), torch.arange(4).repeat(2)
    features = normal(8, 6).to(dtype).requires_grad_()
    scaled, weight, _ = head.operands(features, labels)
    assert (scaled.dtype, weight.dtype, head.means.dtype) == (dtype, torch.float32, torch.float32)
    HUG()(scaled, labels, weight).backward()
    assert features.grad is not None
    assert bool(torch.isfinite(features.grad).all())
    exact = ClassMeanHead(4, 6)
    exact.operands(features.detach().float(), labels)
    torch.testing.assert_close(head.means, exact.means)


# --- who gets which vector ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_assignment_is_the_best_of_all(seed: int) -> None:
    means, vectors = normal(6, 4, seed=seed), normal(6, 4, seed=100 + seed)
    cosines = [[float(torch.cosine_similarity(m, v, 0)) for v in vectors] for m in means]
    best = max(
        itertools.permutations(range(6)), key=lambda p: sum(cosines[k][p[k]] for k in range(6))
    )
    assert assigned(means, vectors).tolist() == list(best)


HEADS: dict[str, Callable[[], Any]] = {
    "fixed": lambda: FixedHead(simplex_etf(5, 6, dtype=torch.float64), scale=2.0),
    "rotated": lambda: _turned(),
}


def _turned() -> RotatedHead:
    head = RotatedHead(simplex_etf(5, 6, dtype=torch.float64))
    with torch.no_grad():
        head.skew.copy_(normal(6, 6, dtype=torch.float64))
    return head


@pytest.mark.parametrize("name", HEADS)
def test_a_head_gives_each_class_its_vector(name: str) -> None:
    """Means that lie close to the vectors in another order, of any length."""
    head = HEADS[name]()
    before = head.weight.detach().clone()
    order = torch.tensor([3, 0, 4, 1, 2])
    means = before[order] * torch.logspace(-2, 2, 5, dtype=torch.float64)[:, None]
    assert torch.equal(head.assign(means), order)
    torch.testing.assert_close(head.weight.detach(), before[order], rtol=1e-12, atol=1e-14)
    assert torch.equal(head.assign(means), torch.arange(5))
    trained = {name: parameter.requires_grad for name, parameter in head.named_parameters()}
    assert trained == ({"skew": True} if name == "rotated" else {})


def test_classes_without_a_mean_get_what_is_left() -> None:
    means = torch.eye(4)[[2, 0, 1, 3]]
    means[1], means[3] = 0, math.nan
    order = assigned(means, torch.eye(4)).tolist()
    assert order[0] == 2
    assert order[2] == 1
    assert sorted(order) == [0, 1, 2, 3]


def test_means_of_another_shape_are_refused() -> None:
    head = FixedHead(simplex_etf(4, 6))
    with pytest.raises(ValueError, match=r"means must have 4 rows \(as the vectors\), got"):
        head.assign(torch.ones(3, 6))
    with pytest.raises(ValueError, match=r"means must have 6 columns \(as the vectors\), got"):
        head.assign(torch.ones(4, 5))


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: RotatedHead(torch.eye(3)), TypeError, "frame must be a Frame, got Tensor"),  # pyright: ignore
    (lambda: RotatedHead(simplex_etf(3, 3), temperature=0), ValueError, "temperature must be"),
    (lambda: ClassMeanHead(4, 6, momentum=1), ValueError, "momentum must be below 1, got 1"),
    (lambda: ClassMeanHead(4, 6, momentum=-0.1), ValueError, "momentum must be .*at least 0"),
    (lambda: ClassMeanHead(4, 6, temperature=-1), ValueError, "temperature must be .*above 0"),
    (lambda: ClassMeanHead(0, 6), ValueError, "num_classes must be at least 1, got 0"),
    (lambda: NormalizedCrossEntropy(0), ValueError, "temperature must be finite and above 0"),
]


@pytest.mark.parametrize("make, error, message", REFUSED)
def test_what_makes_no_sense_is_refused(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


# --- a whole step ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_proxy_form_spreads_and_gathers(dtype: torch.dtype) -> None:
    """A few steps of free features bring both halves down, whoever holds the proxies."""
    frame = simplex_etf(4, 3, dtype=dtype)
    forms = {
        "learned": (CosineHead(4, 3).to(dtype), HUG()),
        "fixed": (FixedHead(frame), HUG()),
        "rotated": (RotatedHead(frame), HUG(detach_proxies=False)),
        "batch means": (ClassMeanHead(4, 3, momentum=0.0, through_batch=True).to(dtype), HUG()),
        "averages": (ClassMeanHead(4, 3, through_batch=True).to(dtype), HUG()),
    }
    labels = torch.arange(4).repeat(5)
    for name, (head, loss) in forms.items():
        features = torch.from_numpy(rotation(20)[:, :3]).to(dtype).requires_grad_()
        optimiser = torch.optim.SGD([features, *head.parameters()], lr=0.1)
        values = []
        for _ in range(60):
            optimiser.zero_grad()
            rows, weight, _ = head.operands(features, labels)
            halves = loss.terms(rows, labels, weight)
            total(halves).backward()
            optimiser.step()
            values.append([float(half.detach()) for half in halves.values()])
        assert values[-1][1] < 0.7 * values[0][1], name
        if name in ("fixed", "rotated"):
            assert values[-1][0] == pytest.approx(0.375, rel=1e-5)  # (K - 1) / (2 K)
        else:
            assert values[-1][0] < values[0][0], name
