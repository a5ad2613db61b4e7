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
    batch enters a moving average; a class keeps its place until it is seen again. A batch is that
    of all processes of torch.distributed, which must all call `operands`. Under
    `NormalizedCrossEntropy` this is training with class-mean features (Jiang et al. 2024).

    Args:
        num_classes: K.
        dim: d, the width of the features.
        momentum: share of the old average that stays, in [0, 1).
        through_batch: let the gradient through the batch's share of the averages, 1 - momentum.
            With momentum 0 the classes in the batch are represented by their means in it, and
            there are no proxies at all. `HUG` needs it: without, nothing spreads the classes.
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
        units = directions(features if self.through_batch else features.detach())
        classes, means = _class_means(units, labels, len(self.means))
        keep = self.momentum * self.seen[classes, None].to(means.dtype)
        average = keep * self.means[classes] + (1 - keep) * means
        with torch.no_grad():
            self.means.index_copy_(0, classes, average.to(self.means.dtype))
            self.seen[classes] = True
        weight = self.weight
        if self.through_batch:
            weight = weight.index_copy(0, classes, directions(average).to(weight.dtype))
        return scaled, weight, None

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        through = ", through_batch" if self.through_batch else ""
        return (
            f"{self.num_classes}, {self.dim}, momentum={self.momentum:g}{through}, "
            f"temperature={self.temperature:g}"
        )


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
