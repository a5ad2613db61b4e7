"""NC4 by class means of an earlier measurement, in the one pass."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuralcollapse import ClassStatistics, Measurement, measure, measure_features, measuring

CLASSES, DIM = 4, 6


class Loader:
    """Batches, and how often they were asked for."""

    def __init__(self, inputs: Tensor, labels: Tensor):
        self.inputs, self.labels = inputs, labels
        self.passes = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        return zip(self.inputs.split(16), self.labels.split(16), strict=True)

    def __len__(self) -> int:
        return -(-len(self.labels) // 16)


def loader(seed: int) -> Loader:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(200) % CLASSES
    return Loader(torch.eye(CLASSES, 5)[labels] + torch.randn(200, 5, generator=generator), labels)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, DIM), nn.ReLU(), nn.Linear(DIM, CLASSES))


def by_hand(
    network: nn.Sequential, data: Loader, means: Tensor, normalize: bool = False
) -> tuple[float, float]:
    """(accuracy, share decided differently) from distances to these means."""
    with torch.no_grad():
        features = network[:2](data.inputs).double()
        chosen = network(data.inputs).argmax(1)
    shown = nn.functional.normalize(features, dim=1) if normalize else features
    nearest = torch.cdist(shown, means.double()).argmin(1)
    right = (chosen == data.labels).double().mean()
    return float(right), float((chosen != nearest).double().mean())


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kept", [True, False])
def test_means_of_before_decide_in_one_pass(
    monkeypatch: pytest.MonkeyPatch, kept: bool, normalize: bool
) -> None:
    if not kept:
        monkeypatch.setattr(measuring, "_KEPT_BYTES", 0)
    network, before, now = model(), loader(0), loader(1)
    earlier = measure(network, before, normalize=normalize)
    assert earlier.statistics is not None
    found = measure(network, now, means=earlier, normalize=normalize)
    assert now.passes == 1
    accuracy, differing = by_hand(network, now, earlier.statistics.means, normalize)
    assert found.accuracy == pytest.approx(accuracy, abs=1e-12)
    assert found["nc4_disagreement"] == pytest.approx(differing, abs=1e-12)
    assert "given" in found.conventions["nc4"]
    plain = measure(network, loader(1), normalize=normalize)
    assert differing != pytest.approx(plain["nc4_disagreement"], abs=1e-12)
    looked = {"nc4_disagreement"} | (set() if kept else {"hug_intra", "cdnv_directional"})
    for key, value in plain.metrics.items():
        if key not in looked:
            assert found[key] == pytest.approx(value, rel=1e-6, nan_ok=True), key
    if not kept:
        assert "means were given for one pass" in found.undefined["hug_intra"]
        assert "the loader runs only once" not in str(found)


def test_a_loader_that_runs_once_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_KEPT_BYTES", 0)
    network, data = model(), loader(1)
    earlier = measure(network, loader(0))
    assert "nc4_disagreement" in measure(network, iter(data)).undefined
    found = measure(network, iter(data), means=earlier)
    wanted = measure(network, data, means=earlier)
    assert found["nc4_disagreement"] == wanted["nc4_disagreement"]
    assert found.accuracy == wanted.accuracy


def test_means_of_the_training_set_decide_on_test_features() -> None:
    network, train, test = model(), loader(0), loader(1)
    with torch.no_grad():
        features, unseen = network[:2](train.inputs), network[:2](test.inputs)
        head = network[2]
        assert isinstance(head, nn.Linear)
    statistics = ClassStatistics.from_features(features, train.labels, CLASSES)
    found = measure_features(unseen, test.labels, head.weight, head.bias, means=statistics)
    assert found["nc4_disagreement"] == by_hand(network, test, statistics.means)[1]
    own = measure_features(unseen, test.labels, head.weight, head.bias)
    assert found["nc4_disagreement"] != own["nc4_disagreement"]
    assert found["hug_intra"] == own["hug_intra"]
    assert found["nc1"] == own["nc1"]


def test_own_means_given_change_nothing() -> None:
    network, data = model(), loader(0)
    plain = measure(network, data)
    again = measure(network, data, means=plain)
    for key, value in plain.metrics.items():
        assert again[key] == pytest.approx(value, rel=1e-12, nan_ok=True), key


def test_classes_without_an_earlier_mean_are_never_nearest() -> None:
    network, data = model(), loader(0)
    kept = data.labels != 2
    with torch.no_grad():
        features = network[:2](data.inputs)
    means = ClassStatistics.from_features(features[kept], data.labels[kept], CLASSES)
    found = measure(network, data, means=means)
    known = torch.where(means.seen[:, None], means.means, 1e6)
    assert found["nc4_disagreement"] == by_hand(network, data, known)[1]


def measured(**options: Any) -> Measurement:
    return measure(model(), loader(0), **options)


@pytest.mark.parametrize(
    ("means", "error", "words"),
    [
        (lambda: Measurement.from_dict(measured().to_dict()), ValueError, "means must hold stat"),
        (lambda: measured(normalize=True), ValueError, "means must be of features measured alike"),
        (
            lambda: ClassStatistics.from_features(torch.eye(4), torch.arange(4), 4),
            ValueError,
            "means must be of 4 classes in 6 dimensions",
        ),
        (
            lambda: ClassStatistics.from_features(torch.zeros(0, 6), torch.arange(0), 4),
            ValueError,
            "means must be of at least one sample",
        ),
        (lambda: torch.zeros(4, 6), TypeError, "means must be a Measurement or ClassStatistics"),
    ],
)
def test_bad_means(means: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        measured(means=means())
