"""What the command line says of a wrong value, of one of a thing, and of what is not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cli.command import run
from neuralcollapse.layers import LayerMeasurement, depth_profile
from neuralcollapse.scalars import counted


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["measure", "f.npz", "--global-mean", "mode"], ["--global-mean", "'mode'", "'sample'"]),
        (["measure", "f.npz", "--num-classes", "many"], ["--num-classes", "integer", "'many'"]),
        (["rank", "f.npz", "--test-share", "some"], ["--test-share", "number", "'some'"]),
        (["hierarchy", "cifar100", "--max-nodes", "0"], ["--max-nodes", "equal to 1", "0"]),
        (["train", "--epochs", "1.5"], ["--epochs", "integer", "'1.5'"]),
    ],
)
def test_a_wrong_value_is_told_with_its_option(arguments: list[str], words: list[str]) -> None:
    """Whichever version of typer checks it, and without the words of what it checks by."""
    told = run(*arguments).assert_refused(*words, "--help")
    assert "Value error" not in told
    assert "Input" not in told
    assert "unable to parse" not in told


def test_a_hierarchy_that_is_not_there_names_the_built_in_ones(tmp_path: Path) -> None:
    missing = tmp_path / "animals"
    run("hierarchy", missing).assert_refused(str(missing), "cifar100", "glyphs", "wordnet")


def test_one_is_not_several(tmp_path: Path) -> None:
    assert [counted(n, "class", "classes") for n in (0, 1, 2)] == [
        "0 classes",
        "1 class",
        "2 classes",
    ]
    file = tmp_path / "f.npz"
    np.savez(file, features=np.eye(3), labels=np.zeros(3, dtype=int))
    assert "samples: 3 in 1 class\n" in run("measure", file).assert_ok()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([2.0, 1.0], "needs 3 layers, got 2"),
        ([2.0, 0.0, 1.0], "needs a variability above zero in every layer, 1 has none"),
        ([2.0, 1.0, 0.5], None),
    ],
)
def test_a_law_that_is_not_there_has_a_reason(values: list[float], reason: str | None) -> None:
    layers = [
        LayerMeasurement(str(place), 4, {"nc1": value, "nc1_trace_ratio": value})
        for place, value in enumerate(values)
    ]
    profile = depth_profile(layers)
    assert profile.no_law == reason == profile.to_dict()["no_law"]
    lines = [line for line in str(profile).splitlines() if line.startswith("separation law")]
    assert len(lines) == 1
    assert reason is None or reason in lines[0]
