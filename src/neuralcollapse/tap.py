"""Read what enters a model's classifier, and leave the model as it was."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from neuralcollapse.heads import AbstractHead
from neuralcollapse.positions import first_tensor
from neuralcollapse.scalars import check_boolean, check_integer, counted

# Layers named in an error.
_MOST_LISTED = 12

Classifier = nn.Linear | AbstractHead | nn.Conv2d

# Convolutions on a GPU keep ten bits of each factor, whatever the type of the features.
_TF32 = 2e-3


class FeatureTap(AbstractContextManager["FeatureTap"]):
    """Reads what enters a model's classifier, and the classifier itself.

    A forward pre-hook that is there inside the `with` block only.

    Args:
        model: any module.
        layer: dotted name of the classifier; without it, the last linear layer (or head of this
            library) whose output is `num_classes` wide, or simply the last one. A 1 x 1 convolution
            counts where it is the last layer with weights, or is named.
        num_classes: K.
        detach: cut what is read off the graph; without it, gradients flow through it.

    Raises:
        ValueError: if there is no such layer; the message names the candidates.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> with FeatureTap(model, num_classes=3) as tap:
        ...     logits = model(torch.zeros(5, 4))
        ...     features = tap.take()
        >>> tap.name, tuple(features.shape), tuple(tap.weight.shape)
        ('2', (5, 8), (3, 8))
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        num_classes: int | None = None,
        *,
        detach: bool = True,
    ):
        if num_classes is not None:
            check_integer("num_classes", num_classes, 1)
        self.name, self._head = find_head(model, layer, num_classes)
        self._candidates = _listed(_heads(model))
        self._detach = check_boolean("detach", detach)
        self._model, self._given = model, None
        self._captured: list[Tensor] = []
        self._handles: list[Any] = []

    @property
    def head(self) -> Classifier:
        """The classifier's module."""
        return self._head

    @property
    def weight(self) -> Tensor:
        """(K, d), the classifier."""
        return weight_rows(self._head).detach()

    @property
    def bias(self) -> Tensor | None:
        """(K,), its bias, or None."""
        return None if self._head.bias is None else self._head.bias.detach()

    def take(self, *, tokens: bool = False) -> Tensor:
        """(N, d), what entered the classifier in the forward pass just made.

        With `tokens`, features of more dimensions, (..., d), pass too. What enters a convolution is
        averaged over positions; where these are several, the model must give the logits of this
        mean.
        """
        captured, self._captured = self._captured, []
        if len(captured) != 1:
            raise ValueError(
                f"layer {self.name!r} must run exactly once per forward pass, ran {len(captured)} "
                f"times; name another layer ({self._candidates})"
            )
        features, given, self._given = captured[0], self._given, None
        if isinstance(self._head, nn.Conv2d) and features.dim() == 4:
            return self._pooled(features, given)
        if features.dim() != 2 and not (tokens and features.dim() > 2):
            remedy = "pool or flatten them before the classifier"
            if features.dim() == 1:
                remedy = "give batches, as a torch.utils.data.DataLoader makes them, not samples"
            raise ValueError(
                f"layer {self.name!r} must receive features of shape (N, d), got "
                f"{tuple(features.shape)}; {remedy}"
            )
        return features

    def _pooled(self, features: Tensor, given: Any) -> Tensor:
        """(N, d) of what entered a convolution, (N, d, H, W)."""
        pooled = features.flatten(2).mean(2)
        if features.shape[2:].numel() == 1 or not len(features):
            return pooled
        with torch.no_grad():
            logits = nn.functional.linear(pooled.to(self.weight.dtype), self.weight, self.bias)
            given = first_tensor(getattr(given, "logits", given))
            if isinstance(given, Tensor) and given.shape == logits.shape:
                rounding = max(_TF32, torch.finfo(features.dtype).eps ** 0.5)
                difference = (given.to(logits.dtype) - logits).abs().max()
                if bool(difference <= rounding * logits.abs().max()):
                    return pooled
        raise ValueError(
            f"layer {self.name!r} must give the model's logits for the mean of what it receives, "
            "got a convolution whose outputs at several positions become something else, as by a "
            "ReLU in front of the average; no linear classifier of one feature a sample decides as "
            "this model does, so name a linear layer, or give pooled features to measure_features"
        )

    def __enter__(self) -> "FeatureTap":
        def capture(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            features = inputs[0] if inputs else next(iter(named.values()))
            self._captured.append(features.detach() if self._detach else features)

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self._given = output

        self._handles = [self._head.register_forward_pre_hook(capture, with_kwargs=True)]
        if isinstance(self._head, nn.Conv2d):
            self._handles.append(self._model.register_forward_hook(keep))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._captured, self._given = [], None


@contextmanager
def evaluating(
    model: nn.Module, device: torch.device | str | None = None
) -> Iterator[torch.device]:
    """Evaluation mode without gradients; gives the device, by default where the model is.

    Modes, of every submodule, and device are afterwards as they were.
    """
    modes = {module: module.training for module in model.modules()}
    placed = next(iter([*model.parameters(), *model.buffers()]), torch.empty(0)).device
    try:
        device = placed if device is None else torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be one of torch's, got {device!r}: {error}") from None
    if "meta" in (placed.type, device.type):
        raise ValueError(
            "model must have its parameters in memory, got the meta device; give a device to "
            "model.to_empty and load its state"
        )
    try:
        if device != placed:
            _move(model, device)
        model.eval()
        # A loader draws from the global generator; training must go on as if nobody had measured.
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            yield device
    finally:
        for module, mode in modes.items():
            module.training = mode
        if device != placed:
            model.to(placed)


def _move(model: nn.Module, device: torch.device) -> None:
    try:
        model.to(device)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device must be one that is here, got {device}: {reason}") from None


def check_model(model: Any) -> nn.Module:
    """Return the model if it is a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    return model


def find_head(
    model: nn.Module, layer: str | None = None, num_classes: int | None = None
) -> tuple[str, Classifier]:
    """The name and the module of a model's classifier; see `FeatureTap`."""
    heads = _heads(check_model(model), layer)
    candidates = _listed(heads)
    if layer is not None:
        if layer not in heads:
            raise ValueError(
                f"layer must name a linear layer of the model, got {layer!r}; {candidates}"
            )
        wide = {layer: heads[layer]}
    else:
        wide = heads
    if num_classes is not None:
        wide = {name: head for name, head in wide.items() if len(head.weight) == num_classes}
    if not wide:
        what = f"with {counted(num_classes, 'output')}" if num_classes is not None else ""
        named = f" named {layer!r}" if layer is not None else ""
        remedy = "; name one with layer=..., or correct num_classes"
        if not heads:
            remedy = (
                "; end it in a torch.nn.Linear or a head of this library, or work on its features "
                "without it, as measure_features does"
            )
        raise ValueError(
            f"model has no linear layer{named} {what}".rstrip() + f": {candidates}{remedy}"
        )
    name = list(wide)[-1]
    return name, wide[name]


def weight_rows(head: Classifier) -> Tensor:
    """(K, d), the weight of a classifier."""
    return head.weight.flatten(1) if isinstance(head, nn.Conv2d) else head.weight


def _heads(model: nn.Module, named: str | None = None) -> dict[str, Classifier]:
    """The layers of a model that may be its classifier, by name."""
    modules = dict(model.named_modules())
    heads: dict[str, Classifier] = {
        name: module
        for name, module in modules.items()
        if isinstance(module, nn.Linear | AbstractHead)
        and not isinstance(module, nn.LazyLinear)  # has no shape before its first input
    }
    last = next((n for n in reversed([*modules]) if _has_weights(modules[n])), None)
    for name in (last, named):  # convolutions of this size stand everywhere: the last, or by name
        module = None if name is None else modules.get(name)
        if name is not None and _is_pointwise(module):
            heads[name] = module
    return heads


def _listed(heads: Mapping[str, Classifier]) -> str:
    """The layers with their widths, the last of many."""
    shown = [f"{n!r} ({m.weight.shape[1]} -> {len(m.weight)})" for n, m in heads.items()]
    if not shown:
        return "it has none at all"
    more = f"the last {_MOST_LISTED} of " if len(shown) > _MOST_LISTED else ""
    return f"{more}its linear layers are {', '.join(shown[-_MOST_LISTED:])}"


def _is_pointwise(module: nn.Module | None) -> TypeGuard[nn.Conv2d]:
    """Whether a module is a linear layer for each position: a plain 1 x 1 convolution."""
    # A subclass may do something to its weight first.
    return type(module) is nn.Conv2d and (
        (module.kernel_size, module.stride, module.groups) == ((1, 1), (1, 1), 1)
        and module.padding in ((0, 0), "valid", "same")
    )


def _has_weights(module: nn.Module) -> bool:
    return isinstance(module, AbstractHead) or any(
        not isinstance(parameter, UninitializedParameter) and parameter.dim() > 1
        for parameter in module.parameters(recurse=False)
    )
