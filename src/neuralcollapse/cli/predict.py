"""`neuralcollapse predict`: what a network will collapse to, before it is trained."""

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from neuralcollapse.cli.files import AsJson
from neuralcollapse.scalars import check_integer
from neuralcollapse.train.config import imbalance_ratio

# Distinct counts from which a convex program takes more than some seconds.
_MANY_GROUPS = 150
# Gram matrices of more classes would take tens of megabytes as text.
_MOST_CLASSES_WITH_GRAMS = 500


def predict(
    counts: Annotated[
        str | None, typer.Option(help="Samples per class, e.g. 5000,2997,1796,50.")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="K, instead of --counts.")] = None,
    per_class: Annotated[
        int | None, typer.Option(help="Samples of the largest class, with --classes.")
    ] = None,
    imbalance: Annotated[
        str, typer.Option(help="With --classes: none or exponential:RATIO, a long tail.")
    ] = "none",
    loss: Annotated[
        str, typer.Option(help="mse, ce, label_smoothing, focal, cdt, ldt or weighted_mse.")
    ] = "mse",
    depth: Annotated[int, typer.Option(help="Linear layers after the features.")] = 1,
    bias: Annotated[str, typer.Option(help="none, free, or its decay, e.g. 0.05.")] = "none",
    weight_decay: Annotated[
        str, typer.Option(help="Of the linear layers: one number, or one per layer by commas.")
    ] = "5e-4",
    feature_decay: Annotated[
        float, typer.Option(help="Of the features, summed over the training set.")
    ] = 1e-5,
    dim: Annotated[int | None, typer.Option(help="Width of the features.")] = None,
    widths: Annotated[
        str | None, typer.Option(help="Widths between the linear layers, by commas.")
    ] = None,
    activation: Annotated[
        Literal["linear", "relu"], typer.Option(help="relu: features cannot be negative.")
    ] = "linear",
    class_weights: Annotated[
        str | None, typer.Option(help="weighted_mse: factor of each class, by commas.")
    ] = None,
    class_scales: Annotated[
        str | None, typer.Option(help="cdt, ldt: the scale of each class, by commas.")
    ] = None,
    label_smoothing: Annotated[
        float | None,
        typer.Option(help="label_smoothing: share of the target spread evenly; by default 0.1."),
    ] = None,
    focal_power: Annotated[
        float | None, typer.Option(help="focal: its exponent; by default 2.")
    ] = None,
    as_json: AsJson = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Also write a page with figures (.html) or JSON (.json)."),
    ] = None,
) -> None:
    """Predict norms, angles, logits and dead classes from counts, loss and decay.

    The minimum over a classifier and free features of the mean loss plus decay: cross entropy, or
    half the squared distance to one-hot targets. `neuralcollapse.theory.from_training` converts
    the settings of a PyTorch run to these constants.
    """
    _check_out(out)
    loss = loss.replace("-", "_")
    options: dict[str, Any] = {
        "loss": loss,
        "depth": depth,
        "bias": _bias(bias),
        "weight_decay": _decays(weight_decay),
        "feature_decay": feature_decay,
        "dim": dim,
        "widths": None if widths is None else _whole_numbers("widths", widths),
        "activation": activation,
        "class_weights": None
        if class_weights is None
        else _numbers("class_weights", class_weights),
        "class_scales": None if class_scales is None else _numbers("class_scales", class_scales),
    } | _of_one_loss(loss, label_smoothing=label_smoothing, focal_power=focal_power)
    sizes = _counts(counts, classes, per_class, imbalance)
    from neuralcollapse import theory

    with announced(sizes, options):
        prediction = theory.predict(sizes, **options)
    if out is not None:
        _write(prediction, out)
    if as_json:
        print(json.dumps(_plain(prediction), allow_nan=False))
        return
    print(prediction)
    if out is not None:
        print(f"written: {out}")


def announced(sizes: list[int], options: dict[str, Any]) -> AbstractContextManager[Any]:
    """Says on standard error that it will take long, where it will."""
    groups, loss, bias = len(set(sizes)), options["loss"], options["bias"]
    closed = (loss == "mse" and bias in ("none", "free")) or (loss, bias) == (
        "weighted_mse",
        "none",
    )
    if groups <= _MANY_GROUPS or closed or options["activation"] == "relu":
        return nullcontext()
    from rich.console import Console

    console = Console(stderr=True)
    console.print(
        f"a convex program over {groups} different counts: half a minute for 300, the time of "
        "twice as many is ten times as long; equal counts are solved as one",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    return console.status("solving")


def _check_out(out: Path | None) -> None:
    """Raise for a file that cannot be written, before solving anything."""
    if out is None:
        return
    if out.suffix not in (".html", ".json"):
        raise ValueError(f"out must end in .html or .json, got {out}")
    if out.is_dir():
        raise ValueError(f"out must be a file, got the folder {out}; name a file in it")
    if not out.parent.is_dir():
        raise ValueError(f"out must lie in a folder that exists, got {out}; make {out.parent}")


def _plain(prediction: Any) -> dict[str, Any]:
    """For JSON; of many classes without their Gram matrices, and saying so."""
    many = prediction.num_classes > _MOST_CLASSES_WITH_GRAMS
    plain = prediction.to_dict(grams=not many)
    if many:
        plain["warnings"].append(
            f"gram_classifier and gram_features are left out for more than "
            f"{_MOST_CLASSES_WITH_GRAMS} classes; neuralcollapse.theory.predict has them"
        )
    return plain


def _of_one_loss(loss: str, **options: float | None) -> dict[str, float]:
    """The options that were given, each of which belongs to one loss."""
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        owner = "focal" if name == "focal_power" else name
        if loss != owner:
            raise ValueError(f"{name} must go with loss={owner}, got loss={loss}; leave it out")
    return given


def _write(prediction: Any, out: Path) -> None:
    from neuralcollapse.files import write_json

    if out.suffix == ".json":
        write_json(out, _plain(prediction))
        return
    from neuralcollapse.report import write_prediction

    write_prediction(prediction, out)


def _counts(
    counts: str | None, classes: int | None, per_class: int | None, imbalance: str
) -> list[int]:
    """Samples per class, from a list or from a rule."""
    if counts is not None:
        if classes is not None or per_class is not None or imbalance != "none":
            raise ValueError(
                "counts must come without classes, per_class and imbalance; leave out one or the "
                "others"
            )
        return _whole_numbers("counts", counts)
    if classes is None or per_class is None:
        raise ValueError("counts must be given, or classes and per_class; e.g. --counts 500,100,20")
    check_integer("classes", classes, 2)
    check_integer("per_class", per_class, 1)
    ratio = imbalance_ratio(imbalance)
    # The last digit of a power must not cost a sample.
    tail = [per_class * ratio ** (-k / (classes - 1)) * (1 + 1e-12) for k in range(classes)]
    return [max(1, int(size)) for size in tail]


def _bias(text: str) -> float | str:
    if text in ("none", "free"):
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"bias must be none, free or a decay, got {text!r}") from None


def _decays(text: str) -> float | list[float]:
    values = _numbers("weight_decay", text)
    return values[0] if len(values) == 1 else values


def _numbers(name: str, text: str) -> list[float]:
    return [_number(name, part) for part in text.split(",")]


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"{name} must be numbers separated by commas, got {text.strip()!r}"
        ) from None


def _whole_numbers(name: str, text: str) -> list[int]:
    values = _numbers(name, text)
    for value, part in zip(values, text.split(","), strict=True):
        if not value.is_integer():
            raise ValueError(f"{name} must be whole numbers, got {part.strip()!r}")
    return [int(value) for value in values]
