"""Any labels, layouts and precisions will do; what will not is named, and nothing has changed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cases.worlds import simplex_vertices, world
from neuralcollapse import ClassStatistics, StatisticsAccumulator, nc1
from passes import accumulated, assert_same, in_batches, tight_world, two_passes


@pytest.mark.parametrize("labels_dtype", [torch.int8, torch.int16, torch.int32, torch.uint8])
def test_any_integer_labels_will_do(labels_dtype: torch.dtype) -> None:
    w = world("noisy", simplex_vertices(4, 6), 10, 0.3)
    other = ClassStatistics.from_features(w.features, w.labels.to(labels_dtype), 4)
    assert_same(other, w.statistics(), 0)


def test_layout_does_not_matter() -> None:
    """Batches of one sample; transposed, strided and expanded input."""
    w = world("noisy", simplex_vertices(4, 6), 10, 0.3)
    features, labels = w.features, w.labels
    strided = torch.zeros(40, 12, dtype=torch.float64)
    strided[:, ::2] = features
    spaced = torch.zeros(80, dtype=torch.int64)
    spaced[1::2] = labels
    for view in (features.T.contiguous().T, strided[:, ::2]):
        assert not view.is_contiguous()
        assert_same(ClassStatistics.from_features(view, spaced[1::2], 4), w.statistics(), 1e-14)
    same = ClassStatistics.from_features(features[:1].expand(8, 6), labels[:1].expand(8), 4)
    assert same.spread.tolist() == [0, 0, 0, 0]
    assert same.num_samples == 8


def test_input_is_read_only_and_gradients_stay_out() -> None:
    w = world("noisy", simplex_vertices(4, 6), 10, 0.3)
    features = w.features.clone().requires_grad_()
    labels = w.labels.clone()
    statistics = ClassStatistics.from_features(features, labels, 4)
    assert torch.equal(features, w.features)
    assert torch.equal(labels, w.labels)
    assert not statistics.means.requires_grad
    assert statistics.scatter is not None
    assert not statistics.scatter.requires_grad
    with torch.inference_mode():
        inference = ClassStatistics.from_features(w.features, labels, 4)
    assert_same(inference, statistics, 0)


def test_precision_can_widen_on_the_way() -> None:
    """A stream that turns from bfloat16 to float64 loses nothing that it had."""
    w = tight_world(1e-3)
    kinds = [torch.bfloat16, torch.float32, torch.float64, torch.float32]
    batches = [
        (part.to(kind), labels)
        for part, labels, kind in zip(w.features.split(75), w.labels.split(75), kinds, strict=True)
    ]
    expected = two_passes(torch.cat([f.double() for f, _ in batches]), w.labels, 5)
    assert_same(accumulated(batches, 5), expected, 1e-6)
    doubles = [(f.double(), labels) for f, labels in batches]
    assert_same(accumulated(doubles, 5), expected, 1e-9)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_the_sums(kind: torch.dtype) -> None:
    w = tight_world(1e-5)
    features = w.features.float()
    outside = accumulated(in_batches(features, w.labels, 64), 5)
    with torch.autocast("cpu", kind):
        inside = accumulated(in_batches(features, w.labels, 64), 5)
    assert_same(inside, outside, 0)
    assert float(nc1(inside)) == float(nc1(outside))


def test_an_empty_batch_changes_nothing() -> None:
    accumulator = StatisticsAccumulator(3, 2)
    accumulator.update(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    assert accumulator.num_samples == 0
    accumulator.update(torch.ones(1, 2), torch.tensor([1]))
    accumulator.update(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    assert accumulator.result().counts.tolist() == [0, 1, 0]


def features_with(position: tuple[int, int], value: float) -> Tensor:
    features = torch.ones(4, 3)
    features[position] = value
    return features


GOOD_LABELS = torch.tensor([0, 1, 1, 0])


# features, labels, error, and what the message must say: argument, rule, what was given, remedy.
BAD_INPUT: dict[str, tuple[Any, Any, type[Exception], list[str]]] = {
    "nan": (
        features_with((2, 1), math.nan),
        GOOD_LABELS,
        ValueError,
        ["features must be finite", "1 of 4 rows", "first: row 2", "remove or repair"],
    ),
    "infinite": (
        features_with((0, 0), -math.inf),
        GOOD_LABELS,
        ValueError,
        ["features must be finite", "first: row 0"],
    ),
    "opposite infinities": (
        features_with((0, 0), -math.inf) + features_with((1, 1), math.inf),
        GOOD_LABELS,
        ValueError,
        ["features must be finite", "2 of 4 rows"],
    ),
    "1-based labels": (
        torch.ones(4, 3),
        torch.tensor([1, 2, 1, 2]),
        ValueError,
        ["labels must lie in [0, 2)", "from 1 to 2", "1-based"],
    ),
    "too large a label": (
        torch.ones(4, 3),
        torch.tensor([0, 2, 1, 7]),
        ValueError,
        ["labels must lie in [0, 2)", "from 0 to 7", "num_classes >= 8", "ignore index"],
    ),
    "ignore index": (
        torch.ones(4, 3),
        torch.tensor([0, -100, 1, 1]),
        ValueError,
        ["labels must lie in [0, 2)", "from -100 to 1", "ignore index"],
    ),
    "float labels": (
        torch.ones(4, 3),
        torch.tensor([0.0, 1.0, 1.0, 0.0]),
        TypeError,
        ["labels must be integers", "float32", ".long()"],
    ),
    "boolean labels": (
        torch.ones(4, 3),
        torch.tensor([False, True, True, False]),
        TypeError,
        ["labels must be integers", "bool"],
    ),
    "labels in a column": (
        torch.ones(4, 3),
        torch.tensor([[0], [1], [1], [0]]),
        ValueError,
        ["labels must be 1-D", "got shape (4, 1)"],
    ),
    "one-hot labels": (
        torch.ones(4, 3),
        torch.eye(2, dtype=torch.int64)[GOOD_LABELS],
        ValueError,
        ["labels must be 1-D", "got shape (4, 2)"],
    ),
    "no list of labels": (
        torch.ones(4, 3),
        [0, 1, 1, 0],
        TypeError,
        ["labels must be a torch.Tensor", "list", "torch.as_tensor"],
    ),
    "too few labels": (
        torch.ones(4, 3),
        torch.tensor([0, 1, 1]),
        ValueError,
        ["labels and features must have the same length", "3 labels", "4 rows"],
    ),
    "integer features": (
        torch.ones(4, 3, dtype=torch.int64),
        GOOD_LABELS,
        TypeError,
        ["features must be floating point", "int64", ".float()"],
    ),
    "complex features": (
        torch.ones(4, 3, dtype=torch.complex64),
        GOOD_LABELS,
        TypeError,
        ["features must be floating point", "complex64"],
    ),
    "images": (
        torch.ones(4, 3, 2, 2),
        GOOD_LABELS,
        ValueError,
        ["features must be 2-D", "got shape (4, 3, 2, 2)"],
    ),
    "one vector": (
        torch.ones(3),
        torch.tensor([0]),
        ValueError,
        ["features must be 2-D", "got shape (3,)"],
    ),
    "wrong width": (
        torch.ones(4, 5),
        GOOD_LABELS,
        ValueError,
        ["features must have 3 columns", "got shape (4, 5)"],
    ),
    "numpy features": (
        np.ones((4, 3)),
        GOOD_LABELS,
        TypeError,
        ["features must be a torch.Tensor", "ndarray", "torch.as_tensor"],
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("scatter", [True, False])
def test_bad_input_is_named_and_leaves_the_accumulator_as_it_was(
    name: str, fresh: bool, scatter: bool
) -> None:
    features, labels, error, fragments = BAD_INPUT[name]
    accumulator = StatisticsAccumulator(2, 3, scatter=scatter)
    if not fresh:
        accumulator.update(torch.eye(5, 3), torch.tensor([0, 0, 1, 1, 0]))
    before = accumulator.result()
    with pytest.raises(error) as caught:
        accumulator.update(features, labels)
    for fragment in fragments:
        assert fragment in str(caught.value)
    after = accumulator.result()
    assert_same(after, before, 0)
    good = torch.arange(12.0).reshape(4, 3)
    accumulator.update(good, GOOD_LABELS)
    assert accumulator.num_samples == before.num_samples + 4
    assert_same(
        accumulator.result(),
        before.merge(ClassStatistics.from_features(good, GOOD_LABELS, 2, scatter=scatter)),
        1e-6,
    )


@pytest.mark.parametrize("row", [0, 4095, 4096, 9_999])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_large_batch_that_is_not_finite_is_refused_as_a_whole(row: int, value: float) -> None:
    """Wherever the row lies: batches are taken in parts, and none of them may stay."""
    accumulator = StatisticsAccumulator(2, 3, scatter=False)
    accumulator.update(torch.eye(5, 3), torch.tensor([0, 0, 1, 1, 0]))
    before = accumulator.result()
    features = torch.ones(10_000, 3)
    features[row, 1] = value
    with pytest.raises(ValueError, match=rf"features must be finite.*in 1 of.*row {row}\)"):
        accumulator.update(features, torch.zeros(10_000, dtype=torch.int64))
    assert_same(accumulator.result(), before, 0)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((0, 3), ValueError, "num_classes must be at least 1, got 0"),
        ((3, -1), ValueError, "dim must be at least 1, got -1"),
        ((2.0, 3), TypeError, "num_classes must be an integer, got 2.0 of type float"),
        ((True, 3), TypeError, "num_classes must be an integer"),
        ((3, "4"), TypeError, "dim must be an integer, got '4' of type str"),
    ],
)
def test_bad_sizes_are_named(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        StatisticsAccumulator(*arguments)


@pytest.mark.parametrize("device", ["meta", "nowhere", 3.5])
def test_bad_devices_are_named(device: Any) -> None:
    with pytest.raises(ValueError, match="device must"):
        StatisticsAccumulator(2, 3, device=device)


def test_tensors_without_data_are_named() -> None:
    accumulator = StatisticsAccumulator(2, 3)
    features, labels = torch.ones(2, 3), torch.arange(2)
    with pytest.raises(ValueError, match="features must hold data"):
        accumulator.update(features.to("meta"), labels)
    with pytest.raises(ValueError, match="labels must hold data"):
        accumulator.update(features, labels.to("meta"))
    accumulator.update(features, labels)
    with pytest.raises(ValueError, match="other must hold data"):
        accumulator.result().merge(accumulator.result().to("meta"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_sums_in_half_precision_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"dtype must be torch.float32 or torch.float64, got"):
        StatisticsAccumulator(2, 2, dtype=dtype)


def test_bad_global_mean_is_named() -> None:
    statistics = ClassStatistics.from_features(torch.eye(2), torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match="global_mean must be one of class, sample, got 'median'"):
        statistics.global_mean("median")  # pyright: ignore[reportArgumentType]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["nan", "infinite", "too large a label", "ignore index"])
def test_a_gpu_reports_bad_values_at_the_end(name: str) -> None:
    features, labels, error, _ = BAD_INPUT[name]
    accumulator = StatisticsAccumulator(2, 3, device="cuda")
    accumulator.update(features.cuda(), labels.cuda())
    with pytest.raises(error, match="must"):
        accumulator.result()
