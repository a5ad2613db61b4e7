"""Severity of mistakes: slow loops, exact identities, published bounds, and how batches merge."""

from __future__ import annotations

import builtins
import json
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import reference.mistakes
from neuralcollapse import (
    MISTAKE_METRICS,
    MistakeAccumulator,
    Mistakes,
    calibration_error,
    hierarchical_distance,
    lca_accuracy,
    minimum_risk,
    mistake_severity,
    preference_score,
)
from neuralcollapse.hierarchy import Hierarchy

BINARY = Hierarchy.from_newick("((a,b),(c,d));")
# Leaves at depths 1 to 3, an inner node with a single child, and classes "X", "Y" that are inner.
EDGES = "R-X R-Y R-lone X-a X-b Y-Z Z-c Z-d Y-only only-e"
RAGGED = Hierarchy.from_pairs(
    [(edge.split("-")[0], edge.split("-")[1]) for edge in EDGES.split()],
    classes=["d", "X", "lone", "a", "e", "c", "Y", "b"],
)
FLAT = Hierarchy.from_dict(["a", "b", "c"])
TREES = {"binary": BINARY, "ragged": RAGGED, "flat": FLAT}

# FGVC-Aircraft: how many variants each family of a manufacturer has, manufacturers with spaces
# between them; thirteen more have one aircraft each.
AIRCRAFT = "84232111 114241 121111 1111 3121 121 112 1112 211 111 2 11 11 11 11 11 11" + " 1" * 13


def aircraft() -> Hierarchy:
    rows = []
    for manufacturer, families in enumerate(AIRCRAFT.split()):
        for family, variants in enumerate(map(int, families)):
            name = f"family {manufacturer}-{family}"
            rows += [[f"manufacturer {manufacturer}", name, f"{name}-{v}"] for v in range(variants)]
    return Hierarchy.from_levels(rows)


def drawn(tree: Hierarchy, num_samples: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(scores, labels) with many ties and about half of the decisions right."""
    generator = torch.Generator().manual_seed(seed)
    classes = tree.num_classes
    labels = torch.randint(0, classes, (num_samples,), generator=generator)
    scores = torch.randint(0, 4, (num_samples, classes), generator=generator).float()
    scores[torch.arange(num_samples), labels] += 1
    return scores, labels


def table_of(tree: Hierarchy, kind: str = "lca_height") -> list[list[int]]:
    return reference.mistakes.distances(tree.parent.tolist(), tree.node_of_class.tolist(), kind)


def counted(
    distances: Any, scores: Tensor, labels: Tensor, *, size: int | None = None, **options: Any
) -> Mistakes:
    accumulator = MistakeAccumulator(distances, **options)
    for part, truth in zip(
        scores.split(size or len(labels)), labels.split(size or len(labels)), strict=True
    ):
        accumulator.update(part, truth)
    return accumulator.result()


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lca_height", "root_depth"])
@pytest.mark.parametrize("name", TREES)
def test_everything_equals_the_slow_loops(name: str, kind: str) -> None:
    tree = TREES[name]
    scores, labels = drawn(tree)
    table = table_of(tree, kind)
    slow = (scores.tolist(), labels.tolist(), table)
    mistakes = counted(tree, scores, labels, kind=kind, top=(1, 2, 20))
    # Sums of whole numbers are exact, and so is their quotient but for its last digit.
    expected = reference.mistakes.severity(*slow)
    assert expected is not None
    assert mistakes.severity == float(expected)
    for k in (1, 2, 20):
        exact = reference.mistakes.hierarchical_distance(*slow, k)
        assert mistakes.values[f"hierarchical_distance@{k}"] == float(exact)
    preference = reference.mistakes.preference(*slow, 20)
    assert mistakes.values["preference_score@20"] == pytest.approx(preference, rel=1e-12)
    levels = reference.mistakes.level_accuracy(
        scores.argmax(1).tolist(), slow[1], tree.parent.tolist(), tree.node_of_class.tolist()
    )
    found = [mistakes.values[f"lca_accuracy@{level + 1}"] for level in range(tree.total_height)]
    assert found == levels
    assert levels[-1] == mistakes.accuracy


@pytest.mark.parametrize("name", TREES)
def test_the_functions_are_the_rows_of_the_result(name: str) -> None:
    tree = TREES[name]
    scores, labels = drawn(tree)
    values = counted(tree, scores, labels).values
    predictions = scores.argmax(1)
    assert float(mistake_severity(predictions, labels, tree)) == values["mistake_severity"]
    for k in (1, 5, 20):
        distance = float(hierarchical_distance(scores, labels, tree, k))
        assert distance == values[f"hierarchical_distance@{k}"]
    assert float(preference_score(scores, labels, tree)) == pytest.approx(
        values["preference_score@20"], rel=1e-14
    )
    levels = lca_accuracy(predictions, labels, tree).tolist()
    assert levels == [values[f"lca_accuracy@{i + 1}"] for i in range(tree.total_height)]
    keys = {key.partition("@")[0] for key in values} - {"accuracy"}
    assert keys | {"calibration_error"} == {metric.key for metric in MISTAKE_METRICS}


@pytest.mark.parametrize("kind", ["lca_height", "root_depth", "path"])
@pytest.mark.parametrize("name", TREES)
def test_a_tree_and_its_matrix_say_the_same(name: str, kind: Any) -> None:
    tree = TREES[name]
    scores, labels = drawn(tree)
    by_tree = counted(tree, scores, labels, kind=kind)
    by_matrix = counted(tree.distances(kind), scores, labels, hierarchy=tree)
    for field in ("values", "best", "chance"):
        assert getattr(by_matrix, field) == pytest.approx(getattr(by_tree, field), rel=1e-14)
    assert by_matrix.severities == by_tree.severities
    assert by_tree.conventions["distance"] == kind
    assert by_matrix.conventions["distance"] == "given matrix"


def test_distances_from_true_to_predicted_may_differ_from_those_back() -> None:
    matrix = torch.tensor([[0.0, 5.0], [2.0, 0.0]])
    truth, predicted = torch.tensor([0, 0, 1]), torch.tensor([1, 0, 0])
    assert float(mistake_severity(predicted, truth, matrix)) == 3.5


@pytest.mark.long
def test_a_million_classes_need_no_matrix() -> None:
    """Ten levels of four: 4^10 classes, whose matrix would hold 10^12 numbers."""
    width, levels = 4, 10
    starts = [(width**depth - 1) // (width - 1) for depth in range(levels + 2)]
    nodes = torch.arange(starts[-1])
    parent = ((nodes - 1) // width).tolist()
    parent[0] = -1
    tree = Hierarchy(
        tuple(map(str, nodes.tolist())), torch.tensor(parent).numpy(), nodes[starts[-2] :].numpy()
    )
    accumulator = MistakeAccumulator(tree, top=(1, 5))
    # The first leaf is predicted: right, a sibling's, a cousin's, and the other end's.
    ranks = torch.arange(5).repeat(4, 1)
    accumulator.update_ranks(ranks, torch.tensor([0, 1, 4, width**levels - 1]))
    mistakes = accumulator.result()
    assert mistakes.severities == {1.0: 1, 2.0: 1, 10.0: 1}
    assert mistakes.best["hierarchical_distance@5"] == (0 + 1 + 1 + 1 + 2) / 5


# --- identities and invariances -------------------------------------------------------------------


@settings(max_examples=40)
@given(st.data())
def test_distance_is_severity_times_error_however_the_samples_are_cut(data: st.DataObject) -> None:
    tree = data.draw(st.sampled_from(list(TREES.values())))
    number = data.draw(st.integers(1, 30))
    scores, labels = drawn(tree, number, data.draw(st.integers(0, 99)))
    whole = counted(tree, scores, labels)
    # Exact in fractions; in floating point there are three roundings.
    exact = sum(Fraction(d) * n for d, n in whole.severities.items()) / Fraction(number)
    assert whole.values["hierarchical_distance@1"] == float(exact)
    assert sum(whole.severities.values()) == whole.num_mistakes
    if whole.num_mistakes:
        product = whole.severity * (1 - whole.accuracy)
        assert product == pytest.approx(float(exact), rel=1e-15)
    order = torch.tensor(data.draw(st.permutations(range(number))))
    cut = counted(tree, scores[order], labels[order], size=data.draw(st.integers(1, number)))
    assert cut.values == pytest.approx(whole.values, rel=0, abs=0, nan_ok=True)
    assert (cut.best, cut.chance, cut.severities) == (whole.best, whole.chance, whole.severities)


def test_batches_change_nothing_where_distances_are_no_whole_numbers() -> None:
    points = torch.randn(7, 3, generator=torch.Generator().manual_seed(1)).double()
    matrix = (points[:, None] - points).norm(dim=2)
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(101, 7, generator=generator)
    labels = torch.randint(0, 7, (101,), generator=generator)
    order = torch.randperm(101, generator=generator)
    whole = counted(matrix, scores, labels)
    for size in (1, 7, 100):
        again = counted(matrix, scores[order], labels[order], size=size)
        assert again.to_dict() == whole.to_dict()
    slow = (scores.tolist(), labels.tolist(), matrix.tolist())
    expected = reference.mistakes.severity(*slow)
    assert expected is not None
    assert whole.severity == pytest.approx(float(expected), rel=1e-14)
    distance = float(reference.mistakes.hierarchical_distance(*slow, 5))
    assert whole.values["hierarchical_distance@5"] == pytest.approx(distance, rel=1e-14)


def test_parts_merge() -> None:
    scores, labels = drawn(RAGGED, 50)
    probabilities = scores.softmax(1)
    parts = []
    for rows in (slice(0, 3), slice(3, 3), slice(3, 50)):
        part = MistakeAccumulator(RAGGED)
        part.update(scores[rows], labels[rows], probabilities[rows])
        parts.append(part)
    whole = MistakeAccumulator(RAGGED)
    whole.update(scores, labels, probabilities)
    first, *others = reversed(parts)
    for other in others:
        first.merge(other)
    assert first.result().to_dict() == whole.result().to_dict()


def test_ranks_of_least_risk_are_counted_as_given() -> None:
    probabilities = torch.tensor([[0.40, 0.0, 0.35, 0.25], [0.1, 0.1, 0.2, 0.6]])
    labels = torch.tensor([2, 0])
    accumulator = MistakeAccumulator(BINARY, top=(2,))
    ranks = minimum_risk(probabilities, BINARY.distances(), top=2)
    accumulator.update_ranks(ranks, labels, probabilities)
    mistakes = accumulator.result()
    assert ranks.tolist() == [[2, 3], [3, 2]]
    assert mistakes.severities == {2.0: 1}
    assert mistakes.values["hierarchical_distance@2"] == (0 + 1 + 2 + 2) / 4
    # The confidence is that of the class decided for: .35 and right, .6 and wrong.
    assert mistakes.values["calibration_error"] == pytest.approx((0.65 + 0.6) / 2, rel=1e-6)


# --- bounds -------------------------------------------------------------------------------------


def ordered_scores(tree: Hierarchy, labels: Tensor) -> Tensor:
    """Scores that rank all classes by their distance to the truth."""
    return -tree.distances()[labels]


PUBLISHED = {
    # pairs of classes by distance; perfect rankings at 5 and 20; severity of random mistakes
    "cifar-100": (Hierarchy.cifar100, [200, 525, 1050, 900, 2275], (0.800, 2.0625), 3.914),
    "aircraft": (aircraft, [62, 333, 4555], (1.632, 2.415), 2.908),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_bounds_of_published_trees(name: str) -> None:
    """All classes equally frequent."""
    make, pairs, perfect_at, random_severity = PUBLISHED[name]
    tree, labels = make(), torch.arange(100)
    assert list(tree.pair_counts().values()) == pairs
    perfect = counted(tree, ordered_scores(tree, labels), labels)
    assert perfect.best["hierarchical_distance@1"] == 0
    # As many digits as are published.
    assert perfect.best["hierarchical_distance@5"] == pytest.approx(perfect_at[0], abs=5e-4)
    assert perfect.best["hierarchical_distance@20"] == pytest.approx(perfect_at[1], abs=5e-4)
    assert perfect.chance["mistake_severity"] == pytest.approx(random_severity, abs=5e-4)
    for k in (1, 5, 20):
        key = f"hierarchical_distance@{k}"
        assert perfect.values[key] == pytest.approx(perfect.best[key], rel=1e-12)
    assert perfect.values["preference_score@20"] == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("name", TREES)
def test_the_best_is_reached_and_the_worst_scores_zero(name: str) -> None:
    tree = TREES[name]
    labels = torch.arange(tree.num_classes).repeat(3)[2:]
    perfect = counted(tree, ordered_scores(tree, labels), labels)
    for key, value in perfect.values.items():
        if key not in perfect.undefined:
            assert value == pytest.approx(perfect.best[key], rel=1e-12), key
    reverse = counted(tree, -ordered_scores(tree, labels), labels)
    assert reverse.values["preference_score@20"] == pytest.approx(0, abs=1e-12)
    # The best mistakes: the truth out of the question, the others in order of distance.
    others = ordered_scores(tree, labels)
    others[torch.arange(len(labels)), labels] = -torch.inf
    near = counted(tree, others, labels)
    assert near.severity == pytest.approx(near.best["mistake_severity"], rel=1e-12)


@pytest.mark.parametrize("name", TREES)
def test_chance_is_the_mean_over_random_rankings(name: str) -> None:
    tree = TREES[name]
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(tree.num_classes).repeat(4000)
    scores = torch.rand(len(labels), tree.num_classes, generator=generator)
    mistakes = counted(tree, scores, labels)
    for key, expected in mistakes.chance.items():
        # Means over 12,000 or more draws of numbers up to 3: four standard errors are 0.1.
        assert mistakes.values[key] == pytest.approx(expected, abs=0.1 if "dist" in key else 0.05)


def test_the_preference_score_sees_the_order_and_the_distance_does_not() -> None:
    labels = torch.tensor([0])
    ordered, swapped = torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.tensor([[4.0, 2.0, 3.0, 1.0]])
    distances = [float(hierarchical_distance(s, labels, BINARY, 4)) for s in (ordered, swapped)]
    scores = [float(preference_score(s, labels, BINARY, 4)) for s in (ordered, swapped)]
    assert distances[0] == distances[1]
    assert scores[0] == 1 > scores[1]


# --- where something is missing -------------------------------------------------------------------


def test_nothing_wrong_has_no_severity_and_says_why() -> None:
    labels = torch.arange(4)
    mistakes = counted(BINARY, torch.eye(4), labels)
    assert math.isnan(mistakes.severity)
    assert mistakes.undefined == {"mistake_severity": "no decision is wrong"}
    assert mistakes.values["hierarchical_distance@1"] == 0
    assert mistakes.num_mistakes == 0
    assert mistakes.severities == {}
    assert math.isnan(float(mistake_severity(labels, labels, BINARY)))
    assert "undefined: mistake_severity: no decision is wrong" in str(mistakes)


def test_no_samples_have_no_values() -> None:
    mistakes = MistakeAccumulator(BINARY).result()
    assert mistakes.num_samples == 0
    assert all(map(math.isnan, mistakes.values.values()))
    assert {*mistakes.undefined} == {*mistakes.values}
    assert {*mistakes.undefined.values()} == {"there are no samples"}
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    assert math.isnan(float(hierarchical_distance(*none, BINARY)))
    assert math.isnan(float(preference_score(*none, BINARY)))
    assert lca_accuracy(none[1], none[1], BINARY).isnan().all()


def test_fewer_classes_than_k_are_averaged_over_all() -> None:
    scores, labels = drawn(BINARY)
    values = counted(BINARY, scores, labels, top=(1, 4, 20)).values
    assert values["hierarchical_distance@20"] == values["hierarchical_distance@4"] == 5 / 4


def test_one_class_has_no_mistakes() -> None:
    mistakes = counted(torch.zeros(1, 1), torch.zeros(3, 1), torch.zeros(3).long())
    assert mistakes.accuracy == 1
    assert mistakes.undefined == {
        "mistake_severity": "no decision is wrong",
        "preference_score@20": "every ranking is as good as another",
    }


# --- calibration ----------------------------------------------------------------------------------


def test_calibration_equals_the_slow_loops() -> None:
    generator = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(300, 6, generator=generator)
    labels = torch.randint(0, 6, (300,), generator=generator)
    probabilities = logits.softmax(1)
    for bins in (1, 7, 15):
        slow = reference.mistakes.calibration(probabilities.tolist(), labels.tolist(), bins)
        assert float(calibration_error(probabilities, labels, bins)) == pytest.approx(
            slow, abs=1e-6
        )
    tree = Hierarchy.from_dict([str(k) for k in range(6)])
    accumulator = MistakeAccumulator(tree)
    accumulator.update(logits, labels, probabilities)
    slow = reference.mistakes.calibration(probabilities.tolist(), labels.tolist(), 15)
    assert accumulator.result().values["calibration_error"] == pytest.approx(slow, abs=1e-6)


def test_certain_and_right_is_calibrated_in_any_precision() -> None:
    labels = torch.arange(4)
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        assert float(calibration_error(torch.eye(4, dtype=dtype), labels)) == 0
    # A softmax that has rounded to above 1 is no logit.
    assert float(calibration_error(torch.eye(4) * (1 + 2e-7), labels)) == 0
    assert math.isnan(float(calibration_error(torch.zeros(0, 4), labels[:0])))


def test_probabilities_for_some_samples_only_give_no_calibration() -> None:
    scores, labels = drawn(BINARY)
    accumulator = MistakeAccumulator(BINARY)
    accumulator.update(scores[:20], labels[:20], scores[:20].softmax(1))
    accumulator.update(scores[20:], labels[20:])
    mistakes = accumulator.result()
    assert math.isnan(mistakes.values["calibration_error"])
    assert mistakes.undefined["calibration_error"] == "40 samples came without probabilities"


def test_a_missing_torchmetrics_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("torchmetrics"):
            raise ImportError("No module named 'torchmetrics'")
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"needs the extra torchmetrics.*pip install"):
        calibration_error(torch.eye(4), torch.arange(4))
    # What was counted in an epoch is not lost for it.
    accumulator = MistakeAccumulator(BINARY)
    accumulator.update(torch.eye(4).roll(1, 0), torch.arange(4), torch.eye(4))
    mistakes = accumulator.result()
    assert mistakes.severity == 1.5
    assert "needs the extra torchmetrics" in mistakes.undefined["calibration_error"]


# --- text and JSON ----------------------------------------------------------------------------


def test_the_table_shows_bounds_beside_the_values() -> None:
    scores, labels = drawn(BINARY)
    text = str(counted(BINARY, scores, labels))
    head, *lines = text.splitlines()
    assert head.split()[:4] == ["metric", "value", "best", "chance"]
    (line,) = (line for line in lines if line.startswith("hierarchical_distance@5"))
    assert line.split()[1:4] == ["1.25", "1.25", "1.25"]
    assert "distance: lca_height" in text
    assert f"samples: 60, of which wrong: {int((scores.argmax(1) != labels).sum())}" in text


def test_a_result_becomes_json() -> None:
    mistakes = counted(BINARY, torch.eye(4), torch.arange(4))
    back = json.loads(json.dumps(mistakes.to_dict(), allow_nan=False))
    assert back["values"]["mistake_severity"] is None
    assert back["values"]["accuracy"] == 1


# --- what is refused ------------------------------------------------------------------------------

Y, S = torch.tensor([0, 1, 3]), torch.zeros(3, 4)


def refusals() -> Iterator[Any]:
    matrix = BINARY.distances()
    cases: list[tuple[str, Any, tuple[Any, ...], type[Exception], str]] = [
        (
            "scores for labels",
            mistake_severity,
            (S, Y, BINARY),
            ValueError,
            "predictions must be 1-D",
        ),
        ("one-hot", mistake_severity, (S.long(), Y, BINARY), ValueError, "predictions must be 1-D"),
        (
            "lengths",
            mistake_severity,
            (Y[:2], Y, BINARY),
            ValueError,
            "3 labels for 2 rows of pred",
        ),
        (
            "range",
            mistake_severity,
            (Y + 1, Y, BINARY),
            ValueError,
            r"predictions must lie in \[0, 4",
        ),
        ("label", mistake_severity, (Y, Y + 1, BINARY), ValueError, r"labels must lie in \[0, 4\)"),
        (
            "list",
            mistake_severity,
            (Y, Y, [[0]]),
            TypeError,
            "distances must be a Hierarchy or a m",
        ),
        ("shape", mistake_severity, (Y, Y, torch.ones(4, 3)), ValueError, "distances must have 3"),
        (
            "similarity",
            mistake_severity,
            (Y, Y, 1 - matrix),
            ValueError,
            "similarities become dist",
        ),
        ("infinite", mistake_severity, (Y, Y, matrix / 0), ValueError, "distances must be finite"),
        (
            "nothing",
            mistake_severity,
            (Y, Y, S[:0, :0]),
            ValueError,
            "distances must have at least",
        ),
        (
            "width",
            hierarchical_distance,
            (S[:, :3], Y, BINARY),
            ValueError,
            "scores must have 4 col",
        ),
        ("k", hierarchical_distance, (S, Y, BINARY, 0), ValueError, "k must be at least 1, got 0"),
        ("nan", preference_score, (S / 0, Y, BINARY), ValueError, "scores must not be nan"),
        ("k", preference_score, (S, Y, BINARY, 2.5), TypeError, "k must be an integer"),
        (
            "levels",
            lca_accuracy,
            (Y, Y[:2], BINARY),
            ValueError,
            "labels and predictions must have",
        ),
        (
            "logits",
            calibration_error,
            (S + 3, Y),
            ValueError,
            r"probabilities must lie in \[0, 1\]",
        ),
        ("bins", calibration_error, (S, Y, 0), ValueError, "num_bins must be at least 1"),
        ("nan", calibration_error, (S / 0, Y), ValueError, "probabilities must be finite"),
    ]
    for name, function, arguments, error, message in cases:
        yield pytest.param(function, arguments, error, message, id=f"{function.__name__}: {name}")


@pytest.mark.parametrize("function, arguments, error, message", [*refusals()])
def test_what_does_not_fit_is_refused(
    function: Any, arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        function(*arguments)


def test_an_accumulator_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"hierarchy must have the 4 classes of distances, got 3"):
        MistakeAccumulator(BINARY, hierarchy=FLAT)
    with pytest.raises(ValueError, match="kind must be one of"):
        MistakeAccumulator(BINARY, kind="height")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="top must be at least 1"):
        MistakeAccumulator(BINARY, top=(0, 5))
    accumulator = MistakeAccumulator(BINARY)
    with pytest.raises(ValueError, match=r"scores must have 4 columns \(the classes of distances"):
        accumulator.update(torch.zeros(3, 5), Y)
    with pytest.raises(ValueError, match="2 labels for 3 rows of scores"):
        accumulator.update(S, Y[:2])
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 4\)"):
        accumulator.update(S, Y + 1)
    with pytest.raises(ValueError, match=r"ranks must have shape \(N, 4\) or wider, got \(3, 2\)"):
        accumulator.update_ranks(torch.zeros(3, 2).long(), Y)
    with pytest.raises(ValueError, match=r"ranks must lie in \[0, 4\)"):
        accumulator.update_ranks(torch.full((3, 4), 7), Y)
    with pytest.raises(ValueError, match="probabilities must have 3 rows"):
        accumulator.update(S, Y, torch.ones(2, 4) / 4)
    with pytest.raises(ValueError, match=r"probabilities must lie in \[0, 1\].*softmax"):
        accumulator.update(S, Y, torch.full((3, 4), 7.0))
    assert accumulator.result().num_samples == 0
    for other in (
        MistakeAccumulator(FLAT),
        MistakeAccumulator(BINARY, top=(1,)),
        MistakeAccumulator(BINARY, num_bins=5),
        MistakeAccumulator(BINARY, kind="root_depth"),
        MistakeAccumulator(BINARY.distances()),
        MistakeAccumulator(BINARY.distances(), hierarchy=BINARY),
    ):
        with pytest.raises(ValueError, match="accumulators to merge must have the same"):
            accumulator.merge(other)
    with pytest.raises(TypeError, match="other must be a MistakeAccumulator, got Mistakes"):
        accumulator.merge(accumulator.result())  # pyright: ignore[reportArgumentType]
