"""Which modules are the blocks of a network: stand-ins built as those of the libraries are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuralcollapse import measure
from neuralcollapse.blocks import block_names
from neuralcollapse.positions import channels_are_last, first_tensor, mean_over_positions


class Residual(nn.Module):
    """A basic block: two convolutions, a ReLU that runs twice, a shortcut."""

    def __init__(self, inner: int, outer: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(inner, outer, 1), nn.Conv2d(outer, outer, 1)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential(nn.Conv2d(inner, outer, 1), nn.BatchNorm2d(outer))

    def forward(self, inputs: Tensor) -> Tensor:
        inner = self.second(self.relu(self.first(inputs)))
        inner += self.shortcut(inputs)
        return self.relu(inner)


class ResidualNetwork(nn.Module):
    """A stem and stages; the last has one block, and an auxiliary block never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Residual(4, 4), Residual(4, 4))
        self.layer2 = nn.Sequential(Residual(4, 6))
        self.aux, self.fc = Residual(6, 6), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        inner = self.layer2(self.layer1(self.norm(self.stem(inputs))))
        return self.fc(inner.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, inputs: Tensor) -> Tensor:
        scores = self.query(inputs) @ self.key(inputs).transpose(1, 2)
        return scores.softmax(2) @ self.value(inputs)


class Transforming(nn.Module):
    """A decoder's layer: two attentions, and a tuple as its output."""

    def __init__(self, dim: int):
        super().__init__()
        self.attention, self.cross = Attention(dim), Attention(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, inputs: Tensor) -> tuple[Tensor, None]:
        inner = inputs + self.attention(inputs)
        inner = inner + self.cross(inner)
        return inner + self.mlp(inner), None


class Encoder(nn.Module):
    def __init__(self, dim: int, depth: int):
        super().__init__()
        self.layer = nn.ModuleList(Transforming(dim) for _ in range(depth))

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layer:
            inputs = layer(inputs)[0]
        return inputs


class Embeddings(nn.Module):
    """Two tables: as many layers as a block has."""

    def __init__(self, dim: int):
        super().__init__()
        self.words, self.places = nn.Embedding(9, dim), nn.Embedding(5, dim)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.words(inputs) + self.places.weight


class Transformer(nn.Module):
    def __init__(self, depth: int = 3):
        super().__init__()
        self.embeddings, self.encoder = Embeddings(8), Encoder(8, depth)
        self.pooler, self.classifier = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.pooler(self.encoder(self.embeddings(inputs))[:, 0]).tanh())


class Stage(nn.Module):
    def __init__(self, depth: int):
        super().__init__()
        self.downsample = nn.Conv2d(4, 4, 1)
        self.blocks = nn.Sequential(*(Residual(4, 4) for _ in range(depth)))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.blocks(self.downsample(inputs))


class Children(nn.Module):
    """A stage whose blocks stand under names of their own, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.b1, self.b2 = Residual(4, 4), Residual(4, 4)


class Separable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.pointwise = nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1)


class Stacked(nn.Module):
    """A residual around separable convolutions: no stage."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Sequential(nn.ReLU(), Separable(), nn.BatchNorm2d(4), Separable())


class Branches(nn.Module):
    """Side by side, each a chain of two units of one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(Unit(4, 4), Unit(4, 4))
        self.right = nn.Sequential(Unit(4, 4), Unit(4, 4))


class Unit(nn.Module):
    def __init__(self, inner: int, outer: int):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inner, outer, 1), nn.BatchNorm2d(outer)


class Dense(nn.ModuleDict):
    """Its layers add to what all others gave: they do not follow one another."""

    def __init__(self) -> None:
        super().__init__({"layer1": Residual(4, 4), "layer2": Residual(4, 4)})


def holding(**parts: nn.Module) -> nn.Module:
    model = nn.Module()
    for name, part in parts.items():
        model.add_module(name, part)
    model.add_module("fc", nn.Linear(4, 3))
    return model


def perceptron() -> nn.Sequential:
    relu = nn.ReLU()  # one for two places
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout()),
        *(nn.Linear(5, 5), relu),
        *(nn.Linear(5, 5), relu, nn.Linear(5, 3)),
    )


CASES: list[tuple[str, nn.Module, str, list[str]]] = [
    ("residual network", ResidualNetwork(), "fc", ["layer1.0", "layer1.1", "layer2.0", "aux"]),
    ("transformer", Transformer(), "classifier", [f"encoder.layer.{i}" for i in range(3)]),
    (
        "stages of blocks",
        holding(stages=nn.Sequential(Stage(2), Stage(1))),
        "fc",
        ["stages.0.blocks.0", "stages.0.blocks.1", "stages.1"],
    ),
    (
        "lists of lists",
        holding(features=nn.Sequential(Unit(3, 4), nn.Sequential(Residual(4, 4)),
                                       nn.Sequential(Residual(4, 4), Branches()))),
        "fc",
        ["features.1.0", "features.2.0", "features.2.1"],
    ),
    (
        "blocks with and without a list",
        holding(stages=nn.Sequential(nn.Sequential(Residual(3, 4)),
                                     nn.Sequential(Residual(4, 4), Stage(2)), Stage(3))),
        "fc",
        ["stages.0.0", "stages.1.0", "stages.1.1", "stages.2"],
    ),
    (
        "stages behind a stem",
        holding(stages=nn.Sequential(Separable(), Stage(2), Stage(2))),
        "fc",
        ["stages.0", *(f"stages.{i}.blocks.{j}" for i in (1, 2) for j in (0, 1))],
    ),
    ("stages by name", holding(s1=Children(), s2=Children()), "fc",
     ["s1.b1", "s1.b2", "s2.b1", "s2.b2"]),
    ("side by side", holding(conv1=Unit(3, 4), a=Branches(), b=Branches()), "fc", ["a", "b"]),
    ("separable", holding(blocks=nn.Sequential(Stacked(), Stacked())), "fc",
     ["blocks.0", "blocks.1"]),
    ("dense", holding(features=nn.Sequential(nn.Conv2d(3, 4, 1), Dense(), Dense())), "fc",
     ["features.1", "features.2"]),
    ("perceptron", perceptron(), "9", ["3", "5", "7"]),
    (
        "two chains",
        holding(features=nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.MaxPool2d(2), Unit(4, 4)),
                pool=nn.AdaptiveAvgPool2d(1), top=nn.Sequential(nn.Dropout(), nn.Linear(4, 4))),
        "fc",
        ["features.2", "features.3", "top.1"],
    ),
    ("a chain further in", holding(body=holding(net=perceptron())), "fc",
     ["body.net.3", "body.net.5", "body.net.7", "body.net.9"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "head", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_blocks_are_what_repeats(model: nn.Module, head: str, expected: list[str]) -> None:
    assert block_names(model, head) == expected


@pytest.mark.parametrize(
    "model", [nn.Linear(4, 3), holding(), holding(conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4))]
)
def test_a_model_without_blocks_is_told_so(model: nn.Module) -> None:
    head = "fc" if hasattr(model, "fc") else ""
    with pytest.raises(
        ValueError, match=r"has no two modules of one class .*; name layers that run"
    ):
        block_names(model, head)


def names(model: nn.Module, inputs: Tensor, layers: Any) -> list[str]:
    labels = torch.arange(len(inputs)) % 3
    found = measure(model, [(inputs, labels)], layers=layers, progress=False).depth
    assert found is not None
    return [layer.name for layer in found.layers]


def test_blocks_are_measured_in_the_order_in_which_they_run() -> None:
    torch.manual_seed(0)
    pictures = torch.randn(12, 3, 4, 4)
    assert names(ResidualNetwork(), pictures, "blocks") == ["layer1.0", "layer1.1", "layer2.0"]
    tokens = torch.randint(9, (12, 5))
    assert names(Transformer(), tokens, "blocks") == [f"encoder.layer.{i}" for i in range(3)]
    assert names(perceptron(), torch.randn(12, 6), "blocks") == ["3", "5", "7"]


def test_a_block_that_gives_a_tuple_is_measured_by_its_first_tensor() -> None:
    torch.manual_seed(0)
    model, tokens, labels = Transformer(1), torch.randint(9, (30, 5)), torch.arange(30) % 3
    whole = measure(
        model, [(tokens, labels)], layers=["encoder.layer.0", "encoder"], progress=False
    )
    assert whole.depth is not None
    one, other = whole.depth.layers
    assert one.metrics == other.metrics


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Conv2d(3, 6, 1), (2, 6, 5, 6), False),
        (nn.Conv1d(3, 6, 1), (2, 6, 5), False),
        (nn.Linear(3, 6), (2, 5, 5, 6), True),
        (nn.LayerNorm(6), (2, 5, 6), True),
        (nn.BatchNorm2d(6), (2, 6, 5, 5), False),
        # A block of ConvNeXt: a linear layer between two permutations.
        (nn.Sequential(nn.Conv2d(6, 6, 1), nn.LayerNorm(6), nn.Linear(6, 6)), (2, 6, 5, 5), False),
        (nn.GELU(), (2, 6, 5, 5), None),
    ],
)
def test_widths_tell_where_channels_are(
    module: nn.Module, shape: tuple[int, ...], expected: bool | None
) -> None:
    assert channels_are_last(module, torch.empty(shape)) is expected


def test_means_are_over_positions() -> None:
    output = torch.randn(2, 3, 4, 5)
    assert torch.allclose(mean_over_positions(output, True), output.mean((1, 2)))
    assert torch.allclose(mean_over_positions(output, False), output.mean((2, 3)))


class ChannelsLast(nn.Module):
    """As the blocks of Swin transformers: (N, H, W, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.gelu, self.head = nn.Linear(2, 6), nn.GELU(), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.gelu(self.lift(inputs)).mean((1, 2)))


def test_pictures_with_channels_last_are_averaged_over_positions() -> None:
    torch.manual_seed(0)
    labels = torch.arange(12) % 3
    loader = [(torch.randn(12, 4, 5, 2), labels)]
    depth = measure(ChannelsLast(), loader, layers="all", progress=False).depth
    assert depth is not None
    # The activation is laid out as the layer before it.
    assert [(layer.name, layer.dim) for layer in depth.layers] == [("lift", 6), ("gelu", 6)]


def test_the_first_tensor_of_an_output() -> None:
    tensor = torch.ones(2)
    assert first_tensor((tensor, None)) is tensor
    assert first_tensor({"hidden": tensor, "mask": None}) is tensor
    assert first_tensor(tensor) is tensor
    assert first_tensor(()) == ()
