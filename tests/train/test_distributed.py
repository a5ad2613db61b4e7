"""Two processes over gloo measure what one does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from neuralcollapse.record import find_runs
from neuralcollapse.train import loop
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.data import load_data
from neuralcollapse.train.loop import create_run, train
from train.processes import server
from train.runs import blobs, everything, leaves, started


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from neuralcollapse.cli import main; main()", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.distributed
def test_two_devices_measure_what_one_does(tmp_path: Path) -> None:
    """Images, convolutions, augmentation, a long tail, an odd number of samples to measure."""
    data = blobs((61, 40, 25, 11), (1, 8, 8), noise=2.0)
    file = tmp_path / "data.npz"
    pairs = [everything(part) for part in (data.train, data.validation, data.test)]
    images, labels = (torch.cat(tensors).numpy() for tensors in zip(*pairs, strict=True))
    np.savez(file, images=images, labels=labels)
    tree = tmp_path / "tree.nwk"
    tree.write_text("((0,1),(2,3));")
    options = {
        "data": "npz",
        "data-root": str(file),
        "hierarchy": str(tree),
        "loss": "cross-entropy",
        "logit-adjustment": 0.5,
        "feature-decay": 1e-5,
        "backbone": "cnn",
        "width": 4,
        "dim": 6,
        "epochs": 4,
        "batch-size": 16,
        "augment": "crop-flip",
        "measure-every": 1,
        "accelerator": "cpu",
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = command("train", "--devices", "2", "--out", str(tmp_path / "two"), *flags)
    assert done.returncode == 0, done.stderr
    (two,) = find_runs(tmp_path / "two")

    config = TrainConfig.from_values(options).methods()[0]
    loaded = load_data(config)
    assert len(loaded.train) % 2 or len(loaded.test) % 2
    one = create_run(tmp_path / "one", config, loaded)
    train(one, loaded, progress=False)

    rows = [run.rows() for run in (one, two)]
    assert [row["epoch"] for row in rows[0]] == [row["epoch"] for row in rows[1]] == [0, 1, 2, 3, 4]
    for alone, shared in zip(*rows, strict=True):
        for split in ("train", "test"):
            assert shared[split]["counts"] == alone[split]["counts"]
            assert shared[split]["accuracy"] == alone[split]["accuracy"]
            for key, value in alone[split]["metrics"].items():
                # The bound; float32 and sums in another order.
                assert shared[split]["metrics"][key] == pytest.approx(value, rel=1e-5, abs=1e-5)
        assert shared["validation"] == alone["validation"]
        for part in ("validation", "test"):
            counted, expected = (row["mistakes"][part] for row in (shared, alone))
            assert counted["severities"] == expected["severities"]
            # Of the values only the calibration error has confidences in it.
            assert counted["values"] == pytest.approx(expected["values"], rel=1e-5, abs=1e-5)
        assert list(leaves([shared["loss"], shared["terms"], shared["lr"]])) == pytest.approx(
            list(leaves([alone["loss"], alone["terms"], alone["lr"]])), rel=1e-5
        )
        assert shared["train_accuracy_running"] == alone["train_accuracy_running"]
    weights = [run.checkpoint(4).tensors for run in (one, two)]
    assert list(weights[0]) == list(weights[1])
    for name, tensor in weights[0].items():
        if tensor.is_floating_point():
            torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-5)


class Launching:
    """Fabric, as far as it is used to start processes."""

    def __init__(self, happens: Callable[[], None]):
        self._happens = happens

    def launch(self, work: Any) -> None:
        self._happens()


def raised(text: str) -> Callable[[], None]:
    def happens() -> None:
        raise ProcessRaisedException(text, 0, 1)

    return happens


TRACE = """
-- Process 1 terminated with the following error:
Traceback (most recent call last):
  File "loop.py", line 1, in _train
"""


def test_a_mistake_found_by_a_process_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = blobs()
    run = started(tmp_path / "run", data)
    fails = Launching(raised(f"{TRACE}ValueError: training diverged: use a lower --lr\n"))
    monkeypatch.setattr(loop, "_fabric", lambda config: fails)
    with pytest.raises(ValueError, match=r"^training diverged: use a lower --lr$"):
        train(run, data, progress=False)
    # What is not the user's mistake keeps its traceback.
    fails = Launching(raised(f"{TRACE}KeyError: 'weight'\n"))
    with pytest.raises(ProcessRaisedException, match="line 1, in _train"):
        train(run, data, progress=False)


@pytest.mark.slow
@pytest.mark.distributed
def test_an_interrupted_run_leaves_no_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal to the first process alone must not let the others train on behind its back."""
    child = server().Process(target=time.sleep, args=(60,))

    def interrupted() -> None:
        child.start()
        raise KeyboardInterrupt

    data = blobs()
    run = started(tmp_path / "run", data)
    monkeypatch.setattr(loop, "_fabric", lambda config: Launching(interrupted))
    assert train(run, data, progress=False) == "interrupted"
    assert not child.is_alive()
