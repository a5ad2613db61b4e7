"""Letters drawn with the fonts of the machine: what is told apart, and how they are cut."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import pytest
import torch

pytest.importorskip("PIL.ImageFont", reason="needs Pillow")

from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.data import DATA_ROOT_VARIABLE, Data, load_data
from neuralcollapse.train.glyph_sets import (
    CHARACTERS,
    PIXELS,
    glyph_hierarchy,
    read_glyphs,
)
from neuralcollapse.train.network import class_hierarchy

CONFIG = TrainConfig(data="glyphs", hierarchy="glyphs")


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def data() -> Data:
    try:
        return load_data(CONFIG)
    except ValueError as error:
        pytest.skip(str(error))


def test_the_tree_is_script_letter_case() -> None:
    tree = glyph_hierarchy()
    assert tree.classes == CHARACTERS
    assert tree.level_sizes == (1, 3, 52, 104)
    distances, at = tree.distances(), CHARACTERS.index
    assert [distances[at("A"), at(c)] for c in "aBΓ"] == [1, 2, 3]
    for node, character in zip(tree.levels[:, 1], CHARACTERS, strict=True):
        assert unicodedata.name(character).startswith(tree.nodes[node].upper())
    for capital, small in zip(CHARACTERS[::2], CHARACTERS[1::2], strict=True):
        assert capital.lower() == small
        assert distances[at(capital), at(small)] == 1


def test_every_font_draws_every_letter_once(data: Data) -> None:
    assert class_hierarchy(CONFIG, data.classes) == glyph_hierarchy()
    assert data.input_shape == (1, PIXELS, PIXELS)
    for counts in data.counts().values():
        assert len({*counts}) == 1
        assert counts[0] > 0


def test_letters_keep_their_size(data: Data) -> None:
    """A capital is taller than its small letter of the same shape, on one baseline."""
    inputs = data.train.inputs(torch.arange(len(CHARACTERS)))
    rows = inputs[:, 0].amax(2) > 128
    assert not bool(rows[:, -1].any())
    heights = rows.sum(1)
    for pair in ("Oo", "Ss", "Vv", "Xx", "Zz"):
        capital, small = (int(heights[CHARACTERS.index(letter)]) for letter in pair)
        assert capital > small + 2


def test_parts_share_no_picture_and_follow_the_seed(data: Data) -> None:
    parts = (data.train, data.validation, data.test)
    drawn = [{p.numpy().tobytes() for p in part.inputs(torch.arange(len(part)))} for part in parts]
    total = sum(map(len, drawn))
    # Two families may draw a letter, "I" or "l", by the same pixels; not more than that.
    assert len(set.union(*drawn)) > 0.95 * total
    again = load_data(CONFIG)
    some = torch.arange(len(again.test))
    assert torch.equal(again.test.inputs(some), data.test.inputs(some))


def test_too_few_fonts_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    with pytest.raises(
        ValueError, match=r"three families of fonts with .*, got 0 in .*--data-root"
    ):
        read_glyphs([tmp_path], 0.1, 0.2, 0)
    assert "damaged.ttf is left out" in capsys.readouterr().err


def test_one_family_is_not_enough(tmp_path: Path) -> None:
    fonts = sorted(Path("/usr/share/fonts").rglob("LiberationSans-*.ttf"))
    if not fonts:
        pytest.skip("Liberation fonts are not installed")
    for font in fonts:
        shutil.copy(font, tmp_path)
    with pytest.raises(ValueError, match="got 1 in"):
        read_glyphs([tmp_path], 0.1, 0.2, 0)
