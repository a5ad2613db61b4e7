"""Cross entropy mixed with the cosines that a frame asks for."""

from collections.abc import Callable
from typing import final

from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from neuralcollapse.losses.loss import AbstractLoss, logits
from neuralcollapse.scalars import check_number
from neuralcollapse.sphere import directions


@final
class FrameCosine(AbstractLoss):
    """Cross entropy, and the squared differences between a feature's cosines and its class's.

        share * mean_i(-log(softmax(z_i)_y))
        + mixing * mean_i(sum_k((cos(h_i, w_k) - cos(w_y, w_k))^2))

    with z = W h + b and share = 1 - mixing, or 1 where mixing is above 1. A sum over the classes, a
    mean over the samples. Source: Liang, Davis 2023.

    Made for a fixed frame whose cosines differ from pair to pair, such as that of a hierarchy. On
    such a frame cross entropy alone does not turn features towards their vectors: as they grow it
    makes all margins equal, and free features end as the rows of the pseudo-inverse of the centred
    frame, where siblings are *less* alike than strangers (examples/cosine_term.py). The second term
    is zero exactly where every feature is a positive multiple of its vector (in the span of the
    frame), and sees directions only. With mixing = 1 there is nothing left that makes features
    long, so logits stay at the size of cosines and their softmax says little of confidence.

    On a simplex both halves have the same optimum. A bias takes part in the cross entropy alone; a
    zero feature counts as cosine 0.

    Args:
        mixing: weight of the cosine term, at least 0; or a function of progress that gives it, to
            be moved on with `set_progress`, e.g. `lambda share: 0.8 * (1 - share)`.

    Raises:
        ValueError: if mixing is negative or not finite, also when a function gives such a value.

    Example:
        >>> import torch
        >>> weight, labels = torch.eye(3), torch.tensor([0, 1, 2])
        >>> terms = FrameCosine(mixing=0.5).terms(-torch.eye(3), labels, weight)
        >>> float(terms["frame_cosine"])  # half of (-1 - 1)^2
        2.0
        >>> float(FrameCosine(mixing=1.0)(7 * torch.eye(3), labels, weight))
        0.0
    """

    name = "frame-cosine"

    def __init__(self, mixing: float | Callable[[float], float] = 0.5):
        super().__init__()
        if not callable(mixing):
            check_number("mixing", mixing, minimum=0)
        self._schedule = mixing
        self.set_progress(0.0)

    def set_progress(self, share: float) -> None:
        """Set the mixing to what the schedule says after `share` of the training, in [0, 1].

        A constant mixing stays. Not part of the state dict: call it again after a resume.
        """
        share = check_number("share", share, minimum=0)
        if share > 1:
            raise ValueError(f"share must lie in [0, 1], got {share}; divide steps by all steps")
        mixing = self._schedule(share) if callable(self._schedule) else self._schedule
        self.mixing = check_number("mixing", mixing, minimum=0)

    def terms(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`cross_entropy` and `frame_cosine`, each with its weight."""
        share = 1 - self.mixing if self.mixing <= 1 else 1.0
        likely = cross_entropy(logits(features, weight, bias), labels)
        heads = directions(weight)
        # The difference first: its products with the frame are the differences of the cosines,
        # and half precision costs them digits in proportion to their size.
        gaps = linear(directions(features) - heads[labels], heads).to(likely.dtype)
        aligned = gaps.square().sum(1).mean()
        return {"cross_entropy": share * likely, "frame_cosine": self.mixing * aligned}

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        return f"mixing={self.mixing:g}{', scheduled' if callable(self._schedule) else ''}"
