"""Read what enters a model's classifier, and leave the model as it was."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neuralcollapse.heads import AbstractHead
from neuralcollapse.scalars import check_integer, counted

# Layers named in an error.
_MOST_LISTED = 12


class FeatureTap(AbstractContextManager["FeatureTap"]):
    """Reads what enters a model's classifier, and the classifier itself.

    A forward pre-hook that is there inside the `with` block only.

    Args:
        model: any module.
        layer: dotted name of the classifier; without it, the last linear layer (or head of this
            library) whose output is `num_classes` wide, or simply the last one.
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
        self._detach = detach
        self._captured: list[Tensor] = []
        self._handle: Any = None

    @property
    def head(self) -> nn.Linear | AbstractHead:
        """The classifier's module."""
        return self._head

    @property
    def weight(self) -> Tensor:
        """(K, d), the classifier."""
        return self._head.weight.detach()

    @property
    def bias(self) -> Tensor | None:
        """(K,), its bias, or None."""
        return None if self._head.bias is None else self._head.bias.detach()

    def take(self, *, tokens: bool = False) -> Tensor:
        """(N, d), what entered the classifier in the forward pass just made.

        With `tokens`, features of more dimensions, (..., d), pass too.
        """
        captured, self._captured = self._captured, []
        if len(captured) != 1:
            raise ValueError(
                f"layer {self.name!r} must run exactly once per forward pass, ran {len(captured)} "
                f"times; name another layer ({self._candidates})"
            )
        features = captured[0]
        if features.dim() != 2 and not (tokens and features.dim() > 2):
            remedy = "pool or flatten them before the classifier"
            if features.dim() == 1:
                remedy = "give batches, as a torch.utils.data.DataLoader makes them, not samples"
            raise ValueError(
                f"layer {self.name!r} must receive features of shape (N, d), got "
                f"{tuple(features.shape)}; {remedy}"
            )
        return features

    def __enter__(self) -> "FeatureTap":
        def capture(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            features = inputs[0] if inputs else next(iter(named.values()))
            self._captured.append(features.detach() if self._detach else features)

        self._handle = self._head.register_forward_pre_hook(capture, with_kwargs=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self._handle.remove()
        self._captured = []


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
) -> tuple[str, nn.Linear | AbstractHead]:
    """The name and the module of a model's classifier; see `FeatureTap`."""
    heads = _heads(check_model(model))
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


def _heads(model: nn.Module) -> dict[str, nn.Linear | AbstractHead]:
    """The layers of a model that may be its classifier, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | AbstractHead)
        and not isinstance(module, nn.LazyLinear)  # has no shape before its first input
    }


def _listed(heads: Mapping[str, nn.Linear | AbstractHead]) -> str:
    """The layers with their widths, the last of many."""
    shown = [f"{n!r} ({m.weight.shape[1]} -> {len(m.weight)})" for n, m in heads.items()]
    if not shown:
        return "it has none at all"
    more = f"the last {_MOST_LISTED} of " if len(shown) > _MOST_LISTED else ""
    return f"{more}its linear layers are {', '.join(shown[-_MOST_LISTED:])}"
