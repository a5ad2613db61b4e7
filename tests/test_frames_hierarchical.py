"""Frames that follow a tree: closed forms against dense linear algebra, and published numbers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuralcollapse import (
    Frame,
    Hierarchy,
    barz_denzler_frame,
    hierarchy_frame,
    node_subspaces,
    simplex_etf,
)
from neuralcollapse.frames.branching import BranchingGram
from neuralcollapse.frames.low_rank import polished
from trees import NEWICK, aircraft, ancestors, at_random, by_hand, complete, hierarchies

# Sums of some hundred float64 products of numbers up to 1.
ROUNDING = 1e-12
TREES = {
    **{name: by_hand(name) for name in NEWICK},
    "complete": complete(3, 3),
    **{f"random {seed}": at_random(seed) for seed in range(4)},
    "cifar100": Hierarchy.cifar100(),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frame_of(hierarchy: Any, **options: Any) -> Frame:
    return hierarchy_frame(hierarchy, dtype=torch.float64, **options)


def decay(distances: Tensor, mapping: str, decay_rate: float) -> Tensor:
    scaled = distances / distances.max()
    return torch.exp(-decay_rate * scaled) if mapping == "exponential" else 1 - scaled


def least_floor(similarities: Tensor) -> float:
    """From the definition: halving between a floor that works and one that does not."""
    low, high = -1e4, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        works = torch.linalg.eigvalsh((1 - middle) * similarities + middle)[0] >= 0
        low, high = (low, middle) if works else (middle, high)
    return high


# --- laws -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", ["exponential", "linear"])
@pytest.mark.parametrize("kind", ["lca_height", "root_depth", "path"])
@pytest.mark.parametrize("name", TREES)
def test_cosines_are_those_of_the_formula_at_the_least_floor(
    name: str, kind: Any, mapping: Any
) -> None:
    tree = TREES[name]
    similarities = decay(tree.distances(kind), mapping, 1.3)
    options = {"mapping": mapping, "decay_rate": 1.3, "distances": kind}
    if kind == "path" and mapping == "linear":
        return  # may have no frame; see below
    frame = frame_of(tree, **options)
    floor = frame.facts["floor"]
    wanted = (1 - floor) * similarities + floor
    torch.testing.assert_close(frame.gram, wanted, rtol=0, atol=ROUNDING)
    assert frame.dim == frame.facts["rank"] == tree.num_classes - 1
    assert frame.status == "exact"
    # The floor decides between eigenvalues of either sign at the rounding of eigvalsh, which the
    # smallest eigenvalue sees with a slope of order one.
    assert floor == pytest.approx(least_floor(similarities), abs=1e-9, rel=1e-9)


@pytest.mark.parametrize("kind", ["lca_height", "root_depth"])
@pytest.mark.parametrize("name", TREES)
def test_a_tree_and_its_matrix_give_one_frame(name: str, kind: Any) -> None:
    tree = TREES[name]
    matrix = tree.distances(kind)
    for options in ({}, {"floor": "search"}, {"mapping": "linear"}, {"floor": 0.25}):
        of_tree = frame_of(tree, distances=kind, **options)
        of_matrix = frame_of(matrix, **options)
        torch.testing.assert_close(of_tree.gram, of_matrix.gram, rtol=0, atol=1e-10)
        assert of_tree.dim == of_matrix.dim
    assert torch.equal(frame_of(matrix.numpy()).gram, frame_of(matrix).gram)


@pytest.mark.parametrize("decay_rate", [1e-6, 0.1, 2, 30, 1e4])
@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
def test_a_flat_tree_is_the_simplex_at_any_rate(num_classes: int, decay_rate: float) -> None:
    flat = Hierarchy.from_levels([[str(label)] for label in range(num_classes)])
    frame = frame_of(flat, decay_rate=decay_rate)
    wanted = simplex_etf(num_classes, num_classes - 1, dtype=torch.float64)
    torch.testing.assert_close(frame.vectors, wanted.vectors, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("name", TREES)
def test_a_weighted_mean_is_zero_and_order_is_kept(name: str) -> None:
    tree = TREES[name]
    distances = tree.distances()
    frame = frame_of(tree, decay_rate=3)
    weights = torch.linalg.solve(
        decay(distances, "exponential", 3), torch.ones(tree.num_classes, dtype=torch.float64)
    )
    assert float((weights @ frame.vectors).abs().max()) < ROUNDING
    assert bool((weights > 0).all())
    off = ~torch.eye(tree.num_classes, dtype=torch.bool)
    by_distance = [frame.gram[off & (distances == d)] for d in distances.unique() if d > 0]
    for nearer, farther in itertools.pairwise(by_distance):
        assert float(nearer.min()) > float(farther.max())
    eigenvalues = torch.linalg.eigvalsh(frame.gram)
    assert float(eigenvalues[0]) == pytest.approx(0, abs=ROUNDING)
    # The least of the others is one less the cosine of the closest siblings.
    if name == "cifar100":
        assert float(eigenvalues[1]) == pytest.approx(1 - float(by_distance[0][0]), abs=ROUNDING)


@given(hierarchies(), st.floats(1e-3, 50), st.sampled_from(["lca_height", "root_depth"]))
@settings(max_examples=50)
def test_any_tree_has_its_frame(tree: Hierarchy, decay_rate: float, kind: Any) -> None:
    if tree.num_classes < 2:
        return
    frame = frame_of(tree, decay_rate=decay_rate, distances=kind)
    similarities = decay(tree.distances(kind), "exponential", decay_rate)
    floor = frame.facts["floor"]
    # A floor of -1000 multiplies the rounding of the similarities.
    torch.testing.assert_close(
        frame.gram,
        (1 - floor) * similarities + floor,
        rtol=0,
        atol=ROUNDING * max(1.0, -floor),
    )


@pytest.mark.parametrize("deep", [0, 64])
@pytest.mark.parametrize("name", TREES)
def test_products_with_the_matrix_go_along_the_tree(
    name: str, deep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuralcollapse.frames.branching.DEEP", deep)
    tree = TREES[name]
    cosines = BranchingGram(tree, "root_depth", 2.0)
    vectors = torch.randn(tree.num_classes, 3, generator=generator(), dtype=torch.float64)
    gram = frame_of(tree, distances="root_depth").gram
    wanted = (gram @ vectors).numpy()
    np.testing.assert_allclose(cosines @ vectors.numpy(), wanted, rtol=0, atol=ROUNDING * 10)
    assert cosines.squared_norm() == pytest.approx(float(gram.square().sum()), rel=1e-12)


def test_orientation_follows_the_generator() -> None:
    tree = by_hand("ragged")
    before = torch.get_rng_state()
    one, other = (hierarchy_frame(tree, dim=9, generator=generator(seed)) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.vectors, hierarchy_frame(tree, dim=9, generator=generator(0)).vectors)
    assert float((one.vectors - other.vectors).abs().max()) > 0.1
    # float32 rounds each of nine products.
    torch.testing.assert_close(one.gram, other.gram, rtol=0, atol=1e-6)
    assert one.vectors.dtype == torch.float32
    plain = hierarchy_frame(tree, dim=9)
    assert torch.equal(plain.vectors, hierarchy_frame(tree, dim=9).vectors)
    assert bool((plain.vectors[:, 4:] == 0).all())


# --- numbers --------------------------------------------------------------------------------------


def test_the_published_floor_of_cifar100() -> None:
    tree = Hierarchy.cifar100()
    assert frame_of(tree, floor="search").facts["floor"] == pytest.approx(
        -0.3000714212835425, abs=1e-15
    )
    frame = frame_of(tree)
    assert frame.facts["floor"] == pytest.approx(-0.30574, abs=5e-6)
    linear = frame_of(tree, mapping="linear")
    assert linear.facts["floor"] == pytest.approx(-0.2463, abs=5e-5)
    published = frame_of(tree, floor="search")
    distances = tree.distances()
    cosines = [float(published.gram[distances == d].mean()) for d in range(6)]
    assert cosines == pytest.approx([1, 0.5714, 0.2841, 0.0915, -0.0376, -0.1241], abs=5e-5)
    magnitude = 1 - 1 / frame.facts["floor"]
    assert magnitude == pytest.approx(4.2708, abs=5e-5)


def test_the_published_floor_of_aircraft() -> None:
    tree = aircraft()
    searched = frame_of(tree, decay_rate=1, floor="search")
    assert searched.facts["floor"] == pytest.approx(-0.6100397918579736, abs=1e-15)
    distances = tree.distances()
    cosines = [float(searched.gram[distances == d].mean()) for d in range(4)]
    assert cosines == pytest.approx([1, 0.5436, 0.2166, -0.0177], abs=5e-5)
    floor = frame_of(tree, decay_rate=1).facts["floor"]
    assert floor == pytest.approx(-0.61467, abs=5e-6)
    assert 1 - 1 / floor == pytest.approx(2.6269, abs=5e-5)
    assert frame_of(tree, mapping="linear").facts["floor"] == pytest.approx(-0.0233, abs=5e-5)


@pytest.mark.parametrize(
    "decay_rate, floor, siblings, strangers",
    [
        (1, -1.4129666, 0.0505716, -0.5252858),
        (2, -0.6938745, -0.0707329, -0.4646335),
        (3, -0.4940449, -0.1606784, -0.4196608),
    ],
)
def test_four_leaves(decay_rate: float, floor: float, siblings: float, strangers: float) -> None:
    frame = frame_of(by_hand("balanced"), decay_rate=decay_rate)
    assert frame.facts["floor"] == pytest.approx(floor, abs=5e-8)
    assert frame.gram[0].tolist() == pytest.approx([1, siblings, strangers, strangers], abs=5e-8)


def test_the_published_search_on_small_trees() -> None:
    searched = frame_of(by_hand("balanced"), floor="search")
    assert searched.facts["floor"] == pytest.approx(-0.6902356902, abs=5e-11)
    # The grid ends at -1, above the least floor of a flat tree of three at rate 1.
    three = Hierarchy.from_newick("(a,b,c);")
    assert float(frame_of(three, decay_rate=1, floor="search").gram[0, 1]) == pytest.approx(
        -0.264, abs=5e-4
    )
    assert frame_of(three, decay_rate=1).facts["floor"] == pytest.approx(-1.373, abs=5e-4)
    two = Hierarchy.from_newick("(a,b);")
    assert float(frame_of(two, floor="search").gram[0, 1]) == pytest.approx(-0.729, abs=5e-4)
    flat = Hierarchy.from_levels([[str(label)] for label in range(100)])
    searched = frame_of(flat, floor="search")
    assert float(searched.gram[0, 1]) == pytest.approx(-0.0031, abs=5e-5)
    assert searched.dim == 100


def published_search(similarities: np.ndarray) -> float:
    """The published search: a hundred eigendecompositions."""
    found = np.inf
    for floor in np.linspace(-1 / (len(similarities) - 1), -1, 100):
        values = np.linalg.eigvalsh((1 - floor) * similarities + floor)
        values[np.abs(values) < 1e-6] = 0
        if values.min() >= 0:
            found = min(found, floor)
    return float(found)


@pytest.mark.parametrize("decay_rate", [0.5, 2, 5])
@pytest.mark.parametrize("name", TREES)
def test_the_search_is_the_published_one(name: str, decay_rate: float) -> None:
    tree = TREES[name]
    wanted = published_search(decay(tree.distances(), "exponential", decay_rate).numpy())
    for given_as in (tree, tree.distances()):
        found = frame_of(given_as, decay_rate=decay_rate, floor="search")
        assert found.facts["floor"] == wanted


def test_a_complete_tree_has_the_eigenvalues_of_the_formula() -> None:
    frame = frame_of(complete(3, 3))
    values, counts = np.unique(np.linalg.eigvalsh(frame.gram).round(5), return_counts=True)
    assert np.abs(values).tolist() == pytest.approx([0, 0.62693, 1.59257, 3.07989], abs=1e-9)
    assert counts.tolist() == [1, 18, 6, 2]
    assert 1 - 1 / frame.facts["floor"] == pytest.approx(4.4669060591, abs=5e-11)


# --- what is no tree ------------------------------------------------------------------------------


def bipartite() -> Tensor:
    """Shortest paths of the complete bipartite graph K(3, 3); no distances of vectors."""
    matrix = torch.full((6, 6), 2.0)
    matrix[:3, 3:] = matrix[3:, :3] = 1
    return matrix.fill_diagonal_(0)


def test_similarities_that_are_not_positive_semidefinite_are_refused_with_the_amount() -> None:
    matrix = torch.rand(8, 8, generator=generator()) + 0.1
    matrix = (matrix + matrix.T).fill_diagonal_(0)
    smallest = float(torch.linalg.eigvalsh(decay(matrix, "exponential", 0.5))[0])
    assert smallest < 0
    with pytest.raises(ValueError, match=f"positive semidefinite, got {smallest:.4g}"):
        hierarchy_frame(matrix, decay_rate=0.5)
    # What is wrong with these distances is the balance of the sides, out of a floor's reach.
    with pytest.raises(ValueError, match="no floor mends it"):
        hierarchy_frame(bipartite(), decay_rate=0.4)
    assert torch.isfinite(hierarchy_frame(bipartite(), decay_rate=5.0).vectors).all()


def test_a_floor_mends_what_only_lacks_a_constant() -> None:
    """Squared distances of vectors: 1 - d may be indefinite, but only along the ones."""
    points = torch.randn(6, 3, generator=generator(), dtype=torch.float64)
    matrix = torch.cdist(points, points).square()
    similarities = decay(matrix, "linear", 0)
    frame = frame_of(matrix, mapping="linear")
    floor = frame.facts["floor"]
    torch.testing.assert_close(
        frame.gram, (1 - floor) * similarities + floor, rtol=0, atol=ROUNDING * 100
    )


def test_distances_that_are_no_ultrametric_have_frames_too() -> None:
    tree = by_hand("ragged")
    depth = torch.from_numpy(tree.depth[tree.node_of_class]).double()
    deeper = torch.maximum(depth[:, None], depth)
    common = tree.total_height - tree.distances("root_depth")
    matrix = (deeper - common).fill_diagonal_(0)
    frame = frame_of(matrix, decay_rate=3)
    floor = frame.facts["floor"]
    wanted = (1 - floor) * decay(matrix, "exponential", 3) + floor
    torch.testing.assert_close(frame.gram, wanted, rtol=0, atol=ROUNDING)


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "floor too low": (
        {"floor": -0.7},
        ValueError,
        r"floor must be at least -0.693875 for these distances, got -0.7, which gives similarities "
        r"with the eigenvalue -0.0",
    ),
    "floor of one": ({"floor": 1}, ValueError, "floor must be below 1, got 1"),
    "floor of a name": ({"floor": "least"}, ValueError, "floor must be one of exact, search"),
    "rate": ({"decay_rate": 0}, ValueError, "decay_rate must be finite and above 0"),
    "mapping": ({"mapping": "cosine"}, ValueError, "mapping must be one of"),
    "kind": ({"distances": "lca"}, ValueError, "distances must be one of lca_height"),
    "dim": ({"dim": 0}, ValueError, "dim must be at least 1"),
    "dtype": ({"dtype": torch.int64}, ValueError, "dtype must be a floating-point type"),
}


@pytest.mark.parametrize("given_as", ["tree", "matrix"])
@pytest.mark.parametrize("name", REFUSED)
def test_options_that_make_no_sense_are_refused(name: str, given_as: str) -> None:
    options, error, message = REFUSED[name]
    tree = by_hand("balanced")
    with pytest.raises(error, match=message):
        hierarchy_frame(tree if given_as == "tree" else tree.distances(), **options)


@pytest.mark.parametrize("decay_rate", [1e-12, 5e-324])
def test_a_rate_that_tells_nothing_apart_is_refused(decay_rate: float) -> None:
    tree = by_hand("ragged")
    with pytest.raises(ValueError, match="decay_rate must be larger"):
        hierarchy_frame(tree.distances(), decay_rate=decay_rate)
    if decay_rate == 1e-12:
        # A tree is weighted without cancellation.
        exact, limit = frame_of(tree, decay_rate=decay_rate), frame_of(tree, decay_rate=1e-7)
        torch.testing.assert_close(exact.gram, limit.gram, rtol=0, atol=1e-6)
    else:
        with pytest.raises(ValueError, match="decay_rate must be larger"):
            hierarchy_frame(tree, decay_rate=decay_rate)


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "text": ("tree.json", TypeError, "hierarchy must be a Hierarchy or a matrix of distances"),
    "number": (3, TypeError, "hierarchy must be a Hierarchy or a matrix of distances"),
    "one class": (Hierarchy.from_newick("a;"), ValueError, "at least two classes, got 1"),
    "one row": (np.zeros((1, 1)), ValueError, "at least two classes, got 1"),
    "asymmetric": ([[0, 1.0], [2, 0]], ValueError, "must be symmetric, got entries that differ"),
    "diagonal": (np.ones((2, 2)), ValueError, "zero on the diagonal, got 1"),
    "zero": (np.zeros((2, 2)), ValueError, "must be above 0, got 0 between 0 and 1"),
    "NaN": ([[0, np.nan], [np.nan, 0]], ValueError, "must be finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_hierarchy_is_refused(name: str) -> None:
    value, error, message = BAD[name]
    with pytest.raises(error, match=message):
        hierarchy_frame(value)


# --- few dimensions -------------------------------------------------------------------------------


def slow_deviations(gram: Tensor, wanted: Tensor) -> dict[str, float]:
    num_classes = len(gram)
    pairs = [(i, j) for i in range(num_classes) for j in range(num_classes) if i != j]
    off = [abs(float(gram[i, j] - wanted[i, j])) for i, j in pairs]
    kept = total = 0
    for i, j in pairs:
        for k in range(num_classes):
            if k not in (i, j) and float(wanted[i, j] - wanted[i, k]) > 1e-9:
                total += 1
                kept += bool(gram[i, j] > gram[i, k] + 1e-9)
    return {
        "gram_rms_error": float(np.sqrt(np.mean(np.square(off)))),
        "gram_mean_error": float(np.mean(off)),
        "gram_max_error": max(off),
        "triplet_order_kept": kept / total,
    }


@pytest.mark.parametrize("dim", [2, 4, 7, 15])
@pytest.mark.parametrize("name", ["complete", "random 1"])
def test_few_dimensions_come_near_and_say_how_near(name: str, dim: int) -> None:
    tree = TREES[name]
    wanted = frame_of(tree).gram
    frame = frame_of(tree, dim=dim)
    assert frame.vectors.shape == (tree.num_classes, dim)
    torch.testing.assert_close(
        frame.vectors.norm(dim=1), torch.ones(len(wanted), dtype=torch.float64)
    )
    for key, value in slow_deviations(frame.gram, wanted).items():
        assert frame.facts[key] == pytest.approx(value, abs=1e-9), key
    # No worse than the leading eigenvectors with rows scaled, the published way.
    values, vectors = torch.linalg.eigh(wanted)
    leading = torch.nn.functional.normalize(vectors[:, -dim:] * values[-dim:].sqrt())
    published = float((leading @ leading.T - wanted).square().sum())
    assert float((frame.gram - wanted).square().sum()) <= published * (1 + 1e-9)
    assert f"{frame.facts['triplet_order_kept']:.1%}" in frame.status
    assert f"{dim} of {tree.num_classes - 1} dimensions" in frame.status
    assert torch.equal(frame.vectors, frame_of(tree, dim=dim).vectors)


def test_few_dimensions_of_a_flat_tree_leave_no_class_out() -> None:
    """All eigenvalues are equal: any axes do, and most would leave rows of zeros."""
    flat = Hierarchy.from_levels([[str(label)] for label in range(20)])
    frame = frame_of(flat, dim=5)
    # Unit vectors have a squared Gram norm of at least K^2/d, reached by tight frames.
    assert float(frame.gram.square().sum()) == pytest.approx(400 / 5, rel=1e-3)


def test_the_matrix_and_the_tree_come_as_near() -> None:
    tree = complete(3, 3)
    of_tree, of_matrix = (frame_of(form, dim=8) for form in (tree, tree.distances()))
    # Different starts in equal eigenspaces; the polish ends where steps gain little.
    assert of_tree.facts["gram_rms_error"] == pytest.approx(
        of_matrix.facts["gram_rms_error"], rel=0.02
    )


def test_a_cut_where_eigenvalues_part_is_exact_for_complete_trees() -> None:
    """The two upper levels of a complete tree need 8 dimensions: siblings fall together."""
    tree = complete(3, 3)
    frame = frame_of(tree, dim=8)
    assert frame.facts["eigenvalues_kept"] == 8
    assert frame.facts["triplet_order_kept"] == 1


def test_the_polish_ends_where_the_slope_is_small() -> None:
    tree = complete(2, 4)
    cosines = BranchingGram(tree, "lca_height", 2.0)
    start = np.random.default_rng(0).standard_normal((16, 5))
    vectors, error, steps = polished(cosines, start, 500)
    assert steps < 500
    gram = frame_of(tree).gram.numpy()
    assert error == pytest.approx(float(((vectors @ vectors.T - gram) ** 2).sum()), abs=1e-9)
    nudged = vectors + 1e-3 * np.random.default_rng(1).standard_normal(vectors.shape)
    nudged /= np.linalg.norm(nudged, axis=1, keepdims=True)
    assert ((nudged @ nudged.T - gram) ** 2).sum() > error
    assert polished(cosines, start, 0)[2] == 0


@pytest.mark.long
def test_a_thousand_groups_take_the_way_without_all_eigenvectors() -> None:
    rng = np.random.default_rng(0)
    rows = [[f"a{i % 11}", f"b{i % 3001}", f"c{i}"] for i in rng.permutation(4500)]
    tree = Hierarchy.from_levels(rows)
    frame = hierarchy_frame(tree, dim=24)
    assert frame.facts["triplet_order_kept"] > 0.99
    wanted = BranchingGram(tree, "lca_height", 2.0)
    picked = np.zeros((4500, 5))
    picked[np.arange(5) * 7, np.arange(5)] = 1
    off = frame.gram[np.arange(5) * 7].double().numpy() - (wanted @ picked).T
    assert np.abs(off).max() <= frame.facts["gram_max_error"] + 1e-6


# --- beside it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TREES)
def test_barz_and_denzler_is_the_cholesky_factor(name: str) -> None:
    tree = TREES[name]
    frame = barz_denzler_frame(tree, dtype=torch.float64)
    wanted = 1 - tree.distances() / tree.total_height
    torch.testing.assert_close(frame.gram, wanted, rtol=0, atol=ROUNDING)
    assert torch.equal(frame.vectors, frame.vectors.tril())
    assert bool((frame.vectors.diagonal() > 0).all())


def test_barz_and_denzler_in_numbers() -> None:
    gram = barz_denzler_frame(by_hand("balanced")).gram
    assert gram[0].tolist() == pytest.approx([1, 0.5, 0, 0], abs=1e-6)
    flat = barz_denzler_frame(by_hand("flat"))
    assert torch.equal(flat.vectors, torch.eye(5))
    wide = barz_denzler_frame(by_hand("balanced"), dim=7, generator=generator())
    torch.testing.assert_close(wide.gram, gram, rtol=0, atol=1e-6)
    assert barz_denzler_frame(by_hand("balanced"), dim=2).facts["gram_rms_error"] > 0.01
    with pytest.raises(TypeError, match="hierarchy must be a Hierarchy, got list"):
        barz_denzler_frame([])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", TREES)
def test_a_class_spans_its_ancestors_itself_and_what_is_below(name: str) -> None:
    tree = TREES[name]
    spaces = node_subspaces(tree, dtype=torch.float64, generator=generator())
    count = tree.num_nodes - 1
    assert spaces.basis.shape == (count, count)
    torch.testing.assert_close(
        spaces.basis @ spaces.basis.T, torch.eye(count).double(), rtol=0, atol=ROUNDING
    )
    for label, node in enumerate(tree.node_of_class.tolist()):
        line = {*ancestors(tree, node)}
        line |= {other for other in range(tree.num_nodes) if node in ancestors(tree, other)}
        assert {*(spaces.members[label].nonzero()[:, 0] + 1).tolist()} == line - {0}
    features = torch.randn(3, count, generator=generator(), dtype=torch.float64)
    scores = spaces.scores(features)
    for label in range(tree.num_classes):
        rows = spaces.basis[spaces.members[label]]
        lengths = (features @ rows.T @ rows).norm(dim=1)
        torch.testing.assert_close(scores[:, label], lengths)


def test_node_subspaces_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="dim must be at least 6, got 5; 7 nodes less the root"):
        node_subspaces(by_hand("balanced"), dim=5)
    with pytest.raises(TypeError, match="hierarchy must be a Hierarchy, got dict"):
        node_subspaces({})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="features must have 6 columns"):
        node_subspaces(by_hand("balanced")).scores(torch.zeros(2, 5))
