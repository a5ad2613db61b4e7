"""Free features and proxies under every loss of directions: is the closed-form optimum reached?

    python examples/unconstrained.py [--sizes 4,3 10,16] [--losses mhe mhs] [--json results.json]

The unconstrained feature model: no network, the features themselves are what is learned, a few of
each class. All rows go back to unit length after each step, since the losses see directions alone,
and the step size falls geometrically, since the distances within a class have a kink where they
vanish. Each row of the table is one run:

- gap: what the term between classes ends at, minus its value at the best configuration known: the
  mean energy per pair for "mhe", minus the separation for "mhs", minus the log-determinant per
  class for "mgd". Normalised cross entropy has no term between classes: where K <= d + 1 the gap is
  that of "mhe", beyond, where it maximises a margin as the temperature falls, that of the largest
  cosine.
- alignment: the smallest cos(class mean, proxy).

Proxies: learned freely; a fixed frame; that frame rotated, where the rotation is learned; class
means of the batch (none at all); their moving averages.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from neuralcollapse.energy import max_cosine
from neuralcollapse.frames import Frame
from neuralcollapse.frames.optimum import optimal_configuration
from neuralcollapse.heads import (
    AbstractHead,
    ClassMeanHead,
    CosineHead,
    FixedHead,
    RotatedHead,
)
from neuralcollapse.losses import HUG, AbstractLoss, NormalizedCrossEntropy
from neuralcollapse.sphere import directions

SIZES = ((4, 3), (10, 16), (5, 3), (6, 3), (12, 3), (20, 10))
Loss = Literal["mhe", "mhs", "mgd", "nce"]
LOSSES: tuple[Loss, ...] = ("mhe", "mhs", "mgd", "nce")
PROXIES = ("learned", "fixed", "rotated", "batch means", "moving averages")
GAP, ALIGNMENT = 1e-6, 0.9999
FROM_FEATURES = PROXIES[3:]
PER_CLASS, MOMENTUM = 3, 0.5  # samples of a class, and what stays of a moving average


@dataclass(frozen=True)
class Outcome:
    """Where a run ended.

    Attributes:
        loss: "mhe", "mhs" or "mgd" of `HUG`, "nce" for normalised cross entropy.
        proxies: the kind of proxies.
        num_classes: K.
        dim: d.
        gap: of the term between classes to the best configuration known.
        max_cosine: the largest cosine between two proxies.
        alignment: the smallest cosine between a class mean and its proxy.
    """

    loss: Loss
    proxies: str
    num_classes: int
    dim: int
    gap: float
    max_cosine: float
    alignment: float

    @property
    def reached(self) -> bool:
        """Whether it is the optimum to the digits asked for."""
        return abs(self.gap) < GAP and self.alignment > ALIGNMENT


def best_configuration(num_classes: int, dim: int, loss: Loss) -> Frame:
    """The frame with the least known term between classes."""
    if (num_classes, dim) == (12, 3):
        return icosahedron()
    energy = "separation" if loss in ("mhs", "nce") else "riesz:2"
    return optimal_configuration(num_classes, dim, energy, dtype=torch.float64)


def icosahedron() -> Frame:
    """Its twelve vertices: optimal for every energy here (Cohn, Kumar 2007)."""
    golden = (1 + 5**0.5) / 2
    corners = torch.tensor(
        [[0.0, one, other] for one in (-1, 1) for other in (-golden, golden)], dtype=torch.float64
    )
    vectors = torch.cat([corners.roll(turn, 1) for turn in range(3)])
    return Frame("icosahedron", directions(vectors), status="proved")


def between(weight: Tensor, loss: Loss) -> float:
    """The term between classes alone: what the gap is of."""
    features, labels = weight[:1], torch.zeros(1, dtype=torch.long)
    if loss == "nce":
        if len(weight) > weight.shape[1] + 1:
            return float(max_cosine(weight))
        loss = "mhe"
    return float(HUG(loss).terms(features, labels, weight)["inter"])


def make_loss(loss: Loss, proxies: str, temperature: float) -> AbstractLoss:
    """The loss; a rotation is learned only from the gradient to the proxies."""
    if loss == "nce":
        return NormalizedCrossEntropy(temperature)
    if proxies not in FROM_FEATURES:
        return HUG(loss, 1.0, INTRA_WEIGHT[loss], detach_proxies=proxies != "rotated")
    # A mean moves by the share that each of its samples has, and an average by the batch's.
    inter_weight = PER_CLASS / (1 - MOMENTUM) if proxies == "moving averages" else PER_CLASS
    return HUG(loss, inter_weight)


def make_head(proxies: str, frame: Frame, loss: Loss, generator: torch.Generator) -> AbstractHead:
    """The proxies."""
    num_classes, dim = frame.num_classes, frame.dim
    if proxies == "fixed":
        return FixedHead(frame)
    if proxies == "rotated":
        return RotatedHead(frame)
    if proxies == "learned":
        head = CosineHead(num_classes, dim).double()
        nn.init.normal_(head.prototypes, generator=generator)
        return head
    moving = proxies == "moving averages"
    # Class-mean features: cross entropy pushes the features themselves, not their averages.
    through_batch = not (moving and loss == "nce")
    momentum = MOMENTUM if moving else 0.0
    return ClassMeanHead(num_classes, dim, momentum=momentum, through_batch=through_batch).double()


def run(
    num_classes: int,
    dim: int,
    loss: Loss = "mhe",
    proxies: str = "learned",
    *,
    steps: int = 600,
    seed: int = 0,
) -> Outcome:
    """Descend from random features and proxies and see where it ends."""
    generator = torch.Generator().manual_seed(seed)
    frame = best_configuration(num_classes, dim, loss)
    head = make_head(proxies, frame, loss, generator).train()
    labels = torch.arange(num_classes).repeat_interleave(PER_CLASS)
    features = torch.randn(len(labels), dim, generator=generator, dtype=torch.float64)
    features = nn.Parameter(directions(features))
    parameters = [features, *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=1.0, momentum=0.9)
    for learning_rate, temperature in schedule(num_classes, dim, loss, proxies, steps):
        optimizer.param_groups[0]["lr"] = learning_rate
        optimizer.zero_grad()
        operands, weight, _ = head.operands(features, labels)
        value = make_loss(loss, proxies, temperature)(operands, labels, weight)
        # Cross entropy falls exponentially as margins widen: relative steps do not fade with it.
        (value.log() if loss == "nce" else value).backward()
        optimizer.step()
        with torch.no_grad():
            features.copy_(directions(features))
            if isinstance(head, CosineHead):
                head.prototypes.copy_(head.weight)
    with torch.no_grad():
        weight = head.operands(features, labels)[1]
        means = torch.zeros_like(weight).index_add_(0, labels, features) / PER_CLASS
        alignment = (directions(means) * directions(weight)).sum(1).min()
    gap = between(weight, loss) - between(frame.vectors, loss)
    found = float(max_cosine(weight))
    return Outcome(loss, proxies, num_classes, dim, gap, found, float(alignment))


# One sample of a class moves at a time for "mhs", and far from its proxy it hardly moves for "mgd".
INTRA_WEIGHT = {"mhe": 1.0, "mhs": 10.0, "mgd": 30.0}
# The first and the last step size, times the number of classes: each moves by its share of a mean.
STEPS = {"mhe": (0.3, 1e-5), "mhs": (1e-2, 1e-9), "mgd": (0.5, 1e-7), "nce": (1.0, 1e-4)}
# Class means feel jumps of the pull within classes, so they need more time at middling sizes.
STEPS_FROM_FEATURES = {"mhe": (1.0, 1e-4), "mhs": (3e-2, 1e-8), "mgd": (2.0, 1e-5)}
# What the temperature falls to where no simplex fits.
WARMEST, COLDEST = 0.5, 0.2


def schedule(
    num_classes: int, dim: int, loss: Loss, proxies: str, steps: int
) -> Iterator[tuple[float, float]]:
    """Learning rate and temperature of each step."""
    first, last = STEPS[loss]
    if proxies in FROM_FEATURES:
        first, last = STEPS_FROM_FEATURES.get(loss, (first, last))
        steps *= 3
    if loss == "mhs":
        # One pair moves at a time, and there are many.
        steps = max(steps, steps // 15 * num_classes * (num_classes - 1) // 2)
    coldest = COLDEST if num_classes > dim + 1 else WARMEST
    for step in range(steps):
        share = step / max(steps - 1, 1)
        temperature = WARMEST * (coldest / WARMEST) ** min(1.0, 2 * share)
        yield num_classes * first * (last / first) ** share, temperature


def forms(losses: Iterable[Loss]) -> Iterator[tuple[Loss, str]]:
    """The losses with the proxies that make sense: what all proxies learn freely first."""
    for proxies in PROXIES:
        for loss in losses:
            # Between the means of the batch cross entropy would compare each sample with itself.
            if not (loss == "nce" and proxies == "batch means"):
                yield loss, proxies


def shown(outcomes: Iterable[Outcome]) -> Table:
    """A table with a line for each run."""
    table = Table("loss", "proxies", "K", "d", "gap", "largest cosine", "1 - alignment", "reached")
    for found in outcomes:
        table.add_row(
            found.loss,
            found.proxies,
            str(found.num_classes),
            str(found.dim),
            f"{found.gap:.1e}",
            f"{found.max_cosine:.6f}",
            f"{1 - found.alignment:.1e}",
            "yes" if found.reached else "no",
        )
    return table


def size(text: str) -> tuple[int, int]:
    """K and d, from "K,d"."""
    num_classes, dim = text.split(",")
    return int(num_classes), int(dim)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description="Free features and proxies: is the closed-form optimum reached?"
    )
    parser.add_argument("--sizes", nargs="+", type=size, default=SIZES, metavar="K,d")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    parser.add_argument("--proxies", nargs="+", choices=PROXIES, default=PROXIES)
    parser.add_argument("--steps", type=int, default=600, help="of the quickest runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the outcomes here")
    options = parser.parse_args()
    runs = [
        (num_classes, dim, loss, proxies)
        for loss, proxies in forms(options.losses)
        if proxies in options.proxies
        for num_classes, dim in options.sizes
    ]
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    for arguments in track(runs, "runs", console=Console(stderr=True)):
        outcomes.append(run(*arguments, steps=options.steps, seed=options.seed))
        if options.json:
            rows = [asdict(found) | {"reached": found.reached} for found in outcomes]
            options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    Console().print(shown(outcomes))


if __name__ == "__main__":
    main()
