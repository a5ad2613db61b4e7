"""The command line as a user meets it: what it prints where, and with which code it ends."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

from neuralcollapse.cli import main

# What the console script of the package does.
PROGRAM = [sys.executable, "-c", "from neuralcollapse.cli import main; main()"]


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    def assert_refused(self, *words: str) -> str:
        """One sentence on standard error with these words in it, nothing else, exit code 2."""
        assert self.code == 2, self
        assert self.out == "", self
        lines = self.err.splitlines()
        assert len(lines) == 1, self
        assert lines[0].startswith("neuralcollapse: "), self
        assert "Traceback" not in self.err
        for word in words:
            assert word in lines[0], (word, lines[0])
        return lines[0]

    def assert_ok(self) -> str:
        """It ended well; what it printed."""
        assert self.code == 0, self
        return self.out


def run(*arguments: Any) -> Outcome:
    """In this process. A traceback comes through as what was raised."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = "main did not end"
    with (
        mock.patch.object(sys, "argv", ["neuralcollapse", *map(str, arguments)]),
        mock.patch.dict(os.environ, {"COLUMNS": "160"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
    return Outcome(code, out.getvalue(), err.getvalue())


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}


def in_process(*arguments: Any, cwd: Any = None) -> Outcome:
    """In a process of its own."""
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        env=environment(),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def stopped(number: signal.Signals, when: Callable[[], bool], *arguments: Any) -> Outcome:
    """In a process of its own that gets a signal as soon as `when` says so."""
    process = subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not when():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.005)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return Outcome(process.returncode, out, err)
