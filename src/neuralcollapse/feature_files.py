"""Files of features: which ones are meant, and the arrays that they hold."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuralcollapse.files import read_npz, read_tensors

_KINDS = ".npz, .safetensors or .parquet"


def shard_files(patterns: Sequence[str | Path]) -> list[Path]:
    """The files that paths and patterns such as 'shards/*.safetensors' name, each once.

    A file that several of them name, by whatever path, is one file: patterns overlap by accident,
    and its samples are there once.

    Raises:
        ValueError: if a pattern names no file.

    Example:
        >>> shard_files(["features.npz", "./features.npz"])
        [PosixPath('features.npz')]
    """
    files: dict[str, Path] = {}
    for path in named_files(patterns):
        files.setdefault(os.path.realpath(path), path)
    return list(files.values())


def named_files(patterns: Sequence[str | Path]) -> list[Path]:
    """The files that paths and patterns name, as often as they do."""
    files: list[Path] = []
    for pattern in map(str, _check_several(patterns)):
        found = [pattern]
        if glob.has_magic(pattern) and not Path(pattern).exists():
            found = sorted(glob.glob(pattern, recursive=True))
            if not found:
                raise ValueError(f"{pattern} must name at least one file, got none")
        files.extend(map(Path, found))
    return files


def check_distinct(files: Sequence[str | Path]) -> list[Path]:
    """The files as paths; an error if two of them are one."""
    paths: dict[str, Path] = {}
    for path in map(Path, _check_several(files)):
        known = paths.setdefault(os.path.realpath(path), path)
        if known is not path:
            also = "" if known == path else f", once as {known}"
            raise ValueError(
                f"files must name each file once, got {path} twice{also}; its samples would count "
                "twice, so leave it out or choose the files by shard_files"
            )
    return list(paths.values())


def _check_several(files: Sequence[str | Path]) -> Sequence[str | Path]:
    if isinstance(files, str | Path):
        raise TypeError(f"files must be a list, got {str(files)!r}; put it into one: [...]")
    return files


def read_features(file: Path) -> dict[str, Any]:
    """The arrays of a file by name, `features` and `labels` among them.

    Raises:
        ValueError: if the file is missing, damaged, of another kind, or lacks one of the two.
    """
    return read_arrays(file, "features", "labels")


def read_arrays(file: Path, *needed: str) -> dict[str, Any]:
    """The arrays of a .npz or .safetensors file, or `features` and `labels` of a .parquet file.

    Raises:
        ValueError: if the file is missing, damaged, of another kind, or lacks one that is needed.
    """
    if file.is_dir():
        raise ValueError(
            f"{file} must be a {_KINDS} file, got a folder; name the files in it, as in "
            f"'{file}/*.safetensors'"
        )
    if file.suffix == ".npz":
        arrays = dict(read_npz(file))
    elif file.suffix == ".safetensors":
        arrays = dict(read_tensors(file)[0])
    elif file.suffix == ".parquet":
        arrays = _read_parquet(file)
    else:
        raise ValueError(
            f"{file} must be a {_KINDS} file; numpy.savez('features.npz', features=features, "
            "labels=labels) writes one"
        )
    for name in needed:
        if name not in arrays:
            held = ", ".join(sorted(arrays)) or "nothing"
            raise ValueError(f"{file} must hold the array {name!r}, it holds {held}")
    return arrays


def named(path: Path, error: Exception) -> ValueError:
    """The error, saying which file."""
    text = str(error)
    return ValueError(text if str(path) in text else f"{path}: {text}")


def _read_parquet(file: Path) -> dict[str, Any]:
    try:
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f"{file} needs the extra parquet, but pyarrow cannot be imported ({error}); "
            "install it with pip install 'neuralcollapse[parquet]'"
        ) from None
    if not file.is_file():
        raise ValueError(f"{file} does not exist")
    try:
        held = [name for name in ("features", "labels") if name in parquet.read_schema(file).names]
        table = parquet.read_table(file, columns=held)
        columns = {name: table.column(name).combine_chunks() for name in held}
        if any(column.null_count for column in columns.values()):
            raise ValueError("it has missing values")
        arrays = {}
        if "labels" in columns:
            arrays["labels"] = columns["labels"].to_numpy(zero_copy_only=False)
        if "features" in columns:
            arrays["features"] = _rows(columns["features"])
        return arrays
    # The parsers of columns throw a dozen kinds at damaged bytes.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file} is not a readable .parquet file: {reason}") from None


def _rows(column: Any) -> Any:
    """(N, d), of a column of lists."""
    if not hasattr(column, "value_lengths"):
        raise ValueError(f"features must be lists of numbers, got {column.type}")
    if len(set(column.value_lengths().to_pylist())) > 1:
        raise ValueError("features differ in width")
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
