"""Deep linear heads: trained by gradient descent, and held against the geometry predicted for them.

    python examples/deep_linear.py direct        free features, momentum, until nothing moves
    python examples/deep_linear.py digits        a small network on imbalanced digits

Both print a table and write a page with the curves. `--help` lists the options.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from neuralcollapse import ClassStatistics, DeepLinearHead, SquaredError, nc1
from neuralcollapse.theory import Prediction, predict

BALANCED, IMBALANCED = (100, 100, 100, 100), (200, 100, 50, 50)
DIGITS = (100, 100, 80, 80, 60, 60, 40, 40, 20, 20)
DEPTHS = (1, 3, 6)
COLOURS = {1: "#0072b2", 3: "#d55e00", 6: "#009e73"}

# What is followed, and what it is called in tables and figures.
SHOWN = {
    "nc1": "NC1",
    "classifier": "classifier, shape",
    "features": "class means, shape",
    "products": "products, with scale",
    "objective": "objective",
}
# Plotly's names of the axes of the panels.
_AXES = ("", "2", "3", "4", "5")


@dataclass
class History:
    """How far a training was from its prediction, at some of its steps.

    Attributes:
        name: what was trained.
        depth: number of linear layers.
        prediction: what theory says of it.
        steps: when it was looked at.
        distances: by name a value per look. `nc1`; `classifier` and `features`, distances of Gram
            matrices of length 1 (blind to scale); `products`, the relative error of the products of
            classifier and class means (scale included); `objective`, its relative excess.
        verdicts: of the classes, at the last look.
    """

    name: str
    depth: int
    prediction: Prediction
    steps: list[int] = field(default_factory=list)
    distances: dict[str, list[float]] = field(default_factory=lambda: {key: [] for key in SHOWN})
    verdicts: list[str] = field(default_factory=list)

    def look(
        self, step: int, objective: float, features: Tensor, labels: Tensor, head: DeepLinearHead
    ) -> None:
        """Measure, and compare with the prediction."""
        statistics = ClassStatistics.from_features(
            features.detach().double(), labels, head.num_classes
        )
        bias = None if head.bias is None else head.bias.detach()
        compared = self.prediction.compare(statistics, head.weight.detach(), bias)
        self.steps.append(step)
        for key, value in (
            ("nc1", float(nc1(statistics))),
            ("classifier", compared["classifier_gram_distance"]),
            ("features", compared["feature_gram_distance"]),
            ("products", compared["product_error"]),
            ("objective", objective / self.prediction.objective - 1),
        ):
            self.distances[key].append(value)
        self.verdicts = compared["verdict"]

    def last(self, key: str) -> float:
        """The last value of a distance."""
        return self.distances[key][-1]


Report = Callable[[int], None]


def _quiet(step: int) -> None:
    """Report to nobody."""


def _looks(steps: int) -> set[int]:
    """About forty steps, dense at first, and the last."""
    return {0, steps, *(round(steps ** (k / 40)) for k in range(1, 40))}


# --- free features --------------------------------------------------------------------------------


def direct(
    counts: Sequence[int],
    depth: int,
    bias: Literal["none", "free"] = "none",
    *,
    decay: float = 5e-4,
    dim: int = 64,
    steps: int = 4000,
    learning_rate: float = 1.0,
    seed: int = 0,
    report: Report = _quiet,
) -> History:
    """Squared error, free features and a deep linear head, by gradient descent with momentum.

    Args:
        counts: samples per class.
        depth: number of linear layers.
        bias: "free" adds one that is not decayed.
        decay: of the features and of every layer.
        dim: width of features and layers.
        steps: of gradient descent, over all samples each.
        learning_rate: its step size; momentum is 0.9. What is left of the start shrinks by about
            10 * learning_rate * decay a step: a tenth of the rate needs ten times the steps.
        seed: of the random start, Gaussian with deviation 0.1.
        report: called with each step.
    """
    torch.manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    features = nn.Parameter(0.1 * torch.randn(len(labels), dim, dtype=torch.float64))
    head = DeepLinearHead(
        len(counts), dim, depth=depth, bias=bias == "free", init_scale=0.1 * dim**0.5
    ).double()
    groups: list[dict[str, Any]] = [{"params": [features, *head.layers], "weight_decay": decay}]
    if head.bias is not None:
        groups.append({"params": [head.bias], "weight_decay": 0.0})
    optimiser = torch.optim.SGD(groups, lr=learning_rate, momentum=0.9)
    prediction = predict(counts, depth=depth, bias=bias, weight_decay=decay, feature_decay=decay)
    history = History(f"{'.'.join(map(str, counts))}, bias {bias}", depth, prediction)
    loss, looks = SquaredError(), _looks(steps)
    for step in range(steps + 1):
        optimiser.zero_grad()
        value = loss(*_operands(head, features, labels))
        if step in looks:
            decayed = sum(float(p.detach().square().sum()) for p in (features, *head.layers))
            objective = float(value.detach()) + decay / 2 * decayed
            history.look(step, objective, features, labels, head)
        value.backward()
        optimiser.step()
        report(step)
    return history


def _operands(
    head: DeepLinearHead, features: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    features, weight, bias = head.operands(features)
    return features, labels, weight, bias


# --- a network on imbalanced digits ---------------------------------------------------------------


def imbalanced_digits(counts: Sequence[int] = DIGITS) -> tuple[Tensor, Tensor]:
    """The first images of each class of scikit-learn's digits, standardised, and their labels."""
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    inputs, labels = torch.from_numpy(images), torch.from_numpy(classes).long()
    chosen = torch.cat([(labels == k).nonzero()[:count, 0] for k, count in enumerate(counts)])
    inputs, labels = inputs[chosen], labels[chosen]
    deviation = inputs.std(0, correction=0)
    inputs = (inputs - inputs.mean(0)) / torch.where(deviation > 0, deviation, 1.0)
    return inputs.float(), labels


def network_on_digits(
    depth: int,
    *,
    counts: Sequence[int] = DIGITS,
    head_decay: float | Sequence[float] = 5e-4,
    feature_decay: float = 5e-4,
    width: int = 128,
    epochs: int = 1000,
    batch_size: int | None = None,
    learning_rate: float = 3e-3,
    seed: int = 0,
    report: Report = _quiet,
) -> History:
    """A small network with a deep linear head without bias, on imbalanced digits, squared error.

    Two hidden ReLU layers and a linear one give the features, which may be negative. Decay acts on
    the features and on each layer of the head, and on nothing else. It is part of the objective, so
    that Adam's scaling of gradients does not change where they vanish.

    Args:
        depth: number of linear layers of the head.
        counts: samples per class.
        head_decay: of the layers, from the features on, or one for all.
        feature_decay: lam in (lam / 2) * sum of |h|^2 over the training set; from a batch of B of N
            samples the sum is estimated as N / B times the batch's.
        width: of the hidden layers and of the features.
        epochs: passes over the samples.
        batch_size: samples per step; None takes all.
        learning_rate: of Adam; falls to zero over the epochs as a cosine.
        seed: of initialisation and order.
        report: called with each epoch.
    """
    torch.manual_seed(seed)
    inputs, labels = imbalanced_digits(counts)
    number, pixels = inputs.shape
    backbone = nn.Sequential(
        nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, width),
    )  # fmt: skip
    head = DeepLinearHead(len(counts), width, depth=depth, bias=False)
    decays = list(head_decay) if isinstance(head_decay, Sequence) else [head_decay] * depth
    optimiser = torch.optim.Adam([*backbone.parameters(), *head.parameters()], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    loss = SquaredError()

    def objective(chosen: Tensor) -> Tensor:
        features = backbone(inputs[chosen])
        value = loss(*_operands(head, features, labels[chosen]))
        scale = number / len(chosen)
        value = value + feature_decay / 2 * scale * features.square().sum()
        for layer, decay in zip(head.layers, decays, strict=True):
            value = value + decay / 2 * layer.square().sum()
        return value

    prediction = predict(counts, depth=depth, weight_decay=decays, feature_decay=feature_decay)
    history = History(f"digits, seed {seed}", depth, prediction)
    everything, looks = torch.arange(number), _looks(epochs)
    for epoch in range(epochs + 1):
        if epoch in looks:
            with torch.no_grad():
                value = float(objective(everything))
                history.look(epoch, value, backbone(inputs), labels, head)
        order = everything if batch_size is None else torch.randperm(number)
        for chosen in order.split(batch_size or number):
            optimiser.zero_grad()
            objective(chosen).backward()
            optimiser.step()
        if epoch < epochs:
            schedule.step()
        report(epoch)
    return history


# --- tables and figures ---------------------------------------------------------------------------


def table(histories: Sequence[History], title: str) -> Table:
    """Distances at the end, a row per training."""
    rows = Table(title=title)
    for column in ("training", "depth", *SHOWN.values(), "classes"):
        rows.add_column(column, justify="left" if column in ("training", "classes") else "right")
    for history in histories:
        values = [f"{history.last(key):.1e}" for key in SHOWN]
        fates = "; ".join(f"{number} {fate}" for fate, number in Counter(history.verdicts).items())
        rows.add_row(history.name, str(history.depth), *values, fates)
    return rows


def figure(histories: Sequence[History], title: str, unit: str) -> dict[str, Any]:
    """Distances over time, one panel per quantity, one colour per depth; for plotly."""
    keys = list(SHOWN)
    dashes: dict[str, str] = {}
    data: list[dict[str, Any]] = []
    shown: set[tuple[str, int]] = set()
    for history in histories:
        styles = ("solid", "dash", "dot", "dashdot")
        dash = dashes.setdefault(history.name, styles[len(dashes) % len(styles)])
        for axis, key in zip(_AXES, keys, strict=False):
            label = (history.name, history.depth)
            data.append(
                {
                    "type": "scatter", "mode": "lines",
                    "x": [step + 1 for step in history.steps],
                    # Rounding may leave an objective a little below its prediction.
                    "y": [value if value > 0 else None for value in history.distances[key]],
                    "xaxis": f"x{axis}", "yaxis": f"y{axis}",
                    "line": {"color": COLOURS.get(history.depth, "#888888"), "dash": dash},
                    "name": f"{history.depth} layers, {history.name}",
                    "legendgroup": str(label), "showlegend": label not in shown,
                }
            )  # fmt: skip
            shown.add(label)
    # Two rows of three places; the sixth is the legend's.
    layout: dict[str, Any] = {
        "title": {"text": title}, "height": 720, "template": "plotly_white",
        "grid": {"rows": 2, "columns": 3, "pattern": "independent"},
        "legend": {"x": 0.74, "y": 0.38, "font": {"size": 10}},
        "annotations": [],
    }  # fmt: skip
    for axis, key in zip(_AXES, keys, strict=False):
        layout[f"xaxis{axis}"] = {
            "type": "log", "title": {"text": unit}, "exponentformat": "power", "dtick": 1,
        }  # fmt: skip
        layout[f"yaxis{axis}"] = {"type": "log", "exponentformat": "power"}
        layout["annotations"].append(
            {
                "text": SHOWN[key], "showarrow": False, "xref": f"x{axis} domain",
                "yref": f"y{axis} domain", "x": 0.5, "y": 1.08,
            }
        )  # fmt: skip
    return {"data": data, "layout": layout}


def write_figure(drawn: dict[str, Any], path: Path) -> None:
    """One page that needs nothing else, and a picture beside it where kaleido is installed."""
    import importlib.util

    import plotly.graph_objects as go

    path.parent.mkdir(parents=True, exist_ok=True)
    picture = go.Figure(drawn)
    picture.write_html(path, include_plotlyjs=True)
    if importlib.util.find_spec("kaleido") is not None:
        picture.write_image(path.with_suffix(".png"), width=1200, height=720)


# --- the command line -----------------------------------------------------------------------------

app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode=None)

Depths = Annotated[list[int], typer.Option("--depth", help="Number of linear layers; repeatable.")]
Out = Annotated[Path, typer.Option(help="Folder for the page with the curves.")]


def _watched(
    progress: Progress, jobs: Sequence[tuple[str, int, Callable[[Report], History]]]
) -> Iterator[History]:
    """Each job's history; the bar follows its steps."""
    for label, steps, job in jobs:
        task = progress.add_task(label, total=steps)
        yield job(lambda step, task=task: progress.update(task, completed=step))


def _finish(histories: list[History], title: str, unit: str, path: Path) -> None:
    Console(width=None if Console().is_terminal else 140).print(table(histories, title))
    write_figure(figure(histories, title, unit), path)
    typer.echo(f"wrote {path}")


@app.command("direct")
def direct_command(
    depth: Depths = list(DEPTHS),  # noqa: B006
    steps: Annotated[int, typer.Option(help="Steps of gradient descent.")] = 4000,
    learning_rate: Annotated[float, typer.Option(help="Of gradient descent.")] = 1.0,
    dim: Annotated[int, typer.Option(help="Width of features and layers.")] = 64,
    decay: Annotated[float, typer.Option(help="Of features and layers.")] = 5e-4,
    seed: Annotated[int, typer.Option(help="Of the random start.")] = 0,
    out: Out = Path("runs/deep-linear"),
) -> None:
    """Free features: balanced and imbalanced, with and without a bias."""
    jobs: list[tuple[str, int, Callable[[Report], History]]] = []
    for counts in (BALANCED, IMBALANCED):
        for bias in ("none", "free"):
            for layers in depth:
                label = f"{counts}, bias {bias}, {layers} layers"

                def job(
                    report: Report,
                    counts: Sequence[int] = counts,
                    bias: Literal["none", "free"] = bias,
                    layers: int = layers,
                ) -> History:
                    return direct(
                        counts, layers, bias, decay=decay, dim=dim, steps=steps,
                        learning_rate=learning_rate, seed=seed, report=report,
                    )  # fmt: skip

                jobs.append((label, steps, job))
    with Progress(console=Console(stderr=True)) as progress:
        histories = list(_watched(progress, jobs))
    title = f"Free features, decay {decay:g}: distances to the prediction"
    _finish(histories, title, "steps", out / "direct.html")


@app.command("digits")
def digits_command(
    depth: Depths = list(DEPTHS),  # noqa: B006
    epochs: Annotated[int, typer.Option(help="Passes over the samples.")] = 1000,
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 2,
    width: Annotated[int, typer.Option(help="Of hidden layers and features.")] = 128,
    batch_size: Annotated[int | None, typer.Option(help="All samples by default.")] = None,
    head_decay: Annotated[float, typer.Option(help="Of each layer of the head.")] = 5e-4,
    feature_decay: Annotated[float, typer.Option(help="Of the features.")] = 5e-4,
    out: Out = Path("runs/deep-linear"),
) -> None:
    """A small network on digits with 100 to 20 images per class."""
    jobs: list[tuple[str, int, Callable[[Report], History]]] = []
    for layers in depth:
        for seed in range(seeds):

            def job(report: Report, layers: int = layers, seed: int = seed) -> History:
                return network_on_digits(
                    layers, head_decay=head_decay, feature_decay=feature_decay, width=width,
                    epochs=epochs, batch_size=batch_size, seed=seed, report=report,
                )  # fmt: skip

            jobs.append((f"digits, {layers} layers, seed {seed}", epochs, job))
    with Progress(console=Console(stderr=True)) as progress:
        histories = list(_watched(progress, jobs))
    title = "Imbalanced digits, deep linear head: distances to the prediction"
    _finish(histories, title, "epochs", out / "digits.html")


if __name__ == "__main__":
    app()
