"""The losses, heads and frames that a run can be made of, and their options, without torch."""

import re
from collections.abc import Mapping
from typing import Any

from neuralcollapse.scalars import check_choice
from neuralcollapse.specs import Spec, parse_spec

_Options = Mapping[str, Mapping[str, type]]

LOSS_OPTIONS: _Options = {
    "cross-entropy": {},
    "squared-error": {},
    "dot-regression": {"feature_norm": float},
    "hug": {
        "measure": str,
        "inter_weight": float,
        "intra_weight": float,
        "inter_power": float,
        "intra_power": float,
        "detach_proxies": bool,
        "class_balanced": bool,
        "jitter": float,
        "min_distance": float,
        "inter_every": int,
    },
    "normalized-cross-entropy": {"temperature": float},
    "frame-cosine": {"mixing": float, "schedule": str},
    "hierarchical-cross-entropy": {"depth_decay": float},
    "soft-labels": {"sharpness": float, "kind": str},
    "barz-denzler": {},
}
HEAD_OPTIONS: _Options = {
    "linear": {},
    "cosine": {},
    "fixed": {"scale": float},
    "rotated": {},
    "class-mean": {"momentum": float, "through_batch": bool},
    "deep-linear": {"depth": int, "width": int, "init_scale": float},
    "nearest-frame": {"momentum": float, "through_batch": bool},
}
LOSS_NAMES, HEAD_NAMES = tuple(LOSS_OPTIONS), tuple(HEAD_OPTIONS)
FRAME_NAMES = ("simplex", "orthogonal", "code", "hierarchy")
FRAME_SUFFIX = ".safetensors"

# Losses of cosines, which have no place for a bias, and the head each is used with.
_WITHOUT_BIAS = {
    "dot-regression": "fixed",
    "hug": "cosine",
    "normalized-cross-entropy": "cosine",
    "barz-denzler": "fixed",
}
# Losses for a fixed frame; the frame each was made for, where it is of one kind.
_USUAL_FRAME = {"frame-cosine": "hierarchy", "barz-denzler": "hierarchy"}
_OF_A_HIERARCHY = ("hierarchical-cross-entropy", "soft-labels")
# Data sets that come with a hierarchy of their classes, of the same name.
WITH_HIERARCHY = (
    "cifar100",
    "fashion-mnist",
    "fgvc-aircraft",
    "glyphs",
    "synthetic-tree",
    "wordnet",
)
# Heads that hold a frame.
_FRAMED = ("fixed", "rotated", "nearest-frame")


def loss_choice(spec: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a loss, e.g. of "hug:measure=mhs"."""
    return _choice(parse_spec("loss", spec), LOSS_OPTIONS)


def head_choice(spec: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a head, e.g. of "class-mean:momentum=0.99"."""
    return _choice(parse_spec("head", spec), HEAD_OPTIONS, bare={"deep-linear": "depth"})


def check_frame_choice(spec: str) -> None:
    """Raise if the text cannot name a frame; its options are read where the frame is made."""
    if not spec.endswith(FRAME_SUFFIX):
        name = parse_spec("frame", spec).name
        if name not in FRAME_NAMES:
            raise ValueError(
                f"frame must be one of {', '.join(FRAME_NAMES)} or the path of a {FRAME_SUFFIX} "
                f"file, got {name!r}"
            )


def needs_hierarchy(loss: str, frame: str | None) -> bool:
    """Whether a method is made from a hierarchy of the classes."""
    framed = frame is not None and frame.partition(":")[0] == "hierarchy"
    return framed or loss_choice(loss)[0] in _OF_A_HIERARCHY


def completed(
    loss: str | None, head: str | None, frame: str | None, bias: bool
) -> tuple[str, str, str | None]:
    """Loss, head and frame, those left open chosen to fit the others.

    Raises:
        ValueError: if they do not go together.
    """
    loss = loss or "cross-entropy"
    name, _ = loss_choice(loss)
    usual = "fixed" if name in _USUAL_FRAME else _WITHOUT_BIAS.get(name, "linear")
    usual = "fixed" if frame is not None else usual
    head = head or usual
    kind, _ = head_choice(head)
    framed = kind in _FRAMED
    if frame is not None and not framed:
        raise ValueError(
            f"frame must go with head=fixed, rotated or nearest-frame, got head={head}; leave out "
            "one"
        )
    if name in _WITHOUT_BIAS and kind in ("linear", "deep-linear") and bias:
        raise ValueError(
            f"loss={name} must have a head without bias, got head={kind}; use "
            f"head={_WITHOUT_BIAS[name]}, or bias=false"
        )
    return loss, head, frame or (_USUAL_FRAME.get(name, "simplex") if framed else None)


def in_words(loss: str, head: str, frame: str | None) -> str:
    """The method for tables and legends, e.g. "cross entropy, linear head"."""
    spoken = re.sub(r"^[a-z-]+", lambda match: match[0].replace("-", " "), loss)
    kind = head_choice(head)[0]
    if frame is None:
        return f"{spoken}, {head.replace('-', ' ', 1)} head"
    named = frame.rpartition("/")[2]
    return f"{spoken}, {kind} {named} frame"


def as_folder(loss: str, head: str, frame: str | None) -> str:
    """The method as the name of a folder, e.g. "cross-entropy-linear"."""
    kept = head if frame is None else frame.rpartition("/")[2].removesuffix(FRAME_SUFFIX)
    if frame is not None and head != "fixed":
        kept = f"{head}-{kept}"
    return re.sub(r"[^A-Za-z0-9._]+", "-", f"{loss}-{kept}").strip("-")


def _choice(
    spec: Spec, options: _Options, bare: Mapping[str, str] | None = None
) -> tuple[str, dict[str, Any]]:
    check_choice(spec.argument, spec.name, tuple(options))
    return spec.name, spec.arguments(options[spec.name], (bare or {}).get(spec.name))
