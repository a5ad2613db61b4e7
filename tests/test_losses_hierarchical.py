"""Losses on class hierarchies: exact values, what weights favour, and numbers that underflow."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reference.hierarchical_losses
from cases.losses import LOSS_TREE
from neuralcollapse import (
    BarzDenzler,
    ConditionalSoftmax,
    CrossEntropy,
    DotRegression,
    HierarchicalCrossEntropy,
    HierarchyAwareFeatures,
    LinearHead,
    MultiGranularity,
    SoftLabels,
)
from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.hierarchy.level_groups import LevelGroups, grouped_logsumexp
from neuralcollapse.losses import AbstractLoss

BINARY = Hierarchy.from_newick("((A,B),(C,D));")
FLAT = Hierarchy.from_dict(["a", "b", "c", "d"])
# One leaf hangs off the root of a deeper tree.
LONE = Hierarchy.from_newick("(((a,b),c),lone);")
TREES = {"binary": BINARY, "flat": FLAT, "lone leaf": LONE, "inner classes": LOSS_TREE}


def free(rows: int, num_samples: int = 7, dim: int = 6, seed: int = 0) -> tuple[Tensor, ...]:
    """(features, labels, weight, bias), four classes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    labels = torch.randint(0, 4, (num_samples,), generator=generator)
    return normal(num_samples, dim), labels, normal(rows, dim), normal(rows)


def of_logits(loss: AbstractLoss, row: list[float], label: int) -> Tensor:
    """The loss of one sample with these logits."""
    values = torch.tensor([row], dtype=torch.float64)
    return loss(values, torch.tensor([label]), torch.eye(len(row), dtype=torch.float64))


# --- groups and their sums ------------------------------------------------------------------------


@pytest.mark.parametrize("name", TREES)
def test_the_groups_of_a_level_part_the_classes(name: str) -> None:
    groups = LevelGroups(TREES[name])
    assert groups.sizes[0] == 1
    assert groups.groups[:, -1].tolist() == [0, 1, 2, 3]
    for level in range(groups.height):
        assert {*groups.groups[:, level].tolist()} == {*range(groups.sizes[level])}
        finer = groups.groups[:, level + 1]
        assert torch.equal(groups.above(level)[finer], groups.groups[:, level])
    assert groups.num_rows == sum(groups.sizes[1:])
    assert list(groups.parameters()) == []
    assert groups.state_dict() == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_of_groups_far_apart_keep_their_digits(dtype: torch.dtype) -> None:
    values = torch.tensor([[1000.0, 1000.0, -1000.0, -1001.0]], dtype=dtype)
    sums = grouped_logsumexp(values, torch.tensor([0, 0, 1, 1]), 2)
    expected = [[1000 + math.log(2), -1000 + math.log1p(math.exp(-1))]]
    torch.testing.assert_close(sums, torch.tensor(expected, dtype=dtype))


# --- hierarchical cross entropy -------------------------------------------------------------------


@pytest.mark.parametrize("name", TREES)
def test_even_weights_are_plain_cross_entropy(name: str) -> None:
    """The steps telescope, on any tree: flat, with a leaf at the root, with inner classes."""
    operands = free(4)
    expected = float(CrossEntropy()(*operands))
    loss = HierarchicalCrossEntropy(TREES[name], depth_decay=0.0)
    assert float(loss(*operands)) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("decay", [-1.0, 0.4, 5.0])
def test_a_flat_tree_has_one_step_that_weighs_one(decay: float) -> None:
    operands = free(4)
    loss = HierarchicalCrossEntropy(FLAT, depth_decay=decay)
    assert float(loss(*operands)) == pytest.approx(float(CrossEntropy()(*operands)), rel=1e-13)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.6])
def test_the_published_scale_is_a_factor(alpha: float) -> None:
    """There the weight is exp(-alpha depth) / Z, Z = 1 + 2 e^-a + 4 e^-2a for four leaves."""
    features, labels, weight, bias = free(4)
    scale = 1 + 2 * math.exp(-alpha) + 4 * math.exp(-2 * alpha)
    p = (features @ weight.T + bias).softmax(1)
    published = []
    for row, y in zip(p.tolist(), labels.tolist(), strict=True):
        pair = row[0] + row[1] if y < 2 else row[2] + row[3]
        coarse, fine = math.exp(-alpha) / scale, math.exp(-2 * alpha) / scale
        published.append(-coarse * math.log(pair) - fine * math.log(row[y] / pair))
    ours = float(HierarchicalCrossEntropy(BINARY, alpha)(features, labels, weight, bias))
    expected = sum(published) / len(published) * scale * math.exp(alpha)
    assert ours == pytest.approx(expected, rel=1e-12)
    if alpha == 0:
        plain = float(CrossEntropy()(features, labels, weight, bias))
        assert sum(published) / len(published) / plain == pytest.approx(0.142857, rel=1e-5)


def test_positive_decay_counts_coarse_steps_more_and_negative_fine_ones() -> None:
    # B is a sibling of A, C a stranger; either way A has probability e^-3 beside the mistake.
    near, far = [0.0, 3.0, -40.0, -40.0], [0.0, -40.0, 3.0, -40.0]
    for decay, sign in ((1.0, 1), (0.0, 0), (-1.0, -1)):
        loss = HierarchicalCrossEntropy(BINARY, decay)
        gap = float(of_logits(loss, far, 0)) - float(of_logits(loss, near, 0))
        assert gap == pytest.approx(0, abs=1e-9) if sign == 0 else gap * sign > 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gap_of_200_costs_200_steps_and_has_a_gradient(dtype: torch.dtype) -> None:
    """Where the probability underflows, published code has loss 0 and gradient 0."""
    values = torch.tensor([[-200.0, -300.0, 0.0, -500.0]], dtype=dtype, requires_grad=True)
    eye = torch.eye(4, dtype=dtype)
    for decay in (0.0, 0.5):
        (gradient,) = torch.autograd.grad(
            loss := HierarchicalCrossEntropy(BINARY, decay)(values, torch.tensor([0]), eye), values
        )
        assert float(loss.detach()) == pytest.approx(200, rel=1e-6)  # all of it in the first step
        assert gradient[0].tolist() == pytest.approx([-1, 0, 1, 0], abs=1e-6)
    # Between siblings it is the second step's.
    inside = of_logits(HierarchicalCrossEntropy(BINARY, 0.5), [-200.0, 0.0, -900.0, -900.0], 0)
    assert float(inside) == pytest.approx(200 * math.exp(-0.5), rel=1e-12)


def test_a_leaf_at_the_root_of_a_deeper_tree_is_finite() -> None:
    """-log p in one step of weight 1; published code gives -inf."""
    row = [0.3, -0.2, 0.9, 0.1]
    expected = -float(torch.tensor(row, dtype=torch.float64).log_softmax(0)[3])
    for decay in (-2.0, 0.0, 2.0):
        loss = of_logits(HierarchicalCrossEntropy(LONE, decay), row, 3)
        assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_weights_are_tables_and_no_parameters() -> None:
    for loss in (HierarchicalCrossEntropy(BINARY), SoftLabels(BINARY), ConditionalSoftmax(BINARY)):
        assert list(loss.parameters()) == []
        assert loss.state_dict() == {}
        assert loss.double() is loss


# --- soft labels ----------------------------------------------------------------------------------


def test_soft_targets_have_their_published_values() -> None:
    for sharpness in (0.0, 2.0, 10.0):
        targets = SoftLabels(BINARY, sharpness).targets
        assert targets.sum(1).tolist() == pytest.approx([1] * 4, rel=1e-6)
        shares = [1, math.exp(-sharpness / 2), math.exp(-sharpness), math.exp(-sharpness)]
        expected = [share / sum(shares) for share in shares]
        assert targets[0].tolist() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(SoftLabels(BINARY, 0.0).targets, torch.full((4, 4), 0.25))
    assert torch.equal(SoftLabels(BINARY, 1e4).targets, torch.eye(4))


def test_sharp_targets_are_cross_entropy_and_a_mean_over_samples() -> None:
    operands = free(4)
    plain = float(CrossEntropy()(*operands))
    assert float(SoftLabels(BINARY, 1e4)(*operands)) == pytest.approx(plain, rel=1e-12)


def test_soft_targets_from_a_tree_or_its_matrix() -> None:
    tree = Hierarchy.from_newick("((a,b),((c,d),e));")
    from_tree = SoftLabels(tree, 4.0, kind="root_depth")
    from_matrix = SoftLabels(tree.distances("root_depth"), 4.0)
    assert torch.equal(from_tree.targets, from_matrix.targets)
    assert not torch.equal(from_tree.targets, SoftLabels(tree, 4.0).targets)


# --- conditional softmax --------------------------------------------------------------------------


@pytest.mark.parametrize("name", TREES)
def test_class_probabilities_sum_to_one_and_the_loss_is_their_cross_entropy(name: str) -> None:
    loss = ConditionalSoftmax(TREES[name])
    features, labels, weight, bias = free(loss.num_rows)
    scores = loss.class_scores(features, weight, bias)
    assert scores.shape == (7, 4)
    assert scores.exp().sum(1).tolist() == pytest.approx([1] * 7, rel=1e-12)
    own = -scores[torch.arange(7), labels].mean()
    assert float(loss(features, labels, weight, bias)) == pytest.approx(float(own), rel=1e-12)


def test_rows_are_classes_then_inner_nodes() -> None:
    assert ConditionalSoftmax(BINARY).num_rows == 6
    assert ConditionalSoftmax(FLAT).row_names == ("a", "b", "c", "d")
    # X is a class and an inner node: a row for itself among its children, one among its siblings.
    assert ConditionalSoftmax(LOSS_TREE).row_names == ("c", "X", "b", "a", "X", "Y")


def test_labels_that_sort_otherwise_as_text_keep_their_rows() -> None:
    """As text "10" stands before "2", which has permuted the labels of a published run."""
    names = [str(k) for k in range(12)]
    tree = Hierarchy.from_dict({"low": names[:6], "high": names[6:]})
    loss = ConditionalSoftmax(tree)
    assert loss.row_names == (*names, "low", "high")
    for label in (2, 10):
        weight = torch.zeros(14, 1, dtype=torch.float64)
        weight[label] = weight[12 + (label >= 6)] = 9.0
        scores = loss.class_scores(torch.ones(1, 1, dtype=torch.float64), weight)
        assert scores.argmax(1).tolist() == [label]
        assert float(scores.exp().max()) > 0.99


def test_conditional_softmax_of_a_flat_tree_is_cross_entropy() -> None:
    operands = free(4)
    plain = float(CrossEntropy()(*operands))
    assert float(ConditionalSoftmax(FLAT, 0.7)(*operands)) == pytest.approx(plain, rel=1e-12)


# --- Barz-Denzler ---------------------------------------------------------------------------------


def test_the_correlation_is_in_closed_form_for_four_leaves() -> None:
    """Similarity 1 - D / H: siblings .5, strangers 0; features on the sibling's embedding."""
    similarity = 1 - BINARY.distances() / 2
    assert similarity[0].tolist() == [1, 0.5, 0, 0]
    embeddings = torch.linalg.cholesky(similarity)
    labels = torch.arange(4)
    for order, expected in (([0, 1, 2, 3], 0.0), ([1, 0, 3, 2], 0.5), ([2, 3, 0, 1], 1.0)):
        loss = BarzDenzler()(3 * embeddings[order], labels, embeddings)
        assert float(loss) == pytest.approx(expected, abs=1e-14)


def test_it_falls_linearly_where_dot_regression_falls_with_the_square() -> None:
    eye = torch.eye(2, dtype=torch.float64)
    for cosine in (-1.0, 0.0, 0.9):
        feature = torch.tensor([[cosine, math.sqrt(1 - cosine**2)]], dtype=torch.float64)
        linear = float(BarzDenzler()(feature, torch.tensor([0]), eye))
        square = float(DotRegression()(feature, torch.tensor([0]), eye))
        assert linear == pytest.approx(1 - cosine)
        assert square == pytest.approx(linear**2 / 2)


# --- a classifier for each level ------------------------------------------------------------------


def test_coarse_levels_send_no_gradient_into_fine_parts() -> None:
    loss = MultiGranularity(BINARY)
    features, labels, weight, bias = free(6)
    features.requires_grad_()
    weight.requires_grad_()
    terms = loss.terms(features, labels, weight, bias)
    assert list(terms) == ["level_1", "level_2"]
    for level, own in ((1, slice(0, 3)), (2, slice(3, 6))):
        f, w = torch.autograd.grad(terms[f"level_{level}"], (features, weight), retain_graph=True)
        others = torch.ones(6, dtype=torch.bool)
        others[own] = False
        assert bool((f[:, own] != 0).all())
        assert bool((f[:, others] == 0).all())
        used = torch.zeros(6, 6, dtype=torch.bool)
        used[loss.level_rows(level), own.start :] = True
        assert torch.equal(w != 0, used)


def test_the_classes_see_the_finest_part_alone() -> None:
    loss = MultiGranularity(BINARY)
    features, _, weight, bias = free(6)
    scores = loss.class_scores(features, weight, bias)
    torch.testing.assert_close(scores, features[:, 3:] @ weight[:4, 3:].T + bias[:4])


def test_widths_that_do_not_divide_are_parted_as_evenly_as_can_be() -> None:
    loss = MultiGranularity(LONE)  # three levels
    features, labels, weight, bias = free(loss.num_rows, dim=4)
    features.requires_grad_()
    loss(features, labels, weight, bias).backward()
    assert features.grad is not None
    assert bool((features.grad != 0).all())
    with pytest.raises(
        ValueError, match=r"features must have a part for each of the 3 levels, got"
    ):
        loss(features[:, :2], labels, weight[:, :2], bias)


# --- hierarchy-aware features ---------------------------------------------------------------------


def consistent_rows() -> tuple[Tensor, Tensor]:
    """(scores as features, weight, an identity): fine probabilities, and their sums by pairs."""
    fine = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fine = fine.log_softmax(1)
    coarse = torch.stack([fine[:, :2].logsumexp(1), fine[:, 2:].logsumexp(1)], 1)
    return torch.cat([fine, coarse], 1), torch.eye(6, dtype=torch.float64)


def test_consistent_levels_diverge_by_nothing_and_opposite_ones_by_log_two() -> None:
    loss, labels = HierarchyAwareFeatures(BINARY), torch.tensor([0, 1, 2, 3, 0])
    features, weight = consistent_rows()
    assert float(loss.terms(features, labels, weight)["consistency"]) == pytest.approx(0, abs=1e-15)
    # All fine probability in one pair, all coarse probability in the other.
    opposite = torch.tensor([[900.0, 0, 0, 0, 0, 900.0]], dtype=torch.float64)
    found = float(loss.terms(opposite, labels[:1], weight)["consistency"])
    assert found == pytest.approx(math.log(2), rel=1e-14)
    scores = 50 * torch.randn(200, 6, generator=torch.Generator().manual_seed(2)).double()
    each = [float(loss.terms(s[None], labels[:1], weight)["consistency"]) for s in scores]
    assert 0 <= min(each) < 0.01
    assert 0.6 < max(each) <= math.log(2) + 1e-15


def test_rows_along_the_sum_of_their_children_are_aligned() -> None:
    loss = HierarchyAwareFeatures(BINARY)
    fine = torch.randn(4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    units = nn.functional.normalize(fine)
    coarse = torch.stack([units[0] + units[1], units[2] + units[3]])
    features, labels, *_ = free(6)
    for scale, expected in ((7.0, 0.0), (-1.0, 2.0)):
        weight = torch.cat([fine, scale * coarse])
        found = float(loss.terms(features, labels, weight)["alignment"])
        assert found == pytest.approx(expected, abs=1e-14)


def test_separation_compares_neighbours_of_other_groups() -> None:
    operands = free(10, num_samples=9)
    arrays = [t.numpy() for t in operands]
    tree = reference.hierarchical_losses.Tree(
        LOSS_TREE.parent.tolist(), LOSS_TREE.node_of_class.tolist()
    )
    slow = reference.hierarchical_losses.hierarchy_aware_features(*arrays, tree=tree)
    assert float(HierarchyAwareFeatures(LOSS_TREE)(*operands)) == pytest.approx(slow, rel=1e-12)
    assert slow > 0
    # One group, or one sample: nobody to keep apart from.
    loss = HierarchyAwareFeatures(BINARY)
    features, labels, weight, bias = free(6)
    for rows, same in ((slice(0, 5), torch.tensor([0, 1, 0, 0, 1])), (slice(0, 1), labels[:1])):
        assert float(loss.terms(features[rows], same, weight, bias)["separation"]) == 0


def test_the_margin_can_be_met() -> None:
    """The published 3 cannot: a divergence is at most log 2. Its gradient is the same."""
    loss, weight = HierarchyAwareFeatures(BINARY), torch.eye(6, dtype=torch.float64)
    scores = torch.zeros(2, 6, dtype=torch.float64)
    scores[0, 4] = scores[1, 5] = 900
    apart = loss.terms(scores, torch.tensor([0, 2]), weight)["separation"]
    assert float(apart) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("gap", [1e3, 1e6])
def test_divergences_of_certain_predictions_are_finite(gap: float) -> None:
    loss = HierarchyAwareFeatures(BINARY)
    scores = torch.zeros(3, 6)
    scores[0, 0] = scores[1, 3] = scores[2, 4] = gap
    scores.requires_grad_()
    value = loss(scores, torch.tensor([1, 2, 3]), torch.eye(6))
    value.backward()
    assert bool(torch.isfinite(value))
    assert scores.grad is not None
    assert bool(torch.isfinite(scores.grad).all())


# --- all of them learn ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss",
    [
        HierarchicalCrossEntropy(BINARY, 0.5),
        SoftLabels(BINARY, 5.0),
        ConditionalSoftmax(BINARY),
        MultiGranularity(BINARY),
        HierarchyAwareFeatures(BINARY),
    ],
    ids=lambda loss: loss.name,
)
def test_a_head_trained_with_the_loss_finds_the_classes(loss: AbstractLoss) -> None:
    generator = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(4, 8, generator=generator)
    labels = torch.arange(4).repeat(20)
    features = means[labels] + torch.randn(80, 8, generator=generator)
    rows = getattr(loss, "num_rows", 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = LinearHead(rows, 8)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        operands = head.operands(features)
        loss(operands[0], labels, *operands[1:]).backward()
        optimiser.step()
    scores = getattr(loss, "class_scores", lambda f, w, b: f @ w.T + b)(*head.operands(features))
    assert float((scores.argmax(1) == labels).float().mean()) > 0.9


# --- what is refused ------------------------------------------------------------------------------

REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda: HierarchicalCrossEntropy([0]), TypeError, "hierarchy must be a Hierarchy, got list"),  # pyright: ignore[reportArgumentType]
    (lambda: ConditionalSoftmax(None), TypeError, "hierarchy must be a Hierarchy, got NoneType"),  # pyright: ignore[reportArgumentType]
    (lambda: MultiGranularity("x"), TypeError, "hierarchy must be a Hierarchy, got str"),  # pyright: ignore[reportArgumentType]
    (lambda: HierarchyAwareFeatures({}), TypeError, "hierarchy must be a Hierarchy, got dict"),  # pyright: ignore[reportArgumentType]
    (lambda: SoftLabels([[0]]), TypeError, "distances must be a torch.Tensor, got list"),  # pyright: ignore[reportArgumentType]
    (lambda: SoftLabels(torch.ones(2, 3)), ValueError, "distances must have 3 rows"),
    (lambda: SoftLabels(-torch.ones(2, 2)), ValueError, "similarities become distances"),
    (lambda: SoftLabels(BINARY, -1.0), ValueError, "sharpness must be finite and at least 0"),
    (lambda: SoftLabels(BINARY, kind="height"), ValueError, "kind must be one of"),  # pyright: ignore[reportArgumentType]
    (
        lambda: MultiGranularity(Hierarchy.from_newick("a;")),
        ValueError,
        "at least 2 classes, got 1",
    ),
    (lambda: HierarchicalCrossEntropy(BINARY, math.inf), ValueError, "depth_decay must be finite"),
    (lambda: HierarchyAwareFeatures(BINARY, -1), ValueError, "consistency must be finite and at"),
]


@pytest.mark.parametrize("make, error, message", REFUSED)
def test_what_cannot_be_made_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "loss, message",
    [
        (HierarchicalCrossEntropy(BINARY), r"weight must have 4 rows \(the classes of the hier"),
        (SoftLabels(BINARY), r"weight must have 4 rows \(the classes of distances\), got 5"),
        (ConditionalSoftmax(BINARY), r"weight must have 6 rows.*LinearHead\(loss.num_rows, dim"),
        (MultiGranularity(BINARY), r"weight must have 6 rows.*LinearHead\(loss.num_rows, dim"),
        (HierarchyAwareFeatures(BINARY), r"weight must have 6 rows.*LinearHead\(loss.num_rows"),
    ],
    ids=lambda value: value.name if isinstance(value, AbstractLoss) else "",
)
def test_a_classifier_of_other_rows_is_refused(loss: AbstractLoss, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss(torch.ones(2, 6), torch.tensor([0, 1]), torch.ones(5, 6))


@pytest.mark.parametrize(
    "loss", [ConditionalSoftmax(BINARY), MultiGranularity(BINARY), HierarchyAwareFeatures(BINARY)]
)
def test_a_label_that_names_an_inner_row_is_refused(loss: AbstractLoss) -> None:
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 4\), got values from 0 to 5"):
        loss(torch.ones(2, 6), torch.tensor([0, 5]), torch.ones(6, 6))
