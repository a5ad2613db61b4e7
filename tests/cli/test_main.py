"""The command itself: help that is quick and complete, and errors in one sentence."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import neuralcollapse
from cli.command import environment, in_process, run
from neuralcollapse.cli import main as main_function
from neuralcollapse.cli.main import TRACEBACK_VARIABLE, app

VERBS = ["train", "measure", "ood", "rank", "frame", "predict", "report", "data", "hierarchy"]
VERSION = f"neuralcollapse {neuralcollapse.__version__}\n"


def parameters(verb: str) -> list[Any]:
    command: Any = typer.main.get_command(app)
    return command.commands[verb].params


def words(text: str) -> str:
    """Without the frames of tables and the breaks of lines."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


def test_help_lists_every_verb() -> None:
    shown = run("--help").assert_ok()
    assert all(re.search(rf"^│ {verb}\s+\w", shown, re.MULTILINE) for verb in VERBS)
    assert "--version" in shown
    assert run().assert_ok() == shown


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "neuralcollapse"]
    done = subprocess.run(
        [*command, "--version"], capture_output=True, text=True, env=environment(), check=True
    )
    assert done.stdout == VERSION
    bad = subprocess.run([*command, "nothing"], capture_output=True, text=True, env=environment())
    assert bad.returncode == 2
    assert "No such command 'nothing'" in bad.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_documents_every_option(verb: str) -> None:
    shown = words(run(verb, "--help").assert_ok())
    for parameter in parameters(verb):
        names = [n for n in (*parameter.opts, *parameter.secondary_opts) if n.startswith("-")]
        assert all(name in shown for name in names)
        assert parameter.help, parameter.name
        assert words(parameter.help.replace("`", "")) in shown.replace("`", "")


def test_help_of_train_says_every_default() -> None:
    from dataclasses import fields

    from neuralcollapse.train.config import TrainConfig

    shown = words(run("train", "--help").assert_ok())
    for field in fields(TrainConfig):
        if field.default is not None:
            explained = shown.partition(words(field.metadata["help"]).replace("`", ""))[2]
            explained = explained or shown.partition(words(field.metadata["help"]))[2]
            assert str(field.default) in explained[:40], field.name


def test_version() -> None:
    assert run("--version").assert_ok() == VERSION


SLOW_IMPORTS = ("torch", "numpy", "scipy", "sklearn", "lightning_fabric", "plotly", "ray")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"]], ids=str)
def test_help_is_quick(arguments: list[str]) -> None:
    """Nothing slow is imported, so that the answer takes 0.3 s, of which most is Python itself."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('LOADED', *sorted(sys.modules), file=sys.stderr))\n"
        "from neuralcollapse.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.partition("LOADED")[2].split())
    assert not loaded & set(SLOW_IMPORTS)


def test_the_console_script_is_the_same_command() -> None:
    script = Path(sys.executable).with_name("neuralcollapse")
    if not script.is_file():
        pytest.skip("the package is not installed with its script")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == VERSION


@pytest.mark.parametrize(
    "arguments, hint",
    [
        (["nosuch"], "nosuch"),
        (["--nosuch"], "--nosuch"),
        (["measure"], "FILE"),
        (["measure", "--nosuch"], "--nosuch"),
        (["measure", "a.npz", "--num-classes", "ten"], "--num-classes"),
        (["measure", "a.npz", "--global-mean", "median"], "--global-mean"),
        (["report"], "PATH"),
        (["train", "--lrr", "1"], "--lr"),
        (["train", "--lr", "fast"], "--lr"),
        (["train", "--epochs", "1.5"], "--epochs"),
        (["train", "--epochs"], "--epochs"),
        (["train", "digits"], "digits"),
        (["data", "digits", "mnist"], "mnist"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_one_sentence(arguments: list[str], hint: str) -> None:
    sentence = run(*arguments).assert_refused(hint)
    assert "--help` lists the options" in sentence


def test_a_sentence_is_one_line(tmp_path: Path) -> None:
    """Also where a name holds line breaks, or letters that no terminal has."""
    run("measure", tmp_path / "two\nlines.npz").assert_refused("two lines.npz")
    in_process("measure", "\udcff.npz").assert_refused("does not exist")


def test_what_is_not_the_users_mistake_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(_: Path) -> None:
        raise KeyError("a defect of ours")

    monkeypatch.setattr("neuralcollapse.feature_files.shard_files", broken)
    with pytest.raises(KeyError, match="a defect of ours"):
        run("measure", tmp_path / "a.npz")


def test_a_developer_may_ask_for_the_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    with pytest.raises(ValueError, match="does not exist"):
        run("measure", tmp_path / "a.npz")


def test_ctrl_c_anywhere_ends_with_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("neuralcollapse.feature_files.shard_files", interrupted)
    outcome = run("measure", tmp_path / "a.npz")
    assert outcome.code == 130
    assert outcome.out == ""
    assert "Traceback" not in outcome.err


def test_no_memory_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(_: Path) -> None:
        raise MemoryError("Unable to allocate 7 TiB")

    monkeypatch.setattr("neuralcollapse.feature_files.shard_files", full)
    run("measure", tmp_path / "a.npz").assert_refused("memory")


def test_a_reader_that_goes_away_is_no_error_of_ours() -> None:
    command = f"{sys.executable} -c 'from neuralcollapse.cli import main; main()' data | true"
    done = subprocess.run(
        ["bash", "-c", command], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_the_entry_point_is_a_function() -> None:
    assert callable(main_function)
