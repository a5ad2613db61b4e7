"""Class counts whose predictions are known, and how near to the figures a prediction must be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# The figures of the tables have this many digits.
DIGITS = 1e-9
BALANCED = [6, 6, 6, 6]
LONG_TAIL = [20, 10, 5, 3]
DYING = [30, 12, 5, 4, 2]


def close(values: Tensor | float, expected: Any, tolerance: float = DIGITS) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    given_values = torch.as_tensor(values, dtype=torch.float64)
    torch.testing.assert_close(
        given_values, expected.expand_as(given_values), rtol=0, atol=tolerance
    )
