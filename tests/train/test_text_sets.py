"""Definitions of nouns: what ships with the package, hashed words, and encoded sentences."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from importlib import resources
from types import ModuleType

import numpy as np
import pytest
import torch

from neuralcollapse import Hierarchy
from neuralcollapse.train.backbones import Standardize
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.data import Data, load_data
from neuralcollapse.train.network import class_hierarchy, fit_scale
from neuralcollapse.train.samples import WordSamples
from neuralcollapse.train.text_sets import hashed_words, read_wordnet, wordnet_definitions

TEXTS = ["The cat, the DOG", "", "dog-cat: the_cat!", "42 dogs"]


def load(name: str, **options: object) -> Data:
    return load_data(TrainConfig.from_values({"data": name, **options}))


def dense(samples: WordSamples) -> torch.Tensor:
    return samples.inputs(torch.arange(len(samples)))


# --- what ships ---------------------------------------------------------------------------------


def test_classes_are_synsets_of_a_ragged_tree() -> None:
    tree, definitions = Hierarchy.wordnet(), wordnet_definitions()
    assert set(tree.classes) == {*definitions}
    assert 60 <= tree.num_classes <= 70
    # Keyed by the number of the synset: words occur twice.
    numbers = [re.fullmatch(r"(.+) (n\d{8})", name) for name in tree.nodes]
    assert all(numbers)
    assert len({match[2] for match in numbers if match}) == tree.num_nodes
    assert len({match[1] for match in numbers if match}) < tree.num_nodes
    assert tree.nodes[0] == "entity n00001740"
    depth = tree.depth[tree.node_of_class]
    assert (depth.min(), depth.max(), tree.total_height) == (2, 9, 9)
    assert "person n00007846" not in tree.nodes


def test_every_class_has_as_many_definitions_and_none_occurs_twice() -> None:
    definitions = wordnet_definitions()
    assert {len(texts) for texts in definitions.values()} == {300}
    texts = [text for own in definitions.values() for text in own]
    assert len({*texts}) == len(texts)
    assert not any(text != text.strip() or not text or '; "' in text for text in texts)
    assert any("wings" in text for text in definitions["bird n01503061"])


def test_the_licence_lies_beside_the_files() -> None:
    for folder in ("hierarchy", "train"):
        notice = resources.files(f"neuralcollapse.{folder}").joinpath("LICENSE.wordnet")
        words = " ".join(notice.read_text(encoding="utf-8").split())
        assert "WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved." in words
        assert "the same appear on ALL copies of the software, database and documentation" in words
    assert resources.files("neuralcollapse.hierarchy").joinpath("wordnet.json").is_file()


def test_parts_are_stratified_and_follow_the_seed() -> None:
    data = load("wordnet")
    assert {name: {*counts} for name, counts in data.counts().items()} == {
        "train": {216}, "validation": {24}, "test": {60}
    }  # fmt: skip
    again, other = load("wordnet"), load("wordnet", split_seed=1)
    some = torch.arange(50)
    assert torch.equal(data.test.inputs(some), again.test.inputs(some))
    assert not torch.equal(data.test.inputs(some), other.test.inputs(some))
    assert data.input_shape == (4096,)
    assert data.classes == Hierarchy.wordnet().classes


def test_the_hierarchy_is_that_of_the_labels() -> None:
    data = load("wordnet:buckets=8")
    tree = class_hierarchy(TrainConfig(data="wordnet", hierarchy="wordnet"), data.classes)
    assert tree == Hierarchy.wordnet()


# --- hashed words -------------------------------------------------------------------------------


def slow(text: str, buckets: int) -> list[float]:
    """Bit by bit from the polynomial of CRC-32; letters and digits are words."""
    row = [0.0] * buckets
    for word in "".join(c if c.isalnum() else " " for c in text.lower()).split():
        code = 0xFFFFFFFF
        for byte in word.encode():
            code ^= byte
            for _ in range(8):
                code = (code >> 1) ^ (0xEDB88320 if code & 1 else 0)
        code ^= 0xFFFFFFFF
        row[code % buckets] += -1.0 if code & 0x80000000 else 1.0
    norm = math.sqrt(sum(value * value for value in row))
    return [value / norm for value in row] if norm else row


@pytest.mark.parametrize("buckets", [1, 7, 4096])
def test_words_are_counted_as_defined(buckets: int) -> None:
    found = hashed_words(TEXTS, torch.arange(4), buckets)
    # Single precision.
    expected = [slow(text, buckets) for text in TEXTS]
    np.testing.assert_allclose(dense(found).numpy(), expected, atol=1e-6)


def test_the_place_of_a_word_is_the_same_on_every_machine() -> None:
    """The check value of CRC-32 is 0xCBF43926: bucket 0x926 of 4096, and the highest bit is set."""
    found = dense(hashed_words(["123456789"], torch.tensor([0]), 4096))
    assert found.nonzero().tolist() == [[0, 0x926]]
    assert float(found.sum()) == -1


def test_samples_are_taken_in_any_order_and_number() -> None:
    whole = hashed_words(TEXTS, torch.tensor([3, 1, 0, 2]), 16)
    chosen = torch.tensor([2, 0, 2, 1])
    part = whole.subset(chosen)
    assert torch.equal(dense(part), dense(whole)[chosen])
    assert torch.equal(part.labels, torch.tensor([0, 3, 0, 1]))
    assert torch.equal(part.inputs(torch.tensor([3, 0])), dense(whole)[chosen[[3, 0]]])
    nothing = whole.subset(torch.tensor([], dtype=torch.int64))
    assert len(nothing) == 0
    assert dense(nothing).shape == (0, 16)


def test_sparse_inputs_are_scaled_alike_and_stay_sparse() -> None:
    data = load("wordnet:buckets=64")
    scale = Standardize(torch.zeros(64), torch.ones(64))
    fit_scale(scale, data)
    assert torch.equal(scale.mean, torch.zeros(64))
    # Rows have unit length, spread over 64 inputs.
    torch.testing.assert_close(scale.deviation, torch.full((64,), 1 / 8))


def test_options_are_checked() -> None:
    for spec, words in {
        "wordnet:buckets=0": "buckets must be at least 1, got 0",
        "wordnet:buckets=many": "must be an integer",
        "wordnet:size=3": "has no option 'size'; it takes buckets, encoder",
        "wordnet:buckets=8,encoder=tiny": "must have buckets or an encoder, got both",
    }.items():
        with pytest.raises(ValueError, match=re.escape(words)):
            read_wordnet(spec)


# --- encoded sentences --------------------------------------------------------------------------


class Encoder:
    """A stand-in for a sentence encoder: how long a text is and how many words it has."""

    def __init__(self, name: str):
        if name == "nosuch":
            raise OSError("nosuch is no local folder\nand no model")

    def encode(self, sentences: list[str], convert_to_numpy: bool) -> np.ndarray:
        assert convert_to_numpy
        return np.array([[len(text), len(text.split())] for text in sentences], np.float64)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("sentence_transformers")
    vars(module)["SentenceTransformer"] = Encoder
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)


@pytest.mark.usefixtures("encoder")
def test_encoded_texts_are_features() -> None:
    samples, classes = read_wordnet("wordnet:encoder=some/model")
    first = wordnet_definitions()[classes[0]][0]
    assert samples.inputs(torch.tensor([0])).tolist() == [[len(first), len(first.split())]]
    assert Counter(samples.labels.tolist()) == dict.fromkeys(range(len(classes)), 300)
    assert load("wordnet:encoder=some/model").input_shape == (2,)


@pytest.mark.usefixtures("encoder")
def test_a_model_that_cannot_be_loaded_is_named() -> None:
    with pytest.raises(ValueError, match="encoder=nosuch could not be loaded: nosuch is no local"):
        read_wordnet("wordnet:encoder=nosuch")


def test_a_missing_encoder_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match=r"needs the extra text.*neuralcollapse\[text\]"):
        read_wordnet("wordnet:encoder=some/model")
