"""Scores of backbones: the probe against scikit-learn, what is held out, the order, the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cli.command import run
from neuralcollapse import ClassStatistics, TransferScores, cdnv, linear_probe, transfer_scores, vci
from neuralcollapse.transfer import SCORES, _held_out, agreement, ranked


def task(noise: float, samples: int = 120, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 4
    return 2 * torch.eye(4, 9)[labels] + noise * torch.randn(
        samples, 9, generator=generator
    ), labels


def test_the_probe_is_the_logistic_regression_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    features, labels = task(1.0)
    weight, bias, centre, scale = linear_probe(features, labels, 4, decay=0.05)
    units = ((features.double() - centre) / scale).numpy()
    # Theirs is the sum over samples plus norm^2 / (2 C).
    theirs = sklearn.LogisticRegression(C=1 / (0.05 * len(labels)), tol=1e-10, max_iter=5000)
    theirs.fit(units, labels.numpy())
    logits = torch.from_numpy(units) @ weight.T + bias
    expected = theirs.predict_proba(units)
    assert logits.softmax(1).numpy() == pytest.approx(expected, abs=1e-4)


def test_scores_are_the_metrics_of_all_samples() -> None:
    features, labels = task(0.5)
    found = transfer_scores(features, labels * 7 + 3)  # any labels that are not negative
    statistics = ClassStatistics.from_features(features, labels, 4)
    assert found.values["cdnv"] == pytest.approx(float(cdnv(statistics)))
    assert found.values["vci"] == pytest.approx(float(vci(statistics)))
    assert list(found.values) == list(SCORES)
    assert (found.samples, found.test_samples, found.dim) == (96, 24, 9)
    assert transfer_scores(features, labels * 7 + 3) == found  # the same every time


def test_more_noise_is_worse_by_every_score() -> None:
    scores = [transfer_scores(*task(noise, 400)) for noise in (2.0, 0.3, 1.0)]
    for name in SCORES:
        assert ranked(scores, name) == [1, 2, 0], name
    assert all(value == 1 for value in agreement(scores).values())
    assert set(agreement(scores)) == {*SCORES} - {"linear_probe"}


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_a_share_of_each_class_is_held_out(share: float) -> None:
    labels = torch.tensor([0] * 2 + [1] * 10 + [2] * 101)
    held = _held_out(labels, 3, share, None)
    assert held is not None
    for k, count in ((0, 2), (1, 10), (2, 101)):
        wanted = min(count - 1, max(1, round(count * share)))
        assert int(held[labels == k].sum()) == wanted
    other = _held_out(labels, 3, share, torch.Generator().manual_seed(5))
    assert share in (0.01, 0.99) or not torch.equal(held, other)  # pyright: ignore


def test_test_samples_are_taken_where_given() -> None:
    features, labels = task(0.5)
    others, own = task(0.5, 40, seed=1)
    found = transfer_scores(features, labels, (others, own))
    assert (found.samples, found.test_samples) == (120, 40)
    weight, bias, centre, scale = linear_probe(features, labels, 4)
    decided = ((others.double() - centre) / scale @ weight.T + bias).argmax(1)
    assert found.values["linear_probe"] == pytest.approx(float((decided == own).double().mean()))
    # A class without a training sample is always wrong.
    strange = transfer_scores(features, labels, (others, own + 4))
    assert strange.values["linear_probe"] == strange.values["nearest_mean"] == 0


def test_what_cannot_be_held_out_has_a_reason() -> None:
    found = transfer_scores(torch.eye(3), torch.tensor([0, 0, 1]))
    assert math.isnan(found.values["linear_probe"])
    assert "two samples of each class" in found.reasons["linear_probe"]
    assert math.isfinite(found.values["cdnv"])
    lonely = transfer_scores(torch.randn(6, 2), torch.zeros(6).long())
    assert lonely.reasons["cdnv"] == "needs two classes whose means differ"
    assert lonely.reasons["linear_probe"] == "needs two classes"
    quick = transfer_scores(*task(1.0), probe=False)
    assert quick.reasons == {"linear_probe": "not asked for"}
    json.dumps([one.to_dict() for one in (found, lonely, quick)], allow_nan=False)


def test_undefined_scores_come_last() -> None:
    scores = [TransferScores({"cdnv": value}) for value in (math.nan, 2.0, math.inf, 1.0)]
    assert ranked(scores) == [3, 1, 0, 2]
    with pytest.raises(ValueError, match="by must be one of cdnv, cdnv_directional"):
        ranked(scores, "accuracy")


@pytest.mark.parametrize(
    ("arguments", "options", "told"),
    [
        ((torch.ones(3, 2), torch.tensor([0, 1, -1])), {}, "labels must not be negative, got -1"),
        ((torch.ones(0, 2), torch.tensor([]).long()), {}, "at least one sample, got none"),
        ((torch.ones(2, 2) / 0, torch.tensor([0, 1])), {}, "features must be finite"),
        ((torch.ones(2, 2), torch.tensor([0, 1])), {"test_share": 1}, "test_share must be below 1"),
        ((torch.ones(2, 2), torch.tensor([0, 1])), {"decay": -1}, "decay must be finite and at le"),
        (
            (torch.ones(2, 2), torch.tensor([0, 1]), (torch.ones(2, 3), torch.tensor([0, 1]))),
            {},
            "features must have 2 columns",
        ),
    ],
)
def test_what_cannot_be_is_refused(arguments: Any, options: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        transfer_scores(*arguments, **options)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for number, noise in enumerate((2.0, 0.3, 1.0)):
        features, labels = task(noise, 400)
        paths.append(tmp_path / f"backbone{number}.npz")
        np.savez(paths[-1], features=features.numpy(), labels=labels.numpy())
    return paths


def test_the_command_orders_files(files: list[Path]) -> None:
    result = json.loads(run("rank", *files, "--json").assert_ok())
    order = [files[1], files[2], files[0]]
    assert [entry["file"] for entry in result["ranking"]] == [str(path) for path in order]
    assert result["agreement_with_linear_probe"]["cdnv"] == pytest.approx(1)
    expected = transfer_scores(*task(0.3, 400)).values
    assert result["ranking"][0]["scores"] == pytest.approx(expected)
    text = run("rank", files[0].with_name("*.npz"), "--by", "vci").assert_ok()
    assert "agreement of cdnv with the linear probe: 1.000" in text
    assert text.index("backbone1") < text.index("backbone2") < text.index("backbone0")
    out = files[0].with_name("out.json")
    quick = run("rank", *files, "--no-probe", "--out", out).assert_ok()
    assert "undefined: linear_probe: not asked for (3 of 3 files)" in quick
    assert json.loads(out.read_text())["agreement_with_linear_probe"] == {}


def test_bad_input_is_one_sentence(files: list[Path]) -> None:
    run("rank", files[0].with_name("none.npz")).assert_refused("none.npz does not exist")
    run("rank", *files, "--by", "size").assert_refused("by")
    run("rank", *files, "--test-share", "2").assert_refused("test_share must be below 1")
    np.savez(files[0], features=np.eye(3), labels=np.array([0, 1, -1]))
    run("rank", *files).assert_refused("backbone0.npz: labels must not be negative")
    np.savez(files[0], features=np.eye(3), labels=np.arange(3), test_labels=np.arange(3))
    run("rank", *files).assert_refused("both test_features and test_labels")
