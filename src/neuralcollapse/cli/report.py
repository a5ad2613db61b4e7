"""`neuralcollapse report PATH ...`: one page that shows and compares runs or measurements."""

from pathlib import Path
from typing import Annotated, Any

import typer


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Run folders, folders that hold run folders, or files of saved measurements "
            "(`Measurement.save`, `neuralcollapse measure --out`).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path(
        "report.html"
    ),
    predict: Annotated[
        bool,
        typer.Option(
            "--predict", help="Show beside each run what its options are predicted to lead to."
        ),
    ] = False,
) -> None:
    """Write one self-contained HTML page with figures and tables of runs or saved measurements.

    Runs alone are shown over their epochs. Beside a saved measurement, a run stands with its last
    measured epoch.
    """
    from neuralcollapse.record import Run, find_runs
    from neuralcollapse.report import write_measurements, write_report

    found: list[Any] = []
    for path in paths:
        if path.suffix in (".npz", ".safetensors", ".parquet"):
            raise ValueError(
                f"{path} must be a run folder or a saved measurement, got features; measure them "
                f"first: neuralcollapse measure {path} -o measurement.json"
            )
        found += [path] if _is_measurement(path) else find_runs(path)
    files = [one for one in found if not isinstance(one, Run)]
    if not files:
        print(write_report(found, out, predict=predict))
        return
    if predict:
        raise ValueError(
            f"--predict must go with runs alone, got {files[0]}; leave one of them out"
        )
    print(write_measurements(found, out))


def _is_measurement(path: Path) -> bool:
    """Whether a file is meant; a missing one is told by the end of its name."""
    return path.is_file() or (path.suffix == ".json" and not path.exists())
