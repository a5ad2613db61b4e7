"""Batch normalisation over all processes, on the CPU too.

PyTorch's SyncBatchNorm runs on GPUs only. Without it two processes normalise by different
statistics than one, and the result of a run depends on how many devices it had.
"""

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from neuralcollapse.processes import sum_over_processes


class _SynchronisedBatchNorm(_BatchNorm):
    """Batch normalisation by the mean and variance over the batches of all processes."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Normalised by the joint batch in training, by the running statistics otherwise."""
        if not self.training:
            return super().forward(input)
        over = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        count = wide.numel() // wide.shape[1] * dist.get_world_size()
        mean = sum_over_processes(wide.sum(over)) / count
        centred = wide - mean.view(shape)
        variance = sum_over_processes(centred.square().sum(over)) / count
        self._update_running(mean.detach(), variance.detach() * count / max(count - 1, 1))
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(input.dtype)

    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            return
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
        cast(Tensor, self.num_batches_tracked).add_(1)


def synchronise_batch_norm(module: nn.Module) -> None:
    """Replace every batch normalisation inside a module by one over all processes."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            joint = _SynchronisedBatchNorm(
                child.num_features,
                child.eps,
                child.momentum,
                child.affine,
                child.track_running_stats,
            )
            # The same tensors, on their device and in their type.
            joint.weight, joint.bias = child.weight, child.bias
            for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                setattr(joint, buffer, getattr(child, buffer))
            setattr(module, name, joint.train(child.training))
        else:
            synchronise_batch_norm(child)
