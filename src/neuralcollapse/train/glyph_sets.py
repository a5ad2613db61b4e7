"""Characters of several scripts, drawn with the fonts of the machine."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.train.samples import TensorSamples, seeded

# Pairs of capital and small letter. Greek and Cyrillic letters that look like letters of a script
# before them in either case are left out: no network could tell Latin A from Greek Alpha.
SCRIPTS = {
    "Latin": [(chr(65 + k), chr(97 + k)) for k in range(26)],
    "Greek": [*zip("ΓΔΘΛΞΠΣΦΨΩ", "γδθλξπσφψω", strict=True)],
    "Cyrillic": [*zip("БДЖЗИЙЦЧШЩЪЫЬЭЮЯ", "бджзийцчшщъыьэюя", strict=True)],
}
CHARACTERS = tuple(c for pairs in SCRIPTS.values() for pair in pairs for c in pair)
PIXELS = 32
_LETTER_PIXELS, _BASELINE = 22, 23
_SUFFIXES = {".ttf", ".otf", ".ttc"}
_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)


def glyph_hierarchy() -> Hierarchy:
    """Script, letter, case, over the characters in the order of the labels.

    Example:
        >>> glyph_hierarchy().level_sizes
        (1, 3, 52, 104)
    """
    return Hierarchy.from_levels(
        [
            [script, f"{script} {capital}", character]
            for script, pairs in SCRIPTS.items()
            for capital, small in pairs
            for character in (capital, small)
        ]
    )


def read_glyphs(
    roots: list[Path], validation_share: float, test_share: float, seed: int
) -> tuple[TensorSamples, TensorSamples, TensorSamples, tuple[str, ...]]:
    """Training, validation and test pictures, which have no family of fonts in common; names.

    Every font that has all characters draws each of them once, at one size and on one baseline, so
    that small and capital letters of one shape differ. Fonts of one family are drawn much alike
    and stay together.

    Args:
        roots: folders with fonts; those of the system where there are none.
        validation_share: share of the families.
        test_share: share of the families.
        seed: of the cut.

    Raises:
        ValueError: if fewer than three families have all characters.
    """
    folders = roots or [Path(folder).expanduser() for folder in _FOLDERS]
    families: dict[str, list[np.ndarray]] = {}
    for file in sorted(f for folder in folders for f in folder.rglob("*")):
        if file.suffix.lower() in _SUFFIXES:
            family, pictures = _drawn(file)
            if pictures is not None:
                families.setdefault(family, []).append(pictures)
    if len(families) < 3:
        raise ValueError(
            f"glyphs must have three families of fonts with Latin, Greek and Cyrillic letters, "
            f"got {len(families)} in {', '.join(map(str, folders))}; install fonts such as DejaVu, "
            "Liberation and Noto, or name their folder with --data-root"
        )
    number = len(families)
    order = torch.randperm(number, generator=seeded(seed, number)).tolist()
    test = min(max(1, round(test_share * number)), number - 2)
    validation = min(max(1, round(validation_share * (number - test))), number - test - 1)
    cuts = (order[test + validation :], order[test : test + validation], order[:test])
    pictures = [families[name] for name in sorted(families)]
    train, held, last = (
        _samples([own for place in sorted(cut) for own in pictures[place]]) for cut in cuts
    )
    return train, held, last, CHARACTERS


def _samples(fonts: list[np.ndarray]) -> TensorSamples:
    images = torch.from_numpy(np.concatenate(fonts)).unsqueeze(1)
    return TensorSamples(images, torch.arange(len(CHARACTERS)).repeat(len(fonts)))


def _drawn(file: Path) -> tuple[str, np.ndarray | None]:
    """The family of a font, and (104, 32, 32) bytes, or None where it lacks a character."""
    from PIL import ImageFont

    try:
        font = ImageFont.truetype(str(file), _LETTER_PIXELS)
        missing = _picture(font, "\U0010ffff")
        pictures = np.stack([_picture(font, character) for character in CHARACTERS])
    except Exception as error:  # FreeType raises whatever a damaged font makes it
        print(f"warning: {file} is left out: {error}", file=sys.stderr)
        return "", None
    blank = ~pictures.any((1, 2))
    lacks = bool((blank | (pictures == missing).all((1, 2))).any())
    return font.getname()[0] or file.stem, None if lacks else pictures


def _picture(font: Any, character: str) -> np.ndarray:
    from PIL import Image, ImageDraw

    image = Image.new("L", (PIXELS, PIXELS))
    place = (PIXELS / 2, _BASELINE)
    ImageDraw.Draw(image).text(place, character, fill=255, font=font, anchor="ms")
    return np.asarray(image)
