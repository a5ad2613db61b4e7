"""Statistics of every layer of a model in one forward pass."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from neuralcollapse.batches import labelled_samples
from neuralcollapse.blocks import PASSING, block_names
from neuralcollapse.depth import KEYS, DepthProfile, LayerMeasurement, depth_profile
from neuralcollapse.metrics.subspaces import effective_rank, features_effective_rank
from neuralcollapse.metrics.variability import cdnv, nc1, nc1_trace_ratio, vci
from neuralcollapse.metrics.whitened import WhitenedSpread
from neuralcollapse.positions import (
    Pooling,
    channels_are_last,
    first_tensor,
    mean_over_positions,
)
from neuralcollapse.processes import num_processes
from neuralcollapse.scalars import check_choice, check_integer
from neuralcollapse.statistics import ClassStatistics, StatisticsAccumulator

# Wider layers are measured without a (d, d) scatter, which would be 128 MiB and more of doubles.
MAX_SCATTER_DIM = 4096
CHOICES = ("blocks", "all")
_OF_SCATTER = ("nc1", "vci", "features_effective_rank")


class LayerTap(AbstractContextManager["LayerTap"]):
    """Accumulates the class statistics of layers while a model runs.

    Forward hooks that are there inside a `with` block only. Features are summed up batch by batch
    and not kept: memory is K d + d^2 doubles a layer, K d for layers wider than 4096. These have
    their `nc1` from a second `with` block over the same data, after `settle`:

        with tap: run and update, batch by batch
        if tap.settle():
            with tap: run and update again
        tap.profile()

    Args:
        model: any module.
        layers: dotted names, "blocks" (see `block_names`), or "all": every leaf, from the first
            with parameters on, less those that only hand on (flatten, dropout, identity). Of
            "blocks" and "all" those that run once a forward pass, in the order in which they run.
        head: dotted name of the classifier, which "blocks" and "all" leave out with all behind it.
        num_classes: K.
        pooling: of features of several positions, (N, C, H, W), (N, H, W, C) or (N, T, d): their
            "mean" over positions, or all of them in one row ("flatten").
        device: where sums are kept.

    Raises:
        ValueError: if there is no such layer; the message names some that there are.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | Literal["blocks", "all"],
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
        if head not in modules:
            raise ValueError(f"head must name a module of the model, got {head!r}")
        self._all, self._named = layers == "all", not isinstance(layers, str)
        if layers == "all":
            chosen = [
                name
                for name, module in modules.items()
                if name and not any(module.children()) and not isinstance(module, PASSING)
            ]
        elif isinstance(layers, str):
            chosen = block_names(model, head)
        else:
            chosen = list(dict.fromkeys(layers))
            for name in chosen:
                if not name or name not in modules:
                    some = ", ".join(repr(known) for known in [*modules][1:9])
                    raise ValueError(
                        f"layers must name modules of the model, got {name!r}; it has {some}"
                    )
        self._modules = {name: modules[name] for name in chosen if name in modules}
        self._head, self._head_module = head, modules[head]
        self._handles: list[Any] = []
        self._captured: dict[str, list[Any]] = {}
        self._one_label = False  # a sample, and not a token; seen at the first batch
        self._behind: set[str] = set()
        self._last: dict[str, bool] = {}  # whether channels come last, by layer
        self._shapes: dict[torch.Size, bool] = {}  # and by shape, of the latest layer that had it
        self._accumulators: dict[str, StatisticsAccumulator] = {}
        self._order: list[str] = []
        self._settled: dict[str, ClassStatistics] | None = None
        self._spreads: dict[str, WhitenedSpread] = {}

    @property
    def listening(self) -> bool:
        """Whether this is inside a `with` block."""
        return bool(self._handles)

    def __enter__(self) -> "LayerTap":
        def capture(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if self._head in self._captured and not self._named:
                    self._behind.add(name)
                kept = self._kept(name, module, output) if name in self._modules else None
                self._captured.setdefault(name, []).append(kept)

            return hook

        heard = {**self._modules, self._head: self._head_module}
        if self._settled is not None:
            heard = {name: self._modules[name] for name in self._spreads}
        for name, module in heard.items():
            self._handles.append(module.register_forward_hook(capture(name)))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._captured = [], {}

    @torch.no_grad()
    def update(self, labels: Tensor, ignore_index: int | None = None) -> None:
        """Add what the layers gave in the forward pass just made."""
        captured, self._captured = self._captured, {}
        self._one_label = labels.dim() == 1
        for name in captured:
            if name in self._modules and name not in self._order:
                self._order.append(name)
        heard = self._modules if self._settled is None else self._spreads
        missing = [name for name in heard if name not in captured]
        if missing and self._named:
            raise ValueError(f"layers must run in every forward pass, {missing[0]!r} did not")
        for name, outputs in captured.items():
            unasked = name not in self._modules or (not self._named and name == self._head)
            if unasked or name in self._behind:
                continue
            if len(outputs) > 1:
                if not self._named:
                    self._behind.add(name)
                    continue
                raise ValueError(
                    f"layers must run once a forward pass, {name!r} ran {len(outputs)} times"
                )
            features = self._pooled(name, outputs[0], labels)
            if features is None:
                self._behind.add(name)
                continue
            self._add(name, *labelled_samples(features, labels, self._num_classes, ignore_index))

    def _add(self, name: str, features: Tensor, labels: Tensor) -> None:
        if self._settled is not None:
            home = self._settled[name].means.device
            self._spreads[name].update(features.to(home), labels.to(home))
            return
        dim = features.shape[1]
        if name not in self._accumulators:
            self._accumulators[name] = self._accumulator(dim)
        accumulator = self._accumulators[name]
        if accumulator.dim != dim:
            pool = "use pooling='mean', or " if self._pooling == "flatten" else ""
            raise ValueError(
                f"layers must give features of one width, {name!r} gave {accumulator.dim} and then "
                f"{dim}; {pool}leave it out"
            )
        accumulator.update(features, labels)

    def _accumulator(self, dim: int) -> StatisticsAccumulator:
        return StatisticsAccumulator(
            self._num_classes, dim, scatter=dim <= MAX_SCATTER_DIM, device=self._device
        )

    def settle(self, *, distributed: bool = False) -> bool:
        """End the first pass; with `distributed`, all processes together.

        Returns:
            Whether there are layers too wide for a scatter: what runs in a second `with` block is
            for their `nc1`.

        Raises:
            ValueError: if no layer gave features.
        """
        found = {
            name: self._accumulators[name].dim
            for name in self._order
            if name in self._accumulators and name not in self._behind
        }
        found = _of_all_processes(found) if distributed else found
        names = [*found]
        if self._all:  # not the scaling of the input and the like
            learned = [bool([*self._modules[name].parameters()]) for name in names]
            names = names[learned.index(True) :] if any(learned) else []
        if not names:
            raise ValueError(
                "layers must give features (N, ...) in front of the classifier, none did; name some"
            )
        self._settled = {}
        for name in names:
            # A process that has seen nothing has no sums, and adds nothing.
            own = self._accumulators.pop(name, None) or self._accumulator(found[name])
            statistics = own.result()
            self._settled[name] = statistics.merge_processes() if distributed else statistics
        self._accumulators = {}
        self._spreads = {
            name: WhitenedSpread(statistics)
            for name, statistics in self._settled.items()
            if statistics.scatter is None
        }
        return bool(self._spreads)

    def profile(self, *, distributed: bool = False, tunnel_share: float = 0.95) -> DepthProfile:
        """What all batches tell together.

        Raises:
            ValueError: if no layer gave features.
        """
        if self._settled is None:
            self.settle(distributed=distributed)
        if distributed and num_processes() > 1:
            for spread in self._spreads.values():
                dist.all_reduce(spread.totals)
        measured = []
        for name, statistics in (self._settled or {}).items():
            metrics = layer_metrics(statistics)
            if name in self._spreads:
                metrics["nc1"] = float(self._spreads[name].result())
            measured.append(LayerMeasurement(name, statistics.dim, metrics))
        return depth_profile(measured, self._pooling, tunnel_share)

    def _kept(self, name: str, module: nn.Module, output: Any) -> Any:
        """What is needed of an output: pooled at once where it can be, and else a copy.

        Modules that work in place write over the output of the one before them, and the outputs
        of all layers together are far larger than what is needed of them.
        """
        output = output if self._all else first_tensor(output)
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        if name not in self._last and output.dim() > 2:
            last = channels_are_last(module, output)
            if last is None:  # an activation is as the layer before
                last = self._shapes.get(output.shape, output.dim() == 3)
            self._last[name] = self._shapes[output.shape] = last
        at_once = output.dim() > 3 or (output.dim() == 3 and self._one_label)
        if self._pooling == "mean" and at_once:
            return mean_over_positions(output.detach(), self._last[name])
        return output.detach().clone()

    def _pooled(self, name: str, output: Any, labels: Tensor) -> Tensor | None:
        """(N, d), or (N, T, d) for labels of tokens; None where a layer not named has none."""
        sound = isinstance(output, Tensor) and output.is_floating_point() and output.dim() >= 2
        if not sound or len(output) != len(labels):
            if not self._named:
                return None
            given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"layers must give features (N, ...) for {len(labels)} labels, {name!r} gives "
                f"{given}"
            )
        per_token = output.dim() == 3 and labels.shape == output.shape[:2]
        if output.dim() == 2 or per_token:
            return output
        if self._pooling == "flatten":
            return output.flatten(1)
        return mean_over_positions(output, self._last[name])


def _of_all_processes(found: dict[str, int]) -> dict[str, int]:
    """Names and widths of the layers that every process has seen, but those that saw no batch."""
    if num_processes() == 1:
        return found
    shares: list[Any] = [None] * num_processes()
    dist.all_gather_object(shares, found)
    shares = [share for share in shares if share]
    if not shares:
        return {}
    return {name: dim for name, dim in shares[0].items() if all(name in share for share in shares)}


def layer_metrics(statistics: ClassStatistics) -> dict[str, float]:
    """The metrics of a layer, nan where they are undefined or need a scatter that is not there."""
    functions = (nc1, nc1_trace_ratio, cdnv, vci, effective_rank, features_effective_rank)
    return {
        key: math.nan
        if key in _OF_SCATTER and statistics.scatter is None
        else float(function(statistics))
        for key, function in zip(KEYS, functions, strict=True)
    }


def check_layers(layers: Any) -> None:
    """Raise unless these are names of layers, "blocks" or "all"."""
    if isinstance(layers, str):
        if layers not in CHOICES:
            raise ValueError(
                f"layers must be a list of names, 'blocks' or 'all', got {layers!r}; use "
                f"[{layers!r}]"
            )
        return
    if not isinstance(layers, Sequence) or not all(isinstance(name, str) for name in layers):
        raise TypeError(f"layers must be a list of names, 'blocks' or 'all', got {layers!r}")
    check_integer("the number of layers", len(layers), 1)
