"""Collapse by depth: statistics of every layer in one forward pass, and the law they follow."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuralcollapse.batches import labelled_samples
from neuralcollapse.metrics.subspaces import effective_rank, features_effective_rank
from neuralcollapse.metrics.variability import cdnv, nc1, nc1_trace_ratio, vci
from neuralcollapse.scalars import check_choice, check_integer, check_number
from neuralcollapse.statistics import ClassStatistics, StatisticsAccumulator

Pooling = Literal["mean", "flatten"]

# Wider layers are measured without a (d, d) scatter, which would be 128 MiB and more of doubles.
MAX_SCATTER_DIM = 4096
# Leaves that only hand on what they are given.
_PASSING = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
_KEYS = (
    "nc1",
    "nc1_trace_ratio",
    "cdnv",
    "vci",
    "effective_rank",
    "features_effective_rank",
)
_OF_SCATTER = ("nc1", "vci", "features_effective_rank")
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
        lines = [f"{'layer':<{widest}} {'dim':>6}" + "".join(f" {key:>24}" for key in _KEYS)]
        for layer in self.layers:
            values = (layer.metrics.get(key, math.nan) for key in _KEYS)
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


class LayerTap(AbstractContextManager["LayerTap"]):
    """Accumulates the class statistics of layers while a model runs.

    Forward hooks that are there inside the `with` block only. Features are summed up batch by
    batch and not kept: memory is K d + d^2 doubles a layer, K d for layers wider than 4096.

    Args:
        model: any module.
        layers: dotted names, or "all": every leaf that runs once a forward pass, in the order in
            which they run, from the first with parameters on, less those that only hand on
            (flatten, dropout, identity).
        head: dotted name of the classifier, which "all" leaves out with all behind it.
        num_classes: K.
        pooling: of features of several positions, (N, C, H, W) or (N, T, d): their "mean" over
            positions, or all of them in one row ("flatten").
        device: where sums are kept.

    Raises:
        ValueError: if there is no such layer; the message names some that there are.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | Literal["all"],
        head: str,
        num_classes: int,
        *,
        pooling: Pooling = "mean",
        device: torch.device | str | None = None,
    ):
        check_choice("pooling", pooling, ("mean", "flatten"))
        check_layers(layers)
        check_integer("num_classes", num_classes, 1)
        self._pooling, self._num_classes, self._device = pooling, num_classes, device
        modules = dict(model.named_modules())
        self._all = isinstance(layers, str)
        if isinstance(layers, str):
            check_choice("layers", layers, ("all",))
            chosen = [
                name
                for name, module in modules.items()
                if name and not any(module.children()) and not isinstance(module, _PASSING)
            ]
        else:
            chosen = list(dict.fromkeys(layers))
            for name in chosen:
                if not name or name not in modules:
                    some = ", ".join(repr(known) for known in [*modules][1:9])
                    raise ValueError(
                        f"layers must name modules of the model, got {name!r}; it has {some}"
                    )
        self._modules = {name: modules[name] for name in chosen}
        if head not in modules:
            raise ValueError(f"head must name a module of the model, got {head!r}")
        self._head, self._head_module = head, modules[head]
        self._handles: list[Any] = []
        self._captured: dict[str, list[Any]] = {}
        self._one_label = False  # a sample, and not a token; seen at the first batch
        self._behind: set[str] = set()
        self._accumulators: dict[str, StatisticsAccumulator] = {}
        self._order: list[str] = []

    def __enter__(self) -> "LayerTap":
        def capture(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if self._head in self._captured and self._all:
                    self._behind.add(name)
                self._captured.setdefault(name, []).append(self._kept(output))

            return hook

        for name, module in {**self._modules, self._head: self._head_module}.items():
            self._handles.append(module.register_forward_hook(capture(name)))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._captured = {}

    @torch.no_grad()
    def update(self, labels: Tensor, ignore_index: int | None = None) -> None:
        """Add what the layers gave in the forward pass just made."""
        captured, self._captured = self._captured, {}
        self._one_label = labels.dim() == 1
        for name in captured:
            if name in self._modules and name not in self._order:
                self._order.append(name)
        missing = [name for name in self._modules if name not in captured]
        if missing and not self._all:
            raise ValueError(f"layers must run in every forward pass, {missing[0]!r} did not")
        for name, outputs in captured.items():
            unasked = name not in self._modules or (self._all and name == self._head)
            if unasked or name in self._behind:
                continue
            if len(outputs) > 1:
                if self._all:
                    self._behind.add(name)
                    continue
                raise ValueError(
                    f"layers must run once a forward pass, {name!r} ran {len(outputs)} times"
                )
            features = self._pooled(name, outputs[0], labels)
            if features is None:
                self._behind.add(name)
                continue
            features, own = labelled_samples(features, labels, self._num_classes, ignore_index)
            dim = features.shape[1]
            known = self._accumulators.get(name)
            if known is not None and known.dim != dim:
                pool = "use pooling='mean', or " if self._pooling == "flatten" else ""
                raise ValueError(
                    f"layers must give features of one width, {name!r} gave {known.dim} and then "
                    f"{dim}; {pool}leave it out"
                )
            if known is None:
                self._accumulators[name] = StatisticsAccumulator(
                    self._num_classes, dim, scatter=dim <= MAX_SCATTER_DIM, device=self._device
                )
            self._accumulators[name].update(features.detach(), own)

    def profile(self, *, distributed: bool = False, tunnel_share: float = 0.95) -> DepthProfile:
        """What all batches tell together.

        Raises:
            ValueError: if no layer gave features.
        """
        names = [n for n in self._order if n in self._accumulators and n not in self._behind]
        if self._all:  # not the scaling of the input and the like
            learned = [bool([*self._modules[name].parameters()]) for name in names]
            names = names[learned.index(True) :] if any(learned) else []
        if not names:
            raise ValueError(
                "layers must give features (N, ...) in front of the classifier, none did; name some"
            )
        measured = []
        for name in names:
            statistics = self._accumulators[name].result()
            if distributed:
                statistics = statistics.merge_processes()
            measured.append(LayerMeasurement(name, statistics.dim, layer_metrics(statistics)))
        return depth_profile(measured, self._pooling, tunnel_share)

    def _kept(self, output: Any) -> Any:
        """What is needed of an output: pooled at once where it can be, and else a copy.

        Modules that work in place write over the output of the one before them, and the outputs
        of all layers together are far larger than what is needed of them.
        """
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        at_once = output.dim() > 3 or (output.dim() == 3 and self._one_label)
        if self._pooling == "mean" and at_once:
            return _mean_over_positions(output.detach())
        return output.detach().clone()

    def _pooled(self, name: str, output: Any, labels: Tensor) -> Tensor | None:
        """(N, d), or (N, T, d) for labels of tokens; None where a leaf of "all" has no features."""
        sound = isinstance(output, Tensor) and output.is_floating_point() and output.dim() >= 2
        if not sound:
            if self._all:
                return None
            given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"layers must give features (N, ...), {name!r} gives {given}")
        per_token = output.dim() == 3 and labels.shape == output.shape[:2]
        if output.dim() == 2 or per_token:
            return output
        return output.flatten(1) if self._pooling == "flatten" else _mean_over_positions(output)


def _mean_over_positions(output: Tensor) -> Tensor:
    """(N, d) of (N, T, d) or (N, C, ...): channels come second in pictures, last in sequences."""
    return output.mean(1) if output.dim() == 3 else output.flatten(2).mean(2)


def layer_metrics(statistics: ClassStatistics) -> dict[str, float]:
    """The metrics of a layer, nan where they are undefined or need a scatter that is not there."""
    functions = (nc1, nc1_trace_ratio, cdnv, vci, effective_rank, features_effective_rank)
    return {
        key: math.nan
        if key in _OF_SCATTER and statistics.scatter is None
        else float(function(statistics))
        for key, function in zip(_KEYS, functions, strict=True)
    }


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


def check_layers(layers: Any) -> None:
    """Raise unless these are names of layers or "all"."""
    if isinstance(layers, str):
        if layers != "all":
            raise ValueError(
                f"layers must be a list of names or 'all', got {layers!r}; use [{layers!r}]"
            )
        return
    if not isinstance(layers, Sequence) or not all(isinstance(name, str) for name in layers):
        raise TypeError(f"layers must be a list of names or 'all', got {layers!r}")
    check_integer("the number of layers", len(layers), 1)
