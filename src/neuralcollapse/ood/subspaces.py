"""Detectors by subspace: how much of a sample lies where the features of the classes do not."""

from typing import Any

import torch
from torch import Tensor

from neuralcollapse.ood.detector import AbstractDetector, blocks, second_moment
from neuralcollapse.scalars import check_boolean, check_integer

# Below this share of the typical spread a coordinate is constant, and scaling it would blow it up.
_CONSTANT = 1e-12


class NECO(AbstractDetector):
    """Share of a feature's length in the principal subspace of the classes' features.

        -norm(P h) / norm(h),  h standardised

    with P the first `dim` principal components of the features that it was fitted on. Source:
    Ammar et al. 2024. Collapsed classes lie in K-1 dimensions and, where NC5 holds, samples of no
    class lie across them. In [-1, 0].

    Args:
        model: as of `AbstractDetector`, as are `layer`, `weight` and `bias`.
        dim: of the subspace; by default K-1 for the K classes of the classifier or the labels.
        standardize: divide each centred coordinate by its standard deviation first, as the
            published code does; without it, features are centred only.
        times_max_logit: multiply by the largest logit, as published for transformers.

    Example:
        >>> labels = torch.arange(30) % 3
        >>> features = torch.eye(3, 6)[labels] + 0.1 * torch.randn(30, 6)
        >>> detector = NECO(standardize=False).fit_features(features, labels)
        >>> inside, outside = detector.predict_features(torch.eye(6)[[0, 5]])
        >>> bool(inside < outside)
        True
    """

    name = "neco"

    def __init__(
        self,
        model: Any = None,
        *,
        layer: str | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        dim: int | None = None,
        standardize: bool = True,
        times_max_logit: bool = False,
    ):
        super().__init__(model, layer=layer, weight=weight, bias=bias)
        self.dim = None if dim is None else check_integer("dim", dim, 1)
        self.standardize = check_boolean("standardize", standardize)
        self.times_max_logit = check_boolean("times_max_logit", times_max_logit)

    def _fit(self, features: Tensor, labels: Tensor | None) -> None:
        if self.times_max_logit and self.weight is None:
            raise ValueError("times_max_logit needs the classifier; pass weight=..., or a model")
        width = features.shape[1]
        dim = self.dim or self._classes(labels) - 1
        if not 1 <= dim <= width:
            raise ValueError(
                f"dim must lie in [1, {width}], up to the width of the features, got {dim}; by "
                "default it is the number of classes minus one"
            )
        self._centre = features.double().mean(0)
        self._scale = torch.ones_like(self._centre)
        if self.standardize:
            spread = second_moment(features, self._centre).diagonal().sqrt()
            constant = spread <= _CONSTANT * spread.max()
            self._scale = torch.where(constant, 1.0, spread)
        moment = second_moment(features, self._centre, self._scale)
        self._basis = torch.linalg.eigh(moment).eigenvectors[:, -dim:]

    def _score(self, features: Tensor) -> Tensor:
        moved = (features - self._centre) / self._scale
        share = (moved @ self._basis).norm(dim=1) / moved.norm(dim=1)
        # A sample on the very centre has no direction: as much inside as any.
        share = share.nan_to_num(1.0)
        if self.times_max_logit:
            share = share * self._logits(features).amax(1)
        return -share

    def _classes(self, labels: Tensor | None) -> int:
        if self.weight is not None:
            return len(self.weight)
        if labels is None:
            raise ValueError("labels must be given where neither dim nor a classifier is")
        return len(labels.unique())


class _AbstractResidual(AbstractDetector):
    """What detectors share that look at the length across a principal subspace."""

    def __init__(
        self,
        model: Any = None,
        *,
        layer: str | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        dim: int | None = None,
    ):
        super().__init__(model, layer=layer, weight=weight, bias=bias)
        self.dim = None if dim is None else check_integer("dim", dim, 1)

    def _fit_residual(self, features: Tensor) -> None:
        self._origin, self._across = _outside(features, self.weight, self.bias, self.dim)

    def _residual(self, features: Tensor) -> Tensor:
        return ((features - self._origin) @ self._across).norm(dim=1)


class Residual(_AbstractResidual):
    """Length of what lies outside of the principal subspace of the classes' features.

        norm(R (h - origin)),  origin = -pinv(weight) bias

    with R the projection across the first `dim` directions of the features' second moment around
    the origin, where all logits are zero; without a classifier, around their mean. Source: Wang et
    al. 2022 (ViM), where it is the part without logits.

    Args:
        model: as of `AbstractDetector`, as are `layer`, `weight` and `bias`.
        dim: of the subspace; by default 1000 for widths from 2048 on, 512 from 768 on, and half
            of the width below, as published.
    """

    name = "residual"

    def _fit(self, features: Tensor, labels: Tensor | None) -> None:
        self._fit_residual(features)

    def _score(self, features: Tensor) -> Tensor:
        return self._residual(features)


class ViM(_AbstractResidual):
    """A virtual logit of the residual against the logits of the classes.

        scale * norm(R (h - origin)) - logsumexp(logits)
        scale = mean(max logit) / mean(norm(R (h - origin))) over the features it was fitted on

    with origin and R as of `Residual`. Source: Wang et al. 2022.

    Args:
        model: as of `AbstractDetector`, as are `layer`, `weight` and `bias`.
        dim: of the subspace, as of `Residual`.
    """

    name = "vim"
    needs_classifier = True

    def _fit(self, features: Tensor, labels: Tensor | None) -> None:
        self._fit_residual(features)
        residual = logit = self._origin.new_zeros(())
        for block in blocks(features):
            wide = block.double()
            residual = residual + self._residual(wide).sum()
            logit = logit + self._logits(wide).amax(1).sum()
        if not bool(residual > 0):
            raise ValueError(
                "dim must leave a residual of the features, got none; they span fewer dimensions, "
                "so choose a smaller dim"
            )
        self._scale = logit / residual

    def _score(self, features: Tensor) -> Tensor:
        return self._scale * self._residual(features) - self._logits(features).logsumexp(1)


def _outside(
    features: Tensor, weight: Tensor | None, bias: Tensor | None, dim: int | None
) -> tuple[Tensor, Tensor]:
    """The origin (d,), and a basis (d, d - dim) of what the features vary least in."""
    width = features.shape[1]
    if dim is None:
        dim = 1000 if width >= 2048 else 512 if width >= 768 else max(1, width // 2)
    if width < 2:
        raise ValueError(f"features must have at least 2 columns, for a residual, got {width}")
    if not 1 <= dim < width:
        raise ValueError(
            f"dim must lie in [1, {width}), below the width of the features, got {dim}"
        )
    if weight is None:
        origin = features.double().mean(0)
    elif bias is None:
        origin = weight.new_zeros(width)
    else:
        origin = -(torch.linalg.pinv(weight) @ bias)
    moment = second_moment(features, origin)
    return origin, torch.linalg.eigh(moment).eigenvectors[:, : width - dim]
