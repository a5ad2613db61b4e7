"""Heads: what turns features into logits, learned or fixed.

A loss owns no classifier. A head owns it, and hands loss and prediction the same operands:
`features, weight, bias = head.operands(features)`, logits = features @ weight.T + bias.
"""

from abc import ABC, abstractmethod

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import linear

from neuralcollapse.checks import check_matrix
from neuralcollapse.frames.frame import Frame
from neuralcollapse.processes import num_processes, sum_over_processes
from neuralcollapse.scalars import check_integer, check_number
from neuralcollapse.sphere import directions


class AbstractHead(nn.Module, ABC):
    """A classifier on features (N, d).

    `weight` (K, d) is the classifier in effect, the one that decides and is measured, and `bias`
    (K,) its bias or None.
    """

    weight: Tensor
    bias: Tensor | None

    @abstractmethod
    def operands(
        self, features: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features, weight and bias whose affine map is the logits.

        A training step gives the labels (N,) too: a head may follow the classes with them.
        """

    def forward(self, features: Tensor) -> Tensor:
        """(N, K), the logits of features (N, d)."""
        features, weight, bias = self.operands(features)
        shift = None if bias is None else bias.to(features.dtype)
        return linear(features, weight.to(features.dtype), shift)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.weight.shape[0]

    @property
    def dim(self) -> int:
        """d, the width of the features."""
        return self.weight.shape[1]


class LinearHead(AbstractHead):
    """A learned affine classifier: logits = h @ weight.T + bias.

    Args:
        num_classes: K.
        dim: d, the width of the features.
        bias: learn a bias; it starts at zero.

    Example:
        >>> LinearHead(num_classes=10, dim=64)(torch.zeros(3, 64)).shape
        torch.Size([3, 10])
    """

    def __init__(self, num_classes: int, dim: int, *, bias: bool = True):
        super().__init__()
        shape = _shape(num_classes, dim)
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(shape), a=5**0.5))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None

    def operands(
        self, features: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features, weight and bias as they are."""
        return features, self.weight, self.bias

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        return f"{self.num_classes}, {self.dim}, bias={self.bias is not None}"


class CosineHead(AbstractHead):
    """A learned classifier of directions: logits = cos(h, prototype_k) / temperature.

    `weight` is the unit prototypes. A zero feature has logits of zero.

    Args:
        num_classes: K.
        dim: d, the width of the features.
        temperature: divides the cosines; 0.1 by default.

    Example:
        >>> head = CosineHead(num_classes=10, dim=64, temperature=0.5)
        >>> bool(head(torch.randn(3, 64)).abs().max() <= 2)
        True
    """

    bias = None

    def __init__(self, num_classes: int, dim: int, *, temperature: float = 0.1):
        super().__init__()
        self.temperature = check_number("temperature", temperature, minimum=0, exclusive=True)
        shape = _shape(num_classes, dim)
        self.prototypes = nn.Parameter(nn.init.normal_(torch.empty(shape), std=dim**-0.5))

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(K, d), the prototypes at unit length."""
        return directions(self.prototypes)

    def operands(
        self, features: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Unit features over the temperature, unit prototypes, no bias."""
        return _cosines(features, self.temperature), self.weight, None

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        return f"{self.num_classes}, {self.dim}, temperature={self.temperature:g}"


class FixedHead(AbstractHead):
    """A classifier that is not learned: the vectors of a frame, kept in the state dict.

    The frame is a buffer, so that checkpoints, resumed runs and exports carry it.

    Args:
        frame: its vectors (K, d) become the classifier.
        scale: length of the rows.

    Example:
        >>> from neuralcollapse.frames import simplex_etf
        >>> head = FixedHead(simplex_etf(num_classes=4, dim=3))
        >>> list(head.state_dict()), list(head.parameters())
        (['weight'], [])
    """

    bias = None

    def __init__(self, frame: Frame, *, scale: float = 1.0):
        super().__init__()
        _check_frame(frame)
        scale = check_number("scale", scale, minimum=0, exclusive=True)
        self.register_buffer("weight", frame.vectors * scale)

    def assign(self, means: Tensor) -> Tensor:
        """Give each class the vector that suits its mean, and return who got which; see `assigned`.

        The rows of `weight` change places. For after a warm-up: before it, any class may take any
        vector, and those that look alike need not lie side by side.
        """
        order = assigned(means, self.weight)
        self.weight.copy_(self.weight[order])
        return order

    def operands(
        self, features: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features as they are, the vectors of the frame, no bias."""
        return features, self.weight, None

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        return f"{self.num_classes}, {self.dim}"


class RotatedHead(AbstractHead):
    """A fixed frame that may turn: logits = cos(h, rotation @ v_k) / temperature.

    Partly learned: angles between classes are those of the frame throughout, the orientation in the
    space of features is learned. The rotation is the Cayley transform of a skew matrix, computed in
    double precision where the device has it, so it stays orthogonal to rounding. Weight decay pulls
    it towards the frame as given.

    Args:
        frame: vectors v_k (K, d).
        temperature: divides the cosines.

    Example:
        >>> from neuralcollapse.frames import simplex_etf
        >>> head = RotatedHead(simplex_etf(num_classes=4, dim=3))
        >>> head.weight.shape, [name for name, _ in head.named_parameters()]
        (torch.Size([4, 3]), ['skew'])
    """

    bias = None
    vectors: Tensor

    def __init__(self, frame: Frame, *, temperature: float = 0.1):
        super().__init__()
        _check_frame(frame)
        self.temperature = check_number("temperature", temperature, minimum=0, exclusive=True)
        self.register_buffer("vectors", frame.vectors.clone())
        self.skew = nn.Parameter(frame.vectors.new_zeros(frame.dim, frame.dim))

    @property
    def rotation(self) -> Tensor:
        """(d, d), orthogonal: (I - A)(I + A)^-1 for A = S - S^T, S the lower triangle of `skew`."""
        wide = self.skew if self.skew.device.type == "mps" else self.skew.double()
        lower = wide.tril(-1)
        skew = lower - lower.T
        eye = torch.eye(len(skew), dtype=skew.dtype, device=skew.device)
        return torch.linalg.solve(eye + skew, eye - skew).to(self.skew.dtype)

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(K, d), the vectors of the frame, rotated."""
        return self.vectors @ self.rotation.T

    def operands(
        self, features: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Unit features over the temperature, rotated vectors, no bias."""
        return _cosines(features, self.temperature), self.weight, None

    def assign(self, means: Tensor) -> Tensor:
        """As of `FixedHead`."""
        order = assigned(means, self.weight.detach())
        self.vectors.copy_(self.vectors[order])
        return order

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        return f"{self.num_classes}, {self.dim}, temperature={self.temperature:g}"


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
        shape = _shape(num_classes, dim)
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
        scaled = _cosines(features, self.temperature)
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


HEADS: tuple[type[AbstractHead], ...] = (
    LinearHead,
    CosineHead,
    FixedHead,
    RotatedHead,
    ClassMeanHead,
)


def assigned(means: Tensor, vectors: Tensor) -> Tensor:
    """(K,), for each class the vector that it gets: the sum of cos(mean_k, vector) is greatest.

    The assignment problem, solved exactly by SciPy; it takes a K x K array. Classes whose mean is
    zero or not finite get what is left.

    Args:
        means: (K, d), of the classes.
        vectors: (K, d), to be given out, each once.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> assigned(torch.tensor([[0.0, 2.0], [3.0, 1.0]]), torch.eye(2))
        tensor([1, 0])
    """
    check_matrix("means", means, rows=len(vectors), columns=vectors.shape[1], why="as the vectors")
    cosines = directions(means.detach()).double() @ directions(vectors.detach()).double().T
    _, order = linear_sum_assignment(cosines.nan_to_num(0.0).cpu().numpy(), maximize=True)
    return torch.as_tensor(order, device=vectors.device)


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


def _cosines(features: Tensor, temperature: float) -> Tensor:
    """Features of which the product with unit rows is the cosine over the temperature."""
    return (directions(features) / temperature).to(features.dtype)


def _check_frame(frame: Frame) -> None:
    if not isinstance(frame, Frame):
        raise TypeError(
            f"frame must be a Frame, got {type(frame).__name__}; make one with simplex_etf or "
            "Frame(kind, vectors)"
        )


def _shape(num_classes: int, dim: int) -> tuple[int, int]:
    return check_integer("num_classes", num_classes, 1), check_integer("dim", dim, 1)
