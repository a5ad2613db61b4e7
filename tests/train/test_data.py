"""Data sets: found where they are said to be, cut without overlap, refused in one sentence."""

from __future__ import annotations

import gzip
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from neuralcollapse.train import fashion_mnist
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.data import DATA_ROOT_VARIABLE, Data, load_data

PLACE = fashion_mnist.DEBIAN

pytestmark = pytest.mark.usefixtures("bounded_memory")


def load(name: str, root: Path | None = None, **options: Any) -> Data:
    return load_data(
        TrainConfig(data=name, data_root=None if root is None else str(root), **options)
    )


def parts(data: Data) -> dict[str, Any]:
    return {"train": data.train, "validation": data.validation, "test": data.test}


def rows(samples: Any) -> list[bytes]:
    """Every input as bytes."""
    return [row.numpy().tobytes() for row in samples.values]


def refused(name: str, root: Path | None = None, **options: Any) -> str:
    """The one sentence with which data is refused."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the caller looks at the sentence
        load(name, root, **options)
    sentence = str(caught.value)
    assert sentence
    assert "\n" not in sentence
    return sentence


# --- digits and how it is cut -------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits")


def test_digits_are_all_there_once(digits: Data) -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    originals = {
        row.astype(np.float32).tobytes(): label for row, label in zip(images, labels, strict=True)
    }
    assert len(originals) == len(images)  # no two digits are alike, so that bytes name them
    seen: set[bytes] = set()
    for samples in parts(digits).values():
        own = rows(samples)
        assert [originals[row] for row in own] == samples.labels.tolist()
        assert not seen & set(own)
        seen |= set(own)
    assert seen == set(originals)
    assert digits.classes == tuple("0123456789")
    assert digits.input_shape == (1, 8, 8)


def test_parts_are_stratified(digits: Data) -> None:
    counts = {name: np.array(part) for name, part in digits.counts().items()}
    total = sum(counts.values())
    # Each class is cut on its own, to the nearest whole sample.
    assert np.abs(counts["test"] - 0.2 * total).max() <= 0.5
    rest = total - counts["test"]
    assert np.abs(counts["validation"] - 0.1 * rest).max() <= 0.5


def same(one: Data, other: Data) -> bool:
    return all(
        rows(mine) == rows(theirs)
        for mine, theirs in zip(parts(one).values(), parts(other).values(), strict=True)
    )


def test_parts_depend_on_the_split_seed_only(digits: Data) -> None:
    torch.manual_seed(99)
    assert same(digits, load("digits", seed=7))
    assert not same(digits, load("digits", split_seed=7))


@pytest.mark.parametrize("options", [{"imbalance": "exponential:100"}, {"limit": 200}], ids=str)
def test_only_the_training_part_is_thinned(digits: Data, options: dict[str, Any]) -> None:
    thin = load("digits", **options)
    for name in ("validation", "test"):
        assert rows(parts(thin)[name]) == rows(parts(digits)[name])
    assert set(rows(thin.train)) < set(rows(digits.train))


def test_a_long_tail_of_digits(digits: Data) -> None:
    counts = load("digits", imbalance="exponential:100").counts()["train"]
    there = digits.counts()["train"]
    wanted = [int(max(there) * 100 ** (-k / 9)) for k in range(10)]
    assert counts == [min(a, b) for a, b in zip(wanted, there, strict=True)]
    assert counts[9] == 1


def test_a_limit_below_the_number_of_classes_is_refused() -> None:
    assert "limit must be at least 10" in refused("digits", limit=9)


def test_an_unknown_name_lists_the_known() -> None:
    sentence = refused("mnits")
    assert all(name in sentence for name in ("digits", "fashion-mnist", "npz", "openml:NAME"))


def test_loading_leaves_the_global_generator_alone(digits: Data) -> None:
    before = torch.get_rng_state()
    load("digits", imbalance="exponential:10")
    assert torch.equal(torch.get_rng_state(), before)


# --- Fashion-MNIST and IDX files ----------------------------------------------------------------


def idx(values: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


def write_idx(folder: Path, *, compressed: bool = True, per_class: int = 4) -> np.ndarray:
    """Four small IDX files; returns the training images."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    images = {}
    for part in ("train", "t10k"):
        labels = np.arange(10).repeat(per_class)
        images[part] = generator.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
        for kind, values in (("images-idx3", images[part]), ("labels-idx1", labels)):
            content = idx(values)
            name = f"{part}-{kind}-ubyte"
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return images["train"]


@pytest.fixture
def nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No Fashion-MNIST but what a test writes, and no torchvision."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "not-there")
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)


@pytest.mark.usefixtures("nowhere_else")
@pytest.mark.parametrize("compressed", [True, False], ids=["gz", "plain"])
@pytest.mark.parametrize("inner", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_idx_files_under_the_root_are_found(tmp_path: Path, inner: str, compressed: bool) -> None:
    images = write_idx(tmp_path / inner, compressed=compressed)
    data = load("fashion-mnist", tmp_path)
    assert data.input_shape == (1, 28, 28)
    assert data.counts() == {"train": [3] * 10, "validation": [1] * 10, "test": [4] * 10}
    given = {image.tobytes() for image in images}
    assert set(rows(data.train)) | set(rows(data.validation)) == given
    assert data.classes[0] == "T-shirt/top"
    assert data.classes[9] == "Ankle boot"


@pytest.mark.usefixtures("nowhere_else")
def test_the_places_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--data-root, then the environment variable, then Debian's place."""
    named, variable, debian = tmp_path / "named", tmp_path / "variable", tmp_path / "debian"
    for number, folder in enumerate((named, variable, debian)):
        write_idx(folder, per_class=4 + number)
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(variable))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", debian)

    def size(root: Path | None) -> int:
        return load("fashion-mnist", root).counts()["test"][0]

    assert size(named) == 4
    assert size(None) == 5
    empty = tmp_path / "empty"
    empty.mkdir()
    assert size(empty) == 5
    monkeypatch.delenv(DATA_ROOT_VARIABLE)
    assert size(None) == 6


@pytest.mark.usefixtures("nowhere_else")
def test_missing_fashion_mnist_says_how_to_get_it() -> None:
    sentence = refused("fashion-mnist")
    for way in ("dataset-fashion-mnist", "--data-root", "neuralcollapse[vision]"):
        assert way in sentence


def test_torchvision_downloads_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "not-there")
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    asked: list[tuple[str, bool, bool]] = []

    def downloaded(root: str, train: bool, download: bool) -> SimpleNamespace:
        asked.append((root, train, download))
        labels = torch.arange(10).repeat(5)
        return SimpleNamespace(data=torch.zeros(50, 28, 28, dtype=torch.uint8), targets=labels)

    datasets = SimpleNamespace(FashionMNIST=downloaded)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=datasets))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    data = load("fashion-mnist", tmp_path)
    assert data.input_shape == (1, 28, 28)
    assert asked == [(str(tmp_path), True, True), (str(tmp_path), False, True)]

    def offline(root: str, train: bool, download: bool) -> None:
        raise RuntimeError("no route to host")

    datasets.FashionMNIST = offline
    assert "no route to host" in refused("fashion-mnist", tmp_path)


IMAGES = "train-images-idx3-ubyte.gz"
LABELS = "t10k-labels-idx1-ubyte.gz"


def damaged_deflate() -> bytes:
    content = bytearray(gzip.compress(np.random.default_rng(0).bytes(2000)))
    content[10] = 0xFF  # the block type of the first block
    return bytes(content)


@pytest.mark.usefixtures("nowhere_else")
@pytest.mark.parametrize(
    "name, content",
    [
        (IMAGES, b""),
        (IMAGES, b"no gzip"),
        (IMAGES, gzip.compress(idx(np.zeros((40, 28, 28))))[:-20]),
        (IMAGES, damaged_deflate()),
        (IMAGES, gzip.compress(b"\0\0\x08")),
        (IMAGES, gzip.compress(idx(np.zeros((40, 28, 28)))[:-1])),
        (IMAGES, gzip.compress(idx(np.zeros((40, 28, 28))) + b"\0")),
        (IMAGES, gzip.compress(idx(np.zeros((40, 784))))),
        (IMAGES, gzip.compress(bytes((0, 0, 13, 3)) + idx(np.zeros((40, 28, 28)))[4:])),
        (IMAGES, gzip.compress(idx(np.zeros((39, 28, 28))))),
        (IMAGES, gzip.compress(bytes((0, 0, 8, 3)) + struct.pack(">3I", *[2**31] * 3))),
        (IMAGES, gzip.compress(bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**31, 2**31, 4))),
        (LABELS, gzip.compress(idx(np.full(40, 10)))),
        (LABELS, gzip.compress(idx(np.zeros(0)))),
        (LABELS, None),
    ],
    ids=[
        "empty",
        "no gzip",
        "cut gzip",
        "bad deflate",
        "no header",
        "short",
        "long",
        "2-D",
        "floats",
        "one less",
        "huge",
        "overflow",
        "label 10",
        "no labels",
        "missing",
    ],
)
def test_damaged_and_foreign_idx_files_are_refused(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    write_idx(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    assert str(tmp_path) in refused("fashion-mnist", tmp_path)


@pytest.mark.usefixtures("nowhere_else")
def test_idx_files_without_a_sample_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path)
    for part in ("train", "t10k"):
        for kind, shape in (("images-idx3", (0, 28, 28)), ("labels-idx1", (0,))):
            content = gzip.compress(idx(np.zeros(shape)))
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(content)
    assert str(tmp_path) in refused("fashion-mnist", tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not PLACE.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    data = load("fashion-mnist")
    assert data.counts() == {"train": [5400] * 10, "validation": [600] * 10, "test": [1000] * 10}
    assert data.train.inputs(torch.tensor([0])).max() > 200  # bytes, not yet scaled
    mean = float(data.train.inputs(torch.arange(0, 54_000, 9)).mean())
    assert mean == pytest.approx(72.9, abs=1)  # 0.2860 * 255, as published; 6,000 samples
    tail = load("fashion-mnist", imbalance="exponential:100").counts()["train"]
    assert tail == [int(5400 * 100 ** (-k / 9) + 1e-9) for k in range(10)]


# --- npz ----------------------------------------------------------------------------------------


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., Path]:
    """Writes arrays to a file of this test."""

    def write(**arrays: Any) -> Path:
        np.savez(tmp_path / "file.npz", **arrays)
        return tmp_path / "file.npz"

    return write


Y = np.arange(40) % 4
RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    "name, shape, given",
    [
        ("features", (5,), (5,)),
        ("features", (2, 3), (6,)),
        ("images", (8, 6), (1, 8, 6)),
        ("images", (8, 6, 3), (3, 8, 6)),
        ("images", (8, 6, 1), (1, 8, 6)),
        ("images", (3, 8, 6), (3, 8, 6)),
        ("images", (1, 8, 8), (1, 8, 8)),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "float16", "int32", ">f4", ">i2"])
def test_arrays_of_any_layout_and_number(
    npz: Callable[..., Path], name: str, shape: tuple[int, ...], given: tuple[int, ...], dtype: str
) -> None:
    values = RANDOM.integers(0, 200, (40, *shape)).astype(dtype)
    data = load("npz", npz(**{name: values, "labels": Y}))
    assert data.input_shape == given
    assert data.classes == ("0", "1", "2", "3")
    # The same pixels, channels in front: found again by what each sample holds.
    moved = np.moveaxis(values, -1, 1) if len(shape) == 3 and given[0] == shape[-1] else values
    originals = {row.astype(np.float64).tobytes(): y for row, y in zip(moved, Y, strict=True)}
    for samples in parts(data).values():
        inputs = samples.inputs(torch.arange(len(samples))).double().numpy()
        assert [originals[row.tobytes()] for row in inputs] == samples.labels.tolist()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "uint64", ">i8"])
def test_labels_of_any_whole_number(npz: Callable[..., Path], dtype: str) -> None:
    file = npz(features=RANDOM.random((40, 3)), labels=Y.astype(dtype))
    assert load("npz", file).num_classes == 4


def constant(value: float) -> np.ndarray:
    return np.full((40, 3), value)


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"labels": Y}, "images or features"),
        ({"features": constant(1)}, "must hold the arrays labels"),
        ({"features": constant(1), "labels": Y / 2}, "labels must be 1-D integers"),
        ({"features": constant(1), "labels": Y > 1}, "labels must be 1-D integers"),
        ({"features": constant(1), "labels": Y[:, None]}, "labels must be 1-D integers"),
        ({"features": constant(1), "labels": np.int64(3)}, "labels must be 1-D"),
        ({"features": constant(1), "labels": Y[:7]}, "same length"),
        ({"features": constant(1)[:0], "labels": Y[:0]}, "above zero"),
        ({"features": constant(1), "labels": Y - 1}, "labels must lie in"),
        ({"features": constant(1), "labels": Y + 1}, "class '0'"),
        ({"features": constant(1), "labels": Y + 10**12}, "class"),
        ({"features": constant(1), "labels": Y.astype(np.uint64) + 2**63}, "labels must"),
        ({"features": constant(1)[:8], "labels": Y[:8]}, "at least 3 samples of every class"),
        ({"features": constant(1), "labels": Y * 0}, "two classes|2 classes|at least 2"),
        ({"features": constant(np.nan), "labels": Y}, "finite"),
        ({"features": constant(np.inf), "labels": Y}, "finite"),
        ({"features": constant(1) + 1j, "labels": Y}, "features must be numbers"),
        ({"features": constant(1).astype(str), "labels": Y}, "features must be numbers"),
        ({"features": constant(1)[:, 0], "labels": Y}, "features must"),
        ({"features": constant(1)[:, :0], "labels": Y}, "features must"),
        ({"features": np.float32(1), "labels": Y}, "features must"),
        ({"images": np.ones((40, 5)), "labels": Y}, "images must be"),
        ({"images": np.ones((40, 2, 3, 4, 5)), "labels": Y}, "images must be"),
        ({"images": np.ones((40, 0, 5)), "labels": Y}, "images must"),
        ({"features": constant(1).astype(object), "labels": Y}, "not a readable .npz file"),
        ({"features": constant(1), "labels": Y.astype(object)}, "not a readable .npz file"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_arrays_that_cannot_be_learned_are_refused(
    npz: Callable[..., Path], arrays: dict[str, Any], words: str
) -> None:
    sentence = refused("npz", npz(**arrays))
    assert any(word in sentence for word in words.split("|")), sentence


def test_a_missing_npz_and_a_missing_root(tmp_path: Path) -> None:
    assert "does not exist" in refused("npz", tmp_path / "nosuch.npz")
    assert "--data-root FILE.npz" in refused("npz")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    (tmp_path / "bomb.npz").write_bytes(pickle.dumps(Bomb()))
    np.savez(tmp_path / "inner.npz", features=np.array([Bomb()], dtype=object), labels=Y[:1])
    for name in ("bomb.npz", "inner.npz"):
        assert "not a readable .npz file" in refused("npz", tmp_path / name)
    assert not (tmp_path / "exploded").exists()


# --- imagefolder --------------------------------------------------------------------------------


def write_pictures(
    folder: Path, classes: dict[str, int], size: tuple[int, int] = (9, 7), suffix: str = "png"
) -> None:
    """Pictures of one colour per class, in folders of their own."""
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    for number, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            picture = image.new("RGB", size, (number * 20, index, 200))
            picture.save(folder / name / f"{index}.{suffix}")


def test_pictures_by_folder(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"cat": 5, "ant": 7, "bee": 4})
    data = load("imagefolder", tmp_path, image_size=6)
    assert data.classes == ("ant", "bee", "cat")
    assert data.input_shape == (3, 6, 6)
    assert np.sum(list(data.counts().values()), axis=0).tolist() == [7, 4, 5]
    seen = set()
    for samples in parts(data).values():
        inputs, labels = samples[torch.arange(len(samples))]
        colours: Tensor = inputs.flatten(2).amax(2)
        assert torch.equal(inputs.flatten(2).amin(2), colours)  # a plain colour stays one
        assert inputs.dtype == torch.float32
        order = {"cat": 0, "ant": 20, "bee": 40}
        assert colours[:, 0].tolist() == [order[data.classes[k]] for k in labels]
        assert set(colours[:, 2].tolist()) == {200.0}
        keys = {(int(k), int(green)) for k, green in zip(labels, colours[:, 1], strict=True)}
        assert not seen & keys
        seen |= keys
    assert len(seen) == 16


@pytest.mark.parametrize("name", ["test", "val"])
def test_pictures_with_a_test_folder(tmp_path: Path, name: str) -> None:
    write_pictures(tmp_path / "train", {"a": 5, "b": 5})
    write_pictures(tmp_path / name, {"a": 2, "b": 3})
    counts = load("imagefolder", tmp_path).counts()
    assert counts["test"] == [2, 3]
    assert (np.array(counts["train"]) + counts["validation"]).tolist() == [5, 5]


def test_a_training_folder_alone_is_cut(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train", {"a": 10, "b": 10})
    assert load("imagefolder", tmp_path).counts()["test"] == [2, 2]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "I;16"])
@pytest.mark.parametrize("suffix", ["png", "PNG"])
def test_pictures_of_every_mode_become_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    write_pictures(tmp_path, {"a": 3, "b": 3})
    image.new(mode, (5, 5)).save(tmp_path / "a" / f"0.{suffix}")
    assert load("imagefolder", tmp_path).input_shape == (3, 32, 32)


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image", reason="needs Pillow")
    assert "--data-root FOLDER" in refused("imagefolder")
    assert "is not a folder" in refused("imagefolder", tmp_path / "nosuch")
    (tmp_path / "one" / "a").mkdir(parents=True)
    assert "at least two, got 1" in refused("imagefolder", tmp_path / "one")
    (tmp_path / "one" / "b").mkdir()
    assert "holds no pictures" in refused("imagefolder", tmp_path / "one")
    write_pictures(tmp_path / "few", {"a": 2, "b": 5})
    assert "at least 3 samples" in refused("imagefolder", tmp_path / "few")
    write_pictures(tmp_path / "half" / "train", {"a": 3, "b": 3})
    write_pictures(tmp_path / "half" / "test", {"a": 3})
    assert str(tmp_path / "half" / "test" / "b") in refused("imagefolder", tmp_path / "half")


def damaged_pictures() -> dict[str, bytes]:
    png = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">I4sIIBBBBB", 13, b"IHDR", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"BM" + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, 100_000, 100_000, 1, 24) + bytes(24)
    return {
        "empty": b"",
        "text": b"this is no picture",
        "cut": png + header[:20],
        "no pixels": png + header + bytes(4),
        "too large": bomb,
    }


@pytest.mark.parametrize("kind", damaged_pictures())
def test_an_unreadable_picture_is_named(tmp_path: Path, kind: str) -> None:
    write_pictures(tmp_path, {"a": 4, "b": 4})
    bad = tmp_path / "b" / ("2.bmp" if kind == "too large" else "2.png")
    bad.write_bytes(damaged_pictures()[kind])
    data = load("imagefolder", tmp_path)
    with pytest.raises(ValueError, match="is not a readable picture") as caught:
        _ = [samples[torch.arange(len(samples))] for samples in parts(data).values()]
    assert str(bad) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "neuralcollapse[train]" in refused("imagefolder", tmp_path)


# --- openml -------------------------------------------------------------------------------------


@pytest.fixture
def openml(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[Any]]:
    """Makes scikit-learn's loader answer, or fail, without the network; notes what it is asked."""
    import sklearn.datasets

    def install(answer: Any) -> list[Any]:
        asked: list[Any] = []

        def fetch(name: str, **options: Any) -> Any:
            asked.append((name, options))
            if isinstance(answer, BaseException):
                raise answer
            return SimpleNamespace(**answer)

        monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
        return asked

    return install


def test_openml_by_name(openml: Callable[[Any], list[Any]], tmp_path: Path) -> None:
    letters = np.array(["b", "a", "c", "a"] * 10, dtype=object)
    asked = openml({"data": np.arange(120.0).reshape(40, 3), "target": letters})
    data = load("openml:letter", tmp_path)
    assert data.classes == ("a", "b", "c")
    assert np.sum(list(data.counts().values()), axis=0).tolist() == [20, 10, 10]
    assert data.input_shape == (3,)
    assert asked[0][0] == "letter"
    assert asked[0][1]["data_home"] == str(tmp_path)


@pytest.mark.parametrize(
    "answer, words",
    [
        (OSError("[Errno -3] Temporary failure in name resolution"), "internet"),
        (ValueError("Dataset nosuch\nnot found."), "could not be fetched"),
        (TimeoutError(), "TimeoutError"),
        ({"data": np.array([["x", "y"]] * 9, dtype=object), "target": list("abc" * 3)}, "numbers"),
        ({"data": np.full((9, 2), np.nan), "target": list("abc" * 3)}, "finite"),
        ({"data": np.ones((9, 2)), "target": None}, "target|classes|labels"),
        ({"data": np.ones((9, 2)), "target": np.arange(9.0)}, "at least 3 samples"),
    ],
    ids=["offline", "unknown", "timeout", "words", "missing", "no target", "regression"],
)
def test_openml_that_cannot_be_had_is_one_sentence(
    openml: Callable[[Any], list[Any]], answer: Any, words: str
) -> None:
    openml(answer)
    sentence = refused("openml:nosuch")
    assert any(word in sentence for word in words.split("|")), sentence


def test_openml_needs_a_name() -> None:
    assert "openml:letter" in refused("openml")
    assert "openml:letter" in refused("openml:")


@pytest.mark.parametrize("name", ["digits", "openml:letter"])
def test_without_scikit_learn_the_extra_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert "neuralcollapse[train]" in refused(name)
