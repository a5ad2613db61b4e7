"""Bad arrays, batches and options give one clear sentence, before any work."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from neuralcollapse import measure, measure_features
from small_networks import network

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
