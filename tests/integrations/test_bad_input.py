"""What the adapters are given by mistake: said before anything is trained or lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuralcollapse.integrations.adapter import checked_keys, checked_loaders
from neuralcollapse.integrations.lightning import _can_be_called
from neuralcollapse.integrations.torchmetrics import NeuralCollapse
from neuralcollapse.integrations.transformers import measure_transformer

FEATURES = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3
TOKENS = torch.tensor([[1, 2, 1, 3, 1, 2], [2, 1, 3, 1, 2, 3]])


class TinyForCausalLM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lm_head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.lm_head(self.embed(input_ids))


def updated(features: Tensor, labels: Any, **options: Any) -> NeuralCollapse:
    metric = NeuralCollapse(3, 4, **options)
    metric.update(features, labels)
    return metric


def transformer(inputs: Tensor = TOKENS, labels: Tensor = TOKENS, **options: Any) -> Any:
    names = options.pop("names", ("input_ids", "labels"))
    batch = dict(zip(names, (inputs, labels), strict=True))
    return measure_transformer(TinyForCausalLM(), [batch], **options)


CASES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "too few labels beside an ignore index": (
        lambda: updated(FEATURES, LABELS[:3], ignore_index=-100),
        ValueError,
        r"labels and features must have the same length, got 3 labels for 12",
    ),
    "plain labels beside an ignore index": (
        lambda: updated(FEATURES, LABELS.tolist(), ignore_index=-100),
        TypeError,
        r"labels must be a torch.Tensor, got list",
    ),
    "a module without weight": (
        lambda: NeuralCollapse(3, 4, weight=nn.ReLU()),
        TypeError,
        r"weight must be a tensor, or a module that has one, got ReLU",
    ),
    "the state of another width": (
        lambda: updated(FEATURES, LABELS).merge_state(NeuralCollapse(3, 5)),
        ValueError,
        r"incoming_state must be of num_classes=3, dim=4, scatter=True and jackknife=False",
    ),
    "the state of another kind": (
        lambda: updated(FEATURES, LABELS).merge_state(NeuralCollapse(3, 4, jackknife=True)),
        ValueError,
        r"incoming_state must be of .* jackknife=False as this metric, got one of another size",
    ),
    "the state of other classes, as a dictionary": (
        lambda: updated(FEATURES, LABELS).merge_state(
            {"packed": NeuralCollapse(4, 4).packed}  # pyright: ignore[reportArgumentType]
        ),
        ValueError,
        r"incoming_state must be of num_classes=3",
    ),
    "no key": (
        lambda: checked_keys(["nc1", "nc0"]),
        ValueError,
        r"metrics must be one of nc1, .*accuracy, got 'nc0'",
    ),
    "a text for keys": (
        lambda: checked_keys("nc1"),
        TypeError,
        r"metrics must be a sequence of keys, got the text 'nc1'",
    ),
    "a loader for loaders": (
        lambda: checked_loaders([(FEATURES, LABELS)]),
        TypeError,
        r"loaders must be a dictionary of loaders by name, got list; for example",
    ),
    "no loader": (
        lambda: checked_loaders({"test": None}),
        TypeError,
        r"loaders\['test'\] must yield batches, got NoneType",
    ),
    "a loader that runs once": (
        lambda: checked_loaders({"test": iter([(FEATURES, LABELS)])}),
        TypeError,
        r"loaders\['test'\] must yield its batches at every measurement, got a list_iterator",
    ),
    "a class per sequence for tokens": (
        lambda: transformer(labels=TOKENS[:, 0]),
        ValueError,
        r"labels must have shape \(N, T\) with task='next_tokens', got \(2,\); use",
    ),
    "a class per token for sequences": (
        lambda: transformer(task="sequences"),
        ValueError,
        r"labels must have one entry per sequence with task='sequences', got shape \(2, 6\); use",
    ),
    "labels of another vocabulary": (
        lambda: transformer(labels=TOKENS + 9),
        ValueError,
        r"labels must lie in \[0, 9\) or be -100, got 10; is it the tokeniser of this model\?",
    ),
    "tokens of another vocabulary": (
        lambda: transformer(TOKENS + 9),
        ValueError,
        r"model must take the inputs of a batch, got input_ids=int64 of shape \(2, 6\) for",
    ),
    "a text for a vocabulary": (
        lambda: transformer(vocabulary="the"),
        TypeError,
        r"vocabulary must be a sequence of integers, got str",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_one_sentence(name: str) -> None:
    act, kind, told = CASES[name]
    with pytest.raises(kind, match=told) as raised:
        act()
    assert "\n" not in str(raised.value)


def test_names_that_no_model_has_are_told_once() -> None:
    """Though one model calls another."""
    batch = {"ids": TOKENS, "mask": TOKENS, "labels": TOKENS}
    with pytest.raises(TypeError) as raised:
        measure_transformer(TinyForCausalLM(), [batch])
    assert str(raised.value).startswith("loader must yield names that the model's forward has, got")


def test_keys_and_loaders_that_fit_are_kept() -> None:
    assert checked_keys(None) is None
    assert checked_keys(["accuracy", "nc1"]) == ("accuracy", "nc1")
    loaders = {"test": [(FEATURES, LABELS)]}
    assert checked_loaders(loaders) is loaders
    assert checked_loaders(None) is None


def test_a_module_without_forward_is_told_from_one_that_has_it() -> None:
    class LightningModule(nn.Module):
        """As Lightning's: its forward says only that there is none."""

        def forward(self, *args: Any) -> Any:
            return super().forward(*args)

    class Without(LightningModule):
        pass

    class With(LightningModule):
        def forward(self, *args: Any) -> Any:
            return args[0]

    assert not _can_be_called(Without())
    assert not _can_be_called(nn.Module())
    assert _can_be_called(With())
    assert _can_be_called(nn.Linear(1, 1))


def test_metrics_of_one_kind_merge() -> None:
    features = FEATURES.double()
    both = updated(features[:6], LABELS[:6])
    both.merge_state(updated(features[6:], LABELS[6:]))
    whole = updated(features, LABELS)
    torch.testing.assert_close(both.packed, whole.packed, rtol=1e-9, atol=1e-12)
