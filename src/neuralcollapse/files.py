"""Files that are either whole or absent, and readers that never unpickle."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

_TEMPORARY = ".unfinished"


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write `content` so that `path` holds either its old content or all of the new.

    The bytes go to a temporary file beside `path`, are flushed to disk, and replace it by rename.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder; name a file in it")
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(_TEMPORARY, f".{path.name}.", path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; a result is as readable as the user's umask says.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def leftovers(folder: Path) -> list[Path]:
    """Temporary files of `write_atomically` that a killed process left in a folder."""
    return sorted(folder.glob(f".*{_TEMPORARY}"))


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a missing or malformed one gives a ValueError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except OSError as error:
        raise ValueError(f"{path} is not readable: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors as safetensors, atomically."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(plain, dict(metadata) if metadata else None))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: (tensors, metadata). A damaged one gives a ValueError."""
    from safetensors import SafetensorError, safe_open

    path = _file(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError, ValueError, RuntimeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from None


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz file; nothing is unpickled. A damaged one gives a ValueError."""
    path = _file(path)
    try:
        with path.open("rb") as file:
            if file.read(2) not in (b"PK", b"\x93N"):  # a zip archive, or a bare array
                raise ValueError("it is no zip archive")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds a single array")
            with archive:
                return {name: _native(archive[name]) for name in archive.files}
    # The parsers of zip and numpy throw a dozen kinds at damaged bytes, MemoryError among them.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is not a readable .npz file: {reason}") from None


def _file(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}")
    return path


def _native(array: np.ndarray) -> np.ndarray:
    """In this machine's byte order, which is the only one that torch takes."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)
