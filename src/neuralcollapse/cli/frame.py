"""`neuralcollapse frame`: make a frame for any number of classes, with its certificate."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from neuralcollapse.cli.files import AsJson
from neuralcollapse.scalars import check_integer


def frame(
    kind: Annotated[str, typer.Argument(help="simplex, orthogonal or code.")],
    classes: Annotated[int, typer.Option(help="K, the number of vectors.")],
    dim: Annotated[int, typer.Option(help="d, the number of dimensions.")],
    energy: Annotated[
        str,
        typer.Option(
            help="What is shown, and what a code minimises: riesz:POWER, log, gaussian:SCALE, "
            "separation or softmax_code."
        ),
    ] = "riesz:2",
    starts: Annotated[
        int | None, typer.Option(help="Random starts of a code; by default by its size.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of each stage of a start; by default by its size.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Draws orientation and starts; without one, always the same."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the frame to this .safetensors file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a frame, one unit vector per class, with a bound on how good it can be."""
    _check_out(out)
    options = {"starts": starts, "steps": steps}
    made, total = _made(kind, classes, dim, energy, options, seed)
    if out is not None:
        made.save(out)
    facts = _facts(made, total)
    if as_json:
        print(json.dumps(facts, allow_nan=False))
    else:
        _print_table(facts, energy, out)


def _check_out(out: Path | None) -> None:
    """Before a long solve rather than after it."""
    if out is None:
        return
    if out.suffix != ".safetensors":
        raise ValueError(f"out must end in .safetensors, got {out}")
    if not out.parent.is_dir():
        raise ValueError(f"out must lie in a folder that exists, got {out}; make {out.parent}")


def _made(
    kind: str, classes: int, dim: int, energy: str, options: dict[str, Any], seed: int | None
) -> tuple[Any, float]:
    """The frame in float64, and its energy."""
    import torch

    from neuralcollapse.frames.objective import as_objective
    from neuralcollapse.frames.table import FRAMES
    from neuralcollapse.scalars import check_choice

    makers = dict(FRAMES)
    make = makers[check_choice("frame", kind, tuple(makers))]
    objective = as_objective(energy)
    generator = None
    if seed is not None:
        if check_integer("seed", seed, 0) >= 2**63:
            raise ValueError(f"seed must be below 2**63, got {seed}")
        generator = torch.Generator().manual_seed(seed)
    given = {name: value for name, value in options.items() if value is not None}
    if kind == "code":
        given["energy"] = energy
    elif given:
        raise ValueError(f"{next(iter(given))} must go with a code, got {kind}; leave it out")
    made = make(classes, dim, generator, dtype=torch.float64, **given)
    return made, made.facts.get("energy") or objective.total(made.vectors)


def _facts(made: Any, total: float) -> dict[str, Any]:
    """What is printed as JSON; an energy too large for a number is null."""
    largest = made.max_cosine
    return {
        "kind": made.kind,
        "classes": made.num_classes,
        "dim": made.dim,
        "max_cosine": largest,
        "energy": total if math.isfinite(total) else None,
        "bound": made.bound,
        "gap": None if made.bound is None else largest - made.bound,
        "status": made.status,
    }


def _print_table(facts: dict[str, Any], energy: str, out: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    explained = {
        "kind": "",
        "classes": "",
        "dim": "",
        "max_cosine": "largest cosine between two vectors",
        "energy": f"{energy}, over unordered pairs",
        "bound": "no vectors of this number and dimension have a smaller largest cosine",
        "gap": "max_cosine - bound; zero proves the smallest largest cosine",
        "status": "what is known of the optimum of this energy",
    }
    if energy in ("separation", "softmax_code"):
        explained["energy"] = "minus the smallest distance between two vectors"
    table = Table("what", "value", "meaning")
    for name, value in facts.items():
        text = f"{value:.10g}" if isinstance(value, float) else "" if value is None else str(value)
        table.add_row(name, text, explained[name])
    Console(markup=False).print(table)
    if out is not None:
        print(f"frame: {out}")
