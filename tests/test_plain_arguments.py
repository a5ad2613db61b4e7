"""Arguments of the public face that are yes or no, or class statistics, and what is given instead.

A text such as "no" does not count as yes, and features are no statistics.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import neuralcollapse as nc
from neuralcollapse import metrics
from neuralcollapse.ood import NECO
from neuralcollapse.scalars import check_boolean

FEATURES = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(30) % 3
STATISTICS = nc.ClassStatistics.from_features(FEATURES, LABELS, 3)
FRAME = nc.simplex_etf(3, 4)
# By what is called, how; the one argument in question is given by name.
CALLS: dict[str, Callable[..., Any]] = {
    "ClassMeanHead": lambda **given: nc.ClassMeanHead(3, 4, **given),
    "ClassStatistics.from_features": lambda **given: nc.ClassStatistics.from_features(
        FEATURES, LABELS, 3, **given
    ),
    "DeepLinearHead": lambda **given: nc.DeepLinearHead(3, 4, depth=2, **given),
    "FeatureTap": lambda **given: nc.FeatureTap(nn.Linear(4, 3), **given),
    "HUG": lambda **given: nc.HUG(**given),
    "Hierarchy.from_file": lambda **given: nc.Hierarchy.from_file(Path("no.csv"), **given),
    "LinearHead": lambda **given: nc.LinearHead(3, 4, **given),
    "NearestFrameHead": lambda **given: nc.NearestFrameHead(FRAME, **given),
    "Prediction.to_dict": lambda **given: nc.predict(
        [5, 5, 5], weight_decay=1e-3, feature_decay=1e-3
    ).to_dict(**given),
    "StatisticsAccumulator": lambda **given: nc.StatisticsAccumulator(3, 4, **given),
    "gaussian_energy": lambda **given: nc.gaussian_energy(FEATURES, 2.0, **given),
    "gnc2_energy_gap": lambda **given: nc.gnc2_energy_gap(STATISTICS, **given),
    "gnc2_gaussian": lambda **given: nc.gnc2_gaussian(STATISTICS, **given),
    "gnc2_log_mean": lambda **given: nc.gnc2_log_mean(STATISTICS, **given),
    "gnc2_log_variance": lambda **given: nc.gnc2_log_variance(STATISTICS, **given),
    "gnc2_margin": lambda **given: nc.gnc2_margin(STATISTICS, **given),
    "hug_inter": lambda **given: nc.hug_inter(STATISTICS, **given),
    "hug_intra": lambda **given: nc.hug_intra(STATISTICS, FEATURES, LABELS, **given),
    "measure": lambda **given: nc.measure(nn.Linear(4, 3), [(FEATURES, LABELS)], **given),
    "measure_features": lambda **given: nc.measure_features(FEATURES, LABELS, **given),
    "measure_shards": lambda **given: nc.measure_shards(["no.npz"], **given),
    "measure_shards_on_ray": lambda **given: nc.measure_shards_on_ray(["no.npz"], **given),
    "optimal_configuration": lambda **given: nc.optimal_configuration(3, 2, **given),
    "reference_energy": lambda **given: nc.reference_energy(3, 2, **given),
    "riesz_energy": lambda **given: nc.riesz_energy(FEATURES, 2, **given),
    "spherical_code": lambda **given: nc.spherical_code(3, 2, **given),
    "transfer_scores": lambda **given: nc.transfer_scores(FEATURES, LABELS, **given),
}
# Not for a user to say, or a path as well.
LEFT_OUT = {("FeatureTap.take", "tokens")}


def arguments_of(name: str, what: Any) -> Iterator[tuple[str, str]]:
    for argument in inspect.signature(what).parameters.values():
        if argument.annotation in (bool, "bool", bool | None, "bool | None"):
            yield name, argument.name


def arguments_that_are_yes_or_no() -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for name in nc.__all__:
        value = getattr(nc, name)
        if not callable(value):
            continue
        found.update(arguments_of(name, value))
        for part, method in vars(value).items() if inspect.isclass(value) else ():
            method = getattr(method, "__func__", method)
            if not part.startswith("_") and inspect.isfunction(method):
                found.update(arguments_of(f"{name}.{part}", method))
    return found - LEFT_OUT


@pytest.mark.parametrize("name, argument", sorted(arguments_that_are_yes_or_no()))
def test_a_text_is_neither_yes_nor_no(name: str, argument: str) -> None:
    with pytest.raises(TypeError, match=f"^{argument} must be True or False, got 'no' of type str"):
        CALLS[name](**{argument: "no"})


def test_every_call_is_of_the_face() -> None:
    assert {name for name, _ in arguments_that_are_yes_or_no()} == {*CALLS}


# --- class statistics -----------------------------------------------------------------------------


def that_take_statistics() -> list[str]:
    """The public names, of the face and of the metrics, whose first argument they are."""
    names = {name for name in [*nc.__all__, *vars(metrics)] if not name.startswith("_")}
    found = []
    for name in sorted(names - {"Measurement"}):
        value = getattr(metrics, name, None) or getattr(nc, name)
        if callable(value) and (parameters := [*inspect.signature(value).parameters]):
            found += [name] if parameters[0] == "statistics" else []
    return found


MEASURED = nc.measure_features(FEATURES, LABELS)
OTHERS = {
    "features": FEATURES,
    "labels": LABELS,
    "weight": FEATURES[:3],
    "outsiders": FEATURES,
    "target": FRAME,
    "frame": FRAME,
    "dtype": torch.bfloat16,
}


@pytest.mark.parametrize("name", that_take_statistics())
def test_features_are_no_statistics(name: str) -> None:
    function = getattr(metrics, name, None) or getattr(nc, name)
    _, *others = inspect.signature(function).parameters.values()
    given = {one.name: OTHERS[one.name] for one in others if one.default is one.empty}
    told = r"statistics must be ClassStatistics, got Tensor; make them by ClassStatistics\.from_fea"
    with pytest.raises(TypeError, match=told):
        function(FEATURES, **given)
    with pytest.raises(TypeError, match="got ndarray; make them by"):
        function(FEATURES.numpy(), **given)
    with pytest.raises(TypeError, match="got Measurement; pass its statistics"):
        function(MEASURED, **given)


def test_they_are_many() -> None:
    assert {row.key for row in nc.METRICS if "statistics" in row.needs} <= {*that_take_statistics()}


def test_detectors() -> None:
    for argument in ("standardize", "times_max_logit"):
        with pytest.raises(TypeError, match=f"{argument} must be True or False, got 'no'"):
            NECO(**{argument: "no"})  # pyright: ignore[reportArgumentType]


def test_those_of_numpy_will_do() -> None:
    assert check_boolean("scatter", np.bool_(False)) is False
    assert check_boolean("scatter", True) is True
    for given in (1, None, "yes", torch.tensor(True)):
        with pytest.raises(TypeError, match="scatter must be True or False"):
            check_boolean("scatter", given)
