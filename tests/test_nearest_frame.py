"""The nearest frame: closed form against a search, gradients against differences, the head."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cases.worlds import rotation
from neuralcollapse import CrossEntropy, Frame, NearestFrameHead, nearest_frame, simplex_etf
from neuralcollapse.geometry import simplex_gram

DOUBLE: dict[str, Any] = {"dtype": torch.float64}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def gram_of_rank(num_classes: int, rank: int, seed: int = 1) -> Tensor:
    vectors = randn(num_classes, rank, seed=seed)
    return vectors @ vectors.T


CASES = {
    "simplex": (simplex_gram(5), 7),
    "simplex that just fits": (simplex_gram(5), 4),
    "of full rank": (gram_of_rank(4, 4), 6),
    "of low rank": (gram_of_rank(6, 2), 3),
    "K > d": (gram_of_rank(9, 3), 3),
}
cases = pytest.mark.parametrize(("gram", "dim"), CASES.values(), ids=[*CASES])


@cases
def test_the_target_has_the_gram_matrix(gram: Tensor, dim: int) -> None:
    target = nearest_frame(randn(len(gram), dim), gram)
    torch.testing.assert_close(target @ target.T, gram, rtol=1e-9, atol=1e-9)


@cases
def test_no_other_vectors_with_that_gram_matrix_are_nearer(gram: Tensor, dim: int) -> None:
    """All of them are the target turned; random turns, large and small, take it away."""
    means = randn(len(gram), dim)
    target = nearest_frame(means, gram)
    least = float((target - means).norm())
    for seed in range(20):
        skew = randn(dim, dim, seed=seed)
        for size in (1e-3, 1.0):
            turn = torch.linalg.matrix_exp(size * (skew - skew.T))
            assert float((target @ turn - means).norm()) > least
        reflected = torch.from_numpy(rotation(dim, seed))
        assert float((target @ reflected - means).norm()) > least


def test_the_target_is_the_procrustes_solution_of_scipy() -> None:
    from scipy.linalg import orthogonal_procrustes

    vectors, means = randn(8, 5), randn(8, 5, seed=3)
    turn, _ = orthogonal_procrustes(vectors.numpy(), means.numpy())
    found = nearest_frame(means, vectors @ vectors.T)
    assert np.allclose(found.numpy(), vectors.numpy() @ turn, atol=1e-9)


def test_a_frame_is_nearest_to_itself_turned_and_scaled() -> None:
    frame = simplex_etf(6, 9, dtype=torch.float64)
    turned = 3 * frame.vectors @ torch.from_numpy(rotation(9, 4))
    found = nearest_frame(turned + randn(1, 9), frame.gram)
    # The common shift is orthogonal to what a centred frame can use.
    torch.testing.assert_close(found, turned / 3, rtol=0, atol=1e-9)


@cases
def test_gradient_to_the_means(gram: Tensor, dim: int) -> None:
    means = randn(len(gram), dim).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: nearest_frame(m, gram), (means,), atol=1e-6)


@pytest.mark.parametrize("rank", [2, 4])
def test_gradient_to_the_gram_matrix(rank: int) -> None:
    """Through vectors, as only sums of squares of them are Gram matrices of that rank."""
    vectors = randn(4, rank, seed=5).requires_grad_()
    means = randn(4, 6).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda m, v: nearest_frame(m, v @ v.T), (means, vectors), atol=1e-6
    )


def test_gradient_where_singular_values_coincide() -> None:
    """The derivative of a singular value decomposition is infinite here."""
    frame = simplex_etf(4, 6, dtype=torch.float64)
    means = frame.vectors.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: nearest_frame(m, frame.gram), (means,), atol=1e-6)


def test_half_and_single_precision() -> None:
    means, gram = randn(5, 7), simplex_gram(5)
    exact = nearest_frame(means, gram)
    single = nearest_frame(means.float(), gram.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(nearest_frame(means, gram), exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("means", "gram", "told"),
    [
        (randn(4, 6), simplex_gram(5), "frame_gram must have 4 rows"),
        (randn(5, 3), simplex_gram(5), r"rank of at most 3, the width of the means, got 4"),
        (randn(3, 3), torch.eye(3).roll(1, 0), "frame_gram must be symmetric"),
        (randn(3, 3), -torch.eye(3), "a positive and no negative eigenvalue"),
        (randn(3, 3), torch.zeros(3, 3), "a positive and no negative eigenvalue"),
        (randn(3, 3) * torch.nan, torch.eye(3), "means must be finite"),
    ],
)
def test_bad_arguments_are_refused(means: Tensor, gram: Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        nearest_frame(means, gram)


@pytest.mark.slow
def test_a_thousand_classes_take_less_than_a_second() -> None:
    gram, means = gram_of_rank(1000, 512), randn(1000, 512, seed=2)
    nearest_frame(means[:10, :10], torch.eye(10))
    start = time.process_time()
    nearest_frame(means, gram)
    assert time.process_time() - start < 1


# --- the head -------------------------------------------------------------------------------------


def test_the_head_turns_its_frame_to_the_class_means() -> None:
    frame = simplex_etf(4, 6, dtype=torch.float64)
    aim = frame.vectors @ torch.from_numpy(rotation(6, 8))
    head = NearestFrameHead(frame, momentum=0.0)
    torch.testing.assert_close(head.weight, frame.vectors)
    labels = torch.arange(12) % 4
    head.operands(5 * aim[labels] + 0.01 * randn(12, 6), labels)
    assert float((head.weight - aim).norm()) < 0.05
    torch.testing.assert_close(head.weight @ head.weight.T, frame.gram, rtol=0, atol=1e-9)


def test_the_head_stays_where_it_is_in_evaluation_and_without_labels() -> None:
    head = NearestFrameHead(simplex_etf(4, 6)).eval()
    before = head.weight.clone()
    head.operands(torch.randn(8, 6), torch.arange(8) % 4)
    head.train().operands(torch.randn(8, 6))
    assert torch.equal(head.weight, before)
    assert [name for name, _ in head.named_parameters()] == []


def test_the_state_goes_on_where_it_was() -> None:
    one, two = (NearestFrameHead(simplex_etf(3, 4), momentum=0.5) for _ in range(2))
    features, labels = torch.randn(9, 4), torch.arange(9) % 3
    one.operands(features, labels)
    two.load_state_dict(one.state_dict())
    for head in (one, two):
        head.operands(features.flip(0), labels)
    assert torch.equal(one.weight, two.weight)


def test_gradients_flow_through_the_batch_only_if_asked() -> None:
    labels = torch.arange(8) % 4
    found = []
    for through_batch in (False, True):
        head = NearestFrameHead(
            simplex_etf(4, 6, dtype=torch.float64), momentum=0.0, through_batch=through_batch
        )
        features = randn(8, 6, seed=3).requires_grad_()
        scaled, weight, _ = head.operands(features, labels)
        assert weight.requires_grad == through_batch
        CrossEntropy()(scaled, labels, weight).backward()
        found.append(features.grad)
    assert not torch.allclose(found[0], found[1])  # pyright: ignore[reportArgumentType]


def test_training_with_it_collapses_free_features() -> None:
    """Features without a network under cross entropy go to the frame."""
    head = NearestFrameHead(simplex_etf(5, 8, dtype=torch.float64), temperature=0.2)
    features, labels = randn(20, 8, seed=7).requires_grad_(), torch.arange(20) % 5
    optimiser = torch.optim.SGD([features], lr=20.0)
    for _ in range(300):
        optimiser.zero_grad()
        scaled, weight, _ = head.operands(features, labels)
        CrossEntropy()(scaled, labels, weight).backward()
        optimiser.step()
    units = features.detach() / features.detach().norm(dim=1, keepdim=True)
    assert float((units * head.weight[labels]).sum(1).min()) > 0.97


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(TypeError, match="frame must be a Frame, got Tensor"):
        NearestFrameHead(torch.eye(3))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="momentum must be below 1, got 1"):
        NearestFrameHead(Frame("axes", torch.eye(3)), momentum=1)
