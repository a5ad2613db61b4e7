"""Potentials of points on the unit sphere: how uniformly are K directions spread?

Every function takes vectors (K, d), uses their directions u_k alone, and runs over the K(K-1)/2
unordered pairs k < j. A sum over ordered pairs is twice as large.

Values and gradients are computed together, block by block, with memory O(K d + block^2). Squared
distances come from matrix products where points lie apart, and from differences where they nearly
coincide and the products would lose the digits. Half precision is computed in float32. Gradients
are of first order only. A zero vector has no direction and is an error.

A pair closer than `min_distance` = 1e-6 feels the kernel's tangent at that distance: a finite value
and the finite force kernel'(min_distance) along its difference. Points that coincide exactly are
pushed apart along a fixed tangent direction, the one of lower index forwards.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuralcollapse.checks import check_finite, check_matrix
from neuralcollapse.precision import FullPrecision
from neuralcollapse.scalars import check_integer, check_number
from neuralcollapse.sphere import directions

# Squared distances to (values, derivatives by the squared distance), elementwise.
Kernel = Callable[[Tensor], tuple[Tensor, Tensor]]

_MIN_DISTANCE = 1e-6
# Rows of a block: 16 MiB of float32 on a CPU, four times that on an accelerator.
_BLOCK, _BLOCK_ACCELERATOR = 2048, 4096
# Entries of the differences of pairs held at a time.
_EXACT_ENTRIES = 1 << 20


def riesz_kernel(power: float) -> Kernel:
    """sign(power) distance^(-power), or -log(distance) for power 0; power > -2.

    Example:
        >>> value, slope = riesz_kernel(2)(torch.tensor(4.0))
        >>> float(value), float(slope)
        (0.25, -0.0625)
    """
    power = check_number("power", power, minimum=-2, exclusive=True)

    def kernel(squared: Tensor) -> tuple[Tensor, Tensor]:
        if power == 0:
            return squared.log().mul_(-0.5), squared.reciprocal().mul_(-0.5)
        values = squared.pow(-power / 2)
        values = values if power > 0 else values.neg_()
        return values, (values / squared).mul_(-power / 2)

    return kernel


def gaussian_kernel(scale: float) -> Kernel:
    """exp(-scale distance^2); scale > 0."""
    scale = check_number("scale", scale, minimum=0, exclusive=True)

    def kernel(squared: Tensor) -> tuple[Tensor, Tensor]:
        values = (squared * -scale).exp_()
        return values, values * -scale

    return kernel


def riesz_energy(
    vectors: Tensor,
    power: float,
    *,
    min_distance: float = _MIN_DISTANCE,
    num_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Riesz energy of K directions; the lower, the more uniform.

        sum over k < j of sign(s) norm(u_k - u_j)^(-s), or of -log(norm(u_k - u_j)) for s = 0

    with s = `power`. s = 1 in three dimensions is Thomson's problem; s = d-2 is the Newtonian
    potential. The logarithm is of the distance, not of its square. The sum is not divided by the
    number of pairs.

    Args:
        vectors: (K, d), of any length but zero.
        power: s > -2. For large s the terms leave the range of the dtype: too small they vanish,
            too large they are an error; `log_riesz_energy` has neither.
        min_distance: below it the kernel continues along its tangent; see the module.
        num_pairs: draw so many pairs, with replacement, and scale up: an unbiased estimate of
            the energy and of its gradient. None takes all pairs.
        generator: of the draws; None is the default one of the device of the vectors.

    Returns:
        0-d, float32 or the dtype of the vectors if that is wider.

    Raises:
        ValueError: if K < 2, a vector is zero or not finite, the power is -2 or less, or the
            energy or its gradient overflows.

    Example:
        >>> square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> riesz_energy(square, 2)
        tensor(2.5000)
    """
    return pair_energy(vectors, riesz_kernel(power), False, min_distance, num_pairs, generator)


def log_riesz_energy(
    vectors: Tensor,
    power: float,
    *,
    min_distance: float = _MIN_DISTANCE,
    num_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Logarithm of the Riesz energy, for any power > 0; the lower, the more uniform.

        log(sum over k < j of norm(u_k - u_j)^(-s))

    Computed from the logarithms of the terms, so that s = d-2 in high dimension neither overflows
    nor underflows. Divided by s it tends to -log(separation) as s grows. The arguments are those
    of `riesz_energy` with power > 0. Below `min_distance` the logarithm of the kernel continues
    along its tangent. With `num_pairs` it is the logarithm of an unbiased estimate, on average
    below the logarithm of the energy.

    Example:
        >>> log_riesz_energy(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 510)
        tensor(-176.7525)
    """
    power = check_number("power", power, minimum=0, exclusive=True)
    logarithm = riesz_kernel(0)

    def kernel(squared: Tensor) -> tuple[Tensor, Tensor]:
        values, slopes = logarithm(squared)
        return values.mul_(power), slopes.mul_(power)

    return pair_energy(vectors, kernel, True, min_distance, num_pairs, generator)


def gaussian_energy(
    vectors: Tensor,
    scale: float,
    *,
    num_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Gaussian energy of K directions, in [0, K(K-1)/2]; the lower, the more uniform.

        sum over k < j of exp(-scale norm(u_k - u_j)^2)

    The force between two points vanishes as they meet, to 2e-6 scale where they coincide.

    Args:
        vectors: (K, d), of any length but zero.
        scale: above 0; the square of the inverse width, not its half.
        num_pairs, generator: as in `riesz_energy`.

    Returns:
        0-d, float32 or the dtype of the vectors if that is wider.

    Raises:
        ValueError: if K < 2, a vector is zero or not finite, or the scale is 0 or less.

    Example:
        >>> gaussian_energy(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 0.5)
        tensor(0.3679)
    """
    kernel = gaussian_kernel(scale)
    return pair_energy(vectors, kernel, num_pairs=num_pairs, generator=generator)


def gaussian_log_determinant(
    vectors: Tensor, scale: float = 1.0, *, jitter: float = 1e-6
) -> Tensor:
    """Log-determinant of the Gaussian Gram matrix; the higher, the more uniform.

        log(det(G + jitter I)), G[k, j] = exp(-scale norm(u_k - u_j)^2)

    At most K log(1 + jitter). A potential of all points at once, not a sum over pairs: it needs
    the whole (K, K) matrix and its Cholesky factor, both in float64 whatever the vectors are.
    Points that coincide (closer than 1e-6) are pushed apart along a fixed tangent direction.

    Args:
        vectors: (K, d), of any length but zero.
        scale: above 0.
        jitter: added to the diagonal. Without it, K points of which two coincide have no
            finite log-determinant.

    Returns:
        0-d, float32 or the dtype of the vectors if that is wider.

    Raises:
        ValueError: if K < 2, a vector is zero or not finite, or G + jitter I is singular.

    Example:
        >>> triangle = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])
        >>> gaussian_log_determinant(triangle, jitter=0)
        tensor(-0.0072)
    """
    scale = check_number("scale", scale, minimum=0, exclusive=True)
    jitter = check_number("jitter", jitter, minimum=0)
    units = _units(check_matrix("vectors", vectors).double())
    same = torch.eye(len(units), dtype=torch.bool, device=units.device)
    squared = (2 - 2 * units @ units.T).masked_fill(same, 0.0)
    coincident = (squared.detach() < _MIN_DISTANCE**2) & ~same
    if bool(coincident.any()):
        tangents = _tangents(units.detach())
        forwards = (tangents * units).sum(1, keepdim=True) - tangents @ units.T
        order = coincident.triu(1).to(units) - coincident.tril(-1).to(units)
        squared = squared + 2 * _MIN_DISTANCE * order * forwards
    gram = (-scale * squared).exp() + jitter * same
    factor, failed = torch.linalg.cholesky_ex(gram)
    if bool(failed):
        raise ValueError(
            f"jitter must make the Gram matrix of {len(units)} vectors positive definite, "
            f"got {jitter:g}; use jitter=1e-6, a larger scale or fewer vectors"
        )
    value = 2 * factor.diagonal().log().sum()
    return value.to(torch.promote_types(vectors.dtype, torch.float32))


def separation(vectors: Tensor) -> Tensor:
    """Smallest distance between two of K directions, in [0, 2]; the higher, the more uniform.

        min over k < j of norm(u_k - u_j)

    The chord: not its square, nor the angle, 2 asin(separation / 2). The gradient goes to one
    closest pair, along a fixed tangent direction where that coincides.

    Raises:
        ValueError: if K < 2 or a vector is zero or not finite.

    Example:
        >>> separation(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))
        tensor(1.4142)
    """
    units = _units(vectors)
    return _chord(units, *_closest_pair(units.detach()))


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

    The reducer of all energies of this module, for kernels of your own.

    Args:
        vectors: (K, d), of any length but zero.
        kernel: elementwise, from squared distances to new tensors (values, slopes), the slopes
            being the derivatives by the squared distance.
        log: the kernel gives logarithms of terms.
        min_distance, num_pairs, generator: as in `riesz_energy`.

    Example:
        >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> pair_energy(vectors, lambda squared: (squared, torch.ones_like(squared)))
        tensor(8.)
    """
    min_distance = check_number("min_distance", min_distance, minimum=0, exclusive=True)
    if num_pairs is not None:
        num_pairs = check_integer("num_pairs", num_pairs, 1)
    units = _units(vectors)
    differentiate = torch.is_grad_enabled() and units.requires_grad
    total = _Total(units.detach(), kernel, log, min_distance, differentiate)
    return _Energy.apply(units, total, num_pairs, generator)


class _Energy(torch.autograd.Function):
    """The sum over pairs; its gradient is found on the same sweep and kept for backward."""

    @staticmethod
    def forward(
        ctx: Any,
        units: Tensor,
        total: "_Total",
        num_pairs: int | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        with FullPrecision(units.device.type):
            factor = total.sweep() if num_pairs is None else total.sample(num_pairs, generator)
        value, gradient = total.result(factor)
        ctx.save_for_backward(gradient)
        return units.new_tensor(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_outputs[0] * gradient, None, None, None


class _Total:
    """A running sum over pairs of values, or of exp(values - shift), and its gradient."""

    def __init__(
        self, units: Tensor, kernel: Kernel, log: bool, min_distance: float, differentiate: bool
    ):
        self.units = units
        self.kernel = kernel
        self.log = log
        self.min_distance = min_distance
        self.gradient = torch.zeros_like(units) if differentiate else None
        self.total = 0.0
        self.shift = torch.finfo(units.dtype).min

    def sweep(self) -> float:
        """Add every pair once; returns the factor of the sum, 1."""
        for rows, columns, squared, close in _blocks(self.units, self.min_distance):
            pairs = list(_close_pairs(self.units, rows, columns, close))
            self._add_far(rows, columns, squared, close if pairs else None)
            for first, second in pairs:
                self._add_close(first, second)
        return 1.0

    def sample(self, num_pairs: int, generator: torch.Generator | None) -> float:
        """Add pairs drawn with replacement; returns the factor that makes the sum unbiased."""
        num_vectors, dim = self.units.shape
        device = self.units.device if generator is None else generator.device
        chunk = _chunk(dim)
        for start in range(0, num_pairs, chunk):
            shape = (min(chunk, num_pairs - start),)
            one = torch.randint(num_vectors, shape, generator=generator, device=device)
            step = torch.randint(1, num_vectors, shape, generator=generator, device=device)
            other = (one + step) % num_vectors
            first, second = torch.minimum(one, other), torch.maximum(one, other)
            self._add_close(first.to(self.units.device), second.to(self.units.device))
        return num_vectors * (num_vectors - 1) / 2 / num_pairs

    def result(self, factor: float) -> tuple[float, Tensor | None]:
        """The value and the gradient of the factor times the sum, or of its logarithm."""
        value = self.shift + math.log(factor * self.total) if self.log else factor * self.total
        if self.gradient is not None:
            self.gradient.mul_(1 / self.total if self.log else factor)
        sums = [value] if self.gradient is None else [value, float(self.gradient.sum())]
        if not all(abs(number) <= torch.finfo(self.units.dtype).max for number in sums):
            raise ValueError(
                f"the energy and its gradient must fit into {self.units.dtype}, got {value:g} "
                "and a gradient out of range; use log_riesz_energy, a smaller power, a larger "
                "min_distance or vectors in float64"
            )
        return value, self.gradient

    def _add_far(self, rows: slice, columns: slice, squared: Tensor, close: Tensor | None) -> None:
        """Add a block of pairs by matrix products, all but the close ones."""
        diagonal = rows == columns
        if diagonal:
            close = torch.eye(len(squared), dtype=torch.bool, device=squared.device).logical_or_(
                torch.zeros_like(squared, dtype=torch.bool) if close is None else close
            )
        if close is not None:
            squared.masked_fill_(close, 1.0)
        values, slopes = self.kernel(squared)
        if close is not None:
            values = values.masked_fill(close, -torch.inf if self.log else 0.0)
            slopes = slopes.masked_fill(close, 0.0)
        # A diagonal block holds each of its pairs twice, and so needs no transpose.
        weights = self._add(values, slopes, 0.5 if diagonal else 1.0)
        if self.gradient is None:
            return
        row_units, column_units = self.units[rows], self.units[columns]
        self.gradient[rows] += weights.sum(1, keepdim=True) * row_units - weights @ column_units
        if not diagonal:
            pull = weights.T @ row_units
            self.gradient[columns] += weights.sum(0)[:, None] * column_units - pull

    def _add_close(self, first: Tensor, second: Tensor) -> None:
        """Add the pairs (first[p], second[p]) by their differences."""
        distances, away = _differences(self.units, first, second)
        held = distances.clamp(min=self.min_distance)
        values, slopes = self.kernel(held.square())
        values = values + 2 * slopes * held * (distances - held)
        weights = self._add(values, slopes)
        if self.gradient is not None:
            away.mul_((weights * held)[:, None])
            self.gradient.index_add_(0, first, away)
            self.gradient.index_add_(0, second, away, alpha=-1)

    def _add(self, values: Tensor, slopes: Tensor, share: float = 1.0) -> Tensor:
        """Add `share` of the values; returns d sum / d pair as multiples of the difference."""
        if not self.log:
            self.total += share * float(values.sum())
            return 2 * slopes
        peak = float(values.max())
        if peak > self.shift:
            fade = math.exp(self.shift - peak)
            self.total, self.shift = self.total * fade, peak
            if self.gradient is not None:
                self.gradient.mul_(fade)
        terms = (values - self.shift).exp_()
        self.total += share * float(terms.sum())
        return slopes * terms.mul_(2)


def _units(vectors: Tensor) -> Tensor:
    """The directions of checked vectors, also where the squares of their entries underflow."""
    check_matrix("vectors", vectors)
    if len(vectors) < 2 or not vectors.shape[1]:
        raise ValueError(
            f"vectors must be at least 2 of width at least 1, got shape {tuple(vectors.shape)}; "
            "give one row for each point"
        )
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    sizes = torch.linalg.vector_norm(wide.detach(), torch.inf, dim=1, keepdim=True)
    if not bool(((sizes > 0) & (sizes < torch.inf)).all()):
        check_finite("vectors", wide.detach())
        zero = (sizes[:, 0] == 0).nonzero()
        raise ValueError(
            f"vectors must not be zero, got {len(zero)} zero rows of {len(vectors)} "
            f"(first: row {int(zero[0])}); a zero vector has no direction, leave it out"
        )
    return directions(wide / sizes)


def _blocks(units: Tensor, min_distance: float) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Blocks (rows, columns, squared distances, which are too close for the Gram formula).

    Together they hold every pair k < j; those on the diagonal hold it twice, and infinity for a
    point and itself.
    """
    size = _BLOCK if units.device.type == "cpu" else _BLOCK_ACCELERATOR
    # The products err by a few eps: the distances keep half of their digits and more.
    limit = max(32 * torch.finfo(units.dtype).eps ** 0.5, min_distance**2)
    parts = [slice(start, start + size) for start in range(0, len(units), size)]
    for place, rows in enumerate(parts):
        for columns in parts[place:]:
            squared = (units[rows] @ units[columns].T).mul_(-2).add_(2)
            if rows == columns:
                squared.fill_diagonal_(torch.inf)
            yield rows, columns, squared, squared < limit


def _close_pairs(
    units: Tensor, rows: slice, columns: slice, close: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """The marked pairs k < j of a block, as indices (k, j), so many at a time."""
    pairs = (close.triu(1) if rows == columns else close).nonzero()
    pairs += pairs.new_tensor([rows.start, columns.start])
    for some in pairs.split(_chunk(units.shape[1])):
        if len(some):
            yield some[:, 0], some[:, 1]


def _chunk(dim: int) -> int:
    return max(1, _EXACT_ENTRIES // dim)


def _differences(units: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (P,) of pairs, and the unit vectors (P, d) from the second to the first point.

    Where the points coincide, a tangent of the sphere stands for their difference.
    """
    away = units[first] - units[second]
    distances = away.norm(dim=1)
    met = (distances == 0).nonzero()[:, 0]
    away /= distances.clamp(min=torch.finfo(units.dtype).tiny)[:, None]
    if len(met):
        away[met] = _tangents(units[first[met]])
    return distances, away


def _tangents(points: Tensor) -> Tensor:
    """A unit tangent at each point (P, d): towards the axis to which it is most orthogonal."""
    axes = points.abs().argmin(dim=1, keepdim=True)
    tangents = points * -points.gather(1, axes)
    return directions(tangents.scatter_add_(1, axes, torch.ones_like(axes, dtype=points.dtype)))


def _closest_pair(units: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (1,), (1,) of two points at the smallest distance."""
    best, pair = math.inf, (0, 1)
    with FullPrecision(units.device.type):
        for rows, columns, squared, close in _blocks(units, 0.0):
            place, least = int(squared.argmin()), float(squared.min())
            found = rows.start + place // squared.shape[1], columns.start + place % squared.shape[1]
            exact = list(_close_pairs(units, rows, columns, close))
            least = math.inf if exact else least
            for first, second in exact:
                distances, _ = _differences(units, first, second)
                place = int(distances.argmin())
                if float(distances[place].square()) < least:
                    least = float(distances[place].square())
                    found = int(first[place]), int(second[place])
            if least < best:
                best, pair = least, found
    first, second = torch.tensor(pair, device=units.device).sort().values.split(1)
    return first, second


def _chord(units: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The distance of one pair; its gradient does not vanish where the points coincide."""
    _, away = _differences(units.detach(), first, second)
    return ((units[first] - units[second]) * away).sum()
