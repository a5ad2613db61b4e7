"""Classifier and nearest class mean together: what is decided, and by how many products."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from neuralcollapse import ClassStatistics, measure_features
from neuralcollapse.metrics import decision
from neuralcollapse.metrics.decision import DualDecisions, NearestMean


@dataclass
class Problem:
    """Features of noisy classes, their statistics, and a classifier."""

    features: Tensor
    labels: Tensor
    statistics: ClassStatistics
    weight: Tensor
    bias: Tensor


def problem(
    *,
    num_classes: int = 80,
    dim: int = 100,
    noise: float = 0.3,
    misfit: float = 0.0,
    scale: float = 2.0,
    offset: float = 0.0,
    absent: int = 0,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Problem:
    """The classifier's rows are `scale` times the means, plus noise of size `misfit`."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(num_classes, dim, generator=generator, dtype=torch.float64)
    labels = torch.arange(num_classes * 12) % (num_classes - absent)
    noises = torch.randn(len(labels), dim, generator=generator, dtype=torch.float64)
    features = (means[labels] + noise * noises + offset).to(dtype)
    statistics = ClassStatistics.from_features(features, labels, num_classes)
    rows = torch.randn(num_classes, dim, generator=generator, dtype=torch.float64)
    weight = (scale * means + misfit * rows + 0.5).float()
    bias = torch.randn(num_classes, generator=generator)
    return Problem(features, labels, statistics, weight, bias)


def assert_decided(found: tuple[Tensor, Tensor], p: Problem, clear: float = 1e-5) -> None:
    """Against distances and logits in double, where float32 can tell the two best apart."""
    wide = p.features.double()
    logits = wide @ p.weight.double().T + p.bias.double()
    means = torch.where(p.statistics.seen[:, None], p.statistics.means, torch.inf)
    distances = torch.cdist(wide, means, compute_mode="donot_use_mm_for_euclid_dist")
    for decided, scores in zip(found, (logits, -distances), strict=True):
        best, second = scores.topk(2, dim=1).values.unbind(1)
        sure = best - second > clear * scores[scores.isfinite()].abs().max()
        assert sure.double().mean() > 0.9
        assert torch.equal(decided[sure], scores.argmax(1)[sure])


class Counted:
    """Rows that `NearestMean` was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.rows: list[int] = []
        plain = NearestMean.__call__

        def counted(rule: NearestMean, features: Tensor) -> Tensor:
            self.rows.append(len(features))
            return plain(rule, features)

        monkeypatch.setattr(NearestMean, "__call__", counted)


@pytest.mark.parametrize("misfit", [0.0, 0.1, 0.3, 1.0, 10.0])
@pytest.mark.parametrize("scale", [2.0, 1e-3, -1.0, 0.0])
@pytest.mark.parametrize("noise", [1e-3, 0.3, 1.5])
def test_decisions_are_those_of_logits_and_distances(
    misfit: float, scale: float, noise: float
) -> None:
    p = problem(misfit=misfit, scale=scale, noise=noise)
    assert_decided(DualDecisions(p.statistics, p.weight, p.bias)(p.features), p)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_features_of_other_types(dtype: torch.dtype) -> None:
    p = problem(dtype=dtype, misfit=0.1)
    assert_decided(DualDecisions(p.statistics, p.weight, p.bias)(p.features), p)


@pytest.mark.parametrize("offset", [0.0, 30.0, 3e3])
@pytest.mark.parametrize("dim", [20, 100])
def test_offsets_and_more_classes_than_dimensions(offset: float, dim: int) -> None:
    p = problem(offset=offset, dim=dim)
    # Logits of such an offset round in float32 as the network's own do.
    chosen, nearest = DualDecisions(p.statistics, p.weight.double(), p.bias)(p.features.double())
    assert_decided((chosen, nearest), p)
    assert_decided((chosen, DualDecisions(p.statistics, p.weight, p.bias)(p.features)[1]), p)


def test_classes_never_seen_are_chosen_but_never_nearest() -> None:
    p = problem(absent=10)
    p.bias[-1] = 1e6
    chosen, nearest = DualDecisions(p.statistics, p.weight, p.bias)(p.features)
    assert chosen.unique().tolist() == [79]
    assert torch.equal(nearest, p.labels)
    assert_decided((chosen, nearest), p)


def test_dual_classifiers_need_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem()
    counted = Counted(monkeypatch)
    DualDecisions(p.statistics, p.weight, p.bias)(p.features)
    assert counted.rows == []


def test_samples_near_a_border_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem()
    halfway = (p.statistics.means[:-1] + p.statistics.means[1:]).float() / 2
    p.features = torch.cat([p.features, halfway])
    counted = Counted(monkeypatch)
    DualDecisions(p.statistics, p.weight, p.bias)(p.features)
    assert sum(counted.rows) == len(halfway)


def test_logits_that_tell_nothing_are_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(misfit=100.0)
    counted = Counted(monkeypatch)
    decide = DualDecisions(p.statistics, p.weight, p.bias)
    found = []
    monkeypatch.setattr(
        decision._DualBound,
        "nearest",
        lambda bound, block, logits, plain=decision._DualBound.nearest: (
            found.append(len(block)) or plain(bound, block, logits)
        ),
    )
    for batch in p.features.split(96):
        decide(batch)
    assert found == [96]
    assert counted.rows == [96] * 10


def test_the_bound_is_one() -> None:
    """What the logits leave out, <h - centre, e_k>, never exceeds the reach of a settled sample."""
    generator = torch.Generator().manual_seed(1)
    settled = 0
    for seed in range(20):
        p = problem(misfit=0.4, noise=0.2, seed=seed)
        # Features along the worst direction: the difference of two misfits.
        rows = p.weight.double() / 2 - p.statistics.means
        k, j = torch.randint(80, (2, 400), generator=generator)
        worst = torch.nn.functional.normalize(rows[j] - rows[k], dim=1)
        moved = p.statistics.means[k] + torch.rand(400, 1, generator=generator) * 4 * worst
        bound = decision._DualBound(p.statistics, p.weight, p.bias, torch.float64)
        logits = moved @ p.weight.double().T + p.bias.double()
        nearest, sure = bound.nearest(moved, logits)
        exact = torch.cdist(moved, p.statistics.means).argmin(1)
        assert torch.equal(nearest[sure], exact[sure])
        settled += int(sure.sum())
    assert 0 < settled < 20 * 400


def test_few_classes_are_compared_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(num_classes=10)
    counted = Counted(monkeypatch)
    assert_decided(DualDecisions(p.statistics, p.weight, p.bias)(p.features), p)
    assert sum(counted.rows) == len(p.features)


def test_no_samples() -> None:
    p = problem()
    chosen, nearest = DualDecisions(p.statistics, p.weight, p.bias)(p.features[:0])
    assert len(chosen) == len(nearest) == 0


@pytest.mark.parametrize("misfit", [0.0, 5.0])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_measurement_of_many_classes(misfit: float, normalize: bool) -> None:
    p = problem(misfit=misfit, noise=1.5)
    found = measure_features(p.features, p.labels, p.weight, p.bias, normalize=normalize)
    chosen = (p.features.double() @ p.weight.double().T + p.bias).argmax(1)
    shown = torch.nn.functional.normalize(p.features.double(), dim=1) if normalize else p.features
    means = ClassStatistics.from_features(shown.double(), p.labels, 80).means
    nearest = torch.cdist(shown.double(), means).argmin(1)
    assert found.accuracy == pytest.approx(float((chosen == p.labels).double().mean()), abs=1e-12)
    differing = float((chosen != nearest).double().mean())
    assert found["nc4_disagreement"] == pytest.approx(differing, abs=1e-12)
