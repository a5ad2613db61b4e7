"""Transformers, on models that are called as theirs are and a Trainer that calls as theirs does.

Where transformers itself is installed, one test runs its Trainer on a tiny random model.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuralcollapse import (
    ClassStatistics,
    Measurement,
    jackknife_intervals,
    measure_features,
    measuring,
)
from neuralcollapse.integrations.transformers import measure_transformer
from stand_ins import packages

ADAPTER = "neuralcollapse.integrations.transformers"
GENERATOR = torch.Generator().manual_seed(0)
WORDS, WIDTH = 12, 6
TOKENS = torch.randint(1, WORDS, (20, 9), generator=GENERATOR)
TOKENS[::2, -3:] = 0  # padding
MASK = (TOKENS != 0).long()
LABELS = torch.where(TOKENS == 0, -100, TOKENS)
CLASSES = torch.arange(20) % 3


class Body(nn.Module):
    """Features (N, T, d) of tokens, each from the tokens up to it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        with torch.no_grad():
            self.embed.weight.copy_(torch.randn(WORDS, WIDTH, generator=GENERATOR))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        assert attention_mask is not None
        hidden = (self.embed(input_ids) * attention_mask[..., None]).cumsum(1)
        return torch.tanh(self.mix(hidden))


class Base(nn.Module):
    def __init__(self, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.config = SimpleNamespace(pad_token_id=0)
        self.body = Body()
        self.score = nn.Linear(WIDTH, outputs, bias=bias)
        self.dropout = nn.Dropout(0.5)

    def get_output_embeddings(self) -> Any:
        return None

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        assert input_ids is not None
        assert labels is None
        return self.decide(self.dropout(self.body(input_ids, attention_mask)))

    def decide(self, hidden: Tensor) -> Tensor:
        return self.score(hidden)


class TinyForCausalLM(Base):
    """Tied embeddings, and a linear layer behind the head that is not the classifier."""

    def __init__(self) -> None:
        super().__init__(WORDS, bias=False)
        self.score.weight = self.body.embed.weight
        self.value = nn.Linear(WIDTH, WORDS)

    def get_output_embeddings(self) -> Any:
        return self.score


class TinyForTokenClassification(Base):
    """The same, and a class for each token."""


class FirstForSequenceClassification(Base):
    """As encoders do it: the classifier sees the first token only."""

    def decide(self, hidden: Tensor) -> Tensor:
        return self.score(hidden[:, 0])


class LastForSequenceClassification(Base):
    """As decoders do it: the classifier sees all tokens, and the last decides."""


def language_batches(size: int = 7) -> list[dict[str, Tensor]]:
    return [
        {"input_ids": ids, "attention_mask": mask, "labels": labels}
        for ids, mask, labels in zip(
            TOKENS.split(size), MASK.split(size), LABELS.split(size), strict=True
        )
    ]


def sequence_batches(size: int = 7) -> list[dict[str, Tensor]]:
    return [
        {**batch, "labels": labels}
        for batch, labels in zip(language_batches(size), CLASSES.split(size), strict=True)
    ]


@torch.no_grad()
def hidden_of(model: Base) -> Tensor:
    return model.body(TOKENS, MASK)


def assert_same(one: Measurement, other: Measurement) -> None:
    assert one.counts == other.counts
    assert one.accuracy == other.accuracy
    for key, value in one.metrics.items():
        # Batches of another size: sums of float32 features in another order.
        assert value == pytest.approx(other[key], rel=1e-4, abs=1e-5, nan_ok=True), key


def next_token_samples(model: Base) -> tuple[Tensor, Tensor]:
    """Feature at t with the label at t + 1, one by one."""
    hidden = hidden_of(model)
    pairs = [
        (hidden[n, t], LABELS[n, t + 1])
        for n in range(len(TOKENS))
        for t in range(TOKENS.shape[1] - 1)
        if LABELS[n, t + 1] != -100
    ]
    return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])


def test_a_language_model_is_measured_at_the_next_token() -> None:
    model = TinyForCausalLM()
    features, labels = next_token_samples(model)
    wanted = measure_features(features, labels, model.score.weight)
    assert_same(measure_transformer(model, language_batches()), wanted)


@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_a_chosen_vocabulary(kind: Any) -> None:
    model = TinyForCausalLM()
    chosen = [7, 2, 5, 3]
    features, labels = next_token_samples(model)
    kept = torch.isin(labels, torch.tensor(chosen))
    renamed = torch.tensor([chosen.index(int(label)) for label in labels[kept]])
    wanted = measure_features(features[kept], renamed, model.score.weight[chosen])
    measured = measure_transformer(model, language_batches(), vocabulary=kind(chosen))
    assert len(measured.counts) == 4
    assert_same(measured, wanted)


def test_tokens_are_classified_where_they_are() -> None:
    model = TinyForTokenClassification(WORDS)
    kept = LABELS != -100
    wanted = measure_features(
        hidden_of(model)[kept], LABELS[kept], model.score.weight, model.score.bias
    )
    assert_same(measure_transformer(model, language_batches()), wanted)
    assert_same(measure_transformer(model, language_batches(), task="tokens"), wanted)


def test_sequences_by_their_first_or_last_token() -> None:
    first = FirstForSequenceClassification(3)
    wanted = measure_features(hidden_of(first)[:, 0], CLASSES, first.score.weight, first.score.bias)
    assert_same(measure_transformer(first, sequence_batches()), wanted)
    last = LastForSequenceClassification(3)
    ends = torch.tensor([max(t for t in range(9) if TOKENS[n, t] != 0) for n in range(20)])
    wanted = measure_features(
        hidden_of(last)[torch.arange(20), ends], CLASSES, last.score.weight, last.score.bias
    )
    assert_same(measure_transformer(last, sequence_batches()), wanted)


def test_the_model_is_afterwards_as_it_was() -> None:
    model = TinyForCausalLM().train()
    model.body.mix.eval()
    measure_transformer(model, language_batches(), layers="all")
    assert model.training
    assert model.dropout.training
    assert model.score.training
    assert not model.body.mix.training
    assert model.score.weight is model.body.embed.weight
    assert not model.score._forward_pre_hooks


def test_layers_have_the_names_that_the_model_gives_them() -> None:
    model = TinyForCausalLM()
    features, labels = next_token_samples(model)
    measured = measure_transformer(model, language_batches(), layers=["body.embed", "body"])
    assert measured.conventions["layer"] == "input of score"
    assert measured.depth is not None
    embedding, body = measured.depth.layers
    assert (embedding.name, body.name) == ("body.embed", "body")
    # What the body gives is what enters the classifier, at the tokens with a label.
    assert body.metrics["nc1"] == pytest.approx(measured["nc1"])
    assert body.metrics["cdnv"] == pytest.approx(measure_features(features, labels)["cdnv"])
    assert embedding.metrics["nc1"] != pytest.approx(measured["nc1"])


def test_all_layers_end_in_front_of_the_classifier() -> None:
    for model in (TinyForCausalLM(), LastForSequenceClassification(3)):
        batches = language_batches() if isinstance(model, TinyForCausalLM) else sequence_batches()
        measured = measure_transformer(model, batches, layers="all")
        assert measured.depth is not None
        assert [layer.name for layer in measured.depth.layers] == ["body.embed", "body.mix"]


class Crowded(FirstForSequenceClassification):
    """Parts by names that an adapter might want for itself."""

    def __init__(self) -> None:
        super().__init__(3)
        for name in ("model", "head", "task", "tap"):
            setattr(self, name, nn.Linear(WIDTH, 2))


def test_parts_of_any_name_are_left_alone() -> None:
    model = Crowded()
    parts = dict(model.named_modules())
    hidden = hidden_of(model)[:, 0]
    wanted = measure_features(hidden, CLASSES, model.score.weight, model.score.bias)
    measured = measure_transformer(model, sequence_batches(), layer="score", layers=["body.mix"])
    assert_same(measured, wanted)
    assert dict(model.named_modules()) == parts


def test_outsiders_and_weighted_covariances() -> None:
    model = FirstForSequenceClassification(3)
    far = [{**batch, "labels": batch["labels"] + 50} for batch in sequence_batches()[:1]]
    measured = measure_transformer(
        model, sequence_batches(), outsiders=far, weighting="samples", scatter=False
    )
    hidden = hidden_of(model)[:, 0]
    wanted = measure_features(
        hidden,
        CLASSES,
        model.score.weight,
        model.score.bias,
        outsiders=hidden[:7],
        weighting="samples",
        scatter=False,
    )
    assert_same(measured, wanted)
    assert measured["nc5_orthogonality"] > 0


BAD: dict[str, Any] = {
    "layers": ({"layers": ["body.mux"]}, "layers must name modules .* got 'body.mux'.* 'body.mix'"),
    "out of range": ({"vocabulary": [1, 12]}, r"vocabulary must lie in \[0, 12\)"),
    "twice": ({"vocabulary": [1, 1]}, "vocabulary must name each label once"),
    "empty": ({"vocabulary": []}, "vocabulary must be a sequence of integers"),
    "fractions": ({"vocabulary": [0.5]}, "vocabulary must be a sequence of integers"),
    "task": ({"task": "words"}, "task must be one of sequences, tokens, next_tokens"),
    "layer": ({"layer": "lm"}, "layer must name a linear layer of the model, got 'lm'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_give_one_sentence(name: str) -> None:
    options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        measure_transformer(TinyForCausalLM(), language_batches(), **options)


def test_bad_batches_give_one_sentence() -> None:
    model = TinyForCausalLM()
    for given in ({"loader": [(TOKENS, LABELS)]}, {"outsiders": [(TOKENS, LABELS)]}):
        with pytest.raises(TypeError, match="loader must yield dictionaries with labels"):
            measure_transformer(model, **{"loader": language_batches(), **given})
    with pytest.raises(TypeError, match="loader must yield dictionaries with labels"):
        measure_transformer(model, [(TOKENS, LABELS)])
    beyond = {"input_ids": TOKENS, "attention_mask": MASK, "labels": torch.full_like(TOKENS, 40)}
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 12\) or be -100, got 40"):
        measure_transformer(model, [beyond], vocabulary=[1, 2])
    with pytest.raises(
        ValueError, match=r"labels must have shape \(N, T\) with task=.tokens., got"
    ):
        measure_transformer(model, sequence_batches(), task="tokens")


# --- the callback -------------------------------------------------------------------------------


class TrainerCallback:
    """The base class of transformers, as far as it matters."""

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None: ...


@pytest.fixture
def callback_class() -> Iterator[Any]:
    """`CollapseCallback` beside a stand-in for transformers."""
    stand_in = ModuleType("transformers")
    stand_in.TrainerCallback = TrainerCallback  # pyright: ignore[reportAttributeAccessIssue]
    with packages(ADAPTER, {"transformers": stand_in}):
        yield importlib.import_module(ADAPTER).CollapseCallback


class Trainer:
    """Calls the hooks as the Trainer of transformers does, with the same names."""

    def __init__(self, evaluates: bool = True) -> None:
        self.model = TinyForCausalLM()
        self.eval_dataset = object() if evaluates else None
        self.state = SimpleNamespace(epoch=0.0, global_step=0, log_history=[])
        self.logged: list[dict[str, float]] = []

    def get_eval_dataloader(self) -> Any:
        return language_batches()[:2]

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def train(self, callback: Any, epochs: int = 1) -> None:
        callback.on_train_begin(
            SimpleNamespace(), self.state, SimpleNamespace(), model=self.model, optimizer=None
        )
        for epoch in range(epochs):
            self.state.epoch = epoch + 0.9999
            callback.on_epoch_end(
                SimpleNamespace(),
                self.state,
                SimpleNamespace(),
                model=self.model,
                processing_class=None,
                optimizer=None,
                train_dataloader=language_batches(),
                eval_dataloader=None,
            )


def test_it_logs_train_and_evaluation_data(callback_class: Any) -> None:
    assert callback_class.__mro__[1] is TrainerCallback
    trainer = Trainer()
    callback = callback_class(trainer, metrics=["nc1", "accuracy"])
    trainer.train(callback)
    train, evaluation = trainer.logged
    assert [*train] == ["collapse/nc1", "collapse/accuracy"]
    assert [*evaluation] == ["eval_collapse/nc1", "eval_collapse/accuracy"]
    wanted = measure_transformer(trainer.model, language_batches())
    assert train["collapse/nc1"] == pytest.approx(wanted["nc1"])
    assert callback.latest["train"].counts == wanted.counts


def test_loaders_are_named_as_the_trainer_names_its_own(callback_class: Any) -> None:
    trainer = Trainer()
    loaders = dict.fromkeys(("train", "eval", "test", "probe"), language_batches())
    trainer.train(callback_class(trainer, loaders=loaders, metrics=["nc1"]))
    wanted = ["collapse/nc1", "eval_collapse/nc1", "test_collapse/nc1", "collapse/probe/nc1"]
    assert [key for row in trainer.logged for key in row] == wanted


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_tells_training_from_evaluation_data(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import (  # pyright: ignore
        EventAccumulator,
    )

    from neuralcollapse.integrations.transformers import CollapseCallback

    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=16, n_embd=8, n_layer=1, n_head=2
    )
    rows = [{"input_ids": row, "labels": row} for row in TOKENS]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=2, report_to=["tensorboard"], use_cpu=True
    )
    trainer = transformers.Trainer(
        transformers.GPT2LMHeadModel(config), arguments, train_dataset=rows, eval_dataset=rows
    )
    callback = CollapseCallback(trainer)
    trainer.add_callback(callback)
    trainer.train()
    (file,) = tmp_path.rglob("events*")
    events = EventAccumulator(str(file))
    events.Reload()
    for tag, name in (("train/collapse/nc1", "train"), ("eval/collapse/nc1", "eval")):
        first, last = events.Scalars(tag)
        assert first.step < last.step
        assert last.value == pytest.approx(callback.latest[name]["nc1"], rel=1e-6)


def test_without_a_trainer_the_history_keeps_it(callback_class: Any) -> None:
    trainer = Trainer(evaluates=False)
    trainer.train(callback_class(vocabulary=[1, 2, 3]))
    (row,) = trainer.state.log_history
    assert row["step"] == 0
    assert row["epoch"] == pytest.approx(1, abs=1e-3)
    assert "collapse/nc1" in row


@pytest.mark.parametrize(
    "epochs, measured", [(1, 4), (2, 2), ([1, 4, 9], 2), (lambda epoch: epoch == 3, 1)]
)
def test_epochs_are_chosen(callback_class: Any, epochs: Any, measured: int) -> None:
    trainer = Trainer(evaluates=False)
    trainer.train(callback_class(trainer, epochs=epochs), epochs=4)
    assert len(trainer.logged) == measured


def test_loaders_of_ones_own(callback_class: Any) -> None:
    trainer = Trainer()
    trainer.train(callback_class(trainer, loaders={"probe": language_batches()}))
    assert len(trainer.logged) == 1
    assert "collapse/probe/nc1" in trainer.logged[0]


def test_layers_are_logged_by_name(callback_class: Any) -> None:
    trainer = Trainer(evaluates=False)
    callback = callback_class(trainer, layers=["body.embed", "body.mix"], metrics=["nc1"])
    trainer.train(callback)
    depth = callback.latest["train"].depth
    assert trainer.logged == [
        {
            "collapse/nc1": callback.latest["train"]["nc1"],
            "collapse/layers/body.embed/nc1": depth.layers[0].metrics["nc1"],
            "collapse/layers/body.mix/nc1": depth.layers[1].metrics["nc1"],
        }
    ]


def test_options_are_those_of_measuring(callback_class: Any) -> None:
    options: dict[str, Any] = {
        "weighting": "samples",
        "scatter": False,
        "outsiders": language_batches()[:1],
        "layers": "all",
        "pooling": "flatten",
        "jackknife": True,
    }
    trainer = Trainer(evaluates=False)
    callback = callback_class(trainer, **options)
    trainer.train(callback)
    wanted = measure_transformer(trainer.model, language_batches(), split="train", **options)
    assert callback.latest["train"].to_dict() == wanted.to_dict()
    assert "collapse/nc5_orthogonality" in trainer.logged[0]


class Again:
    """Batches of language, and how often they were asked for."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return iter(language_batches())


def test_means_of_the_measurement_before_take_one_pass(
    callback_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_KEPT_BYTES", 0)
    trainer, data = Trainer(), Again()
    chosen = [1, 2, 3, 4]
    callback = callback_class(
        trainer, loaders={"probe": data}, means="previous", vocabulary=chosen, jackknife=True
    )
    trainer.train(callback)
    assert data.passes == 2
    earlier = callback.latest["probe"]
    for epoch in (2, 3):
        with torch.no_grad():
            trainer.model.body.mix.weight.add_(0.5 * torch.randn(WIDTH, WIDTH, generator=GENERATOR))
        trainer.state.epoch = epoch
        callback.on_epoch_end(None, trainer.state, None, model=trainer.model)
        assert data.passes == 1 + epoch
        found = callback.latest["probe"]
        wanted = measure_transformer(
            trainer.model, language_batches(), vocabulary=chosen, means=earlier, jackknife=True
        )
        assert found["nc4_disagreement"] == wanted["nc4_disagreement"]
        assert found.intervals["accuracy"] == wanted.intervals["accuracy"]
        assert found.conventions["nc4"].endswith("class means of the measurement before")
        assert trainer.logged[-1]["collapse/probe/accuracy_low"] == found.intervals["accuracy"].low
        earlier = found
    trainer.train(callback)
    assert callback.latest["probe"].conventions["nc4"].endswith("class means of the same data")


def test_intervals_of_tokens_leave_whole_sequences_out() -> None:
    """Twenty sequences, each a part of its own."""
    model = TinyForCausalLM()
    found = measure_transformer(model, language_batches(), jackknife=True)
    features, labels = next_token_samples(model)
    rows = torch.tensor([n for n in range(20) for t in range(8) if LABELS[n, t + 1] != -100])
    parts = [ClassStatistics.from_features(features[rows == n], labels[rows == n], WORDS)
             for n in range(20)]  # fmt: skip
    wanted = jackknife_intervals(parts, model.score.weight)
    for key in ("nc1", "cdnv", "nc3_duality"):
        assert found.intervals[key].low == pytest.approx(wanted[key].low, rel=1e-4)
        assert found.intervals[key].high == pytest.approx(wanted[key].high, rel=1e-4)


def test_of_rounding_it_warns_once(callback_class: Any) -> None:
    trainer = Trainer()
    with torch.no_grad():  # every token nearly the same
        trainer.model.body.mix.weight.mul_(1e-4)
    trainer.model.bfloat16()
    with pytest.warns(UserWarning, match="collapse/train: of the within-class") as caught:
        trainer.train(callback_class(trainer), epochs=2)
    assert len(caught) == 1


def test_mistakes_are_found_before_training(callback_class: Any) -> None:
    trainer = Trainer()
    with pytest.raises(ValueError, match="layers must name modules"):
        trainer.train(callback_class(trainer, layers=["body.mux"]))
    with pytest.raises(ValueError, match="vocabulary must lie in"):
        trainer.train(callback_class(trainer, vocabulary=[99]))
    assert trainer.logged == []


def test_bad_options_of_the_callback(callback_class: Any) -> None:
    with pytest.raises(ValueError, match="weighting must be one of"):
        callback_class(weighting="classes")
    with pytest.raises(ValueError, match="metrics must be one of"):
        callback_class(metrics=["nc"])
    with pytest.raises(ValueError, match="task must be one of"):
        callback_class(task="words")
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        callback_class(epochs=[0])
    with pytest.raises(ValueError, match="means must be one of previous, train, eval, got 'val'"):
        callback_class(means="val")
    with pytest.raises(TypeError, match="jackknife must be True or False, got 'no'"):
        callback_class(jackknife="no")


def test_without_transformers_the_error_names_it() -> None:
    with (
        packages(ADAPTER, {"transformers": None}),
        pytest.raises(ImportError, match="CollapseCallback needs transformers, which cannot"),
    ):
        importlib.import_module(ADAPTER).CollapseCallback()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_under_the_trainer_of_transformers(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    from neuralcollapse.integrations.transformers import CollapseCallback

    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=16, n_embd=8, n_layer=1, n_head=2
    )
    model = transformers.GPT2LMHeadModel(config)
    rows = [{"input_ids": row, "labels": row} for row in TOKENS]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=2, report_to=[], use_cpu=True
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    callback = CollapseCallback(trainer, means="train", jackknife=True)
    trainer.add_callback(callback)
    trainer.train()
    logged = {key for row in trainer.state.log_history for key in row}
    for key in ("collapse/cdnv", "eval_collapse/cdnv"):
        assert {key, f"{key}_low", f"{key}_high"} <= logged
    assert callback.latest["eval"].conventions["nc4"].endswith("class means of train")


@pytest.mark.parametrize(
    "samples, processes, size", [(61, 4, 8), (33, 4, 8), (64, 4, 8), (5, 2, 4)]
)
def test_samples_that_fill_the_last_batches_count_once(
    samples: int, processes: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches dealt to processes in turns and filled from the start, as accelerate does."""
    from neuralcollapse.integrations import transformers

    whole = size * processes
    filled = torch.cat([torch.arange(samples), torch.arange(whole)])
    rounds = filled[: -(-samples // whole) * whole].reshape(-1, processes, size)
    monkeypatch.setattr(transformers, "num_processes", lambda: processes)
    seen = []
    for rank in range(processes):
        monkeypatch.setattr(transformers, "own_rank", lambda rank=rank: rank)
        for number, batches in enumerate(rounds):
            last = number == len(rounds) - 1
            loader = SimpleNamespace(end_of_dataloader=last, remainder=samples % whole)
            seen.append(transformers._without_repeats(loader, batches[rank]))
    labels = torch.cat(seen)
    assert sorted(labels[labels >= 0].tolist()) == list(range(samples))
