"""Long-tailed classes: cross entropy beside HUG with learned and with fixed proxies.

    python examples/imbalance.py --settings 2                        # digits, a few minutes
    python examples/imbalance.py --settings 2 --data fashion-mnist

The training part is thinned to a long tail (the largest class has 100 times the samples of the
smallest); validation and test parts stay balanced. A balanced validation part is more than one
usually has under a long tail; it is the same for every method.

Each seed draws its own split, network and order of samples. Within a seed every method tries
the same number of settings, and the one with the best accuracy on the validation part after the
last epoch is taken; of that network alone the decisions on the test part are looked at. So neither
a setting nor an epoch is chosen by test samples, and a seed's choice knows no other seed's split.
(The test part of digits is drawn by the seed; Fashion-MNIST has its own.)

Accuracy is the mean over classes of the share decided right. Groups are thirds of the classes in
the order of their training counts, the larger third first: of ten classes many has the four most
frequent, medium the next three, few the last three. Since the tail follows the index of the class,
groups differ in which classes they hold as well as in counts: compare methods within a group, not
groups. Intervals are 95 % t-intervals over the seeds; differences to cross entropy are paired by
seed.

HUG takes means over the classes of a batch by default, which weighs rare classes up. To tell that
from the geometry, learned proxies are also trained with plain means (class_balanced=false), beside
plain cross entropy; logit adjustment is the usual strong baseline (Menon et al. 2021).
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from neuralcollapse.record import Run
from neuralcollapse.tap import evaluating
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.data import Data
from neuralcollapse.train.network import load_network
from pictures import write_page, write_still
from sweeps import Interval, interval, last_row, parts, train_all, write_results

GROUPS = ("many", "medium", "few")
REFERENCE = "cross entropy"
# The limit leaves the largest class of Fashion-MNIST 1,001 samples; that of digits has some 130.
DATA: dict[str, dict[str, Any]] = {
    "digits": {"data": "digits", "epochs": 60},
    "fashion-mnist": {
        "data": "fashion-mnist",
        "backbone": "mlp",
        "limit": 2480,
        "epochs": 20,
        "batch_size": 128,
    },
}
# As many settings for every method, those first that matter most to it: HUG sees directions only
# and hardly feels weight decay.
_DECAYS = tuple({"lr": lr, "weight_decay": decay} for decay in (5e-3, 5e-4) for lr in (0.02, 0.1))
_PULLS = tuple({"lr": lr, "intra_weight": pull} for lr in (0.1, 0.02) for pull in (1.0, 10.0))
_COLOURS = ("#000000", "#888888", "#0072b2", "#56b4e9", "#d55e00", "#e69f00")
_SYMBOLS = ("circle", "circle-open", "square", "square-open", "diamond", "diamond-open")


@dataclass(frozen=True)
class Method:
    """A method: what defines it, and the settings among which validation chooses."""

    name: str
    fixed: Mapping[str, Any]
    settings: tuple[Mapping[str, Any], ...]

    def config(self, setting: int, seed: int, common: Mapping[str, Any]) -> TrainConfig:
        """The options of one run."""
        options = {**self.fixed, **self.settings[setting]}
        if "intra_weight" in options:
            options["loss"] = f"{options['loss']},intra_weight={options.pop('intra_weight'):g}"
        if isinstance(options.get("assign_after"), float):
            options["assign_after"] = max(1, round(options["assign_after"] * common["epochs"]))
        config = TrainConfig(
            seed=seed, split_seed=seed, measure=False, accelerator="cpu", **common, **options
        )
        return config.methods()[0]

    def folder(self, setting: int, seed: int) -> str:
        """The folder of one run."""
        return f"{self.name.replace(', ', '-').replace(' ', '-')}-{setting}-seed{seed}"


METHODS = (
    Method(REFERENCE, {"loss": "cross-entropy"}, _DECAYS),
    Method("cross entropy, adjusted", {"loss": "cross-entropy", "logit_adjustment": 1.0}, _DECAYS),
    Method("HUG, learned", {"loss": "hug:inter_weight=10"}, _PULLS),
    Method(
        "HUG, learned, unbalanced", {"loss": "hug:inter_weight=10,class_balanced=false"}, _PULLS
    ),
    # The term between classes is constant where proxies are fixed.
    Method("HUG, fixed simplex", {"loss": "hug:inter_weight=0", "frame": "simplex"}, _PULLS),
    # The vectors are given to the classes after a tenth of the epochs.
    Method(
        "HUG, fixed, assigned",
        {"loss": "hug:inter_weight=0", "frame": "simplex", "assign_after": 0.1},
        _PULLS,
    ),
)


@dataclass(frozen=True)
class Outcome:
    """One method on one seed: what validation chose, and how that did on the test part."""

    method: str
    seed: int
    validation: tuple[float, ...]
    chosen: int
    many: float
    medium: float
    few: float
    all: float


def group_of_classes(counts: Sequence[int]) -> dict[str, list[int]]:
    """Classes by group: thirds of the classes by training count, larger thirds first.

    Raises:
        ValueError: if there are fewer than three classes.
    """
    if len(counts) < len(GROUPS):
        raise ValueError(f"counts must be of at least three classes, got {len(counts)}")
    order = sorted(range(len(counts)), key=lambda label: -counts[label])
    thirds = np.array_split(np.array(order), len(GROUPS))
    return {name: sorted(third.tolist()) for name, third in zip(GROUPS, thirds, strict=True)}


def choice(validation: Sequence[float]) -> int:
    """The setting with the best validation accuracy; the first of equals."""
    return int(np.argmax(np.asarray(validation, dtype=float)))


def class_accuracies(run: Run, data: Data) -> Tensor:
    """(K,), the share of each class's test samples that the last network of a run decides right."""
    network = load_network(run)
    right = torch.zeros(data.num_classes, dtype=torch.float64)
    labels = data.test.labels
    with evaluating(network), torch.no_grad():
        for positions in torch.arange(len(labels)).split(512):
            inputs, truth = data.test[positions]
            correct = (network(inputs).argmax(1) == truth).double()
            right.index_add_(0, truth, correct)
    return right / torch.bincount(labels, minlength=data.num_classes)


def tested(run: Run, data: Data) -> dict[str, float]:
    """Test accuracy by group, and over all classes, each class weighing the same."""
    accuracies = class_accuracies(run, data)
    groups = group_of_classes(data.counts()["train"])
    values = {name: float(accuracies[classes].mean()) for name, classes in groups.items()}
    return {**values, "all": float(accuracies.mean())}


def compare(
    out: Path,
    common: Mapping[str, Any],
    *,
    methods: Sequence[Method],
    seeds: Sequence[int],
    progress: bool = True,
) -> list[Outcome]:
    """Train what is missing, choose by validation, test what was chosen."""
    plan = {
        method.folder(setting, seed): method.config(setting, seed, common)
        for seed in seeds
        for method in methods
        for setting in range(len(method.settings))
    }
    train_all(out, plan, progress=progress)
    outcomes = []
    for seed, method in itertools.product(seeds, methods):
        folders = [out / method.folder(place, seed) for place in range(len(method.settings))]
        validation = tuple(last_row(folder)["validation"]["accuracy"] for folder in folders)
        chosen = choice(validation)
        run = Run.open(folders[chosen])
        accuracies = tested(run, parts(TrainConfig.from_values(run.config)))
        outcomes.append(Outcome(method.name, seed, validation, chosen, **accuracies))
    return outcomes


def summary(outcomes: Sequence[Outcome]) -> dict[str, dict[str, dict[str, Interval]]]:
    """By method and group: `accuracy` over seeds, and `difference` to cross entropy, paired."""
    names = list(dict.fromkeys(item.method for item in outcomes))
    values = {
        name: {
            group: {item.seed: getattr(item, group) for item in outcomes if item.method == name}
            for group in (*GROUPS, "all")
        }
        for name in names
    }
    return {
        name: {
            group: {
                "accuracy": interval(list(by_seed.values())),
                "difference": interval(
                    [value - values[REFERENCE][group][seed] for seed, value in by_seed.items()]
                ),
            }
            for group, by_seed in groups.items()
        }
        for name, groups in values.items()
    }


def table(outcomes: Sequence[Outcome], title: str) -> Table:
    """Accuracies in per cent, and differences to cross entropy in points."""
    columns = [*GROUPS, "all", *(f"{group} - CE" for group in (*GROUPS, "all"))]
    shown = Table("method", *columns, title=title)
    for name, groups in summary(outcomes).items():
        cells = [groups[group]["accuracy"].text(100, 1) for group in (*GROUPS, "all")]
        if name != REFERENCE:
            cells += [groups[group]["difference"].text(100, 1) for group in (*GROUPS, "all")]
        shown.add_row(name, *cells)
    return shown


def figure(outcomes: Sequence[Outcome], title: str) -> go.Figure:
    """Accuracy by group with intervals, methods side by side."""
    drawn = go.Figure()
    found = summary(outcomes)
    for place, (name, groups) in enumerate(found.items()):
        means = [groups[group]["accuracy"] for group in (*GROUPS, "all")]
        shift = (place - (len(found) - 1) / 2) * 0.12
        drawn.add_trace(
            go.Scatter(
                name=name,
                x=[position + shift for position in range(len(means))],
                y=[100 * value.mean for value in means],
                error_y={"type": "data", "array": [100 * (v.high - v.mean) for v in means]},
                mode="markers",
                marker={
                    "color": _COLOURS[place % len(_COLOURS)],
                    "symbol": _SYMBOLS[place % len(_SYMBOLS)],
                    "size": 8,
                },
                hovertemplate="%{y:.1f} %<extra>%{fullData.name}</extra>",
            )
        )
    ticks = list(range(len(GROUPS) + 1))
    drawn.update_layout(
        title={"text": title, "font": {"size": 14}},
        width=760,
        height=420,
        xaxis={"tickvals": ticks, "ticktext": [*GROUPS, "all"]},
        yaxis={"title": {"text": "test accuracy in %"}, "gridcolor": "#dddddd", "zeroline": False},
        font={"family": "sans-serif", "size": 12},
        margin={"l": 60, "r": 10, "t": 40, "b": 30},
        paper_bgcolor="white",
        plot_bgcolor="white",
    )
    return drawn


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print the table, write results.json, the page and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=tuple(DATA), default="digits", help="which samples")
    parser.add_argument("--ratio", type=float, default=100.0, help="largest over smallest class")
    parser.add_argument("--limit", type=int, help="training samples in all")
    parser.add_argument("--epochs", type=int, help="of every run")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="at least two"
    )
    parser.add_argument(
        "--settings", type=int, default=4, choices=(1, 2, 3, 4), help="how many each method tries"
    )
    names = [method.name for method in METHODS]
    parser.add_argument(
        "--methods", nargs="+", choices=names[1:], default=names[1:], help="beside cross entropy"
    )
    parser.add_argument("--out", type=Path, help="folder of runs; runs/imbalance-DATA")
    parser.add_argument("--pictures", type=Path, help="folder for still pictures and results too")
    options = parser.parse_args(arguments)
    if len(set(options.seeds)) < 2:
        parser.error("--seeds must be at least two different numbers, for intervals")
    torch.set_num_threads(1)
    given = {name: getattr(options, name) for name in ("limit", "epochs")}
    common = {
        **DATA[options.data],
        **{name: value for name, value in given.items() if value is not None},
        "imbalance": f"exponential:{options.ratio:g}",
    }
    out = options.out or Path(f"runs/imbalance-{options.data}")
    methods = [
        replace(method, settings=method.settings[: options.settings])
        for method in METHODS
        if method.name in (REFERENCE, *options.methods)
    ]
    outcomes = compare(out, common, methods=methods, seeds=options.seeds)
    counts = parts(methods[0].config(0, options.seeds[0], common)).counts()["train"]
    title = f"{options.data}, {max(counts)} to {min(counts)} samples per class"
    console = Console(width=160)
    console.print(table(outcomes, title))
    content = {
        "options": {**common, "seeds": options.seeds, "settings": options.settings},
        "training_counts": counts,
        "groups": group_of_classes(counts),
        "settings": {method.name: list(method.settings) for method in methods},
        "methods": summary(outcomes),
        "runs": [asdict(item) for item in outcomes],
    }
    write_results(out / "results.json", content)
    drawn = figure(outcomes, title)
    write_page(drawn, out / "results.html")
    if options.pictures is not None:
        name = f"hug-imbalance-{options.data}"
        write_results(options.pictures / f"{name}.json", content)
        write_still(drawn, options.pictures / f"{name}.svg")
    console.print(f"results and the page are in {out}")


if __name__ == "__main__":
    main()
