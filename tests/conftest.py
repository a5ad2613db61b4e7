"""One thread a process, fixed generators, repeatable hypothesis."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported, and for every process that a test starts: two threads beside any busy
# neighbour (a second test process is one) are several times slower than one.
os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

# Helpers that assert tell as much as tests do.
pytest.register_assert_rewrite("metric_values", "passes", "small_networks")

# The server of child processes starts once, at the first test that needs it, with this behind it;
# without, every child would import it again, for seconds.
multiprocessing.get_context("forkserver").set_forkserver_preload(
    ["torch", "lightning_fabric", "torch.distributed", "neuralcollapse.train.loop"]
)

# No deadline: the first call of a torch operator may take a second.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders that nobody has made yet, under one that is there."""
    folder = tmp_path_factory.mktemp("solved")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_cache(_caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody solved for on this machine must not decide a test."""
    monkeypatch.setenv("NEURALCOLLAPSE_CACHE", str(next(_caches)))


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """Two more GiB at most: hostile numbers must fail, not swallow the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (2 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def generator() -> torch.Generator:
    """A generator in the same state for every test."""
    return torch.Generator().manual_seed(0)
