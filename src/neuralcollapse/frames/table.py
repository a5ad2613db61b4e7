"""The frames by name, and the frame that a text names."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from neuralcollapse.frames.frame import Frame
from neuralcollapse.frames.orthogonal import orthogonal_frame
from neuralcollapse.frames.simplex import simplex_etf
from neuralcollapse.frames.spherical_code import spherical_code
from neuralcollapse.scalars import check_integer
from neuralcollapse.specs import parse_spec

# Name on the command line, and the function (num_classes, dim, generator) that makes the frame.
FRAMES: tuple[tuple[str, Callable[..., Frame]], ...] = (
    ("simplex", simplex_etf),
    ("orthogonal", orthogonal_frame),
    ("code", spherical_code),
)
# What may follow the name, e.g. `code:energy=log,starts=8`.
OPTIONS: Mapping[str, Mapping[str, type]] = {"code": {"energy": str, "starts": int, "steps": int}}
SUFFIX = ".safetensors"


def make_frame(
    spec: str,
    num_classes: int,
    dim: int,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Frame:
    """The frame that a text names: one of `FRAMES` with its options, or a file.

    Args:
        spec: `simplex`, `orthogonal`, `code`, `code:log` or `code:energy=log,starts=8` (energy,
            starts and steps of `spherical_code`), or the path of a file that `Frame.save` wrote,
            ending in .safetensors.
        num_classes: K; a file must hold as many vectors.
        dim: d; a file must hold vectors as long.
        generator: for a random orientation; a file's vectors are taken as they are.
        dtype: of the vectors.

    Raises:
        TypeError: if the spec is not text.
        ValueError: if there is no such frame or option, the file is unreadable or of another size,
            or the frame does not exist for K and d.

    Example:
        >>> make_frame("simplex", num_classes=4, dim=3).kind
        'simplex ETF'
        >>> make_frame("code:energy=log", num_classes=5, dim=3).kind
        '2 orthogonal simplices of 3 + 2 vectors'
    """
    if isinstance(spec, str) and spec.endswith(SUFFIX):
        return _from_file(spec, num_classes, dim, dtype)
    parsed = parse_spec("frame", spec)
    makers = dict(FRAMES)
    if parsed.name not in makers:
        raise ValueError(
            f"frame must be one of {', '.join(makers)} or the path of a {SUFFIX} file, got "
            f"{parsed.name!r}"
        )
    kinds = OPTIONS.get(parsed.name, {})
    options = parsed.arguments(kinds, bare="energy" if "energy" in kinds else None)
    return makers[parsed.name](num_classes, dim, generator, dtype=dtype, **options)


def _from_file(path: str, num_classes: int, dim: int, dtype: torch.dtype) -> Frame:
    check_integer("num_classes", num_classes, 2)
    check_integer("dim", dim, 1)
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, got {dtype}")
    frame = Frame.load(path)
    if (frame.num_classes, frame.dim) != (num_classes, dim):
        raise ValueError(
            f"frame {path} holds {frame.num_classes} vectors in {frame.dim} dimensions, wanted are "
            f"{num_classes} in {dim}; make one with neuralcollapse frame --classes {num_classes} "
            f"--dim {dim}"
        )
    return replace(frame, vectors=frame.vectors.to(dtype))
