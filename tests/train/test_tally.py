"""Mistakes counted while a run is measured: what they are, and that they cost no second pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuralcollapse import Hierarchy, MistakeAccumulator
from neuralcollapse.hierarchy.distances import DISTANCE_KINDS
from neuralcollapse.losses import FrameCosine
from neuralcollapse.train.config import DISTANCES, TrainConfig
from neuralcollapse.train.loop import train
from neuralcollapse.train.network import Network, load_network, make_loss
from neuralcollapse.train.tally import MistakeTally
from processes import run_processes
from train.processes import count_shares
from train.runs import blobs, everything, method, plain_rows, started, trained

TREE = "((blob 0,blob 1)near,blob 2,(blob 3)only);"
FRAME = {"loss": "frame-cosine:mixing=0.4", "frame": "hierarchy:decay_rate=2"}


@pytest.fixture
def tree(tmp_path: Path) -> str:
    path = tmp_path / "tree.nwk"
    path.write_text(TREE)
    return str(path)


def told(tally: MistakeTally) -> list[list[int]]:
    return tally.confusion().tolist()


def test_a_record_holds_the_mistakes_of_the_network_that_it_measured(
    tmp_path: Path, tree: str
) -> None:
    data = blobs(noise=2.0)
    run = trained(tmp_path / "run", data, hierarchy=tree, distances="root_depth", epochs=2, **FRAME)
    network = load_network(run)
    hierarchy = Hierarchy.from_file(tree)
    assert hierarchy.to_dict() == run.info["hierarchy"]
    row = run.rows()[-1]
    for part in ("validation", "test"):
        inputs, labels = everything(getattr(data, part))
        with torch.no_grad():
            logits = network(inputs)
        expected = MistakeAccumulator(hierarchy, kind="root_depth")
        expected.update(logits, labels, logits.double().softmax(1))
        found = row["mistakes"][part]
        assert found["conventions"]["distance"] == "root_depth"
        assert found["severities"] == expected.result().to_dict()["severities"]
        assert found["values"] == pytest.approx(expected.result().to_dict()["values"], rel=1e-6)
        assert found["values"]["accuracy"] == row[part]["accuracy"]
    confusion = torch.zeros(4, 4, dtype=torch.int64)
    for true, decided in zip(labels.tolist(), logits.argmax(1).tolist(), strict=True):
        confusion[true, decided] += 1
    kept = run.snapshot(2)["test_confusion"]
    assert all(count > 0 for count in kept[:, 2].tolist())
    dense = torch.zeros(4, 4, dtype=torch.int64).index_put((kept[:, 0], kept[:, 1]), kept[:, 2])
    assert torch.equal(dense, confusion)


def test_the_frame_is_compared_with_raw_means(tmp_path: Path, tree: str) -> None:
    """By the definition, from what the snapshot keeps in single precision."""
    run = trained(tmp_path / "run", blobs(), hierarchy=tree, epochs=1, **FRAME)
    snapshot = run.snapshot(1)
    means, frame = (snapshot[name].double().numpy() for name in ("means", "weight"))
    gaps = []
    for k in range(4):
        for j in range(k + 1, 4):
            cosines = [
                x[k] @ x[j] / np.linalg.norm(x[k]) / np.linalg.norm(x[j]) for x in (means, frame)
            ]
            gaps.append(cosines[0] - cosines[1])
    found = run.rows()[-1]["frame_fit"]
    assert found["frame_deviation"] == pytest.approx(np.mean(np.abs(gaps)), abs=1e-6)
    assert found["frame_spread"] == pytest.approx(np.std(gaps), abs=1e-6)
    assert abs(np.mean(gaps)) > 0.01  # early on the two are apart


def test_counting_takes_no_pass_of_its_own_and_changes_nothing(
    tmp_path: Path, tree: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    original = Network.features

    def counted(self: Network, inputs: Tensor) -> Tensor:
        calls.append(len(inputs))
        return original(self, inputs)

    monkeypatch.setattr(Network, "features", counted)
    rows, passes = [], []
    for name, hierarchy in (("with", tree), ("without", None)):
        calls.clear()
        run = trained(tmp_path / name, blobs(), hierarchy=hierarchy, epochs=2)
        passes.append(list(calls))
        rows.append(plain_rows(run))
        assert ("test_confusion" in run.snapshot(2)) == (hierarchy is not None)
        assert ("hierarchy" in run.info) == (hierarchy is not None)
    assert passes[0] == passes[1]
    assert all(row.pop("mistakes") for row in rows[0])
    assert rows[0] == rows[1]


def test_a_second_look_at_the_batches_is_not_counted() -> None:
    network = nn.Linear(3, 4)
    tally = MistakeTally(Hierarchy.from_newick(TREE), "lca_height")
    inputs, labels = (
        torch.randn(10, 3, generator=torch.Generator().manual_seed(0)),
        torch.arange(10) % 4,
    )
    watched = tally.watching(network, [(inputs[:7], labels[:7]), (inputs[7:], labels[7:])])
    for _ in range(2):
        for some, _ in watched:
            network(some)
    network(inputs)  # not of the batches
    assert tally.result().num_samples == 10
    assert sum(row[2] for row in told(tally)) == 10


@pytest.mark.distributed
def test_two_processes_count_what_one_does(tmp_path: Path) -> None:
    """Shares of unequal length, one of them empty."""
    (tmp_path / "tree.nwk").write_text(TREE)
    run_processes(count_shares, tmp_path)
    one = count_shares(0, 1, str(tmp_path))
    for rank in range(2):
        for alone, shared in zip(one, torch.load(tmp_path / f"counted-{rank}.pt"), strict=True):
            assert shared == alone


def test_distances_are_those_of_a_hierarchy() -> None:
    assert DISTANCES == DISTANCE_KINDS
    with pytest.raises(ValueError, match="distances must be one of lca_height, root_depth, path"):
        TrainConfig(distances="steps")


@pytest.mark.parametrize(
    "schedule, expected",
    [
        ("", [0.4] * 8),
        (",schedule=linear-down", [0.4 * (1 - step / 8) for step in range(8)]),
        (",schedule=linear-up", [0.4 * step / 8 for step in range(8)]),
    ],
)
def test_the_mixing_follows_its_schedule_step_by_step(
    schedule: str,
    expected: list[float],
    tmp_path: Path,
    tree: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two epochs of four steps."""
    seen: list[float] = []
    original = FrameCosine.terms

    def watched(self: FrameCosine, *operands: Any) -> dict[str, Tensor]:
        seen.append(self.mixing)
        return original(self, *operands)

    run = started(
        tmp_path / "run",
        data := blobs((16, 16, 16, 16)),
        hierarchy=tree,
        epochs=2,
        loss=f"frame-cosine:mixing=0.4{schedule}",
    )
    monkeypatch.setattr(FrameCosine, "terms", watched)
    train(run, data, progress=False)
    assert seen == pytest.approx(expected)


def test_an_unknown_schedule_is_refused(tree: str) -> None:
    config = method(hierarchy=tree, loss="frame-cosine:schedule=cosine")
    with pytest.raises(
        ValueError, match="schedule must be one of constant, linear-down, linear-up"
    ):
        make_loss(config, blobs())
