"""Frames of trees beside the published search, and the largest trees.

    python benchmarks/hierarchy.py [--classes 1010] [--large 10000] [--dim 512]

First, for a tree of 7 levels like that of iNaturalist 2019: the published way (100 floors on a
grid with an eigendecomposition each, one more for the vectors) beside `hierarchy_frame` with the
exact floor, in turn, on one thread; the least processor time of each and their ratio. The published
way is run in full or, with --decompositions n, with n of its 100, scaled up. Then the distances and
frames of a tree of 10,000 leaves: processor seconds of each.
"""

import argparse
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from neuralcollapse import Hierarchy, hierarchy_frame

GRID = 100


def taxonomy(num_classes: int, groups: tuple[int, ...], seed: int = 0) -> Hierarchy:
    """Classes in random groups, those in larger ones, and so on to `groups[0]` at the top."""
    rng = np.random.default_rng(seed)
    table = [np.arange(num_classes)]
    for size in reversed(groups):
        above = np.concatenate(
            [np.arange(size), rng.integers(size, size=table[0].max() + 1 - size)]
        )
        table.insert(0, above[table[0]])
    names = [[f"{level}-{group}" for group in column] for level, column in enumerate(table)]
    return Hierarchy.from_levels(zip(*names, strict=True))


def published_frame(distances: np.ndarray, decay_rate: float, decompositions: int) -> np.ndarray:
    """As published: search the floor by eigenvalues, then vectors in as many dimensions."""
    num_classes = len(distances)
    similarities = np.exp(-decay_rate * distances / distances.max())
    best = -1 / (num_classes - 1)
    for floor in np.linspace(best, -1, GRID)[:decompositions]:
        values, vectors = np.linalg.eigh((1 - floor) * similarities + floor)
        values[np.abs(values) < 1e-6] = 0
        if values.min() >= 0:
            best = min(best, floor)
    values, vectors = np.linalg.eigh((1 - best) * similarities + best)
    values[np.abs(values) < 1e-6] = 0
    draw = np.random.default_rng(0).standard_normal((num_classes, num_classes))
    basis, _ = np.linalg.qr(draw * np.sqrt(2 / num_classes))
    return (basis * np.sqrt(values)) @ vectors.T


def seconds(task: Callable[[], Any]) -> float:
    """Processor time of one run."""
    began = time.process_time()
    task()
    return time.process_time() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Frames of trees.")
    parser.add_argument("--classes", type=int, default=1010)
    parser.add_argument("--large", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--decompositions", type=int, default=GRID)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}")

    tree = taxonomy(options.classes, (3, 4, 9, 34, 57, 72))
    distances = tree.distances().numpy()
    hierarchy_frame(tree)  # what is imported when first used
    published, ours = float("inf"), float("inf")
    for _ in range(options.repetitions):
        whole = seconds(lambda: published_frame(distances, 5.0, options.decompositions))
        least = min(seconds(lambda: hierarchy_frame(tree, decay_rate=5.0)) for _ in range(5))
        published = min(published, whole * GRID / options.decompositions)
        ours = min(ours, least)
    print(f"{tree}: published {published:.2f} s, ours {ours:.4f} s, ratio {published / ours:.0f}")
    search = seconds(lambda: hierarchy_frame(tree, decay_rate=5.0, floor="search"))
    print(f"the same floor as published (floor='search'): {search:.4f} s")

    large = taxonomy(options.large, (7, 90, 1000))
    steps: dict[str, Callable[[], Any]] = {
        "distances, float64": large.distances,
        "distances, int16": lambda: large.distances(dtype=torch.int16),
        f"frame in {options.large - 1} dimensions": lambda: hierarchy_frame(large),
        f"frame in {options.dim} dimensions": lambda: hierarchy_frame(large, dim=options.dim),
    }
    print(large)
    for name, task in steps.items():
        print(f"  {name}: {seconds(task):.2f} s of processor time")


if __name__ == "__main__":
    main()
