"""The cosine term: where it is zero, what moves it, how it is scheduled, and what it mends."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import cosine_term
from neuralcollapse import CrossEntropy, FrameCosine, hierarchy_frame, simplex_etf
from neuralcollapse.hierarchy import Hierarchy

BINARY = Hierarchy.from_newick("((a,b),(c,d));")
VECTORS = hierarchy_frame(BINARY, decay_rate=2.0, dtype=torch.float64).vectors
LABELS = torch.arange(4)


def term(features: Tensor, labels: Tensor, weight: Tensor) -> float:
    return float(FrameCosine(mixing=1.0).terms(features, labels, weight)["frame_cosine"])


def normal(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_positive_multiples_of_the_vectors_cost_nothing() -> None:
    for length in (1e-6, 1.0, 40.0):
        assert term(length * VECTORS, LABELS, VECTORS) == pytest.approx(0, abs=1e-28)
        assert term(length * VECTORS, LABELS, 3 * VECTORS) == pytest.approx(0, abs=1e-28)
    assert term(-VECTORS, LABELS, VECTORS) > 1
    assert term(VECTORS[[1, 0, 2, 3]], LABELS, VECTORS) > 1


def test_a_sibling_costs_less_than_a_stranger() -> None:
    """Each in closed form: the squared differences of two rows of the Gram matrix."""
    near, far = -0.0707329, -0.4646335
    own = torch.tensor([0])
    sibling = term(VECTORS[[1]], own, VECTORS)
    stranger = term(VECTORS[[2]], own, VECTORS)
    assert sibling == pytest.approx(2 * (1 - near) ** 2, rel=1e-6)
    assert stranger == pytest.approx(2 * (1 - far) ** 2 + 2 * (near - far) ** 2, rel=1e-6)
    assert sibling < stranger


def test_the_gradient_is_orthogonal_to_the_feature() -> None:
    """The term sees directions only."""
    features = normal(9, 3).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0])
    FrameCosine(mixing=1.0)(features, labels, VECTORS).backward()
    assert features.grad is not None
    assert float(features.grad.norm()) > 0.1
    along = (features.grad * features.detach()).sum(1)
    assert float(along.abs().max()) < 1e-15


def test_a_zero_feature_costs_the_squares_of_the_own_row() -> None:
    found = term(torch.zeros(1, 3).double(), torch.tensor([0]), VECTORS)
    assert found == pytest.approx(1 + 0.0707329**2 + 2 * 0.4646335**2, rel=1e-6)


@pytest.mark.parametrize("mixing, share", [(0.0, 1.0), (0.4, 0.6), (1.0, 0.0), (1.5, 1.0)])
def test_the_halves_are_mixed_as_published(mixing: float, share: float) -> None:
    features, labels = normal(4, 3), LABELS
    terms = FrameCosine(mixing).terms(features, labels, VECTORS)
    plain = float(CrossEntropy()(features, labels, VECTORS))
    assert float(terms["cross_entropy"]) == pytest.approx(share * plain, rel=1e-14)
    whole = mixing * term(features, labels, VECTORS)
    assert float(terms["frame_cosine"]) == pytest.approx(whole, rel=1e-14)


def test_half_precision_is_precise_near_the_optimum() -> None:
    """The difference is taken before the product: its square keeps its digits under autocast."""
    features = (VECTORS + 1e-3 * normal(4, 3)).float()
    exact = term(features.double(), LABELS, VECTORS)
    with torch.autocast("cpu", torch.bfloat16):
        found = FrameCosine(mixing=1.0).terms(features, LABELS, VECTORS.float())["frame_cosine"]
    assert found.dtype == torch.float32
    assert exact < 1e-4
    # Products of numbers with 8 bits; a difference of rounded cosines would be wrong by 1e-5.
    assert float(found) == pytest.approx(exact, rel=2e-2)


# --- schedules ----------------------------------------------------------------------------------


def test_a_schedule_follows_progress() -> None:
    loss = FrameCosine(lambda share: 0.8 * (1 - share))
    for share, mixing in ((0.0, 0.8), (0.5, 0.4), (1.0, 0.0)):
        loss.set_progress(share)
        assert loss.mixing == pytest.approx(mixing)
        features = normal(4, 3)
        expected = FrameCosine(mixing)(features, LABELS, VECTORS)
        assert float(loss(features, LABELS, VECTORS)) == pytest.approx(float(expected))
    assert FrameCosine(lambda share: 0.8 * (1 - share)).mixing == 0.8
    assert "scheduled" in repr(loss)


def test_a_constant_mixing_stays() -> None:
    loss = FrameCosine(0.4)
    loss.set_progress(0.9)
    assert loss.mixing == 0.4
    assert repr(loss) == "FrameCosine(mixing=0.4)"


def test_mixings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mixing must be finite and at least 0, got -0\.1"):
        FrameCosine(-0.1)
    with pytest.raises(TypeError, match=r"mixing must be a number, got '0\.5'"):
        FrameCosine("0.5")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="mixing must be finite and at least 0, got -1"):
        FrameCosine(lambda share: share - 1)
    falling = FrameCosine(lambda share: 0.5 - share)
    with pytest.raises(ValueError, match=r"mixing must be finite and at least 0, got -0\.5"):
        falling.set_progress(1.0)
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\], got 30.0; divide steps"):
        falling.set_progress(30)
    with pytest.raises(ValueError, match="share must be finite and at least 0"):
        falling.set_progress(math.nan)


# --- what it is for -------------------------------------------------------------------------------


def test_cross_entropy_alone_ends_against_the_hierarchy() -> None:
    """The longer the features, the nearer to the limit, siblings further apart than strangers."""
    frame = hierarchy_frame(BINARY, decay_rate=2.0, dtype=torch.float64)
    found = [
        cosine_term.outcome(cosine_term.at_length(frame, length), frame, BINARY)
        for length in (2.0, 10.0, 1000.0)
    ]
    assert found[0].targets == pytest.approx([-0.0707329, -0.4646335], abs=1e-6)
    siblings, strangers = zip(*(one.cosines for one in found), strict=True)
    assert list(siblings) == sorted(siblings, reverse=True)
    assert list(strangers) == sorted(strangers)
    assert siblings[1] < strangers[1] - 0.2
    assert found[-1].cosines == pytest.approx([-0.553, -0.224], abs=2e-3)


def test_the_cosine_term_mends_it() -> None:
    alone, mended = (cosine_term.trained(BINARY, mixing=m, steps=300) for m in (0.0, 0.4))
    assert alone.deviation > 0.05  # and on its way to 0.32, the limit's
    assert mended.deviation < 0.015  # and on its way to 0
    assert mended.alignment > 0.999
    assert mended.cosines == pytest.approx(mended.targets, abs=0.02)


@pytest.mark.long
def test_on_the_tree_of_a_hundred_classes() -> None:
    tree = Hierarchy.cifar100()
    alone, mended = (cosine_term.trained(tree, mixing=mixing) for mixing in (0.0, 0.4))
    assert alone.deviation > 0.1
    assert alone.cosines[0] < 0.2 < 0.5 < alone.targets[0]
    assert mended.deviation < 0.005
    assert mended.alignment > 0.999


def test_the_limit_of_cross_entropy_alone() -> None:
    frame = hierarchy_frame(BINARY, decay_rate=2.0, dtype=torch.float64)
    four = cosine_term.outcome(cosine_term.limit(frame), frame, BINARY)
    assert four.cosines == pytest.approx([-0.553, -0.224], abs=5e-4)
    # On a tree that is less even, with the published floor: cosine .709, siblings at -.196.
    tree = Hierarchy.cifar100()
    frame = hierarchy_frame(tree, decay_rate=2.0, floor="search", dtype=torch.float64)
    hundred = cosine_term.outcome(cosine_term.limit(frame), frame, tree)
    assert hundred.alignment == pytest.approx(0.709, abs=2e-3)
    assert hundred.cosines[0] == pytest.approx(-0.196, abs=5e-3)


def test_the_limit_is_the_largest_margin() -> None:
    """All margins equal, and the feature a positive mixture of the differences w_y - w_k."""
    tree = Hierarchy.from_newick("(((a,b),c),(d,e,f));")
    frame = hierarchy_frame(tree, decay_rate=1.5, dtype=torch.float64)
    vectors, features = frame.vectors, cosine_term.limit(frame)
    for y, feature in enumerate(features):
        gaps = vectors[y] - vectors[[k for k in range(6) if k != y]]
        margins = gaps @ feature
        assert margins.tolist() == pytest.approx([float(margins[0])] * 5, rel=1e-10)
        shares = torch.linalg.lstsq(gaps.T, feature[:, None]).solution
        assert float((gaps.T @ shares - feature[:, None]).abs().max()) < 1e-10
        assert bool((shares > 0).all())


@pytest.mark.parametrize("mixing", [0.0, 0.4])
def test_on_a_simplex_both_halves_agree(mixing: float) -> None:
    frame = simplex_etf(4, 3, dtype=torch.float64)
    features = normal(4, 3).requires_grad_()
    optimiser = torch.optim.Adam([features], lr=0.1)
    loss = FrameCosine(mixing)
    for _ in range(400):
        optimiser.zero_grad()
        loss(features, LABELS, frame.vectors).backward()
        optimiser.step()
    units = torch.nn.functional.normalize(features.detach())
    alignment = (units * frame.vectors).sum(1)
    # Cross entropy alone turns ever more slowly as the features grow.
    assert float(alignment.min()) > (0.999 if mixing else 0.98)
