"""A training step of the uniformity gap beside one of cross entropy with the same head.

    python benchmarks/hug.py [--classes 10 100] [--repetitions 40] [--released HUG_loss.py]

Forward and backward of the loss and of a cosine head, 512 features of width 512 that want a
gradient, one thread, processor time; the ways take turns, and the median of the ratios over
repetitions is printed. The released implementation is taken where there is one: the file of
`--released`, or a module `HUG_loss` on the path, whose `HUG_MHE(inter_weight, intra_weight)` is
called with features, classifier and labels and returns the terms within and between classes first.
It gets the prototypes of the head as they are, since it normalises them itself.

"mgd" is cubic in the number of classes: at 1000 its determinant alone costs several steps, unless
it is thinned out, when one in four calls has it; the mean over four calls is printed.
"""

import argparse
import importlib
import importlib.util
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralcollapse.heads import CosineHead
from neuralcollapse.losses import HUG, AbstractLoss, CrossEntropy

BATCH, DIM = 512, 512
CLASSES = (10, 100, 1000, 10_000)
# An array of K x K numbers in double precision, and its Cholesky factor, take long beyond.
MOST_FOR_DETERMINANT = 1000
EVERY = 4


def released(path: Path | None) -> Any:
    """The released loss with weights of 1, or None where it is not found."""
    if path is None:
        if importlib.util.find_spec("HUG_loss") is None:
            return None
        return importlib.import_module("HUG_loss").HUG_MHE(1.0, 1.0)
    specification = importlib.util.spec_from_file_location("HUG_loss", path)
    if specification is None or specification.loader is None:
        raise SystemExit(f"--released must be a file of Python, got {path}")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.HUG_MHE(1.0, 1.0)


def ways(num_classes: int, theirs: Any) -> dict[str, Callable[[], None]]:
    """A step under each loss."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(BATCH, DIM, generator=generator).requires_grad_()
    labels = torch.randint(num_classes, (BATCH,), generator=generator)
    head = CosineHead(num_classes, DIM)

    def clear() -> None:
        features.grad = None
        head.zero_grad()

    def step(loss: AbstractLoss) -> Callable[[], None]:
        def call() -> None:
            clear()
            rows, weight, bias = head.operands(features)
            loss(rows, labels, weight, bias).backward()

        return call

    def released_step() -> None:
        clear()
        terms: tuple[Tensor, ...] = theirs(features, head.prototypes, labels)
        (terms[0] + terms[1]).backward()

    found = {
        "cross entropy": step(CrossEntropy()),
        "mhe": step(HUG()),
        "mhe, as released": step(HUG.released()),
        "mhs": step(HUG("mhs")),
    }
    if num_classes <= MOST_FOR_DETERMINANT:
        found["mgd"] = step(HUG("mgd"))
        found[f"mgd, inter_every={EVERY}"] = several(step(HUG("mgd", inter_every=EVERY)), EVERY)
    if theirs is not None:
        found["released code"] = released_step
    return found


def several(call: Callable[[], None], calls: int) -> Callable[[], None]:
    """That many calls as one."""

    def together() -> None:
        for _ in range(calls):
            call()

    return together


def seconds(call: Callable[[], None]) -> float:
    """Processor seconds of a call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Steps of HUG beside steps of cross entropy.")
    parser.add_argument("--classes", nargs="+", type=int, default=CLASSES)
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--released", type=Path, help="the released file, HUG_loss.py")
    options = parser.parse_args()
    torch.set_num_threads(1)
    theirs = released(options.released)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread")
    for num_classes in options.classes:
        calls = ways(num_classes, theirs)
        costs: dict[str, list[float]] = {name: [] for name in calls}
        for call in calls.values():
            call()  # warm up
        for _ in range(max(3, options.repetitions // (1 + num_classes // 2000))):
            for name, call in calls.items():
                costs[name].append(seconds(call))
        base = np.array(costs.pop("cross entropy"))
        ratios = "   ".join(
            f"{name} {np.median(np.array(cost) / base) / (EVERY if 'every' in name else 1):.2f}"
            for name, cost in costs.items()
        )
        print(f"K = {num_classes:<6} {1e3 * np.median(base):8.1f} ms   {ratios}", flush=True)


if __name__ == "__main__":
    main()
