"""The directions that cross entropy tends to as the decay vanishes: SELI and its relatives.

There the logits grow without bound, and what is left of them is the solution of a support vector
machine over classifier and features: least nuclear norm at margin one.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor

from neuralcollapse.scalars import check_choice
from neuralcollapse.theory.assembly import assembled
from neuralcollapse.theory.matrices import GroupedMatrix, Groups
from neuralcollapse.theory.prediction import Prediction
from neuralcollapse.theory.problem import Problem, checked_counts, checked_per_class
from neuralcollapse.theory.spectrum import Spectrum

# Rounding of a singular vector's entry.
_ROUNDING = 1e-10


def vanishing_decay(
    counts: Sequence[int] | Tensor,
    *,
    loss: Literal["ce", "cdt", "ldt"] = "ce",
    class_scales: Sequence[float] | Tensor | None = None,
) -> Prediction:
    """The geometry of cross entropy for vanishing equal decays, at margin one; no bias.

        Z = I - 1 1^T / K                                       (ce: SELI)
        Z = (I - 1 1^T / K) diag(1 / class_scales)              (ldt)
        Z = (I - w w^T / |w|^2) diag(1 / class_scales),  w = 1 / class_scales     (cdt)
        Z diag(sqrt(counts)) = U S V^T
        gram_classifier = U S U^T
        gram_features = diag(counts)^(-1/2) V S V^T diag(counts)^(-1/2)

    with Z the class means of the logits, row = output, column = class. SELI: Thrampoulidis et al.
    2022; the others: Behnia et al. 2023. Decays w and h scale the classifier's Gram matrix by
    sqrt(h / w) and that of the features by sqrt(w / h), besides the growth of the logits. It is
    reached slowly, as 1 / log(1 / decay): at practical decays `predict` is much closer.

    Args:
        counts: (K,), samples per class.
        loss: "ce", or with class_scales d "ldt", log sum_c exp(d_y (z_c - z_y)), or "cdt",
            log sum_c exp(d_c z_c - d_y z_y).
        class_scales: (K,), positive.

    Returns:
        A prediction of kind "SELI" ("spectral" for the others). Its objective is the nuclear norm,
        its certificate 0 where duality proves the optimality: the entries of U V^T off the diagonal
        are not positive.

    Raises:
        ValueError: if counts or class_scales are not positive, or given for "ce".

    Example:
        >>> vanishing_decay([30, 30, 3, 3]).gram_classifier[0]
        tensor([ 3.7541, -1.7231, -1.0155, -1.0155], dtype=torch.float64)
    """
    sizes = checked_counts(counts)
    check_choice("loss", loss, ("ce", "cdt", "ldt"))
    if (class_scales is None) != (loss == "ce"):
        raise ValueError(
            f"class_scales must be given for loss cdt or ldt and only there, got loss={loss!r} "
            f"and class_scales={class_scales!r}"
        )
    scales = np.ones_like(sizes)
    if class_scales is not None:
        scales = checked_per_class("class_scales", class_scales, len(sizes))
    groups = Groups.alike(sizes, scales)
    each, scale = groups.each(sizes), groups.each(scales)
    normal = np.sqrt(groups.sizes) / (scale if loss == "cdt" else 1.0)
    normal = normal / np.linalg.norm(normal)
    reduced = (np.eye(len(groups)) - np.outer(normal, normal)) / scale
    column = np.sqrt(each)
    left, values, right = np.linalg.svd(reduced * column)
    values[-1] = 0.0  # the direction `normal` over outputs
    spectrum = Spectrum(groups, column / scale, values, left, right.T, column)
    signs = GroupedMatrix(groups, np.ones(len(groups)), left[:, :-1] @ right[:-1])
    pairs = groups.sizes[:, None] * groups.sizes > np.diag(groups.sizes)
    proved = float(signs.between[pairs].max(initial=-1.0)) <= _ROUNDING
    unproved = (
        "not proved optimal: the dual certificate has a wrong sign for these counts and scales; "
        "only where it holds is this the limit",
    )
    problem = Problem(
        counts=sizes, loss=loss, weight_decay=(1.0,), feature_decay=1.0, class_scales=scales
    )
    names = {
        "ce": "SELI, the limit of cross entropy",
        "cdt": "the limit of class-dependent temperatures",
        "ldt": "the limit of label-dependent temperatures",
    }
    return assembled(
        problem,
        spectrum,
        np.zeros(len(groups)),
        float(values.sum() + groups.contrasts @ spectrum.contrast),
        kind="SELI" if loss == "ce" else "spectral",
        regime=f"{names[loss]} for vanishing decay, at margin one",
        weight_decay=None,
        feature_decay=None,
        threshold=None,
        spinodal=None,
        certificate=0.0 if proved else None,
        reference="Thrampoulidis et al. 2022" if loss == "ce" else "Behnia et al. 2023",
        warnings=() if proved else unproved,
    )
