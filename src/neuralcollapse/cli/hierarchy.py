"""`neuralcollapse hierarchy FILE`: the tree over the classes and what it says of them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from neuralcollapse.cli.files import AsJson

if TYPE_CHECKING:
    from rich.tree import Tree

    from neuralcollapse.hierarchy import Hierarchy

BUILT_IN = ("cifar100", "fashion-mnist", "glyphs", "wordnet")


def hierarchy(
    file: Annotated[
        Path,
        typer.Argument(
            help="A table of levels from coarse to fine (.csv, .tsv), nested names (.json), "
            "Newick (.nwk), two columns parent and child (.txt), a folder of folders, or "
            "cifar100, fashion-mnist, glyphs or wordnet."
        ),
    ],
    as_json: AsJson = False,
    distances: Annotated[
        Literal["lca_height", "root_depth", "path"],
        typer.Option(
            help="What the distance of two classes is: the height of their lowest common "
            "ancestor, the height of the tree less that ancestor's depth, or the edges between."
        ),
    ] = "lca_height",
    header: Annotated[
        bool, typer.Option("--header", help="The first line names the columns.")
    ] = False,
    order: Annotated[
        Literal["parent-child", "child-parent"], typer.Option(help="Of two columns.")
    ] = "parent-child",
    max_nodes: Annotated[
        int, typer.Option(min=1, help="Draw no more nodes than this, the upper levels first.")
    ] = 300,
) -> None:
    """Show a hierarchy of classes: the tree, its height, its levels, pairs by distance."""
    tree = _read(file, header, order)
    counts = tree.pair_counts(distances)
    if as_json:
        facts = {
            "file": str(file),
            "num_classes": tree.num_classes,
            "num_nodes": tree.num_nodes,
            "total_height": tree.total_height,
            "level_sizes": list(tree.level_sizes),
            "distances": distances,
            "pair_counts": {str(value): count for value, count in counts.items()},
            "hierarchy": tree.to_dict(),
        }
        print(json.dumps(facts, allow_nan=False))
        return
    _print(tree, distances, counts, max_nodes)


def _read(file: Path, header: bool, order: Any) -> "Hierarchy":
    from neuralcollapse.hierarchy import Hierarchy

    if str(file) in BUILT_IN and not file.exists():
        if str(file) == "glyphs":
            from neuralcollapse.train.glyph_sets import glyph_hierarchy

            return glyph_hierarchy()
        known = {"cifar100": Hierarchy.cifar100, "fashion-mnist": Hierarchy.fashion_mnist}
        return known.get(str(file), Hierarchy.wordnet)()
    if file.is_dir():
        return Hierarchy.from_folder(file)
    if not file.exists():
        raise ValueError(
            f"{file} does not exist; give a file, a folder of folders, or one of "
            f"{', '.join(BUILT_IN)}"
        )
    return Hierarchy.from_file(file, header=header, order=order)


def _print(tree: "Hierarchy", kind: str, counts: dict[int, int], max_nodes: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False)
    console.print(_drawn(tree, max_nodes))
    if tree.num_nodes > max_nodes:
        console.print(f"({tree.num_nodes - max_nodes} more nodes; --max-nodes shows more)")
    console.print(
        f"\n{tree.num_classes} classes, {tree.num_nodes} nodes, height {tree.total_height}"
    )
    sizes = ", ".join(str(size) for size in tree.level_sizes)
    console.print(f"groups at depth 0 to {tree.total_height}: {sizes}")
    table = Table(f"distance ({kind})", "pairs", "share")
    for column in table.columns:
        column.justify = "right"
    total = sum(counts.values())
    for value, count in counts.items():
        table.add_row(str(value), str(count), f"{count / total:.1%}")
    console.print(table)


def _drawn(tree: "Hierarchy", max_nodes: int) -> "Tree":
    """The first nodes, level by level; a class with its label."""
    from rich.text import Text
    from rich.tree import Tree

    label = {node: number for number, node in enumerate(tree.node_of_class.tolist())}

    def line(node: int) -> Text:
        text = Text(tree.nodes[node])
        return text.append(f"  {label[node]}", style="dim") if node in label else text

    drawn = [Tree(line(0))]
    for node in range(1, min(max_nodes, tree.num_nodes)):
        drawn.append(drawn[int(tree.parent[node])].add(line(node)))
    return drawn[0]
