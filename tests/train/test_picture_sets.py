"""CIFAR-100 and FGVC-Aircraft from tiny files in their formats, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neuralcollapse import Hierarchy
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.data import DATA_ROOT_VARIABLE, Data, load_data
from neuralcollapse.train.network import class_hierarchy

# Superclasses of some classes by the data set's own coarse labels: apple 0 -> 4, aquarium_fish
# 1 -> 1, baby 2 -> 14, bear 3 -> 8, beaver 4 -> 0, worm 99 -> 13 (Krizhevsky 2009).
COARSE = {0: 4, 1: 1, 2: 14, 3: 8, 4: 0, 99: 13}

VARIANTS = {
    # Names that several levels share, and names with spaces and slashes.
    "707-320": ("Boeing", "Boeing 707"),
    "A380": ("Airbus", "A380"),
    "Cessna 172": ("Cessna", "Cessna 172"),
    "F/A-18": ("McDonnell Douglas", "F/A-18"),
    "737-200": ("Boeing", "Boeing 737"),
    "737-300": ("Boeing", "Boeing 737"),
}


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)


def load(name: str, root: Path | None, **options: object) -> Data:
    return load_data(config(name, root, **options))


def config(name: str, root: Path | None, **options: object) -> TrainConfig:
    given = None if root is None else str(root)
    return TrainConfig.from_values({"data": name, "data_root": given, **options})


def refused(name: str, root: Path | None) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the caller looks at the sentence
        load(name, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- CIFAR-100 ----------------------------------------------------------------------------------


def coarse_of_all() -> list[int]:
    """By the hierarchy: the superclasses in the order of the alphabet but for two small words."""
    tree = Hierarchy.cifar100()
    parents = [tree.nodes[node] for node in tree.levels[:, -2]]
    # "fruit_and_vegetables" stands before "household", "large_carnivores" before
    # "large_man-made", "non-insect" after "medium": the alphabet, which is how they are numbered.
    return [sorted(set(parents)).index(parent) for parent in parents]


def rows(fine: list[int], seed: int) -> np.ndarray:
    """(N, 3074) bytes as in the binary version."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(fine), 3072), dtype=np.uint8)
    coarse = np.array(coarse_of_all())[fine]
    return np.concatenate([coarse[:, None], np.array(fine)[:, None], pixels], 1).astype(np.uint8)


def write_cifar(root: Path) -> dict[str, np.ndarray]:
    root.mkdir(parents=True, exist_ok=True)
    files = {"train": rows([*range(100)] * 2, 0), "test": rows([*range(100)], 1)}
    for name, content in files.items():
        content.tofile(root / f"{name}.bin")
    return files


def test_coarse_labels_are_the_data_sets_own() -> None:
    assert {fine: coarse_of_all()[fine] for fine in COARSE} == COARSE


@pytest.mark.parametrize("inner", ["", "cifar-100-binary"])
def test_cifar100_is_read_from_its_binary_version(tmp_path: Path, inner: str) -> None:
    files = write_cifar(tmp_path / inner)
    data = load("cifar100", tmp_path, hierarchy="cifar100")
    assert data.input_shape == (3, 32, 32)
    assert data.counts() == {"train": [1] * 100, "validation": [1] * 100, "test": [1] * 100}
    assert data.classes[:3] == ("apple", "aquarium_fish", "baby")
    # Red, green, blue planes, row by row.
    picture = data.test.inputs(torch.tensor([7]))[0]
    expected = files["test"][7, 2:].astype(float)
    assert picture[1, 2, 3] == expected[1024 + 2 * 32 + 3]
    assert picture.flatten().tolist() == expected.tolist()
    tree = class_hierarchy(config("cifar100", tmp_path, hierarchy="cifar100"), data.classes)
    assert tree is not None
    assert tree.total_height == 5


def test_pickled_cifar100_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "train").write_bytes(b"\x80\x02.")
    sentence = refused("cifar100", tmp_path)
    assert "is pickled, and nothing is unpickled here; unpack the binary version" in sentence


@pytest.mark.parametrize("name", ["cifar100", "fgvc-aircraft"])
def test_without_a_root_it_is_said_what_to_give(name: str) -> None:
    assert f"{name} was not found in --data-root, which is not given; unpack" in refused(name, None)


def test_the_variable_names_a_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path)
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    assert load("cifar100", None).num_classes == 100


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "test.bin is missing; train.bin and test.bin are both needed"),
        (b"", "rows of 3074 bytes, got 0 bytes"),
        (b"\0" * 3075, "rows of 3074 bytes, got 3075 bytes"),
        (bytes([4, 100]) + b"\0" * 3072, "does not hold CIFAR-100"),
        (bytes([5, 0]) + b"\0" * 3072, "its coarse labels are not those of its classes"),
    ],
    ids=["missing", "empty", "long", "class 100", "coarse"],
)
def test_damaged_cifar100_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    write_cifar(tmp_path)
    if content is None:
        (tmp_path / "test.bin").unlink()
    else:
        (tmp_path / "test.bin").write_bytes(content)
    assert words in refused("cifar100", tmp_path)


# --- FGVC-Aircraft ------------------------------------------------------------------------------


def write_aircraft(place: Path) -> None:
    """Three pictures of each variant for training, one for testing; red is its number."""
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    (place / "images").mkdir(parents=True)
    (place / "variants.txt").write_text("\n".join(VARIANTS) + "\n")
    for part, times in (("trainval", 3), ("test", 1)):
        lists: dict[str, list[str]] = {"variant": [], "family": [], "manufacturer": []}
        for number, (variant, (maker, family)) in enumerate(VARIANTS.items()):
            for copy in range(times):
                own = f"{len(part)}{number}{copy}".zfill(7)
                picture = image.new("RGB", (20, 10), (40 * number, 0, 0))
                picture.save(place / "images" / f"{own}.jpg", quality=95)
                for level, name in zip(lists, (variant, family, maker), strict=True):
                    lists[level].append(f"{own} {name}")
        for level, lines in lists.items():
            (place / f"images_{level}_{part}.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("inner", ["", "data", "fgvc-aircraft-2013b/data"])
def test_aircraft_are_read_by_variant(tmp_path: Path, inner: str) -> None:
    write_aircraft(tmp_path / inner)
    data = load("fgvc-aircraft", tmp_path, image_size=8)
    assert data.classes == tuple(VARIANTS)
    assert data.input_shape == (3, 8, 8)
    assert data.counts() == {"train": [2] * 6, "validation": [1] * 6, "test": [1] * 6}
    reds = data.test.inputs(torch.arange(6))[:, 0].mean((1, 2))
    # JPEG keeps a flat colour within a few steps of 255.
    assert reds.tolist() == pytest.approx([40.0 * int(k) for k in data.test.labels], abs=4)


def test_the_hierarchy_of_aircraft_is_in_their_lists(tmp_path: Path) -> None:
    write_aircraft(tmp_path)
    options = config("fgvc-aircraft", tmp_path, hierarchy="fgvc-aircraft")
    tree = class_hierarchy(options, tuple(VARIANTS))
    assert tree is not None
    assert tree.classes == tuple(VARIANTS)
    assert tree.level_sizes == (1, 4, 5, 6)
    distances = tree.distances()
    assert [distances[0, 4], distances[4, 5], distances[0, 1]] == [2, 1, 3]


@pytest.mark.parametrize(
    "file, content, words",
    [
        ("variants.txt", "A380\n", "lacks '707-320'; copy the lists anew"),
        ("images_variant_test.txt", None, "images_variant_test.txt is missing or damaged"),
        ("images_variant_test.txt", "0000001\n", "lines of a picture's number and a name"),
        ("images_variant_test.txt", "../../x A380\n", "lines of a picture's number and a name"),
        ("images_variant_test.txt", "9999999 A380\n", "9999999.jpg is missing"),
        ("images_variant_test.txt", "", "lines of a picture's number and a name"),
    ],
)
def test_damaged_lists_of_aircraft_are_refused(
    tmp_path: Path, file: str, content: str | None, words: str
) -> None:
    write_aircraft(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    assert words in refused("fgvc-aircraft", tmp_path)


def test_a_variant_of_two_families_is_refused(tmp_path: Path) -> None:
    write_aircraft(tmp_path)
    file = tmp_path / "images_family_test.txt"
    file.write_text(file.read_text().replace("Boeing 707", "Boeing 737"))
    options = config("fgvc-aircraft", tmp_path, hierarchy="fgvc-aircraft")
    with pytest.raises(ValueError, match="variant '707-320' must belong to one family"):
        class_hierarchy(options, tuple(VARIANTS))
    file.write_text("0000001 A380\n")
    with pytest.raises(ValueError, match="name different pictures"):
        class_hierarchy(options, tuple(VARIANTS))


def test_pictures_need_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_aircraft(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    sentence = refused("fgvc-aircraft", tmp_path)
    assert sentence.startswith("data=fgvc-aircraft needs the extra train")


# --- picture folders with a hierarchy file ------------------------------------------------------


@pytest.mark.parametrize("name", ["inaturalist2019", "tiered-imagenet"])
def test_species_are_a_picture_folder_with_a_hierarchy(tmp_path: Path, name: str) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    for species in ("b", "a", "c"):
        for part in ("train", "val"):
            (tmp_path / "pictures" / part / species).mkdir(parents=True)
            for number in range(3):
                picture = image.new("RGB", (4, 4))
                picture.save(tmp_path / "pictures" / part / species / f"{number}.jpg")
    (tmp_path / "tree.csv").write_text("level 1,class\nx,c\ny,a\nx,b\n")
    options = config(name, tmp_path / "pictures", hierarchy=str(tmp_path / "tree.csv"))
    data = load_data(options)
    assert data.classes == ("a", "b", "c")
    tree = class_hierarchy(options, data.classes)
    assert tree is not None
    assert tree.distances().tolist() == [[0, 2, 2], [2, 0, 1], [2, 1, 0]]
    assert refused(name, None) == f"data={name} must be given its folder with --data-root FOLDER"
