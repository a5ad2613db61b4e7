"""Sweeps over pairs of classes in bounded memory."""

from collections.abc import Iterator

import torch
from torch import Tensor

from neuralcollapse.scalars import check_integer

# (512, 512) doubles are 2 MiB: they stay in the processor's cache, and little below the diagonal of
# pairs is computed in vain.
_BLOCK = 512
# Squared distances of unit vectors below this keep less than ten digits of an inner product.
_CLOSE = 1e-6
# Pairs at a time whose distance is taken from the difference.
_EXACT_PAIRS = 4096
# Pairs at a time of those drawn: of 256 dimensions 16 MiB.
_DRAWN_PAIRS = 1 << 13


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


def pair_count(num_classes: int, num_pairs: int | None) -> float:
    """How many pairs a sum is over: those drawn, or all."""
    if num_classes < 2:
        return 0
    return num_classes * (num_classes - 1) / 2 if num_pairs is None else num_pairs


def drawn_pairs(
    num_classes: int, num_pairs: int, generator: torch.Generator | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks (k, j) of pairs of different classes, each (P,), drawn with replacement."""
    check_integer("num_pairs", num_pairs, 1)
    for start in range(0, num_pairs, _DRAWN_PAIRS):
        count = min(_DRAWN_PAIRS, num_pairs - start)
        k = torch.randint(num_classes, (count,), generator=generator)
        j = torch.randint(num_classes - 1, (count,), generator=generator)
        yield k, j + (j >= k)


def squared_distances(
    units: Tensor, num_pairs: int | None = None, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    """Squared distances of all pairs of unit vectors (K, d), or of drawn ones, in blocks (P,).

    From inner products, where the vectors nearly coincide from their differences: exactly 0 for
    equal rows, and not negative.
    """
    if num_pairs is not None:
        for k, j in drawn_pairs(len(units), num_pairs, generator):
            yield (units[k.to(units.device)] - units[j.to(units.device)]).square().sum(1)
        return
    for rows, columns, pairs in pair_blocks(len(units)):
        squared = torch.addmm(units.new_tensor(2.0), units[rows], units[columns].T, alpha=-2)
        found = block_pairs(squared, rows, columns, pairs)
        if found.numel() and not bool(found.min() >= _CLOSE):
            close = ((squared < _CLOSE) & pairs.to(units.device)).nonzero()
            for k, j in (some.unbind(1) for some in close.split(_EXACT_PAIRS)):
                squared[k, j] = (units[rows][k] - units[columns][j]).square().sum(1)
            found = block_pairs(squared, rows, columns, pairs)
        yield found
