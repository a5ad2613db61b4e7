"""A model on any loader is measured as the slow reference says, and as its features are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neuralcollapse.measuring
import reference.metrics
from cases.heads import HEAD_CASES, HeadCase, head_cases
from cases.metrics import ROWS
from cases.worlds import collapsed, simplex_vertices, world
from neuralcollapse import FixedHead, LinearHead, measure, measure_features, simplex_etf
from small_networks import (
    KEYS,
    LOADERS,
    assert_equal_measurements,
    assert_metrics,
    batches,
    data,
    expected_metrics,
    features_of,
    network,
)


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


def test_a_metric_that_is_none_is_refused_with_those_that_are() -> None:
    measurement = measure(nn.Linear(4, 3), batches())
    with pytest.raises(KeyError, match=r"nc1_trace_ratio.*got 'NC1'"):
        measurement["NC1"]


class _OwnProduct(nn.Module):
    """Its classifier is a parameter, which no hook can find."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.weight = nn.Parameter(torch.ones(3, 6))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(inputs).relu() @ self.weight.T


def test_a_layer_that_is_hardly_the_classifier_is_told() -> None:
    [note] = [n for n in measure(_OwnProduct(), batches()).notes if "classifier" in n]
    for told in ("3 outputs", "'body'", "layer="):
        assert told in note
    for model, named in ((_OwnProduct(), "body"), (nn.Linear(4, 3), None)):
        assert not any("classifier" in n for n in measure(model, batches(), layer=named).notes)


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


def test_the_linear_head_and_torchs_linear_are_measured_alike() -> None:
    ours, theirs = LinearHead(3, 4), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    one, other = measure(ours, batches()), measure(theirs, batches())
    assert_equal_measurements(one, other)
    assert HEAD_CASES
