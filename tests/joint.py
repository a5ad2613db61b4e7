"""What the tests of joint batches run in processes of their own; a module that they can import."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from neuralcollapse import HUG, ClassMeanHead, NormalizedCrossEntropy
from neuralcollapse.losses import AbstractLoss

CLASSES, WIDTH = 4, 3
# The samples of two processes: of unequal number, each without some of the other's classes. The
# second and the last are equal and the farthest of their class.
LABELS = torch.tensor([0, 0, 0, 1, 3, 1, 1, 3, 3, 3, 3, 0])
UNEQUAL = [torch.arange(0, 5), torch.arange(5, 12)]
EQUAL = [torch.arange(0, 6), torch.arange(6, 12)]


def means(through_batch: bool, momentum: float = 0.5) -> Callable[[], ClassMeanHead]:
    def make() -> ClassMeanHead:
        head = ClassMeanHead(CLASSES, WIDTH, momentum=momentum, through_batch=through_batch)
        head.means.copy_(drawn(1)[:CLASSES])
        head.seen[:2] = True
        return head.double()

    return make


# (loss, head or None for learned proxies, shares)
Case = tuple[AbstractLoss, Callable[[], ClassMeanHead] | None, list[Tensor]]
CASES: dict[str, Case] = {
    **{
        f"{measure}{', over samples' * (not balanced)}": (
            HUG(measure, detach_proxies=False, class_balanced=balanced, synchronise=True),  # pyright: ignore[reportArgumentType]
            None,
            UNEQUAL,
        )
        for measure in ("mhe", "mhs", "mgd")
        for balanced in (True, False)
    },
    "batch means": (HUG(detach_proxies=False, synchronise=True), means(True, 0.0), UNEQUAL),
    "batch means, farthest": (HUG("mhs", synchronise=True), means(True, 0.0), UNEQUAL),
    "moving averages": (HUG("mgd", synchronise=True), means(True), UNEQUAL),
    # A mean over samples of each process: equal shares, or DDP itself would weigh them otherwise.
    "class-mean features": (NormalizedCrossEntropy(0.5), means(False), EQUAL),
}


def drawn(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(LABELS), WIDTH, generator=generator, dtype=torch.float64)
    rows[-1] = rows[1]
    return rows


def stepped(name: str, share: Tensor) -> list[Tensor | None]:
    """Value, gradient of the features and of the proxies, and averages after two steps."""
    loss, make_head, _ = CASES[name]
    rows, labels = drawn(2)[share].requires_grad_(), LABELS[share]
    proxies = nn.Parameter(drawn(3)[:CLASSES])
    head = make_head() if make_head else None
    for scale in (3.0, 1.0):
        features, weight = rows + scale * rows.roll(1, 1), proxies
        if head is not None:
            features, weight, _ = head.operands(features, labels)
        value = loss(features, labels, weight)
        rows.grad = proxies.grad = None
        value.backward()
    return [value.detach(), rows.grad, proxies.grad, None if head is None else head.means]


def step_shares(rank: int, _world: int, folder: str) -> None:
    """Every case on this process's share of the batch; keeps what came out."""
    found = {name: stepped(name, shares[rank]) for name, (_, _, shares) in CASES.items()}
    torch.save(found, f"{folder}/result-{rank}.pt")
