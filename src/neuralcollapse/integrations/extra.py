"""The packages that adapters are made for, and what to say when one is not there."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any


def missing(what: str, package: str, error: Exception, remedy: str) -> ImportError:
    """The error of an adapter whose package cannot be imported; `remedy` installs it.

    A package built for another torch raises RuntimeError rather than ImportError when imported.

    Example:
        >>> print(missing("A metric", "torchmetrics", ImportError("no module"), "torchmetrics"))
        A metric needs torchmetrics, which cannot be imported (no module); install it with pip
        install 'torchmetrics'
    """
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ImportError(
        f"{what} needs {package}, which cannot be imported ({reason}); "
        f"install it with pip install '{remedy}'"
    )


def base_class(what: str, modules: Sequence[str], name: str, remedy: str) -> Any:
    """The class `name` of the first of these modules that is in use, or else can be imported.

    Where there is none, a class whose instances cannot be made: the adapter's module can be read,
    and making one raises the error of `missing`.
    """
    errors: list[Exception] = []
    for module in sorted(modules, key=lambda module: module not in sys.modules):
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, RuntimeError) as error:
            errors.append(error)
    reason = missing(what, " or ".join(modules), errors[0], remedy)

    class Missing:
        def __init__(self, *args: Any, **kwargs: Any):
            raise reason

    return Missing
