"""Class statistics for very many classes: time against one `index_add_`, and memory.

    python benchmarks/vocabulary.py [--classes 30000] [--dim 768] [--tokens 4096]
    python benchmarks/vocabulary.py --memory [--classes 1000000] [--dim 256]

Time: processor seconds of an update without scatter, in float32, over those of `index_add_` of the
same batch, into a float32 matrix and into sums of the accumulator's own type (float32 unless told
otherwise), on one thread, in turns, once every class has been seen; the median of the ratios and of
the seconds, and the ratio of all seconds together. Labels are drawn
by Zipf's law, as words are, and once uniformly. Memory: the most that the process holds while it
updates and finds the result, above what it held before.
"""

import argparse
import platform
import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor

from neuralcollapse import StatisticsAccumulator


def median(values: list[float]) -> float:
    """The one in the middle."""
    return sorted(values)[len(values) // 2]


def seconds(task: Callable[[], object]) -> float:
    """Processor time of one call."""
    began = time.process_time()
    task()
    return time.process_time() - began


def tokens(kind: str, num_classes: int, count: int, generator: torch.Generator) -> Tensor:
    """(count,) labels, uniform or by Zipf's law."""
    if kind == "uniform":
        return torch.randint(num_classes, (count,), generator=generator)
    share = 1 / torch.arange(1, num_classes + 1)
    return torch.multinomial(share, count, replacement=True, generator=generator)


def times(num_classes: int, dim: int, count: int, dtype: torch.dtype, steps: int) -> None:
    """Print the ratios."""
    generator = torch.Generator().manual_seed(0)
    for kind in ("zipf", "uniform"):
        accumulator = StatisticsAccumulator(num_classes, dim, scatter=False, dtype=dtype)
        single, same = (torch.zeros(num_classes, dim, dtype=t) for t in (torch.float32, dtype))
        for labels in torch.arange(num_classes).split(count):  # memory is there, classes are known
            features = torch.randn(len(labels), dim, generator=generator)
            accumulator.update(features, labels)
            single.index_add_(0, labels, features)
            same.index_add_(0, labels, features.to(dtype))
        took: dict[str, list[float]] = {"ours": [], "single": [], "same": []}
        for step in range(steps):
            labels = tokens(kind, num_classes, count, generator)
            features = torch.randn(count, dim, generator=generator)
            tasks = {
                "ours": lambda f=features, y=labels, a=accumulator: a.update(f, y),
                "single": lambda f=features, y=labels, b=single: b.index_add_(0, y, f),
                "same": lambda f=features, y=labels, b=same: b.index_add_(0, y, f.to(b.dtype)),
            }
            for name in sorted(tasks, reverse=bool(step % 2)):
                spent = seconds(tasks[name])
                if step >= 5:
                    took[name].append(spent)
        ratios = {
            name: median([a / b for a, b in zip(took["ours"], took[name], strict=True)])
            for name in ("single", "same")
        }
        overall = sum(took["ours"]) / sum(took["single"])
        print(
            f"{kind:<8} sums in {str(dtype).removeprefix('torch.')}: update "
            f"{1e3 * median(took['ours']):.1f} ms; index_add_ into float32 "
            f"{1e3 * median(took['single']):.1f} ms, ratio {ratios['single']:.2f} "
            f"(overall {overall:.2f}); into the same "
            f"{1e3 * median(took['same']):.1f} ms, ratio {ratios['same']:.2f}"
        )


def memory(num_classes: int, dim: int, count: int, dtype: torch.dtype) -> None:
    """Print the peak."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    generator = torch.Generator().manual_seed(0)
    accumulator = StatisticsAccumulator(num_classes, dim, scatter=False, dtype=dtype)
    for start in range(0, num_classes, count):
        labels = torch.arange(start, min(start + count, num_classes))
        accumulator.update(torch.randn(len(labels), dim, generator=generator), labels)
    updating = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    accumulator.result()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"updates {updating / 2**20:.2f} GiB, with result {peak / 2**20:.2f} GiB")


def main() -> None:
    """Read the options and run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--classes", type=int)
    parser.add_argument("--dim", type=int)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--dtype", choices=["float32", "float64"])
    parser.add_argument("--steps", type=int, default=65)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread")
    for name in [options.dtype] if options.dtype else ["float32", "float64"][: 2 - options.memory]:
        dtype = getattr(torch, name)
        if options.memory:
            memory(options.classes or 1_000_000, options.dim or 256, options.tokens, dtype)
        else:
            sizes = options.classes or 30_000, options.dim or 768, options.tokens
            times(*sizes, dtype, options.steps)


if __name__ == "__main__":
    main()
