"""Readers of trees in many forms; each gives an outline: names, parents, and who is a class.

No reader recurses, so that no depth of nesting can exhaust the stack.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuralcollapse.hierarchy.arrangement import check_name, shown
from neuralcollapse.hierarchy.newick import outline_of_newick
from neuralcollapse.hierarchy.outline import Outline

TABLES = {".csv": ",", ".tsv": "\t"}
NEWICK = {".nwk", ".newick", ".tree"}
# A dict that holds itself, or one dict in many places, has no end or as good as none.
MOST_NESTED = 2_000_000


# --- pairs and graphs -----------------------------------------------------------------------------


def outline_of_pairs(pairs: Any) -> Outline:
    """From pairs (parent, child), where a name is one node."""
    if isinstance(pairs, str | bytes | Mapping) or not isinstance(pairs, Iterable):
        raise TypeError(f"pairs must be a list of pairs (parent, child), got {shown(pairs)}")
    outline = Outline()
    place: dict[str, int] = {}
    for pair in pairs:
        if isinstance(pair, str | bytes | Mapping) or not isinstance(pair, Iterable):
            raise TypeError(f"every entry of pairs must be (parent, child), got {shown(pair)}")
        both = [*pair]
        if len(both) != 2:
            raise ValueError(
                f"every entry of pairs must be (parent, child), got {len(both)} entries in "
                f"{', '.join(shown(one) for one in both[:3]) or 'an empty one'}"
            )
        above, below = (check_name(name) for name in both)
        for name in (above, below):
            if name not in place:
                place[name] = outline.add(name, -1)
        known = outline.parent[place[below]]
        if known == place[above]:
            raise ValueError(
                f"pairs must be different, got ({shown(above)}, {shown(below)}) twice; "
                "leave one out"
            )
        if known >= 0:
            raise ValueError(
                f"every node of a hierarchy must have one parent, got {shown(below)} under "
                f"{shown(outline.names[known])} and {shown(above)}; choose one of them, or turn "
                "the pairs round if they are (child, parent)"
            )
        outline.parent[place[below]] = place[above]
    if not place:
        raise ValueError("pairs must hold at least one pair (parent, child), got none")
    return outline


def outline_of_graph(graph: Any) -> Outline:
    """From a directed graph in the manner of networkx."""
    needed = ("is_directed", "nodes", "edges")
    if any(not hasattr(graph, name) for name in needed):
        raise TypeError(
            f"graph must be a directed graph such as networkx.DiGraph, got {shown(graph)}"
        )
    if not graph.is_directed():
        raise ValueError(
            "graph must be directed, from parent to child, got an undirected one; "
            "networkx.bfs_tree(graph, root) gives it directions"
        )
    nodes = [check_name(node, "a node of graph") for node in graph.nodes]
    if len({*nodes}) < len(nodes):
        raise ValueError("graph must have nodes of different names; 1 and '1' are the same name")
    if not nodes:
        raise ValueError("graph must have at least one node, got none")
    edges = [(str(edge[0]), str(edge[1])) for edge in graph.edges]
    found = outline_of_pairs(edges) if edges else Outline()
    above = dict(zip(found.names, found.parent, strict=True))
    place = {name: index for index, name in enumerate(nodes)}
    parent = [place[found.names[above[n]]] if above.get(n, -1) >= 0 else -1 for n in nodes]
    return Outline(nodes, parent)


# --- tables ---------------------------------------------------------------------------------------


def outline_of_levels(table: Any, root: str = "root") -> Outline:
    """From a table with one row per class, from coarse to fine."""
    if hasattr(table, "to_numpy"):  # a data frame
        table = table.to_numpy()
    if hasattr(table, "tolist"):  # an array or a tensor
        table = table.tolist()
    if isinstance(table, str | bytes | Mapping) or not isinstance(table, Iterable):
        raise TypeError(f"table must be a list of rows, got {shown(table)}")
    classes: list[int] = []
    outline = Outline(classes=classes)
    place: dict[tuple[int, str], int] = {}
    for number, row in enumerate(table):
        node = -1
        for cell in _cells(row, number):
            if (node, cell) not in place:
                place[node, cell] = outline.add(cell, node)
            node = place[node, cell]
        classes.append(node)
    if not outline.names:
        raise ValueError("table must have at least one row, got none")
    seen: set[int] = set()
    for number, node in enumerate(classes):
        if node in seen:
            raise ValueError(
                f"rows of table must be different, got class {shown(outline.names[node])} again "
                f"in row {number}; leave one out"
            )
        seen.add(node)
    return outline.with_root(check_name(root, "the root"))


def _cells(row: Any, number: int) -> list[str]:
    """The names of a row without the empty cells at its end."""
    if isinstance(row, str | bytes | Mapping) or not isinstance(row, Iterable):
        raise TypeError(
            f"every row of table must be a list of names from coarse to fine, got {shown(row)} "
            f"in row {number}"
        )
    cells = [None if _is_empty(cell) else cell for cell in row]
    while cells and cells[-1] is None:
        cells.pop()
    if not cells:
        raise ValueError(f"every row of table must name a class, got row {number} empty")
    if None in cells:
        raise ValueError(
            f"a row of table must have no hole, got an empty cell before {shown(cells[-1])} in "
            f"row {number}; repeat the name above it or move the rest to the left"
        )
    return [check_name(_whole(cell), f"a cell in row {number} of table").strip() for cell in cells]


def _is_empty(cell: Any) -> bool:
    if isinstance(cell, str):
        return not cell.strip()
    missing = cell is None or type(cell).__name__ == "NAType"  # that of pandas
    return missing or (isinstance(cell, float) and cell != cell)


def _whole(cell: Any) -> Any:
    """3 for 3.0: a column of integers with a hole in it becomes one of floats in data frames."""
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell


# --- nested names ---------------------------------------------------------------------------------


def parsed_json(text: Any) -> Any:
    """The value of a JSON text; a name that stands twice in one object is refused."""
    if not isinstance(text, str | bytes | bytearray):
        raise TypeError(f"JSON must be text, got {shown(text)}")
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError("JSON must not be nested that deeply; write it as pairs") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"text must be JSON, but: {error}") from None
    except UnicodeDecodeError:
        raise ValueError("JSON must be text in UTF-8, got other bytes") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(
            f"siblings must have different names, got {shown(twice)} more than once; "
            "rename one, or leave the duplicate out"
        )
    return value


def outline_of_nested(tree: Any, root: str = "root") -> Outline:
    """From nested dicts and lists."""
    outline = Outline()
    # What is still to be read; taken from the end, so children go in backwards.
    waiting: list[tuple[str | None, Any, int]] = [(None, tree, -1)]
    while waiting:
        name, below, parent = waiting.pop()
        node = parent
        if name is not None:
            node = outline.add(check_name(name), parent)
            if len(outline.names) > MOST_NESTED:
                raise ValueError(
                    f"nested names must be at most {MOST_NESTED} nodes, got more; does a dict "
                    "hold itself? Larger trees can be given as pairs"
                )
        waiting.extend((*child, node) for child in reversed(_children(below, name)))
    if not outline.names:
        raise ValueError("a hierarchy must have at least one node, got none")
    return outline.with_root(check_name(root, "the root"))


def _children(below: Any, name: str | None) -> list[tuple[str, Any]]:
    """Names with what is below them, of a dict, a list or None."""
    if below is None:
        return []
    if isinstance(below, Mapping):
        if isinstance(below.get("name"), str) and {*below} <= {"name", "children"}:
            return [(below["name"], below.get("children"))]
        return [*below.items()]
    if isinstance(below, Sequence) and not isinstance(below, str | bytes):
        found: list[tuple[str, Any]] = []
        for entry in below:
            if isinstance(entry, Mapping):
                found += _children(entry, name)
            else:
                found.append((check_name(entry, f"a node below {shown(name or 'the top')}"), None))
        return found
    raise TypeError(
        f"below a node must be a dict, a list or None, got {shown(below)} below "
        f"{shown(name) if name else 'the top'}; write a leaf as {{name: None}} or in a list"
    )


# --- folders and files ----------------------------------------------------------------------------


def outline_of_folder(folder: Any) -> Outline:
    """From nested folders."""
    try:
        top = Path(folder)
        is_folder = top.is_dir()
    except (TypeError, ValueError):
        raise TypeError(f"folder must be a path, got {shown(folder)}") from None
    if not is_folder:
        raise ValueError(f"folder must be an existing folder, got {shown(str(top))}")
    outline = Outline()
    waiting = [(top, -1)]
    while waiting:
        here, parent = waiting.pop()
        name = here.name if parent >= 0 else (top.resolve().name or "root")
        node = outline.add(check_name(name, "a folder"), parent)
        with os.scandir(here) as entries:
            inner = [
                entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
            ]
        waiting.extend((here / name, node) for name in sorted(inner, reverse=True))
    if len(outline.names) == 1:
        raise ValueError(
            f"folder must hold one folder per class, got {shown(str(top))} without any"
        )
    return outline


def outline_of_file(path: Path, header: bool, order: str) -> Any:
    """From a file by its ending; of a .json file the value in it."""
    text = _text(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        return parsed_json(text)
    if suffix in NEWICK:
        return outline_of_newick(text)
    if suffix in TABLES:
        return outline_of_levels(_rows(text, TABLES[suffix])[header:])
    stripped = text.strip()
    if stripped.startswith("(") and stripped.endswith(";"):
        return outline_of_newick(text)
    pairs = _columns(text)[header:]
    return outline_of_pairs(pairs if order == "parent-child" else [pair[::-1] for pair in pairs])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} must be text in UTF-8, got other bytes") from None
    except OSError as error:
        raise ValueError(f"{path} is not readable: {error.strerror}") from None


def _rows(text: str, separator: str) -> list[list[str]]:
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise ValueError(f"the table is not valid CSV: {error}") from None
    return [r for r in rows if any(c.strip() for c in r) and not r[0].lstrip().startswith("#")]


def _columns(text: str) -> list[tuple[str, str]]:
    """Two columns a line, parted by a tab, else a comma, else spaces."""
    pairs = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        separator = next((sign for sign in "\t," if sign in line), None)
        cells = [cell.strip() for cell in line.strip().split(separator)]
        if len(cells) != 2:
            raise ValueError(
                f"every line must hold two names, parent and child, got {len(cells)} in line "
                f"{number}; part names that hold spaces by a tab"
            )
        pairs.append((cells[0], cells[1]))
    return pairs
