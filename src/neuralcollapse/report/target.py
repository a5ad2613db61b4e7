"""What a run is meant to reach: its frame, and the value of every metric there."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuralcollapse.frames import orthogonal_frame
from neuralcollapse.metrics import METRICS
from neuralcollapse.metrics.evaluation import evaluate
from neuralcollapse.metrics.table import regime_of
from neuralcollapse.record import Run
from neuralcollapse.statistics import ClassStatistics


@dataclass(frozen=True, eq=False)
class Target:
    """What the classifier of a run is meant to reach.

    Attributes:
        name: in words.
        regime: "simplex" where a simplex ETF of the classes seen fits, else "general".
        cosines: (K, K) between its vectors, or None where only their uniformity is known.
        values: of every metric for a network that has reached it; None where not known.
        elsewhere: metrics whose value there is not the one at collapse.
        raw: whether class means are compared with it as they are, and not centred: centring would
            break a frame whose cosines differ from pair to pair.
    """

    name: str
    regime: str
    cosines: Tensor | None
    values: Mapping[str, float | None]
    elsewhere: frozenset[str] = frozenset()
    raw: bool = False


def target_of(run: Run, counts: Sequence[int], dim: int | None) -> Target:
    """The target of a run.

    Args:
        run: with its snapshots.
        counts: training samples per class.
        dim: d, or None where the record does not say.
    """
    num_classes, num_seen = len(counts), sum(count > 0 for count in counts)
    regime = regime_of(num_seen, num_seen if dim is None else dim)
    kind = run.info.get("target")
    vectors = _fixed(run) if kind == "frame" else None
    if vectors is not None:
        name = f"frame {run.config.get('frame')}"
    elif kind == "orthogonal" and num_classes > 1:
        name = "orthogonal frame"
        vectors = orthogonal_frame(num_classes, num_classes, dtype=torch.float64).vectors
    elif regime == "general":
        return target_at_collapse(num_seen, dim)
    else:
        # A simplex of the classes seen; the others have no place in it.
        cosines = torch.full((num_classes, num_classes), -1 / max(1, num_seen - 1)).double()
        return Target("simplex ETF", regime, cosines, _at_collapse(num_seen, dim))
    units = vectors / vectors.norm(dim=1, keepdim=True)
    collapsed, reached = _at_collapse(num_seen, dim), _at(vectors, counts)
    elsewhere = frozenset(key for key, value in reached.items() if _differ(value, collapsed[key]))
    values = collapsed | {key: reached[key] for key in elsewhere}
    raw = kind == "frame" and str(run.config.get("frame")).partition(":")[0] == "hierarchy"
    return Target(name, regime, units @ units.T, values, elsewhere, raw)


def target_at_collapse(num_seen: int, dim: int | None) -> Target:
    """The target of a trained classifier: whatever so many classes collapse to."""
    regime = regime_of(num_seen, num_seen if dim is None else dim)
    name = "most uniform directions" if regime == "general" else "simplex ETF"
    return Target(name, regime, None, _at_collapse(num_seen, dim))


def _fixed(run: Run) -> Tensor | None:
    """The classifier of the last snapshot: a frame that was never learned."""
    epochs = run.snapshot_epochs()
    return run.snapshot(epochs[-1])["weight"].double() if epochs else None


def _differ(one: float | None, other: float | None) -> bool:
    """By more than the rounding of single precision."""
    return one is not None and (other is None or abs(one - other) > 1e-5)


def _at_collapse(num_classes: int, dim: int | None) -> dict[str, float | None]:
    # Without a width, as wide as a simplex needs.
    width = max(1, num_classes - 1) if dim is None else dim
    values = {row.key: row.collapse_value(num_classes, width) for row in METRICS}
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def _at(vectors: Tensor, counts: Sequence[int]) -> dict[str, float | None]:
    """The metrics of a network whose class means and classifier are the vectors.

    A frame that is not centred, such as the orthogonal one, keeps a distance from its own centred
    class means.
    """
    samples = torch.tensor(counts)
    means = vectors.masked_fill((samples == 0)[:, None], torch.nan)
    statistics = ClassStatistics(samples, means, vectors.new_zeros(len(vectors)))
    known = {"nc4_disagreement": 0.0, "hug_intra": 0.0, "cdnv_directional": 0.0}
    values, _ = evaluate(statistics, vectors, known=known)
    # Rounding leaves 1e-17 where 0 is meant.
    return {key: round(value, 12) for key, value in values.items() if math.isfinite(value)}
