"""How collapse goes with depth: measurements of layers, the law that they follow, the tunnel."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neuralcollapse.scalars import check_number

KEYS = (
    "nc1",
    "nc1_trace_ratio",
    "cdnv",
    "vci",
    "effective_rank",
    "features_effective_rank",
)
"""The metrics of a layer."""
# Through two points there is always a line: it would be no law.
_LEAST_LAYERS = 3


@dataclass(frozen=True)
class LayerMeasurement:
    """One layer.

    Attributes:
        name: its dotted name in the model.
        dim: width of what it gives out, after pooling.
        metrics: value by key; nan where undefined, or where the layer is too wide for a scatter.
    """

    name: str
    dim: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class SeparationLaw:
    """A straight line through the logarithm of a layer's variability against its depth.

    Attributes:
        metric: `nc1`, or `nc1_trace_ratio` where some layer has no `nc1`.
        rho: factor by layer; below 1, classes separate as depth grows.
        r_squared: share of the variation of the logarithm that the line explains, in [0, 1].
        start: value of the line at the first layer.
    """

    metric: str
    rho: float
    r_squared: float
    start: float


@dataclass(frozen=True)
class DepthProfile:
    """How collapse comes about, layer by layer.

    Attributes:
        layers: in the order in which the model runs them.
        pooling: how features of several positions became one: "mean" or "flatten".
        law: of He, Su 2023: the variability falls by the same factor from layer to layer; None
            where `no_law` says why.
        tunnel: name of the first layer from which on all are as separable as the last, or nearly;
            None where it is not defined. Behind it, the network compresses what it has
            separated: after Masarczyk et al. 2023; this measure of separability is ours.
        tunnel_share: what "nearly" means: the share of the last layer's separability.
    """

    layers: tuple[LayerMeasurement, ...]
    pooling: str
    law: SeparationLaw | None
    tunnel: str | None
    tunnel_share: float

    @property
    def no_law(self) -> str | None:
        """Why there is no separation law, or None where there is one."""
        if self.law is not None:
            return None
        if len(self.layers) < _LEAST_LAYERS:
            return f"needs {_LEAST_LAYERS} layers, got {len(self.layers)}"
        lacking = [
            layer.name
            for layer in self.layers
            if not _above_zero(layer.metrics.get("nc1_trace_ratio", math.nan))
        ]
        return f"needs a variability above zero in every layer, {', '.join(lacking)} has none"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an undefined number is None."""
        return {
            "layers": [
                {
                    "name": layer.name,
                    "dim": layer.dim,
                    "metrics": {
                        key: value if math.isfinite(value) else None
                        for key, value in layer.metrics.items()
                    },
                }
                for layer in self.layers
            ],
            "pooling": self.pooling,
            "law": None if self.law is None else vars(self.law).copy(),
            "no_law": self.no_law,
            "tunnel": self.tunnel,
            "tunnel_share": self.tunnel_share,
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "DepthProfile":
        """The inverse of `to_dict`."""
        try:
            layers = tuple(
                LayerMeasurement(
                    str(layer["name"]),
                    int(layer["dim"]),
                    {k: math.nan if v is None else float(v) for k, v in layer["metrics"].items()},
                )
                for layer in values["layers"]
            )
            law = values["law"]
            return DepthProfile(
                layers,
                str(values["pooling"]),
                None
                if law is None
                else SeparationLaw(
                    str(law["metric"]),
                    float(law["rho"]),
                    float(law["r_squared"]),
                    float(law["start"]),
                ),
                None if values["tunnel"] is None else str(values["tunnel"]),
                float(values["tunnel_share"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"these values are not a depth profile: {error!r}") from None

    def __str__(self) -> str:
        """A table, one line a layer, with the law and the tunnel below."""
        widest = max([5, *(len(layer.name) for layer in self.layers)])
        lines = [f"{'layer':<{widest}} {'dim':>6}" + "".join(f" {key:>24}" for key in KEYS)]
        for layer in self.layers:
            values = (layer.metrics.get(key, math.nan) for key in KEYS)
            shown = "".join(f" {v:>24.6g}" if math.isfinite(v) else f" {'-':>24}" for v in values)
            lines.append(f"{layer.name:<{widest}} {layer.dim:>6}{shown}")
        if self.law is not None:
            lines.append(
                f"separation law: {self.law.metric} goes by the factor rho = {self.law.rho:.4g} "
                f"from layer to layer, R^2 = {self.law.r_squared:.4g}"
            )
        else:
            lines.append(f"separation law: none, it {self.no_law}")
        if self.tunnel is not None:
            lines.append(
                f"tunnel: begins at {self.tunnel}, from where on 1 - vci is within "
                f"{1 - self.tunnel_share:.0%} of the last layer's"
            )
        lines.append(f"pooling: {self.pooling}")
        return "\n".join(lines)


def depth_profile(
    layers: Sequence[LayerMeasurement], pooling: str = "mean", tunnel_share: float = 0.95
) -> DepthProfile:
    """The law and the tunnel of layers in the order of their depth.

    Example:
        >>> values = [8.0, 4.0, 2.0, 1.0]
        >>> layers = [LayerMeasurement(str(l), 9, {"nc1": v}) for l, v in enumerate(values)]
        >>> profile = depth_profile(layers)
        >>> round(profile.law.rho, 6), round(profile.law.r_squared, 6)
        (0.5, 1.0)
    """
    share = check_number("tunnel_share", tunnel_share, minimum=0, exclusive=True)
    if share > 1:
        raise ValueError(f"tunnel_share must be at most 1, got {tunnel_share}")
    law, tunnel = separation_law(layers), _tunnel(layers, share)
    return DepthProfile(tuple(layers), pooling, law, tunnel, share)


def separation_law(layers: Sequence[LayerMeasurement]) -> SeparationLaw | None:
    """Least squares of log(variability) on the number of the layer; None where it cannot be.

        log(variability_l) = log(start) + l log(rho),  l = 0, 1, ...

    Source: He, Su 2023, who take trace(Sigma_W pinv(Sigma_B)) of every layer, with Sigma_B over
    samples, which is the same for classes of equal size; the division by K moves the start only.
    R^2 compares with the mean of the logarithms.
    """
    for key in ("nc1", "nc1_trace_ratio"):
        values = [layer.metrics.get(key, math.nan) for layer in layers]
        if len(values) >= _LEAST_LAYERS and all(map(_above_zero, values)):
            break
    else:
        return None
    heights = torch.tensor(values, dtype=torch.float64).log()
    places = torch.arange(len(values), dtype=torch.float64)
    centred, moved = places - places.mean(), heights - heights.mean()
    slope = (centred @ moved) / (centred @ centred)
    total = float(moved @ moved)
    rest = float((moved - slope * centred).square().sum())
    start = heights.mean() - slope * places.mean()
    return SeparationLaw(
        key, math.exp(slope), 1 - rest / total if total > 0 else 1.0, math.exp(start)
    )


def _above_zero(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _tunnel(layers: Sequence[LayerMeasurement], share: float) -> str | None:
    """The first layer from which on 1 - vci stays near the last layer's.

    1 - vci is the share of the labels' variation that the best linear map of a layer explains: a
    linear probe by least squares.
    """
    separable = [1 - layer.metrics.get("vci", math.nan) for layer in layers]
    if not separable or not all(math.isfinite(value) for value in separable):
        return None
    first = len(layers)
    while first and separable[first - 1] >= share * separable[-1]:
        first -= 1
    return layers[first].name
