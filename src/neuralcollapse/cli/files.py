"""Files that verbs are given: which are meant, what they hold, and where a result goes."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from neuralcollapse.scalars import counted

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
JsonOut = Annotated[
    Path | None, typer.Option("--out", "-o", help="Also write the JSON object to this file.")
]


@contextmanager
def of_file(path: Path) -> Iterator[None]:
    """Errors of what is done inside say which file they are about."""
    from neuralcollapse.feature_files import named

    try:
        yield
    except (TypeError, ValueError) as error:
        raise named(path, error) from error.__cause__


def files_once(patterns: Sequence[str | Path]) -> list[Path]:
    """The files that paths and patterns name, each once; where one is named again, that is said."""
    from neuralcollapse.feature_files import named_files, shard_files

    times = Counter(map(os.path.realpath, named_files(patterns)))
    again = sum(number > 1 for number in times.values())
    if again:
        each = "it counts" if again == 1 else "each counts"
        print(f"note: {counted(again, 'file')} named more than once; {each} once", file=sys.stderr)
    return shard_files(patterns)


def check_apart(name: str, path: Path, others: Sequence[Path], what: str) -> None:
    """Raise if a file is one of those that it is to be compared with."""
    if os.path.realpath(path) in map(os.path.realpath, others):
        raise ValueError(f"{name} must be another file than {what}, got {path} for both")


def features_of(path: Path, dim: int | None = None, why: str = "") -> Any:
    """(N, d), the features of a file: finite, of the width asked for, at least one."""
    from neuralcollapse.checks import as_tensor, check_finite, check_matrix
    from neuralcollapse.feature_files import read_arrays

    held = read_arrays(path, "features")["features"]
    with of_file(path):
        features = check_matrix("features", as_tensor("features", held), columns=dim, why=why)
        check_finite("features", features)
        if not len(features):
            raise ValueError("features must hold at least one sample, got none")
    return features


def classifier_of(path: Path, dim: int | None = None) -> dict[str, Any]:
    """`weight` and, where the file has it, `bias`; of the width asked for."""
    from neuralcollapse.checks import as_tensor, check_finite, check_matrix, check_vector
    from neuralcollapse.feature_files import read_arrays

    held = read_arrays(path, "weight")
    with of_file(path):
        found = {name: as_tensor(name, held[name]) for name in ("weight", "bias") if name in held}
        check_matrix("weight", found["weight"], columns=dim, why="as the features have")
        if "bias" in found:
            rows = len(found["weight"])
            check_vector("bias", found["bias"], rows, "one per row of weight")
        for name, value in found.items():
            check_finite(name, value)
    return found


def check_out(out: Path | None) -> None:
    """Raise for a file that cannot be written, before the work and not after it."""
    if out is None:
        return
    if out.is_dir():
        raise ValueError(f"out must be a file, got the folder {out}; name a file in it")
    if not out.parent.is_dir():
        raise ValueError(f"out must lie in a folder that exists, got {out}; make {out.parent}")
    if not os.access(out.parent, os.W_OK):
        raise ValueError(f"out must lie in a folder that can be written to, got {out}")


def deliver(
    result: dict[str, Any], out: Path | None, as_json: bool, show: Callable[[], None]
) -> None:
    """Write and print a result; it is printed even where it cannot be written."""
    from neuralcollapse.files import write_json

    try:
        if out is not None:
            write_json(out, result)
    finally:
        if as_json:
            print(json.dumps(result, allow_nan=False))
        else:
            show()
