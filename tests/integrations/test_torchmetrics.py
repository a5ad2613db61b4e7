"""The metric of torchmetrics: whatever the library does with its state, the numbers stay."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from cases.worlds import World, world_cases
from neuralcollapse import (
    METRICS,
    ClassStatistics,
    LinearHead,
    jackknife_intervals,
    measure_features,
)
from neuralcollapse.integrations.torchmetrics import NeuralCollapse
from neuralcollapse.metrics.evaluation import evaluate
from processes import collect_intervals, collect_shares, run_processes

SECOND_LOOK = {"nc4_disagreement", "hug_intra", "cdnv_directional", "nc5_orthogonality"}
# Merging in another order rounds otherwise; double precision, well conditioned worlds.
ROUNDING = 1e-9


def data(count: int = 60, num_classes: int = 5, dim: int = 8, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (count,), generator=generator)
    labels[:num_classes] = torch.arange(num_classes)
    centres = 3 * torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(9))
    features = centres[labels] + torch.randn(count, dim, generator=generator)
    return features.double(), labels


FEATURES, LABELS = data()
WEIGHT = torch.randn(5, 8, generator=torch.Generator().manual_seed(5))


def metric(**options: Any) -> NeuralCollapse:
    return NeuralCollapse(5, 8, **{"weight": WEIGHT, **options})


def expected(features: Tensor = FEATURES, labels: Tensor = LABELS, **options: Any) -> dict:
    measured = measure_features(features, labels, WEIGHT, num_classes=5, **options)
    return {key: value for key, value in measured.metrics.items() if key not in SECOND_LOOK}


def assert_values(values: dict[str, Tensor], wanted: dict[str, float]) -> None:
    assert list(values) == list(wanted)
    for key, value in values.items():
        assert value.shape == ()
        assert value.dtype == torch.float64
        assert float(value) == pytest.approx(wanted[key], rel=ROUNDING, abs=1e-12, nan_ok=True), key


@pytest.mark.parametrize("size", [1, 7, 60])
def test_batches_give_what_measuring_all_gives(size: int) -> None:
    one = metric()
    for features, labels in zip(FEATURES.split(size), LABELS.split(size), strict=True):
        one.update(features, labels)
    assert_values(one.compute(), expected())


@pytest.mark.parametrize("world", **world_cases)
def test_every_world(world: World) -> None:
    """Minority classes, classes never seen, more classes than d + 1, collapse."""
    one = NeuralCollapse(world.num_classes, world.features.shape[1], weight=world.weight)
    one.update(world.features, world.labels)
    wanted, _ = evaluate(world.statistics(), world.weight)
    values = one.compute()
    assert {*values} == {*wanted} - SECOND_LOOK
    for key, value in values.items():
        # Where the truth is rounding, its last digits are nobody's: 1e-12 of order-one metrics.
        assert float(value) == pytest.approx(wanted[key], rel=1e-7, abs=1e-10, nan_ok=True), key


def test_looking_in_between_changes_nothing() -> None:
    one = metric()
    for features, labels in zip(FEATURES.split(9), LABELS.split(9), strict=True):
        one.update(features, labels)
        one.compute()
    assert_values(one.compute(), expected())


def test_forward_gives_the_batch_and_keeps_the_whole() -> None:
    one = metric()
    for features, labels in zip(FEATURES.split(20), LABELS.split(20), strict=True):
        assert_values(one(features, labels), expected(features, labels))
    assert_values(one.compute(), expected())


def test_reset_forgets() -> None:
    one = metric()
    one.update(FEATURES + 1, LABELS)
    one.reset()
    assert one.statistics.num_samples == 0
    one.update(FEATURES, LABELS)
    assert_values(one.compute(), expected())


def test_merging_metrics_and_states() -> None:
    first, second, third = metric(), metric(), metric()
    first.update(FEATURES[:11], LABELS[:11])
    second.update(FEATURES[11:50], LABELS[11:50])
    third.update(FEATURES[50:], LABELS[50:])
    first.merge_state(second)
    first.merge_state(third.metric_state)
    assert_values(first.compute(), expected())
    assert first.statistics.num_samples == 60


@pytest.mark.parametrize("jackknife", [False, True])
def test_batches_of_inference_mode_and_others_add_up(jackknife: bool) -> None:
    whole, mixed = metric(jackknife=jackknife), metric(jackknife=jackknife)
    for start in range(0, len(LABELS), 20):
        own = slice(start, start + 20)
        whole.update(FEATURES[own], LABELS[own])
        with torch.inference_mode(start % 40 == 0):
            mixed.update(FEATURES[own], LABELS[own])
    assert torch.equal(mixed.packed, whole.packed)


def test_a_pickled_or_cloned_metric_goes_on() -> None:
    one = metric()
    one.update(FEATURES[:20], LABELS[:20])
    for other in (pickle.loads(pickle.dumps(one)), one.clone()):
        other.update(FEATURES[20:], LABELS[20:])
        assert_values(other.compute(), expected())
    assert one.statistics.num_samples == 20


def test_a_persistent_state_is_in_the_state_dict() -> None:
    one, other = metric(), metric()
    assert one.state_dict() == {}
    one.persistent(True)
    other.persistent(True)
    one.update(FEATURES[:20], LABELS[:20])
    other.load_state_dict(one.state_dict())
    other.update(FEATURES[20:], LABELS[20:])
    assert_values(other.compute(), expected())


# --- precision and devices ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_features_of_any_precision(dtype: torch.dtype) -> None:
    one = metric()
    one.update(FEATURES.to(dtype), LABELS)
    # Half precision is worked on in float32.
    for key, value in expected(FEATURES.to(dtype).double()).items():
        assert float(one.compute()[key]) == pytest.approx(value, rel=1e-4, abs=1e-6), key


def test_casting_its_owner_leaves_the_state_in_double() -> None:
    owner = nn.ModuleDict({"metric": metric(), "layer": nn.Linear(2, 2)})
    one = owner["metric"]
    assert isinstance(one, NeuralCollapse)
    one.update(FEATURES[:30], LABELS[:30])
    owner.to(torch.bfloat16).half()
    one.set_dtype(torch.float16)
    assert one.packed.dtype == torch.float64
    one.update(FEATURES[30:], LABELS[30:])
    assert_values(one.compute(), expected())


def test_under_autocast() -> None:
    one = metric()
    with torch.autocast("cpu", torch.bfloat16):
        one.update(FEATURES, LABELS)
        values = one.compute()
    assert_values(values, expected())


def test_moving_moves_the_state() -> None:
    one = metric().to("meta")
    assert one.packed.device.type == "meta"
    assert one.device.type == "meta"


def test_collapsed_features_far_from_the_origin() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 5
    centres = 30 + torch.randn(5, 8, generator=generator)
    features = centres[labels] + 1e-4 * torch.randn(200, 8, generator=generator)
    one = metric(weight=None, metrics=["nc1", "cdnv"])
    for x, y in zip(features.split(16), labels.split(16), strict=True):
        one.update(x, y)
        _ = one.packed  # merges at every step
    truth, _ = evaluate(ClassStatistics.from_features(features.double(), labels, 5))
    for key, value in one.compute().items():
        # The residuals of float32 features of size 30 are exact to 1e-6 of 1e-4, and averaged.
        assert float(value) == pytest.approx(truth[key], rel=1e-3)


# --- classifiers --------------------------------------------------------------------------------


def test_a_module_is_read_anew_and_is_no_part_of_the_metric() -> None:
    layer = nn.Linear(8, 5)
    one = metric(weight=layer, metrics=["nc3_duality"])
    one.update(FEATURES, LABELS)
    before = one.compute()["nc3_duality"]
    assert list(one.parameters()) == []
    assert list(one.children()) == []
    with torch.no_grad():
        layer.weight.copy_(one.statistics.centred_means())
    copy = one.clone()
    copy.update(FEATURES, LABELS)
    # Up to rounding to float32.
    assert float(copy.compute()["nc3_duality"]) == pytest.approx(0, abs=1e-6)
    assert float(before) > 0.1
    assert copy.weight is layer


@pytest.mark.parametrize("kind", [LinearHead(5, 8), nn.Parameter(WEIGHT.clone()), WEIGHT])
def test_a_classifier_assigned_later(kind: Any) -> None:
    one = metric(weight=None)
    one.update(FEATURES, LABELS)
    assert not any(key.startswith(("nc2w", "nc3")) for key in one.compute())
    one.weight = kind
    wanted = kind.weight if isinstance(kind, nn.Module) else kind
    measured = measure_features(FEATURES, LABELS, wanted, num_classes=5)
    values = one.compute()
    assert float(values["nc3_duality"]) == pytest.approx(measured["nc3_duality"])
    assert not any(value.requires_grad for value in values.values())


# --- options ------------------------------------------------------------------------------------


def test_without_scatter_there_is_no_nc1_and_no_square() -> None:
    one = metric(scatter=False)
    one.update(FEATURES, LABELS)
    wanted = expected()
    del wanted["nc1"], wanted["vci"]
    assert_values(one.compute(), wanted)
    assert len(one.packed) == 5 + 5 + 5 * 8


@pytest.mark.parametrize("options", [{"normalize": True}, {"global_mean": "sample"}])
def test_options_are_those_of_measuring(options: Any) -> None:
    one = metric(**options)
    one.update(FEATURES, LABELS)
    assert_values(one.compute(), expected(**options))


def test_weighted_covariances_are_those_of_measuring() -> None:
    one = metric(weighting="samples")
    one.update(FEATURES, LABELS)
    assert len(one.statistics.counts.unique()) > 1
    assert_values(one.compute(), expected(weighting="samples"))
    measured = measure_features(FEATURES, LABELS, weighting="samples").conventions
    assert one.conventions.items() <= measured.items()
    assert one.conventions["between_covariance"] == "classes weighted by their share of the samples"


def test_balanced_classes_need_equal_counts_where_a_scatter_is_needed() -> None:
    one = metric(weighting="balanced")
    one.update(FEATURES, LABELS)
    values, wanted = one.compute(), expected(weighting="balanced")
    assert {key for key, value in values.items() if value.isnan()} == {"nc1", "vci"}
    assert float(values["nc1_trace_ratio"]) == pytest.approx(wanted["nc1_trace_ratio"])
    equal = torch.cat([(label == LABELS).nonzero().flatten()[:5] for label in range(5)])
    one.reset()
    one.update(FEATURES[equal], LABELS[equal])
    assert_values(one.compute(), expected(FEATURES[equal], LABELS[equal], weighting="balanced"))


NARROW = 30 + 1e-3 * FEATURES


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_of_rounding_it_warns_once_in_the_words_of_the_note(dtype: torch.dtype) -> None:
    one, features = metric(metrics="nc1"), NARROW.to(dtype)
    (note,) = (n for n in measure_features(features, LABELS).notes if "number format" in n)
    one.update(features[:30], LABELS[:30])
    one.update(features[30:], LABELS[30:])
    with pytest.warns(UserWarning, match="of the within-class variance") as caught:
        one.compute()
    assert [str(warning.message) for warning in caught] == [note]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one.update(features, LABELS)
        one.compute()


def test_a_merged_state_knows_its_format_and_a_reset_one_forgets_it() -> None:
    one, other = metric(metrics="nc1"), metric(metrics="nc1")
    other.update(NARROW.bfloat16(), LABELS)
    one.update(NARROW.float(), LABELS)
    one.merge_state(other)
    with pytest.warns(UserWarning, match="rounding to bfloat16"):
        one.clone().compute()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one.reset()
        one.update(NARROW.float(), LABELS)
        one.compute()
        # Features that vary by more than the format rounds.
        one.update(FEATURES.bfloat16(), LABELS)
        one.compute()


# --- intervals ----------------------------------------------------------------------------------


def ends(values: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """(low, high) by key, where there is an interval."""
    found = {key: (values.get(f"{key}_low"), values.get(f"{key}_high")) for key in values}
    return {
        key: (float(low), float(high))
        for key, (low, high) in found.items()
        if low is not None and high is not None and not low.isnan()
    }


def wanted_ends(
    features: Tensor = FEATURES, labels: Tensor = LABELS, **options: Any
) -> dict[str, Any]:
    measured = measure_features(features, labels, WEIGHT, num_classes=5, jackknife=True, **options)
    return {
        key: pytest.approx((one.low, one.high), rel=1e-7, abs=1e-9)
        for key, one in measured.intervals.items()
        if key in measured.metrics and key not in SECOND_LOOK
    }


@pytest.mark.parametrize("size", [1, 7, 60])
@pytest.mark.parametrize("options", [{}, {"global_mean": "sample", "weighting": "samples"}])
def test_intervals_are_those_of_measuring(size: int, options: Any) -> None:
    one = metric(jackknife=True, **options)
    for features, labels in zip(FEATURES.split(size), LABELS.split(size), strict=True):
        one.update(features, labels)
    values = one.compute()
    keys = expected(**options)
    assert_values({key: values[key] for key in keys}, keys)
    assert [*values] == [*keys, *(f"{key}_{end}" for key in keys for end in ("low", "high"))]
    assert ends(values) == wanted_ends(**options)
    assert one.conventions["intervals"].startswith("95 %, by leaving out one of 20 parts")


def test_calling_merging_and_looking_in_between_leave_the_parts_alike() -> None:
    one, other = metric(jackknife=True), metric(jackknife=True)
    for features, labels in zip(FEATURES.split(5), LABELS.split(5), strict=True):
        one(features, labels)
        other.update(features, labels)
        other.compute()
    assert ends(one.compute()) == ends(other.compute()) == wanted_ends()
    assert len(one.parts) == 20
    again = pickle.loads(pickle.dumps(one))
    again.merge_state(one)
    assert [part.counts.tolist() for part in again.parts] == [
        (2 * part.counts).tolist() for part in one.parts
    ]
    wanted = jackknife_intervals(again.parts, WEIGHT, metrics=["nc1"])["nc1"]
    assert ends(again.compute())["nc1"] == pytest.approx((wanted.low, wanted.high))


def test_features_held_back_are_copies() -> None:
    one, buffer = metric(jackknife=True), torch.empty(20, 8, dtype=torch.float64)
    for features, labels in zip(FEATURES.split(20), LABELS.split(20), strict=True):
        buffer.copy_(features)
        one.update(buffer.requires_grad_(), labels)
        buffer = buffer.detach().fill_(torch.nan)
    assert ends(one.compute()) == wanted_ends()


def test_sequences_of_tokens_are_left_out_as_a_whole() -> None:
    labels = LABELS.clone()
    labels[::7] = -100
    one = metric(jackknife=True, ignore_index=-100)
    one.update(FEATURES.reshape(12, 5, 8), labels.reshape(12, 5))
    kept = labels.reshape(12, 5) >= 0
    assert [part.num_samples for part in one.parts] == [*kept.sum(1).tolist(), *[0] * 8]


def test_where_nothing_can_be_left_out_there_are_no_intervals() -> None:
    one = metric(jackknife=True)
    one.update(FEATURES[:5], torch.arange(5))
    values = one.compute()
    assert ends(values) == {}
    assert float(values["nc2_equinorm"]) == pytest.approx(
        measure_features(FEATURES[:5], torch.arange(5))["nc2_equinorm"]
    )
    one.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert ends(one.compute()) == {}


def test_bad_batches_do_not_reach_the_parts() -> None:
    one = metric(jackknife=True)
    one.update(FEATURES[:30], LABELS[:30])
    with pytest.raises(ValueError, match="features must be finite"):
        one.update(torch.full((1, 8), torch.nan), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 5\)"):
        one.update(torch.zeros(1, 8), torch.tensor([5]))
    one.update(FEATURES[30:], LABELS[30:])
    assert ends(one.compute()) == wanted_ends()


def test_in_a_collection_plain_metrics_and_those_with_intervals_keep_apart() -> None:
    both = MetricCollection(
        {"plain": metric(metrics=["nc1"]), "sure": metric(metrics=["nc1"], jackknife=True)}
    )
    for features, labels in zip(FEATURES.split(20), LABELS.split(20), strict=True):
        both.update(features, labels)
    assert len(both.compute_groups) == 2
    values = both.compute()
    assert {*values} == {"plain_nc1", "sure_nc1", "sure_nc1_low", "sure_nc1_high"}
    assert float(values["plain_nc1"]) == pytest.approx(float(values["sure_nc1"]))


def test_tokens_and_an_ignored_label() -> None:
    labels = LABELS.clone()
    labels[::4] = -100
    one = metric(ignore_index=-100)
    one.update(FEATURES.reshape(6, 10, 8), labels.reshape(6, 10))
    assert_values(one.compute(), expected(FEATURES[labels >= 0], labels[labels >= 0]))


def test_one_key_gives_one_number() -> None:
    one = metric(metrics="nc1")
    one.update(FEATURES, LABELS)
    assert one.compute().shape == ()
    assert float(one.compute()) == pytest.approx(expected()["nc1"])
    again = pickle.loads(pickle.dumps(one))
    assert torch.equal(again.compute(), one.compute())
    assert float(metric(metrics="nc1")(FEATURES, LABELS)) == pytest.approx(expected()["nc1"])


def test_a_collection_draws_every_metric_that_is_one_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`MetricCollection.plot` gives each metric what it computed, by the metric's own name."""
    drawn = []
    monkeypatch.setattr(
        NeuralCollapse, "plot", lambda self, value, ax: drawn.append(value) or (0, 0)
    )
    keys = ("nc1", "cdnv", "nc3_duality")
    several = MetricCollection({key: metric(metrics=key) for key in keys})
    several.update(FEATURES, LABELS)
    values = several.compute()
    assert len(several.compute_groups) == 1
    assert {key: float(value) for key, value in values.items()} == pytest.approx(
        {key: expected()[key] for key in keys}
    )
    several.plot()
    assert sorted(drawn) == sorted(values.values())


def test_in_a_collection_equal_states_are_shared() -> None:
    both = MetricCollection(
        {
            "class": metric(metrics=["nc1", "nc2_equinorm"]),
            "sample": metric(metrics=["nc1"], global_mean="sample"),
            "unit": metric(metrics=["cdnv"], normalize=True),
        }
    )
    for features, labels in zip(FEATURES.split(20), LABELS.split(20), strict=True):
        both.update(features, labels)
    assert sorted(len(group) for group in both.compute_groups.values()) == [1, 2]
    values = both.compute()
    assert float(values["class_nc1"]) == pytest.approx(expected()["nc1"])
    assert float(values["sample_nc1"]) == pytest.approx(expected(global_mean="sample")["nc1"])
    assert float(values["unit_cdnv"]) == pytest.approx(expected(normalize=True)["cdnv"])
    both.reset()
    both.update(FEATURES, LABELS)
    assert float(both.compute()["class_nc1"]) == pytest.approx(expected()["nc1"])


def test_more_classes_than_the_slow_margin_allows() -> None:
    features, labels = data(num_classes=220, count=440)
    one = NeuralCollapse(220, 8)
    one.update(features, labels)
    assert "gnc2_margin" not in one.compute()
    assert "gnc2_margin" in metric_keys()


def test_nothing_seen_is_not_a_number() -> None:
    one = metric()
    with pytest.warns(UserWarning, match="before the ``update``"):
        values = one.compute()
    assert all(bool(value.isnan()) for key, value in values.items() if not key.startswith("nc2w"))


# --- bad input ----------------------------------------------------------------------------------

BAD = {
    "no such key": ({"metrics": ["nc7"]}, ValueError, "metrics must be keys of METRICS, got 'nc7'"),
    "no key alone": ({"metrics": "nc9"}, ValueError, "metrics must be keys of METRICS, got 'nc9'"),
    "features": ({"metrics": ["nc4_disagreement"]}, ValueError, "second look"),
    "scatter": ({"metrics": ["nc1"], "scatter": False}, ValueError, "scatter=False"),
    "weight": ({"weight": torch.zeros(4, 8)}, ValueError, "weight must have 5 rows"),
    "weighting": ({"weighting": "classes"}, ValueError, "weighting must be one of"),
    "mean": ({"global_mean": "mode"}, ValueError, "global_mean must be one of"),
    "index": ({"ignore_index": "pad"}, TypeError, "ignore_index must be an integer"),
    "a text": ({"scatter": "no"}, TypeError, "scatter must be True or False, got 'no'"),
    "alone": ({"metrics": "nc1", "jackknife": True}, ValueError, r"use \['nc1'\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_give_one_sentence(name: str) -> None:
    options, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        metric(**options)


def test_bad_batches_leave_the_state_alone() -> None:
    one = metric()
    one.update(FEATURES, LABELS)
    with pytest.raises(ValueError, match="features must have 8 columns"):
        one.update(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 5\)"):
        one.update(torch.zeros(1, 8), torch.tensor([5]))
    with pytest.raises(ValueError, match="labels must have one entry per feature"):
        one.update(torch.zeros(2, 3, 8), torch.zeros(3, 2, dtype=torch.long))
    with pytest.raises(TypeError, match="labels must be integers"):
        one.update(torch.zeros(1, 8), torch.tensor([0.5]))
    assert_values(one.compute(), expected())


def test_a_weight_that_is_asked_for_and_not_there() -> None:
    one = metric(weight=None, metrics=["nc3_duality"])
    one.update(FEATURES, LABELS)
    with pytest.raises(ValueError, match="weight must be given for nc3_duality"):
        one.compute()


def test_drawing_needs_matplotlib() -> None:
    one = metric(metrics=["nc1", "cdnv"])
    one.update(FEATURES, LABELS)
    if importlib.util.find_spec("matplotlib") is not None:
        pytest.skip("it is here")
    for drawn in (one, metric(metrics="nc1")):
        with pytest.raises(ModuleNotFoundError, match="matplotlib"):
            drawn.plot(one.compute() if drawn is one else torch.tensor(0.5))


@pytest.fixture
def pyplot() -> Iterator[Any]:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    module = pytest.importorskip("matplotlib.pyplot")
    yield module
    module.close("all")


def test_several_metrics_are_drawn_in_a_panel_each(pyplot: Any) -> None:
    keys = ["nc1", "effective_rank", "cdnv", "vci", "gnc2_margin"]
    one = metric(weight=None, metrics=keys)
    one.update(FEATURES, LABELS)
    present = one.compute()
    for given, steps in ((None, 1), (present, 1), ([present] * 3, 3)):
        figure, panels = one.plot(given)
        assert figure is not None
        assert [panel.get_title() for panel in panels] == keys
        for panel, key in zip(panels, keys, strict=True):
            curve, collapse = panel.get_lines()
            assert list(curve.get_ydata()) == [float(present[key])] * steps
            wanted = next(row for row in METRICS if row.key == key).at_collapse
            wanted = wanted(one.num_classes, one.dim) if callable(wanted) else wanted
            assert set(collapse.get_ydata()) == {wanted}
    _, axes = pyplot.subplots()
    assert one.plot([present] * 2, ax=axes) == (None, axes)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == keys


def test_one_metric_and_a_collection_are_drawn_under_their_names(pyplot: Any) -> None:
    several = MetricCollection({key: metric(metrics=key) for key in ("nc1", "cdnv")})
    several.update(FEATURES, LABELS)
    drawn: Any = several.plot([several.compute()] * 2)
    assert {axes.get_ylabel() for _, axes in drawn} == {"nc1", "cdnv"}
    _, axes = metric(metrics="nc1").plot(torch.tensor(0.5))
    assert axes.get_ylabel() == "nc1"
    assert [float(line.get_ydata()[0]) for line in axes.get_lines()] == [0.5]


def test_a_missing_package_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['torchmetrics'] = None\n"
        "try: import neuralcollapse.integrations.torchmetrics\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert "NeuralCollapse needs torchmetrics, which cannot be imported" in done.stdout
    assert "pip install 'neuralcollapse[torchmetrics]'" in done.stdout


# --- processes ----------------------------------------------------------------------------------


@pytest.mark.distributed
@pytest.mark.slow
def test_processes_with_uneven_shards_get_the_numbers_of_the_whole(tmp_path: Path) -> None:
    """A third and two thirds; all and nothing; half of the classes each."""
    run_processes(collect_shares, tmp_path)


@pytest.mark.distributed
@pytest.mark.slow
def test_intervals_of_processes_are_those_of_measuring(tmp_path: Path) -> None:
    run_processes(collect_intervals, tmp_path)


def test_the_table_is_covered() -> None:
    assert {metric.key for metric in METRICS} == {*metric_keys(), *SECOND_LOOK}


def metric_keys() -> list[str]:
    one = metric()
    one.update(FEATURES, LABELS)
    return list(one.compute())
