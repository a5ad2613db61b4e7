"""Means over pairs of classes, in bounded memory: those of the same vectors share one sweep."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from neuralcollapse.scalars import check_integer

# (256, 256) doubles are 512 KiB: a few of them stay in a CPU cache.
_BLOCK, _BLOCK_ACCELERATOR = 256, 2048
# Squared distances below this share of the squared norms keep less than ten digits of inner
# products, and are taken from the difference of the vectors.
_CLOSE = 1e-6
# So many pairs at a time.
_EXACT_PAIRS = 4096
# Pairs at a time of those drawn, and those whose vectors are: of 256 dimensions 1 MiB.
_DRAWN_PAIRS, _GATHERED = 1 << 13, 1 << 9


class Vectors:
    """Vectors whose pairs are looked at.

    Attributes:
        rows: (K, d), float64.
        norms: (K,), their lengths.
        variances: (K,), within the classes that they are the means of; else zeros.
    """

    def __init__(self, rows: Tensor, variances: Tensor | None = None):
        self.rows = rows.double()
        self.norms = self.rows.norm(dim=1)
        self.variances = torch.zeros_like(self.norms) if variances is None else variances.double()

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def mean_cosine(self) -> Tensor:
        """0-d, of all pairs: it follows from the sum of the directions."""
        count = len(self)
        directions = self.rows.T @ self.norms.reciprocal()
        return (directions.square().sum() - count) / (count * (count - 1))


class Pairs:
    """A block of pairs of different vectors, and what metrics ask about them, each found once.

    Attributes:
        vectors: all of them.
        first: indices of one vector of each pair.
        second: of the other; together they broadcast to the shape of the block.
        products: inner products, of the shape of the block.
    """

    def __init__(self, vectors: Vectors, first: Tensor, second: Tensor, products: Tensor):
        self.vectors, self.first, self.second = vectors, first, second
        self.products = products

    def of(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """What belongs to either vector of each pair, from values (K,) by vector."""
        return values[self.first], values[self.second]

    @cached_property
    def cosines(self) -> Tensor:
        """Of the angles between the vectors; nan beside a zero vector."""
        own, other = self.of(self.vectors.norms.reciprocal())
        return self.products * own * other

    @cached_property
    def squared(self) -> Tensor:
        """Squared distances of the directions: exactly 0 for equal vectors, and not negative."""
        one = self.products.new_ones(())
        return self._squared(self.cosines, one, one, self._direction)

    @cached_property
    def gaps(self) -> Tensor:
        """Squared distances of the vectors: exactly 0 for equal ones, and not negative."""
        own, other = self.of(self.vectors.norms.square())
        return self._squared(self.products, own, other, lambda index: self.vectors.rows[index])

    @cached_property
    def logs(self) -> Tensor:
        """Logarithms of `squared` over that of a simplex ETF, so that their squares do not cancel
        near collapse."""
        count = len(self.vectors)
        return (self.squared * ((count - 1) / (2 * count))).log()

    def _direction(self, index: Tensor) -> Tensor:
        return self.vectors.rows[index] / self.vectors.norms[index, None]

    def _squared(
        self, products: Tensor, own: Tensor, other: Tensor, row: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """From products and squared norms, where these cancel from the differences of rows."""
        scale = own + other
        squared = torch.sub(scale, products, alpha=2)
        if bool(squared.amin() >= _CLOSE * (own.max() + other.max())):
            return squared
        close = (squared < _CLOSE * scale).nonzero(as_tuple=True)
        for place in zip(*(index.split(_EXACT_PAIRS) for index in close), strict=True):
            k, j = (index.expand_as(squared)[place] for index in (self.first, self.second))
            squared[place] = (row(k) - row(j)).square().sum(1)
        return squared


@dataclass(frozen=True)
class PairMean:
    """A metric that is made of a mean over pairs.

    Attributes:
        of_block: the sum over a block of pairs, or several in one tensor.
        result: the metric, from the mean and the shape (K, d) of the vectors.
        log: whether sum and mean are handed on as their logarithms.
    """

    of_block: Callable[[Pairs], Tensor]
    result: Callable[[Tensor, int, int], Tensor] = lambda mean, num_vectors, dim: mean
    log: bool = False


def pair_metrics(
    vectors: Vectors,
    metrics: Sequence[PairMean],
    num_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """The metrics of all pairs of vectors, or of pairs drawn with replacement, in one sweep.

    Each is 0-d float64; nan for fewer than two vectors.
    """
    count, dim = vectors.rows.shape
    if count < 2:
        return [vectors.norms.new_full((), torch.nan) for _ in metrics]
    blocks = _all(vectors) if num_pairs is None else _drawn(vectors, num_pairs, generator)
    totals: list[Tensor] = []
    for pairs in blocks:
        found = [metric.of_block(pairs) for metric in metrics]
        if totals:
            both = zip(metrics, totals, found, strict=True)
            found = [torch.logaddexp(a, b) if m.log else a + b for m, a, b in both]
        totals = found
    number = count * (count - 1) / 2 if num_pairs is None else num_pairs
    results = []
    for metric, total in zip(metrics, totals, strict=True):
        mean = total - math.log(number) if metric.log else total / number
        results.append(metric.result(mean, count, dim))
    return results


def pair_products(rows: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Inner products of all pairs of rows (K, d), each pair once, in blocks.

    Indices of the one row and of the other, which broadcast to the shape of the products, and
    these: a matrix of pairs k < j, or where a block crosses the diagonal a vector of them.
    """
    size = _BLOCK if rows.device.type == "cpu" else _BLOCK_ACCELERATOR
    blocks = rows.split(size)
    places = torch.arange(len(rows), device=rows.device).split(size)
    for number, (left, k) in enumerate(zip(blocks, places, strict=True)):
        if len(left) > 1:
            first, second = torch.triu_indices(len(left), len(left), 1, device=rows.device)
            yield k[first], k[second], (left @ left.T)[first, second]
        for right, j in zip(blocks[number + 1 :], places[number + 1 :], strict=True):
            yield k[:, None], j, left @ right.T


def drawn_pairs(
    num_classes: int, num_pairs: int, generator: torch.Generator | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks (k, j) of pairs of different classes, each (P,), drawn with replacement."""
    check_integer("num_pairs", num_pairs, 1)
    for start in range(0, num_pairs, _DRAWN_PAIRS):
        count = min(_DRAWN_PAIRS, num_pairs - start)
        k = torch.randint(num_classes, (count,), generator=generator)
        j = torch.randint(num_classes - 1, (count,), generator=generator)
        yield k, j + (j >= k)


def _all(vectors: Vectors) -> Iterator[Pairs]:
    for first, second, products in pair_products(vectors.rows):
        yield Pairs(vectors, first, second, products)


def _drawn(vectors: Vectors, num_pairs: int, generator: torch.Generator | None) -> Iterator[Pairs]:
    rows = vectors.rows
    for pairs in drawn_pairs(len(rows), num_pairs, generator):
        first, second = (one.to(rows.device) for one in pairs)
        both = zip(first.split(_GATHERED), second.split(_GATHERED), strict=True)
        products = torch.cat([(rows[k] * rows[j]).sum(1) for k, j in both])
        yield Pairs(vectors, first, second, products)
