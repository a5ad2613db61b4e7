"""What the examples that train many small runs share: training what is missing, and intervals."""

import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scipy.stats import t as student

from neuralcollapse.record import Run
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.data import Data, load_data
from neuralcollapse.train.loop import create_run, train

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its two-sided 95 % t-interval over independent repetitions."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2g} [{self.low:.2g}, {self.high:.2g}]"

    def text(self, scale: float, digits: int) -> str:
        """Mean and half width, times a factor."""
        half = (self.high - self.low) / 2
        return f"{self.mean * scale:.{digits}f} ± {half * scale:.{digits}f}"


def interval(values: Sequence[float], *, floor: float | None = None) -> Interval:
    """Mean and t-interval of at least two values, taken as independent and about normal.

    Args:
        values: one per repetition.
        floor: take mean and interval of logarithms, and give their exponentials: the geometric
            mean. Values below the floor count as the floor.

    Raises:
        ValueError: if there are fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"values must be at least two for an interval, got {len(values)}")
    array = np.asarray(values, dtype=float)
    if floor is not None:
        array = np.log(np.maximum(array, floor))
    mean = float(array.mean())
    error = float(array.std(ddof=1)) / math.sqrt(len(array))
    half = float(student.ppf((1 + LEVEL) / 2, len(array) - 1)) * error
    ends = (mean, mean - half, mean + half)
    return Interval(*(math.exp(end) for end in ends) if floor is not None else ends)


def train_all(out: Path, configs: Mapping[str, TrainConfig], *, progress: bool = True) -> None:
    """Train every run that is not finished, each in a folder of its own below `out`.

    A run that was cut off goes on from its last checkpoint; a finished one is left alone.

    Args:
        out: the folder of the runs.
        configs: by folder name, with loss, head and frame chosen (`TrainConfig.methods`).
        progress: show a bar on standard error.

    Raises:
        ValueError: if a folder holds a run with another configuration, or a training diverged.
        KeyboardInterrupt: if training was stopped by Ctrl-C; what is finished stays.
    """
    missing = {name: config for name, config in configs.items() if not finished(out / name, config)}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not progress) as bar:
        task = bar.add_task("runs", total=len(configs), completed=len(configs) - len(missing))
        for name, config in missing.items():
            bar.update(task, description=name)
            data = parts(config)
            folder = out / name
            run = Run.open(folder) if Run.at(folder) else create_run(folder, config, data)
            if train(run, data, progress=False) != "finished":
                raise KeyboardInterrupt
            bar.advance(task)


def finished(folder: Path, config: TrainConfig) -> bool:
    """Whether a folder holds the finished run of this configuration.

    Raises:
        ValueError: if it holds a run of another configuration.
    """
    if not Run.at(folder):
        return False
    run = Run.open(folder)
    if run.config != config.to_values():
        names = [
            name for name, value in config.to_values().items() if run.config.get(name) != value
        ]
        raise ValueError(
            f"{folder} must hold a run of this sweep, but its {', '.join(names)} differ; "
            "choose another --out"
        )
    return (run.summary() or {}).get("status") == "finished"


def parts(config: TrainConfig) -> Data:
    """The data of a configuration; the last ones are kept."""
    names = ("data", "data_root", "imbalance", "limit", "split_seed", "validation_share")
    return _parts(tuple((name, getattr(config, name)) for name in names))


@functools.lru_cache(maxsize=2)
def _parts(options: tuple[tuple[str, Any], ...]) -> Data:
    return load_data(TrainConfig(**dict(options)))


def last_row(folder: Path) -> dict[str, Any]:
    """What was measured after the last epoch of a run."""
    return Run.open(folder).rows()[-1]


def write_results(path: Path, content: Mapping[str, Any]) -> None:
    """Write results as JSON; what is not finite becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return {name: _plain(getattr(value, name)) for name in ("mean", "low", "high")}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        # Six digits are more than repetitions agree on.
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
