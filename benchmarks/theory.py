"""How long predictions take, beside one eigendecomposition of as many classes.

    python benchmarks/theory.py [--repetitions 5]

Squared error of 1000 classes with 1000 different counts, 6 layers deep, with each kind of bias; and
imbalanced cross entropy, a convex program with a certificate, with up to 100 different counts. One
thread, processor seconds, the least of the repetitions; beside it the ratio to one symmetric
eigendecomposition of a matrix of that many classes, in the same run.
"""

import argparse
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from neuralcollapse import Prediction, predict


def squared_error(num_classes: int, bias: Any) -> Prediction:
    """Counts from 50 to 6000, drawn; some classes die."""
    drawn = np.random.default_rng(0).permutation(np.arange(50, 6000))[:num_classes]
    return predict(drawn.tolist(), bias=bias, depth=6, weight_decay=5e-5, feature_decay=1e-7)


def cross_entropy(num_classes: int, bias: Any) -> Prediction:
    """Counts from 10 in steps of 10."""
    counts = [10 + 10 * index for index in range(num_classes)]
    return predict(counts, loss="ce", bias=bias, weight_decay=1e-4, feature_decay=1e-4)


def least(task: Callable[[], Any], repetitions: int) -> float:
    """Processor seconds of the quickest of some runs."""
    times: list[float] = []
    for _ in range(repetitions):
        began = time.process_time()
        task()
        times.append(time.process_time() - began)
    return min(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="How long predictions take.")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread")
    print(f"{'loss':<15}{'bias':>6}{'K':>6}{'cpu s':>10}{'ratio':>9}   certificate")
    for name, make, sizes, repetitions in (
        ("squared error", squared_error, (10, 100, 1000), options.repetitions),
        ("cross entropy", cross_entropy, (10, 30, 100), 1),
    ):
        for num_classes in sizes:
            matrix = np.random.default_rng(0).standard_normal((num_classes, num_classes))
            bare = least(lambda m=matrix: np.linalg.eigh(m + m.T), options.repetitions)
            for bias in ("none", "free"):
                found: list[Prediction] = []
                seconds = least(
                    lambda m=make, k=num_classes, b=bias, f=found: f.append(m(k, b)), repetitions
                )
                certificate = found[-1].certificate
                shown = "" if certificate is None else f"{certificate:.1e}"
                print(
                    f"{name:<15}{bias:>6}{num_classes:>6}{seconds:>10.4f}{seconds / bare:>9.1f}"
                    f"   {shown}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
