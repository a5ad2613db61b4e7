"""A backbone before a fixed frame: the published layers one by one, what is kept and learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from neuralcollapse import (
    FixedHead,
    FrameClassifier,
    FrameCosine,
    ResidualTransform,
    frame_deviation,
    measure,
    simplex_etf,
)
from neuralcollapse.statistics import ClassStatistics

FRAME = simplex_etf(5, 6)


def seeded(make: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def inputs(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def trained_a_little(transform: nn.Module) -> nn.Module:
    """With running statistics and slopes that are not the initial ones."""
    transform.train()
    for k in range(3):
        transform(2 * inputs(20, 6) + k)
    for module in transform.modules():
        if isinstance(module, nn.PReLU):
            module.weight.data = torch.linspace(-0.5, 0.5, 6)
    return transform.eval()


def by_hand(transform: nn.Module, features: Tensor) -> Tensor:
    """The published layers, spelled out from the parameters."""
    tensors = {name: t.double() for name, t in transform.state_dict().items()}

    def normed(h: Tensor, key: str) -> Tensor:
        mean, variance = tensors[f"{key}.running_mean"], tensors[f"{key}.running_var"]
        return (h - mean) / (variance + 1e-5).sqrt() * tensors[f"{key}.weight"] + tensors[
            f"{key}.bias"
        ]

    h = normed(features.double(), "0")
    for block in ("1", "2"):
        change = h
        for linear, norm, slope in (("0", "1", "2"), ("3", "4", "5")):
            key = f"{block}.change"
            change = normed(change @ tensors[f"{key}.{linear}.weight"].T, f"{key}.{norm}")
            slopes = tensors[f"{key}.{slope}.weight"]
            change = torch.where(change > 0, change, slopes * change)
        h = h + change
    return h


def test_the_transformation_is_the_published_one() -> None:
    transform = trained_a_little(seeded(lambda: ResidualTransform(6)))
    features = inputs(8, 6)
    with torch.no_grad():
        out = transform(features)
    # Seven float32 layers.
    torch.testing.assert_close(out.double(), by_hand(transform, features), rtol=1e-4, atol=1e-5)
    assert bool((out > 0).any())
    assert bool((out < 0).any())
    # Per block two linear maps without bias, two BatchNorms, two PReLUs; one BatchNorm before.
    assert sum(p.numel() for p in transform.parameters()) == 12 + 2 * 2 * (36 + 12 + 6)
    assert not any(isinstance(m, nn.Linear) and m.bias is not None for m in transform.modules())


def test_without_blocks_it_normalises_alone() -> None:
    assert [type(module) for module in ResidualTransform(6, num_blocks=0)] == [nn.BatchNorm1d]


@pytest.mark.parametrize("pool", ["average", "max"])
def test_on_maps_the_projection_is_a_convolution_before_the_pooling(pool: Any) -> None:
    network = seeded(lambda: FrameClassifier(nn.Identity(), FRAME, width=7, pool=pool)).eval()
    maps = inputs(4, 7, 3, 5)
    with torch.no_grad():
        convolved = nn.functional.conv2d(maps, network.projection.weight[:, :, None, None])
        pooled = convolved.mean((2, 3)) if pool == "average" else convolved.amax((2, 3))
        torch.testing.assert_close(network.features(maps), network.transform(pooled))
        expected = network.features(maps) @ FRAME.vectors.T
        torch.testing.assert_close(network(maps), expected)
    assert network.projection.bias is None


def test_the_width_is_found_and_the_backbone_stays_as_it_was() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 9, 3), nn.BatchNorm2d(9), nn.Dropout(0.5))
    backbone[2].eval()
    before = {name: t.clone() for name, t in backbone.state_dict().items()}
    network = FrameClassifier(backbone, FRAME, example=inputs(1, 3, 8, 8))
    assert network.projection.in_features == 9
    assert [module.training for module in backbone] == [True, True, False]
    assert all(torch.equal(t, before[name]) for name, t in backbone.state_dict().items())
    assert network(inputs(4, 3, 8, 8)).shape == (4, 5)
    flat = FrameClassifier(nn.Linear(3, 8), FRAME, example=inputs(1, 3))
    assert flat.projection.in_features == 8


def test_the_frame_is_kept_and_not_learned() -> None:
    network = FrameClassifier(nn.Linear(3, 8), FRAME, width=8, scale=2.0)
    assert "head.weight" in network.state_dict()
    assert "head.weight" not in dict(network.named_parameters())
    assert torch.equal(network.head.weight, 2 * FRAME.vectors)
    assert network.head.bias is None
    assert isinstance(network.head, FixedHead)


def test_it_learns_and_measures_as_any_model() -> None:
    network = seeded(lambda: FrameClassifier(nn.Linear(4, 8), FRAME, width=8))
    labels = torch.arange(5).repeat(16)
    means = 2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    data = means[labels] + 0.3 * inputs(80, 4)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    loss = FrameCosine(mixing=0.5)
    for _ in range(60):
        optimiser.zero_grad()
        features, weight, bias = network.head.operands(network.features(data))
        loss(features, labels, weight, bias).backward()
        optimiser.step()
    assert all(p.grad is not None for p in network.parameters())
    network.eval()
    with torch.no_grad():
        features = network.features(data)
        accuracy = float((network(data).argmax(1) == labels).float().mean())
    assert accuracy > 0.9
    statistics = ClassStatistics.from_features(features, labels, 5)
    assert float(frame_deviation(statistics, FRAME)) < 0.15  # 0.2 is what right angles have
    loader = DataLoader(TensorDataset(data, labels), batch_size=20)
    measured = measure(network, loader, progress=False)
    assert measured.accuracy == pytest.approx(accuracy)
    assert measured.conventions["layer"] == "input of head"


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "neither": (
        lambda: FrameClassifier(nn.Identity(), FRAME),
        ValueError,
        "must be given, got nei",
    ),
    "both": (
        lambda: FrameClassifier(nn.Identity(), FRAME, width=3, example=inputs(1, 3)),
        ValueError,
        "exactly one of width and example must be given, got both",
    ),
    "tokens": (
        lambda: FrameClassifier(nn.Identity(), FRAME, example=inputs(2, 3, 4)),
        ValueError,
        r"backbone must put out features \(N, C\) or feature maps .* got \(2, 3, 4\); pool tokens",
    ),
    "tuple": (
        lambda: FrameClassifier(nn.LSTM(3, 4), FRAME, example=inputs(2, 3)),
        ValueError,
        "backbone must put out features .* got tuple",
    ),
    "function": (
        lambda: FrameClassifier(torch.relu, FRAME, width=3),  # pyright: ignore[reportArgumentType]
        TypeError,
        "backbone must be a torch.nn.Module, got builtin_function",
    ),
    "gram": (
        lambda: FrameClassifier(nn.Identity(), FRAME.gram, width=3),  # pyright: ignore[reportArgumentType]
        TypeError,
        "frame must be a Frame, got Tensor",
    ),
    "width": (
        lambda: FrameClassifier(nn.Identity(), FRAME, width=0),
        ValueError,
        "width must be at least 1, got 0",
    ),
    "pool": (
        lambda: FrameClassifier(nn.Identity(), FRAME, width=3, pool="mean"),  # pyright: ignore[reportArgumentType]
        ValueError,
        "pool must be one of average, max",
    ),
    "dim": (lambda: ResidualTransform(0), ValueError, "dim must be at least 1, got 0"),
    "blocks": (lambda: ResidualTransform(3, -1), ValueError, "num_blocks must be at least 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name: str) -> None:
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        make()
