"""The example of deep linear heads runs small, and ends near what was predicted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import deep_linear


@pytest.mark.parametrize(
    "counts, depth, bias", [((8, 4, 2, 2), 1, "none"), ((4, 4, 4), 3, "free"), ((9, 3), 2, "none")]
)
def test_gradient_descent_reaches_the_prediction(
    counts: tuple[int, ...], depth: int, bias: Any
) -> None:
    """With a decay that is large for so few samples: what is left shrinks by 1/20 a step."""
    history = deep_linear.direct(counts, depth, bias, decay=5e-3, dim=8, steps=400)
    for key in deep_linear.SHOWN:
        # Squares of what is left, at rounding; the objective's excess may round below zero.
        assert abs(history.last(key)) < 1e-6, key
    assert set(history.verdicts) == {"alive"}
    assert history.steps[0] == 0
    assert history.steps[-1] == 400
    assert history.distances["products"][0] > 0.1


def test_depth_one_without_bias_is_a_general_orthogonal_frame() -> None:
    history = deep_linear.direct((8, 4, 2), 1, decay=5e-3, dim=8, steps=5)
    assert history.prediction.kind == "general orthogonal frame"
    assert [len(values) for values in history.distances.values()] == [len(history.steps)] * 5


@pytest.mark.long
@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize("depth", [1, 3, 6])
@pytest.mark.parametrize("which", ["BALANCED", "IMBALANCED"])
def test_the_experiments_of_the_example_converge(which: str, depth: int, bias: Any) -> None:
    history = deep_linear.direct(getattr(deep_linear, which), depth, bias)
    for key in deep_linear.SHOWN:
        assert abs(history.last(key)) < 1e-6, key


def test_pictures_are_imbalanced_and_standardised() -> None:
    counts = (30, 20, 10, 10, 10, 10, 5, 5, 5, 5)
    inputs, labels = deep_linear.imbalanced_pictures("digits", counts)
    assert torch.bincount(labels).tolist() == list(counts)
    assert inputs.shape == (110, 64)
    # Means of 110 float32 numbers of size one.
    assert float(inputs.mean(0).abs().max()) < 1e-5
    assert float(inputs.std()) == pytest.approx(1, abs=1e-5)


def test_more_pictures_than_there_are_say_so() -> None:
    with pytest.raises(ValueError, match=r"counts must be at most .* for digits"):
        deep_linear.imbalanced_pictures("digits", (5000,) * 10)


@pytest.mark.parametrize("batch_size", [None, 25])
def test_a_network_on_digits_nears_the_predicted_frame(batch_size: int | None) -> None:
    setting = deep_linear.Setting(
        counts=(16, 12, 10, 8, 6, 5, 5, 5, 4, 4), width=32, batch_size=batch_size,
        epochs=150 if batch_size is None else 60, learning_rate=3e-3,
    )  # fmt: skip
    history = deep_linear.network("digits", 2, setting, head_decay=(5e-3, 4e-3), feature_decay=5e-3)
    assert history.prediction.weight_decay == (5e-3, 4e-3)
    for key in ("nc1", "classifier", "features", "products", "objective"):
        values = history.distances[key]
        assert values[-1] < 0.5 * values[0], key
    assert history.last("classifier") < 0.3


def test_the_command_line_prints_a_table_and_writes_a_page(tmp_path: Path) -> None:
    runner = CliRunner()
    small = ["direct", "--depth", "1", "--depth", "2", "--steps", "3", "--dim", "6"]
    result = runner.invoke(deep_linear.app, [*small, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "class means, shape" in " ".join(result.output.split())
    page = (tmp_path / "direct.html").read_text(encoding="utf-8")
    assert "2 layers" in page
    assert len(page) > 1e6  # plotly itself is in the page
    runs = json.loads((tmp_path / "direct.json").read_text(encoding="utf-8"))["runs"]
    assert [run["depth"] for run in runs] == [1, 2] * 4
    assert all(set(run["end"]) == set(deep_linear.SHOWN) for run in runs)
    digits = ["network", "--depth", "1", "--seeds", "1", "--epochs", "2", "--width", "8"]
    result = runner.invoke(deep_linear.app, [*digits, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "digits.html").is_file()
    result = runner.invoke(deep_linear.app, ["network", "--data", "letters"])
    assert result.exit_code == 2


def test_help_names_both_parts() -> None:
    result = CliRunner().invoke(deep_linear.app, ["--help"])
    assert result.exit_code == 0
    assert "direct" in result.output
    assert "network" in result.output


def test_a_figure_has_a_curve_for_each_training_and_quantity() -> None:
    histories = [
        deep_linear.direct((4, 2), depth, decay=5e-3, dim=4, steps=10, seed=seed)
        for depth in (1, 2)
        for seed in (0, 1)
    ]
    drawn: Any = deep_linear.figure(histories, "title", "steps")
    assert len(drawn.data) == 4 * len(deep_linear.SHOWN)
    values = [y for curve in drawn.data for y in curve.y if y is not None]
    assert all(value > 0 and math.isfinite(value) for value in values)
