"""Free features and proxies under every loss of directions: is the closed-form optimum reached?

    python examples/unconstrained.py [--sizes 4,3 10,16] [--losses mhe mhs] [--json results.json]

The unconstrained feature model: no network, the features themselves are what is learned, a few of
each class. Nothing is drawn but the start, so each run is a deterministic problem, solved in double
precision. Settings are the same for all sizes and seeds.

Losses: "mhe", "mhs" and "mgd" are the forms of `HUG`; "mhe squared" has squared distances within
classes; "nce" is normalised cross entropy. The last two and "mgd" are smooth, and L-BFGS minimises
them, features and proxies together, so with `detach_proxies=False`. "mhe" and "mhs" have kinks at
their optimum, where L-BFGS stalls: they are descended with steps that fall geometrically, and
proxies are detached if they are learned or fixed. "mgd" between class means is descended so first,
with the means detached: attached, a sample opposite to its mean can be a local minimum.

Proxies: learned freely; a fixed frame; that frame rotated, where the rotation is learned; class
means of the batch (none at all); their moving averages. Averages are a state and no variable: there
L-BFGS takes the features some way, the averages move, and so on, to the fixed point.

Columns of the table, each the worst of the seeds:

- gap: what the term between classes ends at, minus its value at the best configuration known: the
  mean energy per pair for "mhe", minus the separation for "mhs", minus the log-determinant per
  class for "mgd". Normalised cross entropy has no term between classes: where K <= d + 1 the gap is
  that of "mhe", beyond, where it maximises a margin as the temperature falls, that of the largest
  cosine.
- alignment: the smallest cos(class mean, proxy).
- collapse: the smallest cos(sample, proxy), so that no sample is left behind.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.optimize import minimize
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
Loss = Literal["mhe", "mhe squared", "mhs", "mgd", "nce"]
LOSSES: tuple[Loss, ...] = ("mhe", "mhe squared", "mhs", "mgd", "nce")
PROXIES = ("learned", "fixed", "rotated", "batch means", "moving averages")
FROM_FEATURES = PROXIES[3:]
SMOOTH = ("mhe squared", "mgd", "nce")
GAP, ALIGNMENT = 1e-6, 0.9999
PER_CLASS, MOMENTUM = 3, 0.5  # samples of a class, and what stays of a moving average


@dataclass(frozen=True)
class Outcome:
    """Where a run ended.

    Attributes:
        loss: one of `LOSSES`.
        proxies: the kind of proxies.
        num_classes: K.
        dim: d.
        seed: of the start.
        gap: of the term between classes to the best configuration known.
        max_cosine: the largest cosine between two proxies.
        alignment: the smallest cosine between a class mean and its proxy.
        collapse: the smallest cosine between a sample and its proxy.
    """

    loss: Loss
    proxies: str
    num_classes: int
    dim: int
    seed: int
    gap: float
    max_cosine: float
    alignment: float
    collapse: float

    @property
    def reached(self) -> bool:
        """Whether it is the optimum to the digits asked for."""
        return abs(self.gap) < GAP and min(self.alignment, self.collapse) > ALIGNMENT


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
    if loss == "nce" and len(weight) > weight.shape[1] + 1:
        return float(max_cosine(weight))
    features, labels = weight[:1], torch.zeros(1, dtype=torch.long)
    form = loss if loss in ("mhs", "mgd") else "mhe"
    return float(HUG(form).terms(features, labels, weight)["inter"])


def make_loss(loss: Loss, proxies: str, temperature: float) -> AbstractLoss:
    """The loss, attached where a rotation is learned or one function is minimised."""
    if loss == "nce":
        return NormalizedCrossEntropy(temperature)
    if loss == "mhe squared":
        return HUG("mhe", intra_power=-2, detach_proxies=False)
    if loss == "mgd":
        # The forces between its classes are weak, and averages lag behind them.
        return HUG("mgd", inter_weight=10, detach_proxies=False)
    # One pair and one sample of each class move at a time for "mhs".
    weights = (1.0, 10.0 if loss == "mhs" else 1.0)
    if proxies in FROM_FEATURES:
        # A mean moves by the share that each of its samples has, and an average by the batch's.
        share = PER_CLASS / (1 - MOMENTUM if proxies == "moving averages" else 1)
        weights = (share, PER_CLASS if loss == "mhs" else 1.0)
    # Where proxies are means, the pull within a class turns them unless it is felt by both sides.
    return HUG(loss, *weights, detach_proxies=proxies in ("learned", "fixed"))


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


@dataclass
class World:
    """Features, labels and proxies, of which a loss may be taken."""

    features: nn.Parameter
    labels: Tensor
    head: AbstractHead
    generator: torch.Generator

    @property
    def variables(self) -> list[nn.Parameter]:
        """All that is learned."""
        return [self.features, *self.head.parameters()]

    def backward(self, loss: AbstractLoss) -> float:
        """The value, with gradients at the variables."""
        for variable in self.variables:
            variable.grad = None
        operands, weight, _ = self.head.operands(self.features, self.labels)
        value = loss(operands, self.labels, weight)
        # Cross entropy falls exponentially as margins widen: its logarithm does not fade so.
        value = value.log() if isinstance(loss, NormalizedCrossEntropy) else value
        value.backward()
        return value.item()

    @torch.no_grad()
    def renormalise(self) -> None:
        """All that has a length goes back to length one."""
        self.features.copy_(directions(self.features))
        if isinstance(self.head, CosineHead):
            self.head.prototypes.copy_(self.head.weight)

    @torch.no_grad()
    def jog(self, size: float) -> None:
        """Move all variables a little, away from saddles."""
        for variable in self.variables:
            noise = torch.randn(variable.shape, generator=self.generator, dtype=variable.dtype)
            variable.add_(noise, alpha=size)


def run(
    num_classes: int,
    dim: int,
    loss: Loss = "mhe",
    proxies: str = "learned",
    *,
    steps: int = 600,
    seed: int = 0,
) -> Outcome:
    """Minimise from random features and proxies and see where it ends."""
    generator = torch.Generator().manual_seed(seed)
    frame = best_configuration(num_classes, dim, loss)
    head = make_head(proxies, frame, loss, generator).train()
    labels = torch.arange(num_classes).repeat_interleave(PER_CLASS)
    features = torch.randn(len(labels), dim, generator=generator, dtype=torch.float64)
    world = World(nn.Parameter(directions(features)), labels, head, generator)
    if loss in SMOOTH:
        if loss == "mgd" and proxies in FROM_FEATURES:
            # Attached, a sample that leaves its place opposite the others' turns the mean as well.
            first = HUG("mgd", 10 * PER_CLASS, detach_proxies=True)
            descend(world, first, falling(num_classes, *STEPS_FIRST, steps))
        # What the temperature falls to where no simplex fits.
        coldest = (WARM, COLD) if num_classes > dim + 1 else (WARM, WARM)
        for temperature in coldest:
            minimise_smooth(world, make_loss(loss, proxies, temperature), steps)
            world.renormalise()
            world.jog(1e-2)
        minimise_smooth(world, make_loss(loss, proxies, coldest[-1]), steps)
    else:
        descend(
            world, make_loss(loss, proxies, WARM), step_sizes(num_classes, loss, proxies, steps)
        )
    with torch.no_grad():
        features = directions(world.features)
        weight = directions(head.operands(features, labels)[1])
        means = torch.zeros_like(weight).index_add_(0, labels, features)
    return Outcome(
        loss,
        proxies,
        num_classes,
        dim,
        seed,
        gap=between(weight, loss) - between(frame.vectors, loss),
        max_cosine=float(max_cosine(weight)),
        alignment=float((directions(means) * weight).sum(1).min()),
        collapse=float((features * weight[labels]).sum(1).min()),
    )


WARM, COLD = 0.5, 0.2
# How often averages move on at most, the steps that features take between, and what counts as rest.
ROUNDS, STEPS_OF_ROUND, REST = 1000, 10, 1e-9


def minimise_smooth(world: World, loss: AbstractLoss, steps: int) -> None:
    """L-BFGS on all variables; moving averages stand still within a round."""
    if isinstance(world.head, ClassMeanHead) and world.head.momentum:
        before = torch.full_like(world.features, torch.inf)
        for _ in range(ROUNDS):
            still = {name: value.clone() for name, value in world.head.named_buffers()}
            lbfgs(world, loss, STEPS_OF_ROUND, still)
            world.renormalise()
            world.head.load_state_dict(still)
            world.backward(loss)
            if float((world.features.detach() - before).abs().max()) < REST:
                break
            before = world.features.detach().clone()
    else:
        lbfgs(world, loss, steps, {})


def lbfgs(world: World, loss: AbstractLoss, steps: int, still: dict[str, Tensor]) -> None:
    """As SciPy has it; buffers named in `still` are put back before each evaluation."""

    def assign(numbers: np.ndarray) -> None:
        parts = torch.from_numpy(numbers.copy()).split([v.numel() for v in world.variables])
        for variable, part in zip(world.variables, parts, strict=True):
            variable.data = part.view_as(variable)

    def value(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        assign(numbers)
        world.head.load_state_dict(still, strict=False)
        found = world.backward(loss)
        return found, flat(lambda v: torch.zeros_like(v) if v.grad is None else v.grad)

    def flat(part: Callable[[nn.Parameter], Tensor]) -> np.ndarray:
        return torch.cat([part(v).detach().flatten() for v in world.variables]).numpy()

    options = {"maxiter": steps, "maxcor": 30, "ftol": 1e-16, "gtol": 1e-12}
    start = flat(lambda v: v)
    assign(minimize(value, start, jac=True, method="L-BFGS-B", options=options).x)


def descend(world: World, loss: AbstractLoss, sizes: Iterable[float]) -> None:
    """Gradient descent with momentum and the steps given, on the sphere."""
    optimizer = torch.optim.SGD(world.variables, lr=1.0, momentum=0.9)
    for size in sizes:
        optimizer.param_groups[0]["lr"] = size
        world.backward(loss)
        optimizer.step()
        world.renormalise()


# Averages lag behind: so many times the steps.
LAG = 4
# The first and the last step size, times the number of classes: each moves by its share of a mean.
STEPS = {"mhe": (0.3, 1e-5), "mhs": (1e-2, 1e-9)}
# Before L-BFGS between class means.
STEPS_FIRST = (0.3, 1e-2)
# Class means feel jumps of the pull within classes, so they need more time at middling sizes.
STEPS_FROM_FEATURES = {"mhe": (1.0, 1e-4), "mhs": (1e-2, 3e-9)}


def step_sizes(num_classes: int, loss: Loss, proxies: str, steps: int) -> Iterator[float]:
    """The sizes of all steps, falling geometrically."""
    first, last = (STEPS_FROM_FEATURES if proxies in FROM_FEATURES else STEPS)[loss]
    if loss == "mhs" and proxies not in ("fixed", "rotated"):
        # One pair moves at a time, and there are many.
        steps = max(steps, steps // 15 * num_classes * (num_classes - 1) // 2)
    if proxies == "moving averages":
        steps *= LAG
    return falling(num_classes, first, last, steps)


def falling(num_classes: int, first: float, last: float, steps: int) -> Iterator[float]:
    """Step sizes from the first to the last, geometrically, times the number of classes."""
    for step in range(steps):
        yield num_classes * first * (last / first) ** (step / max(steps - 1, 1))


def forms(losses: Iterable[Loss]) -> Iterator[tuple[Loss, str]]:
    """The losses with the proxies that make sense."""
    for loss in losses:
        for proxies in PROXIES:
            # Between the means of the batch cross entropy would compare each sample with itself.
            if not (loss == "nce" and proxies == "batch means"):
                yield loss, proxies


def shown(outcomes: Iterable[Outcome]) -> Table:
    """A table with a line for each loss, kind of proxies and size: the worst of the seeds."""
    heads = ("loss", "proxies", "K", "d", "gap", "1 - alignment", "1 - collapse", "reached")
    table = Table(*heads)
    for key, group in groupby(outcomes, lambda o: (o.loss, o.proxies, o.num_classes, o.dim)):
        runs = list(group)
        table.add_row(
            *map(str, key),
            f"{max((found.gap for found in runs), key=abs):.1e}",
            f"{max(1 - found.alignment for found in runs):.1e}",
            f"{max(1 - found.collapse for found in runs):.1e}",
            f"{sum(found.reached for found in runs)} of {len(runs)}",
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
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the outcomes here")
    options = parser.parse_args()
    runs: list[tuple[int, int, Loss, str, int]] = [
        (num_classes, dim, loss, proxies, seed)
        for loss, proxies in forms(options.losses)
        if proxies in options.proxies
        for num_classes, dim in options.sizes
        for seed in range(options.seeds)
    ]
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    for num_classes, dim, loss, proxies, seed in track(runs, "runs", console=Console(stderr=True)):
        outcomes.append(run(num_classes, dim, loss, proxies, steps=options.steps, seed=seed))
        if options.json:
            rows = [asdict(found) | {"reached": found.reached} for found in outcomes]
            options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    Console().print(shown(outcomes))


if __name__ == "__main__":
    main()
