"""`neuralcollapse frame`: a table or one JSON object, a file with the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cli.command import in_process, run
from neuralcollapse import FixedHead, Frame, make_frame, riesz_energy, spherical_code

KEYS = ["kind", "classes", "dim", "max_cosine", "energy", "bound", "gap", "status"]


def as_json(*arguments: Any) -> dict[str, Any]:
    outcome = run("frame", *arguments, "--json")
    assert outcome.err == ""
    assert len(outcome.assert_ok().splitlines()) == 1
    return json.loads(outcome.out, parse_constant=lambda text: pytest.fail(f"{text} in JSON"))


def size(num_classes: int, dim: int) -> tuple[Any, ...]:
    return "--classes", num_classes, "--dim", dim


def test_json_has_these_keys_and_the_frame_has_these_numbers(tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"
    result = as_json(
        "code", *size(9, 3), "--energy", "log", "--starts", 2, "--seed", 3, "--out", file
    )
    assert list(result) == KEYS
    frame = Frame.load(file)
    assert result == {
        "kind": frame.kind,
        "classes": 9,
        "dim": 3,
        "max_cosine": frame.max_cosine,
        "energy": float(riesz_energy(frame.vectors, 0)),
        "bound": frame.bound,
        "gap": frame.gap,
        "status": "best of 2 starts",
    }
    generator = torch.Generator().manual_seed(3)
    made = spherical_code(9, 3, generator, energy="log", starts=2, dtype=torch.float64)
    assert torch.equal(frame.vectors, made.vectors)


def test_the_frames_of_few_classes() -> None:
    simplex = as_json("simplex", *size(10, 16))
    assert simplex["max_cosine"] == pytest.approx(-1 / 9, abs=1e-12)
    assert simplex["energy"] == pytest.approx(20.25, rel=1e-12)
    assert (simplex["kind"], simplex["status"]) == ("simplex ETF", "proved")
    right = as_json("orthogonal", *size(10, 16), "--energy", "riesz:1")
    assert right["energy"] == pytest.approx(45 / 2**0.5, rel=1e-12)
    assert right["gap"] == pytest.approx(1 / 9, abs=1e-12)
    code = as_json("code", *size(10, 16), "--energy", "separation")
    assert code["max_cosine"] == pytest.approx(-1 / 9, abs=1e-12)
    assert code["energy"] == pytest.approx(-((20 / 9) ** 0.5), rel=1e-12)


def test_an_energy_beyond_numbers_is_null() -> None:
    assert as_json("code", *size(40, 2), "--energy", "riesz:4000")["energy"] is None


def test_the_table_says_the_same(tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"
    shown = run("frame", "code", *size(12, 3), "--energy", "separation", "-o", file).assert_ok()
    assert "0.4472135955" in shown
    assert "-1.051462224" in shown
    assert "proved to 1e-06" in shown
    assert f"frame: {file}" in shown


def test_the_same_command_writes_the_same_bytes(tmp_path: Path) -> None:
    """Here and in a process of its own."""
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for call, file in zip((run, in_process), files, strict=True):
        command = ["code", *size(8, 3), "--energy", "log", "--starts", 2, "--seed", 5]
        call("frame", *command, "--out", file).assert_ok()
    assert files[0].read_bytes() == files[1].read_bytes()


def test_seeds_differ(tmp_path: Path) -> None:
    files = [tmp_path / f"{seed}.safetensors" for seed in (1, 2)]
    for seed, file in zip((1, 2), files, strict=True):
        run("frame", "simplex", *size(4, 6), "--seed", seed, "--out", file).assert_ok()
    assert files[0].read_bytes() != files[1].read_bytes()


def test_a_head_can_be_fixed_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"
    run("frame", "code", *size(7, 4), "--out", file).assert_ok()
    head = FixedHead(make_frame(str(file), 7, 4))
    assert head.weight.dtype == torch.float32
    assert head.weight.shape == (7, 4)


REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "unknown frame": (("cube", *size(4, 3)), "frame must be one of simplex, orthogonal, code"),
    "no dimension": (("code", *size(4, 0)), "dim must be at least 2, got 0"),
    "one class": (("code", *size(1, 3)), "num_classes must be at least 2, got 1"),
    "no room": (("simplex", *size(10, 3)), "dim must be at least 9, got 3"),
    "unknown energy": (("code", *size(9, 3), "--energy", "heat"), "energy must be one of riesz"),
    "energy of a simplex": (("simplex", *size(4, 3), "--energy", "heat"), "energy must be one of"),
    "low power": (("code", *size(9, 3), "--energy", "riesz:-2"), "power must be finite and above"),
    "no number": (("code", *size(9, 3), "--energy", "riesz:x"), "must be a number, got 'x'"),
    "starts of a simplex": (("simplex", *size(4, 3), "--starts", 3), "starts must go with a code"),
    "no starts": (("code", *size(9, 3), "--starts", 0), "starts must be at least 1"),
    "negative seed": (("code", *size(9, 3), "--seed", -1), "seed must be at least 0"),
    "huge seed": (("code", *size(9, 3), "--seed", 2**70), "seed must be below 2**63"),
    "no classes": (("code", "--dim", 3), "--classes"),
    "half a class": (("code", "--classes", "2.5", "--dim", 3), "--classes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path: Path, name: str) -> None:
    arguments, message = REFUSED[name]
    outcome = run("frame", *arguments, "--out", tmp_path / "f.safetensors", "--json")
    outcome.assert_refused(message)
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_is_said_before_solving(tmp_path: Path) -> None:
    # A code this large would take hours.
    code = ("code", *size(4000, 1000))
    outcome = run("frame", *code, "--out", tmp_path / "no" / "f.safetensors")
    outcome.assert_refused("out must lie in a folder that exists")
    run("frame", *code, "--out", tmp_path / "f.npz").assert_refused("out must end in .safetensors")
