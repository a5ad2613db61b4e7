"""Data sets: where they come from, and their training, validation and test parts."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neuralcollapse.checks import check_finite
from neuralcollapse.files import read_npz
from neuralcollapse.train.config import TrainConfig, imbalance_ratio
from neuralcollapse.train.fashion_mnist import read_fashion_mnist
from neuralcollapse.train.glyph_sets import read_glyphs
from neuralcollapse.train.picture_sets import read_aircraft, read_cifar100
from neuralcollapse.train.samples import (
    AbstractSamples,
    PictureSamples,
    TensorSamples,
    stratified_cut,
    thinned,
)
from neuralcollapse.train.synthetic_tree import read_synthetic_tree
from neuralcollapse.train.text_sets import read_wordnet

DATA_ROOT_VARIABLE = "NEURALCOLLAPSE_DATA"
_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff"}


@dataclass(frozen=True)
class Source:
    """Labelled samples as they come, before they are cut.

    `test` and `validation` are None where the data has no such part of its own.
    """

    train: AbstractSamples
    test: AbstractSamples | None
    classes: tuple[str, ...]
    validation: AbstractSamples | None = None


@dataclass(frozen=True)
class Data:
    """The three parts of a data set. Selection is on `validation`, never on `test`."""

    train: AbstractSamples
    validation: AbstractSamples
    test: AbstractSamples
    classes: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input: (d,) or (channels, height, width)."""
        return tuple(self.train.inputs(torch.tensor([0])).shape[1:])

    def counts(self) -> dict[str, list[int]]:
        """Samples per class in each part."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            name: torch.bincount(part.labels, minlength=self.num_classes).tolist()
            for name, part in parts.items()
        }


@dataclass(frozen=True)
class DataSet:
    """One row of the list of data sets."""

    name: str
    read: Callable[[TrainConfig], Source]
    summary: str
    needs: str


def load_data(config: TrainConfig) -> Data:
    """The data that a configuration names, cut into its parts.

    Raises:
        ValueError: if the data is unknown, missing or malformed; the sentence says how to get it.
    """
    name = config.data.partition(":")[0]
    rows = {row.name.partition(":")[0]: row for row in DATA_SETS}
    if name not in rows:
        known = ", ".join(row.name for row in DATA_SETS)
        raise ValueError(f"data must be one of {known}, got {config.data!r}")
    source = rows[name].read(config)
    return cut(source, config)


def cut(source: Source, config: TrainConfig) -> Data:
    """Training, validation and test parts; only the training part is thinned."""
    num_classes = len(source.classes)
    if num_classes < 2:
        raise ValueError("data must have at least two classes, got one")
    counts = torch.bincount(source.train.labels, minlength=num_classes)
    needed = 1 + (source.test is None) + (source.validation is None)
    if int(counts.min()) < needed:
        rare = source.classes[int(counts.argmin())]
        raise ValueError(
            f"data must have at least {needed} samples of every class to be cut into parts, got "
            f"{int(counts.min())} of class {rare!r}; leave that class out"
        )
    train, validation, test = source.train, source.validation, source.test
    if test is None:
        kept, taken = stratified_cut(train.labels, config.test_share, config.split_seed)
        train, test = train.subset(kept), train.subset(taken)
    if validation is None:
        kept, taken = stratified_cut(train.labels, config.validation_share, config.split_seed + 1)
        train, validation = train.subset(kept), train.subset(taken)
    ratio = imbalance_ratio(config.imbalance)
    if ratio > 1 or config.limit is not None:
        if config.limit is not None and config.limit < num_classes:
            raise ValueError(
                f"limit must be at least {num_classes} (one per class), got {config.limit}"
            )
        train = train.subset(thinned(train.labels, num_classes, ratio, config.limit))
    return Data(train, validation, test, source.classes)


def _digits(config: TrainConfig) -> Source:
    try:
        from sklearn.datasets import load_digits
    except (ImportError, RuntimeError) as error:
        raise ValueError(_needs_train("digits", error)) from None
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().unsqueeze(1)  # pyright: ignore[reportAttributeAccessIssue]
    labels = torch.from_numpy(bunch.target).long()  # pyright: ignore[reportAttributeAccessIssue]
    return Source(TensorSamples(images, labels), None, tuple("0123456789"))


def data_roots(config: TrainConfig) -> list[Path]:
    """Where data of a well-known name may lie: what was given, then what the variable names."""
    named = (config.data_root, os.environ.get(DATA_ROOT_VARIABLE))
    return [Path(root) for root in named if root]


def _cifar100(config: TrainConfig) -> Source:
    return Source(*read_cifar100(data_roots(config)))


def _aircraft(config: TrainConfig) -> Source:
    _check_pillow(config)
    return Source(*read_aircraft(data_roots(config), config.image_size))


def _fashion_mnist(config: TrainConfig) -> Source:
    return Source(*read_fashion_mnist(data_roots(config)))


def _wordnet(config: TrainConfig) -> Source:
    samples, classes = read_wordnet(config.data)
    return Source(samples, None, classes)


def _synthetic_tree(config: TrainConfig) -> Source:
    samples, classes = read_synthetic_tree(config.data)
    return Source(samples, None, classes)


def _glyphs(config: TrainConfig) -> Source:
    _check_pillow(config)
    shares = config.validation_share, config.test_share
    train, validation, test, classes = read_glyphs(data_roots(config), *shares, config.split_seed)
    return Source(train, test, classes, validation)


def _npz(config: TrainConfig) -> Source:
    if config.data_root is None:
        raise ValueError("data=npz must be given its file with --data-root FILE.npz")
    arrays = read_npz(Path(config.data_root))
    name = next((n for n in ("images", "features") if n in arrays), None)
    if name is None or "labels" not in arrays:
        raise ValueError(
            f"{config.data_root} must hold the arrays labels and images or features, got "
            f"{', '.join(arrays) or 'none'}"
        )
    values, labels = arrays[name], arrays["labels"]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(f"labels must be 1-D integers, got {labels.dtype} of shape {labels.shape}")
    if values.ndim < 2 or 0 in values.shape[1:]:
        raise ValueError(f"{name} must have a row of numbers per sample, got shape {values.shape}")
    if len(values) != len(labels) or not len(labels):
        raise ValueError(
            f"labels and {name} must have the same length above zero, got {len(labels)} and "
            f"{len(values)}"
        )
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be numbers, got {values.dtype}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(labels):
        raise ValueError(
            f"labels must lie in [0, K) with samples of every class, got {low} to {high}"
        )
    inputs = torch.from_numpy(np.ascontiguousarray(values))
    if inputs.dtype not in (torch.uint8, torch.float64):
        inputs = inputs.float()
    if inputs.is_floating_point():
        check_finite(name, inputs)
    inputs = _as_images(inputs) if name == "images" else inputs.flatten(1)
    samples = TensorSamples(inputs, torch.from_numpy(labels.astype(np.int64)))
    classes = tuple(str(k) for k in range(high + 1))
    return Source(samples, None, classes)


def _as_images(values: Tensor) -> Tensor:
    """(N, channels, height, width) from (N, H, W), (N, H, W, C) or (N, C, H, W)."""
    if values.dim() == 3:
        return values.unsqueeze(1)
    if values.dim() == 4:
        last = values.shape[3] in (1, 3, 4) and values.shape[1] not in (1, 3, 4)
        return values.permute(0, 3, 1, 2).contiguous() if last else values
    raise ValueError(
        f"images must be (N, H, W), (N, H, W, C) or (N, C, H, W), got shape {tuple(values.shape)}"
    )


def _imagefolder(config: TrainConfig) -> Source:
    if config.data_root is None:
        raise ValueError(f"data={config.data} must be given its folder with --data-root FOLDER")
    _check_pillow(config)
    root = Path(config.data_root)
    train_root = root / "train" if (root / "train").is_dir() else root
    classes = _folders(train_root)
    train = _pictures(train_root, classes, config.image_size)
    test_root = next((root / n for n in ("test", "val") if (root / n).is_dir()), None)
    separate = train_root != root and test_root is not None
    test = _pictures(test_root, classes, config.image_size) if separate and test_root else None
    return Source(train, test, classes)


def _folders(root: Path) -> tuple[str, ...]:
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; imagefolder needs one subfolder per class")
    classes = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir()))
    if len(classes) < 2:
        raise ValueError(
            f"{root} must hold one subfolder per class, at least two, got {len(classes)}"
        )
    return classes


def _pictures(root: Path, classes: tuple[str, ...], size: int) -> PictureSamples:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        own = sorted(f for f in (root / name).rglob("*") if f.suffix.lower() in _PICTURES)
        if not own:
            raise ValueError(f"{root / name} holds no pictures ({', '.join(sorted(_PICTURES))})")
        files += own
        labels += [label] * len(own)
    return PictureSamples(files, torch.tensor(labels), size)


def _openml(config: TrainConfig) -> Source:
    name = config.data.partition(":")[2]
    if not name:
        raise ValueError("data=openml must name a data set, as in openml:letter")
    try:
        from sklearn.datasets import fetch_openml
    except (ImportError, RuntimeError) as error:
        raise ValueError(_needs_train("openml", error)) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of every attempt: the last one is told below
            bunch = fetch_openml(name, version="active", as_frame=False, data_home=config.data_root)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"openml:{name} could not be fetched from openml.org (needs the internet): {reason}"
        ) from None
    values = np.asarray(bunch.data)  # pyright: ignore[reportAttributeAccessIssue]
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise ValueError(f"openml:{name} must hold finite numbers only; choose another data set")
    if bunch.target is None:  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(f"openml:{name} has no target to learn; choose another data set")
    names, labels = np.unique(np.asarray(bunch.target).astype(str), return_inverse=True)  # pyright: ignore[reportAttributeAccessIssue]
    samples = TensorSamples(torch.from_numpy(values).float(), torch.from_numpy(labels).long())
    return Source(samples, None, tuple(names.tolist()))


def _check_pillow(config: TrainConfig) -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise ValueError(_needs_train(config.data, error)) from None


def _needs_train(name: str, error: BaseException) -> str:
    return (
        f"data={name} needs the extra train, which cannot be imported ({error}); "
        "pip install 'neuralcollapse[train]'"
    )


DATA_SETS: tuple[DataSet, ...] = (
    DataSet("digits", _digits, "1,797 handwritten digits, 8x8, 10 classes", "nothing"),
    DataSet(
        "fashion-mnist",
        _fashion_mnist,
        "70,000 pictures of clothes, 28x28, 10 classes",
        f"--data-root, ${DATA_ROOT_VARIABLE}, Debian's dataset-fashion-mnist, or torchvision",
    ),
    DataSet(
        "cifar100",
        _cifar100,
        "60,000 pictures, 32x32, 100 classes; --hierarchy cifar100",
        f"--data-root or ${DATA_ROOT_VARIABLE}: the folder cifar-100-binary",
    ),
    DataSet(
        "fgvc-aircraft",
        _aircraft,
        "10,000 pictures of aircraft, 100 variants; --hierarchy fgvc-aircraft",
        f"--data-root or ${DATA_ROOT_VARIABLE}: the folder fgvc-aircraft-2013b",
    ),
    DataSet(
        "wordnet",
        _wordnet,
        "18,300 definitions of nouns, 61 classes of WordNet; --hierarchy wordnet",
        "nothing; wordnet:encoder=NAME the extra text",
    ),
    DataSet(
        "synthetic-tree",
        _synthetic_tree,
        "clouds on a tree of any size, 16 classes by default; --hierarchy synthetic-tree",
        "nothing",
    ),
    DataSet(
        "glyphs",
        _glyphs,
        "104 Latin, Greek and Cyrillic letters in the fonts of this machine; --hierarchy glyphs",
        "three families of fonts, or --data-root FOLDER of fonts",
    ),
    DataSet(
        "npz",
        _npz,
        "your arrays: labels and images or features",
        "--data-root FILE.npz",
    ),
    DataSet(
        "imagefolder",
        _imagefolder,
        "your pictures: one subfolder per class, below train/ and test/ or alone",
        "--data-root FOLDER",
    ),
    DataSet(
        "inaturalist2019",
        _imagefolder,
        "pictures of 1010 species, as imagefolder",
        "--data-root FOLDER, and --hierarchy FILE for their tree",
    ),
    DataSet(
        "tiered-imagenet",
        _imagefolder,
        "pictures of 608 classes of ImageNet, as imagefolder",
        "--data-root FOLDER, and --hierarchy FILE for their tree",
    ),
    DataSet("openml:NAME", _openml, "a data set of openml.org by name", "the internet"),
)
