"""What a loader yields, taken apart: what the model is called with, and labels one a sample."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuralcollapse.checks import INTEGER_DTYPES, check_data

_LABELS = ("labels", "label", "targets", "target", "y")
_INPUTS = ("inputs", "input", "images", "image", "pixel_values", "x", "features", "data")


class _MisnamedInputs(TypeError):
    """A sentence already, also where a model calls another by `run_model`."""


def check_loader(name: str, loader: Any) -> None:
    """Raise if a loader is a batch rather than batches, or nothing that can be run through."""
    if isinstance(loader, Tensor | Mapping | str):
        raise TypeError(
            f"{name} must yield batches, got one {type(loader).__name__}; put it into a list"
        )
    if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
        raise TypeError(
            f"{name} must yield batches, got {type(loader).__name__}; give a "
            "torch.utils.data.DataLoader, or a list of (inputs, labels)"
        )


def split_batch(batch: Any) -> tuple[Any, Tensor]:
    """(inputs, labels) of one batch of a loader.

    A tuple or list holds them in this order; a dictionary or dataclass holds the labels under one
    of the names labels, label, targets, target, y, and its inputs are everything else.

    Raises:
        TypeError: if the batch is nothing of this, or its labels are no tensor.

    Example:
        >>> inputs, labels = split_batch({"input_ids": torch.ones(2, 3), "labels": torch.ones(2)})
        >>> list(inputs), labels.tolist()
        (['input_ids'], [1.0, 1.0])
    """
    fields = _fields(batch)
    if fields is not None:
        name = next((name for name in _LABELS if fields.get(name) is not None), None)
        if name is not None:
            inputs, labels = {k: v for k, v in fields.items() if k != name}, fields[name]
            if isinstance(labels, Tensor) and any(isinstance(v, Tensor) for v in inputs.values()):
                return inputs, _with_data("labels", labels)
        given = f"{type(batch).__name__} of {', '.join(map(str, fields)) or 'nothing'}"
    elif isinstance(batch, tuple | list) and len(batch) >= 2:
        inputs, labels = batch[0], batch[1]
        if isinstance(labels, Tensor) and (isinstance(inputs, Tensor) or _holds_tensors(inputs)):
            return inputs, _with_data("labels", labels)
        given = f"({type(inputs).__name__}, {type(labels).__name__}, ...)"
        if isinstance(labels, int):
            given += ", a single sample; put the data set into a torch.utils.data.DataLoader"
    else:
        given = type(batch).__name__
    raise TypeError(
        "loader must yield (inputs, labels) pairs of tensors, or a dictionary or dataclass with "
        f"the labels under one of {', '.join(_LABELS)}, got {given}"
    )


def run_model(model: nn.Module, inputs: Any, device: torch.device) -> Any:
    """Call a model with the inputs of a batch, moved to the device.

    A tensor is the only argument, a tuple or list gives the arguments in order. Of a dictionary or
    dataclass the entries that `forward` has a name for go by name; where it has none of them, the
    one that is a tensor, or is called inputs, image, x or the like, is the only argument.

    Raises:
        ValueError: if the model fails on them; what it raised is the cause.
    """
    fields = _fields(inputs)
    named: dict[str, Any] = {}
    if fields is not None:
        named = _accepted(model, fields)
        unnamed = [] if named else [_only_input(fields)]
    else:
        unnamed = inputs if isinstance(inputs, tuple | list) else [inputs]
    unnamed = [_moved(value, device) for value in unnamed]
    named = {name: _moved(value, device) for name, value in named.items()}
    try:
        return model(*unnamed, **named)
    except (IndexError, RuntimeError, TypeError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError | _MisnamedInputs):
            raise
        given = [_described(value) for value in unnamed]
        given += [f"{name}={_described(value)}" for name, value in named.items()]
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"model must take the inputs of a batch, got {', '.join(given)} for parameters "
            f"{_placed(model)}: {reason}"
        ) from error


def labelled_samples(
    features: Tensor, labels: Tensor, num_classes: int, ignore_index: int | None
) -> tuple[Tensor, Tensor]:
    """Features (N, d) with labels (N,): one-hot rows read, tokens flattened, ignored ones left out.

    Args:
        features: (N, d) or (..., d).
        labels: (N,), (N, 1), one-hot (N, K), or (...) as the features; of samples to leave out,
            or of all entries of their row, `ignore_index`.
        num_classes: K.
        ignore_index: label of samples to leave out, or None.

    Raises:
        TypeError: if labels are neither integers nor one-hot.
        ValueError: if shapes do not fit, or labels are shares of several classes.

    Example:
        >>> x, y = labelled_samples(torch.ones(2, 4), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 2, -1)
        >>> y.tolist()
        [1, 0]
    """
    per_token = features.dim() > 2 and labels.shape == features.shape[:-1]
    if per_token:
        features, labels = features.flatten(0, -2), labels.flatten()
    elif labels.shape == (len(features), 1) and labels.dtype in INTEGER_DTYPES:
        labels = labels.squeeze(1)
    elif labels.dim() == 2 and labels.shape[1] == num_classes:
        labels = _from_one_hot(labels, ignore_index)
    if features.dim() > 2:
        raise ValueError(
            "labels must have one entry per feature where the classifier receives features of "
            f"shape {tuple(features.shape)}, got labels of shape {tuple(labels.shape)}; pool or "
            "flatten the features before the classifier, or give labels of shape "
            f"{tuple(features.shape[:-1])}"
        )
    if ignore_index is None or labels.shape != (len(features),):
        return features, labels
    kept = (labels != ignore_index).nonzero().squeeze(1)
    if len(kept) == len(labels):
        return features, labels
    return features[kept.to(features.device)], labels[kept]


def _from_one_hot(labels: Tensor, ignore_index: int | None) -> Tensor:
    """(N,), the column that is one in each row of zeros; `ignore_index` for a row of it."""
    ones = labels == 1
    valid = ((labels == 0) | ones).all(1) & (ones.sum(1) == 1)
    found = ones.long().argmax(1)
    if ignore_index is not None:
        left_out = (labels == ignore_index).all(1) & ~valid
        valid, found = valid | left_out, torch.where(left_out, ignore_index, found)
    if not bool(valid.all()):
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} must be one-hot, got rows that are not a "
            "single 1 among zeros; neural collapse is measured for samples of one class each, so "
            "leave out mixing of samples and smoothing of labels"
        )
    return found


def _fields(batch: Any) -> dict[str, Any] | None:
    """The entries of a dictionary, dataclass or named tuple with labels by name, or None."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {item.name: getattr(batch, item.name) for item in dataclasses.fields(batch)}
    names = getattr(batch, "_fields", None)
    if isinstance(batch, tuple) and names and any(name in names for name in _LABELS):
        return dict(zip(names, batch, strict=True))
    return None


def _holds_tensors(value: Any) -> bool:
    fields = _fields(value)
    values = list(fields.values()) if fields is not None else value
    return isinstance(values, tuple | list) and any(isinstance(v, Tensor) for v in values)


def _accepted(model: nn.Module, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the model's `forward` has a parameter for."""
    try:
        parameters = inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return {}
    named = {name: value for name, value in fields.items() if name in parameters}
    tensors = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    kinds = {parameter.kind for parameter in parameters.values()}
    by_name_only = kinds == {inspect.Parameter.VAR_KEYWORD}
    # A wrapper around a model takes anything and passes it on.
    if not named and inspect.Parameter.VAR_KEYWORD in kinds and (len(tensors) > 1 or by_name_only):
        return tensors
    return named


def _only_input(fields: Mapping[str, Any]) -> Any:
    named = [name for name in _INPUTS if isinstance(fields.get(name), Tensor)]
    tensors = named or [name for name, value in fields.items() if isinstance(value, Tensor)]
    if len(tensors) == 1 or named:
        return fields[tensors[0]]
    raise _MisnamedInputs(
        f"loader must yield names that the model's forward has, got {', '.join(fields)}; rename "
        f"them, or call the input {_INPUTS[0]!r}"
    )


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        _with_data("inputs", value)
    return value.to(device) if hasattr(value, "to") else value


def _with_data(name: str, value: Tensor) -> Tensor:
    check_data(name, value)
    return value


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{_plain(value)} of shape {tuple(value.shape)}"
    return type(value).__name__


def _placed(model: nn.Module) -> str:
    """In which types and on which devices the parameters of a model are."""
    found = {f"of {_plain(parameter)} on {parameter.device}" for parameter in model.parameters()}
    return " and ".join(sorted(found)) or "of none"


def _plain(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
