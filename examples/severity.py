"""Do mistakes fall nearer the truth? Six ways to train and two to decide, over several seeds.

Each method is trained from the same seeds on the same samples. What is compared is the last epoch
on the test set, on which nothing is selected. Without --select every method runs with the first of
its candidates below, which stood before anything ran: the hyper-parameters of published runs for
CIFAR-100 where there are some, else the defaults. With --select N the candidate is taken whose
mistakes on the validation set are the least severe, by the mean over the first N seeds, among those
that are at most half a point less accurate there than cross entropy, or the most accurate if none
is. Runs that are there already are not trained again, so that an interrupted comparison goes on
where it stopped.

    python examples/severity.py                          # Fashion-MNIST, 4000 samples, 5 seeds
    python examples/severity.py --data wordnet --limit 0 --batch-size 128 --select 2
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

Candidate = Mapping[str, Any]


def framed(loss: str, decay_rate: float) -> Candidate:
    """A loss with a fixed frame of the hierarchy."""
    return {"loss": loss, "head": "fixed", "frame": f"hierarchy:decay_rate={decay_rate:g}"}


# What is trained, by name: the options that differ, one or more candidates, the published first.
TRAININGS: Mapping[str, Sequence[Candidate]] = {
    "cross entropy": [{"loss": "cross-entropy"}],
    "soft labels": [{"loss": f"soft-labels:sharpness={value}"} for value in (10, 5, 20)],
    "hierarchical cross entropy": [
        {"loss": f"hierarchical-cross-entropy:depth_decay={value}"} for value in (0.4, 0.2, 0.1)
    ],
    "fixed simplex": [{"loss": "cross-entropy", "head": "fixed", "frame": "simplex"}],
    "hierarchy frame": [framed("cross-entropy", rate) for rate in (2, 1, 4)],
    "hierarchy frame + cosine term": [
        framed(f"frame-cosine:mixing={mixing}", rate)
        for mixing, rate in ((0.4, 2), (0.4, 1), (0.4, 4), (0.6, 4), (0.8, 2))
    ],
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
# How much less accurate than the baseline a candidate may be on the validation set.
TOLERATED = 0.005


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


@dataclass(frozen=True)
class Comparison:
    """What is the same for all methods.

    Attributes:
        base: the options they share.
        out: folder of the runs.
        data: of the options.
        progress: whether to show progress.
    """

    base: TrainConfig
    out: Path
    data: Data
    progress: bool = True

    def config(self, candidate: Candidate, seed: int) -> TrainConfig:
        """The whole configuration of one run."""
        values = {**self.base.to_values(), **candidate, "seed": seed}
        (config,) = TrainConfig.from_values(values).methods()
        return config

    def run(self, config: TrainConfig) -> Run:
        """The run of a configuration, trained to its end if it is not."""
        folder = self.out / config.slug / f"seed-{config.seed}"
        return trained(folder, config, self.data, progress=self.progress)

    def on_validation(self, candidate: Candidate, seeds: int) -> dict[str, float]:
        """Mean numbers of the validation set over some seeds."""
        runs = [self.run(self.config(candidate, seed)) for seed in range(seeds)]
        rows = [numbers(run.rows()[-1]["mistakes"]["validation"]["values"]) for run in runs]
        return {key: sum(row[key] for row in rows) / len(rows) for key in COLUMNS}

    def selected(self, seeds: int) -> dict[str, Candidate]:
        """The candidate of each method that is best on the validation set, which is told."""
        means: dict[str, list[dict[str, float]]] = {}
        for name, candidates in TRAININGS.items():
            means[name] = [self.on_validation(candidate, seeds) for candidate in candidates]
            for candidate, row in zip(candidates, means[name], strict=True):
                told = f"accuracy {row['accuracy']:.2%}, severity {row['mistake_severity']:.4g}"
                print(f"validation: {self.config(candidate, 0).label}: {told}", flush=True)
        least = means[BASELINE][0]["accuracy"] - TOLERATED
        places = {name: best_place(rows, least) for name, rows in means.items()}
        return {name: TRAININGS[name][place] for name, place in places.items()}


def best_place(rows: Sequence[Mapping[str, float]], least: float) -> int:
    """Which row is the least severe of those of some accuracy, else the most accurate."""
    fit = [place for place, row in enumerate(rows) if row["accuracy"] >= least]
    if fit:
        return min(fit, key=lambda place: rows[place]["mistake_severity"])
    return max(range(len(rows)), key=lambda place: rows[place]["accuracy"])


def outcomes(
    base: TrainConfig, out: Path, seeds: int, select: int = 0, *, progress: bool = True
) -> Outcomes:
    """Metrics of the test set by method, one mapping per seed; trains what is not there yet."""
    comparison = Comparison(base, out, load_data(base), progress)
    chosen = {name: candidates[0] for name, candidates in TRAININGS.items()}
    if select:
        chosen = comparison.selected(select)
    found: Outcomes = {name: [] for name in TRAININGS}
    found |= {f"{name}, minimum risk": [] for name in MINIMUM_RISK}
    for seed in range(seeds):
        for name, candidate in chosen.items():
            config = comparison.config(candidate, seed)
            run = comparison.run(config)
            found[name].append(numbers(run.rows()[-1]["mistakes"]["test"]["values"]))
            if name in MINIMUM_RISK:
                kept = run.path / "minimum-risk.json"
                if not kept.is_file():
                    write_json(kept, at_minimum_risk(run, config, comparison.data).to_dict())
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
    parser.add_argument("--hierarchy", help="by default that of the data")
    parser.add_argument("--distances", default="lca_height")
    parser.add_argument("--limit", type=int, default=4000, help="training samples; 0: all")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--backbone", default="auto")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--select", type=int, default=0, help="seeds to select candidates by")
    parser.add_argument("--out", type=Path, default=Path("runs/severity"))
    options = parser.parse_args()
    base = TrainConfig(
        data=options.data,
        data_root=options.data_root,
        hierarchy=options.hierarchy or options.data,
        distances=options.distances,
        limit=options.limit or None,
        epochs=options.epochs,
        batch_size=options.batch_size,
        backbone=options.backbone,
        measure=False,
    )
    print(table(outcomes(base, options.out, options.seeds, options.select)))


if __name__ == "__main__":
    main()
