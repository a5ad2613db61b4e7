"""Frames in training: from files, of hierarchies, assigned to classes after a warm-up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from neuralcollapse import Hierarchy, hierarchy_frame, simplex_etf
from neuralcollapse.heads import FixedHead, RotatedHead
from neuralcollapse.train.loop import check_trainable
from neuralcollapse.train.network import class_hierarchy, load_network, made_frame
from train.runs import blobs, method, trained

TREE = "((blob 3,blob 1),(blob 2,blob 0));"


def saved_frame(path: Path, num_classes: int = 4, dim: int = 128) -> Path:
    simplex_etf(num_classes, dim, torch.Generator().manual_seed(5)).save(path)
    return path


def test_a_frame_from_a_file_is_the_classifier_even_when_the_file_is_gone(tmp_path: Path) -> None:
    file = saved_frame(tmp_path / "frame.safetensors")
    expected = simplex_etf(4, 128, torch.Generator().manual_seed(5)).vectors
    run = trained(tmp_path / "run", blobs(), head="fixed", frame=str(file), dim=None)
    assert torch.equal(load_network(run).head.weight, expected)
    file.unlink()
    assert torch.equal(load_network(run).head.weight, expected)
    assert run.info["target"] == "frame"


@pytest.mark.parametrize("num_classes, dim", [(5, 128), (4, 6)])
def test_a_file_of_another_size_is_refused(tmp_path: Path, num_classes: int, dim: int) -> None:
    file = saved_frame(tmp_path / "frame.safetensors", num_classes, dim)
    config = method(frame=str(file), dim=None)
    with pytest.raises(ValueError, match=rf"holds {num_classes} vectors in {dim} dimensions") as no:
        check_trainable(config, blobs())
    assert "\n" not in str(no.value)


def test_a_hierarchy_is_brought_into_the_order_of_the_labels(tmp_path: Path) -> None:
    file = tmp_path / "tree.nwk"
    file.write_text(TREE, encoding="utf-8")
    config = method(
        loss="frame-cosine", frame="hierarchy:decay_rate=3", hierarchy=str(file), dim=None
    )
    classes = blobs().classes
    hierarchy = class_hierarchy(config, classes)
    assert hierarchy is not None
    assert hierarchy.classes == classes
    frame = made_frame(config, classes)
    assert frame is not None
    wanted = hierarchy_frame(Hierarchy.from_newick(TREE).subset(list(classes)), decay_rate=3.0)
    torch.testing.assert_close(frame.gram, wanted.gram, rtol=0, atol=1e-6)
    # 0 and 2 are siblings, 1 and 3 are.
    assert float(frame.gram[0, 2]) > float(frame.gram[0, 1])


def test_a_hierarchy_without_a_class_of_the_data_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tree.nwk"
    file.write_text("((blob 3,blob 1),blob 2);", encoding="utf-8")
    with pytest.raises(ValueError, match=r"hierarchy must hold every class .* first 'blob 0'"):
        class_hierarchy(method(hierarchy=str(file)), blobs().classes)


@pytest.mark.parametrize("head", ["fixed", "rotated"])
def test_vectors_are_given_to_the_classes_that_they_suit(tmp_path: Path, head: str) -> None:
    """After the warm-up the rows have changed places, and are the same rows."""
    given: dict[str, Any] = {"head": head, "frame": "code:energy=log", "dim": 2, "epochs": 4}
    run = trained(tmp_path / "assigned", blobs(noise=0.3), **given, assign_after=1, measure_every=1)
    plain = trained(tmp_path / "plain", blobs(noise=0.3), **given, measure_every=1)
    assert run.snapshot(0)["weight"].equal(plain.snapshot(0)["weight"])
    trained_head, other = load_network(run).head, load_network(plain).head
    assert isinstance(trained_head, FixedHead | RotatedHead)
    name = "weight" if head == "fixed" else "vectors"
    rows, before = trained_head.get_buffer(name), other.get_buffer(name)
    order = [int((before == row).all(1).nonzero()) for row in rows]
    assert sorted(order) == [0, 1, 2, 3]
    again = trained(tmp_path / "again", blobs(noise=0.3), **given, assign_after=1, measure_every=1)
    assert torch.equal(load_network(again).head.weight, trained_head.weight)
