"""Sweeps over pairs of classes in bounded memory."""

from collections.abc import Iterator

import torch
from torch import Tensor

# (2048, 2048) doubles are 32 MiB.
_BLOCK = 2048
# Squared distances of unit vectors below this keep less than ten digits of an inner product.
_CLOSE = 1e-6
# Pairs at a time whose distance is taken from the difference.
_EXACT_PAIRS = 4096


def pair_blocks(num_classes: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Blocks (rows, columns, mask) that together hold every pair of rows k < j once."""
    for top in range(0, num_classes, _BLOCK):
        rows = slice(top, min(top + _BLOCK, num_classes))
        for left in range(top, num_classes, _BLOCK):
            columns = slice(left, min(left + _BLOCK, num_classes))
            k = torch.arange(rows.start, rows.stop)
            j = torch.arange(columns.start, columns.stop)
            yield rows, columns, k[:, None] < j[None, :]


def squared_distances(units: Tensor) -> Iterator[Tensor]:
    """Squared distances of all pairs of unit vectors (K, d), block by block, each (P,).

    From inner products, where the vectors nearly coincide from their differences: exactly 0 for
    equal rows, and not negative.
    """
    for rows, columns, pairs in pair_blocks(len(units)):
        pairs = pairs.to(units.device)
        squared = torch.addmm(units.new_tensor(2.0), units[rows], units[columns].T, alpha=-2)
        close = ((squared < _CLOSE) & pairs).nonzero()
        for k, j in (some.unbind(1) for some in close.split(_EXACT_PAIRS)):
            squared[k, j] = (units[rows][k] - units[columns][j]).square().sum(1)
        yield squared[pairs]
