"""Nothing without a row: losses, frames, heads, metrics, closed forms; and the face names all."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import neuralcollapse
import neuralcollapse.frames
import neuralcollapse.heads
import neuralcollapse.losses
import neuralcollapse.metrics
from cases.frames import FRAME_CASES, FRAME_PARTS
from cases.heads import HEAD_CASES
from cases.losses import LOSS_CASES
from cases.metrics import BREAKS, METRIC_CASES, METRIC_PARTS
from cases.predictions import PREDICTION_CASES
from neuralcollapse.frames import (
    FRAMES,
    Frame,
    NodeSubspaces,
    barz_denzler_frame,
    hierarchy_frame,
    node_subspaces,
)
from neuralcollapse.heads import HEADS, AbstractHead
from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.losses import LOSSES, AbstractLoss
from neuralcollapse.metrics import METRICS, MISTAKE_METRICS, Metric
from neuralcollapse.theory import (
    Prediction,
    cross_entropy,
    deep_cross_entropy,
    predict,
    rectified,
    squared_error,
)

# The base file of a folder and its gatherers hold what the others are made of.
BASES = {"loss", "frame", "head", "pairs", "table", "evaluation"}
# Frames made of a hierarchy, not of a number of classes, and what they are made with: no choices
# of the option --frame, with tests of their own.
BASES |= {"hierarchical", "branching", "low_rank", "nearest", "node_spaces"}


def siblings(folder: ModuleType) -> Iterator[ModuleType]:
    """The modules of a folder that hold one subject each."""
    for info in pkgutil.iter_modules(folder.__path__):
        if info.name not in BASES:
            yield importlib.import_module(f"{folder.__name__}.{info.name}")


def public(module: ModuleType) -> dict[str, Any]:
    """The public functions and classes that a module defines itself."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    }


# --- rows and cases -----------------------------------------------------------------------------


def test_every_loss_has_a_row_and_a_case() -> None:
    defined = [
        item for module in siblings(neuralcollapse.losses) for item in public(module).values()
    ]
    assert all(inspect.isclass(item) and issubclass(item, AbstractLoss) for item in defined)
    assert {*defined} == {*LOSSES}
    assert {*LOSSES} == {case.kind for case in LOSS_CASES}
    names = [loss.name for loss in LOSSES]
    assert len({*names}) == len(names)


def test_every_frame_has_a_row_and_a_case() -> None:
    defined = {
        name: item
        for module in siblings(neuralcollapse.frames)
        for name, item in public(module).items()
    }
    rows = dict(FRAMES)
    assert len(rows) == len(FRAMES)
    assert {*defined} == {function.__name__ for function in rows.values()} | FRAME_PARTS
    for function in rows.values():
        assert defined[function.__name__] is function
        hints = inspect.signature(function).return_annotation
        assert hints in (Frame, "Frame")
        leading = list(inspect.signature(function).parameters)[:3]
        assert leading == ["num_classes", "dim", "generator"]
    assert rows == {case.name: case.make for case in FRAME_CASES}


def test_every_head_has_a_row_and_a_case() -> None:
    heads = {
        item
        for module in siblings(neuralcollapse.heads)
        for item in public(module).values()
        if inspect.isclass(item) and issubclass(item, AbstractHead) and item is not AbstractHead
    }
    assert heads == {*HEADS}
    assert heads == {case.kind for case in HEAD_CASES}


def test_every_metric_has_a_row_and_a_case() -> None:
    defined = {name for module in siblings(neuralcollapse.metrics) for name in public(module)}
    keys = [metric.key for metric in METRICS]
    assert len({*keys}) == len(keys)
    mistakes = [metric.key for metric in MISTAKE_METRICS]  # each with a slow loop in test_mistakes
    assert defined == {*keys, *mistakes, *METRIC_PARTS}
    assert len(defined) == len(keys) + len(mistakes) + len(METRIC_PARTS)
    assert {*keys} == {*METRIC_CASES}


def noting(form: Callable[..., Prediction], asked: set[Any]) -> Callable[..., Prediction]:
    """The same, and each call puts it among those asked."""

    def answer(*arguments: Any) -> Prediction:
        asked.add(form)
        return form(*arguments)

    return answer


def test_every_closed_form_has_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each function of theory that answers a question of `predict` is asked by a row."""
    forms, asked = set(), set()
    for module in (cross_entropy, deep_cross_entropy, rectified, squared_error):
        for name, form in public(module).items():
            if inspect.signature(form).return_annotation is not Prediction:
                continue
            forms.add(form)

            monkeypatch.setattr(module, name, noting(form, asked))
    for case in PREDICTION_CASES:
        predict(**case.arguments)
    assert forms == asked
    assert len(forms) >= 10


def test_every_break_is_seen_and_every_metric_is_blind_to_something() -> None:
    seen = [case.sees for case in METRIC_CASES.values()]
    assert frozenset().union(*seen) == {*BREAKS}
    assert all(sees and sees < {*BREAKS} for sees in seen)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.key)
def test_a_row_says_what_the_function_takes(metric: Metric) -> None:
    parameters = inspect.signature(metric.function).parameters
    arguments = [need for need in metric.needs if need != "scatter"]
    assert list(parameters)[: len(arguments)] == arguments
    assert ("global_mean" in parameters) == metric.takes_global_mean
    assert metric.better in ("lower", "higher")
    if not callable(metric.at_collapse):
        assert metric.at_collapse == (0 if metric.better == "lower" else 1)
    assert metric.regime in ("any", "simplex", "general")
    assert metric.summary
    assert metric.reference[-4:].isdigit()


def documented() -> list[Any]:
    functions = [metric.function for metric in (*METRICS, *MISTAKE_METRICS)]
    functions += [make for _, make in FRAMES]
    of_trees = [hierarchy_frame, barz_denzler_frame, node_subspaces, NodeSubspaces]
    return [*functions, *LOSSES, *HEADS, *of_trees, Hierarchy]


@pytest.mark.parametrize("item", documented(), ids=lambda item: item.__name__)
def test_everything_in_the_tuples_is_documented(item: Any) -> None:
    text = inspect.getdoc(item) or ""
    assert text.splitlines()[0].endswith((".", ":"))
    hints = inspect.signature(item).parameters.values()
    assert all(hint.annotation is not inspect.Parameter.empty for hint in hints)


# --- the face -------------------------------------------------------------------------------------

FACE = Path(neuralcollapse.__file__)


def typed_names() -> dict[str, str]:
    """Name and module of each import under TYPE_CHECKING; each must be an explicit re-export."""
    names: dict[str, str] = {}
    for node in ast.parse(FACE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                assert isinstance(line, ast.ImportFrom)
                assert line.module is not None
                for alias in line.names:
                    assert alias.asname == alias.name
                    names[alias.name] = line.module.removeprefix("neuralcollapse.")
    return names


def lazy_names() -> dict[str, str]:
    return {
        name: module for module, names in neuralcollapse._FACE.items() for name in names.split()
    }


def test_the_two_lists_of_the_face_agree() -> None:
    assert typed_names() == lazy_names()
    assert sorted(lazy_names()) == neuralcollapse.__all__
    assert sum(len(names.split()) for names in neuralcollapse._FACE.values()) == len(lazy_names())


@pytest.mark.parametrize("name", neuralcollapse.__all__)
def test_every_name_of_the_face_is_there(name: str) -> None:
    module = importlib.import_module(f"neuralcollapse.{lazy_names()[name]}")
    assert getattr(neuralcollapse, name) is getattr(module, name)
    assert name in dir(neuralcollapse)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'neuralcollapse' has no attribute 'nc5'"):
        _ = neuralcollapse.nc5
    assert not hasattr(neuralcollapse, "__wrapped__")


def test_the_face_shows_everything_in_the_tuples() -> None:
    for item in documented():
        assert getattr(neuralcollapse, item.__name__) is item


PROMISED = (
    "StatisticsAccumulator ClassStatistics measure measure_features FeatureTap Measurement "
    "CrossEntropy SquaredError DotRegression simplex_etf orthogonal_frame LinearHead CosineHead "
    "FixedHead nc1 nc1_trace_ratio cdnv nc2_equinorm nc2_equiangle nc2_max_angle "
    "nc2_etf_distance nc2w_equinorm nc2w_equiangle nc2w_max_angle nc2w_etf_distance nc3_duality "
    "nc3_alignment nc4_disagreement"
)


def test_what_was_promised_is_in_the_face() -> None:
    assert {*PROMISED.split()} <= {*neuralcollapse.__all__}


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_no_library() -> None:
    """The command line's --help must not wait for PyTorch."""
    heavy = ["torch", "numpy", "scipy", "safetensors", "rich", "typer", "sklearn", "plotly"]
    code = f"import sys, neuralcollapse; print([m for m in {heavy} if m in sys.modules])"
    assert run(code) == "[]"
    assert run("import neuralcollapse; print(neuralcollapse.__version__)")


def test_the_core_imports_no_extra() -> None:
    """Everything up to `measure` needs torch, numpy, scipy, safetensors and rich only."""
    extras = "sklearn lightning_fabric lightning torchmetrics plotly jinja2 ray timm torchvision"
    code = (
        "import sys, torch; torch_brings = set(sys.modules); from neuralcollapse import *; "
        f"print([m for m in {extras.split()} if m in sys.modules and m not in torch_brings])"
    )
    assert run(code) == "[]"


def test_the_package_is_typed() -> None:
    assert (FACE.parent / "py.typed").exists()
