"""Heads against slow logits; a fixed head is a buffer that survives every save."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from cases.heads import HEAD_CASES, HeadCase, head_cases
from neuralcollapse import (
    CosineHead,
    CrossEntropy,
    DeepLinearHead,
    FixedHead,
    LinearHead,
    simplex_etf,
)
from neuralcollapse.heads import AbstractHead


def features(count: int = 5) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", **head_cases)
def test_logits_equal_the_slow_loops(case: HeadCase) -> None:
    head, rows = case.make(), features()
    logits = head(rows).detach()
    assert logits.shape == (5, 4)
    for i, row in enumerate(rows.double().numpy()):
        for k in range(4):
            # Float32 products of six numbers, scaled by 10 in the cosine head.
            expected = case.logit(head, row, k)
            assert float(logits[i, k]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("case", **head_cases)
def test_the_operands_are_those_of_the_logits(case: HeadCase) -> None:
    head, rows = case.make(), features()
    scaled, weight, bias = head.operands(rows)
    logits = scaled @ weight.T + (0 if bias is None else bias)
    torch.testing.assert_close(logits, head(rows))
    # What is measured as the classifier decides as the head does.
    effective = rows @ head.weight.T + (0 if head.bias is None else head.bias)
    assert torch.equal(effective.argmax(1), head(rows).argmax(1))
    assert (head.num_classes, head.dim) == (4, 6)
    assert head.weight.shape == (4, 6)


@pytest.mark.parametrize("case", **head_cases)
def test_a_loss_takes_the_operands(case: HeadCase) -> None:
    head, rows = case.make(), features().requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 0])
    loss = CrossEntropy()(*_with_labels(head.operands(rows), labels))
    expected = nn.functional.cross_entropy(head(rows), labels)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    loss.backward()
    assert rows.grad is not None
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in head.parameters())


def _with_labels(
    operands: tuple[Tensor, Tensor, Tensor | None], labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    rows, weight, bias = operands
    return rows, labels, weight, bias


@pytest.mark.parametrize("case", **head_cases)
def test_learned_heads_have_parameters_and_fixed_ones_none(case: HeadCase) -> None:
    parameters = list(case.make().parameters())
    assert bool(parameters) == case.learned
    assert all(parameter.requires_grad for parameter in parameters)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("case", **head_cases)
def test_features_of_another_precision(case: HeadCase, dtype: torch.dtype) -> None:
    head = case.make()
    logits = head(features().to(dtype))
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), head(features()), rtol=2e-2, atol=0.2)


@pytest.mark.parametrize("case", **head_cases)
def test_a_head_follows_its_module(case: HeadCase, tmp_path: Path) -> None:
    """Saved, loaded, moved, copied: the classifier in effect is the same."""
    head = case.make()
    expected = head(features())
    path = tmp_path / "head.safetensors"
    safetensors.torch.save_file(head.state_dict(), path)
    other = case.make()
    for tensor in other.state_dict().values():
        tensor.fill_(9)
    other.load_state_dict(safetensors.torch.load_file(path))
    torch.testing.assert_close(other(features()), expected, rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(head)(features()), expected, rtol=0, atol=0)
    double = copy.deepcopy(head).double()
    assert double.weight.dtype == torch.float64
    torch.testing.assert_close(double(features().double()).float(), expected)


def test_the_frame_of_a_fixed_head_is_a_buffer() -> None:
    frame = simplex_etf(4, 6, torch.Generator().manual_seed(7))
    head = FixedHead(frame, scale=3.0)
    assert list(head.parameters()) == []
    assert list(head.state_dict()) == ["weight"]
    torch.testing.assert_close(head.weight, 3 * frame.vectors, rtol=0, atol=0)
    assert head.bias is None
    assert not head.weight.requires_grad
    # A checkpoint carries the orientation, whatever the head was made with.
    other = FixedHead(simplex_etf(4, 6, torch.Generator().manual_seed(8)))
    assert not torch.equal(other.weight, head.weight)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.weight, head.weight)
    # And training does not move it.
    model = nn.Sequential(nn.Linear(6, 6), head)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.5)
    model(features()).square().sum().backward()
    optimiser.step()
    torch.testing.assert_close(head.weight, 3 * frame.vectors, rtol=0, atol=0)


def test_a_fixed_head_does_not_share_the_frame() -> None:
    frame = simplex_etf(4, 6)
    before = frame.vectors.clone()
    head = FixedHead(frame)
    with torch.no_grad():
        head.weight.zero_()
    assert torch.equal(frame.vectors, before)


def test_cosine_logits_are_bounded_and_blind_to_length() -> None:
    head = CosineHead(4, 6, temperature=0.25).requires_grad_(False)
    logits = head(features())
    assert float(logits.abs().max()) <= 4 * (1 + 1e-6)
    lengths = torch.tensor([[0.01], [1.0], [5.0], [70.0], [1e4]])
    torch.testing.assert_close(head(lengths * features()), logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(4))
    assert head(torch.zeros(2, 6)).tolist() == [[0.0] * 4] * 2
    rows = torch.zeros(2, 6, requires_grad=True)
    head(rows).sum().backward()
    assert rows.grad is not None
    assert bool(torch.isfinite(rows.grad).all())


def test_a_new_linear_head_is_torchs() -> None:
    torch.manual_seed(0)
    ours = LinearHead(200, 64).weight.detach()
    theirs = nn.Linear(64, 200).weight.detach()
    bound = 64**-0.5
    assert float(ours.abs().max()) <= bound
    assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.05)
    head = LinearHead(200, 64)
    assert head.bias is not None
    assert bool((head.bias == 0).all())


def test_a_new_deep_linear_head_keeps_the_size_of_features() -> None:
    torch.manual_seed(0)
    rows = torch.randn(500, 256)
    for scale, depth in itertools.product((1.0, 0.5), (1, 3)):
        head = DeepLinearHead(256, 256, depth=depth, init_scale=scale)
        # 65,536 logits, but of few layers: each layer's mean square is off by 1/256 or so.
        assert float(head(rows).detach().std()) == pytest.approx(scale**depth, rel=0.05)
        assert head.bias is not None
        assert bool((head.bias == 0).all())


def test_the_layers_of_a_deep_linear_head_are_its_parameters() -> None:
    head = DeepLinearHead(4, 6, depth=3, width=5)
    assert [tuple(layer.shape) for layer in head.layers] == [(5, 6), (5, 5), (4, 5)]
    assert [name for name, _ in head.named_parameters()] == [
        "bias", "layers.0", "layers.1", "layers.2",
    ]  # fmt: skip
    assert head.depth == 3
    # Each may have a decay of its own, and only what is decayed shrinks.
    groups: list[dict[str, Any]] = [
        {"params": [layer], "weight_decay": decay}
        for layer, decay in zip(head.layers, (0.0, 0.5, 1.0), strict=True)
    ]
    before = [layer.detach().clone() for layer in head.layers]
    head(torch.zeros(2, 6)).sum().backward()
    torch.optim.SGD(groups, lr=0.1).step()
    for layer, old, factor in zip(head.layers, before, (1.0, 0.95, 0.9), strict=True):
        torch.testing.assert_close(layer.detach(), factor * old)
    assert [tuple(layer.shape) for layer in DeepLinearHead(4, 6, depth=2).layers] == [
        (6, 6), (4, 6),
    ]  # fmt: skip


REFUSED: list[tuple[Callable[[], AbstractHead], type[Exception], str]] = [
    (lambda: LinearHead(0, 6), ValueError, "num_classes must be at least 1, got 0"),
    (lambda: LinearHead(4, 0), ValueError, "dim must be at least 1, got 0"),
    (lambda: LinearHead(4.0, 6), TypeError, "num_classes must be an integer"),  # pyright: ignore
    (lambda: CosineHead(4, -1), ValueError, "dim must be at least 1, got -1"),
    (lambda: CosineHead(4, 6, temperature=0), ValueError, "temperature must be .*above 0, got 0"),
    (lambda: CosineHead(4, 6, temperature=math.nan), ValueError, "temperature must be finite"),
    (lambda: DeepLinearHead(4, 6, depth=0), ValueError, "depth must be at least 1, got 0"),
    (lambda: DeepLinearHead(4, 6, depth=2, width=0), ValueError, "width must be at least 1, got 0"),
    (
        lambda: DeepLinearHead(4, 6, depth=2, init_scale=0),
        ValueError,
        "init_scale must be .*above 0, got 0",
    ),
    (lambda: DeepLinearHead(4, 6.0, depth=2), TypeError, "dim must be an integer"),  # pyright: ignore
    (lambda: FixedHead(simplex_etf(4, 6), scale=-1), ValueError, "scale must be .*above 0, got -1"),
    (lambda: FixedHead(torch.eye(4)), TypeError, "frame must be a Frame, got Tensor"),  # pyright: ignore
]


@pytest.mark.parametrize("make, error, message", REFUSED)
def test_heads_that_make_no_sense_are_refused(
    make: Callable[[], AbstractHead], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("case", **head_cases)
def test_a_head_describes_itself(case: HeadCase) -> None:
    text: Any = repr(case.make())
    assert case.kind.__name__ in text
    assert "4" in text
    assert "6" in text


def test_every_kind_of_head_is_learned_or_fixed() -> None:
    assert {case.learned for case in HEAD_CASES} == {True, False}
