"""Deep linear heads: trained by gradient descent, and held against the geometry predicted for them.

    python examples/deep_linear.py direct                         # free features, a minute
    python examples/deep_linear.py network                        # digits, four minutes
    python examples/deep_linear.py network --data fashion-mnist   # 3000 pictures, twelve minutes

Each prints a table and writes a page with the curves; `--help` lists the options.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import plotly.graph_objects as go
import torch
import typer
from plotly.subplots import make_subplots
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from neuralcollapse import ClassStatistics, DeepLinearHead, SquaredError, nc1
from neuralcollapse.theory import Prediction, predict
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.data import load_data
from pictures import write_page, write_still
from sweeps import write_results

BALANCED, IMBALANCED = (100, 100, 100, 100), (200, 100, 50, 50)
DEPTHS = (1, 3, 6)


@dataclass(frozen=True)
class Setting:
    """How a network is trained on a data set.

    Attributes:
        counts: the first so many samples of each class.
        width: of the hidden layers and of the features.
        epochs: passes over the samples.
        batch_size: samples per step; None takes all.
        learning_rate: of Adam; falls to zero over the epochs as a cosine.
    """

    counts: tuple[int, ...]
    width: int
    epochs: int
    batch_size: int | None
    learning_rate: float


SETTINGS = {
    "digits": Setting((100, 100, 80, 80, 60, 60, 40, 40, 20, 20), 128, 2000, None, 3e-3),
    "fashion-mnist": Setting(
        (500, 500, 400, 400, 300, 300, 200, 200, 100, 100), 256, 300, 250, 1e-3
    ),
}
COLOURS = {1: "#0072b2", 3: "#d55e00", 6: "#009e73"}

# What is followed, and what it is called in tables and figures.
SHOWN = {
    "nc1": "NC1",
    "classifier": "classifier, shape",
    "features": "class means, shape",
    "products": "products, with scale",
    "objective": "objective",
}


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


# --- a network on imbalanced pictures -------------------------------------------------------------


def imbalanced_pictures(data: str, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The first pictures of each class of a training part, as vectors, and their labels.

    Every pixel has mean zero, all pixels together have deviation one.

    Raises:
        ValueError: if a class has fewer pictures than asked for.
    """
    samples = load_data(TrainConfig(data=data)).train
    places = [(samples.labels == k).nonzero()[:count, 0] for k, count in enumerate(counts)]
    if any(len(place) < count for place, count in zip(places, counts, strict=True)):
        raise ValueError(
            f"counts must be at most {[len(place) for place in places]} for {data}, got {counts}"
        )
    chosen = torch.cat(places)
    inputs = samples.inputs(chosen).flatten(1).float()
    inputs = inputs - inputs.mean(0)
    return inputs / inputs.std(), samples.labels[chosen]


def network(
    data: str,
    depth: int,
    setting: Setting,
    *,
    head_decay: float | Sequence[float] = 5e-4,
    feature_decay: float = 5e-4,
    seed: int = 0,
    report: Report = _quiet,
) -> History:
    """A small network with a deep linear head without bias, on imbalanced classes, squared error.

    Two hidden ReLU layers and a linear one give the features, which may be negative. Decay acts on
    the features and on each layer of the head, and on nothing else. It is part of the objective, so
    that Adam's scaling of gradients does not change where they vanish.

    Args:
        data: a data set of `neuralcollapse train`.
        depth: number of linear layers of the head.
        setting: counts, width, and how it is trained.
        head_decay: of the layers, from the features on, or one for all.
        feature_decay: lam in (lam / 2) * sum of |h|^2 over the training set; from a batch of B of N
            samples the sum is estimated as N / B times the batch's.
        seed: of initialisation and order.
        report: called with each epoch.
    """
    torch.manual_seed(seed)
    inputs, labels = imbalanced_pictures(data, setting.counts)
    (number, pixels), width, epochs = inputs.shape, setting.width, setting.epochs
    backbone = nn.Sequential(
        nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, width),
    )  # fmt: skip
    head = DeepLinearHead(len(setting.counts), width, depth=depth, bias=False)
    decays = list(head_decay) if isinstance(head_decay, Sequence) else [head_decay] * depth
    parameters = [*backbone.parameters(), *head.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=setting.learning_rate)
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

    prediction = predict(
        setting.counts, depth=depth, weight_decay=decays, feature_decay=feature_decay
    )
    history = History(f"{data}, seed {seed}", depth, prediction)
    everything, looks = torch.arange(number), _looks(epochs)
    for epoch in range(epochs + 1):
        if epoch in looks:
            with torch.no_grad():
                value = float(objective(everything))
                history.look(epoch, value, backbone(inputs), labels, head)
        order = everything if setting.batch_size is None else torch.randperm(number)
        for chosen in order.split(setting.batch_size or number):
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


def figure(histories: Sequence[History], title: str, unit: str) -> go.Figure:
    """Distances over time, one panel per quantity, one colour per depth, a dash per training."""
    drawn = make_subplots(2, 3, vertical_spacing=0.2, subplot_titles=list(SHOWN.values()))
    styles = ("solid", "dash", "dot", "dashdot")
    names = list(dict.fromkeys(history.name for history in histories))
    labelled: set[tuple[str, int]] = set()
    for history in histories:
        label = (history.name, history.depth)
        for place, key in enumerate(SHOWN):
            curve = go.Scatter(
                x=[step + 1 for step in history.steps],
                # Rounding may leave an objective a little below its prediction.
                y=[value if value > 0 else None for value in history.distances[key]],
                mode="lines",
                line={
                    "color": COLOURS.get(history.depth, "#888888"),
                    "dash": styles[names.index(history.name) % len(styles)],
                },
                name=f"{history.depth} layer{'s' if history.depth > 1 else ''}, {history.name}",
                legendgroup=str(label),
                showlegend=place == 0 and label not in labelled,
            )
            drawn.add_trace(curve, row=place // 3 + 1, col=place % 3 + 1)
        labelled.add(label)
    power = {"type": "log", "exponentformat": "power", "gridcolor": "#dddddd", "zeroline": False}
    drawn.update_xaxes(title={"text": f"{unit} + 1"}, dtick=1, **power)
    drawn.update_yaxes(**power)
    # Two rows of three places; the sixth is the legend's.
    drawn.update_layout(
        title={"text": title, "font": {"size": 14}},
        width=1000,
        height=620,
        legend={
            "x": 0.71,
            "y": 0.4,
            "yanchor": "top",
            "tracegroupgap": 0,
            "font": {"size": 10},
        },
        font={"family": "sans-serif", "size": 12},
        margin={"l": 60, "r": 10, "t": 70, "b": 50},
        paper_bgcolor="white",
        plot_bgcolor="white",
    )
    return drawn


def results(histories: Sequence[History]) -> list[dict[str, Any]]:
    """What each training ended with, as plain values."""
    return [
        {
            "name": history.name,
            "depth": history.depth,
            "steps": history.steps[-1],
            "start": {key: values[0] for key, values in history.distances.items()},
            "end": {key: values[-1] for key, values in history.distances.items()},
            "verdicts": history.verdicts,
        }
        for history in histories
    ]


# --- the command line -----------------------------------------------------------------------------

app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode=None)

Depths = Annotated[list[int], typer.Option("--depth", help="Number of linear layers; repeatable.")]
Out = Annotated[Path, typer.Option(help="Folder for the results and the page with the curves.")]
Pictures = Annotated[
    Path | None, typer.Option(help="Folder for the results and a still picture too.")
]


def _watched(
    progress: Progress, jobs: Sequence[tuple[str, int, Callable[[Report], History]]]
) -> Iterator[History]:
    """Each job's history; the bar follows its steps."""
    for label, steps, job in jobs:
        task = progress.add_task(label, total=steps)
        yield job(lambda step, task=task: progress.update(task, completed=step))


def _finish(
    histories: list[History], title: str, unit: str, name: str, out: Path, pictures: Path | None
) -> None:
    Console(width=None if Console().is_terminal else 140).print(table(histories, title))
    drawn = figure(histories, title, unit)
    write_page(drawn, out / f"{name}.html")
    content = {"title": title, "runs": results(histories)}
    write_results(out / f"{name}.json", content)
    if pictures is not None:
        write_results(pictures / f"deep-linear-{name}.json", content)
        write_still(drawn, pictures / f"deep-linear-{name}.svg")
    typer.echo(f"results and the page are in {out}")


@app.command("direct")
def direct_command(
    depth: Depths = list(DEPTHS),  # noqa: B006
    steps: Annotated[int, typer.Option(help="Steps of gradient descent.")] = 4000,
    learning_rate: Annotated[float, typer.Option(help="Of gradient descent.")] = 1.0,
    dim: Annotated[int, typer.Option(help="Width of features and layers.")] = 64,
    decay: Annotated[float, typer.Option(help="Of features and layers.")] = 5e-4,
    seed: Annotated[int, typer.Option(help="Of the random start.")] = 0,
    out: Out = Path("runs/deep-linear"),
    pictures: Pictures = None,
) -> None:
    """Free features: balanced and imbalanced, with and without a bias."""
    jobs: list[tuple[str, int, Callable[[Report], History]]] = []
    for counts in (BALANCED, IMBALANCED):
        for bias in ("none", "free"):
            for layers in depth:

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

                jobs.append((f"{counts}, bias {bias}, {layers} layers", steps, job))
    with Progress(console=Console(stderr=True)) as progress:
        histories = list(_watched(progress, jobs))
    title = f"Free features, decay {decay:g}: distances to the prediction"
    _finish(histories, title, "steps", "direct", out, pictures)


@app.command("network")
def network_command(
    data: Annotated[str, typer.Option(help=f"{' or '.join(SETTINGS)}.")] = "digits",
    depth: Depths = list(DEPTHS),  # noqa: B006
    epochs: Annotated[int | None, typer.Option(help="Passes over the samples.")] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3,
    width: Annotated[int | None, typer.Option(help="Of hidden layers and features.")] = None,
    head_decay: Annotated[float, typer.Option(help="Of each layer of the head.")] = 5e-4,
    feature_decay: Annotated[float, typer.Option(help="Of the features.")] = 5e-4,
    out: Out = Path("runs/deep-linear"),
    pictures: Pictures = None,
) -> None:
    """A small network on imbalanced pictures, 100 to 20 digits or 500 to 100 clothes a class."""
    if data not in SETTINGS:
        raise typer.BadParameter(f"data must be one of {', '.join(SETTINGS)}, got {data}")
    given = {"epochs": epochs, "width": width}
    setting = replace(SETTINGS[data], **{k: v for k, v in given.items() if v is not None})
    jobs: list[tuple[str, int, Callable[[Report], History]]] = []
    for layers in depth:
        for seed in range(seeds):

            def job(report: Report, layers: int = layers, seed: int = seed) -> History:
                return network(
                    data, layers, setting, head_decay=head_decay, feature_decay=feature_decay,
                    seed=seed, report=report,
                )  # fmt: skip

            jobs.append((f"{data}, {layers} layers, seed {seed}", setting.epochs, job))
    with Progress(console=Console(stderr=True)) as progress:
        histories = list(_watched(progress, jobs))
    largest, least = max(setting.counts), min(setting.counts)
    title = f"{data}, {largest} to {least} a class: distances to the prediction"
    _finish(histories, title, "epochs", data, out, pictures)


if __name__ == "__main__":
    app()
