"""Definitions of nouns that come with the package, as hashed words or as encoded sentences."""

import gzip
import json
import re
import zlib
from collections.abc import Sequence
from importlib import resources

import numpy as np
import torch

from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.specs import parse_spec
from neuralcollapse.train.samples import AbstractSamples, TensorSamples, WordSamples

BUCKETS = 4096
_OPTIONS = {"buckets": int, "encoder": str}
_WORD = re.compile(r"[^\W_]+")


def read_wordnet(spec: str) -> tuple[AbstractSamples, tuple[str, ...]]:
    """The definitions of `wordnet` with their labels, and the names of the classes.

    Args:
        spec: "wordnet", "wordnet:buckets=N" for hashed words of another width, or
            "wordnet:encoder=NAME" for what a sentence encoder makes of each definition.

    Raises:
        ValueError: if an option is unknown, or the encoder cannot be had.
    """
    options = parse_spec("data", spec).arguments(_OPTIONS)
    classes = Hierarchy.wordnet().classes
    definitions = wordnet_definitions()
    texts = [text for name in classes for text in definitions[name]]
    sizes = torch.tensor([len(definitions[name]) for name in classes])
    labels = torch.arange(len(classes)).repeat_interleave(sizes)
    if "encoder" in options:
        if "buckets" in options:
            raise ValueError(f"data must have buckets or an encoder, got both in {spec!r}")
        return TensorSamples(encoded(texts, options["encoder"]), labels), classes
    return hashed_words(texts, labels, options.get("buckets", BUCKETS)), classes


def wordnet_definitions() -> dict[str, list[str]]:
    """Definitions by class; (c) Princeton University, see LICENSE.wordnet beside the file."""
    packed = resources.files("neuralcollapse.train").joinpath("wordnet.json.gz").read_bytes()
    return json.loads(gzip.decompress(packed))["definitions"]


def hashed_words(texts: Sequence[str], labels: torch.Tensor, buckets: int) -> WordSamples:
    """The words of each text, counted in buckets and scaled to unit length.

    A word's bucket and sign are bits of the CRC-32 of its small letters in UTF-8, the same on
    every machine and in every process. Two words in one bucket cancel as often as they add.

    Args:
        texts: N texts.
        labels: (N,).
        buckets: the width of the inputs.

    Raises:
        ValueError: if there are no buckets.
    """
    if buckets < 1:
        raise ValueError(f"buckets must be at least 1, got {buckets}")
    words = [_WORD.findall(text.lower()) for text in texts]
    sizes = np.array([len(own) for own in words], int)
    codes = {word: zlib.crc32(word.encode()) for own in words for word in own}
    code = np.array([codes[word] for own in words for word in own], np.int64)
    # One number for each text and bucket, so that repeated words add up.
    place = np.repeat(np.arange(len(words)), sizes) * buckets + code % buckets
    place, which = np.unique(place, return_inverse=True)
    values = np.bincount(which, np.where(code >> 31, -1.0, 1.0), len(place))
    row, column = np.divmod(place, buckets)
    norm = np.sqrt(np.bincount(row, values**2, len(words)))
    values = values / np.where(norm > 0, norm, 1.0)[row]
    starts = np.searchsorted(row, np.arange(len(words) + 1))
    return WordSamples(
        torch.from_numpy(starts),
        torch.from_numpy(column),
        torch.from_numpy(values).float(),
        buckets,
        labels,
    )


def encoded(texts: Sequence[str], encoder: str) -> torch.Tensor:
    """(N, d) float32, what a frozen sentence encoder makes of each text.

    Args:
        texts: N texts.
        encoder: name or folder of a model, as for sentence_transformers.SentenceTransformer.

    Raises:
        ValueError: if the extra is missing, or the model cannot be loaded.
    """
    try:
        from sentence_transformers import (  # pyright: ignore[reportMissingImports]
            SentenceTransformer,
        )
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f"encoder={encoder} needs the extra text, which cannot be imported ({error}); "
            "pip install 'neuralcollapse[text]', or leave the encoder out"
        ) from None
    try:
        vectors = SentenceTransformer(encoder).encode(list(texts), convert_to_numpy=True)
    except Exception as error:  # whatever a missing model or network makes it raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"encoder={encoder} could not be loaded: {reason}; give the name or the folder of a "
            "sentence-transformers model"
        ) from None
    return torch.from_numpy(np.asarray(vectors, np.float32))
