"""Frames on disk and by text: the same bytes, whole or not at all, and nothing believed blindly."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from neuralcollapse import Frame, make_frame, simplex_etf, spherical_code
from neuralcollapse.frames.table import FRAMES

KEY = "neuralcollapse.frame"


def written(path: Path, vectors: Any, about: Any = None) -> Path:
    """A file as somebody else might write it."""
    metadata = (
        None if about is None else {KEY: about if isinstance(about, str) else json.dumps(about)}
    )
    save_file({"vectors": vectors}, path, metadata)
    return path


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_frame_comes_back_as_it_was(tmp_path: Path, dtype: torch.dtype) -> None:
    frames = [
        simplex_etf(5, 7, torch.Generator().manual_seed(1), dtype=dtype),
        spherical_code(7, 4, energy="log", dtype=dtype),
        Frame("mine", torch.eye(3).to(dtype)),
    ]
    for frame in frames:
        frame.save(tmp_path / "a.safetensors")
        back = Frame.load(tmp_path / "a.safetensors")
        assert torch.equal(back.vectors, frame.vectors)
        assert back.vectors.dtype == dtype
        assert (back.kind, back.bound, back.status) == (frame.kind, frame.bound, frame.status)
        assert dict(back.facts) == dict(frame.facts)


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    vectors = torch.eye(3)
    for name, facts in (("a", {"x": 1.0, "y": 2.0}), ("b", {"y": 2.0, "x": 1.0})):
        Frame("k", vectors, -0.5, "s", facts).save(tmp_path / f"{name}.safetensors")
    first, second = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "ab")
    assert first == second
    assert len(list(tmp_path.iterdir())) == 2


def test_what_was_loaded_does_not_hang_on_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    simplex_etf(4, 3).save(file)
    frame = Frame.load(file)
    file.write_bytes(b"")
    assert torch.equal(frame.vectors, simplex_etf(4, 3).vectors)


def test_a_foreign_file_says_nothing_of_itself(tmp_path: Path) -> None:
    frame = Frame.load(written(tmp_path / "theirs.safetensors", torch.eye(4)))
    assert frame.kind == "frame from theirs.safetensors"
    assert (frame.bound, frame.status, dict(frame.facts)) == (None, "", {})


ABOUT = {"kind": "k", "bound": None, "status": "", "facts": {}}
HOSTILE: dict[str, tuple[Any, Any, str]] = {
    "not unit": (2 * torch.eye(3), None, "must have unit length, got length 2 in row 0"),
    "zero row": (
        torch.eye(4)[:, :3].contiguous(),
        None,
        "must have unit length, got length 0 in row 3",
    ),
    "not a number": (torch.full((3, 3), torch.nan), None, "must be finite, got NaN"),
    "one vector": (torch.ones(1, 1), None, "must be 2 rows or more"),
    "integers": (torch.eye(3).long(), None, "must be floating point"),
    "three axes": (torch.eye(3)[None], None, "must be 2-D"),
    "no JSON": (torch.eye(3), "{", "cannot be read"),
    "deep JSON": (torch.eye(3), "[" * 100_000, "cannot be read"),
    "a list": (torch.eye(3), [], "cannot be read"),
    "no status": (torch.eye(3), {"kind": "k", "bound": 0, "facts": {}}, "cannot be read"),
    "number as kind": (torch.eye(3), {**ABOUT, "kind": 3}, "cannot be read"),
    "facts in words": (torch.eye(3), {**ABOUT, "facts": {"energy": "low"}}, "cannot be read"),
    "facts as list": (torch.eye(3), {**ABOUT, "facts": [1]}, "cannot be read"),
    "endless bound": (torch.eye(3), '{"kind":"","bound":1e999,"status":"","facts":{}}', "be read"),
    "bound too good": (torch.eye(3), {**ABOUT, "bound": 0.5}, "claims that no largest cosine lies"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_with_their_name(tmp_path: Path, name: str) -> None:
    vectors, about, message = HOSTILE[name]
    file = written(tmp_path / "hostile.safetensors", vectors, about)
    with pytest.raises(ValueError, match=message) as caught:
        Frame.load(file)
    assert str(caught.value).startswith(str(file))
    assert len(str(caught.value).splitlines()) == 1


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match="does not exist"):
        Frame.load(file)
    simplex_etf(4, 3).save(file)
    whole = file.read_bytes()
    for content in (b"", whole[:-1], whole[:20], struct.pack("<Q", 2**62) + whole[8:]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is not a readable safetensors file"):
            Frame.load(file)
    save_file({"weight": torch.eye(3)}, file)
    with pytest.raises(ValueError, match="must hold the tensor 'vectors', it holds weight"):
        Frame.load(file)


def test_nothing_is_written_where_it_cannot_be(tmp_path: Path) -> None:
    frame = Frame("k", torch.eye(3), facts={"energy": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        frame.save(tmp_path / "a.safetensors")
    with pytest.raises(FileNotFoundError, match="folder"):
        simplex_etf(4, 3).save(tmp_path / "nowhere" / "a.safetensors")
    assert not list(tmp_path.iterdir())


# --- by text --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, make", FRAMES)
def test_every_frame_has_its_name(name: str, make: Any) -> None:
    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(7)

    made = make_frame(name, 5, 8, generator(), dtype=torch.float64)
    assert torch.equal(made.vectors, make(5, 8, generator(), dtype=torch.float64).vectors)


def test_options_reach_the_code() -> None:
    direct = spherical_code(9, 3, energy="log", starts=2, steps=100)
    for text in ("code:energy=log,starts=2,steps=100", "code:log,starts=2,steps=100"):
        made = make_frame(text, 9, 3)
        assert torch.equal(made.vectors, direct.vectors)
        assert made.status == "best of 2 starts"


def test_a_file_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "a b.safetensors"
    frame = spherical_code(9, 3, energy=1, starts=1, dtype=torch.float64)
    frame.save(file)
    made = make_frame(str(file), 9, 3)
    assert made.vectors.dtype == torch.float32
    assert torch.equal(made.vectors, frame.vectors.float())
    assert made.facts == frame.facts
    for size in ((8, 3), (9, 4)):
        with pytest.raises(ValueError, match="holds 9 vectors in 3 dimensions, wanted are"):
            make_frame(str(file), *size)
    with pytest.raises(
        ValueError, match=r"wanted are 8 in 4; make one with .* --classes 8 --dim 4"
    ):
        make_frame(str(file), 8, 4)


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "unknown": ("cube", ValueError, "frame must be one of simplex, orthogonal, code or the path"),
    "option of another": ("simplex:starts=3", ValueError, "'simplex' has no option 'starts'"),
    "unknown option": ("code:start=3", ValueError, "'code' has no option 'start'; it takes energy"),
    "no integer": ("code:starts=many", ValueError, "starts must be an integer, got 'many'"),
    "no start": ("code:starts=0", ValueError, "starts must be at least 1"),
    "unknown energy": ("code:energy=warm", ValueError, "energy must be one of riesz, log"),
    "low power": ("code:energy=riesz:-2", ValueError, "power must be finite and above -2"),
    "missing file": ("no.safetensors", ValueError, "no.safetensors does not exist"),
    "no text": (None, TypeError, "frame must be text"),
    "nothing": ("", ValueError, "frame must be written name"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_texts_that_name_no_frame_are_refused(name: str) -> None:
    text, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        make_frame(text, 9, 3)
