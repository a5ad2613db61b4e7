"""`neuralcollapse measure FILE`: how collapsed are these features?"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def measure(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="A .npz, .safetensors or .parquet file that holds `features` (N, d) and `labels` "
            "(N,), and optionally the classifier's `weight` (K, d) and `bias` (K,); or several, or "
            "a pattern such as 'shards/*.safetensors', measured together.",
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
    weighting: Annotated[
        Literal["balanced", "samples"] | None,
        typer.Option(
            help="Count every class alike in the covariances, or every sample; by default samples "
            "within classes and classes between them, as published tools do."
        ),
    ] = None,
    outsiders: Annotated[
        Path | None,
        typer.Option(help="A file with `features` of samples of no class, for NC5."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="A file with `features` and `labels` of test samples: compare collapse by class "
            "and by group."
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
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the JSON object to this file.")
    ] = None,
) -> None:
    """Measure the features in files: print a table of metrics with their conventions."""
    from dataclasses import asdict

    from neuralcollapse.files import write_json
    from neuralcollapse.measuring import measure_features
    from neuralcollapse.shards import measure_shards, read_arrays, read_features, shard_files

    options: dict[str, Any] = {
        "num_classes": num_classes,
        "global_mean": global_mean,
        "weighting": weighting,
        "normalize": normalize,
        "split": split,
    }
    if classifier is not None:
        held = read_arrays(classifier)
        if "weight" not in held:
            raise ValueError(f"{classifier} must hold the array 'weight'")
        options |= {"weight": held["weight"], "bias": held.get("bias")}
    if address is not None and engine != "ray":
        raise ValueError("--address must come with --engine ray, got an address alone")
    if groups is not None and against is None:
        raise ValueError(f"--groups must come with --against TEST, got {groups} alone")
    paths = shard_files(files)
    if len(paths) == 1 and not jackknife and not skip_bad and engine == "serial":
        arrays = read_features(paths[0])
        if outsiders is not None:
            held = read_arrays(outsiders)
            if "features" not in held:
                raise ValueError(f"{outsiders} must hold the array 'features'")
            options["outsiders"] = held["features"]
        own: dict[str, Any] = {"weight": arrays.get("weight"), "bias": arrays.get("bias")}
        measurement = measure_features(arrays["features"], arrays["labels"], **(own | options))
        result = {"file": str(paths[0]), **measurement.to_dict()}
        text = str(measurement)
        more, words = _deeper(arrays, measurement, against, groups, normalize)
        result, text = result | more, "\n\n".join([text, *words])
    else:
        for name, value in (("outsiders", outsiders), ("against", against)):
            if value is not None:
                raise ValueError(
                    f"--{name} must go with one file, without --jackknife, --skip-bad and --engine"
                )
        options |= {"skip_bad": skip_bad, "jackknife": jackknife}
        if engine == "ray":
            from neuralcollapse.cluster import measure_shards_on_ray

            shards = measure_shards_on_ray(paths, address=address, **options)
        else:
            shards = measure_shards(paths, **options)
        result = {
            "files": [str(path) for path in shards.files],
            "skipped": {str(path): reason for path, reason in shards.skipped.items()},
            **shards.measurement.to_dict(),
        }
        if jackknife:
            result["intervals"] = {key: asdict(one) for key, one in shards.intervals.items()}
        text = "\n".join([str(shards.measurement), *_more_lines(shards)])
    if out is not None:
        write_json(out, result)
    print(json.dumps(result, allow_nan=False) if as_json else text)


def _deeper(
    arrays: dict[str, Any],
    measurement: Any,
    against: Path | None,
    groups: str | None,
    normalize: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Test samples by class and group, and wrong labels, where the files have them."""
    from neuralcollapse.checks import as_tensor
    from neuralcollapse.shards import read_features
    from neuralcollapse.sphere import directions
    from neuralcollapse.splits import compare_splits, thresholds, wrong_label_collapse
    from neuralcollapse.statistics import ClassStatistics

    def shown(value: Any) -> Any:
        features = as_tensor("features", value)
        return directions(features) if normalize else features

    result: dict[str, Any] = {}
    words: list[str] = []
    if against is not None:
        many, few = thresholds(groups or "100,20")
        held = read_features(against)
        try:
            labels = as_tensor("labels", held["labels"])
            test = ClassStatistics.from_features(
                shown(held["features"]), labels, len(measurement.counts), scatter=False
            )
            comparison = compare_splits(measurement.statistics, test, many=many, few=few)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{against}: {error}") from None
        result["against"] = {"file": str(against), **comparison.to_dict()}
        words.append(f"against {against}:\n{comparison}")
    if "true_labels" in arrays:
        found = wrong_label_collapse(
            shown(arrays["features"]),
            as_tensor("labels", arrays["labels"]),
            as_tensor("true_labels", arrays["true_labels"]),
        )
        result["wrong_labels"] = found.to_dict()
        told = (f"{name} {value:.6g}" for name, value in vars(found).items())
        words.append(f"wrong labels: {', '.join(told)}")
    return result, words


def _more_lines(shards: Any) -> list[str]:
    """What is told below the table: intervals, and what was read and what was not."""
    lines = [
        f"{key}: {one.value:.6g}, 95 % from {one.low:.6g} to {one.high:.6g}"
        for key, one in shards.intervals.items()
    ]
    lines.append(f"files: {len(shards.files)} read, {len(shards.skipped)} left out")
    return lines + [f"left out: {reason}" for reason in shards.skipped.values()]
