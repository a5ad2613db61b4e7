"""Features in many files are measured as if they were in one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from array_files import write
from cli.command import run
from neuralcollapse import ClassStatistics, jackknife_intervals, measure_features
from neuralcollapse.shards import measure_shards, shard_files

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 4, 120)
LABELS[-1] = 3
MEANS = 3 * GENERATOR.standard_normal((4, 6))
FEATURES = MEANS[LABELS] + GENERATOR.standard_normal((120, 6))
WEIGHT, BIAS = MEANS.copy(), -(MEANS**2).sum(1) / 2


def shards(folder: Path, count: int = 5, suffix: str = "safetensors", **more: Any) -> list[Path]:
    """Uneven shards; the last class is in the last only."""
    order = np.argsort(LABELS == 3, kind="stable")
    cuts = np.cumsum(np.arange(1, count) * 120 // (count * (count + 1) // 2))
    rows = np.split(order, cuts)
    return [
        write(folder / f"{j:02}.{suffix}", features=FEATURES[r], labels=LABELS[r], **more)
        for j, r in enumerate(rows)
    ]


def assert_same(metrics: dict[str, float | None], wanted: dict[str, float]) -> None:
    assert list(metrics) == list(wanted)
    for key, value in metrics.items():
        # Merging rounds otherwise; double precision.
        assert value == pytest.approx(wanted[key], rel=1e-9, abs=1e-12), key


def as_json(*arguments: Any) -> dict[str, Any]:
    return json.loads(run("measure", *arguments, "--json").assert_ok())


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"global_mean": "sample"}])
def test_shards_are_measured_as_one_file(tmp_path: Path, suffix: str, options: Any) -> None:
    files = shards(tmp_path, suffix=suffix)
    shared = measure_shards(files, WEIGHT, BIAS, split="test", **options)
    wanted = measure_features(FEATURES, LABELS, WEIGHT, BIAS, split="test", **options)
    assert_same(dict(shared.measurement.metrics), wanted.metrics)
    assert shared.measurement.accuracy == wanted.accuracy
    assert shared.measurement.counts == wanted.counts
    assert shared.measurement.conventions == wanted.conventions
    assert shared.files == tuple(files)
    assert shared.intervals == {}


def test_the_command_takes_patterns_and_a_classifier(tmp_path: Path) -> None:
    shards(tmp_path)
    head = write(tmp_path / "head.npz", weight=WEIGHT, bias=BIAS)
    result = as_json(tmp_path / "*.safetensors", "--classifier", head)
    wanted = measure_features(FEATURES, LABELS, WEIGHT, BIAS)
    assert_same(result["metrics"], wanted.metrics)
    assert [Path(file).name for file in result["files"]] == [
        f"{j:02}.safetensors" for j in range(5)
    ]
    assert result["skipped"] == {}
    assert "intervals" not in result
    text = run("measure", tmp_path / "*.safetensors", "--jackknife").assert_ok()
    assert "files: 5 read, 0 left out" in text
    assert "nc1" in text
    assert "+-" in text
    assert "no interval" not in text


def test_a_file_named_twice_counts_once(tmp_path: Path) -> None:
    files = shards(tmp_path)
    result = as_json(*files, tmp_path / "*.safetensors", files[0])
    assert result["num_samples"] == 120


def test_the_classifier_may_lie_in_the_files(tmp_path: Path) -> None:
    files = shards(tmp_path, weight=WEIGHT, bias=BIAS)
    wanted = measure_features(FEATURES, LABELS, WEIGHT, BIAS)
    assert_same(as_json(tmp_path / "*.safetensors")["metrics"], wanted.metrics)
    write(files[2], features=FEATURES, labels=LABELS, weight=WEIGHT + 1, bias=BIAS)
    run("measure", *files).assert_refused("02.safetensors", "weight and bias must be those of")


BAD: dict[str, Any] = {
    "damaged": (lambda file: file.write_bytes(file.read_bytes()[:90]), "not a readable"),
    "missing": (lambda file: file.unlink(), "does not exist"),
    "wide": (
        lambda file: write(file, features=np.zeros((2, 7)), labels=np.arange(2)),
        "features must have 6 columns",
    ),
    "nan": (
        lambda file: write(file, features=np.full((2, 6), np.nan), labels=np.arange(2)),
        "features must be finite",
    ),
    "negative": (
        lambda file: write(file, features=np.zeros((2, 6)), labels=np.array([0, -1])),
        "labels must lie in",
    ),
    "no labels": (lambda file: write(file, features=np.zeros((2, 6))), "must hold the array"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_and_left_out_if_asked(tmp_path: Path, name: str) -> None:
    files = shards(tmp_path)
    spoil, message = BAD[name]
    spoil(files[1])
    run("measure", *files).assert_refused("01.safetensors", message)
    result = as_json(*files, "--skip-bad", "--jackknife")
    (skipped,) = result["skipped"].items()
    assert skipped[0] == str(files[1])
    assert message in skipped[1]
    good = measure_shards([file for file in files if file != files[1]])
    assert result["counts"] == list(good.measurement.counts)
    defined = {key: value for key, value in result["metrics"].items() if value is not None}
    assert_same(defined, {key: good.measurement.metrics[key] for key in defined})
    assert str(files[1]) in run("measure", *files, "--skip-bad").assert_ok()


def test_nothing_good_is_an_error(tmp_path: Path) -> None:
    for j in range(2):
        (tmp_path / f"{j}.npz").write_bytes(b"no")
    run("measure", tmp_path / "*.npz", "--skip-bad").assert_refused("at least one sample", "1.npz")
    run("measure", tmp_path / "*.safetensors").assert_refused("must name at least one file")
    run("measure", tmp_path / "a.txt").assert_refused("a.txt must be a .npz", "numpy.savez")


def test_empty_shards_count_for_nothing(tmp_path: Path) -> None:
    files = shards(tmp_path)
    empty = write(tmp_path / "x.npz", features=np.zeros((0, 6)), labels=np.zeros(0, dtype=int))
    with_it, without = measure_shards([empty, *files]), measure_shards(files)
    assert with_it.measurement.counts == without.measurement.counts
    for key, value in with_it.measurement.metrics.items():
        assert value == pytest.approx(without.measurement[key], rel=1e-9, nan_ok=True), key


def dealt_by_hand(labels: np.ndarray, file: int, count: int) -> list[int]:
    """Parts of a file's samples: turns by class; classes and files begin at different parts."""
    turns = [(7 * k + file * 20 // count) % 20 for k in range(4)]
    parts = []
    for label in labels.tolist():
        parts.append(turns[label])
        turns[label] = (turns[label] + 1) % 20
    return parts


@pytest.mark.parametrize("count", [1, 5, 12, 45])
def test_intervals_are_those_of_the_parts(tmp_path: Path, count: int) -> None:
    for j in range(count):
        write(tmp_path / f"{j:02}.npz", features=FEATURES[j::count], labels=LABELS[j::count])
    result = as_json(tmp_path / "*.npz", "--jackknife")
    groups: list[list[int]] = [[] for _ in range(20)]
    for j in range(count):
        rows = list(range(120))[j::count]
        for row, dealt in zip(rows, dealt_by_hand(LABELS[rows], j, count), strict=True):
            groups[j % 20 if count >= 10 else dealt].append(row)
    parts = [
        ClassStatistics.from_features(
            torch.from_numpy(FEATURES[rows]), torch.from_numpy(LABELS[rows]), 4
        )
        for rows in groups
        if rows
    ]
    wanted = jackknife_intervals(parts)
    # Those of single features have a test of their own.
    assert {*result["intervals"]} - {*wanted} == {"hug_intra", "cdnv_directional"}
    for key in wanted:
        interval = result["intervals"][key]
        assert interval["low"] == pytest.approx(wanted[key].low, rel=1e-6, abs=1e-9), key
        assert interval["high"] == pytest.approx(wanted[key].high, rel=1e-6, abs=1e-9), key


@pytest.mark.parametrize("count", [4, 10])
def test_intervals_of_single_features_are_those_of_leaving_out(tmp_path: Path, count: int) -> None:
    """Found anew without each part, class means and all; decisions to the digit."""
    generator = np.random.default_rng(3)
    labels = generator.permutation(np.arange(4000) % 4)
    features = 3 * np.eye(4, 6)[labels] + generator.standard_normal((4000, 6))
    weight = generator.standard_normal((4, 6))
    for j in range(count):
        write(tmp_path / f"{j}.npz", features=features[j::count], labels=labels[j::count])
    found = measure_shards(shard_files([tmp_path / "*.npz"]), weight, jackknife=True)
    rows: list[list[int]] = [[] for _ in range(20 if count == 4 else 10)]
    for j in range(count):
        own = range(j, 4000, count)
        for row, dealt in zip(own, dealt_by_hand(labels[own], j, count), strict=True):
            rows[j if count == 10 else dealt].append(row)

    def anew(key: str, kept: np.ndarray) -> float:
        one = measure_features(features[kept], labels[kept], weight)
        return float(one.accuracy or 0) if key == "accuracy" else one[key]

    everything = np.arange(4000)
    counted = {"accuracy", "nc4_disagreement"}
    for key in (*counted, "hug_intra", "cdnv_directional"):
        known = [anew(key, np.setdiff1d(everything, some)) for some in rows]
        wanted = jackknife_intervals(
            [
                ClassStatistics.from_features(
                    torch.from_numpy(features[some]), torch.from_numpy(labels[some]), 4
                )
                for some in rows
            ],
            known={key: [anew(key, everything), *known]},
        )[key]
        interval = found.intervals[key]
        assert interval.value == pytest.approx(wanted.value, rel=1e-6), key
        # To first order in how far the means move; files hold more of one class than another.
        tolerance = 1e-6 if key in counted else 0.03
        assert interval.standard_error == pytest.approx(wanted.standard_error, rel=tolerance), key


@pytest.mark.parametrize("weighting", ["samples", "balanced"])
def test_intervals_of_weighted_covariances(tmp_path: Path, weighting: Any) -> None:
    """Of files as parts, in which classes of unequal size are cut as they come."""
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.repeat(np.arange(4), [200, 100, 70, 30]))
    features = np.eye(4, 6)[labels] + generator.standard_normal((400, 6))
    for j in range(10):
        write(tmp_path / f"{j}.npz", features=features[j::10], labels=labels[j::10])
    found = measure_shards(shard_files([tmp_path / "*.npz"]), weighting=weighting, jackknife=True)
    whole = measure_features(features, labels, weighting=weighting)
    assert found.measurement["nc1"] == pytest.approx(whole["nc1"], rel=1e-9)
    for key in ("nc1", "vci"):
        left = [np.arange(400) % 10 != j for j in range(10)]
        known = [
            measure_features(features[rows], labels[rows], weighting=weighting)[key]
            for rows in left
        ]
        parts = [
            ClassStatistics.from_features(
                torch.from_numpy(features[~rows]), torch.from_numpy(labels[~rows]), 4
            )
            for rows in left
        ]
        wanted = jackknife_intervals(parts, known={key: [whole[key], *known]})[key]
        interval = found.intervals[key]
        assert interval.value == pytest.approx(found.measurement[key], rel=1e-9)
        # Files of 40 samples hold 0 to 7 of the smallest class.
        tolerance = 1e-6 if weighting == "samples" else 0.03
        assert interval.standard_error == pytest.approx(wanted.standard_error, rel=tolerance), key


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path) -> None:
    try:
        import pyarrow  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        outcome = run("measure", tmp_path / "a.parquet")
        outcome.assert_refused("needs the extra parquet", "'neuralcollapse[parquet]'")


@pytest.mark.parametrize("kind", ["list", "fixed"])
def test_parquet(tmp_path: Path, kind: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    type_of = pyarrow.list_(pyarrow.float64(), *([6] if kind == "fixed" else []))
    table = pyarrow.table(
        {"features": pyarrow.array(list(FEATURES), type=type_of), "labels": LABELS}
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    wanted = measure_features(FEATURES, LABELS)
    assert as_json(tmp_path / "a.parquet")["counts"] == list(wanted.counts)


def test_patterns_are_sorted(tmp_path: Path) -> None:
    for name in ("b.npz", "a.npz"):
        (tmp_path / name).touch()
    assert [file.name for file in shard_files([tmp_path / "*.npz"])] == ["a.npz", "b.npz"]
