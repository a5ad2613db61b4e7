"""All of the data but one part, for each part in turn: counts and class means."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from neuralcollapse.statistics import ClassStatistics


class Rests:
    """Counts and class means without each part, made anew from those of the parts when asked for.

    A class of a single sample is never left out, as in `jackknife_intervals`.

    Args:
        parts: of the data, of equal shape.
        whole: all of them merged.

    Example:
        >>> labels = torch.tensor([0, 0, 1])
        >>> features = torch.tensor([[1.0], [3.0], [5.0]])
        >>> parts = [ClassStatistics.from_features(features[j::2], labels[j::2], 2) for j in (0, 1)]
        >>> rests = Rests(parts, parts[0].merge(parts[1]))
        >>> rests.without(1).means.tolist(), rests.without(1).counts.tolist()
        ([[1.0], [5.0]], [1, 1])
    """

    def __init__(self, parts: Sequence[ClassStatistics], whole: ClassStatistics):
        self._parts = [replace(part, scatter=None) for part in parts]
        self._whole = whole

    def __len__(self) -> int:
        """How many parts there are."""
        return len(self._parts)

    def without(self, number: int) -> ClassStatistics:
        """All but one part; without scatter, and with a spread that is not known."""
        whole = self._whole
        counts = whole.counts - self._taken(number)
        shifts = self.shifts(number, torch.arange(len(counts), device=counts.device))
        means = torch.where((counts > 0)[:, None], whole.means + shifts, torch.nan)
        return ClassStatistics(counts, means, torch.full_like(whole.spread, torch.nan))

    def shifts(self, number: int, classes: Tensor) -> Tensor:
        """(C, d), how far some class means move where a part is left out; 0 where it has none."""
        part, whole = self._parts[number], self._whole
        taken = self._taken(number)[classes]
        lever = (taken / (whole.counts[classes] - taken).clamp(min=1)).to(whole.means)
        # From the difference of the means: where they agree, the rest's is the same to the digit.
        home = part.means.device
        gap = whole.means[classes] - part.means[classes.to(home)].to(whole.means)
        return torch.where((taken > 0)[:, None], lever[:, None] * gap, 0.0)

    def _taken(self, number: int) -> Tensor:
        """(K,), how many samples of each class are left out with a part."""
        counts = self._whole.counts
        return torch.where(counts > 1, self._parts[number].counts.to(counts.device), 0)

    def reach(self) -> tuple[Tensor, list[int]]:
        """(K,), how far each class mean moves at most, infinite where a class goes with a part.

        And the number of classes without each part.
        """
        farthest = torch.zeros_like(self._whole.spread)
        classes = []
        for number in range(len(self)):
            rest = self.without(number)
            moved = (rest.means - self._whole.means).norm(dim=1)
            farthest = torch.maximum(farthest, torch.where(rest.seen, moved, torch.inf))
            classes.append(int(rest.seen.sum()))
        return torch.where(self._whole.seen, farthest, 0.0), classes
