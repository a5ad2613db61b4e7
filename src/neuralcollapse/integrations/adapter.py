"""What adapters share: the package that one is made for, when it measures, what it logs."""

import importlib
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from neuralcollapse.batches import check_loader
from neuralcollapse.layers import check_layers
from neuralcollapse.measurement import Measurement
from neuralcollapse.metrics.noise import ROUNDING_MAKES_IT
from neuralcollapse.metrics.subspaces import features_effective_rank
from neuralcollapse.metrics.table import METRICS
from neuralcollapse.metrics.variability import Weighting
from neuralcollapse.positions import Pooling
from neuralcollapse.processes import own_rank
from neuralcollapse.scalars import check_boolean, check_choice, check_integer
from neuralcollapse.statistics import ClassStatistics, GlobalMean

Epochs = int | tuple[int, ...] | Callable[[int], bool]


def missing(what: str, package: str, error: Exception, remedy: str) -> ImportError:
    """The error of an adapter whose package cannot be imported; `remedy` installs it.

    A package built for another torch raises RuntimeError rather than ImportError when imported.

    Example:
        >>> print(missing("A metric", "torchmetrics", ImportError("no module"), "torchmetrics"))
        A metric needs torchmetrics, which cannot be imported (no module); install it with pip
        install 'torchmetrics'
    """
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ImportError(
        f"{what} needs {package}, which cannot be imported ({reason}); "
        f"install it with pip install '{remedy}'"
    )


def base_class(what: str, modules: Sequence[str], name: str, remedy: str) -> Any:
    """The class `name` of the first of these modules that is in use, or else can be imported.

    Where there is none, a class whose instances cannot be made: the adapter's module can be read,
    and making one raises the error of `missing`.
    """
    errors: list[Exception] = []
    for module in sorted(modules, key=lambda module: module not in sys.modules):
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, RuntimeError) as error:
            errors.append(error)
    reason = missing(what, " or ".join(modules), errors[0], remedy)

    class Missing:
        def __init__(self, *args: Any, **kwargs: Any):
            raise reason

    return Missing


def checked_epochs(epochs: int | Sequence[int] | Callable[[int], bool], first: int) -> Epochs:
    """n for every n-th, or the epochs themselves from `first` on, or a function that chooses."""
    if callable(epochs):
        return epochs
    if isinstance(epochs, Sequence):
        return tuple(check_integer("epochs", epoch, first) for epoch in epochs)
    return check_integer("epochs", epochs, 1)


def checked_keys(keys: Any) -> tuple[str, ...] | None:
    """The keys to log, each of a metric, of a layer or "accuracy"; None for all."""
    if keys is None:
        return None
    if isinstance(keys, str):
        raise TypeError(f"metrics must be a sequence of keys, got the text {keys!r}")
    known = [*(metric.key for metric in METRICS), features_effective_rank.__name__, "accuracy"]
    return tuple(check_choice("metrics", key, known) for key in keys)


def checked_loaders(loaders: Any) -> Mapping[str, Any] | None:
    """The loaders by name, where they are given."""
    if loaders is None:
        return None
    if not isinstance(loaders, Mapping):
        raise TypeError(
            "loaders must be a dictionary of loaders by name, got "
            f"{type(loaders).__name__}; for example {{'test': loader}}"
        )
    for name, loader in loaders.items():
        check_loader(f"loaders[{name!r}]", loader)
        if isinstance(loader, Iterator):
            raise TypeError(
                f"loaders[{name!r}] must yield its batches at every measurement, got a "
                f"{type(loader).__name__}, which does so once; give a torch.utils.data.DataLoader, "
                "or a list of batches"
            )
    return loaders


def is_chosen(epochs: Epochs, epoch: int, number: int) -> bool:
    """Whether an epoch, the `number`-th, is among those to be measured."""
    if isinstance(epochs, int):
        return number % epochs == 0
    return epochs(epoch) if callable(epochs) else epoch in epochs


class MeansOfBefore:
    """Whose class means decide in `nc4_disagreement`: those of what was measured before.

    Args:
        chosen: "previous" for the last measurement of the same data, or the name of other data,
            such as "train", for its last; None for the means of the measurement itself.
        loaders: the names that there will be, or what they begin with.
    """

    def __init__(self, chosen: str | None, loaders: Iterable[str]):
        if chosen is not None:
            beginning = chosen.partition("/")[0] if isinstance(chosen, str) else chosen
            known = ["previous", *loaders]
            check_choice("means", chosen if chosen in known else beginning, known)
        self._chosen = chosen
        self._kept: dict[str, ClassStatistics] = {}

    def of(self, name: str) -> ClassStatistics | None:
        """Those for the data of this name; None where there are none yet, and its own decide."""
        if self._chosen == "previous":
            return self._kept.get(name)
        return None if self._chosen in (None, name) else self._kept.get(self._chosen)

    def keep(self, name: str, measurement: Measurement) -> Measurement:
        """Remember a measurement; gives it with the convention that it was made by."""
        given = self.of(name)
        if self._chosen is not None and measurement.statistics is not None:
            self._kept[name] = measurement.statistics
        if given is None:
            return measurement
        whose = "the measurement before" if self._chosen == "previous" else str(self._chosen)
        conventions = measurement.conventions | {
            "nc4": f"Euclidean distance to class means of {whose}"
        }
        return replace(measurement, conventions=conventions)

    def forget(self) -> None:
        """Begin anew, perhaps with another network."""
        self._kept.clear()


def measuring_options(
    *,
    normalize: bool,
    global_mean: GlobalMean,
    weighting: Weighting | None,
    scatter: bool | None,
    outsiders: Iterable[Any] | None,
    layers: Sequence[str] | Literal["blocks", "all"] | None,
    pooling: Pooling,
    jackknife: bool,
) -> dict[str, Any]:
    """What a callback hands on to `measure`, checked before training and not after an epoch."""
    check_boolean("normalize", normalize)
    check_boolean("jackknife", jackknife)
    if scatter is not None:
        check_boolean("scatter", scatter)
    check_choice("global_mean", global_mean, ("class", "sample"))
    check_choice("pooling", pooling, ("mean", "flatten"))
    if weighting is not None:
        check_choice("weighting", weighting, ("balanced", "samples"))
    if outsiders is not None:
        check_loader("outsiders", outsiders)
    if layers is not None:
        check_layers(layers)
    return {
        "normalize": normalize,
        "global_mean": global_mean,
        "weighting": weighting,
        "scatter": scatter,
        "outsiders": outsiders,
        "layers": layers,
        "pooling": pooling,
        "jackknife": jackknife,
    }


def logged(measurement: Measurement, path: str, keys: Sequence[str] | None) -> dict[str, float]:
    """Metrics and accuracy under `path`, and what the layers have; those of the keys, or all.

    Ends of intervals are under `path/key_low` and `path/key_high`. A layer's metrics are under
    `path/layers/name/key`, and the law that they follow under `path/layers/rho` and
    `path/layers/r_squared`. Undefined ones are left out.
    """
    values = dict(measurement.metrics)
    if measurement.accuracy is not None:
        values["accuracy"] = measurement.accuracy
    found = _defined(values, path, keys)
    for key, interval in measurement.intervals.items():
        if f"{path}/{key}" in found:
            found |= {f"{path}/{key}_low": interval.low, f"{path}/{key}_high": interval.high}
    if measurement.depth is None:
        return found
    for layer in measurement.depth.layers:
        found |= _defined(layer.metrics, f"{path}/layers/{layer.name}", keys)
    law = measurement.depth.law
    if law is not None:
        found |= _defined({"rho": law.rho, "r_squared": law.r_squared}, f"{path}/layers", None)
    return found


def _defined(
    values: Mapping[str, float], path: str, keys: Sequence[str] | None
) -> dict[str, float]:
    return {
        f"{path}/{key}": value
        for key, value in values.items()
        if math.isfinite(value) and (keys is None or key in keys)
    }


def warn_of_rounding(measurement: Measurement, path: str) -> bool:
    """Whether rounding made part of the collapse; the first of several processes warns of it."""
    cautions = [note for note in measurement.notes if ROUNDING_MAKES_IT in note]
    if cautions and own_rank() == 0:
        warnings.warn(f"{path}: {cautions[0]}", UserWarning, stacklevel=2)
    return bool(cautions)
