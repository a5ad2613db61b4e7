"""measure() leaves no trace, finds the classifier, and says the same as the slow reference."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import neuralcollapse.measuring
import reference.metrics
from cases import HEAD_CASES, ROWS, HeadCase, World, collapsed, head_cases, simplex_vertices, world
from neuralcollapse import (
    ClassStatistics,
    FeatureTap,
    FixedHead,
    LinearHead,
    Measurement,
    measure,
    measure_features,
    simplex_etf,
)

KEYS = [metric.key for metric in ROWS]


def network(num_classes: int = 3, *, seed: int = 0) -> nn.Sequential:
    """Inputs (N, 4), features of width 6 after BatchNorm, dropout in between."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 6), nn.BatchNorm1d(6),
            nn.Linear(6, num_classes),
        )  # fmt: skip


def data(count: int = 50, num_classes: int = 3, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % num_classes
    inputs = torch.randn(count, 4, generator=generator) + labels[:, None]
    return inputs, labels


def batches(size: int = 16, **options: Any) -> list[tuple[Tensor, Tensor]]:
    inputs, labels = data(**options)
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def features_of(model: nn.Sequential, inputs: Tensor) -> Tensor:
    modes = [module.training for module in model.modules()]
    model.eval()
    with torch.no_grad():
        features = model[:-1](inputs)
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return features


def expected_metrics(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, num_classes: int
) -> dict[str, float]:
    return reference.metrics.all_metrics(
        features.double().numpy(),
        labels.numpy(),
        num_classes,
        weight.detach().double().numpy(),
        None if bias is None else bias.detach().double().numpy(),
    )


def assert_metrics(measured: dict[str, float], expected: dict[str, float]) -> None:
    """Float32 features: residuals and decisions to 24 bits."""
    assert list(measured) == KEYS
    for key in KEYS:
        assert measured[key] == pytest.approx(expected[key], rel=1e-5, abs=1e-6), key


def assert_equal_measurements(one: Measurement, other: Measurement, relative: float = 1e-9) -> None:
    assert one.counts == other.counts
    assert one.accuracy == other.accuracy
    for key in KEYS:
        # Geometry of a perfect frame is 0 up to rounding; variability has digits however small.
        absolute = 0 if key in ("nc1", "nc1_trace_ratio", "cdnv") else 1e-12
        assert one[key] == pytest.approx(other[key], rel=relative, abs=absolute, nan_ok=True), key


# --- what is measured ---------------------------------------------------------------------------


def test_a_model_on_a_loader_equals_the_slow_reference() -> None:
    model, (inputs, labels) = network(), data()
    features = features_of(model, inputs)
    measurement = measure(model, batches(), num_classes=3)
    head = model[-1]
    assert isinstance(head, nn.Linear)
    assert_metrics(
        measurement.metrics, expected_metrics(features, labels, head.weight, head.bias, 3)
    )
    decided = (features @ head.weight.T + head.bias).argmax(1)
    assert measurement.accuracy == float((decided == labels).double().mean())
    assert measurement.counts == (17, 17, 16)
    assert measurement.undefined == {}
    assert measurement.absent == ()
    assert measurement.weight is not None
    assert torch.equal(measurement.weight, head.weight)
    assert measurement.bias is not None
    assert torch.equal(measurement.bias, head.bias)
    assert measurement.statistics is not None
    assert measurement.statistics.num_samples == 50


def test_features_of_a_model_give_the_same_as_the_model() -> None:
    model, (inputs, labels) = network(), data()
    head = model[-1]
    assert isinstance(head, nn.Linear)
    by_model = measure(model, batches())
    by_features = measure_features(features_of(model, inputs), labels, head.weight, head.bias)
    # Batches of another size round differently; the inverse of a covariance (vci) amplifies it.
    assert_equal_measurements(by_model, by_features, 1e-5)


LOADERS: dict[str, Callable[[], Any]] = {
    "list": lambda: batches(),
    "tuple of lists": lambda: tuple([x, y] for x, y in batches()),
    "one big batch": lambda: batches(50),
    "batches of one": lambda: batches(1),
    "generator": lambda: (batch for batch in batches()),
    "with more than labels": lambda: [(x, y, "name") for x, y in batches()],
    "DataLoader": lambda: DataLoader(TensorDataset(*data()), batch_size=7),
    "shuffled DataLoader": lambda: DataLoader(TensorDataset(*data()), batch_size=7, shuffle=True),
    "with an empty batch": lambda: [*batches(), (torch.zeros(0, 4), torch.zeros(0).long())],
    "int32 labels": lambda: [(x, y.int()) for x, y in batches()],
}


@pytest.mark.parametrize("name", LOADERS)
def test_any_loader_of_the_same_samples_gives_the_same(name: str) -> None:
    expected = measure(network(), batches(), num_classes=3)
    measured = measure(network(), LOADERS[name](), num_classes=3)
    # Matrix products of other batch sizes round differently.
    assert_equal_measurements(measured, expected, 1e-5)


def test_a_data_loader_with_workers_is_iterated_once() -> None:
    """Asking for an iterator starts the workers and draws random numbers."""

    class Counting(list[Any]):
        iterators = 0

        def __iter__(self) -> Iterator[Any]:
            type(self).iterators += 1
            return super().__iter__()

    measure(network(), Counting(batches()))
    assert Counting.iterators == 1


@pytest.mark.parametrize("budget", [0, 700, 10**9])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_second_pass_gives_the_same_as_kept_features(
    budget: int, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = measure(network(), batches(), normalize=normalize)
    monkeypatch.setattr(neuralcollapse.measuring, "_KEPT_BYTES", budget)
    again = measure(network(), batches(), normalize=normalize)
    assert_equal_measurements(again, kept)
    assert math.isfinite(again["nc4_disagreement"])


def test_a_loader_that_runs_once_and_features_that_do_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = measure(network(), batches())
    monkeypatch.setattr(neuralcollapse.measuring, "_KEPT_BYTES", 700)
    measurement = measure(network(), (batch for batch in batches()))
    assert math.isnan(measurement["nc4_disagreement"])
    assert "only once" in measurement.undefined["nc4_disagreement"]
    assert "only once" in measurement.undefined["hug_intra"]
    assert "only once" in measurement.undefined["cdnv_directional"]
    assert measurement.accuracy is None
    for key in KEYS:
        if key not in ("nc4_disagreement", "hug_intra", "cdnv_directional"):
            assert measurement[key] == pytest.approx(expected[key], rel=1e-9)


def test_unit_features() -> None:
    model, (inputs, labels) = network(), data()
    head = model[-1]
    assert isinstance(head, nn.Linear)
    features = features_of(model, inputs)
    units = features / features.norm(dim=1, keepdim=True)
    by_model = measure(model, batches(), normalize=True)
    for measured in (by_model, measure_features(features, labels, head.weight, normalize=True)):
        expected = expected_metrics(units, labels, head.weight, None, 3)
        del expected["nc4_disagreement"]
        for key, value in expected.items():
            assert measured[key] == pytest.approx(value, rel=1e-5, abs=1e-6), key
        assert "unit length" in measured.conventions["features"]
    assert by_model["nc1"] != pytest.approx(measure(model, batches())["nc1"], rel=1e-3)


def test_unit_features_do_not_change_what_the_classifier_decides() -> None:
    """With a bias, the logits of shortened features are not those of the network."""
    model = network()
    head = model[-1]
    assert isinstance(head, nn.Linear)
    nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
    nn.init.normal_(head.bias, std=2.0, generator=torch.Generator().manual_seed(2))
    raw = measure(model, batches())
    features = features_of(model, data()[0])
    for normalized in (
        measure(model, batches(), normalize=True),
        measure_features(features, data()[1], head.weight, head.bias, normalize=True),
    ):
        assert normalized.accuracy == raw.accuracy


@pytest.mark.parametrize("global_mean", ["class", "sample"])
def test_the_global_mean_is_chosen_and_said(global_mean: Any) -> None:
    inputs, labels = data()
    few = labels != 2
    few[:6] = True
    features = features_of(network(), inputs)[few]
    measurement = measure_features(features, labels[few], global_mean=global_mean)
    expected = reference.metrics.all_metrics(
        features.double().numpy(), labels[few].numpy(), 3, global_mean=global_mean
    )
    for key, value in expected.items():
        assert measurement[key] == pytest.approx(value, rel=1e-5), key
    words = {"class": "mean of the class means", "sample": "mean of all samples"}
    assert measurement.conventions["global_mean"] == words[global_mean]


@pytest.mark.parametrize("case", **head_cases)
def test_the_heads_of_this_library_are_measured(case: HeadCase) -> None:
    head = case.make()
    model = nn.Sequential(nn.Linear(4, 6), head)
    inputs, labels = data(num_classes=4)
    measurement = measure(model, [(inputs, labels)])
    with torch.no_grad():
        features, decided = model[0](inputs), model(inputs).argmax(1)
    expected = expected_metrics(features, labels, head.weight, head.bias, 4)
    assert_metrics(measurement.metrics, expected)
    assert measurement.accuracy == float((decided == labels).double().mean())
    assert measurement.conventions["layer"] == "input of 1"


def test_a_head_alone_is_a_model() -> None:
    w = collapsed()
    head = FixedHead(simplex_etf(4, 6))
    measurement = measure(head, [(w.features.float(), w.labels)])
    assert measurement["nc1"] == pytest.approx(0, abs=1e-10)
    assert measurement["nc2w_max_angle"] == pytest.approx(0, abs=1e-6)


def test_a_collapsed_network_reads_as_collapsed() -> None:
    w = collapsed(num_classes=5, dim=8)
    measurement = measure_features(w.features, w.labels, w.weight, w.bias)
    for metric in ROWS:
        target = metric.collapse_value(5, 8)
        assert measurement[metric.key] == pytest.approx(target, abs=1e-12), metric.key
    assert measurement.accuracy == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_any_precision(dtype: torch.dtype) -> None:
    w = world("noisy", simplex_vertices(3, 6), 20, 0.3, seed=2)
    features, weight, bias = w.features.to(dtype), w.weight.to(dtype), w.bias.to(dtype)
    measurement = measure_features(features, w.labels, weight, bias)
    assert_metrics(measurement.metrics, expected_metrics(features, w.labels, weight, bias, 3))
    model = nn.Sequential(nn.Identity(), nn.Linear(6, 3)).to(dtype)
    assert math.isfinite(measure(model, [(features, w.labels)])["nc1"])


def test_measuring_under_autocast_keeps_the_arithmetic() -> None:
    """Only the network may run in bfloat16, not what is measured of it."""
    w = world("tight", 30 * simplex_vertices(3, 6) + 30, 20, 1e-3, seed=2)
    features = w.features.float()
    outside = measure_features(features, w.labels, w.weight.float(), w.bias.float())
    with torch.autocast("cpu", torch.bfloat16):
        inside = measure_features(features, w.labels, w.weight.float(), w.bias.float())
    assert_equal_measurements(inside, outside)


def test_numpy_and_torch_give_the_same() -> None:
    w = world("noisy", simplex_vertices(4, 6), 10, 0.3, seed=2)
    arrays = [w.features.numpy(), w.labels.numpy(), w.weight.numpy(), w.bias.numpy()]
    features, labels, weight, bias = arrays
    expected = measure_features(w.features, w.labels, w.weight, w.bias)
    given = measure_features(features, labels, weight, bias)
    assert_equal_measurements(given, expected)
    given = measure_features(features, labels, weight, bias, num_classes=4)
    assert_equal_measurements(given, expected)
    for kind in (np.int8, np.uint8, np.int32, np.uint16, np.uint32):
        other = measure_features(features, labels.astype(kind), weight, bias)
        assert_equal_measurements(other, expected)
    turned = measure_features(features[::-1], labels[::-1], weight[:, ::1], bias)
    assert_equal_measurements(turned, expected)
    swapped = measure_features(
        features.astype(">f8"), labels.astype(">i4"), weight.astype(">f8"), bias.astype(">f8")
    )
    assert_equal_measurements(swapped, expected)
    fortran = measure_features(np.asfortranarray(features), labels, weight, bias)
    assert_equal_measurements(fortran, expected)
    for array in arrays:
        array.flags.writeable = False
    frozen = measure_features(features, labels, weight, bias)
    assert_equal_measurements(frozen, expected)


def test_classes_never_seen_are_named() -> None:
    w = world("gaps", simplex_vertices(6, 7, 11), [9, 9, 0, 9, 9, 0], 0.3)
    measurement = measure_features(w.features, w.labels, w.weight, w.bias)
    assert measurement.absent == (2, 5)
    assert measurement.counts == (9, 9, 0, 9, 9, 0)
    assert measurement.to_dict()["absent_classes"] == [2, 5]
    assert "classes 2, 5" in str(measurement)
    by_labels = measure_features(w.features, w.labels)
    assert by_labels.counts == (9, 9, 0, 9, 9)
    geometry = measurement.geometry()
    assert geometry.means.shape == (4, 4)
    assert geometry.weight is not None
    assert geometry.weight.shape == (4, 4)


def test_without_a_classifier_its_metrics_have_a_reason() -> None:
    w = world("noisy", simplex_vertices(4, 6), 10, 0.3, seed=2)
    measurement = measure_features(w.features, w.labels)
    missing = {key for key in KEYS if key.startswith(("nc2w", "nc3", "gnc3", "nc4"))}
    assert set(measurement.undefined) == missing
    assert {"no classifier weight was given"} == set(measurement.undefined.values())
    assert measurement.accuracy is None
    assert measurement.conventions["classifier"] == "none"


def test_one_class_is_undefined_with_a_reason() -> None:
    measurement = measure(network(), [(data()[0], torch.zeros(50).long())])
    assert measurement.counts == (50, 0, 0)
    assert measurement.accuracy is not None
    for metric in ROWS:
        if "statistics" in metric.needs:
            assert math.isnan(measurement[metric.key])
            assert "1 of 3" in measurement.undefined[metric.key]


# --- no trace -----------------------------------------------------------------------------------


def mixed_modes(model: nn.Module) -> list[bool]:
    """Every other module in evaluation mode, as somebody who freezes BatchNorm has it."""
    for index, module in enumerate(model.modules()):
        module.training = index % 2 == 0
    return [module.training for module in model.modules()]


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def breaking_loader() -> Iterator[tuple[Tensor, Tensor]]:
    yield from batches()[:2]
    raise OSError("the disk is gone")


def breaking_labels() -> list[tuple[Tensor, Tensor]]:
    return [(inputs, labels + 1) for inputs, labels in batches()]


BROKEN: dict[str, tuple[Callable[[], Any], type[Exception]]] = {
    "nothing": (batches, KeyError),
    "the loader": (breaking_loader, OSError),
    "the labels": (breaking_labels, ValueError),
    "the model": (lambda: [(torch.zeros(3, 5), torch.zeros(3).long())], ValueError),
    "no data": (lambda: [], ValueError),
}


@pytest.mark.parametrize("what", BROKEN)
def test_the_model_is_afterwards_as_it_was(what: str) -> None:
    loader, error = BROKEN[what]
    model = network()
    modes = mixed_modes(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    identities = [id(p) for p in model.parameters()]
    hooks = hooks_of(model)
    if what == "nothing":
        measure(model, loader())
    else:
        with pytest.raises(error):
            measure(model, loader())
    assert [module.training for module in model.modules()] == modes
    assert hooks_of(model) == hooks
    assert [id(p) for p in model.parameters()] == identities
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()
    for name, value in model.state_dict().items():  # BatchNorm's buffers among them
        assert torch.equal(value, before[name]), name


def test_other_hooks_stay() -> None:
    model = network()
    calls: list[int] = []
    model[-1].register_forward_pre_hook(lambda *_: calls.append(1))
    measure(model, batches())
    assert len(calls) == len(batches())
    assert hooks_of(model) == 1


@pytest.mark.parametrize("loader", ["list", "DataLoader", "shuffled DataLoader"])
def test_measuring_draws_no_random_number(loader: str) -> None:
    """Training goes on the same whether it was measured or not."""
    batches_of = LOADERS[loader]()
    before = torch.get_rng_state()
    measure(network(), batches_of)
    assert torch.equal(torch.get_rng_state(), before)
    w = collapsed()
    measure_features(w.features, w.labels, w.weight, w.bias)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_result_does_not_follow_the_model() -> None:
    model = network()
    measurement = measure(model, batches())
    assert measurement.weight is not None
    before, values = measurement.weight.clone(), dict(measurement.metrics)
    with torch.no_grad():
        head = model[-1]
        assert isinstance(head, nn.Linear)
        head.weight.add_(1)
    assert torch.equal(measurement.weight, before)
    assert measurement.metrics == values


class Elsewhere(nn.Module):
    """A model that records where it was asked to go."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.places: list[str] = []

    def to(self, device: Any) -> Elsewhere:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.places.append(str(device))
        if str(device) == "cuda":
            raise RuntimeError("no such device")
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs)


def test_the_device_is_restored_when_moving_fails() -> None:
    model = Elsewhere()
    modes = mixed_modes(model)
    with pytest.raises(ValueError, match="no such device"):
        measure(model, batches(), device="cuda")
    assert model.places == ["cuda", "cpu"]
    assert [module.training for module in model.modules()] == modes
    assert hooks_of(model) == 0
    measure(model, batches(), device="cpu")
    assert model.places == ["cuda", "cpu"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_measures_the_same_and_the_model_comes_back() -> None:
    model = network()
    expected = measure(model, batches())
    measured = measure(model, batches(), device="cuda")
    assert next(model.parameters()).device.type == "cpu"
    assert_equal_measurements(measured, expected, 1e-4)
    assert_equal_measurements(measure(model.cuda(), batches()), expected, 1e-4)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """A data set without a length, whose DataLoader has a `__len__` that raises."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(*data(), strict=True)


@pytest.mark.parametrize("name", ["list", "generator", "stream"])
def test_the_progress_bar_is_on_standard_error_of_a_terminal_only(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loader() -> Any:
        return DataLoader(Stream(), batch_size=8) if name == "stream" else LOADERS[name]()

    measure(network(), loader())
    assert capsys.readouterr() == ("", "")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with_bar = measure(network(), loader())
    shown = terminal.getvalue()
    quiet = measure(network(), loader(), progress=False)
    assert "measuring" in shown
    assert terminal.getvalue() == shown
    assert_equal_measurements(with_bar, quiet)
    assert capsys.readouterr().out == ""


# --- finding the classifier -----------------------------------------------------------------------


class Two(nn.Module):
    """An embedding head after the classifier, and the classifier within a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.heads = nn.ModuleDict({"main": nn.Linear(6, 3), "extra": nn.Linear(6, 3, bias=False)})
        self.embedding = nn.Linear(6, 2)

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        features = self.body(inputs).relu()
        return tuple(head(features) for head in [*self.heads.values(), self.embedding])


def test_the_last_layer_of_the_right_width_is_found() -> None:
    model = Two()
    for num_classes, name in (
        (3, "heads.extra"),
        (2, "embedding"),
        (6, "body"),
        (None, "embedding"),
    ):
        assert FeatureTap(model, num_classes=num_classes).name == name
    assert FeatureTap(model, "heads.main").name == "heads.main"
    by_width = measure(model, batches(), num_classes=3)
    assert by_width.conventions["layer"] == "input of heads.extra"
    assert by_width.conventions["classifier"] == "weight"
    by_name = measure(model, batches(), layer="heads.main")
    assert by_name.conventions["layer"] == "input of heads.main"
    assert by_name.conventions["classifier"] == "weight and bias"
    assert by_name["nc1"] == by_width["nc1"]
    assert by_name["nc3_alignment"] != by_width["nc3_alignment"]


NO_HEAD: dict[str, tuple[nn.Module, dict[str, Any], list[str]]] = {
    "no such width": (
        Two(),
        {"num_classes": 10},
        [
            "10 outputs",
            "'body' (4 -> 6)",
            "'heads.main' (6 -> 3)",
            "'embedding' (6 -> 2)",
            "layer=",
        ],
    ),
    "no such name": (Two(), {"layer": "fc"}, ["'fc'", "'heads.main' (6 -> 3)"]),
    "not a linear layer": (network(), {"layer": "4"}, ["'4'", "'5' (6 -> 3)"]),
    "name and width disagree": (
        Two(),
        {"layer": "embedding", "num_classes": 3},
        ["'embedding'", "3 outputs", "'heads.extra' (6 -> 3)"],
    ),
    "no linear layer": (nn.Sequential(nn.Conv2d(3, 4, 1)), {}, ["no linear layer", "none at all"]),
}


@pytest.mark.parametrize("name", NO_HEAD)
def test_a_missing_classifier_is_reported_with_the_candidates(name: str) -> None:
    model, options, fragments = NO_HEAD[name]
    with pytest.raises(ValueError, match=r"model|layer") as caught:
        measure(model, batches(), **options)
    for fragment in fragments:
        assert fragment in str(caught.value)


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(input=inputs)


class Twice(Keyword):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(inputs) + self.fc(-inputs)


class Never(Keyword):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.fc.weight.T


class Tokens(Keyword):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(inputs[:, None].expand(-1, 5, -1))


def test_a_classifier_called_by_keyword_is_read_too() -> None:
    expected = measure_features(*data())
    assert measure(Keyword(), batches())["nc1"] == pytest.approx(expected["nc1"], rel=1e-6)


@pytest.mark.parametrize(
    "model, message",
    [
        (Twice(), r"'fc' must run exactly once per forward pass, ran 2 times"),
        (Never(), r"'fc' must run exactly once per forward pass, ran 0 times"),
        (Tokens(), r"'fc' must receive features of shape \(N, d\), got \(16, 5, 4\); pool"),
    ],
)
def test_a_layer_that_is_not_one_classifier_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(model, batches())
    assert hooks_of(model) == 0


def test_the_tap_reads_what_enters_and_lets_go() -> None:
    model, (inputs, _) = network(), data()
    with FeatureTap(model, num_classes=3) as tap:
        model.eval()(inputs)
        features = tap.take()
        model(inputs[:7])
        assert len(tap.take()) == 7
        with pytest.raises(ValueError, match="ran 0 times"):
            tap.take()
    assert not features.requires_grad
    assert torch.equal(features, features_of(model, inputs))
    assert hooks_of(model) == 0


# --- bad input ------------------------------------------------------------------------------------


GOOD_X, GOOD_Y = np.eye(6, 4, dtype=np.float32), np.array([0, 1, 2, 0, 1, 2])


def bent(array: np.ndarray, value: float, position: tuple[int, ...]) -> np.ndarray:
    changed = array.copy()
    changed[position] = value
    return changed


# The arguments of measure_features, the error, and what its message must say.
BAD: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], list[str]]] = {
    "nan": ((bent(GOOD_X, math.nan, (3, 1)), GOOD_Y), {}, ValueError, ["features", "row 3"]),
    "infinite": ((bent(GOOD_X, math.inf, (5, 0)), GOOD_Y), {}, ValueError, ["features", "row 5"]),
    "integers": ((GOOD_X.astype(int), GOOD_Y), {}, TypeError, ["features", "floating point"]),
    "strings": ((GOOD_X.astype(str), GOOD_Y), {}, TypeError, ["features"]),
    "objects": ((GOOD_X.astype(object), GOOD_Y), {}, TypeError, ["features"]),
    "complex": ((GOOD_X.astype(complex), GOOD_Y), {}, TypeError, ["features", "complex"]),
    "nothing": ((None, GOOD_Y), {}, TypeError, ["features", "NoneType"]),
    "images": ((np.zeros((6, 2, 2)), GOOD_Y), {}, ValueError, ["features", "2-D", "(6, 2, 2)"]),
    "ragged": (([[1.0], [1.0, 2.0]], [0, 1]), {}, TypeError, ["features"]),
    "empty": ((np.zeros((0, 4)), np.zeros(0, dtype=int)), {}, ValueError, ["at least one sample"]),
    "no width": ((np.zeros((6, 0)), GOOD_Y), {}, ValueError, ["dim|features", "at least 1|column"]),
    "float labels": ((GOOD_X, GOOD_Y + 0.5), {}, TypeError, ["labels", "integers", "float64"]),
    "text labels": ((GOOD_X, np.array(list("abcabc"))), {}, TypeError, ["labels"]),
    "labels in a column": ((GOOD_X, GOOD_Y[:, None]), {}, ValueError, ["labels", "1-D", "(6, 1)"]),
    "too few labels": ((GOOD_X, GOOD_Y[:5]), {}, ValueError, ["5 labels", "6 rows"]),
    "negative label": ((GOOD_X, GOOD_Y - 1), {}, ValueError, ["labels", "-1", "ignore index"]),
    "only negative labels": ((GOOD_X, GOOD_Y - 9), {}, ValueError, ["labels", "from -9 to -7"]),
    "1-based": (
        (GOOD_X, GOOD_Y + 1),
        {"num_classes": 3},
        ValueError,
        ["labels must lie in [0, 3)", "from 1 to 3", "1-based"],
    ),
    "more labels than rows of weight": (
        (GOOD_X, GOOD_Y, np.eye(2, 4)),
        {},
        ValueError,
        ["labels must lie in [0, 2)"],
    ),
    "absurdly large label": (
        (GOOD_X, bent(GOOD_Y, 10**15, (0,))),
        {},
        ValueError,
        ["labels", "1000000000000000", "num_classes"],
    ),
    "classes as text": ((GOOD_X, GOOD_Y), {"num_classes": "3"}, TypeError, ["num_classes"]),
    "no class": ((GOOD_X, GOOD_Y), {"num_classes": 0}, ValueError, ["num_classes", "at least 1"]),
    "narrow weight": (
        (GOOD_X, GOOD_Y, np.eye(3, 5)),
        {},
        ValueError,
        ["weight must have 4 columns", "(3, 5)"],
    ),
    "weight of other classes": (
        (GOOD_X, GOOD_Y, np.eye(4)),
        {"num_classes": 3},
        ValueError,
        ["weight must have 3 rows", "num_classes", "(4, 4)"],
    ),
    "weight with nan": (
        (GOOD_X, GOOD_Y, bent(np.eye(3, 4), math.nan, (1, 1))),
        {},
        ValueError,
        ["weight must be finite", "row 1"],
    ),
    "integer weight": ((GOOD_X, GOOD_Y, np.eye(3, 4, dtype=int)), {}, TypeError, ["weight"]),
    "long bias": ((GOOD_X, GOOD_Y, np.eye(3, 4), np.zeros(4)), {}, ValueError, ["bias", "(3,)"]),
    "bias in a column": (
        (GOOD_X, GOOD_Y, np.eye(3, 4), np.zeros((3, 1))),
        {},
        ValueError,
        ["bias must have shape (3,)", "(3, 1)"],
    ),
    "bias with infinity": (
        (GOOD_X, GOOD_Y, np.eye(3, 4), np.array([0, math.inf, 0])),
        {},
        ValueError,
        ["bias must be finite"],
    ),
    "bias alone": ((GOOD_X, GOOD_Y, None, np.zeros(3)), {}, ValueError, ["bias", "weight"]),
    "global mean": (
        (GOOD_X, GOOD_Y),
        {"global_mean": "median"},
        ValueError,
        ["global_mean must be one of class, sample", "'median'"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays_give_one_clear_sentence(name: str) -> None:
    arguments, options, error, fragments = BAD[name]
    with pytest.raises(error) as caught:
        measure_features(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert any(part in message for part in fragment.split("|")), message


def test_the_good_arrays_are_good() -> None:
    assert math.isfinite(measure_features(GOOD_X, GOOD_Y, np.eye(3, 4), np.zeros(3))["nc1"])


BAD_LOADERS: dict[str, tuple[Any, type[Exception], str]] = {
    "empty": ([], ValueError, "loader must yield at least one sample, got none"),
    "empty batches": (
        [(torch.zeros(0, 4), torch.zeros(0).long())],
        ValueError,
        "loader must yield at least one sample, got none",
    ),
    "dictionaries": (
        [{"inputs": 1, "labels": 2}],
        TypeError,
        r"loader must yield \(inputs, labels\) pairs of tensors, or .*, got dict of inputs, labels",
    ),
    "inputs only": (
        [torch.zeros(3, 4)],
        TypeError,
        r"loader must yield \(inputs, labels\) pairs of tensors, or .*, got Tensor",
    ),
    "arrays": (
        [(np.zeros((3, 4)), np.zeros(3))],
        TypeError,
        r"pairs of tensors, or .*, got \(ndarray, ndarray, \.\.\.\)",
    ),
    "1-based": (
        [(torch.zeros(2, 4), torch.tensor([1, 3]))],
        ValueError,
        r"labels must lie in \[0, 3\), got values from 1 to 3; are your labels 1-based",
    ),
    "nan": (
        [(torch.full((2, 4), math.nan), torch.tensor([0, 1]))],
        ValueError,
        "features must be finite",
    ),
    "one-hot, too narrow": (
        [(torch.zeros(2, 4), torch.eye(2))],
        ValueError,
        "labels must be 1-D",
    ),
    "shares of classes": (
        [(torch.zeros(2, 4), torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]))],
        ValueError,
        r"labels of shape \(2, 3\) must be one-hot, got rows that are not a single 1",
    ),
    "ignored, but not asked for": (
        [(torch.zeros(2, 4), torch.tensor([0, -1]))],
        ValueError,
        "leave out samples with an ignore index",
    ),
    "all ignored": (
        [(torch.zeros(2, 4), torch.tensor([-100, -100]))],
        ValueError,
        "loader must yield at least one sample, got none",
    ),
    "several inputs without a name": (
        [{"left": torch.zeros(2, 4), "right": torch.zeros(2, 4), "y": torch.tensor([0, 1])}],
        TypeError,
        "loader must yield names that the model's forward has, got left, right",
    ),
    "too few labels": (
        [(torch.zeros(2, 4), torch.tensor([0]))],
        ValueError,
        "got 1 labels for 2 rows",
    ),
}


@pytest.mark.parametrize("name", BAD_LOADERS)
def test_bad_batches_give_one_clear_sentence(name: str) -> None:
    loader, error, message = BAD_LOADERS[name]
    with pytest.raises(error, match=message):
        measure(network(), loader)


def test_bad_options_are_reported_before_any_work() -> None:
    def untouched() -> Iterator[Any]:
        pytest.fail("the loader was read")
        yield

    with pytest.raises(ValueError, match="global_mean must be one of class, sample"):
        measure(network(), untouched(), global_mean="median")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        measure(network(), untouched(), num_classes=0)


# --- the record -----------------------------------------------------------------------------------


def gaps() -> Measurement:
    w = world("gaps", simplex_vertices(4, 5), [9, 9, 0, 9], 0.3)
    return measure_features(w.features, w.labels, split="test")


def test_json_gives_everything_back(tmp_path: Path) -> None:
    measurement = gaps()
    path = tmp_path / "measurement.json"
    measurement.save(path)
    again = Measurement.load(path)
    assert again.to_dict() == measurement.to_dict()
    assert again.undefined == measurement.undefined
    assert again.conventions == measurement.conventions
    assert again.counts == measurement.counts
    assert again.accuracy is None
    assert str(again) == str(measurement)
    for key in KEYS:
        assert again[key] == measurement[key] or math.isnan(again[key]) == math.isnan(
            measurement[key]
        )
    with pytest.raises(ValueError, match="statistics"):
        again.geometry()


def test_json_is_strict_and_complete(tmp_path: Path) -> None:
    path = tmp_path / "measurement.json"
    gaps().save(path)

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    values = json.loads(path.read_text(), parse_constant=refuse)
    assert list(values["metrics"]) == KEYS
    assert values["metrics"]["nc3_duality"] is None
    assert values["undefined"]["nc3_duality"] == "no classifier weight was given"
    assert values["counts"] == [9, 9, 0, 9]
    assert values["absent_classes"] == [2]
    assert values["num_samples"] == 27
    assert values["conventions"]["split"] == "test"


def test_every_convention_is_carried() -> None:
    """Which global mean, whether divided by K, split, layer, raw or normalised, bias used."""
    conventions = measure(network(), batches(), split="train").conventions
    assert conventions["split"] == "train"
    assert conventions["layer"] == "input of 5"
    assert conventions["features"] == "raw"
    assert conventions["classifier"] == "weight and bias"
    assert conventions["global_mean"] == "mean of the class means"
    assert "number of samples" in conventions["within_covariance"]
    assert "number of classes" in conventions["between_covariance"]
    assert "number of classes" in conventions["nc1"]
    assert conventions["standard_deviation"] == "population"
    assert conventions["nc4"]


def test_the_regime_says_which_rows_are_primary() -> None:
    for num_classes, dim, regime in ((5, 4, "simplex"), (6, 4, "general"), (2, 1, "simplex")):
        means = np.random.default_rng(num_classes).standard_normal((num_classes, dim))
        w = world("either", means, 3, 0.1)
        measurement = measure_features(w.features, w.labels, w.weight)
        assert (measurement.dim, measurement.regime) == (dim, regime)
        assert measurement.to_dict()["regime"] == regime
        said = "nc2 rows are primary" if regime == "simplex" else "gnc2 rows are primary"
        assert f", {'a' if regime == 'simplex' else 'no'} simplex fits: the {said}" in str(
            measurement
        )


def test_classes_never_seen_do_not_make_the_regime() -> None:
    """Four of seven classes in three dimensions: a simplex of those seen fits."""
    w = world("gaps", simplex_vertices(4, 3), 5, 0.01)
    labels = torch.tensor([0, 2, 4, 6])[w.labels]
    measurement = measure_features(w.features, labels, num_classes=7)
    assert measurement.regime == "simplex"
    assert measurement["gnc2_energy_gap"] == pytest.approx(0, abs=1e-3)
    log_mean = next(metric for metric in ROWS if metric.key == "gnc2_log_mean")
    assert f"{log_mean.collapse_value(4, 3):.4g}" in str(measurement)


def test_a_record_without_a_width_still_prints() -> None:
    values = gaps().to_dict()
    del values["dim"], values["regime"]
    older = Measurement.from_dict(values)
    assert older.dim is None
    assert older.regime is None
    assert "regime" not in str(older)
    (line,) = [line for line in str(older).splitlines() if line.startswith("gnc2_log_mean")]
    assert line.split()[2] == "-"  # nobody knows where it tends


def test_the_table_shows_every_value_convention_and_reason() -> None:
    measurement = gaps()
    text = str(measurement)
    for metric in ROWS:
        assert metric.key in text
        assert metric.summary in text
    assert f"{measurement['nc1']:.6g}" in text
    assert "no classifier weight was given" in text
    for value in measurement.conventions.values():
        assert value in text
    assert "27 in 4 classes" in text
    assert max(len(line) for line in text.splitlines() if line.startswith("nc")) <= 100


def test_a_record_of_an_older_table_still_prints() -> None:
    """The next metric must not make yesterday's records unreadable."""
    values = gaps().to_dict()
    del values["metrics"]["cdnv"]
    older = Measurement.from_dict(values)
    assert "cdnv" not in older.metrics
    assert "nc1_trace_ratio" in str(older)


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": None},
        {"metrics": {"nc1": "much"}},
        {"metrics": {"nc1": []}},
        {"counts": 3},
        {"counts": ["a"]},
        {"undefined": 3},
        {"conventions": None},
        {"accuracy": "good"},
    ],
)
def test_values_that_are_no_measurement_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a measurement"):
        Measurement.from_dict(gaps().to_dict() | change)
    key = next(iter(change))
    partial = gaps().to_dict()
    del partial[key]
    with pytest.raises(ValueError, match="not a measurement"):
        Measurement.from_dict(partial)


@pytest.mark.parametrize("content", ["[1, 2]", "3", '"text"', "", "{", "\ufeff{}", "[" * 100_000])
def test_a_file_that_is_no_measurement_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"wrong\.json|not a measurement"):
        Measurement.load(path)


def test_a_measurement_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        gaps().accuracy = 1.0  # pyright: ignore[reportAttributeAccessIssue]


def test_the_geometry_is_that_of_the_means_and_rows() -> None:
    w: World = collapsed()
    measurement = measure_features(w.features, w.labels, w.weight, w.bias)
    geometry = measurement.geometry()
    assert measurement.statistics is not None
    assert isinstance(measurement.statistics, ClassStatistics)
    expected = 9 * (torch.eye(4, dtype=torch.float64) - 0.25) * 4 / 3
    torch.testing.assert_close(geometry.means, expected, rtol=0, atol=1e-12)
    assert geometry.weight is not None
    assert geometry.cross is not None
    torch.testing.assert_close(geometry.weight, 4 * expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(geometry.cross, 2 * expected, rtol=0, atol=1e-12)


def test_the_linear_head_and_torchs_linear_are_measured_alike() -> None:
    ours, theirs = LinearHead(3, 4), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    one, other = measure(ours, batches()), measure(theirs, batches())
    assert_equal_measurements(one, other)
    assert HEAD_CASES
