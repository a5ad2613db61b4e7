"""How often a classifier and the nearest class mean disagree, without each part of the data."""

import torch
from torch import Tensor

from neuralcollapse.precision import FullPrecision
from neuralcollapse.rests import Rests
from neuralcollapse.statistics import ClassStatistics

# Distances per block: 2^20 floats are 4 MiB.
_BLOCK_DISTANCES = 1 << 20
# Samples held back until there are so many bytes of them: every rest's means are made once for all.
_HELD_BYTES = 1 << 26


class RestDecisions:
    """Counts, for each rest of the data, its samples that its own class means decide differently.

    Leaving out a part moves the class means. For most samples no mean can move far enough to be
    nearest in place of another: by the triangle inequality

        norm(h - mu_a) + reach_a < norm(h - mu_k) - reach_k   for all k,

    with reach_k the farthest that the mean of class k moves in any rest. They need no second
    decision. The others, nearly all where class means lie in the noise, are decided anew for each
    rest of which they are part: then in 20 times the time.

    Args:
        statistics: of all the data.
        rests: of the same.
    """

    def __init__(self, statistics: ClassStatistics, rests: Rests):
        seen = statistics.seen
        self._rests, self._classes = rests, seen.nonzero().squeeze(1)
        self._place = (seen.cumsum(0) - 1).clamp(min=0)  # of a class among those seen
        self._centre = statistics.global_mean()
        self._means = statistics.seen_means - self._centre
        reach, self.num_seen = rests.reach()
        """By rest, the number of its classes."""
        self._reach = reach[seen]
        self._held: list[tuple[Tensor, Tensor, Tensor]] = []
        self._held_bytes = 0
        self._differing = torch.zeros(len(rests), dtype=torch.int64, device=seen.device)

    @property
    def totals(self) -> Tensor:
        """(J,), by rest: how many of its samples are decided differently; they add up."""
        self._decide_held()
        return self._differing

    @torch.no_grad()
    def update(self, features: Tensor, chosen: Tensor, nearest: Tensor, part: int) -> None:
        """Add samples of one part.

        Args:
            features: (N, d), as the means are.
            chosen: (N,), the classes that the classifier chooses.
            nearest: (N,), those whose means are nearest in all the data.
            part: their part.
        """
        rows = self._rows(features)
        columns = (one.split(rows) for one in (features, chosen, nearest))
        for block, choices, own in zip(*columns, strict=True):
            unsettled = self._may_change(block, own)
            settled = ((choices != own) & ~unsettled).sum()
            self._differing += settled
            self._differing[part] -= settled
            left = unsettled.nonzero().squeeze(1)
            if len(left):
                self._held.append((block[left], choices[left], torch.full_like(left, part)))
                self._held_bytes += self._held[-1][0].nbytes
        if self._held_bytes >= _HELD_BYTES:
            self._decide_held()

    def _rows(self, features: Tensor) -> int:
        return max(1, _BLOCK_DISTANCES // max(1, len(self._means), features.shape[1]))

    def _may_change(self, block: Tensor, nearest: Tensor) -> Tensor:
        """(B,), whether another class may be nearest in some rest."""
        dtype = torch.promote_types(block.dtype, torch.float32)
        means = self._means.to(dtype)
        moved = block.to(dtype) - self._centre.to(dtype)
        sizes, lengths = moved.square().sum(1, keepdim=True), means.square().sum(1)
        with FullPrecision(block.device.type):
            squares = sizes + lengths - 2 * moved @ means.T
        # Of a product of d terms and a few more operations, in the worst case.
        rounding = (block.shape[1] + 8) * torch.finfo(dtype).eps * (sizes + lengths)
        own = self._place[nearest][:, None]
        reach = self._reach.to(dtype)
        farthest = (squares + rounding).gather(1, own).clamp(min=0).sqrt().squeeze(1)
        farthest += reach[own.squeeze(1)]
        nearest_other = (squares - rounding).clamp(min=0).sqrt() - reach
        nearest_other.scatter_(1, own, torch.inf)
        # Not the contrary: what is not a number is not settled.
        return ~(farthest < nearest_other.amin(1))

    def _decide_held(self) -> None:
        if not self._held:
            return
        features, chosen, parts = (torch.cat(columns) for columns in zip(*self._held, strict=True))
        self._held, self._held_bytes = [], 0
        dtype = torch.promote_types(features.dtype, torch.float32)
        for number in range(len(self._rests)):
            # As of `NearestMean`: relative to a centre that is rounded first.
            centre = self._centre.to(dtype)
            rest = self._rests.without(number)
            means = (rest.means - centre)[self._classes]
            half_squares = (means.square().sum(1) / 2).nan_to_num(torch.inf).to(dtype)
            means = means.nan_to_num(0.0).to(dtype)
            rows = (parts != number).nonzero().squeeze(1)
            for own in rows.split(self._rows(features)):
                with FullPrecision(features.device.type):
                    scores = ((features[own].to(dtype) - centre) @ means.T).sub_(half_squares)
                nearest = self._classes[scores.argmax(1)]
                self._differing[number] += (nearest != chosen[own]).sum()
