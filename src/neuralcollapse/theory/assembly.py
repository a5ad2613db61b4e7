"""A prediction from the singular values of its logits."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuralcollapse.theory.matrices import GroupedMatrix, Groups, log_partition
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
    """The prediction with these logits.

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
    groups, decays = spectrum.groups, problem.decays
    logits = spectrum.logits()
    classifier = spectrum.classifier_gram(decays)
    features = spectrum.feature_gram(decays)
    own = logits.own + bias
    confidence = np.exp(own - log_partition(logits, bias))
    status = statuses(groups, classifier, features, spectrum.contrast == 0, metastable)
    warnings = (*facts.pop("warnings", ()), *common_warnings(problem))
    return Prediction(
        kind=kind,
        regime=regime,
        objective=objective,
        rank=spectrum.rank,
        status=status,
        classifier_norm_squared=_tensor(np.maximum(classifier.diagonal, 0)),
        feature_norm_squared=_tensor(np.maximum(features.diagonal, 0)),
        logit=_tensor(own[groups.index]),
        confidence=_tensor(confidence[groups.index]),
        bias=_tensor(bias[groups.index]),
        layers=tuple(_tensor(values) for values in spectrum.layers(decays)),
        counts=torch.from_numpy(problem.counts).long(),
        loss=problem.loss,
        weight_decay=problem.weight_decay,
        feature_decay=problem.feature_decay,
        warnings=warnings,
        classifier_matrix=classifier,
        feature_matrix=features,
        logit_matrix=logits,
        **facts,
    )


def statuses(
    groups: Groups,
    classifier: GroupedMatrix,
    features: GroupedMatrix,
    merged: NDArray[np.bool_],
    metastable: NDArray[np.bool_] | None,
) -> tuple[str, ...]:
    """(K,), what becomes of each class.

    Args:
        groups: of alike classes.
        classifier: Gram matrix of its rows.
        features: Gram matrix of the class means.
        merged: (G,), groups without contrasts between their classes.
        metastable: (G,), groups that have another minimum with contrasts.
    """
    rows, means = classifier.own, features.own
    zero = (rows <= _ZERO * rows.max()) & (means <= _ZERO * means.max())
    words = np.full(groups.num_classes, "alive", dtype=object)
    for group in np.flatnonzero(zero | (merged & (groups.contrasts > 0))):
        members = groups.members(group)
        if metastable is not None and metastable[group]:
            words[members] = "metastable"
        elif zero[group]:
            words[members] = "collapsed"
        else:
            for k in members:
                words[k] = f"merged with {_named([j for j in members[:9] if j != k], members)}"
    return tuple(words.tolist())


def _named(others: list[int], members: list[int]) -> str:
    shown = others[:_NAMES_SHOWN]
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
