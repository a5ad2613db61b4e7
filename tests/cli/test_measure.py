"""`neuralcollapse measure`: a table, or one JSON object; bad input is one sentence."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from array_files import write
from cases.metrics import ROWS
from cli.command import in_process, run
from neuralcollapse import measure_features

GENERATOR = np.random.default_rng(0)
LABELS = np.arange(60) % 4
MEANS = 3 * GENERATOR.standard_normal((4, 6))
FEATURES = (MEANS[LABELS] + GENERATOR.standard_normal((60, 6))).astype(np.float32)
WEIGHT = MEANS.astype(np.float32)
BIAS = (-(MEANS**2).sum(1) / 2).astype(np.float32)
WHOLE = {"features": FEATURES, "labels": LABELS, "weight": WEIGHT, "bias": BIAS}

pytestmark = pytest.mark.usefixtures("bounded_memory")


def as_json(*arguments: Any) -> dict[str, Any]:
    """The one JSON object on standard output; nothing else is printed anywhere."""
    outcome = run("measure", *arguments, "--json")
    assert outcome.err == ""
    assert len(outcome.assert_ok().splitlines()) == 1
    return json.loads(outcome.out, parse_constant=lambda text: pytest.fail(f"{text} in JSON"))


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_json_holds_what_measuring_gives(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"f.{suffix}", **WHOLE)
    result = as_json(file, "--split", "test")
    wanted = measure_features(FEATURES, LABELS, WEIGHT, BIAS, split="test")
    assert result["metrics"] == wanted.metrics
    assert list(result["metrics"]) == [metric.key for metric in ROWS]
    assert result["conventions"] == wanted.conventions
    assert result["conventions"]["split"] == "test"
    assert result["conventions"]["classifier"] == "weight and bias"
    assert result["counts"] == [15] * 4
    assert result["undefined"] == {}
    assert result["accuracy"] == wanted.accuracy
    assert result["num_samples"] == 60


def test_the_table_says_every_number_and_every_convention(tmp_path: Path) -> None:
    file = write(tmp_path / "f.npz", **WHOLE)
    table, result = run("measure", file).assert_ok(), as_json(file)
    lines = {line.split()[0]: line for line in table.splitlines() if line.strip()}
    for key, value in result["metrics"].items():
        assert float(lines[key].split()[1]) == pytest.approx(value, rel=1e-5, abs=1e-12)
    for name, text in result["conventions"].items():
        assert f"{name}: {text}" in table
    assert "60 in 4 classes" in table


def test_what_is_undefined_is_null_with_its_reason(tmp_path: Path) -> None:
    one_class = as_json(write(tmp_path / "one.npz", features=FEATURES, labels=LABELS * 0))
    assert all(value is None for value in one_class["metrics"].values())
    no_weight = as_json(write(tmp_path / "two.npz", features=FEATURES, labels=LABELS))
    without = {key for key, value in no_weight["metrics"].items() if value is None}
    assert without == {
        k for k in no_weight["metrics"] if k.startswith(("nc2w", "nc3", "gnc3", "nc4"))
    }
    for result in (one_class, no_weight):
        missing = {key for key, value in result["metrics"].items() if value is None}
        assert set(result["undefined"]) == missing
        assert all(result["undefined"].values())
    assert no_weight["conventions"]["classifier"] == "none"
    assert "undefined: " in run("measure", tmp_path / "two.npz").assert_ok()


def test_weighting_and_outsiders_are_passed_on(tmp_path: Path) -> None:
    labels = np.minimum(LABELS, 2)
    file = write(tmp_path / "f.npz", features=FEATURES, labels=labels)
    outside = write(tmp_path / "o.npz", features=FEATURES[:7] + 1)
    result = as_json(file, "--weighting", "balanced", "--outsiders", outside)
    expected = measure_features(FEATURES, labels, weighting="balanced", outsiders=FEATURES[:7] + 1)
    for key in ("nc1", "vci", "nc5_orthogonality"):
        assert result["metrics"][key] == pytest.approx(expected[key], rel=1e-12)
    assert result["metrics"]["nc1"] != as_json(file)["metrics"]["nc1"]
    shards = as_json(file, file.with_name("o2.npz"), "--weighting", "balanced", "--skip-bad")
    assert shards["metrics"]["nc1"] == pytest.approx(expected["nc1"], rel=1e-12)
    bare = write(tmp_path / "b.npz", labels=labels)
    run("measure", file, "--outsiders", bare).assert_refused("must hold the array 'features'")


def test_with_intervals_and_in_several_files_nothing_is_left_out(tmp_path: Path) -> None:
    """Outsiders, test samples and wrong labels, beside intervals; the former in shards, too."""
    one = write(tmp_path / "f.npz", **WHOLE, true_labels=(LABELS + 1) % 4)
    test = write(tmp_path / "t.npz", features=FEATURES + 0.1, labels=LABELS)
    outside = write(tmp_path / "o.npz", features=FEATURES[:7] + 1)
    for j in range(3):
        write(
            tmp_path / f"s{j}.npz", **WHOLE | {"features": FEATURES[j::3], "labels": LABELS[j::3]}
        )
    more = "--outsiders", outside, "--against", test, "--groups", "20,10"
    plain, sure = as_json(one, *more), as_json(one, *more, "--jackknife")
    assert "intervals" not in plain
    assert sure["metrics"].keys() == plain["metrics"].keys()
    assert sure["file"] == plain["file"]
    assert sure["wrong_labels"] == plain["wrong_labels"]
    wanted = measure_features(
        FEATURES, LABELS, WHOLE["weight"], WHOLE["bias"], outsiders=FEATURES[:7] + 1, jackknife=True
    )
    assert sure["intervals"].keys() == wanted.intervals.keys()
    assert "nc5_orthogonality" in sure["intervals"]
    for key, interval in wanted.intervals.items():
        assert sure["intervals"][key]["low"] == pytest.approx(interval.low, rel=1e-9), key
    shards = tmp_path / "s?.npz"
    beside = as_json(shards, *more), as_json(shards, *more, "--jackknife", "--skip-bad")
    for found in (sure, *beside):  # sums in another order
        nc5 = found["metrics"]["nc5_orthogonality"]
        assert nc5 == pytest.approx(plain["metrics"]["nc5_orthogonality"], rel=1e-9)
        means = plain["against"]["by_group"]["all"]
        assert found["against"]["by_group"]["all"] == pytest.approx(means, rel=1e-6)
    assert "nc5_orthogonality" in as_json(shards, *more, "--jackknife")["intervals"]
    text = run("measure", shards, *more, "--jackknife").assert_ok()
    assert text.index("files: 3 read") < text.index("\nagainst ")
    narrow = write(tmp_path / "n.npz", features=FEATURES[:, :-1])
    run("measure", shards, "--outsiders", narrow).assert_refused("outsiders must have", "columns")
    again = run("measure", shards, "--outsiders", tmp_path / "s1.npz")
    again.assert_refused("another file than")
    run("measure", shards, "--against", narrow).assert_refused("labels")


def test_weight_and_bias_are_used(tmp_path: Path) -> None:
    """With the bias the classifier is the nearest mean; without it, it is not."""
    file = tmp_path / "f.npz"
    with_both = as_json(write(file, **WHOLE))
    with_weight = as_json(write(file, features=FEATURES, labels=LABELS, weight=WEIGHT))
    assert with_weight["conventions"]["classifier"] == "weight"
    assert with_both["accuracy"] > with_weight["accuracy"]
    keys = ("nc2w_equinorm", "nc3_duality")
    assert all(with_weight["metrics"][key] == with_both["metrics"][key] for key in keys)
    assert with_weight["metrics"]["nc4_disagreement"] != with_both["metrics"]["nc4_disagreement"]


def test_classes_without_a_sample_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "f.npz", features=FEATURES, labels=LABELS)
    result = as_json(file, "--num-classes", 6)
    assert result["counts"] == [15, 15, 15, 15, 0, 0]
    assert result["absent_classes"] == [4, 5]
    assert result["metrics"] == as_json(file)["metrics"]
    assert "4, 5" in run("measure", file, "--num-classes", 6).assert_ok()


@pytest.mark.parametrize(
    "flags, options, convention",
    [
        (["--global-mean", "sample"], {"global_mean": "sample"}, "mean of all samples"),
        (["--normalize"], {"normalize": True}, "scaled to unit length"),
    ],
)
def test_options_change_numbers_and_conventions(
    tmp_path: Path, flags: list[str], options: dict[str, Any], convention: str
) -> None:
    labels = np.minimum(LABELS, 2)  # unequal counts: the two global means differ
    file = write(tmp_path / "f.npz", features=FEATURES, labels=labels)
    result = as_json(file, *flags)
    wanted = measure_features(FEATURES, labels, **options)
    assert result["metrics"]["nc2_equinorm"] == wanted["nc2_equinorm"]
    assert result["metrics"]["nc2_equinorm"] != as_json(file)["metrics"]["nc2_equinorm"]
    assert convention in result["conventions"].values()


def test_the_object_can_be_written_too(tmp_path: Path) -> None:
    file = write(tmp_path / "f.npz", **WHOLE)
    printed = as_json(file, "--out", tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == printed


@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4", ">f8"])
@pytest.mark.parametrize("whole", ["int8", "uint16", "uint64", ">i4"])
def test_numbers_of_any_size_and_byte_order(tmp_path: Path, dtype: str, whole: str) -> None:
    file = write(tmp_path / "f.npz", features=FEATURES.astype(dtype), labels=LABELS.astype(whole))
    # Half precision keeps three digits of each feature.
    close = 1e-2 if dtype == "float16" else 1e-6
    wanted = measure_features(FEATURES, LABELS)["nc1"]
    assert as_json(file)["metrics"]["nc1"] == pytest.approx(wanted, rel=close)


def test_in_a_process_of_its_own_nothing_else_is_printed(tmp_path: Path) -> None:
    outcome = in_process("measure", write(tmp_path / "f.safetensors", **WHOLE), "--json")
    assert outcome.err == ""
    assert json.loads(outcome.assert_ok())["counts"] == [15] * 4


# --- bad input ----------------------------------------------------------------------------------


def without(name: str) -> dict[str, Any]:
    return {key: array for key, array in WHOLE.items() if key != name}


def changed(name: str, place: Any, value: Any) -> dict[str, Any]:
    array = WHOLE[name].copy()
    array[place] = value
    return {**WHOLE, name: array}


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "no features": (without("features"), "features"),
    "no labels": (without("labels"), "labels"),
    "nothing": ({}, "features"),
    "no weight": (without("weight"), "weight"),
    "whole features": ({**WHOLE, "features": LABELS[:, None]}, "features must be floating point"),
    "complex features": ({**WHOLE, "features": FEATURES + 1j}, "features must be floating point"),
    "text": ({**WHOLE, "features": FEATURES.astype(str)}, "features"),
    "dates": ({**WHOLE, "features": LABELS.astype("M8[s]")[:, None]}, "features"),
    "records": ({**WHOLE, "features": np.zeros(60, [("x", "f4")])}, "features"),
    "1-D features": ({**WHOLE, "features": FEATURES[:, 0]}, "features must be 2-D"),
    "3-D features": ({**WHOLE, "features": FEATURES[:, :, None]}, "features must be 2-D"),
    "a number": ({**WHOLE, "features": FEATURES[0, 0]}, "features must be 2-D"),
    "no columns": ({**WHOLE, "features": FEATURES[:, :0], "weight": WEIGHT[:, :0]}, "1"),
    "no samples": ({**WHOLE, "features": FEATURES[:0], "labels": LABELS[:0]}, "at least one"),
    "nan": (changed("features", (7, 2), np.nan), "features must be finite"),
    "infinity": (changed("features", (7, 2), -np.inf), "features must be finite"),
    "two infinities": (changed("features", (7, slice(2)), [np.inf, -np.inf]), "finite"),
    "fractions": ({**WHOLE, "labels": LABELS.astype(float)}, "labels must be integers"),
    "truths": ({**WHOLE, "labels": LABELS > 1}, "labels must be integers"),
    "2-D labels": ({**WHOLE, "labels": LABELS[:, None]}, "labels must be 1-D"),
    "few labels": ({**WHOLE, "labels": LABELS[:59]}, "same length"),
    "negative label": (changed("labels", 3, -1), "labels must lie in [0, 4)"),
    "large label": (changed("labels", 3, 4), "labels must lie in [0, 4)"),
    "huge label": ({"features": FEATURES, "labels": LABELS + 10**12}, "labels"),
    "largest label": ({"features": FEATURES, "labels": LABELS + (2**63 - 5)}, "labels"),
    "narrow weight": ({**WHOLE, "weight": WEIGHT[:, :5]}, "weight must have 6 columns"),
    "wide weight": ({**WHOLE, "weight": np.ones((4, 7), np.float32)}, "weight must have 6"),
    "1-D weight": ({**WHOLE, "weight": WEIGHT[0]}, "weight must be 2-D"),
    "whole weight": ({**WHOLE, "weight": WEIGHT.astype(int)}, "weight must be floating point"),
    "nan in weight": (changed("weight", (1, 1), np.nan), "weight must be finite"),
    "short bias": ({**WHOLE, "bias": BIAS[:3]}, "bias must have shape (4,)"),
    "whole bias": ({**WHOLE, "bias": BIAS.astype(int)}, "bias must be floating point"),
    "nan in bias": (changed("bias", 1, np.inf), "bias must be finite"),
}
NOT_IN_SAFETENSORS = {"text", "dates", "records", "complex features"}


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays_are_refused_in_a_sentence(tmp_path: Path, name: str, suffix: str) -> None:
    if suffix == "safetensors" and name in NOT_IN_SAFETENSORS:
        return
    arrays, word = BAD_ARRAYS[name]
    file = write(tmp_path / f"f.{suffix}", **arrays)
    for flags in ([], ["--json", "--out", tmp_path / "out.json"]):
        run("measure", file, *flags).assert_refused(word)
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]  # nothing half-written


def test_a_number_of_classes_that_does_not_fit(tmp_path: Path) -> None:
    file = write(tmp_path / "f.npz", **WHOLE)
    run("measure", file, "--num-classes", 5).assert_refused("weight must have 5 rows")
    run("measure", file, "--num-classes", 0).assert_refused("num_classes")
    bare = write(tmp_path / "bare.npz", features=FEATURES, labels=LABELS)
    run("measure", bare, "--num-classes", 3).assert_refused("labels must lie in [0, 3)")
    run("measure", bare, "--num-classes", 0).assert_refused("num_classes")
    run("measure", bare, "--num-classes", 10**12).assert_refused("memory")
    run("measure", bare, "--num-classes", 10**30).assert_refused()


def npz_with(header: str, body: bytes = bytes(80)) -> Callable[[Path], None]:
    """An archive whose array says of itself what the header says."""

    def make(path: Path) -> None:
        text = header.encode() + b"\n"
        array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("features.npy", array)
            archive.writestr("labels.npy", array)

    return make


def shaped(shape: str) -> Callable[[Path], None]:
    return npz_with(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}")


def content(data: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(data)

    return make


def cut(fraction: float) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write(path, **WHOLE)
        data = path.read_bytes()
        path.write_bytes(data[: int(fraction * len(data))])

    return make


def altered(local: int, central: int, value: int) -> Callable[[Path], None]:
    """One byte changed in the first entry, where the archive says it twice in both places."""

    def make(path: Path) -> None:
        write(path, **WHOLE)
        data = bytearray(path.read_bytes())
        data[data.index(b"PK\3\4") + local] = value
        if central:
            data[data.index(b"PK\1\2") + central] = value
        path.write_bytes(data)

    return make


def single(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, FEATURES)


def header_of(text: str, length: int | None = None) -> Callable[[Path], None]:
    data = text.encode()
    return content(struct.pack("<Q", len(data) if length is None else length) + data + bytes(24))


FLOATS = '"dtype":"F32","shape":[2,3],"data_offsets":'
BAD_FILES: dict[str, Callable[[Path], Any]] = {
    "missing.npz": lambda path: None,
    "missing.safetensors": lambda path: None,
    "folder.npz": lambda path: path.mkdir(),
    "folder.safetensors": lambda path: path.mkdir(),
    "empty.npz": content(b""),
    "empty.safetensors": content(b""),
    "text.npz": content(b"features"),
    "text.safetensors": content(b"features" * 9),
    "pickle.npz": content(pickle.dumps({"features": [1.0]})),
    "pickle.safetensors": content(pickle.dumps({"features": [1.0]})),
    "gzip.npz": content(gzip.compress(b"features")),
    "single.npz": single,
    "cut.npz": cut(0.5),
    "cut.safetensors": cut(0.5),
    "nearly.npz": cut(0.99),
    "nearly.safetensors": cut(0.99),
    "crc.npz": altered(300, 0, 0xFF),
    "method.npz": altered(8, 10, 0x63),
    "locked.npz": altered(6, 8, 0x01),
    "huge.npz": shaped("(10000000000000, 2)"),
    "overflow.npz": shaped("(99999999999999999999,)"),
    "squared.npz": shaped("(4611686018427387904, 4611686018427387904)"),
    "negative.npz": shaped("(-1,)"),
    "code.npz": npz_with("__import__('os').abort()"),
    "objects.npz": npz_with("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"),
    "deep.npz": npz_with("(" * 5000),
    "long.safetensors": header_of("{}", 2**62),
    "list.safetensors": header_of("[]"),
    "deep.safetensors": header_of("[" * 100_000),
    "outside.safetensors": header_of(f'{{"features":{{{FLOATS}[0,2400]}}}}'),
    "backwards.safetensors": header_of(f'{{"features":{{{FLOATS}[24,0]}}}}'),
    "unknown.txt": content(b"features"),
    "none": content(b"features"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    BAD_FILES[name](file)
    before = sorted(tmp_path.iterdir())
    run("measure", file, "--json", "--out", tmp_path / "out.json").assert_refused(name)
    assert sorted(tmp_path.iterdir()) == before


def test_a_pickle_inside_is_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    (tmp_path / "whole.npz").write_bytes(pickle.dumps(Bomb()))
    for name in ("features", "labels", "weight", "other"):
        np.savez(tmp_path / f"{name}.npz", **{**WHOLE, name: np.array([Bomb()], dtype=object)})
    for name in ("whole", "features", "labels", "weight"):
        run("measure", tmp_path / f"{name}.npz").assert_refused("npz")
    run("measure", tmp_path / "other.npz")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "name, word",
    [("nosuch/out.json", "nosuch"), ("folder", "folder"), ("f.npz/out.json", "f.npz")],
)
def test_a_result_that_cannot_be_written(tmp_path: Path, name: str, word: str) -> None:
    file = write(tmp_path / "f.npz", **WHOLE)
    (tmp_path / "folder").mkdir()
    run("measure", file, "--json", "--out", tmp_path / name).assert_refused(word)
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["f.npz", "folder"]
