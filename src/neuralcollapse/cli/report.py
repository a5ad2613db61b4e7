"""`neuralcollapse report RUN ...`: one page that shows and compares runs."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, or folders that hold run folders."),
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
    """Write one self-contained HTML page with figures and tables of one or more runs."""
    from neuralcollapse.record import find_runs
    from neuralcollapse.report import write_report

    print(write_report([run for path in runs for run in find_runs(path)], out, predict=predict))
