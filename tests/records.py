"""Run folders for tests: features that collapse over the epochs, with everything a run records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuralcollapse import (
    Frame,
    Hierarchy,
    MistakeAccumulator,
    measure_features,
    optimal_configuration,
    orthogonal_frame,
    simplex_etf,
)
from neuralcollapse.record import Run


def _uniform(num_classes: int, dim: int) -> Frame:
    return optimal_configuration(num_classes, dim, 0)


FRAMES: Mapping[str, Callable[[int, int], Frame]] = {
    "simplex": simplex_etf,
    "orthogonal": orthogonal_frame,
    "uniform": _uniform,
    "frame": _uniform,
}


def write_record(
    path: Path,
    *,
    num_classes: int = 4,
    dim: int = 6,
    epochs: Sequence[int] = (0, 1, 2, 4),
    counts: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    target: str = "simplex",
    validation: bool = True,
    test: bool = True,
    status: str | None = "finished",
    hierarchy: Hierarchy | None = None,
    config: Mapping[str, Any] | None = None,
    info: Mapping[str, Any] | None = None,
    seed: int = 0,
    noise: float = 2.0,
) -> Run:
    """A run whose features collapse from noise to the frame it aims at.

    Args:
        path: of the new folder.
        num_classes: K.
        dim: d.
        epochs: the epochs that are measured.
        counts: training samples per class; 12 each by default. A class with 0 is absent.
        classes: their names; numbers by default.
        target: "simplex", "orthogonal", "uniform" (whatever the class means find, here the most
            uniform directions), or "frame" (the same, as the vectors of a fixed head).
        validation: whether validation samples were kept.
        test: whether test samples were measured.
        status: "finished", "interrupted", or None for a run that has not ended.
        hierarchy: of the classes, on which the mistakes of the test samples are counted.
        config: options beside the usual ones.
        info: what else is known at the start.
        seed: of all randomness.
        noise: how far features lie from their class mean at the start.
    """
    counts = list(counts or [12] * num_classes)
    names = list(classes or map(str, range(num_classes)))
    run = Run.create(
        path,
        {"data": "digits", "lr": 0.05, "epochs": max(epochs), "seed": seed, **(config or {})},
        {
            "classes": names,
            "counts": {"train": counts, "validation": [3] * num_classes, "test": [5] * num_classes},
            "target": target,
            "method": "cross entropy, linear head",
            "data": "digits",
            "versions": {"neuralcollapse": "0.1.0", "torch": torch.__version__},
            "device": "cpu",
            **({} if hierarchy is None else {"hierarchy": hierarchy.to_dict()}),
            **(info or {}),
        },
    )
    world = _World(num_classes, dim, counts, target, seed, noise)
    world.hierarchy = hierarchy
    for epoch in epochs:
        world.measure(run, epoch, epoch / max(1, max(epochs)), validation=validation, test=test)
    if status is not None:
        best = run.rows()[-2 if len(epochs) > 1 else -1]
        run.write_summary(
            {
                "status": status,
                "epochs": max(epochs),
                "best_epoch": best["epoch"] if validation else None,
                "best_validation_accuracy": best["validation"]["accuracy"] if validation else None,
                "test_accuracy_at_best": best["test"]["accuracy"] if test and validation else None,
                "seconds": 12.5,
            }
        )
    return run


def change_rows(run: Run, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite the measured epochs of a run."""
    rows = run.rows()
    (run.path / "measurements.jsonl").unlink()
    for row in rows:
        change(row)
        run.append(row)


def undefine(row: dict[str, Any], key: str, reason: str, split: str = "train") -> None:
    """Take a metric out of a measured epoch."""
    row[split]["metrics"][key] = None
    row[split]["undefined"][key] = reason


class _World:
    """Samples around class means that move from random places to a frame."""

    def __init__(
        self, num_classes: int, dim: int, counts: list[int], target: str, seed: int, spread: float
    ):
        self.spread = spread
        self.hierarchy: Hierarchy | None = None
        self.generator = torch.Generator().manual_seed(seed)
        self.frame = FRAMES[target](num_classes, dim).vectors
        self.start_means = self.normal(num_classes, dim) / dim**0.5
        self.start_weight = self.normal(num_classes, dim) / dim**0.5
        self.labels = torch.repeat_interleave(torch.arange(num_classes), torch.tensor(counts))
        self.noise = self.normal(len(self.labels), dim) / dim**0.5
        self.test_labels = torch.arange(num_classes).repeat_interleave(5)
        self.test_noise = self.normal(len(self.test_labels), dim) / dim**0.5

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def measure(self, run: Run, epoch: int, done: float, *, validation: bool, test: bool) -> None:
        """Append a row and write a snapshot for the time `done` in [0, 1] of the run."""
        settled = 1 - (1 - done) ** 3
        means = 4 * (0.3 * (1 - settled) * self.start_means + settled * self.frame)
        weight = (1 - settled) * self.start_weight + settled * self.frame
        spread = self.spread * 0.01**done
        bias = -3 * weight.sum(1)  # takes the offset of the features out of the scores
        features = 3 + means[self.labels] + spread * self.noise
        measured = measure_features(features, self.labels, weight, bias, split="train")
        test_features = 3 + means[self.test_labels] + (spread + 0.3) * self.test_noise
        tested = measure_features(test_features, self.test_labels, weight, bias, split="test")
        loss = 2.3 * 0.001**done
        row = {
            "epoch": epoch,
            "seconds": 0.4 * epoch,
            "lr": 0.05 * (1 - done),
            "loss": loss if epoch else None,
            "terms": {"cross_entropy": loss} if epoch else {},
            "train_accuracy_running": measured.accuracy if epoch else None,
            "train": measured.to_dict(),
            "validation": {"accuracy": min(0.97, 0.1 + 2 * done), "loss": loss + 0.1},
            "test": tested.to_dict() if test else None,
        }
        statistics = measured.statistics
        assert statistics is not None
        extra = {}
        if self.hierarchy is not None:
            logits = test_features @ weight.T + bias
            mistakes = MistakeAccumulator(self.hierarchy)
            mistakes.update(logits, self.test_labels, logits.double().softmax(1))
            row["mistakes"] = {"test": mistakes.result().to_dict()}
            row["frame_fit"] = {"frame_deviation": 0.5 * (1 - done), "frame_spread": None}
            pairs = torch.stack([self.test_labels, logits.argmax(1)], 1)
            unique, times = pairs.unique(dim=0, return_counts=True)
            extra["test_confusion"] = torch.cat([unique, times[:, None]], 1)
        run.append(row if validation else row | {"validation": None})
        run.write_snapshot(
            epoch,
            {
                "means": statistics.means,
                "weight": weight,
                "bias": bias,
                "features": features,
                "labels": self.labels,
                **extra,
            },
        )
