"""Classifiers that follow the class means: the means themselves, and the frame nearest to them."""

import torch
from torch import Tensor, nn

from neuralcollapse.frames.frame import Frame
from neuralcollapse.frames.nearest import gram_root, polar
from neuralcollapse.heads.head import AbstractHead, cosine_features, head_shape
from neuralcollapse.precision import FullPrecision
from neuralcollapse.processes import num_processes, sum_over_processes
from neuralcollapse.scalars import check_boolean, check_number
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
        self.momentum = _check_momentum(momentum)
        self.through_batch = check_boolean("through_batch", through_batch)
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
        classes, average = _moved_on(self, features, labels)
        weight = self.weight
        if self.through_batch:
            weight = weight.index_copy(0, classes, directions(average).to(weight.dtype))
        return scaled, weight, None

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        return _described(self)


class NearestFrameHead(AbstractHead):
    """The frame nearest to the class means: logits = cos(h, v_k) / temperature.

    All angles between classes are those of the frame, as of a `FixedHead`, but the frame turns to
    where the class means lie (`nearest_frame`), in closed form at every training step that is given
    labels. The class means are those of `ClassMeanHead`: moving averages of unit features. Nothing
    of it is learned. A simplex ETF, a hierarchy's frame, or one of a predicted Gram matrix will do;
    only its angles and lengths matter, not its orientation.

    A step takes a singular value decomposition of min(K, d) x d.

    Args:
        frame: of which the Gram matrix is used.
        momentum: share of the old average that stays, in [0, 1).
        through_batch: let the gradient through the batch's share of the averages, and through the
            orientation of the frame that follows from them.
        temperature: divides the cosines.

    Example:
        >>> frame = Frame("two axes", torch.eye(2))
        >>> head = NearestFrameHead(frame, momentum=0.5)
        >>> _ = head.operands(torch.tensor([[0.0, 3.0], [2.0, 0.0]]), torch.tensor([0, 1]))
        >>> head.weight.abs().round()
        tensor([[0., 1.],
                [1., 0.]])
    """

    bias = None
    weight: Tensor
    root: Tensor
    means: Tensor
    seen: Tensor

    def __init__(
        self,
        frame: Frame,
        *,
        momentum: float = 0.9,
        through_batch: bool = False,
        temperature: float = 0.1,
    ):
        super().__init__()
        if not isinstance(frame, Frame):
            raise TypeError(
                f"frame must be a Frame, got {type(frame).__name__}; make one with simplex_etf or "
                "Frame(kind, vectors)"
            )
        self.momentum = _check_momentum(momentum)
        self.through_batch = check_boolean("through_batch", through_batch)
        self.temperature = check_number("temperature", temperature, minimum=0, exclusive=True)
        vectors = frame.vectors
        shape = vectors.shape
        # As wide as any frame of this shape needs, so that a state fits whatever its rank; zeros
        # stand for a frame that is yet to be loaded.
        root = vectors.new_zeros(shape[0], min(shape))
        if bool(vectors.any()):
            found = gram_root(frame.gram, *shape)
            root[:, : found.shape[1]] = found
        # The frame as given, until the first class means are known; then where they lie.
        self.register_buffer("weight", vectors.clone())
        self.register_buffer("root", root)
        self.register_buffer("means", vectors.clone())
        self.register_buffer("seen", torch.zeros(shape[0], dtype=torch.bool))

    def operands(
        self, features: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Unit features over the temperature, the frame where it lies now, no bias."""
        scaled = cosine_features(features, self.temperature)
        if labels is None or not self.training:
            return scaled, self.weight, None
        classes, average = _moved_on(self, features, labels)
        means = self.means
        if self.through_batch:
            means = means.index_copy(0, classes, average.to(means.dtype))
        # In double where the device has it: a float32 root would bend the angles by rounding.
        wide = means.dtype if means.device.type == "mps" else torch.float64
        with FullPrecision(means.device.type):
            root = self.root.to(wide)
            weight = (root @ polar(root.T @ means.to(wide))).to(means.dtype)
        with torch.no_grad():
            self.weight.copy_(weight)
        return scaled, weight, None

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        return _described(self)


def _check_momentum(momentum: float) -> float:
    if check_number("momentum", momentum, minimum=0) >= 1:
        raise ValueError(f"momentum must be below 1, got {momentum}; the means would never move")
    return float(momentum)


def _described(head: ClassMeanHead | NearestFrameHead) -> str:
    through = ", through_batch" if head.through_batch else ""
    return (
        f"{head.num_classes}, {head.dim}, momentum={head.momentum:g}{through}, "
        f"temperature={head.temperature:g}"
    )


def _moved_on(
    head: ClassMeanHead | NearestFrameHead, features: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Classes (C,) of the batch and their averages (C, d), written into the head's means."""
    means, seen = head.means, head.seen
    units = directions(features if head.through_batch else features.detach())
    classes, batch = _class_means(units, labels, len(means))
    keep = head.momentum * seen[classes, None].to(batch.dtype)
    average = keep * means[classes] + (1 - keep) * batch
    with torch.no_grad():
        means.index_copy_(0, classes, average.to(means.dtype))
        seen[classes] = True
    return classes, average


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
