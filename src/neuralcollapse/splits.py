"""Collapse of training against test samples, by class and by group, and of wrong labels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuralcollapse.checks import (
    check_finite,
    check_label_range,
    check_labels,
    check_matrix,
    classes_in,
)
from neuralcollapse.statistics import ClassStatistics, check_statistics

# Rows of a sweep over pairs of classes: (1024, K) at a time.
_BLOCK = 1024
# Training samples per class above which a class is called head, and up to which it is called tail.
MANY, FEW = 100, 20


@dataclass(frozen=True, eq=False)
class ClassCollapse:
    """Collapse of each class; classes never seen are nan.

    Attributes:
        counts: (K,), samples.
        cdnv: (K,), mean over the other classes j of (v_k + v_j) / (2 norm(mu_k - mu_j)^2), whose
            mean over the classes seen is `cdnv`; 0 at collapse.
        spread: (K,), v_k over the mean squared distance of the class means to their mean; 0 at
            collapse. Their mean is `nc1_trace_ratio` with balanced weighting.
        length: (K,), distance of the class mean to the mean of the class means, over the root of
            the mean square of these; 1 at collapse.
        nearest: (K,), distance to the nearest other class mean, over the same.
    """

    counts: Tensor
    cdnv: Tensor
    spread: Tensor
    length: Tensor
    nearest: Tensor

    def rows(self) -> dict[str, Tensor]:
        """The four columns by name."""
        return {
            "cdnv": self.cdnv,
            "spread": self.spread,
            "length": self.length,
            "nearest": self.nearest,
        }


def class_collapse(statistics: ClassStatistics) -> ClassCollapse:
    """Collapse of each class by itself. Needs no scatter, and no K x K array.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 1.0], [-3.0, -1.0]])
        >>> statistics = ClassStatistics.from_features(features, torch.tensor([0, 0, 1, 1]), 2)
        >>> found = class_collapse(statistics)
        >>> found.cdnv.tolist(), found.spread.tolist()
        ([0.09375, 0.09375], [0.25, 0.5])
    """
    means = check_statistics(statistics).centred_means().double()
    variances = statistics.variances.double()
    size = means.square().sum(1).mean()
    cdnv, nearest = means.new_full((2, len(means)), torch.nan)
    for start in range(0, len(means), _BLOCK):
        rows = slice(start, start + _BLOCK)
        squared = torch.cdist(
            means[rows], means, compute_mode="donot_use_mm_for_euclid_dist"
        ).square()
        own = torch.arange(start, start + len(squared), device=means.device)[:, None]
        ratios = (variances[rows, None] + variances) / (2 * squared)
        cdnv[rows] = ratios.scatter(1, own, 0.0).sum(1) / (len(means) - 1)
        nearest[rows] = squared.scatter(1, own, torch.inf).amin(1).sqrt()
    if len(means) < 2:
        nearest = torch.full_like(nearest, torch.nan)

    def spread_out(values: Tensor) -> Tensor:
        full = values.new_full((statistics.num_classes,), torch.nan)
        full[statistics.seen] = values
        return full

    return ClassCollapse(
        counts=statistics.counts,
        cdnv=spread_out(cdnv),
        spread=spread_out(variances / size),
        length=spread_out(means.norm(dim=1) / size.sqrt()),
        nearest=spread_out(nearest / size.sqrt()),
    )


def class_groups(counts: Tensor, many: int = MANY, few: int = FEW) -> dict[str, Tensor]:
    """Masks (K,) of the head, medium and tail classes by their training samples.

    Head has more than `many`, tail `few` or less and at least one. The usual numbers on long-tailed
    data are 100 and 20 (Liu et al. 2019); tools differ on classes of exactly as many.

    Example:
        >>> class_groups(torch.tensor([500, 50, 5, 0]))["tail"].tolist()
        [False, False, True, False]
    """
    counts = torch.as_tensor(counts)
    if not 0 < few <= many:
        raise ValueError(f"few must be above 0 and at most many, got few={few} and many={many}")
    return {
        "head": counts > many,
        "medium": (counts <= many) & (counts > few),
        "tail": (counts <= few) & (counts > 0),
    }


@dataclass(frozen=True, eq=False)
class SplitComparison:
    """Training and test samples side by side.

    Attributes:
        train: collapse of each class on the training samples.
        test: the same on test samples around their own class means.
        transfer: (K,), mean squared distance of the test samples of a class to the *training*
            mean, in the units of `train.spread`. It is the test samples' own spread and the shift
            of the mean together: near `train.spread` where collapse carries over.
        shift: (K,), squared distance between a class's test and training mean, in the same units.
        groups: masks (K,) by name.
    """

    train: ClassCollapse
    test: ClassCollapse
    transfer: Tensor
    shift: Tensor
    groups: dict[str, Tensor]

    def columns(self) -> dict[str, Tensor]:
        """Every number by class, (K,) each, by name."""
        return {
            **{f"train_{name}": values for name, values in self.train.rows().items()},
            **{f"test_{name}": values for name, values in self.test.rows().items()},
            "transfer": self.transfer,
            "shift": self.shift,
        }

    def by_group(self) -> dict[str, dict[str, float]]:
        """Mean over the classes of each group, and of all, that have the number; else nan."""
        everything = {"all": torch.ones_like(self.train.counts, dtype=torch.bool), **self.groups}
        return {
            group: {name: float(values[mask].nanmean()) for name, values in self.columns().items()}
            for group, mask in everything.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an undefined number is None."""
        return {
            "train_counts": self.train.counts.tolist(),
            "test_counts": self.test.counts.tolist(),
            "groups": {
                name: mask.nonzero().flatten().tolist() for name, mask in self.groups.items()
            },
            "by_group": {g: _plain(values) for g, values in self.by_group().items()},
            "by_class": {
                name: [v if math.isfinite(v) else None for v in values.tolist()]
                for name, values in self.columns().items()
            },
        }

    def __str__(self) -> str:
        """A table by group."""
        found = self.by_group()
        lines = [f"{'mean over classes':<20}" + "".join(f" {group:>12}" for group in found)]
        sizes = [len(self.train.counts), *(int(mask.sum()) for mask in self.groups.values())]
        lines.append(f"{'classes':<20}" + "".join(f" {size:>12}" for size in sizes))
        for name in self.columns():
            values = (found[group][name] for group in found)
            shown = (f" {v:>12.6g}" if math.isfinite(v) else f" {'-':>12}" for v in values)
            lines.append(f"{name:<20}" + "".join(shown))
        return "\n".join(lines)


def compare_splits(
    train: ClassStatistics, test: ClassStatistics, *, many: int = MANY, few: int = FEW
) -> SplitComparison:
    """Does the collapse of training samples carry over to test samples, and for which classes?

    Args:
        train: of the training samples.
        test: of samples that were not trained on, of the same classes and width.
        many: training samples above which a class is head.
        few: training samples up to which it is tail.

    Raises:
        ValueError: if classes or widths differ, one has no sample, or few and many do not fit
            together.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> labels = torch.arange(300) % 3
        >>> features = torch.eye(3, 8)[labels] + 0.1 * torch.randn(300, 8, generator=generator)
        >>> parts = features[:150], features[150:]
        >>> both = [ClassStatistics.from_features(p, labels[:150], 3) for p in parts]
        >>> comparison = compare_splits(*both)
        >>> comparison.groups["medium"].tolist(), bool((comparison.shift < 0.01).all())
        ([True, True, True], True)
    """
    for name, statistics in (("train", train), ("test", test)):
        check_statistics(statistics, name)
    if train.means.shape != test.means.shape:
        raise ValueError(
            "train and test must have equal (num_classes, dim), got "
            f"{tuple(train.means.shape)} and {tuple(test.means.shape)}"
        )
    for name, statistics in (("train", train), ("test", test)):
        if not statistics.num_samples:
            raise ValueError(f"{name} must hold at least one sample, got none")
    groups = class_groups(train.counts, many, few)
    size = train.centred_means().double().square().sum(1).mean()
    # Rows of classes that one of them has never seen are nan, and stay so.
    gap = test.means.double().to(train.means.device) - train.means.double()
    shift = gap.square().sum(1) / size
    spread = (test.spread.double() / test.counts).to(size.device) / size
    return SplitComparison(
        class_collapse(train), class_collapse(test), spread + shift, shift, groups
    )


@dataclass(frozen=True)
class WrongLabels:
    """Where samples lie that were trained with a wrong label.

    Attributes:
        samples: number of them.
        share: of all samples.
        position: mean place between the mean of the true class (0) and that of the label (1), along
            the line through both; near 1 where the wrong labels have been memorised.
        memorised: share that lies nearer to the mean of its label than to that of its true class.
        spread_ratio: mean squared distance to the mean of their label, over that of the right
            labels; 1 where wrong labels have collapsed as far as right ones.
    """

    samples: int
    share: float
    position: float
    memorised: float
    spread_ratio: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an undefined number is None."""
        return _plain(vars(self))

    def __str__(self) -> str:
        """All of them in a line."""
        told = ", ".join(f"{name} {value:.6g}" for name, value in vars(self).items())
        if not self.samples:
            return "none"
        if math.isnan(self.position):
            return f"{told} (no right label in their classes to compare with)"
        return told


def wrong_label_collapse(features: Tensor, labels: Tensor, true_labels: Tensor) -> WrongLabels:
    """Have samples with wrong labels collapsed to their label, or stayed with their true class?

    Means are those of the samples with right labels, so that wrong ones do not pull at them. A
    sample whose label or true class has no sample with a right label is left out of all but the
    counts.

    Args:
        features: (N, d).
        labels: (N,), as trained with.
        true_labels: (N,), as they should have been.

    Raises:
        ValueError: if shapes do not fit or a label is negative.

    Example:
        >>> features = torch.tensor([[0.0], [0.2], [4.0], [4.2], [4.1]])
        >>> given, true = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 1, 0])
        >>> found = wrong_label_collapse(features, given, true)
        >>> found.samples, round(found.position, 3), found.memorised
        (1, 1.0, 1.0)
    """
    check_matrix("features", features)
    check_finite("features", features)
    labels = check_labels(labels, len(features))
    true_labels = check_labels(true_labels, len(features), "true_labels")
    if not len(features):
        raise ValueError("features must hold at least one sample, got none")
    classes = classes_in(torch.cat([labels, true_labels]))
    check_label_range(labels, classes)
    check_label_range(true_labels, classes, "true_labels")
    wrong = labels != true_labels
    right = ~wrong
    statistics = ClassStatistics.from_features(
        features[right], labels[right], classes, scatter=False
    )
    means = statistics.means.double()
    number = int(wrong.sum())
    usable = wrong & statistics.seen[labels] & statistics.seen[true_labels]
    chosen, given, true = features[usable].double(), labels[usable], true_labels[usable]
    line = means[given] - means[true]
    along = ((chosen - means[true]) * line).sum(1) / line.square().sum(1)
    to_label = (chosen - means[given]).square().sum(1)
    to_true = (chosen - means[true]).square().sum(1)
    clean = statistics.spread.double().sum() / max(1, statistics.num_samples)
    return WrongLabels(
        samples=number,
        share=number / len(features),
        position=float(along.mean()),
        memorised=float((to_label < to_true).double().mean()),
        spread_ratio=float(to_label.mean() / clean),
    )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def thresholds(text: str) -> tuple[int, int]:
    """(many, few) of a text such as "100,20"."""
    parts: Sequence[str] = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"groups must be two whole numbers such as {MANY},{FEW}, got {text!r}")
    many, few = int(parts[0]), int(parts[1])
    if not 0 < few <= many:
        raise ValueError(
            f"groups must be two numbers above 0, the first not below the second, got {text!r}"
        )
    return many, few
