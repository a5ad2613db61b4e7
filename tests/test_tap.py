"""The classifier is found, what enters it is read, and what is no classifier is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuralcollapse import FeatureTap, measure, measure_features
from small_networks import batches, data, features_of, hooks_of, network


class Two(nn.Module):
    """An embedding head after the classifier, and the classifier within a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.heads = nn.ModuleDict({"main": nn.Linear(6, 3), "extra": nn.Linear(6, 3, bias=False)})
        self.embedding = nn.Linear(6, 2)

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        features = self.body(inputs).relu()
        return tuple(head(features) for head in [*self.heads.values(), self.embedding])


def test_the_last_layer_of_the_right_width_is_found() -> None:
    model = Two()
    for num_classes, name in (
        (3, "heads.extra"),
        (2, "embedding"),
        (6, "body"),
        (None, "embedding"),
    ):
        assert FeatureTap(model, num_classes=num_classes).name == name
    assert FeatureTap(model, "heads.main").name == "heads.main"
    by_width = measure(model, batches(), num_classes=3)
    assert by_width.conventions["layer"] == "input of heads.extra"
    assert by_width.conventions["classifier"] == "weight"
    by_name = measure(model, batches(), layer="heads.main")
    assert by_name.conventions["layer"] == "input of heads.main"
    assert by_name.conventions["classifier"] == "weight and bias"
    assert by_name["nc1"] == by_width["nc1"]
    assert by_name["nc3_alignment"] != by_width["nc3_alignment"]


NO_HEAD: dict[str, tuple[nn.Module, dict[str, Any], list[str]]] = {
    "no such width": (
        Two(),
        {"num_classes": 10},
        [
            "10 outputs",
            "'body' (4 -> 6)",
            "'heads.main' (6 -> 3)",
            "'embedding' (6 -> 2)",
            "layer=",
        ],
    ),
    "no such name": (Two(), {"layer": "fc"}, ["'fc'", "'heads.main' (6 -> 3)"]),
    "not a linear layer": (network(), {"layer": "4"}, ["'4'", "'5' (6 -> 3)"]),
    "name and width disagree": (
        Two(),
        {"layer": "embedding", "num_classes": 3},
        ["'embedding'", "3 outputs", "'heads.extra' (6 -> 3)"],
    ),
    "no linear layer": (nn.Sequential(nn.Conv2d(3, 4, 1)), {}, ["no linear layer", "none at all"]),
}


@pytest.mark.parametrize("name", NO_HEAD)
def test_a_missing_classifier_is_reported_with_the_candidates(name: str) -> None:
    model, options, fragments = NO_HEAD[name]
    with pytest.raises(ValueError, match=r"model|layer") as caught:
        measure(model, batches(), **options)
    for fragment in fragments:
        assert fragment in str(caught.value)


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(input=inputs)


class Twice(Keyword):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(inputs) + self.fc(-inputs)


class Never(Keyword):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.fc.weight.T


class Tokens(Keyword):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(inputs[:, None].expand(-1, 5, -1))


def test_a_classifier_called_by_keyword_is_read_too() -> None:
    expected = measure_features(*data())
    assert measure(Keyword(), batches())["nc1"] == pytest.approx(expected["nc1"], rel=1e-6)


@pytest.mark.parametrize(
    "model, message",
    [
        (Twice(), r"'fc' must run exactly once per forward pass, ran 2 times"),
        (Never(), r"'fc' must run exactly once per forward pass, ran 0 times"),
        (Tokens(), r"'fc' must receive features of shape \(N, d\), got \(16, 5, 4\); pool"),
    ],
)
def test_a_layer_that_is_not_one_classifier_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(model, batches())
    assert hooks_of(model) == 0


def test_the_tap_reads_what_enters_and_lets_go() -> None:
    model, (inputs, _) = network(), data()
    with FeatureTap(model, num_classes=3) as tap:
        model.eval()(inputs)
        features = tap.take()
        model(inputs[:7])
        assert len(tap.take()) == 7
        with pytest.raises(ValueError, match="ran 0 times"):
            tap.take()
    assert not features.requires_grad
    assert torch.equal(features, features_of(model, inputs))
    assert hooks_of(model) == 0
