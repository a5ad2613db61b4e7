"""A file gives back every bit; damaged, hostile and other files are refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cases.worlds import simplex_vertices, world
from neuralcollapse import ClassStatistics
from passes import accumulated, assert_same


@pytest.mark.parametrize("scatter", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_file_gives_back_every_bit(tmp_path: Path, scatter: bool, dtype: torch.dtype) -> None:
    w = world("noisy", simplex_vertices(4, 6), [5, 0, 1, 5], 0.3)
    statistics = accumulated([(w.features, w.labels)], 4, scatter=scatter, dtype=dtype)
    path = tmp_path / "train.safetensors"
    statistics.save(path)
    again = ClassStatistics.load(str(path))
    for name in ("counts", "means", "spread", "scatter"):
        one, other = getattr(statistics, name), getattr(again, name)
        if one is None:
            assert other is None
        else:
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    assert_same(again.merge(statistics), statistics.merge(statistics), 0)
    assert [p.name for p in tmp_path.iterdir()] == ["train.safetensors"]


FORMAT = {"format": "neuralcollapse.ClassStatistics.1"}


def stored(**changes: Tensor | None) -> dict[str, Tensor]:
    """The arrays of two classes in three dimensions, with changes; None leaves one out."""
    arrays: dict[str, Tensor | None] = {
        "counts": torch.tensor([3, 2]),
        "means": torch.zeros(2, 3, dtype=torch.float64),
        "spread": torch.ones(2, dtype=torch.float64),
        "scatter": torch.eye(3, dtype=torch.float64),
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def test_the_hostile_files_start_from_a_good_one(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    safetensors.torch.save_file(stored(), path, FORMAT)
    assert ClassStatistics.load(path).num_samples == 5


HOSTILE: dict[str, dict[str, Tensor]] = {
    "no counts": stored(counts=None),
    "no means": stored(means=None),
    "counts too short": stored(counts=torch.tensor([3])),
    "counts in a column": stored(counts=torch.tensor([[3], [2]])),
    "means in one row": stored(means=torch.zeros(3, dtype=torch.float64)),
    "scatter of another width": stored(scatter=torch.eye(4, dtype=torch.float64)),
    "scatter not square": stored(scatter=torch.zeros(3, 4, dtype=torch.float64)),
    "no class": stored(
        counts=torch.zeros(0, dtype=torch.int64),
        means=torch.zeros(0, 3, dtype=torch.float64),
        spread=torch.zeros(0, dtype=torch.float64),
    ),
    "counts with a fraction": stored(counts=torch.tensor([3.5, 2.0])),
    "negative counts": stored(counts=torch.tensor([3, -2])),
    "boolean counts": stored(counts=torch.tensor([True, True])),
    "integer means": stored(means=torch.zeros(2, 3, dtype=torch.int64)),
    "mean not a number": stored(means=torch.full((2, 3), math.nan, dtype=torch.float64)),
    "infinite mean": stored(means=torch.full((2, 3), math.inf, dtype=torch.float64)),
    "negative spread": stored(spread=torch.tensor([1.0, -1.0], dtype=torch.float64)),
    "spread not a number": stored(spread=torch.tensor([1.0, math.nan], dtype=torch.float64)),
    "scatter not a number": stored(scatter=torch.full((3, 3), math.nan, dtype=torch.float64)),
    "types that do not fit": stored(spread=torch.ones(2, dtype=torch.float32)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_with_impossible_arrays_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.safetensors"
    safetensors.torch.save_file(HOSTILE[name], path, FORMAT)
    with pytest.raises(ValueError, match=r"hostile\.safetensors"):
        ClassStatistics.load(path)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "pt"}, {"format": "neuralcollapse.ClassStatistics.99"}):
        safetensors.torch.save_file(stored(), path, metadata)
        with pytest.raises(ValueError, match=r"does not hold class statistics.*save"):
            ClassStatistics.load(path)
    torch.save(stored(), path)  # a pickle under a false name
    with pytest.raises(ValueError, match=r"other\.safetensors"):
        ClassStatistics.load(path)
    with pytest.raises(ValueError, match=r"absent\.safetensors does not exist"):
        ClassStatistics.load(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match=str(tmp_path)):
        ClassStatistics.load(tmp_path)


@given(data=st.data())
@settings(max_examples=60)
def test_damaged_files_are_refused_with_a_value_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Truncated anywhere, or any byte of the header changed: an error that names the file."""
    folder = tmp_path_factory.mktemp("damaged")
    good = folder / "good.safetensors"
    ClassStatistics.from_features(torch.eye(3), torch.tensor([0, 1, 1]), 2).save(good)
    content = good.read_bytes()
    bad = folder / "bad.safetensors"
    if data.draw(st.booleans(), label="truncate"):
        bad.write_bytes(content[: data.draw(st.integers(0, len(content) - 1), label="length")])
        with pytest.raises(ValueError, match=r"bad\.safetensors"):
            ClassStatistics.load(bad)
    else:
        at = data.draw(st.integers(0, 200), label="position")
        byte = data.draw(st.integers(0, 255), label="byte")
        bad.write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
        message = "bad.safetensors"
        try:
            ClassStatistics.load(bad)  # a change of a number gives another number
        except ValueError as error:
            message = str(error)
        assert "bad.safetensors" in message
