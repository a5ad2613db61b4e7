"""Files of features, as users have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file


def write(path: Path, **arrays: Any) -> Path:
    """Write arrays by name into a .npz or .safetensors file."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file({name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}, path)
    return path
