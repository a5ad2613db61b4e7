"""The script that makes `wordnet`: who is a class, which texts are taken, what is left out."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from neuralcollapse import Hierarchy

ROOT = Path(__file__).parents[1]
DEBIAN = Path("/usr/share/wordnet/data.noun")
LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by\n"

# Number, words, pointers (kind, target), definition; "@" leads to a hypernym.
NOUNS = """
00001740 entity | what exists
00000010 animal @00001740 | a living thing
00000011 dog hound @00000010 | a barker; "the dog barked"
00000012 cat @00000010 @00000020 | a purrer
00000013 old_cat @00000012 | a purrer of age
00000014 Rex @i00000011 | the dog of somebody
00000015 cur @00000011 ;u00000099 | a dog (impolite)
00000016 hog @00000010 | an idiot of an animal
00000020 pet @00001740 | kept at home
00000021 cage @00000020 | a home with bars; or without; "in a cage"
00000022 bowl @00000020 | to eat from
00000023 leash @00000020 | to eat from
00000024 collar @00000020 | around the neck
00000025 groom @00000020 @00000026 | who combs
00000026 worker @00007846 | who works
00007846 person @00001740 | somebody
00000099 slang @00001740 | how some speak
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_wordnet", ROOT / "scripts" / "make_wordnet.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def line(noun: str) -> str:
    """In the format of data.noun: words and pointers with their numbers, the first in hex."""
    data, _, gloss = noun.partition(" | ")
    number, *others = data.split()
    pointers = [text for text in others if text[0] in "@;"]
    words = [text for text in others if text[0] not in "@;"]
    told = [f"{text[:-8]} {text[-8:]} n 0000" for text in pointers]
    named = " ".join(f"{word} 0" for word in words)
    parts = [number, "03 n", f"{len(words):02x}", named, f"{len(told):03d}", *told]
    return f"{' '.join(parts)} | {gloss}  \n"


def made(script: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict, bytes]:
    """The texts that the script writes, and its tree."""
    for inner in ("hierarchy", "train"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    content = LICENCE + "".join(line(noun) for noun in NOUNS.strip().splitlines())
    (folder / "data.noun").write_text(content, encoding="utf-8")
    monkeypatch.setattr(script, "LOW", 2)
    monkeypatch.setattr(script, "HIGH", 4)
    monkeypatch.setattr(sys, "argv", ["make_wordnet", str(folder), "--out", str(folder)])
    script.main()
    packed = (folder / "train" / "wordnet.json.gz").read_bytes()
    return json.loads(gzip.decompress(packed)), (folder / "hierarchy" / "wordnet.json").read_bytes()


def test_a_small_net_by_hand(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Usable at or below animal: itself, dog, cat, old cat. At or below pet: itself, cage, collar.

    Rex is an instance, the cur is slang, the hog's definition holds a word that is unfit, bowl and
    leash have one definition, the groom is a person by the second hypernym.
    """
    content, tree = made(script, tmp_path, monkeypatch)
    assert content["definitions"] == {
        # Two of four and two of three, evenly in the order of the numbers, examples cut off.
        "animal n00000010": ["a living thing", "a purrer"],
        "pet n00000020": ["kept at home", "a home with bars; or without"],
    }
    assert Hierarchy.from_json(tree) == Hierarchy.from_newick(
        "('animal n00000010','pet n00000020')'entity n00001740';"
    )


def test_the_same_is_made_twice(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(script, tmp_path / "one", monkeypatch)
    assert made(script, tmp_path / "two", monkeypatch) == first


def test_a_missing_file_is_said(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_wordnet", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"data\.noun is missing; unpack Debian's wordnet-base"):
        script.main()


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN.is_file(), reason="Debian's wordnet-base is not installed")
def test_what_ships_is_what_the_script_makes(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for inner in ("hierarchy", "train"):
        (tmp_path / inner).mkdir()
    monkeypatch.setattr(sys, "argv", ["make", str(DEBIAN.parent), "--out", str(tmp_path)])
    script.main()
    package = ROOT / "src" / "neuralcollapse"
    for name in ("hierarchy/wordnet.json", "train/wordnet.json.gz"):
        new, old = (tmp_path / name).read_bytes(), (package / name).read_bytes()
        # Another zlib may pack the same content otherwise.
        packed = name.endswith(".gz")
        assert (gzip.decompress(new) if packed else new) == (
            gzip.decompress(old) if packed else old
        )
