"""`neuralcollapse ood TRAIN TEST OUTSIDE...`: do features tell what belongs to no class?"""

from pathlib import Path
from typing import Annotated, Any

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
from neuralcollapse.scalars import counted

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
        list[str],
        typer.Argument(
            metavar="OUTSIDE...",
            help="Files with `features` of samples of no class, or patterns, one or more, each "
            "judged by itself. A file that is named twice is judged once: patterns overlap.",
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
    as_json: AsJson = False,
    out: JsonOut = None,
) -> None:
    """Fit detectors on features of the classes, and see how well they find what is outside."""
    check_out(out)
    result = _evaluated(train, test, outside, detector, classifier)
    deliver(result, out, as_json, lambda: _show(result))


def _evaluated(
    train: Path,
    test: Path,
    patterns: list[str],
    detectors: list[str] | None,
    classifier: Path | None,
) -> dict[str, Any]:
    from dataclasses import asdict

    from neuralcollapse.metrics import nc5_orthogonality
    from neuralcollapse.ood import separation_of
    from neuralcollapse.statistics import ClassStatistics

    features, labels, own = _training(train, classifier)
    check_apart("TEST", test, [train], "TRAIN")
    outside = files_once(patterns)
    for path in outside:
        check_apart("OUTSIDE", path, [train, test], "TRAIN and TEST")
    fitted, left_out = _fitted(train, features, labels, own, detectors)
    why = f"as in {train}"
    inside = features_of(test, features.shape[1], why)
    with of_file(test):
        scores = {text: one.predict_features(inside) for text, one in fitted.items()}
    classes = int(labels.max()) + 1
    with of_file(train):
        statistics = ClassStatistics.from_features(features, labels, classes, scatter=False)
    results = []
    for path in outside:
        others = features_of(path, features.shape[1], why)
        with of_file(path):
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


def _training(train: Path, classifier: Path | None) -> tuple[Any, Any, dict[str, Any]]:
    """What detectors are fitted on: features, labels, and the classifier where there is one."""
    from neuralcollapse.checks import as_tensor, check_labels
    from neuralcollapse.feature_files import read_features

    arrays = read_features(train)
    features = features_of(train)
    with of_file(train):
        labels = check_labels(as_tensor("labels", arrays["labels"]), len(features))
        if int(labels.min()) < 0:
            raise ValueError(
                f"labels must not be negative, got {int(labels.min())}; leave these samples out"
            )
    if classifier is None and "weight" not in arrays:
        return features, labels, {}
    own = classifier_of(classifier or train, features.shape[1])
    classes = int(labels.max()) + 1
    if len(own["weight"]) < classes:
        raise ValueError(
            f"{classifier or train}: weight must have a row for each class of {train}, got "
            f"{len(own['weight'])} for labels up to {classes - 1}"
        )
    return features, labels, own


def _fitted(
    train: Path, features: Any, labels: Any, own: dict[str, Any], detectors: list[str] | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The detectors fitted, and why others are left out; one that was asked for is not."""
    from neuralcollapse.ood import DETECTORS
    from neuralcollapse.scalars import check_choice
    from neuralcollapse.specs import parse_spec

    kinds = {kind.name: kind for kind in DETECTORS}
    fitted: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for text in detectors or kinds:
        spec = parse_spec("detector", text)
        check_choice("detector", spec.name, tuple(_OPTIONS))
        kind, options = kinds[spec.name], dict[str, Any](spec.arguments(_OPTIONS[spec.name]))
        try:
            if kind.needs_classifier and not own:
                raise ValueError("needs the classifier: no weight was given, use --classifier FILE")
            fitted[text] = kind(**own, **options).fit_features(features, labels)
        except ValueError as error:
            if detectors is not None:
                raise ValueError(f"detector {text} on {train}: {error}") from None
            left_out[text] = str(error)
    if not fitted:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ValueError(f"{train}: no detector can be fitted on these features ({reasons})")
    return fitted, left_out


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
        samples = counted(entry["samples"], "sample")
        console.print(f"{samples}; nc5_orthogonality: {shown}, 0 at collapse")
    console.print(f"fitted on {counted(result['fitted_on'], 'sample')}, {result['inside']} inside")
    for name, reason in result["left_out"].items():
        console.print(f"left out: {name} {reason}")
    for name, text in result["conventions"].items():
        console.print(f"{name}: {text}")
