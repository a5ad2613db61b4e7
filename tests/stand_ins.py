"""Packages that are not here, or that something stands in for, while an adapter is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def packages(adapter: str, given: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Inside, these modules are those given, or missing where None, and `adapter` is not imported.

    Afterwards every module is as it was.
    """
    kept = dict(sys.modules)
    modules: dict[str, Any] = sys.modules
    modules.update(given)
    modules.pop(adapter, None)
    try:
        yield
    finally:
        modules.clear()
        modules.update(kept)
