"""The grammar of choices: what is read, what is refused, and with which words."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuralcollapse.specs import Spec, parse_spec

KINDS: dict[str, type] = {"depth": int, "rate": float, "deep": bool, "energy": str}


@pytest.mark.parametrize(
    "text, name, value, options",
    [
        ("simplex", "simplex", None, {}),
        ("deep-linear:3", "deep-linear", "3", {}),
        ("code:energy=log,starts=8", "code", None, {"energy": "log", "starts": "8"}),
        ("code:energy=riesz:2", "code", None, {"energy": "riesz:2"}),
        ("code:riesz:2,starts=1", "code", "riesz:2", {"starts": "1"}),
        (" code : energy = log ", "code", None, {"energy": "log"}),
    ],
)
def test_what_is_written_is_read(
    text: str, name: str, value: str | None, options: dict[str, str]
) -> None:
    assert parse_spec("frame", text) == Spec("frame", name, value, options)


def test_values_have_their_kinds() -> None:
    spec = parse_spec("head", "x:3,rate=2e-1,deep=No,energy=riesz:2")
    assert spec.arguments(KINDS, bare="depth") == {
        "depth": 3,
        "rate": 0.2,
        "deep": False,
        "energy": "riesz:2",
    }


@pytest.mark.parametrize(
    "text", ["", ":", "a:", "a:=1", "a:b=", "a:b=1,", "a:1,2", "a:b=1,c", ":3"]
)
def test_what_is_not_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="frame must be written name, name:value or name:option"):
        parse_spec("frame", text)


REFUSED: dict[str, tuple[str, str | None, str]] = {
    "unknown": ("a:width=1", None, "frame 'a' has no option 'width'; it takes deep, depth, energy"),
    "no integer": ("a:depth=2.5", None, "frame option depth must be an integer, got '2.5'"),
    "no number": ("a:rate=fast", None, "frame option rate must be a number, got 'fast'"),
    "no flag": ("a:deep=maybe", None, "frame option deep must be true or false, got 'maybe'"),
    "bare": ("a:3", None, "frame 'a' takes no value without a name, got '3'"),
    "twice": ("a:3,depth=4", "depth", "frame option depth must be given once"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_do_not_fit_are_refused(name: str) -> None:
    text, bare, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        parse_spec("frame", text).arguments(KINDS, bare)


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="frame option b must be given once, got 'a:b=1,b=2'"):
        parse_spec("frame", "a:b=1,b=2")


def test_without_options_it_says_so() -> None:
    with pytest.raises(ValueError, match="it takes no options"):
        parse_spec("frame", "simplex:starts=3").arguments({})


@pytest.mark.parametrize("value", [None, 3, b"code", ["code"]])
def test_only_text_is_read(value: Any) -> None:
    with pytest.raises(TypeError, match="frame must be text"):
        parse_spec("frame", value)


WORD = st.text("abz-_. 0", min_size=1).map(str.strip).filter(bool)


@given(WORD, st.none() | WORD, st.dictionaries(WORD, WORD, max_size=3))
def test_written_out_it_reads_the_same(
    name: str, value: str | None, options: dict[str, str]
) -> None:
    spec = Spec("frame", name, value, options)
    assert parse_spec("frame", str(spec)) == spec


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_spec("frame", text).name


def test_it_needs_no_torch() -> None:
    code = "import sys, neuralcollapse.specs; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
