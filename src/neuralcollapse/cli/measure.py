"""`neuralcollapse measure FILE`: how collapsed are these features?"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def measure(
    file: Annotated[
        Path,
        typer.Argument(
            help="A .npz or .safetensors file that holds `features` (N, d) and `labels` (N,), and "
            "optionally the classifier's `weight` (K, d) and `bias` (K,)."
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
    num_classes: Annotated[
        int | None,
        typer.Option(help="K; by default the rows of weight, or the largest label plus one."),
    ] = None,
    global_mean: Annotated[
        Literal["class", "sample"],
        typer.Option(help="Centre by the mean of the class means, or by the mean of all samples."),
    ] = "class",
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale every feature to unit length first.")
    ] = False,
    split: Annotated[
        str | None, typer.Option(help="What the data is, for the record, e.g. train.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the JSON object to this file.")
    ] = None,
) -> None:
    """Measure the features in a file: print a table of metrics with their conventions."""
    from neuralcollapse.files import write_json
    from neuralcollapse.measurement import measure_features

    arrays = _read(file)
    measurement = measure_features(
        arrays["features"],
        arrays["labels"],
        arrays.get("weight"),
        arrays.get("bias"),
        num_classes,
        global_mean=global_mean,
        normalize=normalize,
        split=split,
    )
    result = {"file": str(file), **measurement.to_dict()}
    if out is not None:
        write_json(out, result)
    print(json.dumps(result, allow_nan=False) if as_json else measurement)


def _read(file: Path) -> dict[str, Any]:
    """The arrays of the file by name, features and labels among them."""
    from neuralcollapse.files import read_npz, read_tensors

    readers = {".npz": read_npz, ".safetensors": lambda path: read_tensors(path)[0]}
    if file.suffix not in readers:
        raise ValueError(f"{file} must be a .npz or .safetensors file")
    arrays = readers[file.suffix](file)
    for name in ("features", "labels"):
        if name not in arrays:
            held = ", ".join(sorted(arrays)) or "nothing"
            raise ValueError(f"{file} must hold the array {name!r}, it holds {held}")
    return dict(arrays)
