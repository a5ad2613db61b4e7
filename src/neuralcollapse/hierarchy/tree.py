"""A tree over the classes, immutable, with an explicit order of the classes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neuralcollapse.hierarchy import class_pairs, formats, known, similarity
from neuralcollapse.hierarchy.arguments import frozen, indices, names_in, places
from neuralcollapse.hierarchy.arrangement import (
    Arrangement,
    arrange,
    check_classes,
    check_name,
    check_parents,
    shown,
    told_apart,
)
from neuralcollapse.hierarchy.distances import (
    DISTANCE_KINDS,
    DistanceKind,
    distance_rows,
)
from neuralcollapse.hierarchy.newick import outline_of_newick
from neuralcollapse.hierarchy.outline import Outline
from neuralcollapse.scalars import check_boolean, check_choice

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FORMAT = "neuralcollapse hierarchy"


@dataclass(frozen=True, eq=False, repr=False)
class Hierarchy:
    """A rooted tree over K classes; index in `classes` = label.

    A class may be an inner node ("dog" beside "poodle"). Every leaf is a class. Leaves may have
    different depths, and a node may have a single child: both count, since they set heights and
    with them distances. Build one by `from_pairs`, `from_levels`, `from_dict`, `from_newick`,
    `from_networkx`, `from_folder`, `from_file` or `from_similarity`.

    Nodes stand parents before children, level by level, siblings in the order of the first class
    at or below them, so that equal trees over equal classes are equal however they were written.

    Attributes:
        nodes: (V,), their names, no two alike. Where the source repeats a name, it is replaced by
            the path below the root: "cats/lion" and "zodiac/lion".
        parent: (V,), index of the parent, -1 at the root.
        node_of_class: (K,), the node of each class.

    Args:
        nodes: the names in any order.
        parent: index of each node's parent in `nodes`, -1 at the root.
        node_of_class: index in `nodes` of each class, in the order of the labels.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if this is no tree, or a leaf is no class; it names the node.

    Example:
        >>> tree = Hierarchy.from_dict({"animal": ["cat", "dog"], "plant": ["rose"]})
        >>> tree.classes, tree.total_height
        (('cat', 'dog', 'rose'), 2)
        >>> tree.distances().tolist()
        [[0.0, 1.0, 2.0], [1.0, 0.0, 2.0], [2.0, 2.0, 0.0]]
    """

    nodes: tuple[str, ...]
    parent: np.ndarray
    node_of_class: np.ndarray

    def __post_init__(self) -> None:
        names = [check_name(name) for name in names_in(self.nodes, "nodes")]
        if not names:
            raise ValueError("a hierarchy must have at least one node, got none")
        parent = indices(self.parent, "parent", -1, len(names))
        if len(parent) != len(names):
            raise ValueError(
                f"parent must have one entry per node, got {len(parent)} for {len(names)} nodes"
            )
        node_of_class = indices(self.node_of_class, "node_of_class", 0, len(names))
        if not len(node_of_class):
            raise ValueError("a hierarchy must have at least one class, got none")
        if len({*names}) < len(names):
            seen: set[str] = set()
            twice = next(name for name in names if name in seen or seen.add(name))
            raise ValueError(f"nodes must have different names, got {shown(twice)} twice")
        check_parents(parent, names)
        check_classes(parent, node_of_class, names)
        tree = arrange(parent, node_of_class)
        rank = np.empty(len(names), int)
        rank[tree.order] = np.arange(len(names))
        for name, value in (
            ("nodes", tuple(names[node] for node in tree.order.tolist())),
            ("parent", frozen(tree.parent)),
            ("node_of_class", frozen(rank[node_of_class])),
            ("_tree", tree),
        ):
            object.__setattr__(self, name, value)

    # --- what it is -----------------------------------------------------------------------------

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """(K,), the names of the classes; index = label."""
        return tuple(self.nodes[node] for node in self.node_of_class.tolist())

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.node_of_class)

    @property
    def num_nodes(self) -> int:
        """V, the root included."""
        return len(self.nodes)

    @cached_property
    def depth(self) -> np.ndarray:
        """(V,), edges from each node to the root."""
        return frozen(self.arrangement.depth)

    @cached_property
    def height(self) -> np.ndarray:
        """(V,), edges from each node to the deepest node below it; 0 at leaves."""
        return frozen(self.arrangement.height)

    @property
    def total_height(self) -> int:
        """H, the height of the root, which is the depth of the deepest leaf."""
        return int(self.height[0])

    @property
    def arrangement(self) -> Arrangement:
        """The arrays of the tree, with the interval of classes below each node."""
        return self.__dict__["_tree"]

    @cached_property
    def levels(self) -> np.ndarray:
        """(K, H + 1), the ancestor of each class at each depth, the root first.

        A class at depth l < H stands for itself at every depth from l on, as if it were extended
        downwards by a chain.
        """
        table = np.empty((self.num_classes, self.total_height + 1), int)
        node = self.node_of_class
        for depth in range(self.total_height, 0, -1):
            table[:, depth] = node
            node = np.where(self.depth[node] == depth, self.parent[node], node)
        table[:, 0] = node
        return frozen(table)

    @cached_property
    def level_sizes(self) -> tuple[int, ...]:
        """(H + 1,), how many groups the classes form at each depth: 1 at the root, K last."""
        nodes = np.bincount(self.depth)
        ended = np.cumsum(np.bincount(self.depth[self.node_of_class], minlength=len(nodes)))
        return tuple((nodes + np.concatenate([[0], ended[:-1]])).tolist())

    # --- distances ------------------------------------------------------------------------------

    def distances(
        self, kind: DistanceKind = "lca_height", *, dtype: "torch.dtype | None" = None
    ) -> "Tensor":
        """(K, K), distances between classes under a named convention.

        lca_height: height of the lowest common ancestor (Bertinetto et al. 2020).
        root_depth: H less the depth of the lowest common ancestor, which is the height after
            every shallow leaf is extended downwards; what the published files of
            tieredImageNet-H and ImageNet hold.
        path: edges between the two nodes.

        The first two are ultrametrics, and agree where all leaves have one depth; then `path` is
        twice as much. Where one class lies below another, that one is their common ancestor.

        Args:
            kind: the convention.
            dtype: of the result, float64 by default. K = 10,000 classes take 800 MB in float64,
                200 MB in torch.int16.

        Raises:
            ValueError: if the convention is not one of these.

        Example:
            >>> ragged = Hierarchy.from_newick("((a,b),((c,d),e));")
            >>> [int(ragged.distances(kind)[0, 1]) for kind in ("lca_height", "root_depth", "path")]
            [1, 2, 2]
        """
        import torch

        check_choice("kind", kind, DISTANCE_KINDS)
        # Row by row into the result: most of the time goes into memory that is touched at first.
        matrix = torch.empty(self.num_classes, self.num_classes, dtype=dtype or torch.float64)
        for rows, block in distance_rows(self.arrangement, self.node_of_class, kind):
            matrix[rows] = torch.from_numpy(block)
        return matrix

    def pair_distances(
        self, first: Any, second: Any, kind: DistanceKind = "lca_height"
    ) -> np.ndarray:
        """Distances of single pairs of labels, for so many classes that a matrix is too large.

        Args:
            first: (N,), labels.
            second: (N,), labels.
            kind: the convention, as for `distances`.

        Raises:
            ValueError: if a label lies outside [0, K), or the convention is not known.

        Example:
            >>> Hierarchy.from_newick("((a,b),c);").pair_distances([0, 0], [1, 2]).tolist()
            [1, 2]
        """
        check_choice("kind", kind, DISTANCE_KINDS)
        first = indices(first, "first", 0, self.num_classes)
        second = indices(second, "second", 0, self.num_classes)
        return class_pairs.pair_distances(self.arrangement, self.node_of_class, first, second, kind)

    def common_ancestor(self, first: Any, second: Any) -> np.ndarray:
        """(N,), the lowest common ancestor of each of N pairs of nodes.

        Example:
            >>> tree = Hierarchy.from_newick("((a,b)ab,c)top;")
            >>> tree.nodes[int(tree.common_ancestor([3], [4])[0])]
            'ab'
        """
        first = indices(first, "first", 0, self.num_nodes)
        second = indices(second, "second", 0, self.num_nodes)
        return class_pairs.common_ancestors(self.arrangement, first, second)

    def pair_counts(self, kind: DistanceKind = "lca_height") -> dict[int, int]:
        """How many pairs of classes lie at each distance.

        Example:
            >>> Hierarchy.from_newick("((a,b),(c,d));").pair_counts()
            {1: 2, 2: 4}
        """
        check_choice("kind", kind, DISTANCE_KINDS)
        return class_pairs.pair_counts(self.arrangement, self.node_of_class, kind)

    # --- from it --------------------------------------------------------------------------------

    def subset(self, classes: Sequence[str]) -> "Hierarchy":
        """The hierarchy over some of the nodes; branches without any of them are left out.

        Heights are counted anew; `root_depth` less the change of H, and `path`, stay.

        Args:
            classes: names of nodes, in the order of the new labels.

        Raises:
            ValueError: if a name is no node, or occurs twice.

        Example:
            >>> Hierarchy.from_newick("((a,b),(c,d));").subset(["d", "a"]).distances().tolist()
            [[0.0, 2.0], [2.0, 0.0]]
        """
        chosen = np.array(places(classes, self.nodes), int)
        if not len(chosen):
            raise ValueError("classes must name at least one class, got none")
        keep = np.zeros(self.num_nodes, bool)
        node = chosen
        while len(node):
            keep[node] = True
            node = np.unique(self.parent[node])
            node = node[node >= 0]
            node = node[~keep[node]]
        kept = np.flatnonzero(keep)
        place = np.cumsum(keep) - 1
        parent = self.parent[kept]
        return Hierarchy(
            tuple(self.nodes[node] for node in kept.tolist()),
            np.where(parent < 0, -1, place[parent]),
            place[chosen],
        )

    def to_dict(self) -> dict[str, Any]:
        """What `from_json` reads, as plain values."""
        return {
            "format": FORMAT,
            "version": 1,
            "nodes": list(self.nodes),
            "parent": self.parent.tolist(),
            "node_of_class": self.node_of_class.tolist(),
        }

    def to_json(self) -> str:
        """One JSON object, which `from_json` reads back to an equal hierarchy."""
        return json.dumps(self.to_dict())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hierarchy) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    def __repr__(self) -> str:
        return (
            f"Hierarchy({self.num_classes} classes, {self.num_nodes} nodes, "
            f"height {self.total_height})"
        )

    def __reduce__(self) -> Any:
        return Hierarchy, (self.nodes, np.array(self.parent), np.array(self.node_of_class))

    @cached_property
    def _content(self) -> tuple[Any, ...]:
        return self.nodes, tuple(self.parent.tolist()), tuple(self.node_of_class.tolist())

    # --- to it ----------------------------------------------------------------------------------

    @classmethod
    def from_outline(cls, outline: Outline, classes: Sequence[str] | None = None) -> "Hierarchy":
        """From what a reader of some format has found; see `formats`."""
        parent = np.array(outline.parent, int)
        check_parents(parent, outline.names)
        names = told_apart(outline.names, parent)
        if classes is not None:
            return cls(tuple(names), parent, np.array(places(classes, names), int))
        chosen = outline.classes
        if chosen is None:
            is_leaf = np.ones(len(names), bool)
            is_leaf[parent[parent >= 0]] = False
            chosen = np.flatnonzero(is_leaf).tolist()
        return cls(tuple(names), parent, np.array(chosen, int))

    @classmethod
    def from_pairs(
        cls, pairs: Iterable[tuple[str, str]], classes: Sequence[str] | None = None
    ) -> "Hierarchy":
        """From pairs (parent, child), as in WordNet's lists; a name is one node.

        Args:
            pairs: the edges of the tree.
            classes: names of nodes in the order of the labels, inner nodes among them or not; the
                leaves in the order in which they occur by default.

        Raises:
            TypeError: if an entry is no pair of names.
            ValueError: if a node has two parents, or is its own ancestor; if there are two roots;
                if a pair or a class occurs twice; if a class is no node, or a leaf no class.

        Example:
            >>> Hierarchy.from_pairs([("pet", "cat"), ("pet", "dog")], classes=["dog", "cat"])
            Hierarchy(2 classes, 3 nodes, height 1)
        """
        return cls.from_outline(formats.outline_of_pairs(pairs), classes)

    @classmethod
    def from_levels(
        cls, table: Any, classes: Sequence[str] | None = None, *, root: str = "root"
    ) -> "Hierarchy":
        """From a table with one row per class, its groups from coarse to fine, itself last.

        A row may end early (empty cells, None or NaN): a shallow leaf, or an inner node that
        another row continues. A column whose entries are all the same at the very left is the
        root; else a root is put above. A name belongs to the cells left of it: the same name
        elsewhere is another node.

        Args:
            table: (K, L) array or nested sequence of names.
            classes: names of the classes where their order is not that of the rows.
            root: name of the root that is put above.

        Raises:
            TypeError: if it is no table of names.
            ValueError: if a row is empty, has a hole, or occurs twice.

        Example:
            >>> Hierarchy.from_levels([["cat", "lion"], ["cat", "lynx"], ["dog", "wolf"]]).classes
            ('lion', 'lynx', 'wolf')
        """
        return cls.from_outline(formats.outline_of_levels(table, root), classes)

    @classmethod
    def from_dict(
        cls, tree: Any, classes: Sequence[str] | None = None, *, root: str = "root"
    ) -> "Hierarchy":
        """From nested dicts and lists, as JSON holds them.

        {"animal": {"cat": ["lion", "lynx"], "dog": None}}: a name with what is below it, which
        may be a dict, a list, or for leaves None, {} or []. {"name": ..., "children": [...]} is
        read too, and so is what `to_dict` gives, alone or under the key "hierarchy", as
        `neuralcollapse hierarchy --json` prints it. A single name at the top is the root; else a
        root is put above.

        Args:
            tree: the nested dict or list.
            classes: names of the classes in the order of the labels; the leaves in the order in
                which they are written by default.
            root: name of the root that is put above.

        Raises:
            TypeError: if it holds something that is no name, dict, list or None.
            ValueError: if it is empty, or siblings have one name.

        Example:
            >>> Hierarchy.from_dict({"animal": {"cat": ["lion", "lynx"], "dog": None}}).classes
            ('lion', 'lynx', 'dog')
        """
        inner = tree.get("hierarchy") if isinstance(tree, Mapping) else None
        if isinstance(inner, Mapping) and inner.get("format") == FORMAT:
            tree = inner
        if isinstance(tree, Mapping) and tree.get("format") == FORMAT:
            missing = [key for key in ("nodes", "parent", "node_of_class") if key not in tree]
            if missing:
                raise ValueError(f"a hierarchy in JSON must hold {missing[0]!r}; it is missing")
            whole = cls(tree["nodes"], tree["parent"], tree["node_of_class"])
            return whole if classes is None else whole.subset(classes)
        return cls.from_outline(formats.outline_of_nested(tree, root), classes)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Hierarchy":
        """From JSON: what `to_json` gives, or nested names as for `from_dict`.

        Raises:
            ValueError: if it is no JSON, or no tree.

        Example:
            >>> tree = Hierarchy.from_newick("((a,b),c);")
            >>> Hierarchy.from_json(tree.to_json()) == tree
            True
        """
        return cls.from_dict(formats.parsed_json(text))

    @classmethod
    def from_newick(cls, text: str, classes: Sequence[str] | None = None) -> "Hierarchy":
        """From a tree in Newick's format, such as "((lion,lynx)cat,wolf)animal;".

        Branch lengths and comments are passed over: distances count edges. Unnamed inner nodes
        get names "node 1", "node 2", ...; a name in single quotes may hold any sign, and two
        quotes in it are one.

        Args:
            text: the tree.
            classes: names of the classes in the order of the labels; the leaves in the order in
                which they are written by default.

        Raises:
            TypeError: if it is no text.
            ValueError: if it is not a tree in this format; it says where.

        Example:
            >>> Hierarchy.from_newick("((lion:0.1,lynx:0.2)cat,wolf)animal;").classes
            ('lion', 'lynx', 'wolf')
        """
        return cls.from_outline(outline_of_newick(text), classes)

    @classmethod
    def from_networkx(cls, graph: Any, classes: Sequence[str] | None = None) -> "Hierarchy":
        """From a directed graph with edges from parent to child, such as networkx.DiGraph.

        Args:
            graph: anything with `is_directed()`, `nodes` and `edges`; names are text or integers.
            classes: names of the classes in the order of the labels; the leaves in the order of
                the graph's nodes by default.

        Raises:
            TypeError: if it is no such graph.
            ValueError: if it is not directed, or no tree.
        """
        return cls.from_outline(formats.outline_of_graph(graph), classes)

    @classmethod
    def from_folder(cls, folder: str | Path, classes: Sequence[str] | None = None) -> "Hierarchy":
        """From nested folders: a folder that holds no other folder is a class.

        Hidden folders and links are passed over. The root has the name of the folder.

        Args:
            folder: the outermost folder.
            classes: names of the classes in the order of the labels; by default the innermost
                folders in the order of their paths, which for one level is the order of
                torchvision's ImageFolder.

        Raises:
            ValueError: if it is no folder, or holds none.
        """
        return cls.from_outline(formats.outline_of_folder(folder), classes)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        classes: Sequence[str] | None = None,
        *,
        header: bool = False,
        order: Literal["parent-child", "child-parent"] = "parent-child",
    ) -> "Hierarchy":
        """From a file, by its ending.

        .csv, .tsv: a table of levels, as for `from_levels`. .json: as for `from_json`. .nwk,
        .newick, .tree: Newick. .txt and any other: Newick where it begins with "(" and ends with
        ";", else two columns, parent first, parted by a tab, a comma or spaces. Empty lines and
        lines that begin with # are passed over in tables and columns.

        Args:
            path: the file, UTF-8.
            classes: names of the classes in the order of the labels.
            header: whether the first line of a table or of two columns names the columns.
            order: of two columns.

        Raises:
            ValueError: if the file cannot be read, or holds no tree; it names the file.
        """
        check_choice("order", order, ("parent-child", "child-parent"))
        check_boolean("header", header)
        try:
            outline = formats.outline_of_file(Path(path), header, order)
            if isinstance(outline, Outline):
                return cls.from_outline(outline, classes)
            return cls.from_dict(outline, classes)
        except (ValueError, TypeError) as error:
            text = str(error)
            raise ValueError(text if str(path) in text else f"{path}: {text}") from None

    @classmethod
    def from_similarity(
        cls,
        matrix: Any,
        classes: Sequence[str] | None = None,
        *,
        kind: similarity.SimilarityKind = "similarity",
        linkage: similarity.Linkage = "average",
        levels: int | None = None,
    ) -> "Hierarchy":
        """A tree learned from how alike classes are, for users without a taxonomy.

        Agglomerative clustering (SciPy): the two groups that are most alike are joined until one
        is left. Groups joined at the same height become one node, so that classes which are all
        alike give a flat tree.

        Args:
            matrix: what `kind` says, array or tensor.
            classes: names of the classes in the order of the rows; "0", "1", ... by default.
            kind: "confusion": (K, K) counts or rates, rows are the true classes; two classes are
                alike by the mean of the shares of each that are taken for the other. "means":
                (K, d) class means, alike by the cosine between centred means. "similarity":
                (K, K), larger is more alike. "distance": (K, K), smaller is more alike.
            linkage: how alike two groups are: by the mean of all pairs, by the least alike
                ("complete"), by the most alike ("single").
            levels: the number of levels below the root at most: the heights at which groups were
                joined are rounded up to so many even steps. Without it the tree may get as deep
                as there are classes.

        Raises:
            TypeError: if the matrix is none of numbers.
            ValueError: if its shape or its entries are not what `kind` says, or there are fewer
                than two classes.

        Example:
            >>> confusion = [[8, 2, 0], [1, 9, 0], [0, 1, 9]]
            >>> tree = Hierarchy.from_similarity(confusion, ["cat", "dog", "car"], kind="confusion")
            >>> tree.distances().tolist()[0]
            [0.0, 1.0, 2.0]
        """
        outline = similarity.learned_outline(matrix, classes, kind, linkage, levels)
        return cls.from_outline(outline)

    @classmethod
    def cifar100(cls) -> "Hierarchy":
        """The five-level tree of CIFAR-100: its 20 superclasses and three levels above them.

        Level sizes from the root down: 1, 2, 4, 8, 20, 100. The tree that the literature on the
        severity of mistakes uses; the names of the three upper levels are numbers.

        Example:
            >>> Hierarchy.cifar100().pair_counts()
            {1: 200, 2: 525, 3: 1050, 4: 900, 5: 2275}
        """
        return cls.from_levels(known.cifar100_levels())

    @classmethod
    def fashion_mnist(cls) -> "Hierarchy":
        """A three-level tree of Fashion-MNIST: clothes or goods, kind, class.

        Tops (T-shirt/top, Pullover, Shirt), bottoms (Trouser), dresses (Dress) and outers (Coat)
        are clothes; shoes (Sandal, Sneaker, Ankle boot) and accessories (Bag) are goods. Three
        kinds have a single class.

        Example:
            >>> Hierarchy.fashion_mnist().pair_counts()
            {1: 6, 2: 15, 3: 24}
        """
        return cls.from_levels(known.FASHION_MNIST)

    @classmethod
    def wordnet(cls) -> "Hierarchy":
        """The tree over the classes of the data set `wordnet`: nouns of WordNet 3.0.

        61 classes 2 to 9 edges below the root, names with WordNet's numbers, which tell apart
        nodes of one word. Above a noun stands the first of its hypernyms; nodes with a single
        child stay. (c) Princeton University, with its licence in the package.

        Example:
            >>> tree = Hierarchy.wordnet()
            >>> tree, tree.classes[0]
            (Hierarchy(61 classes, 104 nodes, height 9), 'causal agent n00007347')
        """
        return cls.from_json(known.wordnet_json())
