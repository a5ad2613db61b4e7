"""The alarm: what it names, when, where it is told, and when it is silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from neuralcollapse.report.history import read_histories
from neuralcollapse.report.verdict import verdict
from neuralcollapse.train.alarm import (
    FADED_LENGTH,
    MERGING_COSINE,
    MinorityAlarm,
    alarm_history,
    rare_classes,
)
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.data import load_data
from neuralcollapse.train.loop import create_run, train
from neuralcollapse.train.network import load_network
from train.runs import blobs, everything, method, started, trained

COUNTS = [90, 80, 70, 60, 9, 8]
NAMES = [f"n{k}" for k in range(6)]
# Without decay nothing is predicted, and only what is measured is told.
BARE = TrainConfig(loss="cross-entropy", head="linear", weight_decay=0.0).to_values()


def means_with(cosine: float, one: int = 4, other: int = 5) -> Tensor:
    """(6, 6), centred class means at right angles but for two of this cosine."""
    basis = torch.eye(8, dtype=torch.float64)[:6].clone()
    basis[other] = cosine * basis[one] + (1 - cosine**2) ** 0.5 * basis[other]
    # Shifted by what is orthogonal to all, with one more class opposite: centred exactly.
    return torch.cat([basis, -basis.sum(0, keepdim=True)])


def measured(cosine: float, counts: list[int] | None = None, epoch: int = 3) -> list[Any]:
    counts = [200, *COUNTS[1:], 100] if counts is None else counts
    alarm = MinorityAlarm(BARE, counts, [f"n{k}" for k in range(7)])
    return alarm(epoch, means_with(cosine) + 5)


def test_a_pair_is_named_above_the_threshold_and_not_below():
    assert measured(MERGING_COSINE - 0.01) == []
    (alarm,) = measured(MERGING_COSINE + 0.01)
    assert (alarm.kind, alarm.classes) == ("measured", (4, 5))
    assert alarm.cosine == pytest.approx(0.91, abs=1e-6)
    assert alarm.text == "class n4 and class n5 are merging: cosine 0.910 between their means"


def faded(shares: list[float], head: str = "linear", **options: Any) -> list[Any]:
    """The alarms for rows of these lengths; counts 4096, 256, 256, 256, 16, 1."""
    counts = [4096, 256, 256, 256, 16, 1]
    alarm = MinorityAlarm({**BARE, "head": head}, counts, NAMES)
    rows = torch.diag(torch.tensor(shares))
    return alarm(options.get("epoch", 3), torch.eye(6), rows)


def test_a_rare_class_fades_where_its_row_is_shorter_than_its_count_gives():
    # (16 / 256)^(1/4) = 0.5, and (1 / 256)^(1/4) = 0.25.
    edge = [2.0, 1.0, 1.0, 1.0, 0.5 * FADED_LENGTH, 0.25 * FADED_LENGTH]
    assert faded([*edge[:4], 1.001 * edge[4], 1.001 * edge[5]]) == []
    (alarm,) = faded([*edge[:4], 0.999 * edge[4], 1.001 * edge[5]])
    assert (alarm.kind, alarm.classes, alarm.cosine) == ("fading", (4,), None)
    assert alarm.text == (
        "class n4 is fading: its row of the classifier is 0.40 of the median row, where its "
        "16 training samples would give 0.50"
    )
    assert [alarm.classes for alarm in faded([1.0] * 4 + [0.1, 0.1])] == [(5,), (4,)]


def test_only_rare_classes_of_linear_heads_fade_and_not_before_training():
    assert faded([1.0, 1e-3, 1.0, 1.0, 1.0, 1.0]) == []
    assert faded([1.0] * 5 + [0.0], epoch=0) == []
    assert faded([1.0] * 5 + [0.0], head="cosine") == []
    assert len(faded([1.0] * 5 + [0.0], head="deep-linear:3")) == 1
    assert faded([0.0] * 6) == []


def test_frequent_classes_are_not_looked_at():
    counts = [9, 8, 7, 60, 90, 80, 70]
    assert measured(0.99, counts) == []


def test_balanced_counts_are_silent_whatever_the_means():
    assert measured(1.0, [20] * 7) == []
    hot = {**BARE, "weight_decay": 5.0, "loss": "squared-error"}
    assert MinorityAlarm(hot, [20] * 7, NAMES)(0, means_with(1.0)) == []


def test_an_untrained_network_raises_nothing_measured():
    assert measured(1.0, epoch=0) == []


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([5, 5, 5], []),
        ([5, 4], [1]),
        ([9, 8, 7, 6, 5, 4], [5, 4]),
        ([9, 9, 9, 9, 9, 2], [5]),
        ([0, 9, 3, 2], [3, 2]),
    ],
)
def test_rare_are_the_lower_third_below_the_most_frequent(counts, expected):
    assert rare_classes(counts) == expected


def test_classes_that_the_theory_lets_die_are_named_before_training():
    config = TrainConfig(loss="squared-error", head="linear", bias=False, weight_decay=0.2)
    alarm = MinorityAlarm(config.to_values(), COUNTS, NAMES)
    # n* = N^2 decay (decay / N) = 317 * 0.04 = 12.7.
    found = alarm(0, means_with(0.0))
    assert {a.classes for a in found} == {(4,), (5,)}
    assert all(a.kind == "predicted" for a in found)
    assert found[0].text == "class n4 is predicted to collapse, with 9 training samples"


def test_classes_that_merge_by_theory_are_named_with_their_partners():
    config = TrainConfig(loss="cross-entropy", head="linear", bias=False, weight_decay=0.3)
    found = MinorityAlarm(config.to_values(), [90, 90, 4, 4], NAMES[:4])(0, torch.zeros(4, 3))
    assert "class n2 is predicted to merge with n3, with 4 training samples" in [
        a.text for a in found
    ]


def test_an_alarm_is_new_once_also_after_a_resume():
    counts = [200, *COUNTS[1:], 100]
    first = MinorityAlarm(BARE, counts, [f"n{k}" for k in range(7)])
    alarms = first(3, means_with(0.95))
    assert first.new(alarms) == alarms
    assert first.new(alarms) == []
    rows = [{"epoch": 3, "alarms": [alarm.to_dict() for alarm in alarms]}]
    resumed = MinorityAlarm(BARE, counts, [f"n{k}" for k in range(7)], rows)
    assert resumed.new(resumed(4, means_with(0.96))) == []


def test_the_history_has_each_alarm_once_with_its_epochs():
    alarm = {"kind": "measured", "classes": [1, 2], "text": "t", "cosine": 0.9}
    rows = [{"epoch": 0}, {"epoch": 1, "alarms": [alarm]}, {"epoch": 2, "alarms": []},
            {"epoch": 3, "alarms": [{**alarm, "cosine": 0.99}]}]  # fmt: skip
    assert alarm_history(rows) == [{**alarm, "first_epoch": 1, "last_epoch": 3}]


def test_a_run_tells_its_alarms_everywhere(tmp_path: Path, capsys):
    data = blobs((40, 40, 4, 4))
    options = {"bias": False, "weight_decay": 0.4, "epochs": 3}
    run = started(tmp_path / "run", data, **options)
    train(run, data, progress=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if "alarm: " in line]
    assert len(lines) == len(set(lines)) >= 2
    assert "class blob 2 is predicted to merge with blob 3" in lines[0]
    rows, summary = run.rows(), run.summary()
    assert summary is not None
    assert [alarm["classes"] for alarm in rows[0]["alarms"]][:2] == [[2], [3]]
    assert summary["alarms"] == alarm_history(rows)
    (history,) = read_histories([run])
    assert verdict(history)[0].text.startswith("Minority collapse: class blob 2 is predicted")


def test_a_balanced_run_raises_no_alarm(tmp_path: Path, capsys):
    run = trained(tmp_path / "run", blobs(), weight_decay=0.4)
    assert all(row["alarms"] == [] for row in run.rows())
    summary = run.summary()
    assert summary is not None
    assert summary["alarms"] == []
    assert "alarm" not in capsys.readouterr().err


def test_a_run_without_a_prediction_still_measures(tmp_path: Path):
    run = trained(tmp_path / "run", blobs((40, 40, 4, 4)), loss="hug", head="cosine")
    assert all(alarm["kind"] == "measured" for row in run.rows() for alarm in row["alarms"])


@pytest.mark.slow
def test_the_alarm_comes_before_the_fall_of_accuracy(tmp_path: Path):
    options = {"data": "digits", "imbalance": "exponential:50", "weight_decay": 0.2, "lr": 0.02}
    config = method(**options, bias=False, epochs=30, batch_size=64, width=None, dim=None)
    data = load_data(config)
    run = create_run(tmp_path / "run", config, data)
    train(run, data, progress=False)
    rows = run.rows()
    # The three rarest classes, of 6, 4 and 2 samples, are named before the first step.
    assert {k for alarm in rows[0]["alarms"] for k in alarm["classes"]} == {7, 8, 9}
    # Accuracy in training says nothing at epoch 7, and at the end they are lost. (Accuracy in
    # evaluation mode falls for a while for another reason: the batch normalisations lag behind.)
    assert rows[7]["train_accuracy_running"] > 0.99
    # What is measured says it at that time too, before a point of accuracy is lost.
    fading = {
        k: row["epoch"]
        for row in reversed(rows)
        for alarm in row["alarms"]
        if alarm["kind"] == "fading"
        for k in alarm["classes"]
    }
    assert set(fading) == {7, 8, 9}
    running = [row["train_accuracy_running"] for row in rows[1:]]
    fall = next(e for e, a in enumerate(running, 1) if 0.9 < max(running[:e]) > a + 0.01)
    assert min(fading.values()) < fall
    inputs, labels = everything(data.train)
    with torch.no_grad():
        decided = load_network(run, 30)(inputs).argmax(1)
    right = [float((decided == labels)[labels == k].float().mean()) for k in range(10)]
    assert right[7:] == [0, 0, 0]
    assert min(right[:5]) > 0.9
