"""A row for every frame: the room it needs, and its Gram matrix in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from neuralcollapse.frames import Frame, orthogonal_frame, simplex_etf, spherical_code


@dataclass(frozen=True)
class FrameCase:
    """A frame, the fewest dimensions it needs, and its Gram matrix in closed form."""

    name: str  # in FRAMES
    make: Callable[..., Frame]  # (num_classes, dim, generator=None, *, dtype=...)
    min_dim: Callable[[int], int]  # for the Gram matrix below
    cosine: Callable[[int], float]  # of every pair
    sums_to_zero: bool
    needs: Callable[[int], int] | None = None  # the fewest dimensions it exists in, if fewer


FRAME_CASES: tuple[FrameCase, ...] = (
    FrameCase("simplex", simplex_etf, lambda k: k - 1, lambda k: -1 / (k - 1), True),
    FrameCase("orthogonal", orthogonal_frame, lambda k: k, lambda k: 0.0, False),
    FrameCase(
        "code",
        spherical_code,
        lambda k: k - 1,
        lambda k: -1 / (k - 1),
        True,
        needs=lambda k: 1 if k == 2 else 2,
    ),
)


# Public functions and classes in frames/ that are no rows of `FRAMES`.
FRAME_PARTS = {
    "ClosedForm",
    "Objective",
    "ReferenceEnergy",
    "Smooth",
    "as_objective",
    "balanced_sizes",
    "cache_folder",
    "cap_angle",
    "check_code_size",
    "closed_form",
    "closed_form_status",
    "constrained",
    "descend",
    "descend_blockwise",
    "framed",
    "largest_cosine",
    "max_cosine_bound",
    "mean_energy",
    "one_vs_rest_distance",
    "optimal_configuration",
    "polygon",
    "reference_energy",
    "simplices",
    "softmax_code_bounds",
    "softmax_code_margin",
    "unbalanced_sizes",
    "unit",
    "volume_bound",
}
frame_cases = {"argvalues": FRAME_CASES, "ids": [case.name for case in FRAME_CASES]}
