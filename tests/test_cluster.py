"""Files on a Ray cluster give what they give one by one, also where a worker is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from neuralcollapse.cli.main import app
from neuralcollapse.cluster import measure_shards_on_ray
from neuralcollapse.shards import ShardMeasurement, measure_shards

ray = pytest.importorskip("ray", exc_type=ImportError)
pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


def shards(folder: Path, count: int, rows: int = 60, dim: int = 6) -> list[Path]:
    """Of four classes; every shard is of another size, and the first lacks the last class."""
    generator = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(4, dim, generator=generator)
    paths = []
    for j in range(count):
        labels = torch.randint(4 if j else 3, (rows + j,), generator=generator)
        features = means[labels] + torch.randn(len(labels), dim, generator=generator)
        arrays = {"features": features, "labels": labels}
        if j == 1:
            arrays |= {"weight": means, "bias": torch.zeros(4)}
        paths.append(folder / f"{j:02}.safetensors")
        save_file(arrays, paths[-1])
    return paths


def assert_same(one: ShardMeasurement, other: ShardMeasurement) -> None:
    assert one.files == other.files
    assert list(one.skipped) == list(other.skipped)
    assert one.measurement.counts == other.measurement.counts
    assert one.measurement.accuracy == other.measurement.accuracy
    assert one.measurement.conventions == other.measurement.conventions
    for key, value in other.measurement.metrics.items():
        # Statistics are merged in another order; double precision.
        assert one.measurement[key] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), key
    assert list(one.intervals) == list(other.intervals)
    for key, interval in other.intervals.items():
        assert one.intervals[key].low == pytest.approx(interval.low, rel=1e-6, abs=1e-9), key


@pytest.mark.parametrize(
    "options",
    [{}, {"jackknife": True}, {"normalize": True, "global_mean": "sample"}, {"scatter": False}],
)
@pytest.mark.parametrize("count", [2, 11])
def test_a_cluster_gives_what_one_process_gives(
    tmp_path: Path, cluster: None, count: int, options: Any
) -> None:
    files = shards(tmp_path, count)
    assert_same(measure_shards_on_ray(files, **options), measure_shards(files, **options))


def test_a_damaged_shard_is_named_and_left_out_if_asked(tmp_path: Path, cluster: None) -> None:
    files = shards(tmp_path, 5)
    files[2].write_bytes(files[2].read_bytes()[:100])
    np.savez(tmp_path / "other.npz", features=np.ones((3, 5)), labels=np.zeros(3, dtype=np.int64))
    files.append(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"02\.safetensors is not a readable"):
        measure_shards_on_ray(files)
    found = measure_shards_on_ray(files, skip_bad=True)
    assert [path.name for path in found.skipped] == ["02.safetensors", "other.npz"]
    assert "6 columns" in found.skipped[files[-1]]
    assert_same(found, measure_shards(files, skip_bad=True))


def workers() -> list[int]:
    """Processes of Ray that are reading a file just now."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(b"ray::_read"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for workers in /proc")
def test_a_killed_worker_loses_nothing_and_counts_nothing_twice(
    tmp_path: Path, cluster: None
) -> None:
    files = shards(tmp_path, 24, rows=30_000, dim=128)
    expected = measure_shards(files)
    killed: list[int] = []
    done = threading.Event()

    def kill() -> None:
        while not done.is_set() and len(killed) < 2:
            for pid in set(workers()) - set(killed):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                time.sleep(0.3)
                break
            time.sleep(0.002)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        found = measure_shards_on_ray(files)
    finally:
        done.set()
        thread.join()
    assert killed, "no worker was caught at work"
    assert sum(found.measurement.counts) == sum(30_000 + j for j in range(24))
    assert_same(found, expected)


def test_the_command_takes_the_engine(
    tmp_path: Path, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    shards(tmp_path, 3)
    app(
        ["measure", f"{tmp_path}/*.safetensors", "--engine", "ray", "--json"], standalone_mode=False
    )
    result = json.loads(capsys.readouterr().out)
    assert result["num_samples"] == 60 + 61 + 62
    assert len(result["files"]) == 3


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_an_address_where_nobody_listens_is_refused_at_once(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as free:  # bound, and never listening
        free.bind(("127.0.0.1", 0))
        address = form.format(free.getsockname()[1])
        with pytest.raises(
            ConnectionError, match=rf"got '{address}' .*refused.*`ray start --head`"
        ):
            measure_shards_on_ray(shards(tmp_path, 2), address=address)
    with pytest.raises(ConnectionError, match=r"got 'ray://127\.0\.0\.1:port'"):
        measure_shards_on_ray(shards(tmp_path, 2), address="ray://127.0.0.1:port")


def test_a_cluster_that_lets_nobody_in_says_what_it_may_want(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(**_: Any) -> None:
        raise ConnectionError("ray client connection timeout")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuses)
    with pytest.raises(ConnectionError, match=r"timeout.*RAY_AUTH_MODE=token"):
        measure_shards_on_ray(shards(tmp_path, 2), address="auto")
