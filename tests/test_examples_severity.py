"""The comparison of mistakes runs small, goes on where it stopped, and adds up."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import severity
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.data import load_data
from records import change_rows


@pytest.fixture
def small(tmp_path: Path) -> TrainConfig:
    """Four noisy clouds in two pairs."""
    random = np.random.default_rng(0)
    means = np.array([[4.0, 1.0], [4.0, -1.0], [-4.0, 1.0], [-4.0, -1.0]])
    labels = np.arange(200) % 4
    features = means[labels] + 2 * random.standard_normal((200, 2))
    np.savez(tmp_path / "clouds.npz", features=features.astype(np.float32), labels=labels)
    (tmp_path / "tree.nwk").write_text("((0,1),(2,3));")
    return TrainConfig(
        data="npz",
        data_root=str(tmp_path / "clouds.npz"),
        hierarchy=str(tmp_path / "tree.nwk"),
        epochs=2,
        width=16,
        dim=8,
        measure=False,
    )


def test_every_method_is_compared_and_nothing_is_trained_twice(
    small: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = severity.outcomes(small, tmp_path / "out", 2, progress=False)
    assert list(found) == [
        *severity.TRAININGS,
        "cross entropy, minimum risk",
        "hierarchy frame + cosine term, minimum risk",
    ]
    for rows in found.values():
        assert len(rows) == 2
        for row in rows:
            product = row["mistake_severity"] * (1 - row["accuracy"])
            # Another order of the same sums in double precision.
            assert row["hierarchical_distance@1"] == pytest.approx(product, abs=1e-12)
            assert 0 <= row["calibration_error"] <= 1

    def never(*_: object) -> None:
        raise AssertionError("trained or evaluated again")

    monkeypatch.setattr(severity, "create_run", never)
    monkeypatch.setattr(severity, "at_minimum_risk", never)
    assert severity.outcomes(small, tmp_path / "out", 2, progress=False) == found

    shown = severity.table(found)
    assert len(shown.splitlines()) == 2 + len(found)
    changed = TrainConfig.from_values({**small.to_values(), "epochs": 3})
    with pytest.raises(ValueError, match=r"epochs must stay 2 in .*, got 3; choose another --out"):
        severity.outcomes(changed, tmp_path / "out", 2, progress=False)


def test_selection_looks_at_validation_alone(
    small: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(0.9, 2.0), (0.8, 1.0), (0.895, 1.5), (0.894, 1.2)]
    named = [{"accuracy": a, "mistake_severity": s} for a, s in rows]
    assert severity.best_place(named, 0.895) == 2
    assert severity.best_place(named, 0.91) == 0
    monkeypatch.setattr(
        severity,
        "TRAININGS",
        {
            "cross entropy": [{"loss": "cross-entropy"}],
            "soft labels": [{"loss": f"soft-labels:sharpness={value}"} for value in (0.1, 10)],
        },
    )
    comparison = severity.Comparison(small, tmp_path / "out", load_data(small), progress=False)
    for candidates in severity.TRAININGS.values():
        for candidate in candidates:
            run = comparison.run(comparison.config(candidate, 0))
            # Were the test set looked at, this would be an error.
            change_rows(run, lambda row: row["mistakes"].pop("test"))
    # Labels that are nearly even teach nothing.
    assert comparison.selected(1)["soft labels"] == {"loss": "soft-labels:sharpness=10"}


def test_intervals_are_students() -> None:
    """For 1, 2, 3: mean 2, deviation 1, and 4.3027 is the table's 97.5 % point at 2 degrees."""
    interval = severity.Interval.of([1.0, 2.0, 3.0])
    assert interval.mean == 2
    assert interval.half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert math.isnan(severity.Interval.of([1.0]).half)
