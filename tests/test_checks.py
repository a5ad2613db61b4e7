"""Every refusal names the argument, the rule, what was given and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from neuralcollapse.checks import (
    check_finite,
    check_label_range,
    check_labels,
    check_matrix,
    check_vector,
)
from neuralcollapse.scalars import check_choice, check_integer, check_number

LABELS = torch.tensor([0, 2, 1])


# --- what is accepted comes back ------------------------------------------------------------------


@pytest.mark.parametrize("value", [3, np.int64(3), torch.tensor(3), np.uint8(3)])
def test_integers_of_any_kind_come_back_as_int(value: Any) -> None:
    checked = check_integer("count", value, 3)
    assert type(checked) is int
    assert checked == 3


@pytest.mark.parametrize("value", [2, 2.0, np.float64(2), np.float32(2)])
def test_numbers_of_any_kind_come_back_as_float(value: Any) -> None:
    checked = check_number("rate", value, minimum=2)
    assert type(checked) is float
    assert checked == 2
    assert check_number("rate", -1e300) == -1e300
    assert check_number("rate", 1e-300, minimum=0, exclusive=True) == 1e-300


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64]
)
def test_labels_of_any_integer_type_come_back_as_int64(dtype: torch.dtype) -> None:
    checked = check_labels(LABELS.to(dtype), 3)
    assert checked.dtype == torch.int64
    assert checked.tolist() == [0, 2, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_good_arrays_come_back_themselves(dtype: torch.dtype) -> None:
    matrix, vector = torch.ones(3, 2, dtype=dtype), torch.ones(3, dtype=dtype)
    assert check_matrix("m", matrix, rows=3, columns=2) is matrix
    assert check_matrix("m", torch.zeros(0, 2)).shape == (0, 2)
    assert check_vector("v", vector, 3) is vector
    check_finite("m", matrix)
    check_finite("v", vector)
    check_finite("nothing", torch.zeros(0, 4))
    check_label_range(LABELS, 3)
    check_label_range(LABELS[:0], 3)
    assert check_choice("mode", "b", ("a", "b")) == "b"


def test_large_values_that_are_finite_pass() -> None:
    """Their sum overflows; the check must look twice before it complains."""
    check_finite("features", torch.full((4, 4), 6e4, dtype=torch.float16))
    check_finite("features", torch.full((4, 4), 3e38))


# --- what is refused ------------------------------------------------------------------------------


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "float for integer": (
        lambda: check_integer("num_classes", 3.0, 1),
        TypeError,
        "num_classes must be an integer, got 3.0 of type float",
    ),
    "bool for integer": (
        lambda: check_integer("num_classes", True, 1),
        TypeError,
        "num_classes must be an integer, got True of type bool",
    ),
    "text for integer": (
        lambda: check_integer("dim", "8", 1),
        TypeError,
        "dim must be an integer, got '8' of type str",
    ),
    "small integer": (
        lambda: check_integer("dim", 3, 9, "10 vectors span 9 dimensions"),
        ValueError,
        "dim must be at least 9, got 3; 10 vectors span 9 dimensions",
    ),
    "text for number": (
        lambda: check_number("lr", "0.1"),
        TypeError,
        "lr must be a number, got '0.1' of type str",
    ),
    "bool for number": (
        lambda: check_number("lr", False),
        TypeError,
        "lr must be a number, got False of type bool",
    ),
    "nan": (lambda: check_number("lr", math.nan), ValueError, "lr must be finite, got nan"),
    "infinity": (
        lambda: check_number("lr", math.inf, minimum=0),
        ValueError,
        "lr must be finite and at least 0, got inf",
    ),
    "negative": (
        lambda: check_number("decay", -1.5, minimum=0),
        ValueError,
        "decay must be finite and at least 0, got -1.5",
    ),
    "on the open border": (
        lambda: check_number("temperature", 0, minimum=0, exclusive=True),
        ValueError,
        "temperature must be finite and above 0, got 0",
    ),
    "too large for a float": (
        lambda: check_number("lr", 10**400),
        ValueError,
        "lr must be finite, got",
    ),
    "choice": (
        lambda: check_choice("loss", "mse", ("ce", "dot")),
        ValueError,
        "loss must be one of ce, dot, got 'mse'",
    ),
    "array for matrix": (
        lambda: check_matrix("weight", np.eye(2)),
        TypeError,
        "weight must be a torch.Tensor, got ndarray; use torch.as_tensor",
    ),
    "vector for matrix": (
        lambda: check_matrix("weight", torch.ones(3)),
        ValueError,
        "weight must be 2-D (rows are samples or classes), got shape (3,)",
    ),
    "integers for matrix": (
        lambda: check_matrix("weight", torch.ones(3, 2, dtype=torch.int32)),
        TypeError,
        "weight must be floating point, got int32; convert with .float()",
    ),
    "rows": (
        lambda: check_matrix("weight", torch.ones(3, 2), rows=4, why="one per class"),
        ValueError,
        "weight must have 4 rows (one per class), got shape (3, 2)",
    ),
    "columns": (
        lambda: check_matrix("weight", torch.ones(3, 2), columns=5),
        ValueError,
        "weight must have 5 columns, got shape (3, 2)",
    ),
    "list for vector": (
        lambda: check_vector("bias", [1.0], 1),
        TypeError,
        "bias must be a torch.Tensor, got list; use torch.as_tensor",
    ),
    "integers for vector": (
        lambda: check_vector("bias", torch.ones(3, dtype=torch.int64), 3),
        TypeError,
        "bias must be floating point, got int64; convert with .float()",
    ),
    "column for vector": (
        lambda: check_vector("bias", torch.ones(3, 1), 3, "one per row"),
        ValueError,
        "bias must have shape (3,) (one per row), got (3, 1)",
    ),
    "list for labels": (
        lambda: check_labels([0, 1], 2),
        TypeError,
        "labels must be a torch.Tensor, got list; use torch.as_tensor",
    ),
    "float labels": (
        lambda: check_labels(torch.ones(2), 2),
        TypeError,
        "labels must be integers, got float32; convert with .long()",
    ),
    "2-D labels": (
        lambda: check_labels(torch.ones(2, 1, dtype=torch.int64), 2),
        ValueError,
        "labels must be 1-D with one class index per sample, got shape (2, 1)",
    ),
    "0-D labels": (
        lambda: check_labels(torch.tensor(1), 1),
        ValueError,
        "labels must be 1-D with one class index per sample, got shape ()",
    ),
    "length of labels": (
        lambda: check_labels(LABELS, 5),
        ValueError,
        "labels and features must have the same length, got 3 labels for 5 rows of features",
    ),
    "1-based labels": (
        lambda: check_label_range(torch.tensor([1, 10, 4]), 10),
        ValueError,
        "labels must lie in [0, 10), got values from 1 to 10; are your labels 1-based?",
    ),
    "label too large": (
        lambda: check_label_range(torch.tensor([0, 10]), 10),
        ValueError,
        "labels must lie in [0, 10), got values from 0 to 10; use num_classes >= 11",
    ),
    "label far too large": (
        lambda: check_label_range(torch.tensor([1, 30]), 10),
        ValueError,
        "labels must lie in [0, 10), got values from 1 to 30; use num_classes >= 31",
    ),
    "ignore index": (
        lambda: check_label_range(torch.tensor([3, -100]), 10),
        ValueError,
        "labels must lie in [0, 10), got values from -100 to 3; leave out samples with an ignore "
        "index, or name it where",
    ),
    "nan in a matrix": (
        lambda: check_finite("features", torch.tensor([[1.0, 2.0], [math.nan, 1.0]])),
        ValueError,
        "features must be finite, got NaN or infinity in 1 of 2 rows (first: row 1); remove or "
        "repair them",
    ),
    "infinities that cancel": (
        lambda: check_finite("bias", torch.tensor([math.inf, 0.0, -math.inf])),
        ValueError,
        "bias must be finite, got NaN or infinity in 2 of 3 rows (first: row 0)",
    ),
    "overflow in half precision": (
        lambda: check_finite("features", torch.tensor([[6e4], [7e4]]).half()),
        ValueError,
        "features must be finite, got NaN or infinity in 1 of 2 rows (first: row 1)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_argument_rule_value_and_remedy(name: str) -> None:
    attempt, error, sentence = REFUSED[name]
    with pytest.raises(error) as caught:
        attempt()
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_one_bad_value_anywhere_is_found() -> None:
    for value in (math.nan, math.inf, -math.inf):
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            for position in range(6):
                matrix = torch.arange(6, dtype=dtype).reshape(3, 2)
                matrix.view(-1)[position] = value
                with pytest.raises(ValueError, match=f"first: row {position // 2}"):
                    check_finite("features", matrix)


def test_the_checks_leave_their_arguments_alone() -> None:
    matrix: Tensor = torch.ones(2, 2, requires_grad=True)
    check_finite("m", matrix)
    assert check_matrix("m", matrix).requires_grad
    labels = LABELS.int()
    check_labels(labels, 3)
    assert labels.dtype == torch.int32
