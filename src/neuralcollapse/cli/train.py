"""`neuralcollapse train`: train, record, report."""

import dataclasses
import shutil
import sys
import typing
from collections.abc import Callable
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer

from neuralcollapse.train.config import TrainConfig, read_toml


def train_command() -> Callable[..., None]:
    """The verb, with one option for each field of `TrainConfig`.

    An option that is not given is None here, so that the command line overrides a file, and a
    file the defaults.
    """

    def train(
        config: Path | None, out: Path | None, overwrite: bool, resume: bool, **options: Any
    ) -> None:
        """Train a classifier, watch it collapse, and write a report.

        Without --loss, --head and --frame two methods are trained and compared: cross entropy
        with a learned head, and dot regression on a fixed simplex ETF.
        """
        given = {} if config is None else dict(read_toml(config))
        named = _folder(given.pop("out", None))
        out = out or named
        given |= {name: value for name, value in options.items() if value is not None}
        if resume and overwrite:
            raise ValueError("overwrite must not be given with resume; leave out one")
        if resume:
            _resume(out, given)
        else:
            _start(TrainConfig.from_values(given), out, overwrite)

    parameters = [*_file_options(), *_config_options()]
    train.__signature__ = Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    train.__annotations__ = {p.name: p.annotation for p in parameters}
    return train


def _folder(named: Any) -> Path | None:
    """The output folder that a TOML file names."""
    if named is not None and not isinstance(named, str):
        raise ValueError(f"out must be str, got {named!r}")
    return None if named is None else Path(named)


def _file_options() -> list[Parameter]:
    def option(name: str, kind: Any, default: Any, *declared: str, text: str) -> Parameter:
        settings = typer.Option(*declared, help=text)
        annotation = Annotated[kind, settings]
        return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    text_out = "Folder for the runs and the report; by default the next free runs/DATA."
    return [
        option("config", Path | None, None, "--config", text="TOML file with options by name."),
        option("out", Path | None, None, "--out", "-o", text=text_out),
        option("overwrite", bool, False, "--overwrite", text="Replace the runs in --out."),
        option("resume", bool, False, "--resume", text="Continue the runs in --out."),
    ]


def _config_options() -> list[Parameter]:
    kinds = typing.get_type_hints(TrainConfig)
    parameters = []
    for field in dataclasses.fields(TrainConfig):
        flag = f"--{field.name.replace('_', '-')}"
        declared = f"{flag}/--no-{flag[2:]}" if kinds[field.name] is bool else flag
        # Not in square brackets: rich takes them for markup and shows nothing.
        default = "" if field.default is None else f" Default: {field.default}."
        settings = typer.Option(
            declared,
            help=field.metadata["help"] + default,
            rich_help_panel=field.metadata["group"],
        )
        annotation = Annotated[kinds[field.name] | None, settings]
        parameters.append(
            Parameter(field.name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )
    return parameters


def _start(config: TrainConfig, out: Path | None, overwrite: bool) -> None:
    """Everything is checked before anything is written."""
    from neuralcollapse.record import find_runs
    from neuralcollapse.train.data import load_data
    from neuralcollapse.train.loop import check_trainable, create_run, slow_precision

    methods = config.methods()
    if out is not None and out.exists() and not out.is_dir():
        raise ValueError(f"out must be a folder, got the file {out}")
    old = find_runs(out, missing_ok=True) if out is not None else []
    if old and not overwrite:
        raise ValueError(
            f"{out} already holds runs; use --resume to continue them, --overwrite to replace "
            "them, or another --out"
        )
    data = load_data(config)
    for method in methods:
        check_trainable(method, data)
    warning = slow_precision(config)
    if warning is not None:
        print(f"warning: {warning}", file=sys.stderr)
    folder = out or _free_folder(config.data)
    for run in old:
        shutil.rmtree(run.path)
    (folder / "report.html").unlink(missing_ok=True)
    slugs = [method.slug for method in methods]
    runs = [create_run(folder / method.slug, method, data, slugs) for method in methods]
    try:
        _train(folder, runs, data)
    except Exception:
        # Nothing half-written: what failed before its first checkpoint leaves no run behind.
        if not any(run.checkpoint_epochs() for run in runs):
            for run in runs:
                shutil.rmtree(run.path)
        raise


def _resume(out: Path | None, given: dict[str, Any]) -> None:
    from neuralcollapse.record import find_runs

    if out is None:
        raise ValueError("out must be given with --resume: the folder of the runs to continue")
    runs = find_runs(out)
    asked = dataclasses.asdict(TrainConfig.from_values(given))
    for run in runs:
        names = [name.replace("-", "_") for name in given]
        changed = [name for name in names if run.config.get(name) != asked[name]]
        if changed:
            name = changed[0]
            raise ValueError(
                f"{name} must stay {run.config.get(name)!r} when {run.path} is resumed, got "
                f"{asked[name]!r}; leave the option out, or start anew in another --out"
            )
    _train(out, [*runs, *_never_begun(out, runs)], None)


def _never_begun(folder: Path, runs: list[Any]) -> list[Any]:
    """Runs of a comparison whose folder was not yet made when the program was killed, made now."""
    from neuralcollapse.train.data import load_data
    from neuralcollapse.train.loop import create_run

    wanted = runs[0].info.get("compared", [])
    missing = {slug for slug in wanted if runs[0].path != folder} - {run.name for run in runs}
    if not missing:
        return []
    asked = TrainConfig.from_values(runs[0].config)
    methods = dataclasses.replace(asked, loss=None, head=None, frame=None).methods()
    data = load_data(asked)
    return [create_run(folder / m.slug, m, data, wanted) for m in methods if m.slug in missing]


def _train(folder: Path, runs: list[Any], data: Any) -> None:
    from neuralcollapse.train.loop import train

    for run in runs:
        if train(run, data) == "interrupted":
            print(
                f"interrupted; continue with: neuralcollapse train --resume --out {folder}",
                file=sys.stderr,
            )
            raise typer.Exit(130)
    _report(folder, runs)


def _report(folder: Path, runs: list[Any]) -> None:
    from neuralcollapse.report import final_table, write_report

    print(final_table(runs))
    try:
        print(f"report: {write_report(runs, folder / 'report.html')}")
    except ValueError as error:  # the extra is missing; the runs are whole
        print(f"no report: {error}", file=sys.stderr)


def _free_folder(data: str) -> Path:
    """runs/DATA, or the first of runs/DATA-2, runs/DATA-3, ... that is not there."""
    base = Path("runs") / data.replace(":", "-").replace("/", "-")
    number, folder = 1, base
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder
