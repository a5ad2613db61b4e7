"""`neuralcollapse predict`: a table, one JSON object or a page; bad input is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.command import in_process, run
from neuralcollapse.cli.predict import announced
from neuralcollapse.theory import predict

KEYS = (
    "kind",
    "regime",
    "objective",
    "threshold",
    "spinodal",
    "rank",
    "status",
    "classifier_norm_squared",
    "feature_norm_squared",
    "logit",
    "bias",
    "gram_classifier",
    "gram_features",
    "certificate",
    "warnings",
    "layers",
)


def as_json(*arguments: Any) -> dict[str, Any]:
    outcome = run("predict", *arguments, "--json")
    assert outcome.err == ""
    assert len(outcome.assert_ok().splitlines()) == 1
    return json.loads(outcome.out, parse_constant=lambda text: pytest.fail(f"{text} in JSON"))


def test_json_has_the_keys_and_the_numbers_of_the_library():
    decays = ("--weight-decay", 0.02, "--feature-decay", 0.08)
    found = as_json("--counts", "30,12,5,4,2", *decays)
    assert set(KEYS) <= set(found)
    assert found == predict([30, 12, 5, 4, 2], weight_decay=0.02, feature_decay=0.08).to_dict()
    assert found["status"] == ["alive"] * 3 + ["collapsed"] * 2


@pytest.mark.parametrize("loss", ["mse", "ce", "label-smoothing"])
@pytest.mark.parametrize("bias", ["none", "free", "0.05"])
def test_nothing_in_the_json_is_not_finite(loss, bias):
    for decay in ("1e-4", "100"):
        found = as_json("--counts", "9,4,4,1", "--loss", loss, "--bias", bias,
                        "--weight-decay", decay, "--feature-decay", decay)  # fmt: skip
        assert len(found["logit"]) == len(found["gram_features"]) == 4


def test_every_layer_has_its_decay_and_its_singular_values():
    found = as_json("--counts", "9,4", "--depth", 3, "--weight-decay", "5e-4,4e-4,5e-4",
                    "--feature-decay", 1e-3)  # fmt: skip
    expected = predict([9, 4], depth=3, weight_decay=[5e-4, 4e-4, 5e-4], feature_decay=1e-3)
    assert found["weight_decay"] == [5e-4, 4e-4, 5e-4]
    assert found["layers"] == [values.tolist() for values in expected.layers]
    assert found["layers"][0] != found["layers"][1]


def test_classes_and_a_rule_make_the_counts_of_training():
    found = as_json("--classes", 3, "--per-class", 500, "--imbalance", "exponential:100")
    assert found["counts"] == [500, 50, 5]
    assert as_json("--classes", 2, "--per-class", 7)["counts"] == [7, 7]


def test_of_many_classes_the_json_stays_small_and_says_what_is_left_out():
    outcome = run("predict", "--classes", 1500, "--per-class", 10, "--json")
    assert len(outcome.assert_ok()) < 500_000
    found = json.loads(outcome.out)
    assert found["gram_classifier"] is found["gram_features"] is None
    assert any("left out for more than 500 classes" in text for text in found["warnings"])
    assert len(found["status"]) == 1500


def test_the_table_names_kind_status_and_warnings():
    shown = run("predict", "--counts", "30,12,5,4,2", "--depth", 2, "--weight-decay", 0.01,
                "--feature-decay", 0.08501145240702057).assert_ok()  # fmt: skip
    assert shown.startswith("general orthogonal frame: ")
    assert "metastable" in shown
    assert "warning: " in shown


def test_a_page_and_a_file_of_numbers(tmp_path: Path):
    page, numbers = tmp_path / "p.html", tmp_path / "p.json"
    in_process("predict", "--counts", "9,4", "-o", page).assert_ok()
    assert "Predicted collapse" in page.read_text()
    run("predict", "--counts", "9,4", "-o", numbers).assert_ok()
    assert json.loads(numbers.read_text()) == as_json("--counts", "9,4")


REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "nothing": ((), "counts must be given, or classes and per_class"),
    "negative": (("--counts", "30,-1"), "counts[1] must be at least 1, got -1"),
    "zero": (("--counts", "30,0"), "counts[1] must be at least 1, got 0; leave out"),
    "one class": (("--counts", "5"), "counts must name at least two classes"),
    "a gap": (("--counts", "30,,5"), "counts must be numbers separated by commas, got ''"),
    "no number": (("--counts", "30,x"), "counts must be numbers separated by commas, got 'x'"),
    "half": (("--counts", "30,5.5"), "counts must be whole numbers, got '5.5'"),
    "infinite": (("--counts", "inf,5"), "counts must be whole numbers, got 'inf'"),
    "nan": (("--counts", "nan,5"), "counts must be whole numbers, got 'nan'"),
    "both": (("--counts", "9,5", "--classes", 2), "counts must come without classes"),
    "half a rule": (("--classes", 2), "counts must be given, or classes and per_class"),
    "no samples": (("--classes", 2, "--per-class", 0), "per_class must be at least 1"),
    "tail": (("--classes", 2, "--per-class", 9, "--imbalance", "x"), "imbalance must be none or"),
    "no decay": (("--counts", "9,5", "--weight-decay", 0), "there is no finite optimum"),
    "no feature decay": (("--counts", "9,5", "--feature-decay", 0), "there is no finite optimum"),
    "nan decay": (("--counts", "9,5", "--weight-decay", "nan"), "weight_decay must be finite"),
    "decay list": (("--counts", "9,5", "--weight-decay", "1,,2"), "weight_decay must be numbers"),
    "decays": (("--counts", "9,5", "--weight-decay", "1,2"), "one per layer (depth=1), got 2"),
    "depth": (("--counts", "9,5", "--depth", 0), "depth must be at least 1, got 0"),
    "narrow": (("--counts", "9,5,2", "--loss", "ce", "--dim", 1), "must be at least 2, the rank"),
    "widths": (("--counts", "9,5", "--widths", 4), "widths must name the 0 widths"),
    "half width": (("--counts", "9,5", "--depth", 2, "--widths", 2.5), "widths must be whole"),
    "bias": (("--counts", "9,5", "--bias", "some"), "bias must be none, free or a decay"),
    "negative bias": (("--counts", "9,5", "--bias", -1), "bias must be finite and at least 0"),
    "deep bias": (("--counts", "9,5", "--depth", 2, "--bias", 0.1), "no closed form is known"),
    "loss": (("--counts", "9,5", "--loss", "hinge"), "loss must be one of mse, ce"),
    "weights": (("--counts", "9,5", "--class-weights", "1,2"), "class_weights must be given for"),
    "smoothing": (("--counts", "9,5", "--label-smoothing", 0.1), "must go with loss=label_smoo"),
    "power": (("--counts", "9,5", "--focal-power", 1), "focal_power must go with loss=focal"),
    "relu": (("--counts", "20,9,3", "--activation", "relu", "--bias", "free"), "activation='relu'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path: Path, name: str):
    arguments, message = REFUSED[name]
    outcome = run("predict", *arguments, "--json", "-o", tmp_path / "p.html")
    outcome.assert_refused(message)
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_is_said_before_solving(tmp_path: Path):
    (tmp_path / "folder.html").mkdir()
    for out, message in (
        (tmp_path / "no" / "p.html", "out must lie in a folder that exists"),
        (tmp_path / "p.pdf", "out must end in .html or .json"),
        (tmp_path / "folder.html", "out must be a file"),
    ):
        # These counts would take minutes.
        counts = ",".join(str(5 + k) for k in range(400))
        run("predict", "--counts", counts, "--loss", "ce", "-o", out).assert_refused(message)


def test_counts_of_one_are_named():
    found = as_json("--counts", "3,1")
    assert any("one sample" in text for text in found["warnings"])


def test_a_width_below_the_rank_is_named():
    found = as_json("--counts", "9,5,2", "--dim", 2)
    assert found["status"] == ["alive", "alive", "collapsed"]
    assert any("width 2 is below 3 classes" in text for text in found["warnings"])


@pytest.mark.parametrize(
    "number, options, said",
    [
        (201, {"loss": "ce"}, True),
        (201, {"loss": "mse", "bias": 0.1}, True),
        (201, {"loss": "weighted_mse", "bias": "free"}, True),
        (101, {"loss": "ce"}, False),
        (201, {"loss": "mse", "bias": "free"}, False),
        (201, {"loss": "weighted_mse"}, False),
        (201, {"loss": "ce", "activation": "relu"}, False),
    ],
)
def test_a_convex_program_of_many_counts_is_announced(
    number: int, options: dict[str, Any], said: bool, capsys: pytest.CaptureFixture[str]
):
    with announced(list(range(1, number + 1)), {"bias": "none", "activation": "linear", **options}):
        pass
    out, err = capsys.readouterr()
    assert out == ""
    assert (f"a convex program over {number} different counts" in err) == said
