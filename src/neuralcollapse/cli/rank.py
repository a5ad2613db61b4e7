"""`neuralcollapse rank FEATURES...`: which backbone or checkpoint suits the task best?"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from neuralcollapse.cli.files import AsJson, JsonOut, check_out, deliver, files_once, of_file
from neuralcollapse.scalars import counted


def rank(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FEATURES...",
            help="Files with `features` (N, d) and `labels` (N,) of one task, one a backbone "
            "or checkpoint, or a pattern. Optionally with `test_features` and `test_labels`. A "
            "file that is named twice is one backbone: patterns overlap.",
        ),
    ],
    by: Annotated[
        Literal["cdnv", "cdnv_directional", "nc1", "vci", "nearest_mean", "linear_probe"],
        typer.Option(help="The score that decides on the order."),
    ] = "cdnv",
    test_share: Annotated[
        float,
        typer.Option(help="Share of each class that is held out, for files without test samples."),
    ] = 0.2,
    probe: Annotated[
        bool, typer.Option(help="Fit a linear probe for each file; it takes longest.")
    ] = True,
    as_json: AsJson = False,
    out: JsonOut = None,
) -> None:
    """Order features of one task by how well its classes have collapsed, the best first."""
    from neuralcollapse.transfer import agreement, check_share, ranked, transfer_scores

    check_out(out)
    check_share(test_share)
    if by == "linear_probe" and not probe:
        raise ValueError("--by linear_probe must come with the probe; leave out --no-probe")
    paths = files_once(files)
    scores, tasks = [], []
    for path in paths:
        with of_file(path):
            features, labels, test = _arrays(path)
            found = transfer_scores(features, labels, test, test_share=test_share, probe=probe)
        scores.append(found)
        tasks.append(_task(labels))
        _check_task(path, tasks[-1], paths[0], tasks[0])
    order = ranked(scores, by)
    result = {
        "by": by,
        "ranking": [{"file": str(paths[place]), **scores[place].to_dict()} for place in order],
        "agreement_with_linear_probe": agreement(scores),
        "notes": _notes(paths, tasks),
    }
    deliver(result, out, as_json, lambda: _show(result))


def _task(labels: Any) -> dict[int, int]:
    """Samples by class."""
    classes, counts = labels.unique(return_counts=True)
    return dict(zip(classes.tolist(), counts.tolist(), strict=True))


def _check_task(path: Path, task: dict[int, int], first: Path, wanted: dict[int, int]) -> None:
    """Scores of other classes are those of another task, and in no order with these."""
    if task.keys() != wanted.keys():
        label = min(task.keys() ^ wanted.keys())
        one, other = (first, path) if label in wanted else (path, first)
        raise ValueError(
            f"{path} must hold the classes of {first}, got {len(task)} for {len(wanted)}: class "
            f"{label} is in {one} and not in {other}; rank files of one task"
        )


def _notes(paths: list[Path], tasks: list[dict[int, int]]) -> list[str]:
    """Files of the same classes whose samples are not the same."""
    return [
        f"{path} holds {counted(sum(task.values()), 'sample')} where {paths[0]} holds "
        f"{sum(tasks[0].values())}"
        + (", in other shares by class" if sum(task.values()) == sum(tasks[0].values()) else "")
        + ": their scores are of different samples"
        for path, task in zip(paths, tasks, strict=True)
        if task != tasks[0]
    ]


def _arrays(path: Path) -> tuple[Any, Any, Any]:
    """Features and labels of a file, and its test samples or None."""
    from neuralcollapse.checks import as_tensor
    from neuralcollapse.feature_files import read_features

    held = read_features(path)
    arrays = {
        name: as_tensor(name, held[name])
        for name in ("features", "labels", "test_features", "test_labels")
        if name in held
    }
    if ("test_features" in arrays) != ("test_labels" in arrays):
        raise ValueError(f"{path} must hold both test_features and test_labels, or neither")
    test = None
    if "test_features" in arrays:
        test = arrays["test_features"], arrays["test_labels"]
    return arrays["features"], arrays["labels"], test


def _show(result: dict[str, Any]) -> None:
    from neuralcollapse.transfer import SCORES

    # Without the folders that all files share.
    folders = [Path(entry["file"]).absolute().parent for entry in result["ranking"]]
    folder = os.path.commonpath(folders)
    # Names of two words in two lines: six scores and a file in 80 columns.
    above, below = zip(*(name.rpartition("_")[::2] for name in SCORES), strict=True)
    lines = [["", "", *above, ""], ["", "dim", *below, "file"]]
    notes: dict[str, list[str]] = {}
    for place, entry in enumerate(result["ranking"], 1):
        cells = []
        for name in SCORES:
            value = entry["scores"][name]
            share = name in ("nearest_mean", "linear_probe")
            cells.append("-" if value is None else f"{value:.2%}" if share else f"{value:.4g}")
        shown = os.path.relpath(Path(entry["file"]).absolute(), folder)
        lines.append([str(place), str(entry["dim"]), *cells, shown])
        for name, reason in entry["undefined"].items():
            notes.setdefault(f"{name}: {reason}", []).append(entry["file"])
    # The file comes last: however long its name, the numbers stay in their columns.
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
    for line in lines:
        numbers = [f"{cell:>{width}}" for cell, width in zip(line[:-1], widths, strict=True)]
        print(f"{' '.join(numbers)}  {line[-1]}".rstrip())
    print(f"ordered by {result['by']}, the best first")
    for name, value in result["agreement_with_linear_probe"].items():
        print(f"agreement of {name} with the linear probe: {value:.3f} (Spearman)")
    for reason, files in notes.items():
        print(f"undefined: {reason} ({len(files)} of {len(result['ranking'])} files)")
    for note in result["notes"]:
        print(f"note: {note}")
