"""Features in many files: read one at a time, merged, and measured as if they were one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from neuralcollapse.dealing import (
    MOST_PARTS,
    PartsAccumulator,
    first_part,
    merged,
    padded,
    wants_scatter,
)
from neuralcollapse.feature_files import check_distinct, named, read_features
from neuralcollapse.feature_files import shard_files as shard_files
from neuralcollapse.jackknife import Interval
from neuralcollapse.measurement import Measurement, conclude
from neuralcollapse.metrics.variability import Weighting
from neuralcollapse.scalars import check_booleans
from neuralcollapse.second_look import SecondLook, look_at_parts, orthogonality, totals_by_part
from neuralcollapse.sphere import directions
from neuralcollapse.statistics import ClassStatistics, GlobalMean, StatisticsAccumulator

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
    """

    measurement: Measurement
    files: tuple[Path, ...]
    skipped: dict[Path, str]

    @property
    def intervals(self) -> dict[str, Interval]:
        """Those of the measurement, by key; empty without the jackknife."""
        return self.measurement.intervals


def measure_shards(
    files: Sequence[str | Path],
    weight: Any = None,
    bias: Any = None,
    num_classes: int | None = None,
    *,
    normalize: bool = False,
    global_mean: GlobalMean = "class",
    weighting: Weighting | None = None,
    outsiders: Any = None,
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
        outsiders: (M, d), features of samples that belong to none of the classes, for
            `nc5_orthogonality`.
        split: what the data is, for the record, e.g. "train".
        scatter: accumulate the (d, d) scatter; without it `nc1` takes a second look at the files,
            in the K-1 directions of the class means, without any (d, d) array. By default up to
            a width of 5792.
        skip_bad: leave out files that cannot be read or do not fit, and say which and why;
            otherwise the first one is an error.
        jackknife: also find intervals, from up to 20 parts of the data: the files, or where these
            are fewer than 10, samples of each file, dealt in turns by class. What is said of those
            of `measure` holds of these.

    Raises:
        ValueError: if a file cannot be read or does not fit (it is named), one is given twice,
            outsiders are not finite or of another width, or no sample is left.

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
    check_booleans(skip_bad=skip_bad, jackknife=jackknife)
    reader = ShardReader.of(weight, bias, num_classes, normalize, scatter)
    paths = check_distinct(files)
    kept: list[Path] = []
    skipped: dict[Path, str] = {}
    parts: list[ClassStatistics] = []
    deal = deals(paths, jackknife)
    for path in paths:
        try:
            own = reader.statistics(path, deal.get(path))
        except (ValueError, TypeError) as error:
            if not skip_bad:
                raise named(path, error) from None
            skipped[path] = str(named(path, error))
            continue
        for number, part in enumerate(own):
            _add(parts, number if deal else part_of(len(kept), jackknife), part)
        kept.append(path)

    def look(seen: SecondLook) -> list[list[Tensor]]:
        totals: list[list[Tensor]] = []
        for number, path in enumerate(kept):
            part = part_of(number, jackknife)
            for place, own in enumerate(reader.look(seen, path, deal.get(path), part)):
                add_totals(totals, place if deal else part, own)
        return totals

    return concluded(
        reader,
        parts,
        kept,
        skipped,
        look,
        global_mean=global_mean,
        weighting=weighting,
        outsiders=outsiders,
        split=split,
        jackknife=jackknife,
    )


def deals(files: Sequence[Path], jackknife: bool) -> dict[Path, int]:
    """The part with which the dealing of each file's samples begins; none where files are parts."""
    if not jackknife or len(files) >= _LEAST_FILES:
        return {}
    return {file: first_part(number, len(files)) for number, file in enumerate(files)}


def part_of(number: int, jackknife: bool) -> int:
    """The part that a file belongs to, by its number among those that are read."""
    return number % MOST_PARTS if jackknife else 0


def concluded(
    reader: "ShardReader",
    parts: Sequence[ClassStatistics],
    kept: Sequence[Path],
    skipped: dict[Path, str],
    look: Callable[[SecondLook], list[list[Tensor]]],
    *,
    global_mean: GlobalMean,
    weighting: Weighting | None = None,
    outsiders: Any = None,
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
    if outsiders is not None:
        outsiders = reader.outsiders(outsiders)
    cut = [padded(part, statistics.num_classes) for part in parts] if jackknife else []
    seen = reader.second_look(statistics, cut, global_mean, weighting)
    found = look_at_parts(seen, look(seen))
    if outsiders is not None:
        nc5 = orthogonality(statistics, outsiders)
        found = replace(found, known=found.known | {"nc5_orthogonality": nc5})
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
        parts=cut,
        outsiders=outsiders,
    )
    return ShardMeasurement(measurement, tuple(kept), skipped)


def add_totals(parts: list[list[Tensor]], number: int, totals: list[Tensor]) -> None:
    """Add the totals of some samples to those of their part, the next new one included."""
    if number == len(parts):
        parts.append(totals)
    else:
        for part, own in zip(parts[number], totals, strict=True):
            part += own


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
        check_booleans(normalize=normalize)
        if scatter is not None:
            check_booleans(scatter=scatter)
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

    def statistics(self, path: Path, first: int | None) -> list[ClassStatistics]:
        """Those of a file's samples, by part where they are dealt, beginning with a first one."""
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
        dim = features.shape[1]
        scatter = wants_scatter(self._scatter, dim)
        if first is None:
            accumulator = StatisticsAccumulator(num_classes or 1, dim, scatter=scatter)
            accumulator.update(shown, labels)
            parts = [accumulator.result()]
        else:
            dealt = PartsAccumulator(num_classes or 1, dim, scatter=scatter, first=first)
            dealt.update(shown, labels)
            parts = dealt.result()
        # Only now that all of the file is known to be good.
        self._coarsen(features.dtype)
        self.dim = dim
        if weight is not None:
            self.weight, self.bias = weight, bias
        return parts

    def look(
        self, seen: SecondLook, path: Path, first: int | None, part: int
    ) -> list[list[Tensor]]:
        """The totals of a second look at a file of some part, or by part where it is dealt."""
        features, labels = self._samples(read_features(path))
        if first is not None:
            return totals_by_part(seen, [(features, labels, None)], first)
        seen.update(features, labels, part)
        return [seen.take()]

    def second_look(
        self,
        statistics: ClassStatistics,
        parts: Sequence[ClassStatistics],
        global_mean: GlobalMean,
        weighting: Weighting | None,
    ) -> SecondLook:
        """What is to be seen of the files' features once their statistics are known."""
        return SecondLook(
            statistics,
            self.weight,
            self.bias,
            normalize=self.normalize,
            global_mean=global_mean,
            weighting=weighting,
            parts=parts,
        )

    def outsiders(self, given: Any) -> Tensor:
        """(M, d), features of samples of no class, shown as those of the files are."""
        features = check_matrix(
            "outsiders",
            as_tensor("outsiders", given),
            columns=self.dim,
            why="the width of the features",
        ).detach()
        check_finite("outsiders", features)
        return directions(features) if self.normalize else features

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
