"""left^T right, summed over rows that may come few at a time."""

import torch
from torch import Tensor

from neuralcollapse.precision import FullPrecision


class RowProducts:
    """A sum of products left^T right, taken of many rows at once: it may be far larger than they.

    Args:
        total: (K, d), to be added to in place.

    Example:
        >>> products = RowProducts(torch.zeros(2, 3))
        >>> products.add(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0]]))
        >>> products.result().tolist()
        [[1.0, 0.0, 3.0], [2.0, 0.0, 6.0]]
    """

    def __init__(self, total: Tensor):
        self._total = total
        self._held: list[tuple[Tensor, Tensor]] = []
        self._rows = 0

    def add(self, left: Tensor, right: Tensor) -> None:
        """Add rows (B, K) and (B, d), held until they are a quarter as many as those of the sum."""
        self._held.append((left, right))
        self._rows += len(left)
        if 4 * self._rows >= len(self._total):
            self.result()

    def result(self) -> Tensor:
        """The sum of all rows so far."""
        if self._held:
            left, right = (torch.cat(rows) for rows in zip(*self._held, strict=True))
            self._held, self._rows = [], 0
            with FullPrecision(right.device.type):
                self._total += left.T @ right
        return self._total
