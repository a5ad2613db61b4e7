"""Sweeps over pairs of classes in bounded memory."""

from collections.abc import Iterator

import torch
from torch import Tensor

# (2048, 2048) doubles are 32 MiB.
_BLOCK = 2048


def pair_blocks(num_classes: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Blocks (rows, columns, mask) that together hold every pair of rows k < j once."""
    for top in range(0, num_classes, _BLOCK):
        rows = slice(top, min(top + _BLOCK, num_classes))
        for left in range(top, num_classes, _BLOCK):
            columns = slice(left, min(left + _BLOCK, num_classes))
            k = torch.arange(rows.start, rows.stop)
            j = torch.arange(columns.start, columns.stop)
            yield rows, columns, k[:, None] < j[None, :]
