"""Fashion-MNIST from its IDX files, wherever they lie, or by torchvision."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neuralcollapse.train.samples import TensorSamples

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read_fashion_mnist(
    roots: list[Path],
) -> tuple[TensorSamples, TensorSamples, tuple[str, ...]]:
    """Training and test pictures and the names of the classes.

    Looked for under the roots, then where Debian's package puts the files; torchvision downloads
    what is nowhere to the first root.

    Raises:
        ValueError: if the files are nowhere and torchvision is missing or cannot download them, or
            if a file is damaged or of other data.
    """
    places = [root / inner for root in roots for inner in ("", "fashion-mnist", "FashionMNIST/raw")]
    places.append(DEBIAN)
    for place in places:
        if _idx_file(place, "train-images-idx3-ubyte") is not None:
            train, test = (
                TensorSamples(
                    _read_idx(place, f"{part}-images-idx3-ubyte", 3).unsqueeze(1),
                    _read_idx(place, f"{part}-labels-idx1-ubyte", 1).long(),
                )
                for part in ("train", "t10k")
            )
            for part in (train, test):
                known = len(part.labels) > 0 and int(part.labels.max()) < len(CLASSES)
                if len(part.values) != len(part.labels) or not known:
                    raise ValueError(f"{place} does not hold Fashion-MNIST: its files do not match")
            return train, test, CLASSES
    return *_by_torchvision(roots[0] if roots else Path("data"), places), CLASSES


def _by_torchvision(root: Path, places: list[Path]) -> tuple[TensorSamples, TensorSamples]:
    looked = ", ".join(str(place) for place in places)
    advice = (
        f"fashion-mnist was not found in {looked}; install Debian's package dataset-fashion-mnist, "
        "or put its four IDX files under --data-root, or pip install 'neuralcollapse[vision]' to "
        "download it"
    )
    try:
        from torchvision.datasets import (  # pyright: ignore[reportMissingImports]
            FashionMNIST,
        )
    except (ImportError, RuntimeError):
        raise ValueError(advice) from None
    try:
        parts = [FashionMNIST(str(root), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{advice}; torchvision could not download it: {error}") from None
    train, test = (TensorSamples(p.data.unsqueeze(1), p.targets.long()) for p in parts)
    return train, test


def _idx_file(folder: Path, name: str) -> Path | None:
    for file in (folder / f"{name}.gz", folder / name):
        if file.is_file():
            return file
    return None


def _read_idx(folder: Path, name: str, dimensions: int) -> Tensor:
    """An array in the IDX format: zero, zero, type, dimensions, sizes, then the values."""
    file = _idx_file(folder, name)
    if file is None:
        raise ValueError(f"{folder / name} is missing; all four IDX files are needed")
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    header = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < header:
        raise ValueError(f"{file} is not an IDX file of bytes with {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise ValueError(f"{file} is damaged: its length does not fit its header")
    values = np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)
    return torch.from_numpy(values.copy())
