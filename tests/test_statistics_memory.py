"""An update allocates rows of the batch only, and does not wait for a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from neuralcollapse import StatisticsAccumulator


class Allocations(TorchDispatchMode):
    """The largest storage that any torch operation returned and did not share with its input."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = {t.untyped_storage().data_ptr() for t in tensors_in((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            if tensor.untyped_storage().data_ptr() not in given:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def test_allocations_are_seen() -> None:
    """The instrument itself."""
    with Allocations() as seen:
        torch.zeros(1000, dtype=torch.float64).add_(1).view(10, 100)[3].sum()
    assert seen.largest == 8000
    kept = torch.zeros(1000)
    with Allocations() as seen:
        kept.add_(1).view(10, 100)[3].mul_(2)
    assert seen.largest == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_update_allocates_rows_of_the_batch_only(dtype: torch.dtype) -> None:
    """No one-hot matrix, no K x K array and no copy of K x d: K = 200,000, batches of 64."""
    num_classes, dim, batch = 200_000, 32, 64
    accumulator = StatisticsAccumulator(num_classes, dim, scatter=False)
    generator = torch.Generator().manual_seed(0)

    def update() -> None:
        features = torch.randn(batch, dim, generator=generator).to(dtype)
        labels = torch.randint(num_classes, (batch,), generator=generator)
        accumulator.update(features, labels)

    update()  # the first batch makes the anchors
    with Allocations() as seen:
        for _ in range(3):
            update()
    assert seen.largest <= 8 * batch * dim
    assert accumulator.num_samples == 4 * batch


def test_an_update_with_scatter_allocates_no_more_than_that() -> None:
    num_classes, dim, batch = 20_000, 32, 1024
    accumulator = StatisticsAccumulator(num_classes, dim)
    labels = torch.arange(batch)
    accumulator.update(torch.ones(batch, dim), labels)
    with Allocations() as seen:
        for _ in range(6):  # past a flush of the float32 products
            accumulator.update(torch.ones(batch, dim), labels)
    assert seen.largest <= 8 * batch * dim  # the check for finite values may look at the whole


def test_a_result_holds_class_rows_only() -> None:
    """A few arrays of K x d, nothing of K x K."""
    num_classes, dim = 50_000, 8
    accumulator = StatisticsAccumulator(num_classes, dim)
    accumulator.update(torch.ones(64, dim), torch.arange(64))
    with Allocations() as seen:
        one = accumulator.result()
        one.merge(one)
    assert seen.largest <= 8 * (num_classes + 1) * dim


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("scatter", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_update_does_not_wait_for_a_gpu(scatter: bool, dtype: torch.dtype) -> None:
    accumulator = StatisticsAccumulator(10, 300, scatter=scatter, device="cuda")
    features = torch.randn(5000, 300, device="cuda").to(dtype)
    labels = torch.randint(10, (5000,), device="cuda")
    accumulator.update(features, labels)  # the first batch makes the anchors
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        accumulator.update(features, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert accumulator.num_samples == 10_000
