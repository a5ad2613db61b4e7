"""What was measured is kept whole: its JSON, its table, its conventions, its geometry."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cases.metrics import ROWS
from cases.worlds import World, collapsed, simplex_vertices, world
from neuralcollapse import ClassStatistics, Measurement, measure, measure_features
from small_networks import KEYS, batches, network


def gaps() -> Measurement:
    w = world("gaps", simplex_vertices(4, 5), [9, 9, 0, 9], 0.3)
    return measure_features(w.features, w.labels, split="test")


def test_json_gives_everything_back(tmp_path: Path) -> None:
    measurement = gaps()
    path = tmp_path / "measurement.json"
    measurement.save(path)
    again = Measurement.load(path)
    assert again.to_dict() == measurement.to_dict()
    assert again.undefined == measurement.undefined
    assert again.conventions == measurement.conventions
    assert again.counts == measurement.counts
    assert again.accuracy is None
    assert str(again) == str(measurement)
    for key in KEYS:
        assert again[key] == measurement[key] or math.isnan(again[key]) == math.isnan(
            measurement[key]
        )
    with pytest.raises(ValueError, match="statistics"):
        again.geometry()


def test_json_is_strict_and_complete(tmp_path: Path) -> None:
    path = tmp_path / "measurement.json"
    gaps().save(path)

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    values = json.loads(path.read_text(), parse_constant=refuse)
    assert list(values["metrics"]) == KEYS
    assert values["metrics"]["nc3_duality"] is None
    assert values["undefined"]["nc3_duality"] == "no classifier weight was given"
    assert values["counts"] == [9, 9, 0, 9]
    assert values["absent_classes"] == [2]
    assert values["num_samples"] == 27
    assert values["conventions"]["split"] == "test"


def test_every_convention_is_carried() -> None:
    """Which global mean, whether divided by K, split, layer, raw or normalised, bias used."""
    conventions = measure(network(), batches(), split="train").conventions
    assert conventions["split"] == "train"
    assert conventions["layer"] == "input of 5"
    assert conventions["features"] == "raw"
    assert conventions["classifier"] == "weight and bias"
    assert conventions["global_mean"] == "mean of the class means"
    assert "number of samples" in conventions["within_covariance"]
    assert "number of classes" in conventions["between_covariance"]
    assert "number of classes" in conventions["nc1"]
    assert conventions["standard_deviation"] == "population"
    assert conventions["nc4"]


def test_the_regime_says_which_rows_are_primary() -> None:
    for num_classes, dim, regime in ((5, 4, "simplex"), (6, 4, "general"), (2, 1, "simplex")):
        means = np.random.default_rng(num_classes).standard_normal((num_classes, dim))
        w = world("either", means, 3, 0.1)
        measurement = measure_features(w.features, w.labels, w.weight)
        assert (measurement.dim, measurement.regime) == (dim, regime)
        assert measurement.to_dict()["regime"] == regime
        said = "nc2 rows are primary" if regime == "simplex" else "gnc2 rows are primary"
        assert f", {'a' if regime == 'simplex' else 'no'} simplex fits: the {said}" in str(
            measurement
        )


def test_classes_never_seen_do_not_make_the_regime() -> None:
    """Four of seven classes in three dimensions: a simplex of those seen fits."""
    w = world("gaps", simplex_vertices(4, 3), 5, 0.01)
    labels = torch.tensor([0, 2, 4, 6])[w.labels]
    measurement = measure_features(w.features, labels, num_classes=7)
    assert measurement.regime == "simplex"
    assert measurement["gnc2_energy_gap"] == pytest.approx(0, abs=1e-3)
    log_mean = next(metric for metric in ROWS if metric.key == "gnc2_log_mean")
    assert f"{log_mean.collapse_value(4, 3):.4g}" in str(measurement)


def test_a_record_without_a_width_still_prints() -> None:
    values = gaps().to_dict()
    del values["dim"], values["regime"]
    older = Measurement.from_dict(values)
    assert older.dim is None
    assert older.regime is None
    assert "regime" not in str(older)
    (line,) = [line for line in str(older).splitlines() if line.startswith("gnc2_log_mean")]
    assert line.split()[2] == "-"  # nobody knows where it tends


def test_the_table_shows_every_value_convention_and_reason() -> None:
    measurement = gaps()
    text = str(measurement)
    for metric in ROWS:
        assert metric.key in text
        assert metric.summary in text
    assert f"{measurement['nc1']:.6g}" in text
    assert "no classifier weight was given" in text
    for value in measurement.conventions.values():
        assert value in text
    assert "27 in 4 classes" in text
    assert max(len(line) for line in text.splitlines() if line.startswith("nc")) <= 100


def test_a_record_of_an_older_table_still_prints() -> None:
    """The next metric must not make yesterday's records unreadable."""
    values = gaps().to_dict()
    del values["metrics"]["cdnv"]
    older = Measurement.from_dict(values)
    assert "cdnv" not in older.metrics
    assert "nc1_trace_ratio" in str(older)


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": None},
        {"metrics": {"nc1": "much"}},
        {"metrics": {"nc1": []}},
        {"counts": 3},
        {"counts": ["a"]},
        {"undefined": 3},
        {"conventions": None},
        {"accuracy": "good"},
    ],
)
def test_values_that_are_no_measurement_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a measurement"):
        Measurement.from_dict(gaps().to_dict() | change)
    key = next(iter(change))
    partial = gaps().to_dict()
    del partial[key]
    with pytest.raises(ValueError, match="not a measurement"):
        Measurement.from_dict(partial)


@pytest.mark.parametrize("content", ["[1, 2]", "3", '"text"', "", "{", "\ufeff{}", "[" * 100_000])
def test_a_file_that_is_no_measurement_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"wrong\.json|not a measurement"):
        Measurement.load(path)


def test_a_measurement_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        gaps().accuracy = 1.0  # pyright: ignore[reportAttributeAccessIssue]


def test_the_geometry_is_that_of_the_means_and_rows() -> None:
    w: World = collapsed()
    measurement = measure_features(w.features, w.labels, w.weight, w.bias)
    geometry = measurement.geometry()
    assert measurement.statistics is not None
    assert isinstance(measurement.statistics, ClassStatistics)
    expected = 9 * (torch.eye(4, dtype=torch.float64) - 0.25) * 4 / 3
    torch.testing.assert_close(geometry.means, expected, rtol=0, atol=1e-12)
    assert geometry.weight is not None
    assert geometry.cross is not None
    torch.testing.assert_close(geometry.weight, 4 * expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(geometry.cross, 2 * expected, rtol=0, atol=1e-12)
