"""Neural collapse while a Lightning Trainer trains: one callback, whatever the logger."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DistributedSampler

from neuralcollapse.batches import split_batch
from neuralcollapse.integrations.adapter import (
    MeansOfBefore,
    base_class,
    checked_epochs,
    checked_keys,
    checked_loaders,
    is_chosen,
    logged,
    measuring_options,
    warn_of_rounding,
)
from neuralcollapse.layers import LayerTap
from neuralcollapse.measurement import Measurement
from neuralcollapse.measuring import measure
from neuralcollapse.metrics.variability import Weighting
from neuralcollapse.positions import Pooling
from neuralcollapse.processes import num_processes
from neuralcollapse.scalars import check_integer
from neuralcollapse.statistics import GlobalMean
from neuralcollapse.tap import FeatureTap

# One package under two names.
_Callback = base_class(
    "CollapseCallback", ("lightning.pytorch", "pytorch_lightning"), "Callback", "lightning"
)


class CollapseCallback(_Callback):
    """Measures neural collapse at the end of training epochs and logs it.

        Trainer(callbacks=[CollapseCallback()])

    Measures what the Trainer trains and validates on, in evaluation mode and without gradients, by
    `neuralcollapse.measure`, and hands the numbers to `log_dict` of the user's module, so that
    every logger of the Trainer gets them: `collapse/train/nc1`, `collapse/val/nc1` and so on, and
    `collapse/train/accuracy`. Metrics without a value are left out. The module stays as it is; its
    `forward` must take the inputs of a batch.

    Training batches are those of the Trainer's loader, augmentation included. Of several
    processes, each measures its part and all log the result of the whole; samples that a
    `DistributedSampler` repeats, so that all have as many, count once unless `ignore_index` is
    None. Models whose parameters are sharded over processes cannot be measured. The values arrive
    after those of validation, too late for a checkpoint that validation triggers. Where rounding
    to half precision makes part of the collapse, that is warned of, once.

    Args:
        epochs: n for every n-th and the last, or the epochs themselves, counted from 0 as the
            Trainer counts them, or a function from the epoch to whether it is measured.
        layer: dotted name of the classifier; by default the last linear layer that is
            `num_classes` wide.
        num_classes: K; by default the width of the last linear layer.
        network: dotted name of the part of the module to call, e.g. "model", where the module
            itself has no `forward`.
        loaders: what to measure, by name, instead of the Trainer's loaders.
        batches: measure at most so many batches of each loader.
        prefix: of the names logged.
        metrics: keys to log, "accuracy" among them; by default all.
        normalize: scale every feature to unit length first.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        weighting: of the covariances, "balanced" or "samples", as of `measure`.
        scatter: accumulate the (d, d) scatter, as of `measure`.
        outsiders: batches of samples that belong to none of the classes, for `nc5_orthogonality`.
        layers: also measure these layers, by dotted name (in the module or in `network`),
            "blocks" or "all".
            Logged as `collapse/train/layers/model.3/nc1` and so on, and the law that they follow
            as `collapse/train/layers/rho` and `collapse/train/layers/r_squared`.
        pooling: how layers that give several positions become one row a sample, "mean" or
            "flatten", as of `measure`. Layers wider than 4096 have their `nc1` from a second pass
            over the same batches.
        means: whose class means decide in `nc4_disagreement`: "previous" for those of the last
            measurement of the same data in this fit, so that NC4 takes one pass however many
            features there are (the first takes its own), or the name of other data, such as
            "train", for its last; by default those of the data itself. `latest` says which.
        jackknife: also find 95 % intervals, as of `measure`, and log their ends beside the values,
            as `collapse/val/nc1_low` and `collapse/val/nc1_high`.
        ignore_index: samples with this label are left out; None for none.

    Attributes:
        latest: the last measurement of each loader by name, with its layers in `depth`.
    """

    def __init__(
        self,
        epochs: int | Sequence[int] | Callable[[int], bool] = 1,
        *,
        layer: str | None = None,
        num_classes: int | None = None,
        network: str | None = None,
        loaders: Mapping[str, Iterable[Any]] | None = None,
        batches: int | None = None,
        prefix: str = "collapse",
        metrics: Sequence[str] | None = None,
        normalize: bool = False,
        global_mean: GlobalMean = "class",
        weighting: Weighting | None = None,
        scatter: bool | None = None,
        outsiders: Iterable[Any] | None = None,
        layers: Sequence[str] | Literal["blocks", "all"] | None = None,
        pooling: Pooling = "mean",
        means: str | None = None,
        jackknife: bool = False,
        ignore_index: int | None = -100,
    ):
        super().__init__()
        self.epochs = checked_epochs(epochs, first=0)
        self.layer, self.num_classes, self.network = layer, num_classes, network
        self.loaders = checked_loaders(loaders)
        self.batches = None if batches is None else check_integer("batches", batches, 1)
        self.prefix, self.metrics = prefix, checked_keys(metrics)
        if ignore_index is not None:
            check_integer("ignore_index", ignore_index, -(1 << 63))
        self.ignore_index = ignore_index
        self.options = measuring_options(
            normalize=normalize,
            global_mean=global_mean,
            weighting=weighting,
            scatter=scatter,
            outsiders=outsiders,
            layers=layers,
            pooling=pooling,
            jackknife=jackknife,
        )
        self._means = MeansOfBefore(means, self.loaders or ("train", "val"))
        self.latest: dict[str, Measurement] = {}
        self._has_warned = False

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Look for the classifier and the layers before the first epoch rather than after it."""
        network, layers = self._network(pl_module), self.options["layers"]
        self._means.forget()
        tap = FeatureTap(network, self.layer, self.num_classes)
        if layers is not None:
            LayerTap(network, layers, tap.name, len(tap.weight))
        if self.network is None and not _can_be_called(pl_module):
            raise ValueError(
                "network must name the part of the module to call, which has no forward itself, "
                f"got None; it holds {_parts(pl_module)}"
            )

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure and log, if it is an epoch to be measured."""
        last = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.sanity_checking or not self._is_due(trainer.current_epoch, last):
            return
        convert, options = _input_conversion(trainer), dict(self.options)
        if options["outsiders"] is not None:
            options["outsiders"] = _Batches(options["outsiders"], convert, None, None)
        for name, loader in self._loaders(trainer).items():
            measurement = measure(
                self._network(pl_module),
                _Batches(loader, convert, self.batches, self.ignore_index),
                layer=self.layer,
                num_classes=self.num_classes,
                means=self._means.of(name),
                split=name,
                ignore_index=self.ignore_index,
                distributed=num_processes() > 1,
                progress=False,
                **options,
            )
            self.latest[name] = measurement = self._means.keep(name, measurement)
            path = f"{self.prefix}/{name}"
            self._has_warned = self._has_warned or warn_of_rounding(measurement, path)
            values = logged(measurement, path, self.metrics)
            pl_module.log_dict(values, on_step=False, on_epoch=True)

    def _is_due(self, epoch: int, last: bool) -> bool:
        if last and isinstance(self.epochs, int):
            return True
        return is_chosen(self.epochs, epoch, epoch + 1)

    def _network(self, pl_module: nn.Module) -> nn.Module:
        if self.network is None:
            return pl_module
        try:
            return pl_module.get_submodule(self.network)
        except AttributeError:
            raise ValueError(
                f"network must name a part of the module, got {self.network!r}; it holds "
                f"{_parts(pl_module)}"
            ) from None

    def _loaders(self, trainer: Any) -> dict[str, Iterable[Any]]:
        if self.loaders is not None:
            return dict(self.loaders)
        return {
            **_named("train", trainer.train_dataloader),
            **_named("val", trainer.val_dataloaders),
        }


class _Batches:
    """The first batches of a loader, as often as wanted, in the precision of the model.

    Samples that a sampler repeats for this process get the label that is left out.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        convert: Callable[[Any], Any],
        most: int | None,
        ignore_index: int | None,
    ):
        self.loader, self._convert, self._most = loader, convert, most
        self._ignored = ignore_index

    def __iter__(self) -> Iterator[Any]:
        ignored = self._ignored
        left = None if ignored is None else _own_samples(self.loader)
        for number, batch in enumerate(self.loader):
            if number == self._most:
                return
            given = self._convert(batch)
            if left is not None and ignored is not None:
                inputs, labels = split_batch(given)
                if left < len(labels):
                    given = (inputs, _without(labels, max(left, 0), ignored))
                left -= len(labels)
            yield given


def _without(labels: Tensor, first: int, ignored: int) -> Tensor:
    """Labels, of classes, tokens or one-hot, those from the first on marked as left out."""
    labels = labels if labels.is_floating_point() else labels.long()
    return torch.cat([labels[:first], torch.full_like(labels[first:], ignored)])


def _own_samples(loader: Any) -> int | None:
    """How many of a process's samples are not repeated from the start; None where none can be.

    A `DistributedSampler` deals its samples in turns, and those that it has repeated come last.
    """
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or sampler.drop_last:
        return None
    rest = len(sampler.dataset) - sampler.rank  # pyright: ignore[reportArgumentType]
    return max(0, -(-rest // sampler.num_replicas))


def _parts(module: nn.Module) -> str:
    return ", ".join(name for name, _ in module.named_children()) or "nothing"


def _can_be_called(module: nn.Module) -> bool:
    """Whether the module has a `forward` of its own, and not what stands in for one."""
    owner = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    stands_in = owner is nn.Module or owner.__name__ == "LightningModule"
    return not stands_in or "forward" in vars(module)


def _input_conversion(trainer: Any) -> Callable[[Any], Any]:
    """What the Trainer does to batches for a model in half precision."""
    convert = getattr(getattr(trainer, "precision_plugin", None), "convert_input", None)
    return convert or (lambda batch: batch)


def _named(name: str, loaders: Any) -> dict[str, Iterable[Any]]:
    """One loader under the name, several under the name and their own name or number."""
    if loaders is None:
        return {}
    if isinstance(loaders, Mapping):
        return {f"{name}/{key}": loader for key, loader in loaders.items()}
    if isinstance(loaders, list | tuple):
        if len(loaders) == 1:
            return {name: loaders[0]}
        return {f"{name}/{number}": loader for number, loader in enumerate(loaders)}
    return {name: loaders}
