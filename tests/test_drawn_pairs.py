"""Metrics of pairs of very many classes, from pairs that are drawn."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from neuralcollapse import METRICS, ClassStatistics, measure_features
from neuralcollapse.metrics import evaluate, evaluation
from neuralcollapse.metrics.pairs import drawn_pairs

CLASSES, DIM = 60, 5
DRAWN = 40_000
ROWS = [row for row in METRICS if row.takes_pairs]


def means(seed: int = 0) -> Tensor:
    return torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(seed)).double()


def statistics() -> ClassStatistics:
    labels = torch.arange(CLASSES * 4) % CLASSES
    noise = torch.randn(len(labels), DIM, generator=torch.Generator().manual_seed(1)).double()
    scale = 0.1 + (labels % 7)[:, None] / 7
    return ClassStatistics.from_features(means()[labels] + scale * noise, labels, CLASSES)


def terms(key: str) -> Callable[[], Tensor]:
    """What the metric is the mean of, of all pairs, from its definition."""
    one = statistics()
    k, j = torch.triu_indices(CLASSES, CLASSES, 1)
    rows = means(3) if key.startswith("nc2w") else one.means - one.means.mean(0)
    units = rows / rows.norm(dim=1, keepdim=True)
    distances = (units[k] - units[j]).norm(dim=1)
    own = one.spread / one.counts
    gaps = (one.means[k] - one.means[j]).square().sum(1)
    usual = -math.log(2 * CLASSES / (CLASSES - 1)) / 2
    return {
        "cdnv": lambda: (own[k] + own[j]) / (2 * gaps),
        "nc2_max_angle": lambda: ((units[k] * units[j]).sum(1) + 1 / (CLASSES - 1)).abs(),
        "nc2w_max_angle": lambda: ((units[k] * units[j]).sum(1) + 1 / (CLASSES - 1)).abs(),
        "gnc2_energy_gap": lambda: -distances.log(),
        "gnc2_log_mean": lambda: -distances.log(),
        "gnc2_log_variance": lambda: (-distances.log() - usual).square(),
        "gnc2_gaussian": lambda: (-2 * distances.square()).exp(),
        "hug_inter": lambda: distances.pow(-2),
    }[key]


def value(row: Any, **options: Any) -> float:
    argument = means(3) if row.needs == ("weight",) else statistics()
    if row.key == "gnc2_energy_gap":
        options["reference"] = 0.0
    return float(row.function(argument, **options))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_drawn_values_lie_about_the_exact_one_as_far_as_they_should(row: Any) -> None:
    exact, spread = value(row), float(terms(row.key)().std())
    error = spread / math.sqrt(DRAWN)
    if row.key == "gnc2_gaussian":  # of the logarithm
        error /= float(terms(row.key)().mean())
    found = [
        value(row, num_pairs=DRAWN, generator=torch.Generator().manual_seed(seed))
        for seed in range(12)
    ]
    deviations = [(one - exact) / error for one in found]
    # Twelve standard normal ones: their mean is within 4/sqrt(12) of zero, their size about 1.
    assert abs(sum(deviations) / 12) < 4 / math.sqrt(12)
    assert 0.4 < math.sqrt(sum(one * one for one in deviations) / 12) < 1.8
    assert found[0] == value(row, num_pairs=DRAWN, generator=torch.Generator().manual_seed(0))


def test_every_pair_of_different_classes_is_drawn_alike() -> None:
    counts = torch.zeros(4, 4)
    for k, j in drawn_pairs(4, 120_000, torch.Generator().manual_seed(0)):
        counts.index_put_((k, j), torch.ones(len(k)), accumulate=True)
    assert counts.diagonal().sum() == 0
    assert counts.sum() == 120_000
    off = counts[~torch.eye(4, dtype=torch.bool)]
    # Each is 10,000 with a standard deviation of 96.
    assert (off - 10_000).abs().max() < 5 * 96


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_no_pairs_to_draw(row: Any) -> None:
    with pytest.raises(ValueError, match="num_pairs must be at least 1"):
        value(row, num_pairs=0)


def test_a_table_of_many_classes_draws_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    one, weight = statistics(), means(3)
    exact, _ = evaluate(one, weight)
    assert "pairs of classes" not in measure_features(means(), torch.arange(CLASSES)).conventions
    monkeypatch.setattr(evaluation, "_MOST_SWEPT", CLASSES - 1)
    monkeypatch.setattr(evaluation, "_DRAWN", DRAWN)
    drawn, reasons = evaluate(one, weight)
    assert drawn == pytest.approx(evaluate(one, weight)[0], rel=0, nan_ok=True)
    assert "too many to solve for" in reasons["gnc2_energy_gap"]
    swept = {row.key for row in ROWS}
    for key, found in drawn.items():
        if key not in swept:
            assert found == pytest.approx(exact[key], rel=1e-12, nan_ok=True), key
        elif key not in reasons:
            assert found != exact[key], key
            assert found == pytest.approx(exact[key], rel=0.1), key
    told = measure_features(means(), torch.arange(CLASSES)).conventions["pairs of classes"]
    assert told == f"{DRAWN} drawn, the same every time"
