"""Frame: unit vectors, one per class, that a classifier can be fixed to."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuralcollapse.checks import check_finite, check_matrix
from neuralcollapse.energy import max_cosine
from neuralcollapse.files import read_tensors, write_tensors
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
        return float(max_cosine(self.vectors))

    @property
    def gap(self) -> float | None:
        """How far the largest cosine lies above its lower bound."""
        return None if self.bound is None else self.max_cosine - self.bound

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all; equal frames give equal bytes.

        Example:
            >>> from pathlib import Path
            >>> from tempfile import TemporaryDirectory
            >>> frame = Frame("two of three axes", torch.eye(3)[:2])
            >>> with TemporaryDirectory() as folder:
            ...     frame.save(Path(folder) / "axes.safetensors")
            ...     Frame.load(Path(folder) / "axes.safetensors").kind
            'two of three axes'
        """
        about = {
            "kind": self.kind,
            "bound": self.bound,
            "status": self.status,
            "facts": dict(sorted(self.facts.items())),
        }
        # One entry: safetensors writes several in an order that changes from run to run.
        text = json.dumps(about, allow_nan=False)
        write_tensors(path, {"vectors": self.vectors}, {_METADATA: text})

    @staticmethod
    def load(path: str | Path) -> "Frame":
        """Read a frame from a safetensors file that holds `vectors` (K, d) of unit length.

        What the file says of itself is read where `save` wrote it; nothing is unpickled.

        Raises:
            ValueError: if the file is missing or damaged, or holds no unit vectors, or claims a
                bound that its vectors break.
        """
        tensors, metadata = read_tensors(path)
        if "vectors" not in tensors:
            held = ", ".join(sorted(tensors)) or "nothing"
            raise ValueError(f"{path} must hold the tensor 'vectors', it holds {held}")
        vectors = tensors["vectors"]
        try:
            _check_unit_rows(vectors)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no frame: {error}") from None
        about = _about(path, metadata.get(_METADATA))
        frame = Frame(about["kind"], vectors, about["bound"], about["status"], about["facts"])
        if frame.gap is not None and not -1e-5 <= frame.gap <= 2:
            raise ValueError(
                f"{path} is damaged: it claims that no largest cosine lies below "
                f"{frame.bound:g}, and holds vectors with {frame.max_cosine:g}"
            )
        return frame


_METADATA = "neuralcollapse.frame"


def _check_unit_rows(vectors: Tensor) -> None:
    """Raise unless the rows are two or more vectors of unit length."""
    check_matrix("vectors", vectors)
    if vectors.shape[0] < 2 or vectors.shape[1] < 1:
        raise ValueError(f"vectors must be 2 rows or more, got shape {tuple(vectors.shape)}")
    check_finite("vectors", vectors)
    norms = torch.linalg.vector_norm(vectors.double(), dim=1)
    off = (norms - 1).abs()
    worst = int(off.argmax())
    # Half precision rounds each entry by up to eps/2.
    if float(off[worst]) > max(1e-5, torch.finfo(vectors.dtype).eps):
        raise ValueError(
            f"vectors must have unit length, got length {float(norms[worst]):g} in row {worst}; "
            "divide each row by its norm"
        )


def _about(path: str | Path, text: str | None) -> dict[str, Any]:
    """What a file says of its frame, checked; a foreign file says nothing."""
    if text is None:
        return {"kind": f"frame from {Path(path).name}", "bound": None, "status": "", "facts": {}}
    try:
        about = json.loads(text)
        bound, facts = about["bound"], about["facts"]
        numbers = [*facts.values(), *([] if bound is None else [bound])]
        sound = (
            isinstance(about["kind"], str)
            and isinstance(about["status"], str)
            and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        sound, about = False, {}
    if not sound:
        raise ValueError(f"{path} is damaged: what it says of its frame cannot be read")
    return about


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
    device = generator.device
    gaussian = torch.randn(dim, rank, generator=generator, dtype=torch.float64, device=device)
    basis, triangle = torch.linalg.qr(gaussian.cpu())
    # The signs make the basis of the QR factorisation uniformly distributed.
    basis = basis * triangle.diagonal().sign()
    return (vectors @ basis.T).to(dtype)


def check_size(num_classes: int, dim: int, min_dim_below: int) -> tuple[int, int]:
    """Return the size if K >= 2 and dim >= K - min_dim_below."""
    num_classes = check_integer("num_classes", num_classes, 2)
    needed = num_classes - min_dim_below
    remedy = f"{num_classes} vectors of this frame span {needed} dimensions"
    return num_classes, check_integer("dim", dim, needed, remedy)
