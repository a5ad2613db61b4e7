"""Why a hierarchy's frame needs the cosine term: free features on a fixed frame.

One free feature per class is trained by Adam against a frame whose cosines follow a tree, with
cross entropy alone and mixed with the cosine term. Cross entropy alone does not turn features to
their vectors: the longer they are, the nearer its optimum comes to equal margins, and the features
that have them with the least norm are the rows of the pseudo-inverse of the centred frame. There
siblings are *less* alike than strangers. How far training goes on this way is a matter of steps and
weight decay. The cosine term brings the frame's cosines back.

    python examples/cosine_term.py                        # four leaves, and CIFAR-100's tree
    python examples/cosine_term.py --tree my-classes.csv --decay-rate 3
"""

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from neuralcollapse import (
    ClassStatistics,
    Frame,
    FrameCosine,
    Hierarchy,
    frame_deviation,
    hierarchy_frame,
)

ROWS = ((0.0, 0.0), (0.0, 0.1), (0.0, 0.4), (0.0, 1.0), (5e-4, 0.0), (5e-4, 0.4))
LENGTHS = (2.0, 10.0, 50.0)


@dataclass(frozen=True)
class Outcome:
    """Where features are, against the vectors they belong to.

    Attributes:
        alignment: mean cosine between a feature and its vector.
        deviation: mean difference between the cosines of two features and those of their vectors.
        cosines: mean cosine of two features whose classes are at distance 1, 2, ..., H.
        targets: the same of the vectors.
    """

    alignment: float
    deviation: float
    cosines: list[float]
    targets: list[float]


def trained(
    hierarchy: Hierarchy,
    *,
    mixing: float,
    steps: int = 4000,
    weight_decay: float = 0.0,
    decay_rate: float = 2.0,
    seed: int = 0,
) -> Outcome:
    """Where Adam leads free features on the hierarchy's frame."""
    frame = hierarchy_frame(hierarchy, decay_rate=decay_rate)
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(frame.vectors.shape, generator=generator).requires_grad_()
    labels = torch.arange(frame.num_classes)
    loss = FrameCosine(mixing)
    optimiser = torch.optim.Adam([features], lr=0.1, weight_decay=weight_decay)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(features, labels, frame.vectors).backward()
        optimiser.step()
    return outcome(features.detach(), frame, hierarchy)


def at_length(frame: Frame, length: float) -> Tensor:
    """(K, d), the best features of this length by cross entropy alone.

    L-BFGS on the logarithm of each class's cross entropy, so that small ones count too.
    """
    vectors, own = frame.vectors.double(), torch.eye(frame.num_classes, dtype=torch.bool)
    features = vectors.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [features],
        max_iter=500,
        tolerance_grad=1e-9,
        tolerance_change=1e-13,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        logits = length * normalize(features) @ vectors.T
        lead = logits.masked_fill(own, -torch.inf).logsumexp(1) - logits.diagonal()
        # The cross entropy is softplus(lead), and exp(lead) where that underflows.
        value = torch.where(lead < -30, lead, softplus(lead.clamp(min=-30)).log()).sum()
        value.backward()
        return value

    optimiser.step(objective)
    return length * normalize(features.detach())


def limit(frame: Frame) -> Tensor:
    """(K, d), the direction that cross entropy alone drives free features to as they grow.

    Equal margins with the least norm: the largest margin for a given norm.
    """
    return torch.linalg.pinv(frame.vectors.double() - frame.vectors.double().mean(0)).T


def outcome(features: Tensor, frame: Frame, hierarchy: Hierarchy) -> Outcome:
    """How features (K, d), one for each class, lie."""
    units, vectors = normalize(features.double()), frame.vectors.double()
    statistics = ClassStatistics.from_features(
        units, torch.arange(frame.num_classes), frame.num_classes
    )
    distances = hierarchy.distances()
    levels = range(1, hierarchy.total_height + 1)

    def by_distance(gram: Tensor) -> list[float]:
        return [float(gram[distances == level].mean()) for level in levels]

    return Outcome(
        float((units * vectors).sum(1).mean()),
        float(frame_deviation(statistics, frame)),
        by_distance(units @ units.T),
        by_distance(vectors @ vectors.T),
    )


def report(name: str, hierarchy: Hierarchy, steps: int, decay_rate: float) -> None:
    """Print what was trained beside the frame and the limit."""
    frame = hierarchy_frame(hierarchy, decay_rate=decay_rate)
    print(f"{name}: {hierarchy}, decay rate {decay_rate:g}, Adam, {steps} steps")
    print(f"{'':>12} {'mixing':>7} {'alignment':>10} {'deviation':>10}  cosines by level")

    def line(decay: str, mixing: str, found: Outcome) -> None:
        cosines = " ".join(f"{cosine:7.3f}" for cosine in found.cosines)
        numbers = f"{found.alignment:>10.4f} {found.deviation:>10.4f}"
        print(f"{decay:>12} {mixing:>7} {numbers}  {cosines}", flush=True)

    line("the frame", "", outcome(frame.vectors, frame, hierarchy))
    for length in LENGTHS:
        found = outcome(at_length(frame, length), frame, hierarchy)
        line(f"length {length:g}", "0", found)
    line("the limit", "0", outcome(limit(frame), frame, hierarchy))
    for weight_decay, mixing in ROWS:
        found = trained(
            hierarchy,
            mixing=mixing,
            steps=steps,
            weight_decay=weight_decay,
            decay_rate=decay_rate,
        )
        line(f"decay {weight_decay:g}", f"{mixing:g}", found)


def main() -> None:
    """Four leaves and CIFAR-100's tree, or a tree of your own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tree", help="a file that Hierarchy.from_file reads")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--decay-rate", type=float, default=2.0)
    options = parser.parse_args()
    if options.tree:
        report(options.tree, Hierarchy.from_file(options.tree), options.steps, options.decay_rate)
        return
    four = Hierarchy.from_newick("((a,b),(c,d));")
    report("four leaves", four, options.steps, options.decay_rate)
    print()
    report("CIFAR-100", Hierarchy.cifar100(), options.steps, options.decay_rate)


if __name__ == "__main__":
    main()
