"""The command `neuralcollapse` and how it fails: one sentence, exit code 2, no traceback."""

import os
import sys
from typing import Annotated, Any

import typer

from neuralcollapse import __version__
from neuralcollapse.cli.data import data
from neuralcollapse.cli.frame import frame
from neuralcollapse.cli.hierarchy import hierarchy
from neuralcollapse.cli.measure import measure
from neuralcollapse.cli.ood import ood
from neuralcollapse.cli.predict import predict
from neuralcollapse.cli.rank import rank
from neuralcollapse.cli.report import report
from neuralcollapse.cli.train import train_command

TRACEBACK_VARIABLE = "NEURALCOLLAPSE_TRACEBACK"

app = typer.Typer(
    name="neuralcollapse",
    help="Measure, induce and predict the geometry that classifiers collapse to.",
    add_completion=False,
)
app.command("train")(train_command())
app.command("measure")(measure)
app.command("ood")(ood)
app.command("rank")(rank)
app.command("frame")(frame)
app.command("predict")(predict)
app.command("report")(report)
app.command("data")(data)
app.command("hierarchy")(hierarchy)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        print(f"neuralcollapse {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the command line."""
    try:
        code = app(standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader, such as `head`, has gone; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        code = _fail(_sentence(error))
    sys.exit(code if isinstance(code, int) else 0)


def _sentence(error: Exception) -> str:
    """What to tell the user; an error that is not the user's is raised again."""
    if hasattr(error, "format_message"):  # a wrong command line, from typer or from click
        message = _unpacked(error)
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "neuralcollapse"
        return f"{message.rstrip('.')}; `{where} --help` lists the options"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"not enough memory: {str(error).splitlines()[0]}"
    expected = isinstance(error, ValueError | TypeError | OSError)
    if expected and not os.environ.get(TRACEBACK_VARIABLE):
        return str(error)
    raise error


def _unpacked(error: Any) -> str:
    """The message of a wrong command line, in one voice whoever checked the value.

    Newer versions of typer check by pydantic, which speaks of its inputs and its errors.
    """
    message, cause = error.format_message(), error.__cause__
    if not hasattr(cause, "errors"):
        return message
    head, _, _ = message.partition(": ")
    problem = cause.errors()[0]
    rule = problem["msg"].removeprefix("Value error, ").replace("Input should", "it must")
    given = repr(problem["input"])
    return f"{head}: {rule.partition(', unable')[0]}" + ("" if given in rule else f", got {given}")


def _fail(message: str, code: int = 2) -> int:
    print(f"neuralcollapse: {' '.join(message.split())}", file=sys.stderr)
    return code
