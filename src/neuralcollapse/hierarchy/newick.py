"""A reader of trees in Newick's format; it does not recurse, however deep they are nested."""

from collections.abc import Iterable
from typing import Any

from neuralcollapse.hierarchy.arrangement import check_name, shown
from neuralcollapse.hierarchy.outline import Outline

ENDS_NAME = "()[]':;,"


def outline_of_newick(text: Any) -> Outline:
    """From a tree in Newick's format."""
    if not isinstance(text, str):
        raise TypeError(f"Newick must be text, got {shown(text)}")
    outline = Outline()
    node = outline.add("", -1)
    named = after_children = False
    for kind, value, place in _newick_tokens(text):
        where = f"at character {place + 1}"
        if kind == "name":
            if named:
                raise ValueError(f"Newick must have one name a node, got {shown(value)} {where}")
            outline.names[node], named = value, True
        elif kind == "(":
            if named or after_children:
                raise ValueError(f"Newick must have '(' before a name, got one {where}")
            node, named, after_children = outline.add("", node), False, False
        elif kind == ";":
            break
        elif outline.parent[node] < 0:
            raise ValueError(f"Newick must close what it opens, got {kind!r} {where} outside '('")
        elif kind == ",":
            node, named, after_children = outline.add("", outline.parent[node]), False, False
        else:
            node, named, after_children = outline.parent[node], False, True
    if outline.parent[node] >= 0:
        raise ValueError("Newick must close what it opens, got its end before ')'")
    return _with_names(outline)


def _with_names(outline: Outline) -> Outline:
    """Names for inner nodes without one; a leaf must have its own."""
    inner = {*outline.parent}
    taken = {*outline.names}
    number = 0
    for node, name in enumerate(outline.names):
        if name:
            continue
        if node not in inner:
            raise ValueError(f"every leaf in Newick must have a name, got leaf {node} without one")
        number += 1
        while f"node {number}" in taken:
            number += 1
        outline.names[node] = f"node {number}"
    return outline


def _newick_tokens(text: str) -> Iterable[tuple[str, str, int]]:
    """("name", name, place) and (sign, sign, place); lengths and comments are left out."""
    place, end = 0, len(text)
    while place < end:
        sign = text[place]
        if sign.isspace():
            place += 1
        elif sign == "[":
            closed = text.find("]", place)
            if closed < 0:
                raise ValueError(f"Newick must close the comment at character {place + 1}")
            place = closed + 1
        elif sign == "'":
            name, after = _quoted(text, place)
            yield "name", check_name(name), place
            place = after
        elif sign in "(),;":
            if sign == ";" and text[place + 1 :].strip():
                raise ValueError(
                    f"Newick must hold one tree, got more text after character {place + 1}"
                )
            yield sign, sign, place
            if sign == ";":
                return
            place += 1
        else:
            after = place + (sign == ":")
            while after < end and text[after] not in ENDS_NAME:
                after += 1
            if after == place:
                raise ValueError(f"Newick must not hold {sign!r} at character {place + 1}")
            if sign != ":":
                yield "name", check_name(text[place:after].strip()), place
            place = after
    raise ValueError("Newick must end with ';', got the end of the text")


def _quoted(text: str, place: int) -> tuple[str, int]:
    """The name in quotes that begins at `place`, and where it ends; '' is one quote."""
    parts, after = [], place + 1
    while True:
        closed = text.find("'", after)
        if closed < 0:
            raise ValueError(f"Newick must close the quote at character {place + 1}")
        parts.append(text[after:closed])
        if text[closed + 1 : closed + 2] != "'":
            return "'".join(parts), closed + 1
        after = closed + 2
