"""Collapse by class and group, of training against test samples, and of wrong labels."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cases.worlds import WORLDS, World, simplex_vertices, world
from cli.command import run
from neuralcollapse import (
    ClassStatistics,
    cdnv,
    class_collapse,
    class_groups,
    compare_splits,
    nc1_trace_ratio,
    wrong_label_collapse,
)
from neuralcollapse import splits as splits_module


def by_name(name: str) -> World:
    return next(w for w in WORLDS if w.name == name)


WORLD_NAMES = ["noisy", "long tail", "classes 2 and 5 unseen", "some singletons"]


@pytest.mark.parametrize("block", [1, 3, 1024])
@pytest.mark.parametrize("name", WORLD_NAMES)
def test_columns_are_those_of_the_loops(
    name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits_module, "_BLOCK", block)
    w = by_name(name)
    found = class_collapse(w.statistics())
    features, labels = w.features.numpy(), w.labels.numpy()
    seen = sorted({*labels.tolist()})
    means = {k: features[labels == k].mean(0) for k in seen}
    variances = {k: ((features[labels == k] - means[k]) ** 2).sum(1).mean() for k in seen}
    centre = np.mean([*means.values()], axis=0)
    size = np.mean([np.sum((mean - centre) ** 2) for mean in means.values()])
    for k in range(w.num_classes):
        if k not in seen:
            assert all(math.isnan(float(column[k])) for column in found.rows().values())
            continue
        others = [j for j in seen if j != k]
        distances = {j: np.sum((means[k] - means[j]) ** 2) for j in others}
        pairs = [(variances[k] + variances[j]) / (2 * distances[j]) for j in others]
        assert float(found.cdnv[k]) == pytest.approx(np.mean(pairs), rel=1e-9)
        assert float(found.spread[k]) == pytest.approx(variances[k] / size, rel=1e-9)
        nearest = math.sqrt(min(distances.values()) / size)
        assert float(found.nearest[k]) == pytest.approx(nearest, rel=1e-9)
        length = math.sqrt(np.sum((means[k] - centre) ** 2) / size)
        assert float(found.length[k]) == pytest.approx(length, rel=1e-9)


@pytest.mark.parametrize("name", WORLD_NAMES)
def test_means_over_classes_are_the_metrics_of_the_table(name: str) -> None:
    statistics = by_name(name).statistics()
    found = class_collapse(statistics)
    assert float(found.cdnv.nanmean()) == pytest.approx(float(cdnv(statistics)), rel=1e-9)
    ratio = float(nc1_trace_ratio(statistics, weighting="balanced"))
    assert float(found.spread.nanmean()) == pytest.approx(ratio, rel=1e-9)


def test_one_class_has_no_neighbour() -> None:
    found = class_collapse(
        ClassStatistics.from_features(torch.ones(3, 2), torch.zeros(3).long(), 2)
    )
    assert all(bool(column.isnan().all()) for column in found.rows().values())


def test_groups_divide_the_classes() -> None:
    counts = torch.tensor([0, 1, 20, 21, 100, 101])
    groups = class_groups(counts)
    assert {name: mask.nonzero().flatten().tolist() for name, mask in groups.items()} == {
        "head": [5], "medium": [3, 4], "tail": [1, 2]
    }  # fmt: skip
    for many, few in ((5, 6), (5, 0)):
        with pytest.raises(ValueError, match=f"few={few} and many={many}"):
            class_groups(counts, many, few)


# --- train against test ---------------------------------------------------------------------------


def long_tail(shift_of_the_tail: float) -> tuple[World, World]:
    """Training and test samples; the test means of the last two classes have moved."""
    means = 3 * simplex_vertices(6, 9, 1)
    train = world("train", means, [200, 200, 50, 50, 10, 10], 0.1, seed=2)
    moved = means.copy()
    moved[4:, 0] += shift_of_the_tail
    return train, world("test", moved, 40, 0.3, seed=3)


def test_transfer_is_spread_and_shift() -> None:
    train, test = long_tail(1.0)
    found = compare_splits(train.statistics(), test.statistics())
    size = float(train.statistics().centred_means().square().sum(1).mean())
    for k in range(6):
        own = test.features[test.labels == k]
        mean = train.features[train.labels == k].mean(0)
        expected = float((own - mean).square().sum(1).mean()) / size
        assert float(found.transfer[k]) == pytest.approx(expected, rel=1e-9)
    groups = found.by_group()
    # The tail's means moved by 1 beside means of length 3: a share of 1/9.
    assert groups["tail"]["shift"] == pytest.approx(1 / 9, rel=0.25)
    assert groups["head"]["shift"] < 0.01
    assert groups["head"]["test_spread"] > 5 * groups["head"]["train_spread"]
    assert groups["all"]["train_cdnv"] == pytest.approx(float(cdnv(train.statistics())))
    text = str(found)
    assert "tail" in text
    assert "transfer" in text


def test_a_class_that_is_only_in_one_split_is_undefined() -> None:
    train, test = long_tail(0.0)
    only = test.labels != 3
    statistics = ClassStatistics.from_features(test.features[only], test.labels[only], 6)
    found = compare_splits(train.statistics(), statistics)
    assert math.isnan(float(found.transfer[3]))
    assert math.isnan(float(found.test.cdnv[3]))
    assert math.isfinite(found.by_group()["medium"]["transfer"])
    json.dumps(found.to_dict(), allow_nan=False)
    narrow = ClassStatistics.from_features(torch.eye(3), torch.arange(3), 3)
    with pytest.raises(ValueError, match=r"equal \(num_classes, dim\), got \(6, 9\) and \(3, 3\)"):
        compare_splits(train.statistics(), narrow)


# --- wrong labels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "memorised"), [(0.0, 0.0), (0.4, 0.0), (0.6, 1.0), (1.0, 1.0)]
)
def test_wrong_labels_lie_between_two_means(position: float, memorised: float) -> None:
    means = torch.from_numpy(5 * simplex_vertices(4, 6, 3))
    true = torch.arange(80) % 4
    labels = true.clone()
    labels[:16] = (true[:16] + 1) % 4
    noise = 0.05 * torch.randn(80, 6, generator=torch.Generator().manual_seed(0)).double()
    features = means[true] + noise
    features[:16] += position * (means[labels[:16]] - means[true[:16]])
    found = wrong_label_collapse(features, labels, true)
    assert (found.samples, found.share) == (16, 0.2)
    assert found.position == pytest.approx(position, abs=0.02)
    assert found.memorised == memorised
    if position == 1:
        # 16 samples of 6 coordinates: their mean square is known to sqrt(2 / 96) = 14 %.
        assert found.spread_ratio == pytest.approx(1, rel=0.5)
    else:
        assert found.spread_ratio > 100


def test_without_wrong_labels_there_is_nothing_to_say() -> None:
    labels = torch.arange(10) % 2
    found = wrong_label_collapse(torch.randn(10, 3), labels, labels)
    assert found.samples == 0
    assert math.isnan(found.position)
    assert found.to_dict()["position"] is None


@pytest.mark.parametrize(
    ("labels", "true", "told"),
    [
        (
            torch.zeros(3).long(),
            torch.zeros(2).long(),
            "true_labels and features must have",
        ),
        (torch.zeros(3).long(), -torch.ones(3).long(), "true_labels must lie in"),
        (-torch.ones(3).long(), torch.zeros(3).long(), "labels must lie in"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Any, true: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        wrong_label_collapse(torch.ones(3, 2), labels, true)


# --- the command ----------------------------------------------------------------------------------


def test_the_command_compares_files_and_looks_at_wrong_labels(tmp_path: Path) -> None:
    train, test = long_tail(1.0)
    true = train.labels.numpy().copy()
    true[:5] = 3
    files = tmp_path / "train.npz", tmp_path / "test.npz"
    np.savez(
        files[0], features=train.features.numpy(), labels=train.labels.numpy(), true_labels=true
    )
    np.savez(files[1], features=test.features.numpy(), labels=test.labels.numpy())
    outcome = run("measure", files[0], "--against", files[1], "--groups", "60,20", "--json")
    result = json.loads(outcome.assert_ok())
    comparison = compare_splits(train.statistics(), test.statistics(), many=60, few=20)
    assert result["against"]["groups"] == {"head": [0, 1], "medium": [2, 3], "tail": [4, 5]}
    expected = comparison.to_dict()["by_group"]
    for group, values in result["against"]["by_group"].items():
        assert values == pytest.approx(expected[group])
    assert result["wrong_labels"]["samples"] == 5
    text = run("measure", files[0], "--against", files[1]).assert_ok()
    assert "transfer" in text
    assert "wrong labels: samples 5, share" in text
    run("measure", files[0], "--against", files[1], "--groups", "many").assert_refused(
        "groups must be two whole numbers such as 100,20, got 'many'"
    )
    run("measure", files[0], "--groups", "20,5").assert_refused("--groups must come with --against")
    backwards = run("measure", files[0], "--against", files[1], "--groups", "5,20")
    backwards.assert_refused("the first not below the second, got '5,20'")
    run("measure", *files, "--against", files[1]).assert_refused("against must be another")
    np.savez(files[1], features=test.features[:, :2].numpy(), labels=test.labels.numpy())
    run("measure", files[0], "--against", files[1]).assert_refused("test.npz", "features must have")
