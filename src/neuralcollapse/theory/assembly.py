"""A prediction from the singular values of its logits."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuralcollapse.theory.matrices import GroupedMatrix, Groups
from neuralcollapse.theory.prediction import Prediction
from neuralcollapse.theory.problem import Problem
from neuralcollapse.theory.spectrum import Spectrum

Array = NDArray[np.float64]

_NAMES_SHOWN = 6
# Relative size below which a vector or a difference counts as zero, where numbers are rounded.
_ZERO = 1e-12


def assembled(
    problem: Problem,
    spectrum: Spectrum,
    bias: Array,
    objective: float,
    *,
    kind: str,
    regime: str,
    metastable: NDArray[np.bool_] | None = None,
    **facts: Any,
) -> Prediction:
    """The prediction with these logits, and layers and features balanced.

    Args:
        problem: what is minimised.
        spectrum: of the logits without bias.
        bias: (G,), of each group's outputs.
        objective: its value.
        kind: of the geometry.
        regime: which case it is.
        metastable: (G,), groups whose classes are zero or merged, but have another minimum.
        facts: other fields of the prediction.
    """
    decays, groups = problem.decays, spectrum.groups
    classifier = spectrum.classifier_gram(decays)
    features = spectrum.feature_gram(decays)
    rows, means = classifier.own, features.own
    dead = (rows <= _ZERO * rows.max()) & (means <= _ZERO * means.max())
    merged = (groups.contrasts > 0) & (spectrum.contrast == 0)
    return described(
        problem,
        classifier,
        features,
        spectrum.logits(),
        bias,
        objective=objective,
        kind=kind,
        regime=regime,
        rank=spectrum.rank,
        status=statuses(groups, dead, merged, metastable),
        layers=spectrum.layers(decays),
        **facts,
    )


def described(
    problem: Problem,
    classifier: GroupedMatrix,
    features: GroupedMatrix,
    logits: GroupedMatrix,
    bias: Array,
    *,
    layers: tuple[Array, ...],
    warnings: tuple[str, ...] = (),
    **facts: Any,
) -> Prediction:
    """The prediction with these matrices; `facts` are its other fields."""
    index = logits.groups.index
    fields = {"weight_decay": problem.weight_decay, "feature_decay": problem.feature_decay, **facts}
    return Prediction(
        classifier_norm_squared=_tensor(np.maximum(classifier.diagonal, 0)),
        feature_norm_squared=_tensor(np.maximum(features.diagonal, 0)),
        logit=_tensor((logits.own + bias)[index]),
        bias=_tensor(bias[index]),
        layers=tuple(_tensor(values) for values in layers),
        counts=torch.from_numpy(problem.counts).long(),
        loss=problem.loss,
        warnings=(*warnings, *common_warnings(problem)),
        classifier_matrix=classifier,
        feature_matrix=features,
        logit_matrix=logits,
        **fields,
    )


def statuses(
    groups: Groups,
    dead: NDArray[np.bool_],
    merged: NDArray[np.bool_],
    metastable: NDArray[np.bool_] | None = None,
    decided: NDArray[np.bool_] | None = None,
) -> tuple[str, ...]:
    """(K,), what becomes of each class.

    Args:
        groups: of alike classes.
        dead: (G,), groups whose classes are zero.
        merged: (G,), groups whose classes coincide.
        metastable: (G,), groups that are dead or merged, but have a minimum where they are not.
        decided: (G,), groups that are dead, but for which the bias decides.
    """
    words = np.full(groups.num_classes, "alive", dtype=object)
    for group in np.flatnonzero(dead | merged).tolist():
        members = groups.members(group)
        if metastable is not None and metastable[group]:
            words[members] = "metastable"
        elif decided is not None and decided[group]:
            words[members] = "decided by bias"
        elif dead[group]:
            words[members] = "collapsed"
        else:
            for k in members:
                words[k] = f"merged with {_named(k, members)}"
    return tuple(words.tolist())


def _named(k: int, members: list[int]) -> str:
    shown = [j for j in members[: _NAMES_SHOWN + 1] if j != k][:_NAMES_SHOWN]
    more = len(members) - 1 - len(shown)
    return ", ".join(map(str, shown)) + (f" and {more} more" if more > 0 else "")


def common_warnings(problem: Problem) -> tuple[str, ...]:
    """What is to be said of any prediction for these counts."""
    singles = np.flatnonzero(problem.counts == 1).tolist()
    if not singles or problem.targets is not None:
        return ()
    which = f"class {singles[0]} has" if len(singles) == 1 else f"{len(singles)} classes have"
    return (
        f"{which} one sample: within-class variability is zero there from the start and tells "
        "nothing of collapse",
    )


def _tensor(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))
