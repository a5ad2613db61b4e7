"""`neuralcollapse ood TRAIN TEST OUTSIDE...`: do features tell what belongs to no class?"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

_OPTIONS: dict[str, dict[str, type]] = {
    "neco": {"dim": int, "standardize": bool, "times_max_logit": bool},
    "nci": {"alpha": float},
    "fdbd": {},
    "vim": {"dim": int},
    "residual": {"dim": int},
    "nearest-mean": {},
}


def ood(
    train: Annotated[
        Path,
        typer.Argument(
            help="A .npz, .safetensors or .parquet file with `features` (N, d), `labels` (N,) and, "
            "optionally, the classifier's `weight` and `bias`: what the detectors are fitted on."
        ),
    ],
    test: Annotated[
        Path, typer.Argument(help="A file with `features` of other samples of the same classes.")
    ],
    outside: Annotated[
        list[Path],
        typer.Argument(
            metavar="OUTSIDE...", help="Files with `features` of samples of no class, one or more."
        ),
    ],
    detector: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One of {', '.join(_OPTIONS)}, with options behind a colon, e.g. neco:dim=32 or "
            "nci:alpha=0.01; may be repeated. By default all that the file allows."
        ),
    ] = None,
    classifier: Annotated[
        Path | None,
        typer.Option(help="A .npz or .safetensors file with `weight` and, optionally, `bias`."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the JSON object to this file.")
    ] = None,
) -> None:
    """Fit detectors on features of the classes, and see how well they find what is outside."""
    from neuralcollapse.files import write_json

    result = _evaluated(train, test, outside, detector, classifier)
    if out is not None:
        write_json(out, result)
    if as_json:
        print(json.dumps(result, allow_nan=False))
    else:
        _show(result)


def _evaluated(
    train: Path,
    test: Path,
    outside: list[Path],
    detectors: list[str] | None,
    classifier: Path | None,
) -> dict[str, Any]:
    from dataclasses import asdict

    from neuralcollapse.checks import as_tensor
    from neuralcollapse.metrics import nc5_orthogonality
    from neuralcollapse.ood import DETECTORS, separation_of
    from neuralcollapse.scalars import check_choice
    from neuralcollapse.shards import read_arrays, read_features
    from neuralcollapse.specs import parse_spec
    from neuralcollapse.statistics import ClassStatistics

    arrays = read_features(train)
    features, labels = (as_tensor(name, arrays[name]) for name in ("features", "labels"))
    if classifier is not None:
        arrays = read_arrays(classifier)
        if "weight" not in arrays:
            raise ValueError(f"{classifier} must hold the array 'weight'")
    own = {name: as_tensor(name, arrays[name]) for name in ("weight", "bias") if name in arrays}
    if labels.dim() == 1 and len(labels) and int(labels.min()) < 0:
        raise ValueError(f"{train}: labels must not be negative, got {int(labels.min())}")
    kinds = {kind.name: kind for kind in DETECTORS}
    fitted, left_out = {}, {}
    for text in detectors or kinds:
        spec = parse_spec("detector", text)
        check_choice("detector", spec.name, tuple(_OPTIONS))
        kind = kinds[spec.name]
        if detectors is None and kind.needs_classifier and "weight" not in own:
            left_out[text] = "needs the classifier: no weight was given"
            continue
        options: dict[str, Any] = spec.arguments(_OPTIONS[spec.name])
        fitted[text] = kind(**own, **options).fit_features(features, labels)
    inside = _features(test, features.shape[1])
    scores = {text: one.predict_features(inside) for text, one in fitted.items()}
    classes = int(labels.max()) + 1
    statistics = ClassStatistics.from_features(features, labels, classes, scatter=False)
    results = []
    for path in outside:
        others = _features(path, features.shape[1])
        found = {
            text: asdict(separation_of(scores[text], one.predict_features(others)))
            for text, one in fitted.items()
        }
        angle = float(nc5_orthogonality(statistics, others))
        results.append(
            {
                "file": str(path),
                "samples": len(others),
                "nc5_orthogonality": angle if angle == angle else None,
                "detectors": found,
            }
        )
    return {
        "train": str(train),
        "test": str(test),
        "fitted_on": len(features),
        "inside": len(inside),
        "dim": features.shape[1],
        "left_out": left_out,
        "conventions": {
            "auroc": "the outside scores higher",
            "aupr_in": "inside is positive",
            "aupr_out": "outside is positive",
            "fpr95": "share of the outside accepted where 95 % of the inside are",
            "nc5_orthogonality": "class means of the training file, raw",
        },
        "outside": results,
    }


def _features(path: Path, width: int) -> Any:
    """The features of a file, of the width of the training file."""
    from neuralcollapse.checks import as_tensor, check_finite, check_matrix
    from neuralcollapse.shards import read_arrays

    arrays = read_arrays(path)
    if "features" not in arrays:
        held = ", ".join(sorted(arrays)) or "nothing"
        raise ValueError(f"{path} must hold the array 'features', it holds {held}")
    try:
        features = check_matrix(
            "features",
            as_tensor("features", arrays["features"]),
            columns=width,
            why="as in the training file",
        )
        check_finite("features", features)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    if not len(features):
        raise ValueError(f"{path}: features must hold at least one sample, got none")
    return features


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False)
    for entry in result["outside"]:
        table = Table("detector", "AUROC", "AUPR in", "AUPR out", "FPR95", title=entry["file"])
        for column in table.columns[1:]:
            column.justify = "right"
        for name, found in entry["detectors"].items():
            shares = (found[key] for key in ("auroc", "aupr_in", "aupr_out", "fpr95"))
            table.add_row(name, *(f"{share:.2%}" for share in shares))
        console.print(table)
        angle = entry["nc5_orthogonality"]
        shown = "undefined" if angle is None else f"{angle:.4g}"
        console.print(f"{entry['samples']} samples; nc5_orthogonality: {shown}, 0 at collapse")
    console.print(f"fitted on {result['fitted_on']} samples, {result['inside']} inside")
    for name, reason in result["left_out"].items():
        console.print(f"left out: {name} {reason}")
    for name, text in result["conventions"].items():
        console.print(f"{name}: {text}")
