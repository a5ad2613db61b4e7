"""Classifiers that are 1 x 1 convolutions: taken where pooled features give the logits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuralcollapse import FeatureTap, LinearHead, head_operands, measure, measure_features, to_head
from neuralcollapse.tap import find_head


class Convolutional(nn.Module):
    """A body and a 1 x 1 convolution, before or after the mean over positions.

    `order` says what comes after the body: "pool, fc" as in the networks of Big Transfer,
    "fc, pool" as in fully convolutional ones, "fc, relu, pool" as in SqueezeNet.
    """

    def __init__(self, order: str, *, wrap: Any = None):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.fc = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 3, 1)
        self.order, self.wrap = order.split(", "), wrap

    def forward(self, inputs: Tensor) -> Any:
        inner = self.body(inputs).relu()
        steps = {"pool": lambda x: x.mean((2, 3), keepdim=True), "fc": self.fc, "relu": torch.relu}
        for step in self.order:
            inner = steps[step](inner)
        logits = inner.flatten(1)
        return logits if self.wrap is None else self.wrap(logits)


def data(samples: int = 20) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(samples, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    return inputs, torch.arange(samples) % 3


@pytest.mark.parametrize(
    "model",
    [
        Convolutional("pool, fc"),
        Convolutional("pool, fc", wrap=lambda logits: logits.softmax(1)),
        Convolutional("fc, pool"),
        Convolutional("fc, pool", wrap=lambda logits: SimpleNamespace(logits=logits)),
        Convolutional("fc, pool", wrap=lambda logits: (logits, None)),
    ],
)
def test_a_convolution_that_is_linear_in_pooled_features_is_a_classifier(
    model: Convolutional,
) -> None:
    inputs, labels = data()
    measured = measure(model, [(inputs[:7], labels[:7]), (inputs[7:], labels[7:])], layers=["body"])
    with torch.no_grad():
        features = model.body(inputs).relu().mean((2, 3))
    assert measured.conventions["layer"] == "input of fc"
    expected = measure_features(features, labels, model.fc.weight.flatten(1), model.fc.bias)
    assert measured.accuracy == expected.accuracy
    for key in ("nc1", "cdnv", "nc3_duality", "nc4_disagreement"):
        # Batches of another size round differently.
        assert measured[key] == pytest.approx(expected[key], rel=1e-4)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("order", ["fc, relu, pool", "fc, pool, relu"])
def test_a_convolution_whose_outputs_are_bent_is_refused(order: str) -> None:
    model = Convolutional(order)
    with torch.no_grad():
        model.fc.bias.zero_()  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(ValueError, match=r"layer 'fc' must give the model's logits .*; no linear"):
        measure(model, [data()])


def test_logits_that_are_not_seen_are_not_believed() -> None:
    model = Convolutional("fc, pool", wrap=lambda logits: logits.softmax(1))
    with pytest.raises(ValueError, match="layer 'fc' must give the model's logits"):
        measure(model, [data()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_check_allows_for_rounding(dtype: torch.dtype) -> None:
    model = Convolutional("fc, pool").to(dtype)
    with FeatureTap(model) as tap:
        model(data()[0].to(dtype))
        assert tap.take().shape == (20, 6)
        model(data()[0][:0].to(dtype))
        assert tap.take().shape == (0, 6)


def test_a_convolution_is_found_in_last_place_and_else_by_name() -> None:
    inner, last = nn.Conv2d(6, 3, 1), nn.Linear(6, 3)
    assert find_head(nn.Sequential(nn.Linear(2, 3), inner, nn.ReLU())) == ("1", inner)
    assert find_head(nn.Sequential(inner, last)) == ("1", last)
    assert find_head(nn.Sequential(inner, last), "0") == ("0", inner)
    assert find_head(nn.Sequential(nn.Linear(6, 5), inner), num_classes=5)[0] == "0"
    for other in (nn.Conv2d(6, 3, 3), nn.Conv2d(6, 3, 1, groups=3), nn.Conv2d(6, 3, 1, stride=2)):
        with pytest.raises(ValueError, match="model has no linear layer"):
            find_head(nn.Sequential(other))


def test_operands_of_a_convolution_have_gradients() -> None:
    model = Convolutional("fc, pool")
    inputs, labels = data()
    features, weight, bias = head_operands(model, inputs)
    assert weight.shape == (3, 6)
    logits = nn.functional.linear(features, weight, bias)
    torch.testing.assert_close(logits, model(inputs), rtol=1e-5, atol=1e-6)
    nn.functional.cross_entropy(logits, labels).backward()
    assert model.fc.weight.grad is not None
    assert model.body.weight.grad is not None
    assert bool(model.body.weight.grad.any())


def test_a_convolution_is_not_replaced() -> None:
    with pytest.raises(ValueError, match="linear layer to replace, got the convolution 'fc'"):
        to_head(Convolutional("pool, fc"), LinearHead(3, 6))
