"""The options of a training run: one list for the command line, TOML files and the record."""

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuralcollapse.scalars import check_choice, check_integer, check_number
from neuralcollapse.train.choices import (
    FRAME_NAMES,
    FRAME_SUFFIX,
    HEAD_NAMES,
    LOSS_NAMES,
    WITH_HIERARCHY,
    as_folder,
    check_frame_choice,
    completed,
    head_choice,
    in_words,
    loss_choice,
    needs_hierarchy,
)

AUGMENTATIONS = ("none", "crop", "crop-flip")
PRECISIONS = ("32", "bf16", "64")
# As in `hierarchy.distances`, which needs numpy.
DISTANCES = ("lca_height", "root_depth", "path")
ACCELERATORS = ("auto", "cpu", "cuda", "mps")


def _option(group: str, default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"group": group, "help": text})


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, and how. Field names are the option names, `-` written as `_`."""

    data: str = _option("Data", "digits", "Data set; `neuralcollapse data` lists them.")
    data_root: str | None = _option(
        "Data", None, "Folder or file of the data; a default per data set."
    )
    hierarchy: str | None = _option(
        "Data",
        None,
        "Hierarchy of the classes: a file (see `neuralcollapse hierarchy`), cifar100, "
        "fashion-mnist, wordnet, or with their data fgvc-aircraft, glyphs and synthetic-tree; "
        "where the method needs one, that of the data by default.",
    )
    distances: str = _option(
        "Data",
        "lca_height",
        "How severe a mistake is, in the hierarchy: lca_height, root_depth or path.",
    )
    imbalance: str = _option(
        "Data", "none", "Long tail in the training set: none or exponential:RATIO."
    )
    limit: int | None = _option(
        "Data", None, "Use at most this many training samples, evenly by class."
    )
    image_size: int = _option("Data", 32, "Side in pixels that imagefolder pictures are scaled to.")
    workers: int = _option("Data", 0, "Processes that load pictures (imagefolder).")
    loss: str | None = _option(
        "Method",
        None,
        f"One of {', '.join(LOSS_NAMES)}; options follow a colon: hug:measure=mhs,inter_weight=2.",
    )
    label_smoothing: float = _option(
        "Method", 0.0, "Cross entropy: share of the target spread evenly."
    )
    logit_adjustment: float = _option(
        "Method", 0.0, "Cross entropy: strength of adjustment by class counts."
    )
    true_weight: float = _option("Method", 1.0, "Squared error: weight of the true class.")
    target: float = _option("Method", 1.0, "Squared error: what the true class's logit should be.")
    head: str | None = _option(
        "Method", None, f"One of {', '.join(HEAD_NAMES)}; e.g. class-mean:momentum=0.99."
    )
    bias: bool = _option("Method", True, "Linear head: learn a bias.")
    temperature: float = _option(
        "Method", 0.1, "Cosine, rotated, class-mean, nearest-frame head: divides the cosines."
    )
    frame: str | None = _option(
        "Method",
        None,
        f"Fixed, rotated or nearest-frame head: one of {', '.join(FRAME_NAMES)}, or a "
        f"{FRAME_SUFFIX} file.",
    )
    assign_after: int | None = _option(
        "Method",
        None,
        "Fixed or rotated head: after this epoch, give each class the vector nearest its mean.",
    )
    backbone: str = _option("Network", "auto", "auto, mlp, cnn, resnet18 or timm:NAME.")
    width: int | None = _option(
        "Network", None, "Width of hidden layers (mlp: 256, cnn: 16, resnet18: 64)."
    )
    dim: int | None = _option(
        "Network", None, "Width of the features; by default 128, or K if that is more."
    )
    epochs: int = _option("Optimisation", 100, "Passes over the training set.")
    batch_size: int = _option("Optimisation", 64, "Samples per step, over all devices together.")
    lr: float = _option(
        "Optimisation", 0.05, "Learning rate at the start; it falls to zero along a cosine."
    )
    momentum: float = _option("Optimisation", 0.9, "Momentum of SGD.")
    weight_decay: float = _option(
        "Optimisation", 5e-3, "Decay of all weights, (decay/2) |w|^2 in the loss."
    )
    head_decay: str | None = _option(
        "Optimisation",
        None,
        "Decay of the head instead: one number, or one per layer of a deep-linear head by commas, "
        "next to the features first.",
    )
    feature_decay: float = _option(
        "Optimisation", 0.0, "(decay/2) |h|^2 in the loss, summed over the training set."
    )
    augment: str = _option("Data", "none", f"One of {', '.join(AUGMENTATIONS)}; images only.")
    seed: int = _option(
        "Optimisation", 0, "Seed of the weights, the order of samples and the augmentation."
    )
    split_seed: int = _option("Data", 0, "Seed that draws validation and test samples.")
    validation_share: float = _option("Data", 0.1, "Share of the training data kept for selection.")
    test_share: float = _option("Data", 0.2, "Share kept for testing where data has no test set.")
    accelerator: str = _option("Optimisation", "auto", f"One of {', '.join(ACCELERATORS)}.")
    devices: int = _option("Optimisation", 1, "How many devices to train on.")
    precision: str = _option(
        "Optimisation", "32", f"One of {', '.join(PRECISIONS)}; measured in 32 or 64 always."
    )
    measure_every: int = _option(
        "Record", 0, "Measure every so many epochs; 0: denser at the start."
    )
    measure_samples: int | None = _option(
        "Record", None, "Measure at most this many training and test samples, evenly by class."
    )
    normalize: bool = _option("Record", False, "Measure features at unit length instead of raw.")
    measure: bool = _option(
        "Record", True, "Measure during training; off: only after the last epoch."
    )
    measure_layers: bool = _option(
        "Record",
        False,
        "Also measure every layer on the training samples, as often as these are measured (with "
        "--no-measure after the last epoch): collapse by depth.",
    )
    checkpoint_seconds: float = _option(
        "Record", 10.0, "Save at epoch ends this many seconds apart."
    )

    def __post_init__(self) -> None:
        for name, check in (
            ("loss", loss_choice),
            ("head", head_choice),
            ("frame", check_frame_choice),
        ):
            if getattr(self, name) is not None:
                check(getattr(self, name))
        for name, choices in (
            ("augment", AUGMENTATIONS),
            ("precision", PRECISIONS),
            ("distances", DISTANCES),
            ("accelerator", ACCELERATORS),
        ):
            check_choice(name, getattr(self, name), choices)
        for name in ("epochs", "batch_size", "devices", "image_size"):
            check_integer(name, getattr(self, name), 1)
        for name in ("workers", "measure_every", "seed", "split_seed"):
            check_integer(name, getattr(self, name), 0)
        for name in ("seed", "split_seed"):
            if getattr(self, name) >= 2**63:
                raise ValueError(f"{name} must be below 2**63, got {getattr(self, name)}")
        for name in ("limit", "width", "dim", "measure_samples", "assign_after"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1)
        for name in ("momentum", "weight_decay", "feature_decay", "checkpoint_seconds"):
            check_number(name, getattr(self, name), minimum=0)
        check_number("lr", self.lr, minimum=0, exclusive=True)
        for name in ("validation_share", "test_share"):
            share = check_number(name, getattr(self, name), minimum=0, exclusive=True)
            if share >= 1:
                raise ValueError(f"{name} must be below 1, got {share}")
        if self.batch_size % self.devices:
            raise ValueError(
                f"batch_size must be a multiple of devices={self.devices}, got {self.batch_size}"
            )
        if self.augment != "none" and self.data == "digits":
            raise ValueError("augment must be none for digits: flipped digits are other digits")
        imbalance_ratio(self.imbalance)
        self.head_decays()

    def head_decays(self) -> tuple[float, ...] | None:
        """The decays that `head_decay` lists, or None where it is not given."""
        if self.head_decay is None:
            return None
        try:
            decays = tuple(float(part) for part in self.head_decay.split(","))
        except ValueError:
            raise ValueError(
                f"head_decay must be numbers separated by commas, got {self.head_decay!r}"
            ) from None
        return tuple(check_number("head_decay", decay, minimum=0) for decay in decays)

    @staticmethod
    def from_values(values: Mapping[str, Any]) -> "TrainConfig":
        """A configuration from plain values; unknown names and wrong types are errors."""
        kinds = typing.get_type_hints(TrainConfig)
        checked: dict[str, Any] = {}
        for key, value in values.items():
            name = key.replace("-", "_")
            if name not in kinds:
                close = difflib.get_close_matches(name, kinds, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ValueError(f"there is no option {key!r}{hint}")
            checked[name] = _typed(name, value, kinds[name])
        return TrainConfig(**checked)

    def to_values(self) -> dict[str, Any]:
        """Plain values by option name; the inverse of `from_values`."""
        return dataclasses.asdict(self)

    def methods(self) -> tuple["TrainConfig", ...]:
        """This configuration with loss, head and frame chosen.

        Without any of the three, two methods to compare: cross entropy with a learned head, and
        dot regression on a fixed simplex ETF.
        """
        if self.loss is None and self.head is None and self.frame is None:
            learned = dataclasses.replace(self, loss="cross-entropy")
            fixed = dataclasses.replace(self, loss="dot-regression")
            return (*learned.methods(), *fixed.methods())
        loss, head, frame = completed(self.loss, self.head, self.frame, self.bias)
        hierarchy = self.hierarchy
        if needs_hierarchy(loss, frame) and hierarchy is None:
            hierarchy = self.data.partition(":")[0]
            if hierarchy not in WITH_HIERARCHY:
                what = f"frame={frame}" if frame else f"loss={loss}"
                raise ValueError(
                    f"hierarchy must be given with {what}, since data={self.data} brings none; "
                    f"pass a file or {', '.join(WITH_HIERARCHY)}"
                )
        if self.assign_after is not None and (frame is None or head.startswith("nearest-frame")):
            raise ValueError(
                f"assign_after must go with a frame that stays, got head={head}; use head=fixed or "
                "rotated"
            )
        chosen = {"loss": loss, "head": head, "frame": frame, "hierarchy": hierarchy}
        return (dataclasses.replace(self, **chosen),)

    @property
    def label(self) -> str:
        """The method in words, e.g. "cross entropy, linear head"; of a chosen method."""
        return in_words(self.loss or "", self.head or "", self.frame)

    @property
    def slug(self) -> str:
        """The method as a folder name, e.g. "cross-entropy-linear"; of a chosen method."""
        return as_folder(self.loss or "", self.head or "", self.frame)


def read_toml(path: str | Path) -> dict[str, Any]:
    """The options of a TOML file; a missing or malformed one is a ValueError that names it."""
    try:
        with Path(path).open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable TOML file: {error}") from None


def imbalance_ratio(spec: str) -> float:
    """Largest over smallest class count: 1 for "none", R for "exponential:R"."""
    if spec == "none":
        return 1.0
    kind, _, number = spec.partition(":")
    try:
        ratio = float(number)
    except ValueError:
        ratio = 0.0
    if kind != "exponential" or not 1 <= ratio < float("inf"):
        raise ValueError(
            f"imbalance must be none or exponential:RATIO with a ratio of at least 1, got {spec!r}"
        )
    return ratio


def measured_epochs(config: TrainConfig) -> tuple[int, ...]:
    """The epochs after which to measure, the last among them; 0 means before training."""
    last = config.epochs
    if not config.measure:
        return (last,)
    if config.measure_every:
        return tuple(sorted({*range(0, last, config.measure_every), last}))
    step = max(5, last // 20)
    return tuple(
        sorted({0, last} | {e for e in (1, 2, 3, 5, 8, *range(10, last, step)) if e < last})
    )


def _typed(name: str, value: Any, kind: Any) -> Any:
    """The value if it is of the field's type; whole numbers pass for fractions."""
    allowed = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if name == "precision" and isinstance(value, int):
        value = str(value)
    fits = any(isinstance(value, option) for option in allowed)
    if not fits or (isinstance(value, bool) and bool not in allowed):
        wanted = " or ".join("nothing" if o is types.NoneType else o.__name__ for o in allowed)
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return value
