"""Time, largest cosine and memory of spherical codes.

    python benchmarks/frames.py [--large 100000 512] [--steps 1]

Without options, a table of sizes up to K = 1000 in 128 dimensions. With --large, one code beyond
the limit of dense matrices is taken so many steps far, each a sweep over all pairs, and the peak of
memory and the time of a step are printed.
"""

import argparse
import platform
import resource
import time

import torch

from neuralcollapse import spherical_code

SIZES = ((12, 3), (14, 3), (27, 6), (20, 10), (100, 10), (300, 32), (1000, 128))


def table() -> None:
    """Largest cosine beside its bound, and the time, by size and energy."""
    print(f"{'K':>7}{'d':>6}  {'energy':<12}{'max_cosine':>12}{'bound':>10}{'s':>8}{'cpu s':>8}")
    for num_classes, dim in SIZES:
        for energy in ("log", "separation"):
            began, used = time.monotonic(), time.process_time()
            frame = spherical_code(num_classes, dim, energy=energy)
            wall, cpu = time.monotonic() - began, time.process_time() - used
            print(
                f"{num_classes:>7}{dim:>6}  {energy:<12}{frame.max_cosine:>12.6f}"
                f"{frame.bound:>10.6f}{wall:>8.1f}{cpu:>8.1f}  {frame.status}",
                flush=True,
            )


def large(num_classes: int, dim: int, steps: int) -> None:
    """Memory and time per sweep of a code that is solved block by block."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    used = time.process_time()
    spherical_code(num_classes, dim, energy=2, starts=1, steps=steps)
    cpu = time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    vectors = num_classes * dim * 4 / 2**30
    # Each step and the beginning are sweeps with a gradient, the last energy a third of one.
    sweep = cpu / (steps + 1 + 1 / 3)
    print(
        f"K={num_classes} d={dim}: peak {peak:.2f} GiB, {before:.2f} of it before; the vectors are "
        f"{vectors:.2f}; {sweep:.0f} cpu seconds a step"
    )


def main() -> None:
    """Print the table, or the figures of a large code."""
    parser = argparse.ArgumentParser(description="Spherical codes: time, cosine, memory.")
    parser.add_argument("--large", type=int, nargs=2, metavar=("K", "D"))
    parser.add_argument("--steps", type=int, default=1)
    options = parser.parse_args()
    print(
        f"torch {torch.__version__}, {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads"
    )
    if options.large:
        num_classes, dim = options.large
        large(num_classes, dim, options.steps)
    else:
        table()


if __name__ == "__main__":
    main()
