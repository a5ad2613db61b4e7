"""Checks of plain arguments, in the style of `checks`; for callers that do without torch."""

from collections.abc import Sequence
from numbers import Real
from typing import Any


def check_integer(name: str, value: Any, minimum: int, remedy: str = "") -> int:
    """Return `value` as an int that is at least `minimum`."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r} of type {type(value).__name__}")
    value = value.__index__()
    if value < minimum:
        raise ValueError(
            f"{name} must be at least {minimum}, got {value}{f'; {remedy}' if remedy else ''}"
        )
    return value


def check_number(
    name: str, value: Any, *, minimum: float = -float("inf"), exclusive: bool = False
) -> float:
    """Return `value` as a finite float that is at least (or, if `exclusive`, above) `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    try:
        value = float(value)
    except OverflowError:  # an integer of more than 308 digits
        value = float("inf")
    bound = f"above {minimum:g}" if exclusive else f"at least {minimum:g}"
    too_low = value <= minimum if exclusive else value < minimum
    if value != value or abs(value) == float("inf") or too_low:
        rule = "finite" if minimum == -float("inf") else f"finite and {bound}"
        raise ValueError(f"{name} must be {rule}, got {value}")
    return value


def check_choice(name: str, value: Any, choices: Sequence[str]) -> Any:
    """Return `value` if it is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def check_boolean(name: str, value: Any) -> bool:
    """Return `value` as a bool, of Python's or NumPy's; a text such as "no" would count as true."""
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {value!r} of type {type(value).__name__}")


def check_booleans(**given: Any) -> None:
    """Raise if one of these arguments, by name, is neither True nor False."""
    for name, value in given.items():
        check_boolean(name, value)


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun: "1 epoch", "2 epochs"; `many` where an s will not do.

    Example:
        >>> counted(1, "class", "classes"), counted(0, "file")
        ('1 class', '0 files')
    """
    return f"{number} {one if number == 1 else many or one + 's'}"
