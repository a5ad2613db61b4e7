"""Classifiers whose angles are those of a frame: fixed, or turning as a whole."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from neuralcollapse.checks import check_matrix
from neuralcollapse.frames.frame import Frame
from neuralcollapse.heads.head import AbstractHead, cosine_features
from neuralcollapse.scalars import check_number
from neuralcollapse.sphere import directions


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
        return cosine_features(features, self.temperature), self.weight, None

    def assign(self, means: Tensor) -> Tensor:
        """As of `FixedHead`."""
        order = assigned(means, self.weight.detach())
        self.vectors.copy_(self.vectors[order])
        return order

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        return f"{self.num_classes}, {self.dim}, temperature={self.temperature:g}"


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


def _check_frame(frame: Frame) -> None:
    if not isinstance(frame, Frame):
        raise TypeError(
            f"frame must be a Frame, got {type(frame).__name__}; make one with simplex_etf or "
            "Frame(kind, vectors)"
        )
