"""Potentials of points on the unit sphere: how uniformly are K directions spread?

Every function takes vectors (K, d), uses their directions u_k alone, and runs over the K(K-1)/2
unordered pairs k < j. A sum over ordered pairs is twice as large.

Values and gradients are computed together, block by block, with memory O(K d + block^2): from
matrix products where points lie apart, from differences where they nearly coincide and products
lose the digits. Half precision is computed in float32. There are first derivatives only. A
zero vector has no direction and is an error.

A pair closer than `min_distance` = 1e-6 feels the kernel's tangent at that distance: a finite value
and the finite force kernel'(min_distance) along its difference. Points that coincide exactly are
pushed apart along a fixed tangent direction, the one of lower index forwards.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from neuralcollapse.checks import check_finite, check_matrix
from neuralcollapse.precision import FullPrecision
from neuralcollapse.scalars import check_boolean, check_integer, check_number
from neuralcollapse.sphere import directions

# From squared distances to (values, derivatives by the squared distance), elementwise.
Kernel = Callable[[Tensor], tuple[Tensor, Tensor]]

_MIN_DISTANCE = 1e-6
# Rows of a block (0.6 MiB of float32 stay in a CPU cache), and pairs at a time by differences.
_BLOCK, _BLOCK_ACCELERATOR, _EXACT_PAIRS = 384, 4096, 4096
# A Gram matrix in float32 keeps three digits up to this bound on its condition number, K / jitter,
# and gradients four where all squared distances are larger than the second.
_LARGEST_CONDITION, _CLOSE_IN_SINGLE = 15_000, 1e-4


def _riesz(power: float, squared: Tensor) -> tuple[Tensor, Tensor]:
    values = squared.pow(-power / 2).mul_(math.copysign(1, power))
    return values, (values / squared).mul_(-power / 2)


def _log_riesz(power: float, squared: Tensor) -> tuple[Tensor, Tensor]:
    return squared.log().mul_(-power / 2), squared.reciprocal().mul_(-power / 2)


def _gaussian(scale: float, squared: Tensor) -> tuple[Tensor, Tensor]:
    values = (squared * -scale).exp_()
    return values, values * -scale


def _log_gaussian(scale: float, squared: Tensor) -> tuple[Tensor, Tensor]:
    return squared * -scale, torch.full_like(squared, -scale)


def riesz_energy(
    vectors: Tensor,
    power: float,
    *,
    log: bool = False,
    min_distance: float = _MIN_DISTANCE,
    num_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Riesz energy of K directions; the lower, the more uniform.

        sum over k < j of sign(s) norm(u_k - u_j)^(-s), or of -log(norm(u_k - u_j)) for s = 0

    with s = `power`, not divided by the number of pairs; the logarithm is not of the square. s = 1
    in three dimensions is Thomson's problem, s = d-2 the Newtonian potential.

    Args:
        vectors: (K, d), of any length but zero.
        power: s > -2. For large s take `log`: terms may vanish, or overflow, which is an error.
        log: return the logarithm of the sum, for s > 0, computed from the logarithms of the terms.
            Divided by s it tends to -log(separation) as s grows.
        min_distance: below it the kernel, or with `log` its logarithm, goes on along its tangent.
        num_pairs: draw so many pairs, with replacement, and scale up: an unbiased estimate of the
            energy and its gradient, not of the logarithm. None takes all pairs.
        generator: draws the pairs.

    Returns:
        0-d, float32 or the dtype of the vectors if that is wider.

    Raises:
        ValueError: if K < 2, a row is zero or not finite, power is too low or the sum overflows.

    Example:
        >>> square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> riesz_energy(square, 2)
        tensor(2.5000)
        >>> riesz_energy(square, 510, log=True)
        tensor(-175.3662)
    """
    check_boolean("log", log)
    power = check_number("power", power, minimum=0 if log else -2, exclusive=True)
    kernel = partial(_log_riesz, power or 1) if log or not power else partial(_riesz, power)
    return pair_energy(vectors, kernel, log, min_distance, num_pairs, generator)


def gaussian_energy(
    vectors: Tensor,
    scale: float,
    *,
    log: bool = False,
    num_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Gaussian energy of K directions, in [0, K(K-1)/2]; the lower, the more uniform.

        sum over k < j of exp(-scale norm(u_k - u_j)^2)

    with `scale` > 0. The force between two points fades as they meet, down to 2e-6 scale where they
    coincide. The other arguments and the errors are those of `riesz_energy`.

    Example:
        >>> gaussian_energy(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 0.5)
        tensor(0.3679)
    """
    check_boolean("log", log)
    scale = check_number("scale", scale, minimum=0, exclusive=True)
    kernel = partial(_log_gaussian if log else _gaussian, scale)
    return pair_energy(vectors, kernel, log, _MIN_DISTANCE, num_pairs, generator)


def gaussian_log_determinant(
    vectors: Tensor, scale: float = 1.0, *, jitter: float = 1e-6
) -> Tensor:
    """Log-determinant of the Gaussian Gram matrix; the higher, the more uniform.

        log(det(G + jitter I)), G[k, j] = exp(-scale norm(u_k - u_j)^2)

    At most K log(1 + jitter). Not a sum over pairs: it needs the whole (K, K) matrix and its
    Cholesky factor, so its cost is cubic in K. That is in float64, but for float32 vectors of which
    no two are closer than 0.01 and a jitter of K / 15,000 or more, which bounds the condition
    number. Points closer than 1e-6 are pushed apart along a fixed tangent direction.

    Args:
        vectors: (K, d), of any length but zero.
        scale: above 0.
        jitter: added to the diagonal; at 0, coinciding points make the matrix singular: an error.

    Example:
        >>> triangle = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])
        >>> gaussian_log_determinant(triangle, jitter=0)
        tensor(-0.0072)
    """
    scale = check_number("scale", scale, minimum=0, exclusive=True)
    jitter = check_number("jitter", jitter, minimum=0)
    wanted = check_matrix("vectors", vectors).requires_grad and torch.is_grad_enabled()
    wide = torch.promote_types(vectors.dtype, torch.float32)
    with torch.no_grad(), FullPrecision(vectors.device.type):
        units, lengths = _units(vectors)
        squared = _squared_distances(units)
        single = len(units) <= _LARGEST_CONDITION * jitter and bool(
            squared.fill_diagonal_(torch.inf).amin() > _CLOSE_IN_SINGLE
        )
        if wide == torch.float64 or not single:
            units, lengths = _units(vectors.double())
            squared = _squared_distances(units)
        squared.fill_diagonal_(0.0)
        met = (squared < _MIN_DISTANCE**2).fill_diagonal_(False)
        gram = squared.mul_(-scale).exp_()
        gram.diagonal().add_(jitter)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if bool(failed):
            raise ValueError(
                f"jitter must make the Gram matrix of {len(units)} vectors positive definite, "
                f"got {jitter:g}; use jitter=1e-6, a larger scale or fewer vectors"
            )
        value = 2 * factor.diagonal().log().sum()
        gradient = None
        if wanted:
            # d value / d squared distance, of each pair twice.
            slopes = torch.cholesky_inverse(factor).mul_(gram).mul_(-scale)
            gradient = 4 * (slopes.sum(1, keepdim=True) * units - slopes @ units)
            if bool(met.any()):
                order = met.triu(1).to(units) - met.tril(-1).to(units)
                pushes, tangents = slopes.mul_(order), _tangents(units)
                pull = pushes.sum(1, keepdim=True) * tangents - pushes.T @ tangents
                gradient += 2 * _MIN_DISTANCE * pull
            gradient = _by_vectors(gradient, units, lengths)
    return _Energy.apply(vectors, value.to(wide), gradient)


def _squared_distances(units: Tensor) -> Tensor:
    return torch.addmm(units.new_tensor(2.0), units, units.T, alpha=-2)


def separation(vectors: Tensor) -> Tensor:
    """Smallest distance between two of K directions, in [0, 2]; the higher, the more uniform.

        min over k < j of norm(u_k - u_j)

    The chord: not its square, nor the angle, 2 asin(separation / 2). The gradient goes to one
    closest pair, along a fixed tangent direction where that coincides.

    Example:
        >>> separation(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))
        tensor(1.4142)
    """
    wanted = check_matrix("vectors", vectors).requires_grad and torch.is_grad_enabled()
    with torch.no_grad():
        units, lengths = _units(vectors)
        pair = _closest_pair(units)
        distance, away = _differences(units, *pair.split(1))
        gradient = None
        if wanted:
            forces = _by_vectors(torch.cat([away, -away]), units[pair], lengths[pair])
            gradient = torch.zeros_like(units).index_copy_(0, pair, forces)
    return _Energy.apply(vectors, distance.squeeze(0), gradient)


def max_cosine(vectors: Tensor) -> Tensor:
    """Largest cosine between two of K directions, in [-1/(K-1), 1]; the lower, the more uniform.

        max over k < j of <u_k, u_j> = 1 - separation^2 / 2

    Example:
        >>> max_cosine(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])).abs().round(decimals=6)
        tensor(0.)
    """
    return 1 - separation(vectors).square() / 2


def pair_energy(
    vectors: Tensor,
    kernel: Kernel,
    log: bool = False,
    min_distance: float = _MIN_DISTANCE,
    num_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sum over pairs of a kernel of the squared distance, or the logarithm of such a sum.

        sum over k < j of kernel(norm(u_k - u_j)^2), with `log` log(sum of exp(kernel(...)))

    For kernels of your own: elementwise functions from squared distances to new tensors (values,
    derivatives by the squared distance), with `log` of the logarithm of a term. The other arguments
    are those of `riesz_energy`.

    Example:
        >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> pair_energy(vectors, lambda squared: (squared, torch.ones_like(squared)))
        tensor(8.)
    """
    min_distance = check_number("min_distance", min_distance, minimum=0, exclusive=True)
    with torch.no_grad():
        units, lengths = _units(vectors)
    wanted = vectors.requires_grad and torch.is_grad_enabled()
    gradient = torch.zeros_like(units) if wanted else None
    total = _Total(units, kernel, log, min_distance, gradient)
    with torch.no_grad(), FullPrecision(units.device.type):
        total.sweep() if num_pairs is None else total.sample(num_pairs, generator)
        value = total.shift + math.log(total.sum) if log else total.sum
        if gradient is not None:
            gradient = _by_vectors(gradient, units, lengths * total.sum if log else lengths)
    check = value if gradient is None else value + float(gradient.sum())
    if not abs(check) <= torch.finfo(units.dtype).max:
        raise ValueError(
            f"energy and gradient must fit into {units.dtype}, got {value:g} or a gradient out of "
            "range; use log=True, a smaller power, a larger min_distance or float64"
        )
    return _Energy.apply(vectors, units.new_tensor(value), gradient)


class _Energy(torch.autograd.Function):
    """A value with the gradient that was found on the same sweep."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, value: Tensor, gradient: Tensor | None) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("energies have no second derivative; leave out create_graph")
        # Autograd casts it to the dtype of the vectors.
        return grads[0] * ctx.saved_tensors[0], None, None


def _by_vectors(gradient: Tensor, units: Tensor, lengths: Tensor) -> Tensor:
    """The gradient by vectors of given lengths, from that by their directions; in place."""
    # What moves a point along its ray changes nothing.
    gradient -= (gradient * units).sum(1, keepdim=True) * units
    return gradient.div_(lengths)


@dataclass
class _Total:
    """A running sum over pairs of values, or of exp(values - shift), and its gradient."""

    units: Tensor
    kernel: Kernel
    log: bool
    min_distance: float
    gradient: Tensor | None
    sum: float = 0.0
    shift: float = -1e38

    def sweep(self) -> None:
        """Add every pair once."""
        for rows, columns, squared, close in _blocks(self.units, self.min_distance):
            self._add_far(rows, columns, squared, close)
            if close is not None:
                for first, second in _close_pairs(rows, columns, close):
                    self._add_close(first, second)

    def sample(self, num_pairs: int, generator: torch.Generator | None) -> None:
        """Add pairs drawn with replacement, scaled to an unbiased estimate of the whole."""
        check_integer("num_pairs", num_pairs, 1)
        count = len(self.units)
        device = generator.device if generator else self.units.device
        for start in range(0, num_pairs, _EXACT_PAIRS):
            shape = (min(_EXACT_PAIRS, num_pairs - start),)
            one = torch.randint(count, shape, generator=generator, device=device)
            step = torch.randint(1, count, shape, generator=generator, device=device)
            pairs = torch.stack([one, (one + step) % count]).sort(0).values.to(self.units.device)
            self._add_close(pairs[0], pairs[1])
        self._scale(count * (count - 1) / 2 / num_pairs)

    def _add_far(self, rows: slice, columns: slice, squared: Tensor, close: Tensor | None) -> None:
        """Add a block of pairs by matrix products, all but the close ones."""
        if close is not None:
            squared.masked_fill_(close, 1.0)
        values, slopes = self.kernel(squared)
        nothing = -torch.inf if self.log else 0.0
        if close is not None:
            values.masked_fill_(close, nothing)
            slopes.masked_fill_(close, 0.0)
        # A diagonal block holds each of its pairs twice, and so needs no transpose.
        diagonal = rows == columns
        if diagonal:
            values.fill_diagonal_(nothing)
            slopes.fill_diagonal_(0.0)
        weights = self._add(values, slopes, 0.5 if diagonal else 1.0)
        if self.gradient is None:
            return
        left, right = self.units[rows], self.units[columns]
        self.gradient[rows] += weights.sum(1)[:, None] * left - weights @ right
        if not diagonal:
            self.gradient[columns] += weights.sum(0)[:, None] * right - weights.T @ left

    def _add_close(self, first: Tensor, second: Tensor) -> None:
        """Add the pairs (first[p], second[p]) by their differences."""
        distances, away = _differences(self.units, first, second)
        held = distances.clamp(min=self.min_distance)
        values, slopes = self.kernel(held.square())
        weights = self._add(values + 2 * slopes * held * (distances - held), slopes)
        if self.gradient is not None:
            away *= (weights * held)[:, None]
            self.gradient.index_add_(0, first, away).index_add_(0, second, away, alpha=-1)

    def _add(self, values: Tensor, slopes: Tensor, share: float = 1.0) -> Tensor:
        """Add `share` of the values; returns d sum / d point in units of the differences."""
        if not self.log:
            self.sum += share * float(values.sum())
            return slopes.mul_(2)
        peak = float(values.max())
        if peak > self.shift:
            self._scale(math.exp(self.shift - peak))
            self.shift = peak
        terms = (values - self.shift).exp_()
        self.sum += share * float(terms.sum())
        return slopes * terms.mul_(2)

    def _scale(self, factor: float) -> None:
        self.sum *= factor
        if self.gradient is not None:
            self.gradient *= factor


def _units(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Directions (K, d) and lengths (K, 1) of checked vectors, in float32 or better."""
    rows, columns = check_matrix("vectors", vectors).shape
    if rows < 2 or columns < 1:
        raise ValueError(
            f"vectors must be 2 points or more, got {rows} rows of {columns}; add some"
        )
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    lengths = wide.norm(dim=1, keepdim=True)
    least, most = lengths.detach().aminmax()
    number = torch.finfo(wide.dtype)
    if bool((least > (number.tiny / number.eps) ** 0.5) & (most < torch.inf)):
        return wide / lengths, lengths
    # Something is wrong, or the squares of the entries leave the range of the type.
    sizes = torch.linalg.vector_norm(wide.detach(), torch.inf, dim=1, keepdim=True)
    if not bool(((sizes > 0) & (sizes < torch.inf)).all()):
        check_finite("vectors", wide.detach())
        zero = (sizes[:, 0] == 0).nonzero()
        raise ValueError(
            f"vectors must not be zero, got {len(zero)} zero rows of {len(vectors)} "
            f"(first: row {int(zero[0])}); a zero vector has no direction, leave it out"
        )
    scaled = wide / sizes
    lengths = scaled.norm(dim=1, keepdim=True)
    return scaled / lengths, lengths * sizes


def _blocks(
    units: Tensor, min_distance: float
) -> Iterator[tuple[slice, slice, Tensor, Tensor | None]]:
    """Blocks (rows, columns, squared distances, which are too small for the Gram formula).

    Together they hold every pair; those on the diagonal hold it twice, and each point with itself,
    at a squared distance of 1. None stands for a block without small distances.
    """
    size = _BLOCK if units.device.type == "cpu" else _BLOCK_ACCELERATOR
    # The products err by a few eps, so the distances kept have more than half of their digits.
    limit = max(32 * torch.finfo(units.dtype).eps ** 0.5, min_distance**2)
    parts = [slice(start, start + size) for start in range(0, len(units), size)]
    for place, rows in enumerate(parts):
        for columns in parts[place:]:
            squared = torch.addmm(units.new_tensor(2.0), units[rows], units[columns].T, alpha=-2)
            if rows == columns:
                squared.fill_diagonal_(1.0)
            close = squared < limit if bool(squared.amin() < limit) else None
            yield rows, columns, squared, close


def _close_pairs(rows: slice, columns: slice, close: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The marked pairs k < j of a block, as indices (k, j), so many at a time."""
    pairs = (close.triu(1) if rows == columns else close).nonzero()
    for some in pairs.split(_EXACT_PAIRS) if len(pairs) else ():
        yield some[:, 0] + rows.start, some[:, 1] + columns.start


def _differences(units: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (P,) of pairs, and unit vectors (P, d) from the second to the first point.

    Where the points coincide, a tangent of the sphere stands for their difference.
    """
    away = units[first] - units[second]
    distances = away.norm(dim=1)
    away /= distances.clamp(min=torch.finfo(units.dtype).tiny)[:, None]
    met = distances == 0
    if bool(met.any()):
        away[met] = _tangents(units[first[met]])
    return distances, away


def _tangents(points: Tensor) -> Tensor:
    """A unit tangent at each point (P, d): towards the axis most orthogonal to it."""
    axes = points.abs().argmin(dim=1, keepdim=True)
    tangents = -points * points.gather(1, axes)
    return directions(tangents.scatter_add_(1, axes, torch.ones_like(points[:, :1])))


def _closest_pair(units: Tensor) -> Tensor:
    """Indices (2,) of two points at the smallest distance."""
    best, pair = math.inf, (0, 1)
    with FullPrecision(units.device.type):
        for rows, columns, squared, close in _blocks(units, 0.0):
            if rows == columns:
                squared.fill_diagonal_(torch.inf)
            if close is not None:
                squared.masked_fill_(close, torch.inf)
                for first, second in _close_pairs(rows, columns, close):
                    exact = _differences(units, first, second)[0].square()
                    squared[first - rows.start, second - columns.start] = exact
            least, place = squared.view(-1).min(0)
            if float(least) < best:
                row, column = divmod(int(place), squared.shape[1])
                best, pair = float(least), (rows.start + row, columns.start + column)
    return torch.tensor(pair, device=units.device)
