"""Half of a symmetric product: the same matrix as the whole one."""

from __future__ import annotations

import pytest
import torch

from neuralcollapse.gram import add_gram, mirrored


@pytest.mark.parametrize("dim", [1, 5, 128, 129, 300])
@pytest.mark.parametrize("num_rows", [0, 1, 40])
def test_the_lower_half_mirrored_is_the_whole_product(dim: int, num_rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(num_rows, dim, generator=generator, dtype=torch.float64)
    total = torch.zeros(dim, dim, dtype=torch.float64)
    for part in rows.split(16):
        add_gram(total, part)
    whole = mirrored(total)
    # Sums of 40 products in another order.
    torch.testing.assert_close(whole, rows.T @ rows, rtol=0, atol=1e-13)
    assert torch.equal(whole, whole.T)
