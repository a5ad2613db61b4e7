"""The hyperspherical uniformity gap: spread the classes, contract each of them."""

from typing import Any, Literal, final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from neuralcollapse.energy import (
    gaussian_log_determinant,
    pair_energy,
    riesz_energy,
    separation,
)
from neuralcollapse.losses.loss import AbstractLoss
from neuralcollapse.processes import num_processes, sum_over_processes
from neuralcollapse.scalars import check_boolean, check_choice, check_integer, check_number

# Closer proxies coincide; distances below the second enter a power linearly.
_COINCIDENT, _LINEAR_BELOW = 1e-12, 1e-6

UniformityMeasure = Literal["mhe", "mhs", "mgd"]


@final
class HUG(AbstractLoss):
    """Hyperspherical uniformity gap: uniformity between classes up, uniformity within down.

        inter_weight * inter + intra_weight * intra

    of the directions alone: p_k = weight[k] at unit length, the proxy of class k, and x_i the unit
    features. Smaller is better in both terms, and at the optimum of both every feature lies on its
    proxy and the proxies are as uniform as K directions can be.

        measure  inter                                    intra, of the distances r_i = |x_i - p_y|
        "mhe"    mean over k < j of K(|p_k - p_j|)         mean_i of r_i^(-intra_power)
        "mhs"    -min over k < j of |p_k - p_j|            mean_k of max over i in k of r_i
        "mgd"    -log(det(G + jitter I)) / K               mean_i of log((1 - g_i^2) / jitter + 1)

    with the Riesz kernel K(r) = sign(s) r^(-s), s = `inter_power`, and -log(r) for s = 0;
    G[k, j] = exp(-|p_k - p_j|^2) and g_i = exp(-r_i^2 / 4). 1 - g_i^2 is the determinant of a
    feature and its proxy, under a wider kernel, so that the pull reaches features that point away.
    Below a distance of 1e-6 a power is replaced by a line to 0, since one above -1 has no slope
    there. The uniformity measures are the minimum hyperspherical energy, the maximum hyperspherical
    separation and the maximum Gram determinant of Liu et al. 2018 and 2021; the gap is due to Liu
    et al. 2023. Of the three forms, "mhe" has a released implementation, which `HUG.released`
    reproduces; the within-class terms of the other two, the means instead of sums, the jitter and
    the default weights are our choice.

    "mhe" and "mhs" take K d memory. "mgd" holds K x K numbers and is cubic in K: 2 to 3 times the
    step of cross entropy at K = 1000 and width 512, not meant for many more classes. Where `inter`
    is the larger part of a step, `inter_every` thins it out: it is then felt on every n-th call
    in training mode only, n times as strongly, and its last value is shown between.

    `class_balanced` takes every mean over samples as a mean over the classes in the batch of the
    means within each; without it all samples weigh the same, and for "mhs" a class weighs as much
    as it has samples. A class that is absent from the batch takes part in `inter` alone.

    With `detach_proxies` the within-class term moves features only. Then proxies feel nothing but
    each other, so they spread as if there were no data, and which class takes which place is
    decided by where the proxies begin. A `RotatedHead` turns only without it.

    The classifier may be any: learned (`CosineHead`), fixed, rotated, or the class means; a network
    trained so decides by the cosine to the proxies. Class means need `ClassMeanHead` with
    `through_batch`, or nothing spreads the classes. Features of zero length have distance 1, and
    are pulled to their proxy as if they had length 1. There are first derivatives only.

    Args:
        measure: "mhe", "mhs" or "mgd".
        inter_weight: of the term between classes, not negative.
        intra_weight: of the term within classes, not negative.
        inter_power: s of "mhe", above -2.
        intra_power: of "mhe", from -2 (squared distances) to below 0; -1 is the distance itself.
        detach_proxies: no gradient of the within-class term to the classifier.
        class_balanced: classes weigh the same, whatever their share of the batch.
        jitter: of "mgd", above 0; what keeps logarithms finite at collapse. The smaller, the
            narrower and steeper the well around a proxy: about sqrt(2 jitter) wide.
        synchronise: balance over the batches of all processes of torch.distributed, which must
            then all call the loss, instead of each over its own.
        min_distance: of "mhe"; below it, proxies feel the force of this distance. Where proxies
            coincide, they are pushed apart along a fixed direction under every measure.
        inter_every: n, at least 1; calls in training mode from one on which the term between
            classes is felt to the next. The count of calls is part of the state.

    Raises:
        ValueError: from the call, if there is a bias, or a proxy is zero or not finite.

    Example:
        >>> simplex = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])
        >>> terms = HUG().terms(5 * simplex, torch.tensor([0, 1, 2]), simplex)
        >>> {name: round(float(term), 4) for name, term in terms.items()}
        {'inter': 0.3333, 'intra': 0.0}
    """

    name = "hug"

    def __init__(
        self,
        measure: UniformityMeasure = "mhe",
        inter_weight: float = 1.0,
        intra_weight: float = 1.0,
        inter_power: float = 2.0,
        intra_power: float = -1.0,
        *,
        detach_proxies: bool = True,
        class_balanced: bool = True,
        synchronise: bool = False,
        jitter: float = 0.1,
        min_distance: float = 1e-2,
        inter_every: int = 1,
    ):
        super().__init__()
        self.measure = check_choice("measure", measure, ("mhe", "mhs", "mgd"))
        self.inter_weight = check_number("inter_weight", inter_weight, minimum=0)
        self.intra_weight = check_number("intra_weight", intra_weight, minimum=0)
        self.inter_power = check_number("inter_power", inter_power, minimum=-2, exclusive=True)
        self.intra_power = check_number("intra_power", intra_power, minimum=-2)
        if self.intra_power >= 0:
            raise ValueError(
                f"intra_power must lie in [-2, 0), got {intra_power}; a power of 0 or more has no "
                "finite value at collapse"
            )
        self.detach_proxies = check_boolean("detach_proxies", detach_proxies)
        self.class_balanced = check_boolean("class_balanced", class_balanced)
        self.synchronise = check_boolean("synchronise", synchronise)
        self.jitter = check_number("jitter", jitter, minimum=0, exclusive=True)
        self.min_distance = check_number("min_distance", min_distance, minimum=0, exclusive=True)
        self.inter_every = check_integer("inter_every", inter_every, minimum=1)
        self._drop_coincident = False
        # Only where there is something to count has the loss a state.
        self._turns = _Turns() if self.inter_every > 1 else None

    @staticmethod
    def released(inter_weight: float = 1.0, intra_weight: float = 1.0) -> "HUG":
        """As in the implementation that the authors released (Liu et al. 2023).

        The minimum hyperspherical energy with powers 2 and -1, a class-balanced mean over the batch
        and no gradient of the within-class term to the proxies. Pairs of proxies that coincide
        exactly are left out of the mean, so they are not pushed apart.

        Example:
            >>> HUG.released().measure
            'mhe'
        """
        loss = HUG("mhe", inter_weight, intra_weight, min_distance=1e-6)
        loss._drop_coincident = True
        return loss

    def terms(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The two halves, each times its weight: `inter` and `intra`."""
        if bias is not None:
            raise ValueError("bias must be None for the uniformity gap; use a head without bias")
        try:
            inter = self._inter_of_call(weight)
        except ValueError as error:
            raise ValueError(
                f"weight must hold proxies whose uniformity is defined: {error}"
            ) from None
        intra = self._intra(features, labels, weight)
        return {"inter": self.inter_weight * inter, "intra": self.intra_weight * intra}

    def _inter_of_call(self, weight: Tensor) -> Tensor:
        """The term between classes, with a gradient on some calls only if it is thinned out."""
        turns = self._turns
        if turns is None or not self.training:
            return self._inter(weight)
        due = turns.calls % self.inter_every == 0
        turns.calls += 1
        if not due:
            # A gradient of zero keeps the classifier in the graph, as some wrappers demand.
            return turns.last.to(weight) + 0 * weight.sum()
        inter = self._inter(weight)
        turns.last = inter.detach()
        return self.inter_every * inter - (self.inter_every - 1) * turns.last

    def _inter(self, weight: Tensor) -> Tensor:
        if self.measure == "mhs":
            return -separation(weight)
        if self.measure == "mgd":
            return -gaussian_log_determinant(weight, jitter=self.jitter) / len(weight)
        if self._drop_coincident:
            return _mean_without_coincident(weight)
        energy = riesz_energy(weight, self.inter_power, min_distance=self.min_distance)
        return energy / _num_pairs(weight)

    def _intra(self, features: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        proxies = weight.detach() if self.detach_proxies else weight
        distances = _Distances.apply(features, proxies, labels)
        shares = self._shares(distances.detach(), labels, len(weight))
        return torch.dot(self._spread(distances), shares)

    def _spread(self, distances: Tensor) -> Tensor:
        """(N,), what a sample adds to the mean within its class; 0 at collapse."""
        if self.measure == "mgd":
            return torch.log1p(-torch.expm1(-distances.square() / 2) / self.jitter)
        if self.measure == "mhs" or self.intra_power == -1:
            return distances
        # Linear close to zero, where a power below 1 has an infinite slope.
        return distances.clamp(min=_LINEAR_BELOW).pow(-self.intra_power - 1) * distances

    def _shares(self, distances: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        """(N,), how much each sample counts; over all of them they add up to 1."""
        counts = self._by_class(torch.ones_like(distances), labels, num_classes)
        by_class = (
            1 / (counts > 0).to(counts).sum() if self.class_balanced else counts / counts.sum()
        )
        if self.measure == "mhs":
            farthest = self._farthest(distances, labels, num_classes)
            shares = (distances == farthest[labels]).to(distances)
            counts = self._by_class(shares, labels, num_classes)
            shares *= (by_class / counts)[labels]
        else:
            shares = (by_class / counts)[labels]
        # Training takes the mean over processes, of which each has its part of a joint sum.
        return shares * num_processes() if self.synchronise else shares

    def _by_class(self, values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        sums = values.new_zeros(num_classes).index_add_(0, labels, values)
        return sum_over_processes(sums) if self.synchronise else sums

    def _farthest(self, distances: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        """(K,), the largest distance within a class; 0 for an absent one."""
        farthest = distances.new_zeros(num_classes).scatter_reduce_(0, labels, distances, "amax")
        if self.synchronise and num_processes() > 1:
            dist.all_reduce(farthest, dist.ReduceOp.MAX)
        return farthest

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        powers = f", inter_power={self.inter_power:g}, intra_power={self.intra_power:g}"
        thinned = f", inter_every={self.inter_every}" if self.inter_every > 1 else ""
        return (
            f"{self.measure}, inter_weight={self.inter_weight:g}, "
            f"intra_weight={self.intra_weight:g}{powers if self.measure == 'mhe' else ''}{thinned}"
        )


class _Turns(nn.Module):
    """How often a term was asked for in training mode, and its last value; kept in `state_dict`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.last = 0, torch.tensor(torch.nan)

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.calls, float(self.last)], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.calls, self.last = int(state[0]), state[1].clone()


def _num_pairs(weight: Tensor) -> float:
    return len(weight) * (len(weight) - 1) / 2


def _mean_without_coincident(weight: Tensor) -> Tensor:
    """Mean of 1 / distance^2 over the pairs of directions that do not coincide; 0 without any."""
    dropped = 0

    def kernel(squared: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal dropped
        values = squared.reciprocal()
        # Coincident pairs come with the squared distance _COINCIDENT^2, up to rounding.
        if float(squared.amin()) < 4 * _COINCIDENT**2:
            coincident = squared < 4 * _COINCIDENT**2
            dropped += int(coincident.sum())
            values.masked_fill_(coincident, 0.0)
        return values, -values.square()

    energy = pair_energy(weight, kernel, min_distance=_COINCIDENT)
    return energy / max(_num_pairs(weight) - dropped, 1)


class _Distances(torch.autograd.Function):
    """(N,), the distance between the directions of a feature and of its class's proxy.

    By hand, since a step is bound by how often it walks over arrays as large as the batch. In
    float32 or better, from differences: products lose the digits of small distances.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        rows = features.to(torch.promote_types(features.dtype, torch.float32))
        proxies = weight.to(rows.dtype)
        lengths, sizes = _lengths(rows), _lengths(proxies)
        proxies = proxies / sizes
        away = proxies[labels].addcdiv_(rows, lengths, value=-1)
        distances = away.norm(dim=1, keepdim=True)
        ctx.save_for_backward(rows, lengths, proxies, sizes, away, distances, labels)
        return distances.squeeze(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("the gap has no second derivative; leave out create_graph")
        rows, lengths, proxies, sizes, away, distances, labels = ctx.saved_tensors
        force = torch.where(distances > 0, grads[0][:, None] / distances, 0.0)
        # What `away` = p - x has along p, and its negative along x, if both have unit length.
        along = distances.square() / 2
        zero = lengths.isinf()
        to_features = to_weight = None
        if ctx.needs_input_grad[0]:
            # A zero feature has no direction; it feels the pull as it is, as if it had length 1.
            pull = force / torch.where(zero, -1.0, -lengths)
            to_features = (away * pull).addcmul_(rows, pull * along / lengths)
        if ctx.needs_input_grad[1]:
            along = force * torch.where(zero, 1.0, along)
            to_weight = torch.zeros_like(proxies).index_add_(0, labels, away * force)
            sums = along.new_zeros(len(proxies), 1).index_add_(0, labels, along)
            to_weight = to_weight.addcmul_(proxies, sums, value=-1).div_(sizes)
        return to_features, to_weight, None


def _lengths(rows: Tensor) -> Tensor:
    """(N, 1), the lengths; infinite where it is zero, so that dividing by it leaves a zero row."""
    norms = rows.norm(dim=1, keepdim=True)
    return norms.masked_fill_(norms == 0, torch.inf)
