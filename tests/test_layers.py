"""Collapse by depth: every layer in one pass, the law, the tunnel, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuralcollapse import (
    ClassStatistics,
    DepthProfile,
    FixedHead,
    Measurement,
    cdnv,
    measure,
    measure_features,
    nc1,
    nc1_trace_ratio,
    simplex_etf,
    vci,
)
from neuralcollapse import layers as layers_module
from neuralcollapse import measuring as measuring_module
from neuralcollapse.depth import LayerMeasurement, depth_profile, separation_law
from neuralcollapse.layers import LayerTap
from processes import run_processes


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)
    )


def data(samples: int = 50) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(samples) % 3
    return torch.randn(samples, 5, generator=generator) + labels[:, None], labels


def batches(size: int = 7) -> list[tuple[Tensor, Tensor]]:
    inputs, labels = data()
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def depth(model: nn.Module, loader: Any, **options: Any) -> DepthProfile:
    found = measure(model, loader, progress=False, **options).depth
    assert found is not None
    return found


def test_every_layer_is_measured_as_if_alone() -> None:
    model, (inputs, labels) = network(), data()
    profile = depth(model, batches(), layers="all")
    assert [layer.name for layer in profile.layers] == ["0", "1", "3", "4"]
    model.eval()
    for layer in profile.layers:
        with torch.no_grad():
            features = model[: int(layer.name) + 1](inputs)
        statistics = ClassStatistics.from_features(features, labels, 3)
        assert layer.dim == features.shape[1]
        for metric in (nc1, nc1_trace_ratio, cdnv, vci):
            expected = float(metric(statistics))
            # Batches of another size round differently.
            assert layer.metrics[metric.__name__] == pytest.approx(expected, rel=1e-4)


def test_the_rest_of_the_measurement_is_as_without() -> None:
    model = network()
    plain, deep = measure(model, batches()), measure(model, batches(), layers="all")
    assert deep.metrics == plain.metrics
    assert plain.depth is None
    assert "depth" not in plain.to_dict()
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training


def test_one_forward_pass_is_enough() -> None:
    model, calls = network(), []
    model[0].register_forward_hook(lambda *args: calls.append(1))
    measure(model, batches(), layers="all", progress=False)
    assert len(calls) == len(batches())


class WritesOver(nn.Module):
    """Its layers write over what the layers before them gave out, as those of ResNets do."""

    def __init__(self, inplace: bool):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 1)
        self.relu, self.inplace, self.head = nn.ReLU(inplace), inplace, nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        shortcut = self.relu(self.first(inputs))
        features = self.second(shortcut)
        features = features.add_(shortcut) if self.inplace else features + shortcut
        features = features.mean((2, 3))
        return self.head(features.relu_() if self.inplace else features.relu())


def test_a_layer_is_measured_before_the_next_writes_over_it() -> None:
    inputs, labels = torch.randn(30, 1, 5, 5), torch.arange(30) % 3
    loader = [(inputs[:16], labels[:16]), (inputs[16:], labels[16:])]
    plain, over = (depth(WritesOver(inplace), loader, layers="all") for inplace in (False, True))
    assert [layer.name for layer in over.layers] == ["first", "relu", "second"]
    assert over == plain
    assert over.layers[0].metrics != over.layers[1].metrics


@pytest.mark.parametrize("shape", [(4, 50, 3), (4, 3, 50, 2)])
def test_positions_are_averaged_when_a_layer_has_run(shape: tuple[int, ...]) -> None:
    """Not when all have: what is kept of a batch is one row a sample and layer."""
    layer = nn.Tanh() if len(shape) == 3 else nn.Conv2d(3, 3, 1)
    model = nn.Sequential(nn.Identity(), layer, nn.Linear(3, 2))
    with LayerTap(model, ["1"], "2", 2) as tap:
        for first in (True, False):
            model[:2](torch.randn(shape))
            (kept,) = tap._captured["1"]
            late = first and len(shape) == 3  # the labels may be those of tokens
            assert kept.shape == (shape if late else (4, 3))
            tap.update(torch.arange(4) % 2)


def test_layers_are_chosen_by_name() -> None:
    profile = depth(network(), batches(), layers=["4", "0"])
    assert [layer.name for layer in profile.layers] == ["0", "4"]  # as they run
    assert profile.law is None  # of two points there is always a line


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2)
        self.pool, self.relu, self.head = nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        inner = self.relu(self.first(inputs))
        inner = self.pool(self.relu(self.second(inner)))  # relu runs twice
        return self.head(inner.flatten(1)).softmax(1)


def pictures() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(40) % 3
    images = torch.randn(40, 1, 8, 8, generator=generator) + labels[:, None, None, None] / 2
    return list(zip(images.split(9), labels.split(9), strict=True))


def test_convolutions_are_pooled_or_flattened(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Convolutional()
    pooled = depth(model, pictures(), layers="all")
    assert [(layer.name, layer.dim) for layer in pooled.layers] == [
        ("first", 4), ("second", 6), ("pool", 6)
    ]  # fmt: skip
    assert pooled.pooling == "mean"
    flat = depth(model, pictures(), layers=["first", "second"], pooling="flatten")
    assert [layer.dim for layer in flat.layers] == [4 * 64, 6 * 9]
    assert all(math.isfinite(layer.metrics["nc1"]) for layer in flat.layers)
    monkeypatch.setattr(layers_module, "MAX_SCATTER_DIM", 100)
    wide = depth(model, pictures(), layers=["first", "second"], pooling="flatten").layers[0]
    assert math.isnan(wide.metrics["vci"])
    for key in ("nc1", "nc1_trace_ratio", "cdnv", "effective_rank"):
        assert wide.metrics[key] == pytest.approx(flat.layers[0].metrics[key], rel=1e-6)


def test_sequences_are_averaged_and_tokens_are_samples() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    inputs, labels = torch.randn(20, 4, 5), torch.arange(80).reshape(20, 4) % 3
    found = measure(model, [(inputs, labels)], layers=["0"], progress=False).depth
    assert found is not None
    with torch.no_grad():
        features = model[0](inputs).flatten(0, 1)
    statistics = ClassStatistics.from_features(features, labels.flatten(), 3)
    assert found.layers[0].metrics["nc1"] == pytest.approx(float(nc1(statistics)), rel=1e-4)


def test_ignored_labels_are_left_out_of_every_layer() -> None:
    inputs, labels = data()
    ignored = labels.clone()
    ignored[::5] = -100
    kept = labels == ignored
    found = depth(network(), [(inputs, ignored)], layers="all")
    expected = depth(network(), [(inputs[kept], labels[kept])], layers="all")
    for one, other in zip(found.layers, expected.layers, strict=True):
        assert one.metrics["nc1"] == pytest.approx(other.metrics["nc1"], rel=1e-4)


def test_layers_begin_with_the_first_that_has_parameters() -> None:
    model = nn.Sequential(nn.Tanh(), nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    assert [layer.name for layer in depth(model, batches(), layers="all").layers] == ["1", "2"]
    assert len(depth(model, batches(), layers=["0", "1"]).layers) == 2


def test_heads_of_this_library_end_the_layers() -> None:
    model = nn.Sequential(nn.Linear(5, 8), FixedHead(simplex_etf(3, 8)), nn.Softmax(1))
    assert [layer.name for layer in depth(model, batches(), layers="all").layers] == ["0"]


class Wide(nn.Module):
    """Two layers too wide for a scatter and one that is not; the second gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(1, 4, 3), Tupled(nn.Conv2d(4, 3, 1))
        self.third, self.head = nn.Linear(3 * 36, 20), nn.Linear(20, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.third(self.second(self.first(inputs).relu())[0].flatten(1)))


class Tupled(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> tuple[Tensor, None]:
        return self.inner(inputs), None


def flattened(model: Wide, loader: list[tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    inputs, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    with torch.no_grad():
        first = model.first(inputs)
        second = model.second(first.relu())[0].flatten(1)
        rows = {"first": first.flatten(1), "second": second, "third": model.third(second)}
    return {name: (features, labels) for name, features in rows.items()}


@pytest.mark.parametrize("kept_bytes", [1 << 30, 100])
def test_wide_layers_have_nc1_from_one_more_pass(
    kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same one that NC4 takes where features were not kept."""
    monkeypatch.setattr(layers_module, "MAX_SCATTER_DIM", 100)
    monkeypatch.setattr(measuring_module, "_KEPT_BYTES", kept_bytes)
    model, loader, runs = Wide(), pictures(), []
    model.first.register_forward_hook(lambda *_: runs.append(1))
    measured = measure(
        model, loader, layers=["first", "second", "third"], pooling="flatten", progress=False
    )
    assert len(runs) == 2 * len(loader)
    assert measured["nc4_disagreement"] >= 0
    assert measured.depth is not None
    assert not any(module._forward_hooks for module in [model.second, model.third])
    for layer in measured.depth.layers:
        features, labels = flattened(model, loader)[layer.name]
        alone = measure_features(features, labels, num_classes=3, scatter=False)
        assert layer.metrics["nc1"] == pytest.approx(alone["nc1"], rel=1e-6)
        assert math.isnan(layer.metrics["vci"]) == (layer.name != "third")
    assert measured.depth.law is not None
    assert measured.depth.law.metric == "nc1"


def test_narrow_layers_and_loaders_that_run_once_have_one_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, loader, runs = Wide(), pictures(), []
    model.first.register_forward_hook(lambda *_: runs.append(1))
    depth(model, loader, layers=["first"], pooling="flatten")
    assert len(runs) == len(loader)
    monkeypatch.setattr(layers_module, "MAX_SCATTER_DIM", 100)
    once = depth(model, iter(loader), layers=["first", "third"], pooling="flatten")
    assert len(runs) == 2 * len(loader)
    assert math.isnan(once.layers[0].metrics["nc1"])
    assert math.isfinite(once.layers[1].metrics["nc1"])


@pytest.mark.distributed
def test_wide_layers_in_two_processes(tmp_path: Path) -> None:
    run_processes(wide_shares, tmp_path)


def wide_shares(rank: int, *_: Any) -> None:
    """Every second sample, or all and none."""
    layers_module.MAX_SCATTER_DIM = 100
    inputs, labels = (torch.cat(parts) for parts in zip(*pictures(), strict=True))
    model, inputs = Wide().double(), inputs.double()  # sums of other batches round in single
    whole = depth(model, [(inputs, labels)], layers="all", pooling="flatten")
    assert [layer.name for layer in whole.layers] == ["first", "second.inner", "third"]
    turns, first = slice(rank, None, 2), slice(0, 40 * (rank == 0))
    for own, batches in ((turns, 1), (first, 1), (first, int(rank == 0))):
        loader = [(inputs[own], labels[own])] * batches
        parts = depth(model, loader, layers="all", pooling="flatten", distributed=True)
        for one, other in zip(parts.layers, whole.layers, strict=True):
            assert (one.name, one.dim) == (other.name, other.dim)
            found, expected = one.metrics["nc1"], other.metrics["nc1"]
            assert abs(found - expected) <= 1e-6 * expected, (own, one.name, found, expected)


# --- the law and the tunnel -----------------------------------------------------------------------


def of(values: list[float], key: str = "nc1", separable: list[float] | None = None) -> Any:
    return [
        LayerMeasurement(str(place), 9, {key: value} | _vci(separable, place))
        for place, value in enumerate(values)
    ]


def _vci(separable: list[float] | None, place: int) -> dict[str, float]:
    return {} if separable is None else {"vci": 1 - separable[place]}


def test_the_law_is_a_line_through_logarithms() -> None:
    rng = np.random.default_rng(0)
    values = 7 * 0.6 ** np.arange(9) * np.exp(0.2 * rng.standard_normal(9))
    law = separation_law(of(values.tolist()))
    assert law is not None
    slope, start = np.polyfit(np.arange(9), np.log(values), 1)
    assert law.rho == pytest.approx(math.exp(slope), rel=1e-10)
    assert law.start == pytest.approx(math.exp(start), rel=1e-10)
    expected = np.corrcoef(np.arange(9), np.log(values))[0, 1] ** 2
    assert law.r_squared == pytest.approx(expected, rel=1e-10)
    assert law.metric == "nc1"


def test_the_law_takes_the_trace_ratio_where_nc1_is_missing() -> None:
    law = separation_law(of([4.0, 2.0, 1.0], "nc1_trace_ratio"))
    assert law is not None
    assert (law.metric, round(law.rho, 9)) == ("nc1_trace_ratio", 0.5)
    assert separation_law(of([4.0, 0.0, 1.0])) is None
    assert separation_law(of([4.0, math.nan, 1.0])) is None
    assert separation_law(of([4.0, 1.0])) is None


def test_the_tunnel_begins_where_separability_stays() -> None:
    separable = [0.3, 0.97, 0.5, 0.96, 0.99, 1.0]
    profile = depth_profile(of([1.0] * 6, separable=separable))
    assert profile.tunnel == "3"  # the early peak is not the beginning
    assert depth_profile(of([1.0] * 6, separable=separable), tunnel_share=1.0).tunnel == "5"
    assert depth_profile(of([1.0] * 6)).tunnel is None
    with pytest.raises(ValueError, match="tunnel_share must be at most 1, got 2"):
        depth_profile(of([1.0]), tunnel_share=2)


def test_a_trained_network_separates_by_depth() -> None:
    """Six layers on three noisy classes: before training they mix them, after it they separate."""
    torch.manual_seed(0)
    inner: list[nn.Module] = [nn.Linear(5, 16), nn.ReLU()]
    for _ in range(5):
        inner += [nn.Linear(16, 16), nn.ReLU()]
    model = nn.Sequential(*inner, nn.Linear(16, 3))
    labels = torch.arange(150) % 3
    inputs = torch.randn(150, 5, generator=torch.Generator().manual_seed(1))
    inputs = inputs + 2 * torch.eye(3, 5)[labels]
    relus = [str(place) for place, module in enumerate(model) if isinstance(module, nn.ReLU)]
    before = depth(model, [(inputs, labels)], layers=relus)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(400):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
    after = depth(model, [(inputs, labels)], layers=relus)
    assert before.law is not None
    assert after.law is not None
    assert before.law.rho > 1.2
    assert after.law.rho < 0.95
    assert after.law.r_squared > 0.8
    assert after.layers[-1].metrics["nc1"] < after.layers[0].metrics["nc1"] / 1.5


# --- kept and refused -----------------------------------------------------------------------------


def test_json_gives_the_layers_back(tmp_path: Any) -> None:
    measured = measure(network(), batches(), layers="all", progress=False)
    measured.save(tmp_path / "m.json")
    again = Measurement.load(tmp_path / "m.json").depth
    assert again == measured.depth
    text = str(measured)
    assert "separation law: nc1 goes by the factor rho = " in text
    assert "pooling: mean" in text
    with pytest.raises(ValueError, match=r"not a measurement.*depth profile"):
        Measurement.from_dict({**measured.to_dict(), "depth": {"layers": 3}})


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared, self.lstm = nn.Linear(5, 5), nn.LSTM(5, 5, batch_first=True)
        self.unused, self.head = nn.Linear(2, 2), nn.Linear(5, 3)
        self.turned = nn.Tanh()

    def forward(self, inputs: Tensor) -> Tensor:
        inner = self.shared(self.shared(inputs))
        self.turned(inputs.T)
        return self.head(self.lstm(inner[:, None])[0][:, 0])


BAD: list[tuple[nn.Module, Any, dict[str, Any], type[Exception], str]] = [
    (
        network(),
        ["9"],
        {},
        ValueError,
        "layers must name modules .*, got '9'; it has '0'",
    ),
    (network(), "4", {}, ValueError, r"list of names, 'blocks' or 'all', got '4'; use \['4'\]"),
    (network(), [], {}, ValueError, "the number of layers must be at least 1"),
    (network(), 3, {}, TypeError, "layers must be a list of names, 'blocks' or 'all', got 3"),
    (network(), "all", {"pooling": "max"}, ValueError, "pooling must be one of mean, flatten"),
    (Twice(), ["shared"], {}, ValueError, "once a forward pass, 'shared' ran 2 times"),
    (Twice(), ["unused"], {}, ValueError, "in every forward pass, 'unused' did not"),
    (Twice(), ["turned"], {}, ValueError, r"features \(N, ...\) for 7 labels, 'turned' gives \(5,"),
    (Twice(), "blocks", {}, ValueError, "must find blocks in the model, which has no two"),
    (Twice(), "all", {}, ValueError, "in front of the classifier, none did"),
]


@pytest.mark.parametrize(("model", "layers", "options", "kind", "told"), BAD)
def test_what_cannot_be_measured_is_refused(
    model: nn.Module, layers: Any, options: Any, kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind, match=told):
        measure(model, batches(), layers=layers, progress=False, **options)
    assert not any(module._forward_hooks for module in model.modules())
