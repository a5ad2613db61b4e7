"""Gram matrices of columns, half the work: a symmetric sum is kept below its diagonal only."""

from torch import Tensor

# Columns at a time on a CPU; the panels above the diagonal are left out.
_PANEL = 128
# Rows summed in one product: each sum of so many squares rounds in the precision of the rows.
_SUMMED_ROWS = 64


def add_gram(total: Tensor, rows: Tensor) -> None:
    """Add rows^T rows to `total` (d, d), in place, on and below the diagonal.

    What is above it afterwards is of no use; `mirrored` puts it right. Without the panels above
    the diagonal this takes 0.6 to 0.75 of the time of the whole product on a CPU. On a GPU, where
    a launch costs more than it saves, the product is whole.
    """
    dim, on_cpu = len(total), total.device.type == "cpu"
    step = _PANEL if on_cpu else max(1, dim)
    for part in rows.split(_SUMMED_ROWS) if on_cpu else (rows,):
        for left in range(0, dim, step):
            right = min(left + step, dim)
            total[left:right, :right].addmm_(part[:, left:right].T, part[:, :right])


def mirrored(total: Tensor) -> Tensor:
    """(d, d), symmetric: what is on and below the diagonal, and the same above it."""
    lower = total.tril()
    return lower + lower.tril(-1).T
