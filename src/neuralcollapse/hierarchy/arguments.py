"""What a caller gives of a tree, checked: names, indices of nodes or labels, and classes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from neuralcollapse.hierarchy.arrangement import check_name, listed, shown


def frozen(array: np.ndarray) -> np.ndarray:
    """A copy of integers that cannot be written to."""
    array = np.array(array, np.int64)
    array.setflags(write=False)
    return array


def names_in(value: Any, name: str) -> Iterable[Any]:
    """Return `value` if it may be a list of names: anything but one text or a dict."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of names, got {shown(value)}")
    return value


def indices(value: Any, name: str, low: int, high: int) -> np.ndarray:
    """A 1-D array of integers in [low, high)."""
    try:
        values = value.detach().cpu() if hasattr(value, "detach") else value
        array = np.asarray(values)
        if not array.size:
            array = array.astype(int)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} must be a list of integers, got {shown(value)}") from None
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(
            f"{name} must be a list of integers, got an array of type {array.dtype} and shape "
            f"{array.shape}"
        )
    outside = (array < low) | (array >= high)
    if outside.any():
        raise ValueError(
            f"{name} must lie in [{low}, {high}), got {array[outside][0]} at place "
            f"{int(np.flatnonzero(outside)[0])}"
        )
    return array.astype(np.int64)


def places(classes: Sequence[str], names: Sequence[str]) -> list[int]:
    """The places of the classes among the names."""
    place = {name: node for node, name in enumerate(names)}
    wanted = [check_name(name, "a class") for name in names_in(classes, "classes")]
    missing = [name for name in wanted if name not in place]
    if missing:
        longer = [name for name in names if name.endswith(f"/{missing[0]}")]
        remedy = (
            f"several nodes have this name, say which: {listed(longer)}"
            if longer
            else "is it written as in the tree?"
        )
        raise ValueError(
            f"every class must be a node of the hierarchy, got {listed(missing)} "
            f"({len(missing)} missing in all); {remedy}"
        )
    return [place[name] for name in wanted]
