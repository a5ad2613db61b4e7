"""`neuralcollapse measure FILE`: how collapsed are these features?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from neuralcollapse.cli.files import (
    AsJson,
    JsonOut,
    check_apart,
    check_out,
    classifier_of,
    deliver,
    features_of,
    files_once,
    of_file,
)

_MEASURED = "the one measured"


def measure(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="A .npz, .safetensors or .parquet file that holds `features` (N, d) and `labels` "
            "(N,), and optionally the classifier's `weight` (K, d) and `bias` (K,); or several, or "
            "a pattern such as 'shards/*.safetensors', measured together. A file that is named "
            "twice counts once: patterns overlap, and its samples are there once.",
        ),
    ],
    as_json: AsJson = False,
    num_classes: Annotated[
        int | None,
        typer.Option(help="K; by default the rows of weight, or the largest label plus one."),
    ] = None,
    global_mean: Annotated[
        Literal["class", "sample"],
        typer.Option(help="Centre by the mean of the class means, or by the mean of all samples."),
    ] = "class",
    weighting: Annotated[
        Literal["balanced", "samples"] | None,
        typer.Option(
            help="Count every class alike in the covariances, or every sample; by default samples "
            "within classes and classes between them, as published tools do."
        ),
    ] = None,
    outsiders: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="A file with `features` of samples of no class, for NC5, or a pattern; may be "
            "repeated, all are taken together.",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="A file with `features` and `labels` of test samples, or a pattern: compare "
            "collapse by class and by group; may be repeated, all are taken together.",
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            help="With --against: head classes have more samples than the first number, tail "
            "classes at most the second.",
            show_default="100,20",
        ),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale every feature to unit length first.")
    ] = False,
    split: Annotated[
        str | None, typer.Option(help="What the data is, for the record, e.g. train.")
    ] = None,
    classifier: Annotated[
        Path | None,
        typer.Option(help="A .npz or .safetensors file with `weight` and, optionally, `bias`."),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out files that cannot be read, and say which."),
    ] = False,
    jackknife: Annotated[
        bool,
        typer.Option("--jackknife", help="Also give 95 % intervals, by leaving out parts."),
    ] = False,
    engine: Annotated[
        Literal["serial", "ray"],
        typer.Option(help="Read the files here one by one, or on a Ray cluster (extra ray)."),
    ] = "serial",
    address: Annotated[
        str | None,
        typer.Option(help="Of the Ray cluster, such as auto; without it one is started here."),
    ] = None,
    out: JsonOut = None,
) -> None:
    """Measure the features in files: print a table of metrics with their conventions."""
    from neuralcollapse.feature_files import read_features
    from neuralcollapse.measuring_features import measure_features
    from neuralcollapse.shards import measure_shards

    check_out(out)
    options: dict[str, Any] = {
        "num_classes": num_classes,
        "global_mean": global_mean,
        "weighting": weighting,
        "normalize": normalize,
        "split": split,
    }
    if address is not None and engine != "ray":
        raise ValueError("--address must come with --engine ray, got an address alone")
    if groups is not None and not against:
        raise ValueError(f"--groups must come with --against TEST, got {groups} alone")
    paths = files_once(files)
    tests = files_once(against) if against else []
    for path in tests:
        check_apart("against", path, paths, _MEASURED)
    alone = len(paths) == 1 and not skip_bad and engine == "serial"
    arrays = read_features(paths[0]) if alone else {}
    if classifier is not None:
        width = arrays["features"].shape[-1:] if alone else ()
        options |= {"bias": None, **classifier_of(classifier, *width)}
    dim = arrays["features"].shape[-1] if alone and arrays["features"].ndim else None
    options["outsiders"] = _outsiders(outsiders, paths, dim) if outsiders else None
    options["jackknife"] = jackknife
    lines: list[str] = []
    if alone:
        own: dict[str, Any] = {"weight": arrays.get("weight"), "bias": arrays.get("bias")}
        with of_file(paths[0]):
            measurement = measure_features(arrays["features"], arrays["labels"], **(own | options))
        result: dict[str, Any] = {"file": str(paths[0])}
    else:
        options["skip_bad"] = skip_bad
        if engine == "ray":
            from neuralcollapse.cluster import measure_shards_on_ray

            try:
                shards = measure_shards_on_ray(paths, address=address, **options)
            except ImportError as error:  # the extra is missing
                raise ValueError(str(error)) from None
        else:
            shards = measure_shards(paths, **options)
        measurement, lines = shards.measurement, _more_lines(shards)
        result = {
            "files": [str(path) for path in shards.files],
            "skipped": {str(path): reason for path, reason in shards.skipped.items()},
        }
    result |= measurement.to_dict()
    if jackknife:
        result.setdefault("intervals", {})
    more, words = _deeper(paths, arrays, measurement, tests, groups, normalize)
    text = "\n\n".join(["\n".join([str(measurement), *lines]), *words])
    deliver(result | more, out, as_json, lambda: print(text))


def _outsiders(patterns: Sequence[str], inside: Sequence[Path], dim: int | None) -> Any:
    """(M, d), the features of all files of samples of no class."""
    import torch

    parts = []
    for path in files_once(patterns):
        check_apart("outsiders", path, inside, _MEASURED)
        parts.append(features_of(path, dim, f"as in {inside[0]}"))
        dim = parts[0].shape[1]
    return torch.cat(parts)


def _deeper(
    files: Sequence[Path],
    arrays: dict[str, Any],
    measurement: Any,
    tests: Sequence[Path],
    groups: str | None,
    normalize: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Test samples by class and group, and wrong labels, where a single file has them."""
    from neuralcollapse.checks import as_tensor, check_matrix
    from neuralcollapse.dealing import merged
    from neuralcollapse.feature_files import read_features
    from neuralcollapse.sphere import directions
    from neuralcollapse.splits import compare_splits, thresholds, wrong_label_collapse
    from neuralcollapse.statistics import ClassStatistics

    def shown(value: Any) -> Any:
        features = as_tensor("features", value)
        return directions(features) if normalize else features

    result: dict[str, Any] = {}
    words: list[str] = []
    if tests:
        many, few = thresholds(groups or "100,20")
        classes, parts = len(measurement.counts), []
        for path in tests:
            held = read_features(path)
            with of_file(path):
                features = check_matrix(
                    "features",
                    shown(held["features"]),
                    columns=measurement.dim,
                    why=f"as in {files[0]}",
                )
                labels = as_tensor("labels", held["labels"])
                part = ClassStatistics.from_features(features, labels, classes, scatter=False)
                parts.append(part)
        with of_file(tests[0]):
            comparison = compare_splits(measurement.statistics, merged(parts), many=many, few=few)
        names = [str(path) for path in tests]
        result["against"] = {"files": names, **comparison.to_dict()}
        words.append(f"against {', '.join(names)}:\n{comparison}")
    if "true_labels" in arrays:
        with of_file(files[0]):
            found = wrong_label_collapse(
                shown(arrays["features"]),
                as_tensor("labels", arrays["labels"]),
                as_tensor("true_labels", arrays["true_labels"]),
            )
        result["wrong_labels"] = found.to_dict()
        words.append(f"wrong labels: {found}")
    return result, words


def _more_lines(shards: Any) -> list[str]:
    """What is told below the table: what was read and what was not."""
    lines = [f"files: {len(shards.files)} read, {len(shards.skipped)} left out"]
    return lines + [f"left out: {reason}" for reason in shards.skipped.values()]
