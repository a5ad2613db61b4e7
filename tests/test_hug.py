"""The hyperspherical uniformity gap: how its halves behave, and its values where it is least."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cases.worlds import cross_polytope, rotation, simplex_vertices
from neuralcollapse import HUG, CosineHead
from neuralcollapse.frames.closed_forms import simplices
from neuralcollapse.losses.hug import UniformityMeasure, _Distances
from neuralcollapse.losses.loss import total

MEASURES: list[UniformityMeasure] = ["mhe", "mhs", "mgd"]
measures = pytest.mark.parametrize("measure", MEASURES)

CLASSES, WIDTH = 5, 4
LABELS = torch.tensor([0, 1, 1, 2, 4, 4, 4, 4, 0])  # class 3 is absent


def drawn(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Features (9, d) and proxies (K, d) that take gradients."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(len(LABELS), WIDTH, generator=generator, dtype=torch.float64)
    proxies = torch.randn(CLASSES, WIDTH, generator=generator, dtype=torch.float64)
    return features.to(dtype).requires_grad_(), proxies.to(dtype).requires_grad_()


def terms(loss: HUG, features: Tensor, proxies: Tensor, labels: Tensor = LABELS) -> list[float]:
    return [float(term.detach()) for term in loss.terms(features, labels, proxies).values()]


# --- what moves what ------------------------------------------------------------------------------


@measures
@pytest.mark.parametrize("detach", [True, False])
def test_each_half_moves_its_own(measure: Any, detach: bool) -> None:
    features, proxies = drawn()
    halves = HUG(measure, detach_proxies=detach).terms(features, LABELS, proxies)
    assert list(halves) == ["inter", "intra"]
    by_features, by_proxies = torch.autograd.grad(
        halves["intra"], (features, proxies), allow_unused=True
    )
    assert bool((by_features != 0).any())
    if detach:
        assert by_proxies is None
    else:
        assert bool((by_proxies[[0, 1, 2, 4]] != 0).any(1).all())
        assert bool((by_proxies[3] == 0).all())  # nobody is there to pull it
    by_features, by_proxies = torch.autograd.grad(
        halves["inter"], (features, proxies), allow_unused=True
    )
    assert by_features is None
    assert bool((by_proxies != 0).any())


@measures
def test_the_weights_scale_the_halves(measure: Any) -> None:
    features, proxies = drawn()
    inter, intra = terms(HUG(measure), features, proxies)
    scaled = terms(HUG(measure, 0.15, 0.015), features, proxies)
    assert scaled == pytest.approx([0.15 * inter, 0.015 * intra], rel=1e-14)
    assert terms(HUG(measure, 0, 3), features, proxies) == pytest.approx([0, 3 * intra])


@measures
def test_what_does_not_matter(measure: Any) -> None:
    """Rotations of everything, lengths, names of the classes."""
    features, proxies = drawn()
    loss = HUG(measure)
    expected = terms(loss, features, proxies)
    turn = torch.from_numpy(rotation(WIDTH, 5))
    lengths = torch.logspace(-2, 2, len(LABELS), dtype=torch.float64)[:, None]
    names = torch.tensor([3, 0, 4, 1, 2])
    renamed = torch.empty_like(proxies)
    renamed[names] = proxies
    for changed in (
        (features @ turn, proxies @ turn, LABELS),
        (features * lengths, proxies * lengths[:CLASSES], LABELS),
        (features, renamed, names[LABELS]),
    ):
        assert terms(loss, *changed) == pytest.approx(expected, rel=1e-12)


@measures
def test_a_class_weighs_the_same_however_often_it_is_seen(measure: Any) -> None:
    features, proxies = drawn()
    longer = torch.cat([torch.arange(9), *3 * [(LABELS == 1).nonzero().squeeze(1)]])
    for balanced in (True, False):
        loss = HUG(measure, class_balanced=balanced)
        once = terms(loss, features, proxies)
        often = terms(loss, features[longer], proxies, LABELS[longer])
        assert often[0] == once[0]
        assert (often[1] == pytest.approx(once[1], rel=1e-12)) == balanced


@measures
def test_an_absent_class_takes_part_between_classes_only(measure: Any) -> None:
    features, proxies = drawn()
    moved = proxies.detach().clone()
    moved[3] = moved[0] + 0.01  # so close that even the smallest distance sees it
    before, after = (terms(HUG(measure), features, w) for w in (proxies, moved))
    assert after[0] != before[0]
    assert after[1] == before[1]


@pytest.mark.parametrize("angle", [0.1, 1.0, 2.5, math.pi])
def test_a_single_sample_at_an_angle(angle: float) -> None:
    proxies = torch.eye(2, dtype=torch.float64)
    direction = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    features = (7 * direction).requires_grad_()
    intra = HUG().terms(features, torch.tensor([0]), proxies)["intra"]
    assert float(intra.detach()) == pytest.approx(2 * math.sin(angle / 2), rel=1e-14)
    intra.backward()
    assert features.grad is not None
    assert float(features.grad.norm()) == pytest.approx(math.cos(angle / 2) / 7, abs=1e-15)


@pytest.mark.parametrize("power", [-0.25, -0.5, -1.0, -1.5, -2.0])
def test_at_collapse_nothing_is_left_and_nothing_breaks(power: float) -> None:
    proxies = torch.eye(3, dtype=torch.float64, requires_grad=True)
    features = (2 * torch.eye(3, dtype=torch.float64)).requires_grad_()
    loss = HUG(intra_power=power, detach_proxies=False)
    intra = loss.terms(features, torch.arange(3), proxies)["intra"]
    assert float(intra.detach()) == 0
    for gradient in torch.autograd.grad(intra, (features, proxies)):
        assert bool((gradient == 0).all())


@measures
def test_the_largest_counts_and_ties_share(measure: Any) -> None:
    """Only for "mhs" the gradient is of the farthest sample of each class; of several, shared."""
    proxies = torch.eye(2, 3, dtype=torch.float64)
    features = torch.tensor(
        [[1.0, 0, 0.5], [1, 0, -0.5], [1, 0, 0.1], [0, 1, 0.2]], dtype=torch.float64
    ).requires_grad_()
    HUG(measure).terms(features, torch.tensor([0, 0, 0, 1]), proxies)["intra"].backward()
    assert features.grad is not None
    pulls = features.grad.norm(dim=1)
    assert bool((pulls[[0, 1, 3]] > 0).all())
    assert (float(pulls[2]) == 0) == (measure == "mhs")
    assert float(pulls[0]) == pytest.approx(float(pulls[1]), rel=1e-14)


@measures
@pytest.mark.parametrize("angle", [0.5, 1.5, 2.5])
def test_the_pull_reaches_features_that_point_away(measure: Any, angle: float) -> None:
    """A quarter of the pull of the chord or more, by any measure, even 143 degrees away.

    For "mgd" r g^2 / (jitter + 1 - g^2), a third of the chord's 1; a 200th with g = exp(-r^2).
    """
    direction = [[math.cos(angle), math.sin(angle)]]
    features = torch.tensor(direction, dtype=torch.float64, requires_grad=True)
    HUG(measure).terms(features, torch.tensor([0]), torch.eye(2).double())["intra"].backward()
    assert features.grad is not None
    assert float(features.grad.norm()) > math.cos(angle / 2) / 4


@measures
def test_thinned_out_the_halves_are_felt_as_strongly(measure: Any) -> None:
    """Over n calls the gradients of the term between classes add up to those of n plain calls."""
    features, proxies = drawn()
    thinned, plain = HUG(measure, inter_every=3), HUG(measure)
    expected = plain.terms(features, LABELS, proxies)["inter"]
    force = torch.autograd.grad(expected, proxies)[0]
    felt = []
    for _ in range(6):
        inter = thinned.terms(features, LABELS, proxies)["inter"]
        torch.testing.assert_close(inter, expected.detach())
        felt.append(torch.autograd.grad(inter, proxies)[0])
    for call, gradient in enumerate(felt):
        torch.testing.assert_close(gradient, 3 * force if call % 3 == 0 else 0 * force)


def test_thinned_out_counts_in_training_only_and_goes_on_from_its_state() -> None:
    features, proxies = drawn()
    loss = HUG(inter_every=2)

    def felt(of: HUG) -> bool:
        inter = of.terms(features, LABELS, proxies)["inter"]
        return bool(torch.autograd.grad(inter, proxies)[0].abs().max() > 0)

    assert felt(loss)
    assert felt(loss.eval())
    assert felt(loss)
    successor = HUG(inter_every=2)
    successor.load_state_dict(loss.state_dict())
    with torch.no_grad():
        proxies.add_(torch.eye(CLASSES, WIDTH))
    now = terms(HUG(), features, proxies)[0]
    shown = [terms(of.train(), features, proxies)[0] for of in (loss, successor)]
    assert shown[0] == shown[1] != now
    assert felt(successor)
    assert not felt(successor)


# --- where digits are lost ------------------------------------------------------------------------


def slow_distances(features: Tensor, proxies: Tensor, labels: Tensor) -> Tensor:
    units, targets = (rows / rows.norm(dim=1, keepdim=True) for rows in (features, proxies))
    return (units - targets[labels]).norm(dim=1)


def test_distances_and_their_gradients() -> None:
    features, proxies = drawn()
    found = _Distances.apply(features, proxies, LABELS)
    expected = slow_distances(features, proxies, LABELS)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    upstream = torch.linspace(-1, 2, 9, dtype=torch.float64)
    ours = torch.autograd.grad(found, (features, proxies), upstream)
    theirs = torch.autograd.grad(expected, (features, proxies), upstream)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(
        lambda h, w: _Distances.apply(h, w, LABELS), (features, proxies)
    )


def test_small_distances_in_float32() -> None:
    """A distance of 1e-4 in 512 dimensions: the formula by products ends at 4e-5 on average."""
    generator = torch.Generator().manual_seed(0)
    proxies = torch.randn(10, 512, generator=generator, dtype=torch.float64).float()
    labels = torch.arange(200) % 10
    noise = torch.randn(200, 512, generator=generator, dtype=torch.float64)
    units = proxies.double() / proxies.double().norm(dim=1, keepdim=True)
    noise -= (noise * units[labels]).sum(1, keepdim=True) * units[labels]
    noise *= 1e-4 / noise.norm(dim=1, keepdim=True)
    features = (3 * (units[labels] + noise)).float()
    found = _Distances.apply(features, proxies, labels)
    exact = slow_distances(features.double(), proxies.double(), labels)
    assert float(exact.mean()) == pytest.approx(1e-4, rel=0.01)
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=0)
    wide, single = (
        torch.autograd.grad(_Distances.apply(h, w, labels).sum(), h)[0].double()
        for h, w in (
            (features.double().requires_grad_(), proxies.double()),
            (features.requires_grad_(), proxies),
        )
    )
    assert float((single - wide).norm() / wide.norm()) < 1e-3


@measures
def test_a_second_derivative_is_refused(measure: Any) -> None:
    features, proxies = drawn()
    for term in HUG(measure).terms(features, LABELS, proxies).values():
        with pytest.raises(RuntimeError, match="no second derivative; leave out create_graph"):
            torch.autograd.grad(term, (features, proxies), create_graph=True, allow_unused=True)


@measures
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_zero_feature_is_pulled_as_if_it_had_length_one(measure: Any, dtype: Any) -> None:
    features = torch.zeros(1, 3, dtype=dtype, requires_grad=True)
    proxies = torch.tensor([[3.0, 0, 0], [0, 1, 0]], dtype=dtype, requires_grad=True)
    loss = HUG(measure, detach_proxies=False)
    intra = loss.terms(features, torch.tensor([0]), proxies)["intra"]
    expected = math.log((1 - math.exp(-0.5)) / loss.jitter + 1) if measure == "mgd" else 1.0
    assert float(intra.detach()) == pytest.approx(expected, rel=1e-6)
    by_features, by_proxies = torch.autograd.grad(intra, (features, proxies))
    assert float(by_features[0, 0]) < 0
    assert by_features[0, 1:].tolist() == [0, 0]
    # Turning the proxy around a point in the centre changes no distance.
    assert by_proxies.tolist() == [[0] * 3] * 2


@measures
def test_proxies_that_coincide_are_pushed_apart(measure: Any) -> None:
    _, proxies = drawn()
    same = proxies.detach().clone()
    same[2] = 4 * same[0]
    same.requires_grad_()
    features = same.detach()[LABELS]
    loss = HUG(measure)
    value = loss(features, LABELS, same)
    value.backward()
    assert bool(torch.isfinite(value))
    assert same.grad is not None
    assert bool(torch.isfinite(same.grad).all())
    assert float(same.grad[[0, 2]].norm(dim=1).min()) > 0
    # By a thousandth, however small the force: that of "mgd" fades as points meet.
    step = 1e-3 / float(same.grad[0].norm())
    moved = (same - step * same.grad).detach()
    apart = slow_distances(moved[[0]], moved[[2]], torch.tensor([0]))
    assert float(apart) > 1e-4


# --- the released implementation ------------------------------------------------------------------


def released_by_loops(features: Tensor, labels: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """From the description, with autograd: both terms unweighted."""
    proxies = [row / row.norm() for row in weight]
    inverse = []
    for k in range(len(proxies)):
        for j in range(k):
            # Written out: the norm of a zero vector has no gradient to multiply by zero.
            squared = (proxies[k] - proxies[j]).square().sum()
            if float(squared.detach()) > 0:
                inverse.append(1 / squared)
    means = []
    for k in range(len(proxies)):
        own = [
            (h / h.norm() - proxies[k].detach()).norm()
            for h, y in zip(features, labels, strict=True)
            if y == k
        ]
        if own:
            means.append(torch.stack(own).mean())
    inter = torch.stack(inverse).mean() if inverse else weight.sum() * 0
    return {"inter": inter, "intra": torch.stack(means).mean()}


RELEASED: dict[str, Callable[[Tensor], Tensor]] = {
    "apart": lambda proxies: proxies,
    "two coincide": lambda proxies: proxies[[0, 1, 2, 0, 4]],
    "two and three coincide": lambda proxies: proxies[[1, 1, 2, 2, 2]],
    "close": lambda proxies: torch.cat([proxies[:4], proxies[:1] + 1e-5]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RELEASED)
def test_released_is_what_was_released(name: str, dtype: torch.dtype) -> None:
    features, proxies = drawn(dtype)
    weight = RELEASED[name](proxies.detach()).clone().requires_grad_()
    ours = HUG.released(0.3, 0.7).terms(features, LABELS, weight)
    # Loops in float64 on the same numbers: where distances are 1e-5 float32 has few digits left.
    wide = features.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    theirs = released_by_loops(wide[0], LABELS, wide[1])
    tolerance = 1e-9 if dtype == torch.float64 else 5e-2 if name == "close" else 1e-5
    for term, factor in (("inter", 0.3), ("intra", 0.7)):
        expected = factor * float(theirs[term].detach())
        assert float(ours[term].detach()) == pytest.approx(expected, rel=tolerance)
    total(ours).backward()
    (0.3 * theirs["inter"] + 0.7 * theirs["intra"]).backward()
    for mine, other in zip((features, weight), wide, strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        difference = mine.grad.double() - other.grad
        assert float(difference.norm()) <= 2 * tolerance * float(other.grad.norm())


def test_released_with_nothing_apart() -> None:
    proxies = torch.ones(3, 4, requires_grad=True)
    features = torch.eye(3, 4)
    inter = HUG.released().terms(features, torch.arange(3), proxies)["inter"]
    assert float(inter.detach()) == 0
    inter.backward()
    assert proxies.grad is not None
    assert bool((proxies.grad == 0).all())


def test_released_weights_are_one_by_default() -> None:
    features, proxies = drawn()
    assert terms(HUG.released(), features, proxies) == terms(HUG(), features, proxies)


# --- exact values where it is least ---------------------------------------------------------------


def at_optimum(vectors: Tensor, loss: HUG) -> dict[str, float]:
    labels = torch.arange(len(vectors))
    halves = loss.terms(3 * vectors, labels, vectors)
    return {name: float(term) for name, term in halves.items()}


@pytest.mark.parametrize("count", [2, 3, 10, 100])
def test_at_the_simplex(count: int) -> None:
    vectors = torch.from_numpy(simplex_vertices(count, count))
    squared = 2 * count / (count - 1)
    halves = at_optimum(vectors, HUG())
    assert halves["inter"] == pytest.approx((count - 1) / (2 * count), rel=1e-12)
    # A distance of two roundings.
    assert halves["intra"] == pytest.approx(0, abs=1e-15)
    logarithm = at_optimum(vectors, HUG(inter_power=0))["inter"]
    assert logarithm == pytest.approx(-math.log(squared) / 2, rel=1e-12)
    assert at_optimum(vectors, HUG("mhs"))["inter"] == pytest.approx(-math.sqrt(squared), rel=1e-12)


@pytest.mark.parametrize(
    "dim, sizes, energy",
    [(3, [3, 2], 0.425), (3, [2] * 3, 0.45), (10, [2] * 10, 92.5 / 190), (10, [6, 6], 30.5 / 66)],
)
def test_at_orthogonal_simplices(dim: int, sizes: list[int], energy: float) -> None:
    """Mean energy 1/2 - d / (2 K (K-1)) for d + 1 < K <= 2 d, and right angles at least."""
    vectors = simplices(sizes, "").vectors()
    count = sum(sizes)
    assert vectors.shape == (count, dim)
    inter = at_optimum(vectors, HUG())["inter"]
    assert inter == pytest.approx(energy, rel=1e-12)
    assert inter == pytest.approx(1 / 2 - dim / (2 * count * (count - 1)), rel=1e-12)
    assert at_optimum(vectors, HUG("mhs"))["inter"] == pytest.approx(-math.sqrt(2), rel=1e-12)


@pytest.mark.parametrize(
    "vectors, logarithm",
    [
        (torch.from_numpy(simplex_vertices(10, 9)), -0.351579256),
        (torch.from_numpy(simplex_vertices(100, 99)), -11.438090581),
        (torch.from_numpy(cross_polytope(3)), -0.192644393),
        (simplices([3, 2], "").vectors(), -0.110852002),
    ],
    ids=["10", "100", "octahedron", "bipyramid"],
)
def test_the_largest_log_determinants(vectors: Tensor, logarithm: float) -> None:
    # The first two are known with a jitter of 1e-6, the others without, which is 1e-5 away.
    inter = at_optimum(vectors, HUG("mgd", jitter=1e-6))["inter"]
    assert -inter * len(vectors) == pytest.approx(logarithm, abs=1e-9 if len(vectors) > 9 else 2e-5)


def test_a_network_decides_by_the_cosine_to_its_proxies() -> None:
    """At collapse on the proxies of a cosine head, every sample is decided right."""
    head = CosineHead(CLASSES, WIDTH).double()
    features = 5 * head.weight[LABELS]
    assert torch.equal(head(features).argmax(1), LABELS)
    assert terms(HUG(), features.detach(), head.weight)[1] < 1e-15


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [*(HUG(measure) for measure in MEASURES), HUG.released()])
@pytest.mark.parametrize(
    "bad, message",
    [
        (math.nan, r"vectors must be finite, got NaN or infinity in 1 of 5 rows \(first: row 2\)"),
        (math.inf, "vectors must be finite"),
        (0.0, "vectors must not be zero, got 1 zero rows of 5"),
    ],
)
def test_proxies_without_a_direction_are_refused(loss: HUG, bad: float, message: str) -> None:
    features, proxies = drawn()
    broken = proxies.detach().clone()
    broken[2] = bad
    with pytest.raises(ValueError, match=f"^weight must hold proxies .*{message}"):
        loss(features, LABELS, broken)


def test_a_single_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^weight must hold proxies .*2 points or more, got 1"):
        HUG()(torch.ones(2, 3), torch.tensor([0, 0]), torch.ones(1, 3))


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"measure": "mhp"}, ValueError, "measure must be one of mhe, mhs, mgd, got 'mhp'"),
    ({"inter_weight": -1}, ValueError, "inter_weight must be finite and at least 0, got -1"),
    ({"intra_weight": math.nan}, ValueError, "intra_weight must be finite"),
    ({"inter_power": -2}, ValueError, "inter_power must be finite and above -2, got -2"),
    ({"inter_power": "log"}, TypeError, "inter_power must be a number, got 'log'"),
    ({"intra_power": 0}, ValueError, r"intra_power must lie in \[-2, 0\), got 0"),
    ({"intra_power": 2}, ValueError, r"intra_power must lie in \[-2, 0\), got 2"),
    ({"intra_power": -2.5}, ValueError, "intra_power must be finite and at least -2"),
    ({"jitter": 0}, ValueError, "jitter must be finite and above 0, got 0"),
    ({"min_distance": 0}, ValueError, "min_distance must be finite and above 0, got 0"),
    ({"inter_every": 0}, ValueError, "inter_every must be at least 1, got 0"),
    ({"inter_every": 1.5}, TypeError, "inter_every must be an integer, got 1.5"),
]


@pytest.mark.parametrize("options, error, message", REFUSED)
def test_options_that_make_no_sense_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        HUG(**options)


def test_it_describes_itself() -> None:
    assert "mhe, inter_weight=1, intra_weight=1, inter_power=2, intra_power=-1" in repr(HUG())
    assert "power" not in repr(HUG("mgd"))
    assert "inter_every=4" in repr(HUG("mgd", inter_every=4))
    assert "every" not in repr(HUG())
