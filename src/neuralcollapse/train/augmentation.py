"""Random crops and mirror images of a batch, drawn alike however many processes share it."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from neuralcollapse.train.samples import EpochOrder, seeded


def augment(images: Tensor, kind: str, order: EpochOrder, step: int) -> Tensor:
    """Images (B, C, H, W) shifted by up to an eighth of their side, and mirrored if asked.

    What happens to a sample depends on (seed, epoch, step) and its place in the joint batch.

    Args:
        images: one process's share of a batch.
        kind: "none", "crop" or "crop-flip".
        order: the order the batch came from.
        step: number of the batch in its epoch.
    """
    if kind == "none":
        return images
    if images.dim() != 4:
        raise ValueError(f"augment must be none for inputs that are not images, got {kind!r}")
    generator = seeded(order.seed or 0, order.epoch, step, 2)
    height, width = images.shape[2:]
    margin = max(1, min(height, width) // 8)

    def draw(high: int) -> Tensor:
        drawn = torch.randint(high, (order.batch_size,), generator=generator)
        return drawn[order.rank :: order.world][: len(images)].to(images.device)

    down, right, mirrored = draw(2 * margin + 1), draw(2 * margin + 1), draw(2)
    windows = pad(images, [margin] * 4).unfold(2, height, 1).unfold(3, width, 1)
    own = torch.arange(len(images), device=images.device)
    shifted = windows[own, :, down, right]
    if kind == "crop":
        return shifted
    return torch.where(mirrored.bool()[:, None, None, None], shifted.flip(3), shifted)
