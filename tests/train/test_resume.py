"""A run that is killed at any moment and resumed ends with the bits of one that was not."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from neuralcollapse.record import Run
from neuralcollapse.train.data import Data
from neuralcollapse.train.loop import train
from train.processes import counted_changes, dropping_out, server, train_until
from train.runs import assert_same_run, blobs, started

# A network with convolutions, augmentation, a frame and a changing optimiser state; and one that
# draws from the global generator. Every epoch is saved in the first, only the best in the second.
CASES: dict[str, dict[str, Any]] = {
    "frame": {
        "backbone": "cnn",
        "width": 4,
        "head": "fixed",
        "augment": "crop-flip",
        "checkpoint_seconds": 0.0,
        "epochs": 2,
    },
    "dropout": {"epochs": 3, "checkpoint_seconds": 1e6, "feature_decay": 1e-4},
}
SHAPES = {"frame": (1, 8, 8), "dropout": (6,)}


def data_of(case: str) -> Data:
    return blobs((16, 16, 16), SHAPES[case], noise=1.5)


def reference(path: Path, case: str) -> tuple[Run, int]:
    """A run that is not disturbed, and how many changes it makes to its files."""
    last = 0

    def note(number: int) -> None:
        nonlocal last
        last = number

    data = data_of(case)
    run = started(path, data, **CASES[case])
    with counted_changes(note):
        finish(run, case)
    return run, last


def finish(run: Run, case: str) -> None:
    """Train to the end in this process."""
    data = data_of(case)
    if case == "dropout":
        with dropping_out():
            assert train(run, data, progress=False) == "finished"
    else:
        assert train(run, data, progress=False) == "finished"


def readable(run: Run) -> None:
    """Whatever is there can be read."""
    run = Run.open(run.path)
    assert [row["epoch"] for row in run.rows()] == sorted({row["epoch"] for row in run.rows()})
    for epoch in run.snapshot_epochs():
        run.snapshot(epoch)
    for epoch in run.checkpoint_epochs():
        assert run.checkpoint(epoch).state["epoch"] == epoch
    run.summary()


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("case", CASES)
def test_killed_at_every_change_of_a_file(tmp_path: Path, case: str) -> None:
    """Before and after each rename and removal: also between the files of one checkpoint.

    All of them with a checkpoint every epoch; every third where only the best is kept.
    """
    whole, changes = reference(tmp_path / "whole", case)
    assert changes > 20
    context = server()
    every = {"frame": 1, "dropout": 3}[case]
    for change in range(0, changes + 1, every):
        run = started(tmp_path / str(change), data_of(case), **CASES[case])
        child = context.Process(
            target=train_until, args=(run.path, data_of(case), change, case == "dropout")
        )
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        readable(run)
        finish(run, case)
        assert_same_run(run, whole)


def measured(run: Run) -> int:
    """How many epochs are in the record."""
    return len(run.rows())


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("case", CASES)
def test_killed_again_and_again(tmp_path: Path, case: str) -> None:
    """At random moments, so also within an epoch and while measuring."""
    options = {**CASES[case], "epochs": 16}
    data = data_of(case)
    whole = started(tmp_path / "whole", data, **options)
    finish(whole, case)
    run = started(tmp_path / "run", data, **options)
    context, moments = server(), random.Random(0)
    for killed in range(5):
        child = context.Process(target=train_until, args=(run.path, data, None, case == "dropout"))
        before = measured(run)
        child.start()
        # As soon as something new is measured, at any point of what follows.
        while child.is_alive() and measured(run) in (before, 0):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.03))
        child.kill()
        child.join()
        readable(run)
        assert child.exitcode == -signal.SIGKILL or killed > 1
    finish(run, case)
    assert_same_run(run, whole)


def test_what_a_killed_run_leaves_half_written_is_not_used(tmp_path: Path) -> None:
    """Tensors of a later epoch without their state, and a row beyond the last checkpoint."""
    case = "dropout"
    whole, _ = reference(tmp_path / "whole", case)
    run, _ = reference(tmp_path / "run", case)
    last = run.path / "checkpoints" / "epoch-000003"
    last.with_suffix(".json").unlink()
    last.with_suffix(".safetensors").write_bytes(b"half of it")
    (run.path / "checkpoints" / ".epoch-000003.json.tmp").write_text("{")
    (run.path / "summary.json").unlink()
    assert max(run.checkpoint_epochs()) < 3
    finish(run, case)
    assert_same_run(run, whole)


@pytest.mark.parametrize(
    "name, content",
    [
        ("json", "[]"),
        ("json", "{"),
        ("json", '{"epoch": "3"}'),
        ("json", '{"epoch": 99}'),
        ("json", '{"epoch": 3, "colour": "red"}'),
        ("json", "[" * 100_000),
        ("safetensors", ""),
        ("safetensors", "x" * 1000),
    ],
    ids=["list", "cut", "text", "other epoch", "unknown", "deep", "empty", "foreign"],
)
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, name: str, content: str) -> None:
    run, _ = reference(tmp_path / "run", "dropout")
    (run.path / "summary.json").unlink()
    (run.path / "checkpoints" / f"epoch-000003.{name}").write_text(content)
    with pytest.raises(ValueError, match=r"epoch-000003|epoch 3") as caught:
        finish(run, "dropout")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["generator.cpu", "objective.network.head.weight"])
def test_a_checkpoint_without_a_tensor_is_refused(tmp_path: Path, missing: str) -> None:
    from neuralcollapse.files import read_tensors, write_tensors

    run, _ = reference(tmp_path / "run", "frame")
    (run.path / "summary.json").unlink()
    file = run.path / "checkpoints" / "epoch-000002.safetensors"
    tensors, _ = read_tensors(file)
    del tensors[missing]
    write_tensors(file, tensors)
    with pytest.raises(ValueError, match="epoch 2") as caught:
        finish(run, "frame")
    assert missing.removeprefix("objective.") in str(caught.value)
    assert "\n" not in str(caught.value)
