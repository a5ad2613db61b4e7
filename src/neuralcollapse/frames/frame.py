"""Frame: unit vectors, one per class, that a classifier can be fixed to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from neuralcollapse.scalars import check_integer


@dataclass(frozen=True, eq=False)
class Frame:
    """Unit vectors, one per class.

    Attributes:
        kind: what it is, e.g. "simplex ETF".
        vectors: (K, d), rows of unit length.
        bound: a proven lower bound on the largest cosine between two of any K unit vectors in d
            dimensions, or None where none is known. A frame whose `gap` is zero is optimal.
        status: what is known of its optimality, in a few words, e.g. "proved"; empty where
            nothing is said.
        facts: further numbers by name, e.g. the energy that was minimised.
    """

    kind: str
    vectors: Tensor
    bound: float | None = None
    status: str = ""
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.vectors.shape[0]

    @property
    def dim(self) -> int:
        """d."""
        return self.vectors.shape[1]

    @property
    def gram(self) -> Tensor:
        """(K, K), the cosines between the vectors."""
        return self.vectors @ self.vectors.T

    @property
    def max_cosine(self) -> float:
        """The largest cosine between two different vectors."""
        own = torch.eye(self.num_classes, dtype=torch.bool, device=self.vectors.device)
        return float(self.gram.masked_fill(own, -torch.inf).max())

    @property
    def gap(self) -> float | None:
        """How far the largest cosine lies above its lower bound."""
        return None if self.bound is None else self.max_cosine - self.bound


def embed(
    vectors: Tensor, dim: int, generator: torch.Generator | None, dtype: torch.dtype
) -> Tensor:
    """(K, dim), the vectors (K, r) in float64 placed in `dim` >= r dimensions.

    Without a generator in the first r coordinates, with one in a random r-dimensional subspace
    and orientation, uniformly distributed.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, got {dtype}")
    rank = vectors.shape[1]
    if generator is None:
        return torch.nn.functional.pad(vectors, (0, dim - rank)).to(dtype)
    gaussian = torch.randn(dim, rank, generator=generator, dtype=torch.float64)
    basis, triangle = torch.linalg.qr(gaussian)
    # The signs make the basis of the QR factorisation uniformly distributed.
    basis = basis * triangle.diagonal().sign()
    return (vectors @ basis.T).to(dtype)


def check_size(num_classes: int, dim: int, min_dim_below: int) -> tuple[int, int]:
    """Return the size if K >= 2 and dim >= K - min_dim_below."""
    num_classes = check_integer("num_classes", num_classes, 2)
    needed = num_classes - min_dim_below
    remedy = f"{num_classes} vectors of this frame span {needed} dimensions"
    return num_classes, check_integer("dim", dim, needed, remedy)
