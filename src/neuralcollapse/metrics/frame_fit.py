"""How far are class means from a frame that was aimed at?

The class means are taken raw, as they enter the classifier: a frame whose cosines differ from pair
to pair is not centred, and centring by the global mean would break it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from neuralcollapse.checks import check_matrix
from neuralcollapse.frames.frame import Frame
from neuralcollapse.metrics.pairs import pair_products
from neuralcollapse.statistics import ClassStatistics, check_statistics


def frame_deviation(statistics: ClassStatistics, target: Frame | Tensor) -> Tensor:
    """How far the cosines between raw class means are from a frame's, on average; 0 if equal.

        mean_{k<j}(abs(cos(mu_k, mu_j) - cos(w_k, w_j)))

    Source: Liang, Davis 2023. Blind to norms and rotations. With a simplex ETF as the target and
    means whose sum is zero it is `nc2_max_angle`.

    Args:
        statistics: of the features that enter the classifier.
        target: the frame, or its Gram matrix (K, K), whose rows and columns may have any norm.

    Returns:
        0-d float64, in [0, 2]; nan for fewer than two classes seen, or a zero mean or vector.

    Raises:
        TypeError: if the target is neither a frame nor a floating-point tensor.
        ValueError: if it is not of the classes of the statistics.

    Example:
        >>> from neuralcollapse.frames import simplex_etf
        >>> frame = simplex_etf(num_classes=3, dim=2)
        >>> statistics = ClassStatistics.from_features(7 * frame.vectors, torch.arange(3), 3)
        >>> round(float(frame_deviation(statistics, frame)), 6)
        0.0
    """
    total, num_pairs = 0.0, 0
    for gaps in _gaps(statistics, target):
        total, num_pairs = total + gaps.abs().sum(), num_pairs + gaps.numel()
    return _mean(total, num_pairs)


def frame_spread(statistics: ClassStatistics, target: Frame | Tensor) -> Tensor:
    """Variation of the differences between the raw class means' cosines and a frame's; 0 if equal.

        std_{k<j}(cos(mu_k, mu_j) - cos(w_k, w_j))

    with the population standard deviation. Source: Liang, Davis 2023. Blind to norms, rotations,
    and an amount that all cosines are off by.

    Args:
        statistics: of the features that enter the classifier.
        target: the frame, or its Gram matrix (K, K), whose rows and columns may have any norm.

    Returns:
        0-d float64, in [0, 2]; nan for fewer than two classes seen, or a zero mean or vector.

    Raises:
        TypeError: if the target is neither a frame nor a floating-point tensor.
        ValueError: if it is not of the classes of the statistics.
    """
    total, num_pairs = 0.0, 0
    for gaps in _gaps(statistics, target):
        total, num_pairs = total + gaps.sum(), num_pairs + gaps.numel()
    mean = _mean(total, num_pairs)
    squares = sum((gaps - mean).square().sum() for gaps in _gaps(statistics, target))
    return _mean(squares, num_pairs).sqrt()


def frame_duality(statistics: ClassStatistics, frame: Frame) -> Tensor:
    """Distance between raw class means and the vectors of a frame up to scale; 0 if proportional.

        norm(W / norm(W) - M / norm(M)), Frobenius norms, not squared

    Source: Liang, Davis 2023, who square it.

    with M the raw means of the classes seen and W their vectors. Sees angles to the vectors
    themselves, rotations included, and relative norms: means that have the directions of the frame
    but different norms are not at 0.

    Args:
        statistics: of the features that enter the classifier.
        frame: the frame, of the classes and the width of the statistics.

    Returns:
        0-d float64, in [0, 2]; nan without classes seen, or if all means are zero.

    Raises:
        TypeError: if the frame is not a Frame.
        ValueError: if its shape is not that of the class means.
    """
    if not isinstance(frame, Frame):
        raise TypeError(
            f"frame must be a Frame, got {type(frame).__name__}; a Gram matrix has "
            "forgotten the vectors"
        )
    classes, dim = check_statistics(statistics).num_classes, statistics.dim
    check_matrix(
        "frame.vectors", frame.vectors, rows=classes, columns=dim, why="the shape of the means"
    )
    means = statistics.seen_means.double()
    if not len(means):
        return means.new_full((), torch.nan)
    rows = frame.vectors.to(means)[statistics.seen]
    return (rows / rows.norm() - means / means.norm()).norm()


def _gaps(statistics: ClassStatistics, target: Frame | Tensor) -> Iterator[Tensor]:
    """Differences of the cosines over all pairs of classes seen, block by block."""
    if not isinstance(target, Frame | Tensor):
        raise TypeError(
            f"target must be a Frame or its Gram matrix (K, K), got {type(target).__name__}"
        )
    classes, seen = check_statistics(statistics).num_classes, statistics.seen
    means = statistics.seen_means.double()
    units = means / means.norm(dim=1, keepdim=True)
    if isinstance(target, Frame):
        check_matrix("target", target.vectors, rows=classes, why="the classes of the statistics")
        vectors = target.vectors.to(units)[seen]
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
        for own, other in zip(pair_products(units), pair_products(vectors), strict=True):
            yield own[2] - other[2]
        return
    check_matrix(
        "target", target, rows=classes, columns=classes, why="the classes of the statistics"
    )
    norms = target.diagonal().double().sqrt().to(units.device)[seen]
    place = seen.nonzero().squeeze(1)
    for first, second, cosines in pair_products(units):
        wanted = target[place[first], place[second]].to(units) / (norms[first] * norms[second])
        yield cosines - wanted


def _mean(total: Tensor | float, number: int) -> Tensor:
    value = torch.as_tensor(total, dtype=torch.float64)
    return value / number if number else torch.full_like(value, torch.nan)
