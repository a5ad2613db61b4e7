"""Do the two halves of the hyperspherical uniformity gap move on their own?

    python examples/decoupling.py                              # both widths, a few minutes
    python examples/decoupling.py --dims 2 --seeds 0 1 2 3 4   # ten classes on a circle

HUG has one weight for uniformity between classes and one for uniformity within them. A sweep of
both on digits, in each width of the features, tells how far each half moves with each weight:
where K > d + 1 (d = 2: ten classes on a circle) and where K <= d + 1 (d = 16: a simplex). Every
cell is trained twice, with the gradient of the half within to the proxies ("attached") and without
("detached"); cross entropy with a linear and with a cosine head, and HUG with the logarithmic
energy, are trained beside them.

At the end of training are measured, on the training and on the test part:

- inter: mean of 1/distance^2 over pairs of class means (`hug_inter`) minus its least value;
- proxies: the same of the classifier itself, which has no split;
- intra: mean distance of a feature's direction to that of its class mean (`hug_intra`).

Detached proxies feel nothing but each other, so they are also trained alone, without data, as they
are and with their rows put back to unit length after every step: a step turns a row the less, the
longer the row has become.

What a weight does to a half is a share of variance: the logarithm of the half over all cells and
seeds is split into what follows inter_weight, what follows intra_weight, what follows their
combination, and what is left to seeds. Beside it stands the span: the largest over the smallest
mean (geometric, over everything else) along that weight. A half that is decoupled from a weight has
a share near 0 and a span near 1. Means and intervals of the halves are taken in logarithms too:
where two class means nearly coincide the energy is a hundred times that of its neighbours.

What came out (docs/hug.md): detached proxies do not depend on intra_weight at all, and in width 16
intra follows intra_weight alone; the class means, though, are the more uniform the more closely
features follow their proxies. Attached, the halves are coupled where inter_weight is small. In
width 2 the seed decides more than either weight: where two proxies begin close together, the first
steps lengthen their rows until the directions stand still.

Runs that are finished are not trained again; results.json, the pages and the pictures are written
from the records.
"""

import argparse
import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from rich.console import Console
from rich.table import Table

from neuralcollapse.energy import riesz_energy
from neuralcollapse.frames import reference_energy
from neuralcollapse.record import Run
from neuralcollapse.tap import evaluating
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.network import load_network
from pictures import CLASS_COLOURS, write_page, write_still
from sweeps import Interval, interval, last_row, parts, train_all, write_results

INTER_WEIGHTS = (0.1, 1.0, 10.0, 100.0)
INTRA_WEIGHTS = (0.1, 1.0, 10.0)
DIMS = (2, 16)
# By name: folder, loss, head.
BASELINES = {
    "cross entropy, linear head": ("cross-entropy-linear", "cross-entropy", "linear"),
    "cross entropy, cosine head": ("cross-entropy-cosine", "cross-entropy", "cosine"),
    "HUG, logarithmic energy": ("hug-logarithmic", "hug:inter_power=0,intra_weight=10", "cosine"),
}
HALVES = ("inter", "proxies", "intra")
SPLITS = ("train", "test")
# Halves below this are rounding of float32 features, and count as this much in logarithms.
FLOOR = 1e-6
SHOWN_PER_CLASS = 15
# Seeds of proxies that are trained without data.
ALONE = 5
# Where the line of a proxy ends and its name stands; features have a root mean square length of 1.
ENDS = (1.7, None, 1.9)


@dataclass(frozen=True)
class Cell:
    """One pair of weights in one width of the features; `detach` keeps intra from the proxies."""

    dim: int
    inter_weight: float
    intra_weight: float
    detach: bool

    @property
    def loss(self) -> str:
        """As `train` takes it."""
        weights = f"inter_weight={self.inter_weight:g},intra_weight={self.intra_weight:g}"
        return f"hug:{weights},detach_proxies={str(self.detach).lower()}"

    @property
    def folder(self) -> str:
        """The start of the names of its runs."""
        kind = "detached" if self.detach else "attached"
        return f"hug-{kind}-d{self.dim}-inter{self.inter_weight:g}-intra{self.intra_weight:g}"


@dataclass(frozen=True)
class Outcome:
    """Where one run ended; `inter` and `proxies` are gaps to the least value of the width.

    `length` is the median length of the classifier's rows as the optimiser sees them.
    """

    seed: int
    train_inter: float
    test_inter: float
    proxies: float
    train_intra: float
    test_intra: float
    train_accuracy: float
    validation_accuracy: float
    test_accuracy: float
    length: float


@dataclass(frozen=True)
class Effects:
    """How a half follows the two weights: shares of its variance, and spans along each weight."""

    inter_weight: float
    intra_weight: float
    both: float
    seeds: float
    span_inter_weight: float
    span_intra_weight: float


def config_of(dim: int, seed: int, epochs: int, loss: str, head: str | None) -> TrainConfig:
    """The options of one run."""
    values = TrainConfig(
        loss=loss,
        head=head,
        dim=dim,
        seed=seed,
        epochs=epochs,
        batch_size=128,
        measure=False,
        accelerator="cpu",
    )
    return values.methods()[0]


def outcome(folder: Path) -> Outcome:
    """What the record of a finished run says."""
    run, row = Run.open(folder), last_row(folder)
    weight = run.snapshot(row["epoch"])["weight"].double()
    count, dim = weight.shape
    least = reference_energy(count, dim, 2.0, solve=False).mean
    pairs = count * (count - 1) / 2
    train, test = row["train"], row["test"]
    return Outcome(
        seed=run.config["seed"],
        train_inter=train["metrics"]["hug_inter"] - least,
        test_inter=test["metrics"]["hug_inter"] - least,
        proxies=float(riesz_energy(weight, 2.0)) / pairs - least,
        train_intra=train["metrics"]["hug_intra"],
        test_intra=test["metrics"]["hug_intra"],
        train_accuracy=train["accuracy"],
        validation_accuracy=row["validation"]["accuracy"],
        test_accuracy=test["accuracy"],
        length=_length(run),
    )


def intervals(outcomes: Sequence[Outcome]) -> dict[str, Interval]:
    """Mean and interval of every number over the seeds; of the halves in logarithms."""
    rows = [asdict(item) for item in outcomes]
    return {
        name: interval(
            [row[name] for row in rows], floor=None if name.endswith("accuracy") else FLOOR
        )
        for name in rows[0]
        if name != "seed"
    }


def effects(values: Mapping[tuple[float, float], Sequence[float]]) -> Effects:
    """Split the variance of log(value) over a full grid with equally many seeds in every cell.

    The sums of squares of a balanced two-way layout, as shares of their total; they add up to 1.
    Where nothing varies, the shares are 0.

    Args:
        values: by (inter_weight, intra_weight); below `FLOOR` they count as `FLOOR`.
    """
    rows, columns = (sorted({key[place] for key in values}) for place in (0, 1))
    grid = np.array([[values[row, column] for column in columns] for row in rows], dtype=float)
    logs = np.log(np.maximum(grid, FLOOR))
    # From the first value, so that equal values vary by nothing at all, not by rounding.
    logs -= logs[0, 0, 0]
    cells = logs.mean(2)
    by_row, by_column, mean = cells.mean(1), cells.mean(0), cells.mean()
    rest = cells - by_row[:, None] - by_column[None, :] + mean
    total = float(((logs - mean) ** 2).sum())
    seeds = logs.shape[2]
    sums = {
        "inter_weight": seeds * len(columns) * float(((by_row - mean) ** 2).sum()),
        "intra_weight": seeds * len(rows) * float(((by_column - mean) ** 2).sum()),
        "both": seeds * float((rest**2).sum()),
        "seeds": float(((logs - cells[..., None]) ** 2).sum()),
    }
    return Effects(
        **{name: part / total if total > 0 else 0.0 for name, part in sums.items()},
        span_inter_weight=float(np.exp(np.ptp(by_row))),
        span_intra_weight=float(np.exp(np.ptp(by_column))),
    )


def sweep(
    out: Path,
    *,
    dims: Sequence[int] = DIMS,
    inter_weights: Sequence[float] = INTER_WEIGHTS,
    intra_weights: Sequence[float] = INTRA_WEIGHTS,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 40,
    progress: bool = True,
) -> tuple[dict[Cell, list[Outcome]], dict[tuple[str, int], list[Outcome]]]:
    """Train what is missing; outcomes of the cells, and of cross entropy by (name, dim)."""
    cells = [
        Cell(*values)
        for values in itertools.product(dims, inter_weights, intra_weights, (True, False))
    ]
    configs: dict[str, TrainConfig] = {}
    for seed, cell in itertools.product(seeds, cells):
        configs[f"{cell.folder}-seed{seed}"] = config_of(cell.dim, seed, epochs, cell.loss, None)
    for seed, dim, name in itertools.product(seeds, dims, BASELINES):
        _, loss, head = BASELINES[name]
        configs[baseline_folder(name, dim, seed)] = config_of(dim, seed, epochs, loss, head)
    train_all(out, configs, progress=progress)
    hug = {cell: [outcome(out / f"{cell.folder}-seed{seed}") for seed in seeds] for cell in cells}
    baselines = {
        (name, dim): [outcome(out / baseline_folder(name, dim, seed)) for seed in seeds]
        for name in BASELINES
        for dim in dims
    }
    return hug, baselines


def alone(
    inter_weight: float, power: float, unit: bool, seed: int, *, dim: int = 2, steps: int = 400
) -> float:
    """Gap of ten free proxies to the least energy of 1/distance^2, after training without data.

    Args:
        inter_weight: of their mean pair energy.
        power: of the energy they are trained with; 0 is the logarithmic one.
        unit: put rows back to unit length after every step.
        seed: of where they begin.
        dim: d.
        steps: of gradient descent with the options of the sweep; 40 epochs have 400.
    """
    count, usual = 10, config_of(dim, seed, 1, "hug", None)
    pairs = count * (count - 1) / 2
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) * dim**-0.5
    rows = torch.nn.Parameter(rows / rows.norm(dim=1, keepdim=True) if unit else rows)
    optimizer = torch.optim.SGD([rows], usual.lr, usual.momentum, weight_decay=usual.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (inter_weight * riesz_energy(rows, power, min_distance=1e-2) / pairs).backward()
        optimizer.step()
        schedule.step()
        if unit:
            rows.data /= rows.data.norm(dim=1, keepdim=True)
    least = reference_energy(count, dim, 2.0, solve=False).mean
    return float(riesz_energy(rows.detach().double(), 2.0)) / pairs - least


def all_alone(inter_weights: Sequence[float], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """A row per energy, kind of row and weight: the gaps of free proxies by seed."""
    return [
        {
            "power": power,
            "unit": unit,
            "inter_weight": weight,
            "gaps": [alone(weight, power, unit, seed) for seed in seeds],
        }
        for power, unit in ((2.0, False), (2.0, True), (0.0, False))
        for weight in inter_weights
    ]


def baseline_folder(name: str, dim: int, seed: int) -> str:
    """The folder of a run beside the sweep."""
    return f"{BASELINES[name][0]}-d{dim}-seed{seed}"


def all_effects(hug: Mapping[Cell, Sequence[Outcome]]) -> list[dict[str, Any]]:
    """A row per width, kind of gradient, half and split."""
    rows: list[dict[str, Any]] = []
    for dim, detach in sorted(
        {(cell.dim, cell.detach) for cell in hug}, key=lambda x: (x[0], -x[1])
    ):
        for half, split in itertools.product(HALVES, SPLITS):
            if half == "proxies" and split == "test":
                continue
            values = _grid(hug, dim, detach, "proxies" if half == "proxies" else f"{split}_{half}")
            rows.append(
                {
                    "dim": dim,
                    "detach_proxies": detach,
                    "half": half,
                    "split": "" if half == "proxies" else split,
                    **asdict(effects(values)),
                }
            )
    return rows


def most_accurate(hug: Mapping[Cell, Sequence[Outcome]], dim: int) -> Cell:
    """The cell of a width with the best mean accuracy on the validation part."""
    cells = [cell for cell in hug if cell.dim == dim]
    return max(
        cells, key=lambda cell: float(np.mean([item.validation_accuracy for item in hug[cell]]))
    )


def heat_maps(hug: Mapping[Cell, Sequence[Outcome]], dim: int) -> go.Figure:
    """Geometric means over seeds of the halves on the training part, in every cell of a width."""
    shown = (("train_inter", "inter (gap)"), ("train_intra", "intra"))
    kinds = ((True, "proxies detached"), (False, "proxies attached"))
    titles = [f"{half}, {kind}" for _, half in shown for _, kind in kinds]
    figure = make_subplots(2, 2, subplot_titles=titles, vertical_spacing=0.17)
    for (row, (field, _)), (column, (detach, _)) in itertools.product(
        enumerate(shown, 1), enumerate(kinds, 1)
    ):
        grid = _grid(hug, dim, detach, field)
        inter, intra = (sorted({key[place] for key in grid}) for place in (0, 1))
        means = np.array([[interval(grid[a, b], floor=FLOOR).mean for a in inter] for b in intra])
        trace = go.Heatmap(
            z=np.log10(means),
            x=[f"{value:g}" for value in inter],
            y=[f"{value:g}" for value in intra],
            text=[[f"{value:.2g}" for value in line] for line in means],
            texttemplate="%{text}",
            coloraxis="coloraxis" if row == 1 else "coloraxis2",
            hovertemplate="inter_weight %{x}, intra_weight %{y}: %{text}<extra></extra>",
        )
        figure.add_trace(trace, row, column)
        figure.update_xaxes(title_text="inter_weight", type="category", row=row, col=column)
        figure.update_yaxes(title_text="intra_weight", type="category", row=row, col=column)
    figure.update_layout(
        width=760,
        height=560,
        coloraxis={"colorscale": "Blues_r", "showscale": False},
        coloraxis2={"colorscale": "Oranges_r", "showscale": False},
        margin={"l": 60, "r": 20, "t": 40, "b": 50},
        font={"family": "sans-serif", "size": 12},
        paper_bgcolor="white",
    )
    return figure


def circles(out: Path, panels: Mapping[str, str]) -> go.Figure:
    """Test features of width 2 as points and the classifier's rows as lines, a panel per run.

    Args:
        out: the folder of the runs.
        panels: folder of a run by title.
    """
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    figure = make_subplots(
        down,
        across,
        subplot_titles=list(panels),
        horizontal_spacing=0.03,
        vertical_spacing=0.08,
    )
    for place, folder in enumerate(panels.values()):
        where = (place // across + 1, place % across + 1)
        run = Run.open(out / folder)
        features, labels, weight = plane(run)
        # Norms differ from method to method by far more than a panel could show.
        features = features / np.sqrt((features**2).sum(1).mean())
        angle = np.linspace(0, 2 * np.pi, 61)
        figure.add_trace(
            go.Scatter(
                x=np.cos(angle).round(3),
                y=np.sin(angle).round(3),
                mode="lines",
                line={"color": "#cccccc", "width": 1},
                hoverinfo="skip",
            ),
            *where,
        )
        for label, row in enumerate(weight):
            own = features[labels == label][:SHOWN_PER_CLASS].round(3)
            colour, tip = CLASS_COLOURS[label % len(CLASS_COLOURS)], row / np.linalg.norm(row)
            name = run.info["classes"][label]
            figure.add_trace(
                go.Scatter(
                    x=[0, *(None if at is None else round(at * tip[0], 3) for at in ENDS)],
                    y=[0, *(None if at is None else round(at * tip[1], 3) for at in ENDS)],
                    mode="lines+text",
                    line={"color": colour, "width": 1.5},
                    text=["", "", "", name],
                    textposition="middle center",
                    textfont={"size": 13, "color": colour},
                    hoverinfo="skip",
                ),
                *where,
            )
            figure.add_trace(
                go.Scatter(
                    x=own[:, 0],
                    y=own[:, 1],
                    mode="markers",
                    marker={"color": colour, "size": 4, "opacity": 0.7},
                    hovertemplate=f"class {name}<extra></extra>",
                ),
                *where,
            )
        axis = {"range": [-2.2, 2.2], "visible": False}
        figure.update_xaxes(**axis, row=where[0], col=where[1])
        anchor = f"x{place + 1 if place else ''}"
        figure.update_yaxes(**axis, scaleanchor=anchor, row=where[0], col=where[1])
    figure.update_layout(
        width=360 * across,
        height=360 * down + 20,
        showlegend=False,
        margin={"l": 5, "r": 5, "t": 40, "b": 5},
        font={"family": "sans-serif", "size": 12},
        paper_bgcolor="white",
        plot_bgcolor="white",
    )
    return figure


def plane(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test features (N, 2), their labels (N,) and the classifier (K, 2) of a finished run."""
    network = load_network(run)
    data = parts(TrainConfig.from_values(run.config))
    inputs, labels = data.test[torch.arange(len(data.test))]
    with evaluating(network), torch.no_grad():
        features, weight = network.features(inputs), network.head.weight.detach()
    return features.double().numpy(), labels.numpy(), weight.double().numpy()


def tables(
    hug: Mapping[Cell, Sequence[Outcome]], baselines: Mapping[tuple[str, int], Sequence[Outcome]]
) -> list[Table]:
    """Every cell with intervals, and the effects."""
    names = ("train_inter", "test_inter", "proxies", "train_intra", "test_intra", "test_accuracy")
    ends = Table("d", "method", *(name.replace("_", " ") for name in names))
    for (name, dim), found in baselines.items():
        ends.add_row(str(dim), name, *_texts(intervals(found), names))
    for cell, found in hug.items():
        method = cell.loss.removeprefix("hug:").replace(",", " ")
        ends.add_row(str(cell.dim), method, *_texts(intervals(found), names))
    moved = Table(
        "d", "detached", "half", "inter_weight", "intra_weight", "both", "seeds", "span", "span"
    )
    for row in all_effects(hug):
        shares = [f"{row[key]:.0%}" for key in ("inter_weight", "intra_weight", "both", "seeds")]
        spans = [f"x{row[key]:.3g}" for key in ("span_inter_weight", "span_intra_weight")]
        half = f"{row['split']} {row['half']}".strip()
        moved.add_row(str(row["dim"]), str(row["detach_proxies"]).lower(), half, *shares, *spans)
    return [ends, moved]


def results(
    hug: Mapping[Cell, Sequence[Outcome]],
    baselines: Mapping[tuple[str, int], Sequence[Outcome]],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that the tables show, and every single run, for results.json."""

    def entry(found: Sequence[Outcome]) -> dict[str, Any]:
        return {"intervals": intervals(found), "runs": [asdict(item) for item in found]}

    return {
        "options": dict(options),
        "baselines": [
            {"method": name, "dim": dim, **entry(found)} for (name, dim), found in baselines.items()
        ],
        "cells": [{**asdict(cell), **entry(found)} for cell, found in hug.items()],
        "effects": all_effects(hug),
    }


def _length(run: Run) -> float:
    tensors = run.checkpoint(run.checkpoint_epochs()[-1]).tensors
    rows = {name.rpartition(".")[2]: value for name, value in tensors.items() if ".head." in name}
    stored = rows["prototypes"] if "prototypes" in rows else rows["weight"]
    return float(stored.norm(dim=1).median())


def _texts(summary: Mapping[str, Interval], names: Sequence[str]) -> list[str]:
    return [
        summary[name].text(100, 1) + " %" if name.endswith("accuracy") else str(summary[name])
        for name in names
    ]


def _grid(
    hug: Mapping[Cell, Sequence[Outcome]], dim: int, detach: bool, field: str
) -> dict[tuple[float, float], list[float]]:
    return {
        (cell.inter_weight, cell.intra_weight): [getattr(item, field) for item in found]
        for cell, found in hug.items()
        if (cell.dim, cell.detach) == (dim, detach)
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print the tables, write results.json, pages and pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = functools.partial(parser.add_argument, nargs="+")
    add("--dims", type=int, default=list(DIMS), help="widths of the features")
    add("--inter-weights", type=float, default=list(INTER_WEIGHTS), help="of HUG, between classes")
    add("--intra-weights", type=float, default=list(INTRA_WEIGHTS), help="of HUG, within classes")
    add("--seeds", type=int, default=[0, 1, 2], help="at least two")
    parser.add_argument("--epochs", type=int, default=40, help="of every run")
    parser.add_argument("--out", type=Path, default=Path("runs/decoupling"), help="folder of runs")
    parser.add_argument("--pictures", type=Path, help="folder for still pictures and results too")
    options = vars(parser.parse_args(arguments))
    out, pictures = options.pop("out"), options.pop("pictures")
    if len(set(options["seeds"])) < 2:
        parser.error("--seeds must be at least two different numbers, for intervals")
    torch.set_num_threads(1)
    hug, baselines = sweep(out, **options)
    console = Console(width=200)
    for table in tables(hug, baselines):
        console.print(table)
    free = all_alone(options["inter_weights"], range(ALONE))
    for row in free:
        gaps = ", ".join(f"{gap:.1g}" for gap in row["gaps"])
        rows = "at unit length" if row["unit"] else "as they are"
        console.print(
            f"free proxies in the plane, rows {rows}, power {row['power']:g}, "
            f"inter_weight {row['inter_weight']:g}: gaps {gaps}"
        )
    content = {**results(hug, baselines, options), "alone": free}
    write_results(out / "results.json", content)
    figures = {f"hug-decoupling-d{dim}": heat_maps(hug, dim) for dim in options["dims"]}
    if 2 in options["dims"]:
        seed, best = options["seeds"][0], most_accurate(hug, 2)
        panels = {name: baseline_folder(name, 2, seed) for name in BASELINES}
        kind = "detached" if best.detach else "attached"
        title = f"HUG, inter {best.inter_weight:g}, intra {best.intra_weight:g}, {kind}"
        figures["hug-circle"] = circles(out, {title: f"{best.folder}-seed{seed}", **panels})
    for name, figure in figures.items():
        write_page(figure, out / f"{name}.html")
        if pictures is not None:
            write_still(figure, pictures / f"{name}.svg")
    if pictures is not None:
        write_results(pictures / "hug-decoupling.json", content)
    console.print(f"results and pages are in {out}")


if __name__ == "__main__":
    main()
