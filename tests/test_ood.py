"""Detectors against loops, against pytorch-ood where installed, and on collapse; the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reference.ood
from cases.worlds import rotation, simplex_vertices
from cli.command import run
from neuralcollapse.cli.ood import _OPTIONS
from neuralcollapse.ood import (
    DETECTORS,
    FDBD,
    NCI,
    NECO,
    AbstractDetector,
    NearestMean,
    Residual,
    ViM,
    separation_of,
)
from neuralcollapse.ood import detector as detector_module

RNG = np.random.default_rng(3)
WEIGHT, BIAS = RNG.standard_normal((4, 9)), 0.3 * RNG.standard_normal(4)
LABELS = np.arange(60) % 4
TRAIN = WEIGHT[LABELS] + 0.7 * RNG.standard_normal((60, 9)) * np.linspace(0.5, 2, 9) + 1
OTHERS = 1.5 * RNG.standard_normal((12, 9))
HEAD: dict[str, Any] = {"weight": torch.from_numpy(WEIGHT), "bias": torch.from_numpy(BIAS)}


def fitted(detector: AbstractDetector) -> AbstractDetector:
    return detector.fit_features(torch.from_numpy(TRAIN), torch.from_numpy(LABELS))


Row = tuple[Callable[[], AbstractDetector], Callable[[np.ndarray], float]]
ROWS: dict[str, Row] = {
    "neco": (lambda: NECO(), lambda h: reference.ood.neco(TRAIN, h, 3, True)),
    "neco, two directions, centred": (
        lambda: NECO(dim=2, standardize=False),
        lambda h: reference.ood.neco(TRAIN, h, 2, False),
    ),
    "neco times the logit": (
        lambda: NECO(**HEAD, times_max_logit=True),
        lambda h: (
            reference.ood.neco(TRAIN, h, 3, True) * reference.ood.logits(h, WEIGHT, BIAS).max()
        ),
    ),
    "nci": (lambda: NCI(**HEAD), lambda h: reference.ood.nci(TRAIN, h, WEIGHT, BIAS, 0)),
    "nci with lengths": (
        lambda: NCI(**HEAD, alpha=0.1),
        lambda h: reference.ood.nci(TRAIN, h, WEIGHT, BIAS, 0.1),
    ),
    "fdbd": (lambda: FDBD(**HEAD), lambda h: reference.ood.fdbd(TRAIN, h, WEIGHT, BIAS)),
    "vim": (lambda: ViM(**HEAD), lambda h: reference.ood.vim(TRAIN, h, WEIGHT, BIAS, 4)),
    "vim, three directions": (
        lambda: ViM(**HEAD, dim=3),
        lambda h: reference.ood.vim(TRAIN, h, WEIGHT, BIAS, 3),
    ),
    "residual": (
        lambda: Residual(**HEAD, dim=3),
        lambda h: reference.ood.residual(TRAIN, h, reference.ood.zero_logits(WEIGHT, BIAS), 3),
    ),
    "residual without a classifier": (
        lambda: Residual(dim=3),
        lambda h: reference.ood.residual(TRAIN, h, TRAIN.mean(0), 3),
    ),
    "nearest mean": (
        lambda: NearestMean(),
        lambda h: reference.ood.nearest_mean(TRAIN, LABELS, h),
    ),
}
rows = pytest.mark.parametrize(("make", "slow"), ROWS.values(), ids=[*ROWS])


@rows
def test_scores_are_those_of_the_loops(
    make: Callable[[], AbstractDetector], slow: Callable[[np.ndarray], float]
) -> None:
    scores = fitted(make()).predict_features(torch.from_numpy(OTHERS))
    assert scores.dtype == torch.float64
    assert scores.numpy() == pytest.approx(np.array([slow(h) for h in OTHERS]), rel=1e-9)


@rows
def test_blocks_do_not_matter(
    make: Callable[[], AbstractDetector],
    slow: Callable[[np.ndarray], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others = torch.from_numpy(OTHERS)
    whole = fitted(make()).predict_features(others)
    monkeypatch.setattr(detector_module, "_BLOCK", 20)
    torch.testing.assert_close(fitted(make()).predict_features(others), whole, rtol=1e-9, atol=0)
    assert len(fitted(make()).predict_features(others[:0])) == 0


@pytest.mark.parametrize("name", ["NCI", "fDBD", "ViM"])
def test_scores_are_those_of_pytorch_ood(name: str) -> None:
    package = pytest.importorskip("pytorch_ood.detector", exc_type=ImportError)
    train, others = torch.from_numpy(TRAIN).float(), torch.from_numpy(OTHERS).float()
    head = nn.Linear(9, 4)
    head.load_state_dict({name: value.float() for name, value in HEAD.items()})
    ours: AbstractDetector
    if name == "ViM":
        theirs, ours = package.ViM(None, 4, head.weight, head.bias), ViM(**HEAD, dim=4)
    elif name == "NCI":
        theirs, ours = package.NCI(None, head, alpha=0.01), NCI(**HEAD, alpha=0.01)
    else:
        theirs, ours = package.fDBD(None, head), FDBD(**HEAD)
    theirs.fit_features(train, torch.from_numpy(LABELS))
    expected = theirs.predict_features(others).double()
    # They work in single precision.
    scores = fitted(ours).predict_features(others)
    torch.testing.assert_close(scores, expected, rtol=2e-5, atol=2e-5)


def collapsed_world() -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """Train, its labels, outsiders across the class means, and a dual classifier."""
    vertices = 4 * simplex_vertices(5, 12, 2)
    labels = np.arange(100) % 5
    train = vertices[labels] + 0.05 * RNG.standard_normal((100, 12))
    across = np.linalg.svd(vertices)[2][4:]
    outside = 2 * RNG.standard_normal((40, 8)) @ across
    head = {"weight": torch.from_numpy(vertices), "bias": torch.zeros(5, dtype=torch.float64)}
    return torch.from_numpy(train), torch.from_numpy(labels), torch.from_numpy(outside), head


@pytest.mark.parametrize("kind", DETECTORS, ids=[kind.name for kind in DETECTORS])
def test_every_detector_finds_what_lies_across_collapsed_classes(
    kind: type[AbstractDetector],
) -> None:
    train, labels, outside, head = collapsed_world()
    detector = kind(**head)
    detector.fit_features(train[:50], labels[:50])
    found = separation_of(detector.predict_features(train[50:]), detector.predict_features(outside))
    assert found.auroc > 0.99
    assert found.fpr95 < 0.05
    # And is at a loss where the outside is as the inside.
    same = separation_of(
        detector.predict_features(train[50::2]), detector.predict_features(train[51::2])
    )
    assert 0.2 < same.auroc < 0.8


@pytest.mark.parametrize("kind", [NCI, FDBD, ViM, Residual, NearestMean])
def test_a_rotation_of_features_and_classifier_does_not_matter(
    kind: type[AbstractDetector],
) -> None:
    turn, others = torch.from_numpy(rotation(9, 5)), torch.from_numpy(OTHERS)
    plain = fitted(kind(**HEAD)).predict_features(others)
    detector = kind(weight=HEAD["weight"] @ turn, bias=HEAD["bias"])
    detector.fit_features(torch.from_numpy(TRAIN) @ turn, torch.from_numpy(LABELS))
    torch.testing.assert_close(
        detector.predict_features(others @ turn), plain, rtol=1e-9, atol=1e-9
    )


def test_a_model_is_fitted_and_asked_as_pytorch_ood_does() -> None:
    torch.manual_seed(0)
    head = nn.Linear(9, 4)
    model = nn.Sequential(nn.Linear(3, 9), nn.ReLU(), head)
    inputs, labels = torch.randn(40, 3), torch.arange(40) % 4
    batches = list(zip(inputs.split(7), labels.split(7), strict=True))
    with torch.no_grad():
        features, others = model[:2](inputs), model[:2](inputs[:5] + 3)
    for kind in DETECTORS:
        by_model = kind(model).fit(batches)
        by_features = kind(weight=head.weight, bias=head.bias)
        by_features.fit_features(features, labels)
        expected = by_features.predict_features(others)
        found = by_model.predict(inputs[:5] + 3)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert model.training


def test_constant_and_central_features_are_no_trouble() -> None:
    train = torch.from_numpy(TRAIN).clone()
    train[:, 3] = 5.0  # a unit that never moves
    detector = NECO().fit_features(train, torch.from_numpy(LABELS))
    assert bool(torch.isfinite(detector.predict_features(train)).all())
    centre = train.mean(0, keepdim=True)
    for kind in DETECTORS:
        one = kind(**HEAD).fit_features(train, torch.from_numpy(LABELS))
        assert bool(torch.isfinite(one.predict_features(centre)).all()), kind.name


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: NCI().fit_features(torch.ones(3, 2)), ValueError, "NCI needs the classifier; pass"),
    (lambda: NearestMean().fit_features(torch.ones(3, 2)), ValueError, "labels must be given"),
    (lambda: NECO().fit_features(torch.ones(3, 2)), ValueError, "labels must be given where neit"),
    (lambda: NECO(dim=3).fit_features(torch.ones(3, 2)), ValueError, r"dim must lie in \[1, 2\]"),
    (lambda: Residual(dim=2).fit_features(torch.ones(3, 2)), ValueError, r"dim must lie in \[1, 2"),
    (lambda: NECO(dim=0), ValueError, "dim must be at least 1, got 0"),
    (lambda: NCI(alpha=-1), ValueError, "alpha must be finite and at least 0, got -1"),
    (lambda: NECO(times_max_logit=True, dim=1).fit_features(torch.ones(3, 2)), ValueError, "times"),
    (lambda: Residual().predict_features(torch.ones(1, 2)), RuntimeError, "must be fitted first"),
    (lambda: fitted(Residual()).predict_features(torch.ones(1, 2)), ValueError, "9 columns"),
    (lambda: fitted(NCI(weight=torch.ones(4, 8))), ValueError, "weight must have 9 columns"),
    (lambda: NCI(bias=torch.ones(3)), ValueError, "bias must come with a weight"),
    (lambda: NCI(nn.Linear(2, 2), weight=torch.ones(2, 2)), ValueError, "left out with a model"),
    (lambda: Residual().fit([]), ValueError, "fit needs a model"),
    (lambda: Residual().predict(torch.ones(1, 2)), ValueError, "predict needs a model"),
    (lambda: Residual(nn.Linear(2, 2)).fit([]), ValueError, "at least one sample, got none"),
    (lambda: Residual().fit_features(torch.ones(0, 2)), ValueError, "at least one sample"),
    (lambda: Residual().fit_features(torch.ones(2, 2) * math.nan), ValueError, "must be finite"),
    (lambda: separation_of(torch.ones(2), torch.ones(0)), ValueError, "outside must hold at least"),
    (lambda: separation_of(torch.ones(2) / 0, torch.ones(1)), ValueError, "inside must be finite"),
]


@pytest.mark.parametrize(("act", "kind", "told"), BAD)
def test_what_cannot_be_is_refused(act: Any, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=told):
        act()


def test_a_residual_of_nothing_is_refused() -> None:
    flat = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)) @ torch.eye(2, 9)
    with pytest.raises(ValueError, match="dim must leave a residual"):
        ViM(weight=torch.eye(4, 9), dim=3).fit_features(flat)


# --- evaluation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("inside", "outside"), [(30, 50), (50, 7), (1, 1), (20, 20)])
def test_separation_is_that_of_the_loops(inside: int, outside: int, ties: bool) -> None:
    rng = np.random.default_rng(inside)
    one, two = 30 * rng.standard_normal(inside), 30 * rng.standard_normal(outside) + 20
    if ties:
        one, two = np.round(one / 20), np.round(two / 20)
    found = separation_of(torch.from_numpy(one), torch.from_numpy(two))
    assert found.auroc == pytest.approx(reference.ood.auroc(one, two), abs=1e-6)
    assert found.fpr95 == pytest.approx(reference.ood.fpr95(one, two), abs=1e-6)
    assert found.aupr_out == pytest.approx(reference.ood.average_precision(two, one), abs=1e-6)
    assert found.aupr_in == pytest.approx(reference.ood.average_precision(-one, -two), abs=1e-6)
    assert (found.inside, found.outside) == (inside, outside)


def test_scores_far_from_zero_are_not_rounded_to_ties() -> None:
    """A sigmoid of 1e4 is 1, and so is that of 2e4; torchmetrics takes one of what is above 1."""
    found = separation_of(torch.arange(10.0) + 1e4, torch.arange(10.0) + 2e4)
    assert (found.auroc, found.fpr95) == (1.0, 0.0)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    train, labels, outside, head = collapsed_world()
    arrays: dict[str, dict[str, Any]] = {
        "train": {"features": train[:60].numpy(), "labels": labels[:60].numpy()},
        "test": {"features": train[60:].numpy()},
        "far": {"features": outside.numpy()},
        "near": {"features": train[:20].numpy() + 0.05},
        "head": {name: value.numpy() for name, value in head.items()},
        "narrow": {"features": outside[:, :3].numpy()},
        "nothing": {"labels": labels.numpy()},
        "empty": {"features": outside[:0].numpy()},
    }
    paths = {name: tmp_path / f"{name}.npz" for name in arrays}
    for name, held in arrays.items():
        np.savez(paths[name], **held)
    return paths


def test_the_command_says_what_python_says(files: dict[str, Path]) -> None:
    given = [files[name] for name in ("train", "test", "far", "near")]
    outcome = run("ood", *given, "--classifier", files["head"], "--json")
    result = json.loads(outcome.assert_ok())
    assert outcome.err == ""
    assert [entry["file"] for entry in result["outside"]] == [str(path) for path in given[2:]]
    assert result["left_out"] == {}
    train, labels, outside, head = collapsed_world_of(files)
    for kind in DETECTORS:
        detector = kind(**head).fit_features(train, labels)
        inside = torch.from_numpy(np.load(files["test"])["features"])
        expected = separation_of(
            detector.predict_features(inside), detector.predict_features(outside)
        )
        found = result["outside"][0]["detectors"][kind.name]
        assert found["auroc"] == pytest.approx(expected.auroc)
        assert found["fpr95"] == pytest.approx(expected.fpr95)
    # Class means sum to zero, and outsiders lie across them.
    assert result["outside"][0]["nc5_orthogonality"] < 0.1
    assert result["outside"][1]["detectors"]["neco"]["auroc"] < 0.95


def collapsed_world_of(files: dict[str, Path]) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    train, far, head = (np.load(files[name]) for name in ("train", "far", "head"))
    return (
        torch.from_numpy(train["features"]),
        torch.from_numpy(train["labels"]),
        torch.from_numpy(far["features"]),
        {name: torch.from_numpy(head[name]) for name in ("weight", "bias")},
    )


def test_the_command_shows_a_table_and_what_it_left_out(files: dict[str, Path]) -> None:
    out = files["train"].with_name("result.json")
    text = run("ood", files["train"], files["test"], files["far"], "--out", out).assert_ok()
    assert "neco" in text
    assert "FPR95" in text
    assert "100.00%" in text
    assert "left out: vim needs the classifier" in text
    written = json.loads(out.read_text())
    assert set(written["outside"][0]["detectors"]) == {"neco", "residual", "nearest-mean"}
    chosen = run("ood", files["train"], files["test"], files["far"], "--detector", "neco:dim=2",
                 "--detector", "neco:dim=4,standardize=false", "--json")  # fmt: skip
    names = json.loads(chosen.assert_ok())["outside"][0]["detectors"]
    assert list(names) == ["neco:dim=2", "neco:dim=4,standardize=false"]


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (["train", "test", "narrow"], [], ["narrow.npz", "features must have 12 columns"]),
        (["train", "test", "nothing"], [], ["nothing.npz", "'features', it holds labels"]),
        (["train", "test", "empty"], [], ["empty.npz", "at least one sample"]),
        (["test", "train", "far"], [], ["test.npz", "'labels'"]),
        (
            ["train", "test", "far"],
            ["--detector", "vim"],
            ["detector vim on", "train.npz: needs the classifier"],
        ),
        (["train", "test", "far"], ["--detector", "odin"], ["detector must be one of neco, nci"]),
        (["train", "test", "far"], ["--detector", "neco:size=3"], ["no option 'size'"]),
        (["train", "test", "far"], ["--detector", "neco:dim=99"], ["dim must lie in [1, 12]"]),
        (["train", "test", "far"], ["--classifier", "far"], ["must hold the array 'weight'"]),
        (["train", "test"], [], ["OUTSIDE"]),
    ],
)
def test_bad_input_is_one_sentence(
    files: dict[str, Path], names: list[str], options: list[str], words: list[str]
) -> None:
    given = [files.get(option, option) for option in options]
    run("ood", *(files[name] for name in names), *given).assert_refused(*words)


def test_the_command_offers_what_there_is() -> None:
    assert list(_OPTIONS) == [kind.name for kind in DETECTORS]
