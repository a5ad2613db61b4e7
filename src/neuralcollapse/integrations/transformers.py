"""Neural collapse while the Trainer of transformers trains: classifiers and language models."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuralcollapse.batches import run_model, split_batch
from neuralcollapse.heads import AbstractHead
from neuralcollapse.integrations.adapter import (
    MeansOfBefore,
    base_class,
    checked_epochs,
    checked_keys,
    checked_loaders,
    is_chosen,
    logged,
    measuring_options,
    warn_of_rounding,
)
from neuralcollapse.layers import LayerTap
from neuralcollapse.measurement import Measurement
from neuralcollapse.measuring import measure
from neuralcollapse.metrics.variability import Weighting
from neuralcollapse.positions import Pooling
from neuralcollapse.processes import num_processes, own_rank
from neuralcollapse.scalars import check_choice
from neuralcollapse.statistics import ClassStatistics, GlobalMean
from neuralcollapse.tap import FeatureTap

Task = Literal["sequences", "tokens", "next_tokens"]

_IGNORED = -100
_TASKS: dict[str, Task] = {
    "ForCausalLM": "next_tokens",
    "LMHeadModel": "next_tokens",
    "ForMaskedLM": "tokens",
    "ForTokenClassification": "tokens",
}
_Callback = base_class("CollapseCallback", ("transformers",), "TrainerCallback", "transformers")


class CollapseCallback(_Callback):
    """Measures neural collapse at the end of training epochs and logs it.

        trainer.add_callback(CollapseCallback(trainer))

    Measures what the Trainer trains and evaluates on by `measure_transformer`, in evaluation mode
    and without gradients, and hands `collapse/nc1` of the training data, `eval_collapse/nc1` of the
    evaluation data and so on, and the accuracy, to the Trainer's `log`, which passes them to all
    its reporters: named as `loss` and `eval_loss` are, they become `train/collapse/nc1` and
    `eval/collapse/nc1` in TensorBoard and others. Metrics without a value are left out. Of several
    processes, each measures its part and all log the result of the whole; samples that accelerate
    repeats to fill the last batch count once. Models whose parameters are sharded over processes
    cannot be measured. Where rounding to half precision makes part of the collapse, that is warned
    of, once.

    Args:
        trainer: whose `log` is called, and whose evaluation set is measured even before the first
            evaluation; without it, values go into `state.log_history` only.
        epochs: n for every n-th, or the epochs themselves, counted from 1 as the logs count them,
            or a function from the epoch to whether it is measured.
        task: as of `measure_transformer`.
        vocabulary: as of `measure_transformer`.
        layer: as of `measure_transformer`.
        loaders: what to measure, by name, instead of the Trainer's data. Names other than "train",
            "eval" and "test" are logged as `collapse/name/nc1`.
        prefix: of the names logged.
        metrics: keys to log, "accuracy" among them; by default all.
        normalize: scale every feature to unit length first.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        weighting: as of `measure_transformer`.
        scatter: as of `measure_transformer`.
        outsiders: as of `measure_transformer`.
        layers: as of `measure_transformer`. Logged as `collapse/layers/bert.pooler/nc1` and so on,
            and the law that they follow as `collapse/layers/rho` and `.../r_squared`.
        pooling: as of `measure_transformer`.
        means: whose class means decide in `nc4_disagreement`: "previous" for those of the last
            measurement of the same data in this training, so that NC4 takes one pass however many
            features there are (the first takes its own), or the name of other data, such as
            "train", for its last; by default those of the data itself. `latest` says which.
        jackknife: also find 95 % intervals, as of `measure_transformer`, and log their ends beside
            the values, as `eval_collapse/nc1_low` and `eval_collapse/nc1_high`.

    Attributes:
        latest: the last measurement of each loader by name, with its layers in `depth`.
    """

    def __init__(
        self,
        trainer: Any = None,
        *,
        epochs: int | Sequence[int] | Callable[[int], bool] = 1,
        task: Task | None = None,
        vocabulary: Tensor | Sequence[int] | None = None,
        layer: str | None = None,
        loaders: Mapping[str, Iterable[Any]] | None = None,
        prefix: str = "collapse",
        metrics: Sequence[str] | None = None,
        normalize: bool = False,
        global_mean: GlobalMean = "class",
        weighting: Weighting | None = None,
        scatter: bool | None = None,
        outsiders: Iterable[Any] | None = None,
        layers: Sequence[str] | Literal["blocks", "all"] | None = None,
        pooling: Pooling = "mean",
        means: str | None = None,
        jackknife: bool = False,
    ):
        super().__init__()
        if task is not None:
            check_choice("task", task, ("sequences", "tokens", "next_tokens"))
        self.trainer, self.loaders = trainer, checked_loaders(loaders)
        self.epochs = checked_epochs(epochs, first=1)
        self.prefix, self.metrics = prefix, checked_keys(metrics)
        self.options: dict[str, Any] = {
            "task": task,
            "vocabulary": vocabulary,
            "layer": layer,
            **measuring_options(
                normalize=normalize,
                global_mean=global_mean,
                weighting=weighting,
                scatter=scatter,
                outsiders=outsiders,
                layers=layers,
                pooling=pooling,
                jackknife=jackknife,
            ),
        }
        self._means = MeansOfBefore(means, self.loaders or ("train", "eval"))
        self.latest: dict[str, Measurement] = {}
        self._has_warned = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Look for the classifier and the layers before the first epoch rather than after it."""
        self._means.forget()
        view = _view(
            given["model"], *(self.options[name] for name in ("layer", "task", "vocabulary"))
        )
        if self.options["layers"] is not None:
            LayerTap(view, self.options["layers"], view.name, len(view.head.weight))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure and log, if it is an epoch to be measured."""
        epoch = round(state.epoch)
        if not is_chosen(self.epochs, epoch, epoch):
            return
        for name, loader in self._loaders(given).items():
            measurement = measure_transformer(
                given["model"],
                loader,
                means=self._means.of(name),
                split=name,
                distributed=num_processes() > 1,
                **self.options,
            )
            self.latest[name] = measurement = self._means.keep(name, measurement)
            path = f"{self.prefix}/{name}"
            self._has_warned = self._has_warned or warn_of_rounding(measurement, path)
            values = logged(measurement, _path(self.prefix, name), self.metrics)
            if self.trainer is not None:
                self.trainer.log(values)
            else:
                state.log_history.append(
                    {**values, "epoch": state.epoch, "step": state.global_step}
                )

    def _loaders(self, given: Mapping[str, Any]) -> dict[str, Iterable[Any]]:
        if self.loaders is not None:
            return dict(self.loaders)
        evaluation = given.get("eval_dataloader")
        if evaluation is None and getattr(self.trainer, "eval_dataset", None) is not None:
            evaluation = self.trainer.get_eval_dataloader()
        loaders = {"train": given.get("train_dataloader"), "eval": evaluation}
        return {name: loader for name, loader in loaders.items() if loader is not None}


def _path(prefix: str, name: str) -> str:
    """As the Trainer names things: reporters tell them apart by "eval_" and "test_" in front."""
    if name == "train":
        return prefix
    return f"{name}_{prefix}" if name in ("eval", "test") else f"{prefix}/{name}"


def measure_transformer(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    task: Task | None = None,
    vocabulary: Tensor | Sequence[int] | None = None,
    layer: str | None = None,
    device: torch.device | str | None = None,
    normalize: bool = False,
    global_mean: GlobalMean = "class",
    weighting: Weighting | None = None,
    means: Measurement | ClassStatistics | None = None,
    scatter: bool | None = None,
    outsiders: Iterable[Any] | None = None,
    layers: Sequence[str] | Literal["blocks", "all"] | None = None,
    pooling: Pooling = "mean",
    split: str | None = None,
    jackknife: bool = False,
    distributed: bool = False,
) -> Measurement:
    """Measure a transformer that classifies sequences or tokens, or predicts the next token.

    The classifier is what the model gives as its output embeddings, tied to the input embeddings
    or not, and else its last linear layer. Samples labelled -100 are left out. With a vocabulary,
    accuracy and `nc4_disagreement` are those of a choice among its tokens.

    Args:
        model: of transformers, or like one: called by the names in a batch.
        loader: batches that are dictionaries with labels (N,) or (N, T).
        task: "sequences" for one class per sequence, "tokens" for one per token, "next_tokens" for
            causal language models, where the features at a token go with the label of the next;
            by default as the name of the model's class tells (`...ForCausalLM`, `...LMHeadModel`,
            `...ForMaskedLM`, `...ForTokenClassification`; any other classifies sequences).
        vocabulary: (K,), the labels that are to be the classes, in this order; samples with other
            labels are left out. By default all.
        layer: dotted name of the classifier.
        device: where to run; by default where the model is.
        normalize: scale every feature to unit length first.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        weighting: of the covariances, "balanced" or "samples", as of `neuralcollapse.measure`.
        means: whose class means decide in `nc4_disagreement`, such as those of an earlier
            measurement with the same vocabulary; see `neuralcollapse.measure`.
        scatter: accumulate the (d, d) scatter, as of `neuralcollapse.measure`.
        outsiders: batches as of the loader, of samples that belong to none of the classes, for
            `nc5_orthogonality`; labels are not looked at, and every process takes all of them. Of
            tasks by token, every position counts, padding too.
        layers: also measure these layers, by dotted name in the model, "blocks" or "all"; see
            `neuralcollapse.measure`. Of tasks by token, each token of a layer is a sample.
        pooling: how layers that give (N, T, d) become one row for each sequence: the "mean" over
            all positions, padding too, or "flatten".
        split: what the data is, for the record, e.g. "train".
        jackknife: also find 95 % intervals, as of `neuralcollapse.measure`. Of tasks by token,
            whole sequences are left out, since tokens of one are not independent.
        distributed: the loader holds one process's part of the data.

    Raises:
        TypeError: if the loader does not yield dictionaries with labels.
        ValueError: if the vocabulary does not fit, or as of `neuralcollapse.measure`.

    Example:
        >>> class TinyForCausalLM(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embed, self.lm_head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        ...         self.lm_head.weight = self.embed.weight
        ...
        ...     def forward(self, input_ids):
        ...         return self.lm_head(self.embed(input_ids))
        >>> tokens = torch.tensor([[1, 2, 1, 3, 1, 2], [2, 1, 3, 1, 2, 3]])
        >>> batch = {"input_ids": tokens, "labels": tokens}
        >>> measure_transformer(TinyForCausalLM(), [batch], vocabulary=[1, 2, 3]).counts
        (4, 3, 3)
    """
    view = _view(model, layer, task, vocabulary)
    return measure(
        view,
        _Labelled(loader, view.labels_of),
        layer=view.name,
        device=device,
        normalize=normalize,
        global_mean=global_mean,
        weighting=weighting,
        means=means,
        scatter=scatter,
        outsiders=None if outsiders is None else _Labelled(outsiders, lambda labels: labels),
        layers=layers,
        pooling=pooling,
        split=split,
        jackknife=jackknife,
        distributed=distributed,
        progress=False,
    )


def _view(model: nn.Module, layer: str | None, task: Task | None, vocabulary: Any) -> "_View":
    """The view of a model, of its own task and classifier where none are named."""
    task = _task_of(model) if task is None else task
    check_choice("task", task, ("sequences", "tokens", "next_tokens"))
    return _View(model, layer if layer is not None else _output_embeddings(model), task, vocabulary)


def _task_of(model: nn.Module) -> Task:
    """What the name of the model's class says."""
    name = type(model).__name__
    for end, task in _TASKS.items():
        if name.endswith(end):
            return task
    return "sequences"


def _output_embeddings(model: nn.Module) -> str | None:
    """The name of the layer that the model calls its output embeddings, if it is linear."""
    find = getattr(model, "get_output_embeddings", None)
    layer = find() if callable(find) else None
    if not isinstance(layer, nn.Linear):
        return None
    return next((name for name, module in model.named_modules() if module is layer), None)


class _Rows(AbstractHead):
    """Some rows of a classifier; what enters it is read, so it need not decide."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def operands(
        self, features: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        return features, self.weight, self.bias

    def forward(self, features: Tensor) -> Tensor:
        return features


class _View(nn.Module):
    """A transformer whose classifier receives the features that labels go with, and no others.

    Its parts are those of the model, by their names there. Under the classifier's name stands a
    head that is run in front of it.
    """

    model: nn.Module
    head: _Rows

    def __init__(self, model: nn.Module, layer: str | None, task: Task, vocabulary: Any):
        super().__init__()
        self.task: Task = task
        self.tap = FeatureTap(model, layer)
        self.name = self.tap.name
        weight, bias = self.tap.weight, self.tap.bias
        self.width = len(weight)
        self.classes = _classes(vocabulary, self.width)
        if self.classes is not None:
            weight = weight[self.classes.to(weight.device)]
            bias = None if bias is None else bias[self.classes.to(weight.device)]
        # Not as parts of the view: those are the model's own, whatever they are called.
        head = _Rows(weight, bias)
        self.__dict__.update(model=model, head=head, _modules=model._modules)

    def named_modules(self, *args: Any, **kwargs: Any) -> Generator[tuple[str, nn.Module]]:
        """The modules of the model and, behind its classifier, the head by the same name."""
        for name, module in self.model.named_modules(*args, **kwargs):
            yield name, module
            if name == self.name:
                yield name, self.head

    def children(self) -> Generator[nn.Module]:
        """The model and the head, which follow the view to devices and modes."""
        yield from (self.model, self.head)

    def forward(self, **fields: Any) -> None:
        def enter(classifier: nn.Module, inputs: Any) -> None:
            features = self.tap.take(tokens=True)
            if self.task == "sequences" and features.dim() == 3:
                features = _last_tokens(self.model, features, fields)
            self.head(features)

        with self.tap, self.tap.head.register_forward_pre_hook(enter):
            run_model(self.model, fields, self.head.weight.device)

    def labels_of(self, labels: Tensor) -> Tensor:
        """The labels that go with the features: shifted, and numbered as the vocabulary says."""
        self._check_labels(labels)
        if self.task == "next_tokens":
            last = torch.full_like(labels[..., :1], _IGNORED)
            labels = torch.cat([labels[..., 1:], last], dim=-1)
        if self.classes is None:
            return labels
        places = torch.full((self.width,), _IGNORED, dtype=torch.int64)
        places[self.classes] = torch.arange(len(self.classes))
        places = places.to(labels.device)
        return torch.where(labels < 0, _IGNORED, places[labels.clamp(min=0)])

    def _check_labels(self, labels: Tensor) -> None:
        if self.task == "sequences":
            if labels.dim() == 2 and labels.shape[1] not in (1, self.width):
                raise ValueError(
                    "labels must have one entry per sequence with task='sequences', got shape "
                    f"{tuple(labels.shape)}; use task='tokens' for a class per token"
                )
            return
        if labels.dim() != 2:
            raise ValueError(
                f"labels must have shape (N, T) with task={self.task!r}, got "
                f"{tuple(labels.shape)}; use task='sequences' for a class per sequence"
            )
        outside = (labels != _IGNORED) & ((labels < 0) | (labels >= self.width))
        if bool(outside.any()):
            raise ValueError(
                f"labels must lie in [0, {self.width}) or be {_IGNORED}, got "
                f"{int(labels[outside][0])}; is it the tokeniser of this model?"
            )


class _Labelled:
    """Batches with labels made to go with the features, as often as wanted."""

    def __init__(self, loader: Iterable[Any], relabel: Callable[[Tensor], Tensor]):
        self.loader, self._relabel = loader, relabel

    def __iter__(self) -> Iterator[tuple[Mapping[str, Any], Tensor]]:
        for batch in self.loader:
            fields, labels = split_batch(batch)
            if not isinstance(fields, Mapping):
                raise TypeError(
                    "loader must yield dictionaries with labels, got a "
                    f"{type(batch).__name__}; use neuralcollapse.measure"
                )
            yield fields, _without_repeats(self.loader, self._relabel(labels))


def _without_repeats(loader: Any, labels: Tensor) -> Tensor:
    """Labels of a batch, those of samples that are in another process's batch too left out.

    The loaders of accelerate fill the last batches of all processes, of which the first `remainder`
    samples, in the order of the processes, are the last of the data.
    """
    remainder = getattr(loader, "remainder", -1)
    if num_processes() == 1 or remainder <= 0 or not getattr(loader, "end_of_dataloader", False):
        return labels
    own = min(max(0, remainder - own_rank() * len(labels)), len(labels))
    labels = labels.clone()
    labels[own:] = _IGNORED
    return labels


def _last_tokens(model: nn.Module, features: Tensor, fields: Mapping[str, Any]) -> Tensor:
    """(N, d), the features of the last token of each sequence that is no padding."""
    padding = getattr(getattr(model, "config", None), "pad_token_id", None)
    tokens = fields.get("input_ids")
    if padding is None or tokens is None:
        return features[:, -1]
    places = torch.arange(tokens.shape[1], device=tokens.device)
    last = torch.where(tokens != padding, places, -1).argmax(1).to(features.device)
    return features[torch.arange(len(features), device=features.device), last]


def _classes(vocabulary: Any, width: int) -> Tensor | None:
    """(K,), the labels of a vocabulary, checked."""
    if vocabulary is None:
        return None
    try:
        classes = torch.as_tensor(vocabulary).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"vocabulary must be a sequence of integers, got {type(vocabulary).__name__} ({error})"
        ) from None
    if classes.dim() != 1 or classes.dtype not in (torch.int64, torch.int32) or not len(classes):
        raise ValueError(
            "vocabulary must be a sequence of integers, one for each class, got shape "
            f"{tuple(classes.shape)} of {str(classes.dtype).removeprefix('torch.')}"
        )
    if int(classes.min()) < 0 or int(classes.max()) >= width:
        raise ValueError(
            f"vocabulary must lie in [0, {width}), the rows of the classifier, got values from "
            f"{int(classes.min())} to {int(classes.max())}"
        )
    if len(classes.unique()) < len(classes):
        raise ValueError("vocabulary must name each label once, got some twice")
    return classes.long()
