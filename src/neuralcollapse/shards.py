"""Features in many files: read one at a time, merged, and measured as if they were one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuralcollapse.checks import (
    as_tensor,
    check_finite,
    check_label_range,
    check_labels,
    check_matrix,
    check_vector,
    classes_in,
)
from neuralcollapse.feature_files import check_distinct, named, read_features
from neuralcollapse.feature_files import shard_files as shard_files
from neuralcollapse.jackknife import Interval, jackknife_intervals
from neuralcollapse.measurement import Measurement, conclude
from neuralcollapse.measuring import wants_scatter
from neuralcollapse.metrics.variability import Weighting
from neuralcollapse.second_look import Look, SecondLook
from neuralcollapse.sphere import directions
from neuralcollapse.statistics import ClassStatistics, GlobalMean, StatisticsAccumulator

# Enough for an interval, few enough to keep.
_MOST_PARTS = 20
# With fewer files, the samples of each are dealt to the parts instead.
_LEAST_FILES = 10
_BY_ROW = "one per row of weight"


@dataclass(frozen=True)
class ShardMeasurement:
    """What was measured over files.

    Attributes:
        measurement: of all samples of the files that were read.
        files: that were read.
        skipped: reason by file, for those that were left out.
        intervals: by key of the metric; empty without the jackknife.
    """

    measurement: Measurement
    files: tuple[Path, ...]
    skipped: dict[Path, str]
    intervals: dict[str, Interval] = field(default_factory=dict)


def measure_shards(
    files: Sequence[str | Path],
    weight: Any = None,
    bias: Any = None,
    num_classes: int | None = None,
    *,
    normalize: bool = False,
    global_mean: GlobalMean = "class",
    weighting: Weighting | None = None,
    split: str | None = None,
    scatter: bool | None = None,
    skip_bad: bool = False,
    jackknife: bool = False,
) -> ShardMeasurement:
    """Measure features in many files, one in memory at a time.

    Each file is read twice: for the statistics, and, once the class means are known, for accuracy,
    `nc4_disagreement` and `hug_intra`. A file's statistics count whole or not at all.

    Args:
        files: .npz, .safetensors or .parquet files with `features` (N, d) and `labels` (N,). One
            may hold `weight` (K, d) and `bias` (K,); where several do, they must be equal.
        weight: (K, d), the classifier, instead of the files'.
        bias: (K,), its bias, or None.
        num_classes: K; by default the rows of `weight`, or the largest label plus one.
        normalize: scale every feature to unit length first.
        global_mean: "class" (mean of class means) or "sample" (mean of all samples).
        weighting: of the covariances, "balanced", "samples" or None; see `nc1`.
        split: what the data is, for the record, e.g. "train".
        scatter: accumulate the (d, d) scatter; without it `nc1` takes a second look at the files,
            in the K-1 directions of the class means, without any (d, d) array. By default up to
            a width of 5792.
        skip_bad: leave out files that cannot be read or do not fit, and say which and why;
            otherwise the first one is an error.
        jackknife: also find intervals, from up to 20 parts of the data: the files, or where these
            are fewer than 10, samples of each file dealt in turns. Those of accuracy,
            `nc4_disagreement` and `hug_intra` hold the class means at those of all data, which far
            from collapse makes them too narrow; `cdnv_directional`, and `nc1` in a second look,
            have none.

    Raises:
        ValueError: if a file cannot be read or does not fit (it is named), one is given twice, or
            no sample is left.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import save_file
        >>> folder, labels = tempfile.mkdtemp(), torch.arange(8) % 2
        >>> for j in range(3):
        ...     shard = {"features": torch.randn(8, 4) + labels[:, None], "labels": labels}
        ...     save_file(shard, f"{folder}/{j}.safetensors")
        >>> measure_shards(shard_files([f"{folder}/*.safetensors"])).measurement.counts
        (12, 12)
    """
    reader = ShardReader.of(weight, bias, num_classes, normalize, scatter)
    paths = check_distinct(files)
    kept: list[Path] = []
    skipped: dict[Path, str] = {}
    parts: list[ClassStatistics] = []
    deal = deals(len(paths), jackknife)
    for path in paths:
        try:
            own = reader.statistics(path, deal)
        except (ValueError, TypeError) as error:
            if not skip_bad:
                raise named(path, error) from None
            skipped[path] = str(named(path, error))
            continue
        for number, part in enumerate(own):
            _add(parts, number if deal > 1 else part_of(len(kept), jackknife), part)
        kept.append(path)

    def look(seen: SecondLook) -> list[list[Tensor]]:
        totals: list[list[Tensor]] = []
        for number, path in enumerate(kept):
            features, labels = reader.samples(path)
            for place in range(deal):
                seen.update(features[place::deal], labels[place::deal])
                own = place if deal > 1 else part_of(number, jackknife)
                add_totals(totals, own, seen.take())
        return totals

    return concluded(
        reader,
        parts,
        kept,
        skipped,
        look,
        global_mean=global_mean,
        weighting=weighting,
        split=split,
        jackknife=jackknife,
    )


def deals(num_files: int, jackknife: bool) -> int:
    """To how many parts the samples of each file are dealt: 1 where files are parts."""
    return _MOST_PARTS if jackknife and num_files < _LEAST_FILES else 1


def part_of(number: int, jackknife: bool) -> int:
    """The part that a file belongs to, by its number among those that are read."""
    return number % _MOST_PARTS if jackknife else 0


def concluded(
    reader: "ShardReader",
    parts: Sequence[ClassStatistics],
    kept: Sequence[Path],
    skipped: dict[Path, str],
    look: Callable[[SecondLook], list[list[Tensor]]],
    *,
    global_mean: GlobalMean,
    weighting: Weighting | None = None,
    split: str | None,
    jackknife: bool,
) -> ShardMeasurement:
    """The measurement of the statistics of parts, with a second look at the files.

    The latter gives its totals by part.
    """
    if not kept or not any(part.num_samples for part in parts):
        reasons = "; ".join(skipped.values())
        raise ValueError(
            "files must hold at least one sample, got none" + (f": {reasons}" if reasons else "")
        )
    statistics = merged(parts)
    reader.check_classifier(statistics)
    seen = reader.second_look(statistics, global_mean, weighting)
    totals = look(seen)
    found = _without(seen, totals, None)
    measurement = conclude(
        statistics,
        reader.weight,
        reader.bias,
        found,
        normalize=reader.normalize,
        global_mean=global_mean,
        weighting=weighting,
        split=split,
        layer=None,
        dtype=reader.dtype,
    )
    intervals = {}
    if jackknife:
        wide = [_padded(part, statistics.num_classes) for part in parts]
        looks = [found, *(_without(seen, totals, place) for place in range(len(totals)))]
        intervals = jackknife_intervals(
            wide,
            reader.weight,
            known=_known(looks),
            global_mean=global_mean,
            weighting=weighting,
        )
    return ShardMeasurement(measurement, tuple(kept), skipped, intervals)


def add_totals(parts: list[list[Tensor]], number: int, totals: list[Tensor]) -> None:
    """Add the totals of some samples to those of their part, the next new one included."""
    if number == len(parts):
        parts.append(totals)
    else:
        for part, own in zip(parts[number], totals, strict=True):
            part += own


def _without(seen: SecondLook, totals: Sequence[list[Tensor]], place: int | None) -> Look:
    """The look at all parts but one, or at all."""
    seen.take()
    for number, own in enumerate(totals):
        if number != place:
            seen.add(own)
    return seen.result()


def _known(looks: Sequence[Look]) -> dict[str, list[float]]:
    """By key, the values of looks whose error is that of the samples and not of the class means."""
    found = {
        key: [look.known.get(key, math.nan) for look in looks]
        for key in ("nc4_disagreement", "hug_intra")
    }
    found["accuracy"] = [math.nan if look.accuracy is None else look.accuracy for look in looks]
    return {
        key: [float(value) for value in values]
        for key, values in found.items()
        if not any(isinstance(value, str) for value in values)
    }


class ShardReader:
    """What the files have in common: their width, and a classifier that one of them may hold."""

    def __init__(
        self,
        weight: Tensor | None,
        bias: Tensor | None,
        num_classes: int | None,
        normalize: bool,
        scatter: bool | None,
    ):
        self.weight, self.bias = weight, bias
        self.given = weight is not None
        self._num_classes, self.normalize = num_classes, normalize
        self._scatter = scatter
        self.dtype: torch.dtype | None = None  # the coarsest of the features'
        self.dim = None if weight is None else weight.shape[-1]

    @staticmethod
    def of(
        weight: Any, bias: Any, num_classes: int | None, normalize: bool, scatter: bool | None
    ) -> "ShardReader":
        """For a classifier as a user gives it."""
        if weight is not None:
            weight = check_matrix("weight", as_tensor("weight", weight), rows=num_classes)
            check_finite("weight", weight)
        if bias is not None:
            if weight is None:
                raise ValueError("bias must come with a weight, got a bias alone; pass weight too")
            bias = check_vector("bias", as_tensor("bias", bias), len(weight), _BY_ROW)
            check_finite("bias", bias)
        return ShardReader(weight, bias, num_classes, normalize, scatter)

    def join(self, other: "ShardReader", num_classes: int) -> None:
        """Take over what another reader has found in a file; an error if it does not fit to this.

        The file's statistics hold `num_classes` classes.
        """
        if None not in (self.dim, other.dim) and self.dim != other.dim:
            raise ValueError(
                f"features must have {self.dim} columns (as in the files before), got {other.dim}"
            )
        weight, bias = self.weight, self.bias
        if not self.given and other.weight is not None:
            self._check_same(other.weight, other.bias)
            weight, bias = other.weight, other.bias
        if weight is not None and self._num_classes is None and num_classes > len(weight):
            raise ValueError(
                f"labels must lie in [0, {len(weight)}), the rows of weight, got {num_classes - 1}"
            )
        self.dim, self.weight, self.bias = other.dim, weight, bias
        self._coarsen(other.dtype)

    def statistics(self, path: Path, deal: int) -> list[ClassStatistics]:
        """Those of a file's samples, dealt in turns to so many parts."""
        arrays = read_features(path)
        features, labels = self._samples(arrays)
        weight, bias = (self._classifier_of(arrays)) if not self.given else (None, None)
        num_classes = self._num_classes or (None if self.weight is None else len(self.weight))
        if num_classes is None and weight is not None:
            num_classes = len(weight)
        if num_classes is None:
            num_classes = classes_in(labels)
        else:
            check_label_range(labels, num_classes)
        shown = directions(features) if self.normalize else features
        parts = []
        for number in range(deal):
            dim = features.shape[1]
            accumulator = StatisticsAccumulator(
                num_classes or 1, dim, scatter=wants_scatter(self._scatter, dim)
            )
            accumulator.update(shown[number::deal], labels[number::deal])
            parts.append(accumulator.result())
        # Only now that all of the file is known to be good.
        self._coarsen(features.dtype)
        self.dim = features.shape[1]
        if weight is not None:
            self.weight, self.bias = weight, bias
        return parts

    def samples(self, path: Path) -> tuple[Tensor, Tensor]:
        """Features (N, d) and labels (N,) of a file."""
        return self._samples(read_features(path))

    def second_look(
        self, statistics: ClassStatistics, global_mean: GlobalMean, weighting: Weighting | None
    ) -> SecondLook:
        """What is to be seen of the files' features once their statistics are known."""
        return SecondLook(
            statistics,
            self.weight,
            self.bias,
            normalize=self.normalize,
            global_mean=global_mean,
            weighting=weighting,
        )

    def check_classifier(self, statistics: ClassStatistics) -> None:
        """The classifier must have a row for every class."""
        if self.weight is not None:
            rows, why = statistics.num_classes, "num_classes and the width of the features"
            check_matrix("weight", self.weight, rows=rows, columns=statistics.dim, why=why)
            check_finite("weight", self.weight)
        if self.bias is not None:
            if self.weight is None:
                raise ValueError("bias must come with a weight, got a bias alone; pass weight too")
            check_vector("bias", self.bias, len(self.weight), _BY_ROW)
            check_finite("bias", self.bias)

    def _samples(self, arrays: dict[str, Any]) -> tuple[Tensor, Tensor]:
        features = check_matrix(
            "features",
            as_tensor("features", arrays["features"]),
            columns=self.dim,
            why="as weight has" if self.given else "as in the files before",
        )
        return features, check_labels(as_tensor("labels", arrays["labels"]), len(features))

    def _classifier_of(self, arrays: dict[str, Any]) -> tuple[Tensor | None, Tensor | None]:
        if "weight" not in arrays:
            if "bias" in arrays:
                raise ValueError("bias must come with a weight, got a bias alone; add the weight")
            return None, None
        weight = as_tensor("weight", arrays["weight"])
        bias = as_tensor("bias", arrays["bias"]) if "bias" in arrays else None
        self._check_same(weight, bias)
        return weight, bias

    def _check_same(self, weight: Tensor, bias: Tensor | None) -> None:
        if self.weight is not None and not (
            torch.equal(self.weight, weight)
            and (self.bias is None) == (bias is None)
            and (bias is None or torch.equal(bias, self.bias))  # pyright: ignore[reportArgumentType]
        ):
            raise ValueError(
                "weight and bias must be those of the files before, got others; give the "
                "classifier apart from the files"
            )

    def _coarsen(self, dtype: torch.dtype | None) -> None:
        if dtype is None:
            return
        if self.dtype is None or torch.finfo(dtype).eps > torch.finfo(self.dtype).eps:
            self.dtype = dtype


def _add(parts: list[ClassStatistics], number: int, statistics: ClassStatistics) -> None:
    """Merge statistics into a part, the next new one included."""
    if number == len(parts):
        parts.append(statistics)
    else:
        parts[number] = merged([parts[number], statistics])


def merged(parts: Sequence[ClassStatistics]) -> ClassStatistics:
    """All of them together, with as many classes as the one that has most."""
    most = max(part.num_classes for part in parts)
    whole = _padded(parts[0], most)
    for part in parts[1:]:
        whole = whole.merge(_padded(part, most))
    return whole


def _padded(statistics: ClassStatistics, num_classes: int) -> ClassStatistics:
    """The same with classes never seen behind."""
    more = num_classes - statistics.num_classes
    if not more:
        return statistics
    missing = statistics.means.new_full((more, statistics.dim), torch.nan)
    return ClassStatistics(
        torch.cat([statistics.counts, statistics.counts.new_zeros(more)]),
        torch.cat([statistics.means, missing]),
        torch.cat([statistics.spread, statistics.spread.new_zeros(more)]),
        statistics.scatter,
    )
