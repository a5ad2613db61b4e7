"""One-pass class statistics beside a bare matrix product and beside a published tool.

    python benchmarks/statistics.py [--samples 50000] [--dim 512] [--batch 1024]

Per number of classes: processor seconds of ours, of the bare second moment `X^T X` batch by batch,
and, where `neural_collapse` (rhubarbwu/neural-collapse) is installed, of its means, variances and
covariance, which take two passes over the data; then the memory that ours allocates at most,
input excluded. All in one process on one thread, the repetitions of each in turn, the best kept.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from neuralcollapse import ClassStatistics, StatisticsAccumulator

Batches = list[tuple[Tensor, Tensor]]


def ours(batches: Batches, num_classes: int, dtype: torch.dtype = torch.float64) -> ClassStatistics:
    """Counts, means, spread and scatter in one pass."""
    accumulator = StatisticsAccumulator(num_classes, batches[0][0].shape[1], dtype=dtype)
    for features, labels in batches:
        accumulator.update(features, labels)
    return accumulator.result()


def bare_product(batches: Batches, num_classes: int) -> Tensor:
    """The second moment of the features and nothing else."""
    dim = batches[0][0].shape[1]
    moment = torch.zeros(dim, dim)
    for features, _ in batches:
        moment += torch.mm(features.T, features)
    return moment


def peer(batches: Batches, num_classes: int) -> Any:
    """The same statistics by rhubarbwu/neural-collapse: one pass for means, one for the rest."""
    from neural_collapse.accumulate import (  # pyright: ignore[reportMissingImports]
        CovarAccumulator,
        MeanAccumulator,
        VarNormAccumulator,
    )

    dim = batches[0][0].shape[1]
    means = MeanAccumulator(num_classes, dim)
    for features, labels in batches:
        means.accumulate(features, labels)
    centres, _ = means.compute()
    variances = VarNormAccumulator(num_classes, dim, M=centres)
    covariance = CovarAccumulator(num_classes, dim, M=centres)
    for features, labels in batches:
        variances.accumulate(features, labels, centres)
        covariance.accumulate(features, labels, centres)
    return variances.compute(), covariance.compute()


def best_seconds(tasks: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """The least processor time of each task; they take turns, so that all see the same machine."""
    seconds = dict.fromkeys(tasks, float("inf"))
    for _ in range(repetitions):
        for name, task in tasks.items():
            began = time.process_time()
            task()
            seconds[name] = min(seconds[name], time.process_time() - began)
    return seconds


def peak_bytes(task: Callable[[], Any]) -> int:
    """The most memory that a task holds in tensors at any time, what it returns included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        held = task()
    del held
    events = profiled.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    memory: list[Any] = [event for event in events if event.name() == "[memory]"]
    changes = sorted((event.start_ns(), event.nbytes()) for event in memory)
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Class statistics beside peers.")
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own chatter
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(options.samples, options.dim, generator=generator)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread")
    print(f"N={options.samples}, d={options.dim}, batch {options.batch}; processor seconds")
    print("     K   product      ours  ratio      peer  peer/ours   peak / (Kd + d^2) numbers")
    for num_classes in options.classes:
        labels = torch.randint(num_classes, (options.samples,), generator=generator)
        batches = list(zip(features.split(options.batch), labels.split(options.batch), strict=True))
        tasks: dict[str, Callable[[], Any]] = {
            "product": lambda b=batches, k=num_classes: bare_product(b, k),
            "ours": lambda b=batches, k=num_classes: ours(b, k),
        }
        try:
            import neural_collapse  # noqa: F401  # pyright: ignore[reportMissingImports]

            tasks["peer"] = lambda b=batches, k=num_classes: peer(b, k)
        except ImportError:
            pass
        seconds = best_seconds(tasks, options.repetitions)
        unit = num_classes * options.dim + options.dim**2
        double = peak_bytes(lambda b=batches, k=num_classes: ours(b, k)) / 8 / unit
        single = peak_bytes(lambda b=batches, k=num_classes: ours(b, k, torch.float32)) / 4 / unit
        theirs = seconds.get("peer")
        shown = (
            "     -          -"
            if theirs is None
            else f"{theirs:6.3f} {theirs / seconds['ours']:10.2f}"
        )
        print(
            f"{num_classes:6d} {seconds['product']:9.3f} {seconds['ours']:9.3f} "
            f"{seconds['ours'] / seconds['product']:6.2f}    {shown}   "
            f"{double:.2f} (float64 sums), {single:.2f} (float32 sums)"
        )


if __name__ == "__main__":
    main()
