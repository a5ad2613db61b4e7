"""Classifiers of models laid out as those of timm, torchvision and transformers are."""

from __future__ import annotations

from collections import UserDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cases.heads import HEAD_CASES, HeadCase
from neuralcollapse import (
    CosineHead,
    CrossEntropy,
    FeatureTap,
    FixedHead,
    LinearHead,
    head_operands,
    measure,
    simplex_etf,
    to_head,
)
from neuralcollapse.integrations.metric_learning import HeadLoss

INPUTS = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 4


class ResNetLike(nn.Module):
    """The classifier is an attribute, `fc`; so do torchvision's and timm's residual networks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.fc = nn.Linear(16, 4)
        self.num_classes = 4

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(self.stem(inputs).mean((2, 3)))


class MobileNetLike(nn.Module):
    """The classifier is the end of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 16, 3)
        self.classifier = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.features(inputs).mean((2, 3)))


class RobertaLike(nn.Module):
    """The classifier lies two floors down, and the configuration counts classes too."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_labels=4)
        self.num_labels = 4
        self.body = nn.Conv2d(3, 16, 3)
        self.classifier = nn.Module()
        self.classifier.dense = nn.Linear(16, 16)
        self.classifier.out_proj = nn.Linear(16, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        dense: Any = self.classifier.dense
        out: Any = self.classifier.out_proj
        return out(torch.tanh(dense(self.body(inputs).mean((2, 3)))))


class InceptionLike(nn.Module):
    """A linear layer behind the classifier in the order of definition, but of another width."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 16, 3)
        self.head = nn.Linear(16, 4)
        self.projection = nn.Linear(16, 16)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.projection(self.body(inputs).mean((2, 3))))


MODELS = {
    "fc": (ResNetLike, "fc"),
    "classifier.2": (MobileNetLike, "classifier.2"),
    "classifier.out_proj": (RobertaLike, "classifier.out_proj"),
    "head": (InceptionLike, "head"),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_classifier_is_swapped_in_its_place(name: str) -> None:
    make, place = MODELS[name]
    model = make()
    head = FixedHead(simplex_etf(num_classes=4, dim=16))
    others = {key for key in model.state_dict() if not key.startswith(place)}
    assert to_head(model, head) is model
    assert model.get_submodule(place) is head
    assert {key for key in model.state_dict() if not key.startswith(place)} == others
    with FeatureTap(model, num_classes=4) as tap:
        logits = model(INPUTS)
        features = tap.take()
    assert tap.name == place
    torch.testing.assert_close(logits, features @ head.weight.T)
    measured = measure(model, [(INPUTS, LABELS)], num_classes=4)
    assert measured["nc2w_etf_distance"] == pytest.approx(0, abs=1e-6)  # float32 vectors


@pytest.mark.parametrize("case", HEAD_CASES, ids=lambda case: case.name)
def test_every_head_trains_in_a_model(case: HeadCase) -> None:
    first = nn.Linear(192, 6)
    model = nn.Sequential(nn.Flatten(), first, nn.Tanh(), nn.Linear(6, 4))
    to_head(model, case.make())
    features, weight, bias = head_operands(model, INPUTS, labels=LABELS)
    CrossEntropy()(features, LABELS, weight, bias).backward()
    assert first.weight.grad is not None
    assert bool(first.weight.grad.any())
    model.eval()
    features, weight, bias = head_operands(model, INPUTS)
    shift = torch.zeros(4) if bias is None else bias
    torch.testing.assert_close(model(INPUTS), features @ weight.T + shift)


def test_operands_of_a_linear_layer() -> None:
    model = ResNetLike()
    features, weight, bias = head_operands(model, inputs=INPUTS)
    assert bias is not None
    torch.testing.assert_close(features @ weight.T + bias, model(INPUTS))
    assert weight is model.fc.weight
    assert bias is model.fc.bias
    assert not model.fc._forward_pre_hooks


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_a_batch_in_one_piece_is_to_be_unpacked(kind: Any) -> None:
    batch = kind({"inputs": INPUTS})
    with pytest.raises(
        TypeError, match=r"got a \w*[dD]ict with inputs, .*head_operands\(model, \*\*batch\)"
    ):
        head_operands(ResNetLike(), batch)
    assert head_operands(ResNetLike(), **batch)[0].shape == (12, 16)


def test_a_model_that_takes_a_dictionary_is_given_it() -> None:
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = ResNetLike()

        def forward(self, batch: Any) -> Tensor:
            return self.inner(batch["inputs"])

    assert head_operands(Takes(), {"inputs": INPUTS})[0].shape == (12, 16)
    with pytest.raises(TypeError, match="conv"):
        head_operands(ResNetLike(), None)


def test_another_number_of_classes_is_told_to_the_model() -> None:
    model = RobertaLike()
    to_head(model, LinearHead(7, 16))
    assert (model.num_labels, model.config.num_labels) == (7, 7)
    assert model(INPUTS).shape == (12, 7)
    assert to_head(ResNetLike(), LinearHead(7, 16)).num_classes == 7


def test_precision_and_mode_are_those_of_the_layer_replaced() -> None:
    model = ResNetLike().double().eval()
    head = CosineHead(4, 16)
    to_head(model, head)
    assert head.weight.dtype == torch.float64
    assert not head.training
    assert model(INPUTS.double()).dtype == torch.float64


def test_a_head_is_swapped_for_another() -> None:
    model = to_head(ResNetLike(), CosineHead(4, 16))
    head = LinearHead(4, 16)
    assert to_head(model, head).fc is head


def test_the_layer_is_named() -> None:
    model = MobileNetLike()
    head = LinearHead(4, 16)
    to_head(model, head, layer="classifier.0")
    assert model.classifier[0] is head


def test_a_head_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"head must have dim=16, .* enter 'fc', got dim=8"):
        to_head(ResNetLike(), LinearHead(4, 8))
    with pytest.raises(TypeError, match="head must be a head of this library, got Linear"):
        to_head(ResNetLike(), nn.Linear(16, 4))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="model has no linear layer: it has none at all"):
        to_head(nn.Conv2d(3, 4, 3), LinearHead(4, 8))
    with pytest.raises(ValueError, match="model must hold its classifier"):
        to_head(nn.Linear(16, 4), LinearHead(4, 16))


# --- losses that own their classifier -----------------------------------------------------------


def test_a_loss_with_its_head_is_the_loss_on_the_head() -> None:
    features = torch.randn(12, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    head = CosineHead(4, 16)
    owned = HeadLoss(CrossEntropy(), head)
    operands, weight, bias = head.operands(features)
    value = owned(features, LABELS)
    torch.testing.assert_close(value, CrossEntropy()(operands, LABELS, weight, bias))
    value.backward()
    assert features.grad is not None
    assert head.prototypes.grad is not None
    assert list(owned.state_dict()) == ["head.prototypes"]
    torch.testing.assert_close(owned.get_logits(features), head(features))


def test_miners_are_refused() -> None:
    owned = HeadLoss(CrossEntropy(), CosineHead(4, 16))
    features = torch.zeros(12, 16)
    assert owned(features, LABELS, None).isfinite()
    with pytest.raises(ValueError, match="indices_tuple must be None"):
        owned(features, LABELS, (LABELS, LABELS, LABELS))
    with pytest.raises(ValueError, match="ref_emb must be None"):
        owned(features, LABELS, ref_emb=features, ref_labels=LABELS)
    with pytest.raises(TypeError, match="loss must be a loss of this library"):
        HeadLoss(nn.CrossEntropyLoss(), CosineHead(4, 16))  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="head must be a head of this library"):
        HeadLoss(CrossEntropy(), nn.Linear(16, 4))  # pyright: ignore[reportArgumentType]
