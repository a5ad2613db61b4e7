"""Files are whole or absent, nothing is unpickled, and every damaged file is a ValueError."""

from __future__ import annotations

import functools
import io
import json
import math
import os
import pickle
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralcollapse.files import (
    read_json,
    read_npz,
    read_tensors,
    write_atomically,
    write_json,
    write_tensors,
)

READERS: dict[str, Callable[[Path], Any]] = {
    "json": read_json,
    "npz": read_npz,
    "safetensors": read_tensors,
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["text with ü\n", b"\x00\xff bytes", ""])
def test_what_is_written_is_there_and_nothing_else(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    write_atomically(str(path), content)
    expected = content.encode() if isinstance(content, str) else content
    assert path.read_bytes() == expected
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("failing", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_file_and_no_other(
    failing: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(type(error)):
        write_atomically(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_the_file_is_replaced_and_never_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader who opens the path while it is written sees the old content, all of it."""
    path = tmp_path / "file"
    write_atomically(path, "old")
    seen: list[str] = []
    replace = os.replace

    def look_first(source: Any, target: Any) -> None:
        seen.append(path.read_text())
        seen.append(Path(source).read_text())
        assert Path(source).parent == path.parent  # a rename across file systems is a copy
        replace(source, target)

    monkeypatch.setattr(os, "replace", look_first)
    write_atomically(path, "new")
    assert seen == ["old", "new"]
    assert path.read_text() == "new"


def test_a_file_is_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "text")
        assert os.umask(0o027) == 0o027  # left as it was
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cannot write .*file.*absent does not exist"):
        write_atomically(tmp_path / "absent" / "file", "text")


@pytest.mark.parametrize("value", [math.nan, math.inf, {"deep": [1, -math.inf]}, {1, 2}])
def test_what_json_cannot_say_is_refused_before_anything_is_written(
    value: Any, tmp_path: Path
) -> None:
    write_json(tmp_path / "file.json", {"old": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json") == {"old": 1}
    assert names(tmp_path) == ["file.json"]


# --- round trips --------------------------------------------------------------------------------


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(value=VALUES)
@settings(max_examples=20)  # each waits for the disk
def test_json_gives_back_the_value(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.json"
    write_json(path, value)
    assert read_json(path) == value


def test_tensors_give_back_every_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(4, 4, generator=generator)
    tensors = {
        "half": square.half(),
        "brain": square.bfloat16(),
        "double": square.double(),
        "transposed": square.T,
        "slice": square[:, 1],
        "parameter": torch.nn.Parameter(square.clone()),
        "integers": torch.arange(3),
        "nothing": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "odd numbers": torch.tensor([math.nan, math.inf, -0.0]),
    }
    write_tensors(tmp_path / "file.safetensors", tensors, {"format": "mine", "ü": "\n"})
    again, metadata = read_tensors(tmp_path / "file.safetensors")
    assert metadata == {"format": "mine", "ü": "\n"}
    assert set(again) == set(tensors)
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        torch.testing.assert_close(
            again[name], tensor.detach(), rtol=0, atol=0, equal_nan=True, msg=name
        )
    write_tensors(tmp_path / "plain.safetensors", {"a": square})
    assert read_tensors(tmp_path / "plain.safetensors")[1] == {}
    assert names(tmp_path) == ["file.safetensors", "plain.safetensors"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_gives_back_the_arrays(save: Callable[..., None], tmp_path: Path) -> None:
    arrays = {"features": np.eye(3, dtype=np.float16), "labels": np.arange(3)}
    save(tmp_path / "file.npz", **arrays)
    again = read_npz(tmp_path / "file.npz")
    assert set(again) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array, strict=True)


# --- damage -------------------------------------------------------------------------------------


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "exploded"))


def npz_of(header: bytes) -> bytes:
    """An archive with one array whose header says what it likes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(
            "features.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
        )
    return buffer.getvalue()


def encrypted() -> bytes:
    """An archive whose entry claims to be encrypted."""
    content = bytearray(npz_of(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }\n"))
    content[6] |= 1  # local header
    content[content.index(b"PK\x01\x02") + 8] |= 1  # central directory
    return bytes(content)


def safetensors_of(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


HOSTILE: dict[str, tuple[str, bytes]] = {
    "json, empty": ("json", b""),
    "json, cut": ("json", b'{"a": [1, 2'),
    "json, not text": ("json", b"\xff\xfe\x00"),
    "json, deep": ("json", b"[" * 200_000),
    "json, long number": ("json", b"1" * 10_000),
    "npz, empty": ("npz", b""),
    "npz, text": ("npz", b"features,labels\n1,2\n"),
    "npz, one array": ("npz", b"\x93NUMPY\x01\x00"),
    "npz, not a zip": ("npz", b"PK\x03\x04 and then nothing"),
    "npz, a pickle": ("npz", pickle.dumps({"features": [1.0]})),
    "npz, petabytes": (
        "npz",
        npz_of(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000000), }\n"),
    ),
    "npz, more than an integer": (
        "npz",
        npz_of(b"{'descr': '<f8', 'fortran_order': False, 'shape': (" + b"9" * 30 + b",), }\n"),
    ),
    "npz, negative": (
        "npz",
        npz_of(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }\n"),
    ),
    "npz, cut short": (
        "npz",
        npz_of(b"{'descr': '<f8', 'fortran_order': False, 'shape': (100,), }\n"),
    ),
    "npz, code in the header": ("npz", npz_of(b"__import__('os').getcwd()\n")),
    "npz, unclosed header": ("npz", npz_of(b"{'descr': ((((\n")),
    "npz, deep header": ("npz", npz_of(b"(" * 5000 + b"\n")),
    "npz, encrypted": ("npz", encrypted()),
    "safetensors, empty": ("safetensors", b""),
    "safetensors, text": ("safetensors", b"hello, this is no such file at all"),
    "safetensors, petabytes of header": ("safetensors", safetensors_of(b"{}", 1 << 50)),
    "safetensors, header is a list": ("safetensors", safetensors_of(b"[1, 2]")),
    "safetensors, no data": (
        "safetensors",
        safetensors_of(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    ),
    "safetensors, offsets reversed": (
        "safetensors",
        safetensors_of(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}') + bytes(8),
    ),
    "safetensors, size disagrees": (
        "safetensors",
        safetensors_of(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,8]}}') + bytes(8),
    ),
    "safetensors, unknown type": (
        "safetensors",
        safetensors_of(b'{"a":{"dtype":"Q7","shape":[2],"data_offsets":[0,8]}}') + bytes(8),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_value_error_that_names_it(name: str, tmp_path: Path) -> None:
    kind, content = HOSTILE[name]
    path = tmp_path / f"hostile.{kind}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"hostile\.{kind} is not"):
        READERS[kind](path)


@pytest.mark.parametrize("kind", READERS)
def test_a_missing_file_and_a_folder_are_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent.* does not exist"):
        READERS[kind](tmp_path / "absent")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder"):
        READERS[kind](tmp_path / "folder")


@functools.cache
def good_content(kind: str, folder: Path) -> bytes:
    path = folder / f"good.{kind}"
    if kind == "json":
        write_json(path, {"metrics": {"nc1": 0.125}, "counts": [2, 2]})
    elif kind == "npz":
        np.savez_compressed(path, features=np.arange(12.0).reshape(4, 3), labels=np.arange(4))
    else:
        write_tensors(path, {"a": torch.arange(4.0), "b": torch.eye(2)}, {"format": "x"})
    return path.read_bytes()


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
@settings(max_examples=120)
def test_no_damage_gives_anything_but_a_value_error(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(good_content(kind, folder))
    if data.draw(st.booleans(), label="cut"):
        del content[data.draw(st.integers(0, len(content) - 1), label="at") :]
    for _ in range(data.draw(st.integers(0, 3), label="changes")):
        if content:
            position = data.draw(st.integers(0, len(content) - 1), label="position")
            content[position] = data.draw(st.integers(0, 255), label="byte")
    path = folder / f"damaged.{kind}"
    path.write_bytes(bytes(content))
    message = "damaged"
    try:
        READERS[kind](path)  # some changes harm nothing
    except ValueError as error:
        message = str(error)
    assert "damaged" in message


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    bomb = Bomb(sign)
    np.savez(tmp_path / "bomb.npz", features=np.array([bomb], dtype=object), allow_pickle=True)
    (tmp_path / "plain.npz").write_bytes(pickle.dumps(bomb))
    (tmp_path / "bomb.safetensors").write_bytes(pickle.dumps(bomb))
    (tmp_path / "bomb.json").write_bytes(pickle.dumps(bomb))
    for name in ("bomb.npz", "plain.npz", "bomb.safetensors", "bomb.json"):
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            READERS[name.rpartition(".")[2]](tmp_path / name)
        assert not sign.exists()
    pickle.loads(pickle.dumps(bomb))
    assert sign.exists()  # the bomb would have worked


def test_json_of_other_programs_is_read(tmp_path: Path) -> None:
    """Windows editors put a byte order mark in front; other writers use no line ends."""
    (tmp_path / "compact.json").write_text(json.dumps({"a": 1}))
    assert read_json(tmp_path / "compact.json") == {"a": 1}
