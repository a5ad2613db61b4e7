"""What to say when the package that an adapter is made for is not there."""


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
