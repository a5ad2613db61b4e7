"""The script that makes the tree of ImageNet's classes: its nodes, their order, what is missing."""

from __future__ import annotations

import importlib
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from neuralcollapse import Hierarchy

ROOT = Path(__file__).parents[1]
DEBIAN = Path("/usr/share/wordnet/data.noun")
# WordNet's form: offset, file, type, number of words (hexadecimal), words, number of pointers,
# pointers (symbol, target, part of speech, source and target word), gloss.
NOUNS = """  1 This software and database is being provided to you, the LICENSEE
00000001 03 n 01 entity 0 001 ~ 00000002 n 0000 | that which is
00000002 03 n 02 animal 0 beast 1 002 @ 00000001 n 0000 ~ 00000003 n 0000 | a living one
00000003 05 n 01 cat 0 003 #m 00000009 n 0000 @ 00000002 n 0000 @ 00000006 n 0000 | purrs
00000004 05 n 0a old_dog 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 001 @ 00000002 n 0000 | barks
00000005 06 n 01 car 0 001 @ 00000006 n 0000 | drives
00000006 06 n 01 thing 0 001 @ 00000001 n 0000 | is used
00000007 06 n 01 bus 0 001 @ 00000006 n 0000 | is late
"""
SYNSETS = "n00000003\nn00000005\nn00000004\nn00000007\n"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")  # as where the script is run
    for name in ("make_wordnet", "make_imagenet_tree"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("make_imagenet_tree")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder with WordNet and a wheel with the order of the classes among others."""
    (tmp_path / "data.noun").write_text(NOUNS)
    with zipfile.ZipFile(tmp_path / "timm.whl", "w") as wheel:
        wheel.writestr("timm/data/_info/mini_imagenet_synsets.txt", "n00000001\n")
        wheel.writestr("timm/data/_info/imagenet_synsets.txt", SYNSETS)
    return tmp_path


def made(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *given: str | Path) -> bytes:
    out = Path(given[1]) / "out" / "tree.json"
    monkeypatch.setattr(sys, "argv", ["make", *map(str, given), f"--out={out}"])
    script.main()
    return out.read_bytes()


def test_every_synset_hangs_below_its_first_hypernym(
    script: ModuleType, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = made(script, monkeypatch, sources / "timm.whl", sources)
    tree = Hierarchy.from_json(text)
    assert tree.classes == ("cat n00000003", "car n00000005", "old dog n00000004", "bus n00000007")
    assert tree.nodes[0] == "entity n00000001"
    expected = [[0, 4, 2, 4], [4, 0, 4, 2], [2, 4, 0, 4], [4, 2, 4, 0]]
    assert tree.distances("path").tolist() == expected
    (sources / "ids.txt").write_text(SYNSETS)
    assert made(script, monkeypatch, sources / "ids.txt", sources) == text


def test_what_is_missing_is_said(
    script: ModuleType, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sources / "ids.txt").write_text("n00000099\n")
    with pytest.raises(SystemExit, match=r"no n00000099 with a hypernym; it must be WordNet 3\.0"):
        made(script, monkeypatch, sources / "ids.txt", sources)
    with zipfile.ZipFile(sources / "other.whl", "w"):
        pass
    with pytest.raises(SystemExit, match=r"holds no imagenet_synsets\.txt; it must be a wheel"):
        made(script, monkeypatch, sources / "other.whl", sources)
    with pytest.raises(SystemExit, match=r"data\.noun"):
        made(script, monkeypatch, sources / "timm.whl", sources / "nowhere")


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN.is_file(), reason="Debian's wordnet-base is not installed")
def test_what_ships_is_what_the_script_makes(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the classes that it names: their order is timm's."""
    ships = ROOT / "examples" / "data" / "imagenet-tree.json"
    ids = [name.rsplit(" ", 1)[1] for name in Hierarchy.from_file(ships).classes]
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    monkeypatch.setattr(sys, "argv", ["make", f"{tmp_path}/ids.txt", f"{DEBIAN.parent}"])
    monkeypatch.setattr(sys, "argv", [*sys.argv, f"--out={tmp_path}/tree.json"])
    script.main()
    assert (tmp_path / "tree.json").read_bytes() == ships.read_bytes()
