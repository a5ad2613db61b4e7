"""What a run shows while it trains: a bar on a terminal, a line per measurement elsewhere."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from neuralcollapse.measurement import Measurement
from neuralcollapse.train.state import State

_MOST_LINES = 8


class TrainingProgress(AbstractContextManager["TrainingProgress"]):
    """Epochs, loss, accuracy and NC1 of a run, on standard error.

    Args:
        label: what is trained.
        epochs: how many epochs there are.
        show: off for every process but one.
    """

    def __init__(self, label: str, epochs: int, show: bool):
        self._label, self._epochs, self._show = label, epochs, show
        self._nc1: float | None = None
        self._alarms = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "TrainingProgress":
        if self._show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=self._epochs, state="")
        return self

    def epoch(self, state: State) -> None:
        """An epoch has ended."""
        if self._bar is not None:
            text = self._text(state.loss, state.accuracy)
            self._bar.update(self._task, completed=state.epoch, state=text)

    def measured(self, state: State, train: Measurement, test: Measurement) -> None:
        """An epoch has been measured."""
        self._nc1 = train["nc1"]
        if self._show and self._bar is None:
            text = self._text(state.loss, train.accuracy)
            line = f"{self._label}: epoch {state.epoch}/{self._epochs}  {text}"
            # In one write: Ctrl-C must not come between a line and its end.
            sys.stderr.write(f"{line}  test accuracy {test.accuracy:.4f}\n")
            sys.stderr.flush()

    def alarms(self, new: Sequence[str], number: int) -> None:
        """Alarms hold, some of them new: a line for each of the first, and their number.

        Args:
            new: what they say.
            number: how many hold, known ones included.
        """
        self._alarms = number
        if not self._show:
            return
        lines = [f"{self._label}: alarm: {text}" for text in new[:_MOST_LINES]]
        if len(new) > _MOST_LINES:
            lines.append(f"{self._label}: {len(new) - _MOST_LINES} alarms more")
        for line in lines:
            if self._bar is None:
                print(line, file=sys.stderr, flush=True)
            else:
                self._bar.console.print(line, markup=False, highlight=False)

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _text(self, loss: float | None, accuracy: float | None) -> str:
        parts = [] if loss is None else [f"loss {loss:.2e}"]
        parts += [] if accuracy is None else [f"accuracy {accuracy:.4f}"]
        parts += [] if self._nc1 is None else [f"NC1 {self._nc1:.2e}"]
        parts += [f"alarms {self._alarms}"] if self._alarms else []
        return "  ".join(parts)
