"""A model's classifier: put another in its place, and hand its operands to a loss."""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from neuralcollapse.heads import AbstractHead
from neuralcollapse.tap import Classifier, FeatureTap, check_model, find_head, weight_rows

_Model = TypeVar("_Model", bound=nn.Module)
# Where models keep the number of their classes, beside the classifier itself.
_COUNTS = ("num_classes", "num_labels")


def to_head(
    model: _Model, head: AbstractHead, *, layer: str | None = None, num_classes: int | None = None
) -> _Model:
    """Put a head in the place of a model's classifier, and return the model.

    The classifier is the last linear layer (or head of this library) that is as wide as the head
    and receives features of its width, and else simply the last. The model is changed in place,
    the head moves to the device and precision of the layer that it replaces, and afterwards
    `FeatureTap` and `measure` find it. Where the number of classes changes, `num_classes` and
    `num_labels` of the model and its `config` follow.

    Make the optimiser afterwards: it must have the new parameters.

    Args:
        model: of timm, torchvision, transformers, or any other with a linear classifier.
        head: its dim is the width of the features that enter the classifier.
        layer: dotted name of the classifier.
        num_classes: width of the classifier to replace.

    Raises:
        TypeError: if head is no head or model no module.
        ValueError: if there is no such classifier, if it receives features of another width, or
            if the model is the classifier itself.

    Example:
        >>> from neuralcollapse.heads import CosineHead
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> to_head(model, CosineHead(num_classes=3, dim=8))[-1]
        CosineHead(3, 8, temperature=0.1)
    """
    if not isinstance(head, AbstractHead):
        raise TypeError(
            f"head must be a head of this library, got {type(head).__name__}; "
            "for example LinearHead(num_classes, dim)"
        )
    name, old = _classifier(model, head, layer, num_classes)
    if not name:
        raise ValueError("model must hold its classifier, got the classifier alone; use the head")
    if isinstance(old, nn.Conv2d):
        raise ValueError(
            f"layer must name a linear layer to replace, got the convolution {name!r}, which "
            "receives (N, d, H, W); put a linear layer in its place first"
        )
    rows, width = old.weight.shape
    if width != head.dim:
        raise ValueError(
            f"head must have dim={width}, the width of the features that enter {name!r}, got "
            f"dim={head.dim}"
        )
    head.to(old.weight.device, old.weight.dtype).train(old.training)
    # Under every name that it has: the model may call it by another than the first.
    for known, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            parent, _, place = known.rpartition(".")
            setattr(model.get_submodule(parent), place, head)
    for owner in (model, getattr(model, "config", None)):
        for count in _COUNTS:
            if rows != head.num_classes and getattr(owner, count, None) == rows:
                setattr(owner, count, head.num_classes)
    return model


def head_operands(
    model: nn.Module,
    *inputs: Any,
    labels: Tensor | None = None,
    layer: str | None = None,
    **named: Any,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run a model and return (features, weight, bias) of its classifier, for a loss.

        loss(features, labels, weight, bias)

    Gradients flow through all three. The logits that the model computes on the way are not used.

    Args:
        model: with a linear layer or a head of this library as its classifier.
        *inputs: what the model is called with.
        labels: (N,), for heads that follow the classes while they train.
        layer: dotted name of the classifier; by default the last linear layer or head.
        **named: what the model is called with, by name.

    Raises:
        TypeError: if the model does not take a batch that is given as a dictionary.
        ValueError: if there is no classifier, or it does not receive features (N, d).

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> features, weight, bias = head_operands(model, model[0].weight.new_zeros(5, 4))
        >>> tuple(features.shape), weight is model[-1].weight
        ((5, 8), True)
    """
    with FeatureTap(model, layer, detach=False) as tap:
        try:
            model(*inputs, **named)
        except (TypeError, AttributeError) as error:
            given = next((value for value in inputs if isinstance(value, Mapping)), None)
            if given is None:
                raise
            raise TypeError(
                f"inputs must be what the model is called with, got a {type(given).__name__} with "
                f"{', '.join(map(str, given))}, which it does not take; unpack it: "
                "head_operands(model, **batch)"
            ) from error
        features = tap.take()
    if isinstance(tap.head, AbstractHead):
        return tap.head.operands(features, labels)
    return features, weight_rows(tap.head), tap.head.bias


def _classifier(
    model: nn.Module, head: AbstractHead, layer: str | None, num_classes: int | None
) -> tuple[str, Classifier]:
    """The one asked for; without a wish, the last of the head's shape, or else the last."""
    check_model(model)
    if layer is None and num_classes is None:
        shape = (head.num_classes, head.dim)
        alike = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | AbstractHead)
            and not isinstance(module, nn.LazyLinear)
            and tuple(module.weight.shape) == shape
        ]
        if alike:
            return alike[-1]
    return find_head(model, layer, num_classes)
