"""Training that measures every layer, and with a frame that follows the class means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from neuralcollapse import Measurement, NearestFrameHead
from neuralcollapse.report.history import read_histories
from neuralcollapse.train.network import load_network
from train.runs import blobs, method, trained


def test_layers_are_recorded_if_asked(tmp_path: Path) -> None:
    run = trained(tmp_path / "deep", blobs(), epochs=2, measure_every=1, measure_layers=True)
    for row in run.rows():
        depth = Measurement.from_dict(row["train"]).depth
        assert depth is not None
        assert depth.layers[0].name.startswith("backbone.")
        assert depth.law is not None
        assert "depth" not in row["test"]
    plain = trained(tmp_path / "plain", blobs(), epochs=2, measure_every=1)
    assert all("depth" not in row["train"] for row in plain.rows())
    # Looking changes nothing.
    assert plain.rows()[-1]["train"]["metrics"] == run.rows()[-1]["train"]["metrics"]


def test_layers_without_measuring_are_those_after_the_last_epoch(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", blobs(), epochs=1, measure=False, measure_layers=True)
    (row,) = run.rows()
    assert Measurement.from_dict(row["train"]).depth is not None
    assert read_histories([run])[0].status.startswith("finished after 1 epoch,")


def test_a_nearest_frame_is_trained_and_kept(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", blobs(noise=0.3), head="nearest-frame", frame=None, epochs=8)
    head = load_network(run).head
    assert isinstance(head, NearestFrameHead)
    cosines = head.weight @ head.weight.T
    off = cosines[~torch.eye(4, dtype=torch.bool)]
    torch.testing.assert_close(off, torch.full_like(off, -1 / 3), rtol=0, atol=1e-5)
    last = Measurement.from_dict(run.rows()[-1]["train"])
    assert last["nc3_alignment"] > 0.9
    assert last.accuracy == 1


def test_a_frame_that_follows_is_not_assigned() -> None:
    with pytest.raises(
        ValueError, match="assign_after must go with a frame that stays, got head=nearest-fra"
    ):
        method(head="nearest-frame", assign_after=1)
