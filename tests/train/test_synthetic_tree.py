"""Clouds on a tree: the true means, their tree, and what is drawn around them."""

from __future__ import annotations

import re

import pytest
import torch

from neuralcollapse import Hierarchy
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.data import load_data
from neuralcollapse.train.network import class_hierarchy
from neuralcollapse.train.synthetic_tree import (
    read_synthetic_tree,
    synthetic_hierarchy,
    tree_means,
)


@pytest.mark.parametrize("branching, depth, step", [(2, 1, 1.0), (3, 2, 0.5), (2, 4, 2.0)])
def test_inner_products_are_those_of_the_depth_in_common(
    branching: int, depth: int, step: float
) -> None:
    dim = sum(branching**level for level in range(1, depth + 1))
    means = tree_means(branching, depth, dim, step, seed=3)
    names = read_synthetic_tree(
        f"synthetic-tree:branching={branching},depth={depth},dim={dim},samples=1"
    )[1]
    for i, one in enumerate(names):
        for j, two in enumerate(names):
            expected, together = 0.0, True
            for level, (a, b) in enumerate(zip(one.split("/"), two.split("/"), strict=True)):
                together = together and a == b
                expected += step ** (2 * level) if together else 0.0
            # Double precision, of a sum of at most 64 + 16 + 4 + 1.
            assert float(means[i] @ means[j]) == pytest.approx(expected, abs=1e-12)
    # So that the order of the inner products is the order of the tree.
    distances = synthetic_hierarchy(names).distances()
    gram = means @ means.T
    for near in range(depth):
        assert float(gram[distances == near].min()) > float(gram[distances == near + 1].max())


def test_the_hierarchy_is_complete_and_in_the_order_of_the_labels() -> None:
    config = TrainConfig(data="synthetic-tree", hierarchy="synthetic-tree")
    data = load_data(config)
    tree = class_hierarchy(config, data.classes)
    assert tree is not None
    assert tree.classes == data.classes
    assert tree.level_sizes == (1, 4, 16)
    assert tree.distances()[0].tolist() == [0, 1, 1, 1, *[2] * 12]
    assert {*data.counts()["test"]} == {40}
    assert class_hierarchy(config, data.classes[:2]) == Hierarchy.from_levels(
        [["0", "0/0"], ["0", "0/1"]]
    ).subset(["0/0", "0/1"])


def test_samples_lie_around_the_means_and_follow_the_seed() -> None:
    samples, classes = read_synthetic_tree("synthetic-tree:samples=400,noise=0.25,seed=7")
    everything = samples.inputs(torch.arange(len(samples))).double()
    means = torch.stack([everything[samples.labels == k].mean(0) for k in range(len(classes))])
    off = means - tree_means(4, 2, 64, seed=7)
    # 1024 means of 400 draws each: the deviation is .25 / 20, five of them are never passed.
    assert float(off.std()) == pytest.approx(0.25 / 20, rel=0.1)
    assert float(off.abs().max()) < 5 * 0.25 / 20
    again, _ = read_synthetic_tree("synthetic-tree:samples=400,noise=0.25,seed=7")
    other, _ = read_synthetic_tree("synthetic-tree:samples=400,noise=0.25,seed=8")
    assert torch.equal(again.values, samples.values)
    assert not torch.equal(other.values, samples.values)


@pytest.mark.parametrize(
    "options, words",
    [
        ("dim=19", "dim must be at least 20, a direction for every node below the root, got 19"),
        ("branching=1", "branching must be at least 2, got 1"),
        ("depth=0", "depth must be at least 1, got 0"),
        ("noise=-1", "noise must be finite and at least 0"),
        ("step=0", "step must be finite and above 0"),
        ("height=3", "has no option 'height'"),
    ],
)
def test_what_cannot_be_made_is_refused(options: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        read_synthetic_tree(f"synthetic-tree:{options}")
