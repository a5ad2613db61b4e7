"""The record of a training run: a folder that can be drawn, resumed and repeated.

    RUN/config.json          what was asked for, the classes, the versions it ran on
    RUN/measurements.jsonl   one JSON object per measured epoch
    RUN/snapshots/           class means, classifier and some features per measured epoch
    RUN/checkpoints/         what a resumed run needs: tensors (safetensors) and state (JSON)
    RUN/summary.json         how it ended

Every file is written whole or not at all, and nothing is ever unpickled.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from neuralcollapse.files import (
    leftovers,
    read_json,
    read_tensors,
    write_atomically,
    write_json,
    write_tensors,
)

_FORMAT = "neuralcollapse.run.1"
_EPOCH_FILE = re.compile(r"epoch-(\d+)\.(safetensors|json)")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run at the end of an epoch."""

    epoch: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        path: the folder.
        config: the options of the run, as plain values.
        info: what else was known at the start: `classes` (names), `counts` by split, `target`
            ("simplex" or "orthogonal"), `versions`, ...
    """

    path: Path
    config: dict[str, Any]
    info: dict[str, Any]

    @staticmethod
    def create(path: str | Path, config: Mapping[str, Any], info: Mapping[str, Any]) -> "Run":
        """Make the folder and write its configuration.

        Raises:
            FileExistsError: if the folder already holds a run.
        """
        path = Path(path)
        if Run.at(path):
            raise FileExistsError(f"{path} already holds a run")
        for folder in (path / "snapshots", path / "checkpoints"):
            folder.mkdir(parents=True, exist_ok=True)
        content = {"format": _FORMAT, "config": dict(config), "info": dict(info)}
        write_json(path / "config.json", content)
        return Run(path, dict(config), dict(info))

    @staticmethod
    def at(path: str | Path) -> bool:
        """Whether the folder holds a run."""
        return (Path(path) / "config.json").is_file()

    @staticmethod
    def open(path: str | Path) -> "Run":
        """Open an existing run.

        Raises:
            ValueError: if the folder holds no run, or one of another format.
        """
        path = Path(path)
        if not Run.at(path):
            raise ValueError(f"{path} holds no run: there is no config.json in it")
        content = read_json(path / "config.json")
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"{path / 'config.json'} is not the configuration of a run")
        config, info = content.get("config"), content.get("info")
        if not isinstance(config, dict) or not isinstance(info, dict):
            raise ValueError(f"{path / 'config.json'} lacks its config or info")
        return Run(path, config, info)

    @property
    def name(self) -> str:
        """What the run is called in tables and figures: the name of its folder."""
        return self.path.resolve().name

    def rows(self) -> list[dict[str, Any]]:
        """The measured epochs, in order; a row is what `append` was given.

        Raises:
            ValueError: if a line is damaged.
        """
        file = self.path / "measurements.jsonl"
        if not file.is_file():
            return []
        rows = []
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            try:
                row = json.loads(line)
                row["epoch"] = int(row["epoch"])
            except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
                raise ValueError(f"{file}, line {number}, is not a measured epoch") from None
            rows.append(row)
        return rows

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a measured epoch, a JSON object with its number under "epoch".

        Rows of this and of later epochs, left by a run that was cut off, are replaced.
        """
        before = [earlier for earlier in self.rows() if earlier["epoch"] < row["epoch"]]
        self._write_rows([*before, dict(row)])

    def write_snapshot(self, epoch: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep `means` (K, d), `weight` (K, d), `features` (S, d) and `labels` (S,) of an epoch."""
        write_tensors(self._epoch_file("snapshots", epoch, "safetensors"), tensors)

    def snapshot_epochs(self) -> list[int]:
        """The measured epochs that have a snapshot, in order."""
        measured = {row["epoch"] for row in self.rows()}
        return [epoch for epoch in self._epochs("snapshots", "safetensors") if epoch in measured]

    def snapshot(self, epoch: int) -> dict[str, Tensor]:
        """What `write_snapshot` kept."""
        return read_tensors(self._epoch_file("snapshots", epoch, "safetensors"))[0]

    def write_checkpoint(self, checkpoint: Checkpoint, *, keep: tuple[int, ...] = ()) -> None:
        """Write a checkpoint, then delete the others but those of the epochs to keep.

        The JSON file goes last: a checkpoint counts only when it is there.
        """
        epoch = checkpoint.epoch
        write_tensors(self._epoch_file("checkpoints", epoch, "safetensors"), checkpoint.tensors)
        write_json(self._epoch_file("checkpoints", epoch, "json"), checkpoint.state)
        for number in self._epochs("checkpoints", "safetensors"):
            if number != epoch and number not in keep:
                self._epoch_file("checkpoints", number, "json").unlink(missing_ok=True)
                self._epoch_file("checkpoints", number, "safetensors").unlink()

    def checkpoint_epochs(self) -> list[int]:
        """The epochs that have a complete checkpoint, in order."""
        whole = set(self._epochs("checkpoints", "safetensors"))
        return [epoch for epoch in self._epochs("checkpoints", "json") if epoch in whole]

    def checkpoint(self, epoch: int) -> Checkpoint:
        """Read the checkpoint of an epoch."""
        tensors, _ = read_tensors(self._epoch_file("checkpoints", epoch, "safetensors"))
        state = read_json(self._epoch_file("checkpoints", epoch, "json"))
        return Checkpoint(epoch, tensors, state)

    def remove_leftovers(self) -> None:
        """Delete temporary files that a killed process left behind."""
        for folder in (self.path, self.path / "snapshots", self.path / "checkpoints"):
            for stray in leftovers(folder):
                stray.unlink(missing_ok=True)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write how the run ended."""
        write_json(self.path / "summary.json", dict(summary))

    def summary(self) -> dict[str, Any] | None:
        """How the run ended, or None if it has not."""
        file = self.path / "summary.json"
        if not file.is_file():
            return None
        summary = read_json(file)
        if not isinstance(summary, dict) or not isinstance(summary.get("status"), str):
            raise ValueError(f"{file} is not the summary of a run")
        return summary

    def _write_rows(self, rows: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        write_atomically(self.path / "measurements.jsonl", lines)

    def _epoch_file(self, folder: str, epoch: int, suffix: str) -> Path:
        return self.path / folder / f"epoch-{epoch:06d}.{suffix}"

    def _epochs(self, folder: str, suffix: str) -> list[int]:
        names = [entry.name for entry in (self.path / folder).glob("*")]
        matches = [match for name in names if (match := _EPOCH_FILE.fullmatch(name))]
        return sorted(int(match[1]) for match in matches if match[2] == suffix)


def find_runs(path: str | Path, *, missing_ok: bool = False) -> list[Run]:
    """The run that a folder is, or the runs that lie in it, by name.

    Raises:
        ValueError: if there is none, unless `missing_ok`.
    """
    path = Path(path)
    if Run.at(path):
        return [Run.open(path)]
    folders = sorted(path.iterdir()) if path.is_dir() else []
    runs = [Run.open(folder) for folder in folders if Run.at(folder)]
    if not runs and not missing_ok:
        if path.is_file():
            raise ValueError(f"{path} must be a folder, got a file; name the folder of a run")
        what = "holds no run" if path.is_dir() else "does not exist"
        raise ValueError(f"{path} {what}; `neuralcollapse train --out {path}` makes one")
    return runs
