"""A classifier that is the class means themselves."""

import torch
from torch import Tensor, nn

from neuralcollapse.heads.head import AbstractHead, cosine_features, head_shape
from neuralcollapse.processes import num_processes, sum_over_processes
from neuralcollapse.scalars import check_number
from neuralcollapse.sphere import directions


class ClassMeanHead(AbstractHead):
    """The classifier is the class means: logits = cos(h, mean_k) / temperature.

    Nothing of it is learned, so it has neither gradients nor a state in the optimiser. While
    training, when `operands` is given labels, the mean of the unit features of each class in the
    batch enters a moving average; a class keeps its place until it is seen again. Under
    `NormalizedCrossEntropy` this is training with class-mean features (Jiang et al. 2024).

    Args:
        num_classes: K.
        dim: d, the width of the features.
        momentum: share of the old average that stays, in [0, 1).
        through_batch: for the classes in the batch, use the batch's means themselves, with their
            gradient: no proxies at all. The average stands in for the other classes.
        temperature: divides the cosines.

    Example:
        >>> head = ClassMeanHead(num_classes=2, dim=2, momentum=0.5)
        >>> _ = head.operands(torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
        >>> head.weight
        tensor([[1., 0.],
                [0., 1.]])
    """

    bias = None
    means: Tensor
    seen: Tensor

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        momentum: float = 0.9,
        through_batch: bool = False,
        temperature: float = 0.1,
    ):
        super().__init__()
        self.momentum = check_number("momentum", momentum, minimum=0)
        if self.momentum >= 1:
            raise ValueError(
                f"momentum must be below 1, got {momentum}; the means would never move"
            )
        self.through_batch = through_batch
        self.temperature = check_number("temperature", temperature, minimum=0, exclusive=True)
        shape = head_shape(num_classes, dim)
        # Until a class is seen: some direction, so that every class has one.
        self.register_buffer("means", nn.init.normal_(torch.empty(shape), std=dim**-0.5))
        self.register_buffer("seen", torch.zeros(shape[0], dtype=torch.bool))

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(K, d), the averages at unit length."""
        return directions(self.means)

    def operands(
        self, features: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Unit features over the temperature, class means, no bias."""
        scaled = cosine_features(features, self.temperature)
        if labels is None or not self.training:
            return scaled, self.weight, None
        classes, means = _class_means(directions(features), labels, self.num_classes)
        with torch.no_grad():
            keep = torch.where(self.seen[classes], self.momentum, 0.0).to(means.dtype)[:, None]
            average = keep * self.means[classes] + (1 - keep) * means
            self.means.index_copy_(0, classes, average.to(self.means.dtype))
            self.seen[classes] = True
        weight = self.weight
        if self.through_batch:
            weight = weight.index_copy(0, classes, directions(means).to(weight.dtype))
        return scaled, weight, None

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        way = "through_batch" if self.through_batch else f"momentum={self.momentum:g}"
        return f"{self.num_classes}, {self.dim}, {way}, temperature={self.temperature:g}"


def _class_means(units: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Classes (C,) of the samples of all processes, and the means (C, d) of their features."""
    if num_processes() == 1:
        classes, place = labels.unique(return_inverse=True)
        counts = torch.bincount(place, minlength=len(classes)).to(units)
        sums = units.new_zeros(len(classes), units.shape[1]).index_add(0, place, units)
        return classes, sums / counts[:, None]
    sums = units.new_zeros(num_classes, units.shape[1]).index_add(0, labels, units)
    counts = sum_over_processes(torch.bincount(labels, minlength=num_classes)).to(units)
    sums = sum_over_processes(sums)
    classes = counts.nonzero().squeeze(1)
    return classes, sums[classes] / counts[classes, None]
