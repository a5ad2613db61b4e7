"""Sums and rows over the processes of torch.distributed; nothing happens where there is one."""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor


def num_processes() -> int:
    """How many processes work together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_rank() -> int:
    """The number of this process; 0 without torch.distributed."""
    return dist.get_rank() if num_processes() > 1 else 0


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes; so is its gradient. Every process must call it."""
    if num_processes() == 1:
        return value
    return cast(Tensor, _SumOverProcesses.apply(value))


def rows_of_processes(value: Tensor) -> Tensor:
    """The rows of all processes one after another, however many each has. Every one must call it.

    Without gradients; the tensors must have the same dtype and may differ in their length only.
    """
    if num_processes() == 1:
        return value
    home = torch.device("cuda") if dist.get_backend() == "nccl" else value.device
    length = torch.tensor([len(value)], device=home)
    lengths = [torch.empty_like(length) for _ in range(num_processes())]
    dist.all_gather(lengths, length)
    longest = max(int(number) for number in lengths)
    padded = torch.zeros(longest, *value.shape[1:], dtype=value.dtype, device=home)
    padded[: len(value)] = value
    gathered = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(gathered, padded)
    parts = [rows[: int(number)] for rows, number in zip(gathered, lengths, strict=True)]
    return torch.cat(parts).to(value.device)


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
