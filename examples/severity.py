"""Do mistakes fall nearer the truth? Six ways to train and two to decide, over several seeds.

Each method is trained from the same seeds on the same samples. What is compared is the last epoch
on the test set; nothing is selected on it, and the hyper-parameters below stand before anything
runs: those of published runs for CIFAR-100 where there are some, else the defaults. Runs that are
there already are not trained again, so that an interrupted comparison goes on where it stopped.

    python examples/severity.py                          # Fashion-MNIST, 4000 samples, 5 seeds
    python examples/severity.py --data imagefolder --data-root birds --hierarchy birds.csv \
        --limit 0 --epochs 100 --backbone resnet18
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student

from neuralcollapse import MistakeAccumulator, Mistakes
from neuralcollapse.decisions import minimum_risk
from neuralcollapse.files import read_json, write_json
from neuralcollapse.record import Run
from neuralcollapse.tap import evaluating
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.data import Data, load_data
from neuralcollapse.train.loop import create_run, train
from neuralcollapse.train.network import class_hierarchy, load_network
from neuralcollapse.train.samples import EpochOrder, loader

FRAME = "hierarchy:decay_rate=2"
# What is trained, by name: the options that differ.
TRAININGS: Mapping[str, Mapping[str, Any]] = {
    "cross entropy": {"loss": "cross-entropy"},
    "soft labels": {"loss": "soft-labels:sharpness=10"},
    "hierarchical cross entropy": {"loss": "hierarchical-cross-entropy:depth_decay=0.4"},
    "fixed simplex": {"loss": "cross-entropy", "head": "fixed", "frame": "simplex"},
    "hierarchy frame": {"loss": "cross-entropy", "head": "fixed", "frame": FRAME},
    "hierarchy frame + cosine term": {"loss": "frame-cosine:mixing=0.4", "frame": FRAME},
}
# Whose decisions are also made by the least expected distance.
MINIMUM_RISK = ("cross entropy", "hierarchy frame + cosine term")
COLUMNS = {
    "accuracy": "accuracy %",
    "mistake_severity": "severity",
    "hierarchical_distance@1": "HD@1",
    "hierarchical_distance@5": "HD@5",
    "hierarchical_distance@20": "HD@20",
    "calibration_error": "calibration %",
}
BASELINE = "cross entropy"


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and half the width of its 95 % t-interval; nan for a single seed."""

    mean: float
    half: float

    @staticmethod
    def of(values: Sequence[float]) -> "Interval":
        """Of one value per seed."""
        numbers = torch.tensor(values, dtype=torch.float64)
        if len(numbers) < 2:
            return Interval(float(numbers.mean()), math.nan)
        error = float(numbers.std()) / len(numbers) ** 0.5
        return Interval(float(numbers.mean()), float(student.ppf(0.975, len(numbers) - 1)) * error)

    def __str__(self) -> str:
        return f"{self.mean:.4g}" + ("" if math.isnan(self.half) else f" ± {self.half:.2g}")


Outcomes = dict[str, list[dict[str, float]]]


def outcomes(base: TrainConfig, out: Path, seeds: int, *, progress: bool = True) -> Outcomes:
    """Metrics of the test set by method, one mapping per seed; trains what is not there yet."""
    data = load_data(base)
    found: Outcomes = {name: [] for name in TRAININGS}
    found |= {f"{name}, minimum risk": [] for name in MINIMUM_RISK}
    for seed in range(seeds):
        for name, options in TRAININGS.items():
            values = {**base.to_values(), **options, "seed": seed}
            (config,) = TrainConfig.from_values(values).methods()
            folder = out / name.replace(" ", "-") / f"seed-{seed}"
            run = trained(folder, config, data, progress=progress)
            found[name].append(numbers(run.rows()[-1]["mistakes"]["test"]["values"]))
            if name in MINIMUM_RISK:
                kept = folder / "minimum-risk.json"
                if not kept.is_file():
                    write_json(kept, at_minimum_risk(run, config, data).to_dict())
                found[f"{name}, minimum risk"].append(numbers(read_json(kept)["values"]))
    return found


def trained(folder: Path, config: TrainConfig, data: Data, *, progress: bool = True) -> Run:
    """The run in a folder, trained to its end if it is not.

    Raises:
        ValueError: if the run there has other options.
        KeyboardInterrupt: if training was interrupted.
    """
    run = Run.open(folder) if Run.at(folder) else create_run(folder, config, data)
    asked = config.to_values()
    changed = [name for name, value in asked.items() if run.config.get(name) != value]
    if changed:
        raise ValueError(
            f"{changed[0]} must stay {run.config.get(changed[0])!r} in {folder}, got "
            f"{asked[changed[0]]!r}; choose another --out"
        )
    if train(run, data, progress=progress) == "interrupted":
        raise KeyboardInterrupt
    return run


def at_minimum_risk(run: Run, config: TrainConfig, data: Data) -> Mistakes:
    """The mistakes of a trained network on the test set when it decides by minimum risk."""
    hierarchy = class_hierarchy(config, data.classes)
    if hierarchy is None:
        raise ValueError("hierarchy must be given, got None")
    network, kind = load_network(run), config.distances
    cost = hierarchy if kind == "lca_height" else hierarchy.distances(kind)  # pyright: ignore[reportArgumentType]
    accumulator = MistakeAccumulator(hierarchy, kind=kind)  # pyright: ignore[reportArgumentType]
    with evaluating(network) as device:
        for inputs, labels in loader(data.test, EpochOrder(len(data.test), 256, None)):
            probabilities = network(inputs.to(device)).double().softmax(1)
            ranks = minimum_risk(probabilities, cost, top=20)
            accumulator.update_ranks(ranks, labels, probabilities)
    return accumulator.result()


def numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    """The values of the table; nan where there is none."""
    chosen = {key: values.get(key) for key in COLUMNS}
    return {key: math.nan if value is None else value for key, value in chosen.items()}


def table(found: Outcomes) -> str:
    """Intervals of every column, and the severity beside the baseline's, as Markdown."""
    heads = [*COLUMNS.values(), f"severity less that of {BASELINE}, %"]
    lines = [f"| method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, rows in found.items():
        cells = []
        for key, title in COLUMNS.items():
            scale = 100 if title.endswith("%") else 1
            cells.append(str(Interval.of([scale * row[key] for row in rows])))
        pairs = zip(rows, found[BASELINE], strict=True)
        changes = [
            100 * (one["mistake_severity"] / two["mistake_severity"] - 1) for one, two in pairs
        ]
        cells.append("" if name == BASELINE else str(Interval.of(changes)))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--data-root")
    parser.add_argument("--hierarchy", default="fashion-mnist")
    parser.add_argument("--distances", default="lca_height")
    parser.add_argument("--limit", type=int, default=4000, help="training samples; 0: all")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--backbone", default="auto")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/severity"))
    options = parser.parse_args()
    base = TrainConfig(
        data=options.data,
        data_root=options.data_root,
        hierarchy=options.hierarchy,
        distances=options.distances,
        limit=options.limit or None,
        epochs=options.epochs,
        backbone=options.backbone,
        measure=False,
    )
    print(table(outcomes(base, options.out, options.seeds)))


if __name__ == "__main__":
    main()
