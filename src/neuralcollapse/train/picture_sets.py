"""Well-known pictures with a hierarchy of classes, read from a copy on the user's disk."""

from pathlib import Path

import numpy as np
import torch

from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.hierarchy.known import CIFAR100_SUPERCLASSES
from neuralcollapse.train.samples import PictureSamples, TensorSamples

# Coarse label, fine label, 32 x 32 bytes each of red, green and blue.
_CIFAR100_ROW = 2 + 3 * 32 * 32
CIFAR100_SOURCE = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
AIRCRAFT_SOURCE = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"


def read_cifar100(
    roots: list[Path],
) -> tuple[TensorSamples, TensorSamples, tuple[str, ...]]:
    """Training and test pictures and the names of the classes, from CIFAR-100's binary version.

    The Python version is pickled, and nothing is unpickled here.

    Raises:
        ValueError: if no root holds it, or a file is damaged or of other data.
    """
    places = [root / inner for root in roots for inner in ("", "cifar-100-binary")]
    place = next((place for place in places if (place / "train.bin").is_file()), None)
    if place is None:
        python = any((root / "cifar-100-python").is_dir() for root in roots)
        pickled = "; cifar-100-python is pickled, and nothing is unpickled here" if python else ""
        raise ValueError(
            f"cifar100 was not found in {_listed(places)}{pickled}; unpack the binary version "
            f"({CIFAR100_SOURCE}) and name its folder with --data-root"
        )
    classes = Hierarchy.cifar100().classes
    return _cifar100_part(place / "train.bin"), _cifar100_part(place / "test.bin"), classes


def _cifar100_part(file: Path) -> TensorSamples:
    if not file.is_file():
        raise ValueError(f"{file} is missing; train.bin and test.bin are both needed")
    content = np.fromfile(file, dtype=np.uint8)
    if not len(content) or len(content) % _CIFAR100_ROW:
        raise ValueError(
            f"{file} must hold rows of {_CIFAR100_ROW} bytes, got {len(content)} bytes in all; "
            "copy it anew"
        )
    rows = content.reshape(-1, _CIFAR100_ROW)
    coarse, fine = rows[:, 0], rows[:, 1]
    if fine.max() > 99 or (coarse != _cifar100_coarse()[fine]).any():
        raise ValueError(
            f"{file} does not hold CIFAR-100: its coarse labels are not those of its classes"
        )
    images = torch.from_numpy(rows[:, 2:].reshape(-1, 3, 32, 32).copy())
    return TensorSamples(images, torch.from_numpy(fine.astype(np.int64)))


def _cifar100_coarse() -> np.ndarray:
    """(100,), the coarse label of each class."""
    coarse = {}
    for number, line in enumerate(CIFAR100_SUPERCLASSES.strip().splitlines()):
        coarse |= dict.fromkeys(line.partition(":")[2].split(), number)
    return np.array([coarse[name] for name in Hierarchy.cifar100().classes])


def read_aircraft(
    roots: list[Path], size: int
) -> tuple[PictureSamples, PictureSamples, tuple[str, ...]]:
    """Training and test pictures of FGVC-Aircraft, classes by variant.

    The strip with the photographer's name, the lowest 20 pixels of every picture, is left in.

    Raises:
        ValueError: if no root holds it, or a list or a picture is missing.
    """
    place = _aircraft_place(roots)
    classes = tuple(_lines(place / "variants.txt"))
    label = {name: number for number, name in enumerate(classes)}
    parts = []
    for part in ("trainval", "test"):
        variants = _named(place / f"images_variant_{part}.txt")
        unknown = next((name for name in variants.values() if name not in label), None)
        if unknown is not None:
            raise ValueError(f"{place / 'variants.txt'} lacks {unknown!r}; copy the lists anew")
        files = [place / "images" / f"{image}.jpg" for image in variants]
        missing = next((file for file in files if not file.is_file()), None)
        if missing is not None:
            raise ValueError(f"{missing} is missing; copy the pictures anew")
        labels = torch.tensor([label[name] for name in variants.values()])
        parts.append(PictureSamples(files, labels, size))
    return parts[0], parts[1], classes


def aircraft_hierarchy(roots: list[Path]) -> Hierarchy:
    """Manufacturer, family, variant, by the lists that come with the pictures.

    Manufacturers and families have "manufacturer: " and "family: " before their names, since some
    are also names of variants.

    Raises:
        ValueError: if no root holds the lists, or a variant belongs to two families.
    """
    place = _aircraft_place(roots)
    above: dict[str, tuple[str, str]] = {}
    for part in ("trainval", "test"):
        variant, family, maker = (
            _named(place / f"images_{level}_{part}.txt")
            for level in ("variant", "family", "manufacturer")
        )
        if not variant.keys() == family.keys() == maker.keys():
            raise ValueError(f"the lists of {part} in {place} name different pictures")
        for image, name in variant.items():
            found = (maker[image], family[image])
            if above.setdefault(name, found) != found:
                raise ValueError(
                    f"variant {name!r} must belong to one family of one manufacturer, got "
                    f"{above[name]} and {found} in {place}; copy the lists anew"
                )
    return Hierarchy.from_levels(
        [[f"manufacturer: {m}", f"family: {f}", name] for name, (m, f) in above.items()]
    )


def _aircraft_place(roots: list[Path]) -> Path:
    inner = ("", "data", "fgvc-aircraft-2013b/data")
    places = [root / folder for root in roots for folder in inner]
    place = next((place for place in places if (place / "variants.txt").is_file()), None)
    if place is None:
        raise ValueError(
            f"fgvc-aircraft was not found in {_listed(places)}; unpack fgvc-aircraft-2013b.tar.gz "
            f"({AIRCRAFT_SOURCE}) and name its folder with --data-root"
        )
    return place


def _listed(places: list[Path]) -> str:
    return ", ".join(map(str, places)) or "--data-root, which is not given"


def _named(file: Path) -> dict[str, str]:
    """What each picture of a list is: its number, a space, a name."""
    pairs = [line.partition(" ") for line in _lines(file)]
    bad = next((image for image, _, name in pairs if not name or not image.isalnum()), None)
    if bad is not None or not pairs:
        raise ValueError(f"{file} must hold lines of a picture's number and a name, got {bad!r}")
    return {image: name.strip() for image, _, name in pairs}


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is missing or damaged ({error}); copy the lists anew") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
