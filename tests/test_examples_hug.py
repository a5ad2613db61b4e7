"""The sweeps over HUG's weights and over long tails, run small: sound numbers, honest selection."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import decoupling
import imbalance
import sweeps
from neuralcollapse.record import Run
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.network import load_network

WEIGHTS, SEEDS = (1.0, 10.0), (0, 1)


# --- intervals ----------------------------------------------------------------------------------


def test_an_interval_is_that_of_the_tables() -> None:
    found = sweeps.interval([1.0, 2.0, 3.0])
    # t with two degrees of freedom is 4.3027 at 97.5 %; the standard error is 1 / sqrt(3).
    assert found.mean == 2.0
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_an_interval_of_logarithms_has_the_geometric_mean() -> None:
    found = sweeps.interval([1.0, 100.0], floor=1e-6)
    assert found.mean == pytest.approx(10.0)
    assert found.high / found.mean == pytest.approx(found.mean / found.low)
    # Rounding may take a gap below zero; it counts as the floor.
    assert sweeps.interval([-1e-9, 0.0], floor=1e-6).mean == pytest.approx(1e-6)


def test_one_value_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least two for an interval, got 1"):
        sweeps.interval([1.0])


# --- decoupling ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory):
    """Folder and outcomes of a sweep of two epochs."""
    out = tmp_path_factory.mktemp("decoupling")
    return out, *swept_again(out)


def swept_again(out: Path):
    return decoupling.sweep(
        out,
        dims=(2,),
        inter_weights=WEIGHTS,
        intra_weights=WEIGHTS,
        seeds=SEEDS,
        epochs=2,
        progress=False,
    )


def test_a_sweep_has_every_cell_and_sound_numbers(swept) -> None:
    _, hug, baselines = swept
    assert len(hug) == 2 * 2 * 2
    assert len(baselines) == 3
    for outcomes in (*hug.values(), *baselines.values()):
        assert [item.seed for item in outcomes] == [*SEEDS]
        for item in outcomes:
            values = dataclasses.asdict(item)
            assert all(math.isfinite(value) for value in values.values())
            # Ten directions have no less energy than the best ten, but for rounding in float32.
            assert min(item.train_inter, item.test_inter, item.proxies) > -1e-6
            assert 0 < item.train_intra < 2
            assert 0 <= item.test_accuracy <= 1
        for found in decoupling.intervals(outcomes).values():
            assert found.low <= found.mean <= found.high


def test_detached_proxies_do_not_know_the_weight_within(swept) -> None:
    _, hug, _ = swept
    for cell, outcomes in hug.items():
        other = dataclasses.replace(cell, intra_weight=WEIGHTS[0])
        same = [item.proxies for item in hug[other]] == [item.proxies for item in outcomes]
        assert same == (cell.detach or cell == other)


def test_the_effects_tell_the_weights_apart(swept) -> None:
    _, hug, _ = swept
    rows = decoupling.all_effects(hug)
    assert len(rows) == 2 * 5
    for row in rows:
        shares = [row[name] for name in ("inter_weight", "intra_weight", "both", "seeds")]
        assert sum(shares) == pytest.approx(1)
        assert row["span_inter_weight"] >= 1
        if row["half"] == "proxies" and row["detach_proxies"]:
            assert row["intra_weight"] == pytest.approx(0, abs=1e-12)
            assert row["span_intra_weight"] == pytest.approx(1)


def test_effects_of_a_known_grid() -> None:
    keys = list(itertools.product((1.0, 10.0, 100.0), (1.0, 10.0)))
    along = decoupling.effects({key: [key[0], key[0]] for key in keys})
    assert dataclasses.astuple(along) == pytest.approx((1, 0, 0, 0, 100, 1))
    # In units of log(2)^2: 2 * ((-1)^2 + 0 + 1^2) = 4 along three steps, 6 / 4 along two.
    powers = {1.0: 0, 10.0: 1, 100.0: 2}
    both = decoupling.effects({key: [2.0 ** (powers[key[0]] + powers[key[1]])] for key in keys})
    assert dataclasses.astuple(both) == pytest.approx((8 / 11, 3 / 11, 0, 0, 4, 2))
    crossed = decoupling.effects({(a, b): [10.0 ** (a * b)] for a in (-1, 1) for b in (-1, 1)})
    assert dataclasses.astuple(crossed) == pytest.approx((0, 0, 1, 0, 1, 1))
    noise = decoupling.effects({key: [1.0, 2.0] for key in keys})
    assert dataclasses.astuple(noise) == pytest.approx((0, 0, 0, 1, 1, 1))
    assert dataclasses.astuple(decoupling.effects({key: [3.0] for key in keys})) == (0,) * 4 + (
        1,
        1,
    )


def test_what_is_finished_is_not_trained_again(swept, monkeypatch: pytest.MonkeyPatch) -> None:
    out, hug, baselines = swept
    trained: list[str] = []
    train = sweeps.train

    def counted(run: Run, *args: Any, **kwargs: Any) -> str:
        trained.append(run.name)
        return train(run, *args, **kwargs)

    monkeypatch.setattr(sweeps, "train", counted)
    assert swept_again(out) == (hug, baselines)
    assert trained == []
    # One run is lost, another was cut off after its last checkpoint.
    lost, cut = "cross-entropy-linear-d2-seed0", "hug-attached-d2-inter1-intra10-seed1"
    shutil.rmtree(out / lost)
    (out / cut / "summary.json").unlink()
    assert swept_again(out) == (hug, baselines)
    assert sorted(trained) == sorted([lost, cut])


def test_runs_of_another_sweep_are_not_taken(swept) -> None:
    out, *_ = swept
    with pytest.raises(ValueError, match="but its epochs differ; choose another --out"):
        decoupling.sweep(out, dims=(2,), seeds=SEEDS, epochs=3, progress=False)


def test_the_cell_that_is_shown_is_chosen_without_the_test_part(swept) -> None:
    _, hug, _ = swept
    poisoned = {
        cell: [
            dataclasses.replace(item, test_accuracy=-item.test_accuracy, test_inter=math.nan)
            for item in outcomes
        ]
        for cell, outcomes in hug.items()
    }
    assert decoupling.most_accurate(poisoned, 2) == decoupling.most_accurate(hug, 2)


def test_the_figures_hold_what_was_measured(swept) -> None:
    out, hug, _ = swept
    maps = decoupling.heat_maps(hug, 2)
    traces: list[Any] = list(maps.select_traces())
    assert len(traces) == 4
    cell = decoupling.Cell(2, 10.0, 1.0, True)
    mean = decoupling.intervals(hug[cell])["train_inter"].mean
    # Rows are intra weights, columns inter weights.
    assert traces[0]["z"][0][1] == pytest.approx(math.log10(mean))
    folder = "cross-entropy-linear-d2-seed0"
    picture = decoupling.circles(out, {"one": folder})
    assert len(list(picture.select_traces())) == 1 + 2 * 10
    features, labels, weight = decoupling.plane(Run.open(out / folder))
    assert features.shape == (len(labels), 2)
    assert weight.shape == (10, 2)


def test_one_seed_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        decoupling.main(["--seeds", "1"])
    assert "at least two different numbers" in capsys.readouterr().err


def test_results_are_written_beside_the_table(tmp_path: Path, capsys) -> None:
    options = ["--dims", "2", "16", "--seeds", "0", "1", "--epochs", "1"]
    options += ["--inter-weights", "1", "--intra-weights", "1"]
    decoupling.main([*options, "--out", str(tmp_path)])
    content = json.loads((tmp_path / "results.json").read_text())
    assert len(content["cells"]) == 2 * 2
    assert content["options"]["epochs"] == 1
    assert len(content["cells"][0]["runs"]) == 2
    assert (tmp_path / "hug-circle.html").is_file()
    assert "span" in capsys.readouterr().out


def test_length_is_what_stops_proxies_that_begin_close_together() -> None:
    # At unit length the polygon is reached to the rounding of float32; with free rows of this seed
    # the first steps lengthen them until the directions stand still.
    assert abs(decoupling.alone(10.0, 2.0, True, 0)) < 1e-6
    assert decoupling.alone(10.0, 2.0, False, 0) > 1e-2


# --- imbalance ----------------------------------------------------------------------------------

COMMON = {"data": "digits", "epochs": 2, "imbalance": "exponential:100"}
FEW_METHODS = tuple(
    dataclasses.replace(method, settings=method.settings[:2])
    for method in imbalance.METHODS
    if method.name in ("cross entropy", "HUG, learned", "HUG, fixed, assigned")
)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory):
    """Folder and outcomes of a comparison of two epochs."""
    out = tmp_path_factory.mktemp("imbalance")
    return out, compared_again(out)


def compared_again(out: Path) -> list[imbalance.Outcome]:
    return imbalance.compare(out, COMMON, methods=FEW_METHODS, seeds=SEEDS, progress=False)


def test_a_comparison_has_every_method_on_every_seed(compared) -> None:
    _, outcomes = compared
    assert [(item.seed, item.method) for item in outcomes] == [
        (seed, method.name) for seed in SEEDS for method in FEW_METHODS
    ]
    for item in outcomes:
        assert len(item.validation) == 2
        assert item.validation[item.chosen] == max(item.validation)
        # Four, three and three classes of ten.
        parts = 0.4 * item.many + 0.3 * item.medium + 0.3 * item.few
        assert item.all == pytest.approx(parts)
        assert 0 <= item.all <= 1
    for groups in imbalance.summary(outcomes).values():
        for found in groups.values():
            assert found["accuracy"].low <= found["accuracy"].mean <= found["accuracy"].high
    reference = imbalance.summary(outcomes)[imbalance.REFERENCE]["few"]["difference"]
    assert dataclasses.astuple(reference) == (0, 0, 0)


def test_differences_are_paired_by_seed() -> None:
    def outcome(method: str, seed: int, few: float) -> imbalance.Outcome:
        return imbalance.Outcome(method, seed, (0.0,), 0, few, few, few, few)

    found = imbalance.summary(
        [
            outcome(imbalance.REFERENCE, 0, 0.1),
            outcome("other", 1, 0.6),
            outcome("other", 0, 0.3),
            outcome(imbalance.REFERENCE, 1, 0.4),
        ]
    )["other"]["few"]
    assert found["difference"].high - found["difference"].low == pytest.approx(0, abs=1e-12)
    assert found["difference"].mean == pytest.approx(0.2)
    assert found["accuracy"].mean == pytest.approx(0.45)


def test_the_test_part_plays_no_role_in_the_choice(compared, tmp_path: Path) -> None:
    out, outcomes = compared
    copy = tmp_path / "poisoned"
    shutil.copytree(out, copy)
    for folder in copy.iterdir():
        run = Run.open(folder)
        row = run.rows()[-1]
        # Nothing in the record of a run says how it did on the test part.
        run.append({**row, "test": None})
        run.write_summary({"status": "finished"})
    assert compared_again(copy) == outcomes


def test_only_the_chosen_network_sees_the_test_part(
    compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, outcomes = compared
    seen: list[str] = []
    tested = imbalance.tested

    def noted(run: Run, data: Any) -> dict[str, float]:
        seen.append(run.name)
        return tested(run, data)

    monkeypatch.setattr(imbalance, "tested", noted)
    monkeypatch.setattr(sweeps, "train", None)  # all of them are finished
    assert compared_again(out) == outcomes
    methods = {method.name: method for method in FEW_METHODS}
    assert seen == [methods[item.method].folder(item.chosen, item.seed) for item in outcomes]


def test_the_best_validation_is_chosen_and_the_first_of_equals() -> None:
    assert imbalance.choice([0.1, 0.4, 0.3]) == 1
    assert imbalance.choice([0.2, 0.4, 0.4]) == 1


def test_groups_are_thirds_by_count() -> None:
    tail = [128, 78, 47, 28, 16, 10, 6, 3, 2, 1]
    assert imbalance.group_of_classes(tail) == {
        "many": [0, 1, 2, 3],
        "medium": [4, 5, 6],
        "few": [7, 8, 9],
    }
    assert imbalance.group_of_classes([1, 9, 5]) == {"many": [1], "medium": [2], "few": [0]}
    with pytest.raises(ValueError, match="at least three classes, got 2"):
        imbalance.group_of_classes([2, 1])


def test_accuracies_by_class_are_those_of_a_loop(compared) -> None:
    out, _ = compared
    run = Run.open(out / FEW_METHODS[0].folder(0, 1))
    data = sweeps.parts(TrainConfig.from_values(run.config))
    network = load_network(run)
    right: list[list[float]] = [[] for _ in range(10)]
    with torch.no_grad():
        for place in range(len(data.test)):
            inputs, labels = data.test[torch.tensor([place])]
            right[int(labels)].append(float(network(inputs).argmax() == labels))
    expected = [float(np.mean(values)) for values in right]
    assert imbalance.class_accuracies(run, data).tolist() == pytest.approx(expected)


def test_every_method_tries_as_many_settings_and_makes_a_run() -> None:
    assert {len(method.settings) for method in imbalance.METHODS} == {4}
    configs = [
        method.config(setting, 3, COMMON)
        for method in imbalance.METHODS
        for setting in range(len(method.settings))
    ]
    assert len({str(config) for config in configs}) == len(configs)
    assert {(config.seed, config.split_seed) for config in configs} == {(3, 3)}
    assert [config.assign_after for config in configs[-4:]] == [1] * 4


def test_a_comparison_from_the_command_line(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imbalance, "METHODS", FEW_METHODS)
    imbalance.main(["--epochs", "1", "--seeds", "0", "1", "--out", str(tmp_path)])
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["training_counts"][0] > 100 * content["training_counts"][-1]
    assert len(content["runs"]) == 6
    assert (tmp_path / "results.html").is_file()
    assert "HUG, learned" in capsys.readouterr().out


# --- what the documentation says ----------------------------------------------------------------

DOCS = Path(__file__).parents[1] / "docs"


def as_interval(values: dict[str, float]) -> sweeps.Interval:
    return sweeps.Interval(values["mean"], values["low"], values["high"])


@pytest.mark.parametrize("path", sorted(DOCS.glob("assets/hug-imbalance-*.json")), ids=str)
def test_the_page_has_the_numbers_of_the_comparison(path: Path) -> None:
    page = (DOCS / "hug.md").read_text(encoding="utf-8")
    content = json.loads(path.read_text())
    assert len({run["seed"] for run in content["runs"]}) >= 2
    for name, groups in content["methods"].items():
        groups = groups.items()
        cells = [as_interval(found["accuracy"]).text(100, 1) for _, found in groups]
        assert f"| {name} | {' | '.join(cells)} |" in page


def test_the_page_has_the_numbers_of_the_sweep() -> None:
    page = (DOCS / "hug.md").read_text(encoding="utf-8")
    content = json.loads((DOCS / "assets" / "hug-decoupling.json").read_text())
    for row in content["effects"]:
        if row["split"] != "test":
            kind = "detached" if row["detach_proxies"] else "attached"
            shares = [f"{row[k]:.0%}" for k in ("inter_weight", "intra_weight", "both", "seeds")]
            factors = [f"{row[k]:.3g}" for k in ("span_inter_weight", "span_intra_weight")]
            cells = [str(row["dim"]), kind, row["half"], *shares, *factors]
            assert f"| {' | '.join(cells)} |" in page


@pytest.mark.parametrize("path", sorted(DOCS.glob("assets/hug-*.svg")), ids=str)
def test_the_pictures_are_small(path: Path) -> None:
    assert path.stat().st_size < 200_000
    assert path.name in (DOCS / "hug.md").read_text(encoding="utf-8")
