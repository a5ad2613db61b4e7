"""Sweeps over pairs of classes in bounded memory."""

from collections.abc import Iterator

import torch
from torch import Tensor

# (512, 512) doubles are 2 MiB: they stay in the processor's cache, and little below the diagonal of
# pairs is computed in vain.
_BLOCK = 512
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


def block_pairs(block: Tensor, rows: slice, columns: slice, pairs: Tensor) -> Tensor:
    """(P,), the entries of a block of `pair_blocks` that are pairs k < j."""
    # Only blocks on the diagonal hold others; selecting costs as much as a product.
    return block[pairs.to(block.device)] if rows == columns else block.flatten()


def squared_distances(units: Tensor) -> Iterator[Tensor]:
    """Squared distances of all pairs of unit vectors (K, d), block by block, each (P,).

    From inner products, where the vectors nearly coincide from their differences: exactly 0 for
    equal rows, and not negative.
    """
    for rows, columns, pairs in pair_blocks(len(units)):
        squared = torch.addmm(units.new_tensor(2.0), units[rows], units[columns].T, alpha=-2)
        found = block_pairs(squared, rows, columns, pairs)
        if found.numel() and not bool(found.min() >= _CLOSE):
            close = ((squared < _CLOSE) & pairs.to(units.device)).nonzero()
            for k, j in (some.unbind(1) for some in close.split(_EXACT_PAIRS)):
                squared[k, j] = (units[rows][k] - units[columns][j]).square().sum(1)
            found = block_pairs(squared, rows, columns, pairs)
        yield found
