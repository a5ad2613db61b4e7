"""The table of metrics: what each is called, where it tends at collapse, and who introduced it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from neuralcollapse.metrics.angles import (
    EQUIANGLE,
    MAX_ANGLE,
    nc2_equiangle,
    nc2_equinorm,
    nc2_etf_distance,
    nc2_max_angle,
    nc2w_equiangle,
    nc2w_equinorm,
    nc2w_etf_distance,
    nc2w_max_angle,
)
from neuralcollapse.metrics.decision import nc4_disagreement
from neuralcollapse.metrics.directional import cdnv_directional
from neuralcollapse.metrics.duality import gnc3_alignment_spread, nc3_alignment, nc3_duality
from neuralcollapse.metrics.noise import nc1_trace_unbiased
from neuralcollapse.metrics.outsiders import nc5_orthogonality
from neuralcollapse.metrics.pairs import PairMean
from neuralcollapse.metrics.spread_within import hug_intra
from neuralcollapse.metrics.subspaces import effective_rank, nc3_subspace
from neuralcollapse.metrics.uniformity import (
    ENERGY_GAP,
    GAUSSIAN,
    HUG_INTER,
    LOG_MEAN,
    LOG_VARIANCE,
    gnc2_energy_gap,
    gnc2_gaussian,
    gnc2_log_mean,
    gnc2_log_variance,
    gnc2_margin,
    hug_inter,
    least_mean_energy,
)
from neuralcollapse.metrics.variability import CDNV, cdnv, nc1, nc1_trace_ratio, vci

Need = Literal["statistics", "scatter", "features", "labels", "weight", "outsiders"]
Regime = Literal["any", "simplex", "general"]


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Attributes:
        function: the metric; its name is the key.
        needs: what it is computed from. All but "scatter" are also its arguments, in this order.
        at_collapse: its value for a network that has collapsed, or a function of K and d.
        better: which direction leads there.
        regime: the numbers of classes that it is made for: "simplex" for K <= d+1, where a simplex
            ETF fits, "general" for more, or "any".
        takes_global_mean: whether it has the argument `global_mean`.
        takes_weighting: whether it has the argument `weighting`.
        takes_pairs: whether it runs over all pairs of classes, and has the argument `num_pairs`.
        reference: who introduced it.
        summary: what it says, in a few words.
        floor: a function of K and d: the least value that K vectors in d dimensions can have where
            that is above the value at collapse of fewer classes; or None.
        most_classes: above it `evaluate` leaves the metric out, as it would take long; or None.
        of_pairs: what it is made of where it runs over pairs, so that others join it; or None.
    """

    function: Callable[..., Tensor]
    needs: tuple[Need, ...]
    at_collapse: float | Callable[[int, int], float]
    better: Literal["lower", "higher"]
    regime: Regime
    takes_global_mean: bool
    takes_weighting: bool
    takes_pairs: bool
    reference: str
    summary: str
    most_classes: int | None = None
    floor: Callable[[int, int], float] | None = None
    of_pairs: PairMean | None = None

    @property
    def key(self) -> str:
        """Its name in tables, records and JSON."""
        return self.function.__name__

    def collapse_value(self, num_classes: int, dim: int) -> float:
        """Its value for K classes collapsed in d dimensions; nan where that is not known.

        Collapsed means: the simplex ETF for K <= d+1, for more classes the most uniform directions
        known, by the logarithmic energy (`hug_inter`: by its own).
        """
        if callable(self.at_collapse):
            return self.at_collapse(num_classes, dim)
        if self.regime == "simplex" and num_classes > dim + 1:
            return math.nan
        return self.at_collapse


def regime_of(num_classes: int, dim: int) -> Literal["simplex", "general"]:
    """Which rows are primary: "simplex" for K <= d+1, where a simplex ETF fits, else "general"."""
    return "simplex" if num_classes <= dim + 1 else "general"


def _log_energy(num_classes: int, dim: int) -> float:
    return least_mean_energy(num_classes, dim, 0.0)


def _riesz_energy(num_classes: int, dim: int) -> float:
    return least_mean_energy(num_classes, dim, 2.0)


def _gaussian_potential(num_classes: int, dim: int) -> float:
    """That of directions which are the most uniform for every kernel of this kind."""
    if num_classes <= dim + 1:
        return -4 * num_classes / (num_classes - 1) if num_classes > 1 else math.nan
    if num_classes == 2 * dim:  # the cross-polytope: pairs at distance 2, others at sqrt(2)
        return -4 + math.log((math.exp(-4) + num_classes - 2) / (num_classes - 1))
    if dim == 2:  # the regular polygon
        turns = (math.pi * step / num_classes for step in range(1, num_classes))
        return math.log(sum(math.exp(-8 * math.sin(t) ** 2) for t in turns) / (num_classes - 1))
    return math.nan


def _most_directions(num_classes: int, dim: int) -> float:
    return float(min(num_classes - 1, dim))


def _zero_for_a_simplex(num_classes: int, dim: int) -> float:
    return 0.0 if num_classes <= dim + 1 else math.nan


def _simplex_floor(num_classes: int, dim: int) -> float:
    """A Gram matrix of rank d, as near as any to that of a simplex of K > d+1."""
    if num_classes <= dim + 1:
        return 0.0
    return math.sqrt(2 - 2 * math.sqrt(dim / (num_classes - 1)))


# A few quadratic programs and the bounds that leave these: 0.05 to 0.2 seconds far from collapse.
_MOST_MARGIN_CLASSES = 200
# As many inner products a sample as NC4, and in double precision.
_MOST_DIRECTIONAL_CLASSES = 1000

_PAPYAN = "Papyan, Han, Donoho 2020"
_LIU = "Liu et al. 2023"
_JIANG = "Jiang et al. 2024"
_WU = "Wu, Papyan 2024"
_STATISTICS: tuple[Need, ...] = ("statistics",)
_WEIGHT: tuple[Need, ...] = ("weight",)
_BOTH: tuple[Need, ...] = ("statistics", "weight")


def _row(
    function: Callable[..., Tensor],
    needs: tuple[Need, ...],
    reference: str,
    summary: str,
    *,
    global_mean: bool = False,
    weighting: bool = False,
    pairs: bool = False,
    at_collapse: float | Callable[[int, int], float] = 0.0,
    better: Literal["lower", "higher"] = "lower",
    regime: Regime = "any",
    most_classes: int | None = None,
    floor: Callable[[int, int], float] | None = None,
    of_pairs: PairMean | None = None,
) -> Metric:
    return Metric(
        function=function,
        needs=needs,
        at_collapse=at_collapse,
        better=better,
        regime=regime,
        takes_global_mean=global_mean,
        takes_weighting=weighting,
        takes_pairs=pairs,
        reference=reference,
        summary=summary,
        most_classes=most_classes,
        floor=floor,
        of_pairs=of_pairs,
    )


METRICS: tuple[Metric, ...] = (
    _row(
        nc1,
        ("statistics", "scatter"),
        _PAPYAN,
        "within-class over between-class covariance",
        global_mean=True,
        weighting=True,
    ),
    _row(
        nc1_trace_ratio,
        _STATISTICS,
        "after Tirer, Huang, Niles-Weed 2023",
        "within-class over between-class variance",
        global_mean=True,
        weighting=True,
    ),
    _row(
        nc1_trace_unbiased,
        _STATISTICS,
        "after Tirer, Huang, Niles-Weed 2023",
        "the same, corrected for few samples",
        global_mean=True,
    ),
    _row(
        cdnv,
        _STATISTICS,
        "Galanti, Gyorgy, Hutter 2022",
        "variance over distance, by pairs",
        pairs=True,
        of_pairs=CDNV,
    ),
    _row(
        cdnv_directional,
        ("statistics", "features", "labels"),
        "Luthra et al. 2025",
        "the same towards the other class only",
        most_classes=_MOST_DIRECTIONAL_CLASSES,
    ),
    _row(
        vci,
        ("statistics", "scatter"),
        "Xu, Liu 2023",
        "what no linear map turns into labels",
        global_mean=True,
        weighting=True,
    ),
    _row(
        effective_rank,
        _STATISTICS,
        "after Roy, Vetterli 2007",
        "class means: directions that they fill",
        global_mean=True,
        at_collapse=_most_directions,
        better="higher",
    ),
    _row(
        nc2_equinorm, _STATISTICS, _PAPYAN, "class means: variation of the norms", global_mean=True
    ),
    _row(
        nc2_equiangle,
        _STATISTICS,
        _PAPYAN,
        "class means: variation of the cosines",
        global_mean=True,
        regime="simplex",
        of_pairs=EQUIANGLE,
    ),
    _row(
        nc2_max_angle,
        _STATISTICS,
        _PAPYAN,
        "class means: cosines from -1/(K-1)",
        global_mean=True,
        regime="simplex",
        pairs=True,
        of_pairs=MAX_ANGLE,
    ),
    _row(
        nc2_etf_distance,
        _STATISTICS,
        "after Zhu et al. 2021",
        "class means: Gram matrix from the simplex's",
        global_mean=True,
        regime="simplex",
        floor=_simplex_floor,
    ),
    _row(nc2w_equinorm, _WEIGHT, _PAPYAN, "classifier: variation of the norms"),
    _row(
        nc2w_equiangle,
        _WEIGHT,
        _PAPYAN,
        "classifier: variation of the cosines",
        regime="simplex",
        of_pairs=EQUIANGLE,
    ),
    _row(
        nc2w_max_angle,
        _WEIGHT,
        _PAPYAN,
        "classifier: cosines from -1/(K-1)",
        regime="simplex",
        pairs=True,
        of_pairs=MAX_ANGLE,
    ),
    _row(
        nc2w_etf_distance,
        _WEIGHT,
        "Zhu et al. 2021",
        "classifier: Gram matrix from the simplex's",
        regime="simplex",
        floor=_simplex_floor,
    ),
    _row(
        gnc2_energy_gap,
        _STATISTICS,
        _LIU,
        "class means: log energy above the least",
        global_mean=True,
        regime="general",
        pairs=True,
        of_pairs=ENERGY_GAP,
    ),
    _row(
        gnc2_log_mean,
        _STATISTICS,
        _LIU,
        "class means: mean log energy of pairs",
        global_mean=True,
        at_collapse=_log_energy,
        regime="general",
        pairs=True,
        of_pairs=LOG_MEAN,
    ),
    _row(
        gnc2_log_variance,
        _STATISTICS,
        f"after {_WU}",
        "class means: variance of the log energies",
        global_mean=True,
        at_collapse=_zero_for_a_simplex,
        regime="general",
        pairs=True,
        of_pairs=LOG_VARIANCE,
    ),
    _row(
        gnc2_gaussian,
        _STATISTICS,
        "after Wang, Isola 2020",
        "class means: log Gaussian potential of pairs",
        global_mean=True,
        at_collapse=_gaussian_potential,
        regime="general",
        pairs=True,
        of_pairs=GAUSSIAN,
    ),
    _row(
        gnc2_margin,
        _STATISTICS,
        _JIANG,
        "class means: one against the rest, over best",
        global_mean=True,
        at_collapse=1.0,
        better="higher",
        regime="general",
        most_classes=_MOST_MARGIN_CLASSES,
    ),
    _row(nc3_duality, _BOTH, _PAPYAN, "classifier from class means, up to scale", global_mean=True),
    _row(
        nc3_alignment,
        _BOTH,
        _JIANG,
        "cosine of classifier and class mean",
        global_mean=True,
        at_collapse=1.0,
        better="higher",
    ),
    _row(
        gnc3_alignment_spread,
        _BOTH,
        _WU,
        "variation of those cosines",
        global_mean=True,
    ),
    _row(
        nc3_subspace,
        _BOTH,
        "after Rangamani et al. 2023",
        "cosine of their subspaces' principal angles",
        global_mean=True,
        at_collapse=1.0,
        better="higher",
    ),
    _row(
        nc4_disagreement,
        ("statistics", "features", "weight"),
        _PAPYAN,
        "classifier against nearest class mean",
    ),
    _row(
        nc5_orthogonality,
        ("statistics", "outsiders"),
        "Ammar et al. 2024",
        "cosine of class means and outsiders' mean",
    ),
    _row(
        hug_inter,
        _STATISTICS,
        _LIU,
        "uniformity between classes, 1/distance^2",
        global_mean=True,
        at_collapse=_riesz_energy,
        pairs=True,
        of_pairs=HUG_INTER,
    ),
    _row(
        hug_intra,
        ("statistics", "features", "labels"),
        _LIU,
        "uniformity within classes, distance",
        global_mean=True,
    ),
)
