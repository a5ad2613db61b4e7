"""The example with free features and proxies, executed small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import unconstrained


@pytest.mark.parametrize(
    "loss, proxies, size",
    [
        ("mhe", "learned", (4, 3)),
        ("mhe", "fixed", (5, 3)),
        ("mhe", "rotated", (5, 3)),
        ("mhe squared", "learned", (5, 3)),
        ("mgd", "learned", (5, 3)),
        ("mhe squared", "moving averages", (4, 3)),
        ("nce", "learned", (4, 3)),
    ],
)
def test_the_optimum_is_reached(
    loss: unconstrained.Loss, proxies: str, size: tuple[int, int]
) -> None:
    found = unconstrained.run(*size, loss, proxies, steps=300)
    # Fewer steps than the whole table takes, and fewer digits of the gap where there are kinks.
    assert abs(found.gap) < (1e-6 if loss in unconstrained.SMOOTH else 1e-4)
    assert found.alignment > 0.9999
    assert found.collapse > 0.9999


def test_a_run_without_time_reaches_nothing() -> None:
    found = unconstrained.run(6, 3, "mhe", "learned", steps=1)
    assert found.gap > 1e-3
    assert not found.reached


def test_a_sample_left_behind_is_not_the_optimum() -> None:
    found = unconstrained.Outcome(
        "mhe", "learned", 4, 3, 0, 0.0, -1 / 3, alignment=1.0, collapse=-1.0
    )
    assert not found.reached


def test_known_optima() -> None:
    """Mean energies per pair, minus the smallest distance, the largest cosine."""
    means = {(4, 3): 0.375, (5, 3): 0.425, (6, 3): 0.45, (12, 3): 39 / 66, (20, 10): 92.5 / 190}
    for size, mean in means.items():
        vectors = unconstrained.best_configuration(*size, "mhe").vectors
        assert unconstrained.between(vectors, "mhe") == pytest.approx(mean, rel=1e-12)
    icosahedron = unconstrained.best_configuration(12, 3, "nce").vectors
    assert unconstrained.between(icosahedron, "nce") == pytest.approx(5**-0.5, rel=1e-12)


def test_the_command_prints_a_table_and_writes_json(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "outcomes.json"
    words = f"x --sizes 4,3 --losses mhe nce --proxies fixed --steps 30 --seeds 2 --json {out}"
    monkeypatch.setattr(sys, "argv", words.split())
    unconstrained.main()
    assert "reached" in capsys.readouterr().out
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert [(row["loss"], row["proxies"], row["num_classes"]) for row in rows] == [
        (loss, "fixed", 4) for loss in ("mhe", "mhe", "nce", "nce")
    ]
    assert [row["seed"] for row in rows] == [0, 1, 0, 1]
