"""The benchmark for GPUs runs small on a processor, and says so where there is no GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PATH), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


@pytest.mark.slow
def test_it_runs_on_a_processor() -> None:
    small = ["--batch=2", "--size=32", "--classes=10", "--repetitions=1"]
    done = run("--device=cpu", *small)
    assert done.returncode == 0, done.stderr
    assert "features (2, 2048)" in done.stdout
    assert done.stdout.count("of the forward pass") == 2


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = run()
    assert done.returncode == 1
    assert done.stderr.strip().startswith("no GPU here")
    assert "Traceback" not in done.stderr
