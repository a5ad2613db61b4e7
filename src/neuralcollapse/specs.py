"""Choices written as text: `name`, `name:value` or `name:option=value,option=value`.

One grammar for frames, heads, hierarchies and energies, on the command line and in files. Needs no
torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Spec:
    """A choice and its options, as text.

    Attributes:
        argument: what the text was given for, to name it in errors, e.g. "frame".
        name: what was chosen.
        value: a value without a name, as in `deep-linear:3`, or None.
        options: the others by name.
    """

    argument: str
    name: str
    value: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        pairs = [f"{key}={value}" for key, value in self.options.items()]
        rest = ",".join([*([] if self.value is None else [self.value]), *pairs])
        return f"{self.name}:{rest}" if rest else self.name

    def arguments(self, kinds: Mapping[str, type], bare: str | None = None) -> dict[str, Any]:
        """The options as values of their kinds; those that are not given are left out.

        Args:
            kinds: name and kind of every option: int, float, bool or str.
            bare: the option that a value without a name stands for.

        Raises:
            ValueError: if an option is unknown, given twice or not of its kind.
        """
        given = dict(self.options)
        if self.value is not None:
            if bare is None:
                raise ValueError(
                    f"{self.argument} {self.name!r} takes no value without a name, got "
                    f"{self.value!r}; {self._offer(kinds)}"
                )
            if bare in given:
                raise ValueError(f"{self.argument} option {bare} must be given once, got {self!s}")
            given[bare] = self.value
        for key in given:
            if key not in kinds:
                raise ValueError(
                    f"{self.argument} {self.name!r} has no option {key!r}; {self._offer(kinds)}"
                )
        return {key: self._value(key, text, kinds[key]) for key, text in given.items()}

    def _offer(self, kinds: Mapping[str, type]) -> str:
        return f"it takes {', '.join(sorted(kinds))}" if kinds else "it takes no options"

    def _value(self, key: str, text: str, kind: type) -> Any:
        readers: dict[type, tuple[str, Callable[[str], Any]]] = {
            int: ("an integer", int),
            float: ("a number", float),
            bool: ("true or false", lambda word: _FLAGS[word.lower()]),
            str: ("text", str),
        }
        described, reader = readers[kind]
        try:
            return reader(text)
        except (ValueError, KeyError):
            raise ValueError(
                f"{self.argument} option {key} must be {described}, got {text!r}"
            ) from None


def parse_spec(argument: str, text: Any) -> Spec:
    """Read a choice with its options.

    The first colon ends the name; commas separate options, the first equals sign of an option ends
    its name. One value without a name may stand first.

    Args:
        argument: what the text is given for, to name it in errors.
        text: the text.

    Raises:
        TypeError: if it is not text.
        ValueError: if it is not written like that.

    Example:
        >>> parse_spec("frame", "code:energy=riesz:2,starts=8").options
        {'energy': 'riesz:2', 'starts': '8'}
        >>> parse_spec("head", "deep-linear:3").arguments({"depth": int}, bare="depth")
        {'depth': 3}
    """
    if not isinstance(text, str):
        raise TypeError(f"{argument} must be text, got {text!r} of type {type(text).__name__}")
    name, colon, rest = text.partition(":")
    pieces = rest.split(",") if colon else []
    value = None
    if pieces and pieces[0].strip() and "=" not in pieces[0]:
        value = pieces.pop(0).strip()
    options: dict[str, str] = {}
    for piece in pieces:
        key, equals, content = (part.strip() for part in piece.partition("="))
        if not (key and equals and content):
            raise _malformed(argument, text)
        if key in options:
            raise ValueError(f"{argument} option {key} must be given once, got {text!r}")
        options[key] = content
    if not name.strip():
        raise _malformed(argument, text)
    return Spec(argument, name.strip(), value, options)


def _malformed(argument: str, text: str) -> ValueError:
    return ValueError(
        f"{argument} must be written name, name:value or name:option=value,option=value, "
        f"got {text!r}"
    )
