"""NC5: where do features from outside of the classes lie, seen from the class means?"""

import torch
from torch import Tensor

from neuralcollapse.checks import check_finite, check_matrix
from neuralcollapse.statistics import ClassStatistics, check_statistics


def nc5_orthogonality(statistics: ClassStatistics, outsiders: Tensor) -> Tensor:
    """Mean absolute cosine of class means and the mean of features from outside; 0 at collapse.

        mean_k(abs(cos(mu_k, mu_outside)))

    Source: Ammar et al. 2024.

    The means are raw, as they enter the classifier: the origin is part of the question. So, other
    than most of the table, it sees an offset that all features share. Blind to the outsiders'
    spread: their mean may lie across the class means while each of them lies along one.

    Args:
        statistics: of features of the classes.
        outsiders: (M, d), features of samples that belong to none of them.

    Returns:
        0-d float64, in [0, 1]; nan for no classes, no outsiders, or a zero mean.

    Raises:
        ValueError: if the width differs from that of the class means, or a value is not finite.

    Example:
        >>> statistics = ClassStatistics.from_features(torch.eye(3)[:2], torch.arange(2), 2)
        >>> outsiders = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 3.0]])
        >>> float(nc5_orthogonality(statistics, outsiders))
        0.0
    """
    check_statistics(statistics)
    check_matrix("outsiders", outsiders, columns=statistics.dim, why="the width of the class means")
    check_finite("outsiders", outsiders)
    means = statistics.seen_means.double()
    centre = outsiders.to(means.device).double().mean(0)
    if not len(means):
        return means.new_full((), torch.nan)
    return (means @ centre / (means.norm(dim=1) * centre.norm())).abs().mean()
