"""Every backbone: features of the asked width, centred by a BatchNorm that no ReLU follows."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuralcollapse.train.backbones import BACKBONES, Standardize, make_backbone

CASES = [
    ("mlp", (7,), 16),
    ("mlp", (1, 8, 8), 16),
    ("mlp", (3, 5, 9), None),
    ("cnn", (1, 8, 8), 4),
    ("cnn", (1, 28, 28), None),
    ("cnn", (3, 33, 20), 4),
    ("resnet18", (1, 8, 8), 4),
    ("resnet18", (3, 32, 32), 8),
]


@pytest.fixture
def small_timm(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A stand-in for timm with one model; returns what it is asked for."""
    asked: list[Any] = []

    def create_model(name: str, num_classes: int, in_chans: int, pretrained: bool) -> nn.Module:
        asked.append((name, num_classes, in_chans, pretrained))
        if name != "tiny":
            raise RuntimeError(f"Unknown model ({name})")
        return nn.Sequential(nn.Conv2d(in_chans, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    return asked


def inputs_of(shape: tuple[int, ...], number: int = 6) -> Tensor:
    return torch.randn(number, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name, shape, width", CASES)
def test_forward_and_backward(name: str, shape: tuple[int, ...], width: int | None) -> None:
    torch.manual_seed(0)
    backbone = make_backbone(name, shape, 12, width)
    inputs = inputs_of(shape)
    features = backbone(inputs)
    assert features.shape == (6, 12)
    features.square().mul(torch.arange(12)).sum().backward()
    gradients = {name: p.grad for name, p in backbone.named_parameters()}
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients.values())
    # Every layer is in the path from inputs to features.
    assert [name for name, g in gradients.items() if g is not None and not bool(g.any())] == []


@pytest.mark.parametrize("name, shape, width", CASES)
def test_features_can_reach_a_simplex_around_the_origin(
    name: str, shape: tuple[int, ...], width: int | None
) -> None:
    """The last layers are a linear map and a BatchNorm: centred, of unit spread, both signs."""
    torch.manual_seed(0)
    backbone = make_backbone(name, shape, 12, width)
    assert isinstance(backbone, nn.Sequential)
    linear, norm = backbone[-2], backbone[-1]
    assert isinstance(linear, nn.Linear)
    assert isinstance(norm, nn.BatchNorm1d)
    assert linear.bias is None  # the BatchNorm would take it out
    features = backbone(inputs_of(shape, 64))
    # 64 samples in float32: 1e-5 is ten times the rounding of a mean.
    torch.testing.assert_close(features.mean(0), torch.zeros(12), rtol=0, atol=1e-5)
    assert bool((features < 0).any())
    assert bool((features > 0).any())


def test_resnet18_has_the_form_for_32_pixels() -> None:
    torch.manual_seed(0)
    backbone = make_backbone("resnet18", (3, 32, 32), 10, None)
    parameters = sum(p.numel() for p in backbone.parameters())
    # He et al.'s ResNet-18 with a 3x3 stem of 64 has 11.17 M weights below its classifier.
    assert parameters == pytest.approx(11.17e6, rel=2e-3)
    convolutions = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    stem = convolutions[0]
    assert (stem.kernel_size, stem.stride, stem.out_channels) == ((3, 3), (1, 1), 64)
    # 17 in the main path and 3 shortcuts; the eighteenth layer is linear.
    assert len(convolutions) == 20
    assert not any(isinstance(m, nn.MaxPool2d) for m in backbone.modules())
    shapes: list[torch.Size] = []
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, out: shapes.append(out.shape[1:]))
    with torch.no_grad():
        backbone.eval()(inputs_of((3, 32, 32), 1))
    assert shapes[0] == (64, 32, 32)  # no resolution is lost before the blocks
    assert shapes[-1] == (512, 4, 4)


def test_a_network_does_not_mix_samples_in_evaluation() -> None:
    torch.manual_seed(0)
    for name, shape, width in CASES:
        backbone = make_backbone(name, shape, 12, width).eval()
        inputs = inputs_of(shape)
        together, alone = backbone(inputs), torch.cat([backbone(x[None]) for x in inputs])
        # Other kernels for other batch sizes: a few digits of float32 through 20 layers.
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["cnn", "resnet18", "timm:tiny"])
def test_pictures_are_asked_for_where_they_must_be(name: str) -> None:
    with pytest.raises(ValueError, match=r"must be given images .* use backbone=mlp"):
        make_backbone(name, (7,), 12, None)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match="backbone must be") as caught:
        make_backbone("vgg", (3, 32, 32), 12, None)
    assert all(name in str(caught.value) for name in (*BACKBONES, "timm:NAME"))
    with pytest.raises(ValueError, match="backbone must be"):
        make_backbone("vgg", (7,), 12, None)


def test_any_timm_model_gets_the_same_last_layers(small_timm: list[Any]) -> None:
    backbone = make_backbone("timm:tiny", (3, 8, 8), 12, None)
    assert small_timm == [("tiny", 0, 3, False)]  # nothing is downloaded
    assert backbone.training
    assert all(module.training for module in backbone.modules())
    assert backbone(inputs_of((3, 8, 8))).shape == (6, 12)
    assert isinstance(backbone, nn.Sequential)
    assert isinstance(backbone[-1], nn.BatchNorm1d)


@pytest.mark.usefixtures("small_timm")
def test_an_unknown_timm_model_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"timm:nosuch cannot be made: Unknown model") as caught:
        make_backbone("timm:nosuch", (3, 8, 8), 12, None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("broken", [ImportError("No module named 'timm'"), RuntimeError("torch")])
def test_a_missing_or_broken_timm_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, broken: Exception
) -> None:
    class Broken:
        def find_spec(self, name: str, *rest: Any) -> None:
            if name == "timm":
                raise broken

    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ValueError, match=r"pip install 'neuralcollapse\[vision\]'") as caught:
        make_backbone("timm:resnet18", (3, 8, 8), 12, None)
    assert str(broken) in str(caught.value)


def test_inputs_are_standardised() -> None:
    scale = Standardize(torch.tensor([[[2.0]], [[0.0]]]), torch.tensor([[[4.0]], [[1.0]]]))
    inputs = torch.tensor([10, 3], dtype=torch.uint8).view(1, 2, 1, 1)
    assert scale(inputs).flatten().tolist() == [2.0, 3.0]
    assert set(scale.state_dict()) == {"mean", "deviation"}
    assert list(scale.parameters()) == []
