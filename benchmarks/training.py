"""An epoch of ours beside the same epoch in a bare PyTorch loop.

    python benchmarks/training.py [--epochs 6] [--repetitions 15]
    python benchmarks/training.py --long     # all of Fashion-MNIST, a minute

The same network trained on the same data in several ways, one thread, taking turns: a bare loop;
ours with measurement off; a bare loop that computes the accuracy on training, validation and test
set after every epoch; ours that measures all three; and ours that measures some of them: a tenth of
the training set, as many test samples and all of the validation set.
The cost of an epoch is the difference between a long and a short run divided by the difference of
their epochs, so that what happens once (set-up, the last measurement) drops out.

A measurement needs features in evaluation mode: one more forward pass over what is measured, a
third of the cost of training on it. No way of measuring everything can cost less than that. On the
digits even a tenth of the training set, as many test samples and the validation set are 432 samples
beside 1149 to train on, an eighth of the cost; the fixed costs of a measurement, some 35 ms, come
on top of epochs that take 50 to 200 ms. The long run is the size at which they no longer count.
"""

import argparse
import dataclasses
import functools
import math
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuralcollapse.train import loop
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.data import Data, load_data
from neuralcollapse.train.loop import create_run, train
from neuralcollapse.train.network import fit_scale, make_network
from neuralcollapse.train.observer import Observer

SETTINGS = {
    "digits, mlp 256x2": TrainConfig(loss="cross-entropy"),
    "digits, mlp 1024x2": TrainConfig(loss="cross-entropy", width=1024, batch_size=256),
    "fashion-mnist 2k, cnn 16": TrainConfig(
        data="fashion-mnist", loss="cross-entropy", limit=2000, batch_size=128
    ),
}

COLUMNS = (
    ("ours", "bare", 9),
    ("measured", "bare", 10),
    ("measured", "evaluated", 11),
    ("tenth", "bare", 11),
)
# What the long run measures of the training and of the test set: 200 a class.
LONG_SAMPLES = 2000
LONG = TrainConfig(data="fashion-mnist", loss="cross-entropy")


def bare(config: TrainConfig, data: Data, *, evaluate: bool = False) -> None:
    """What one would write by hand: shuffle, step, loss and accuracy of the epoch."""
    torch.manual_seed(config.seed)
    network = make_network(config, data.num_classes, data.input_shape)
    fit_scale(network.scale, data)
    network.lay_channels_last()
    optimizer = torch.optim.SGD(
        network.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay
    )
    loss_of = torch.nn.CrossEntropyLoss()
    steps = len(data.train) // config.batch_size
    for epoch in range(config.epochs):
        order = torch.randperm(len(data.train))
        total, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for step in range(steps):
            chosen = order[step * config.batch_size : (step + 1) * config.batch_size]
            inputs, labels = data.train.inputs(chosen), data.train.labels[chosen]
            done = (epoch * steps + step) / (config.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = config.lr * (1 + math.cos(math.pi * done)) / 2
            logits = network(inputs)
            loss = loss_of(logits, labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.detach()
            correct += (logits.argmax(1) == labels).sum()
        if evaluate:
            accuracies(network, data)


@torch.no_grad()
def accuracies(network: torch.nn.Module, data: Data) -> list[float]:
    """Of training, validation and test set, in evaluation mode."""
    network.eval()
    result = []
    for part in (data.train, data.validation, data.test):
        correct = torch.zeros((), dtype=torch.int64)
        for chosen in torch.arange(len(part)).split(256):
            correct += (network(part.inputs(chosen)).argmax(1) == part.labels[chosen]).sum()
        result.append(int(correct) / len(part))
    network.train()
    return result


def recorded(config: TrainConfig, data: Data) -> None:
    """Ours, with a record in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        train(create_run(Path(folder) / "run", config.methods()[0], data), data, progress=False)


def seconds(way: Callable[[TrainConfig, Data], None], config: TrainConfig, data: Data) -> float:
    """Processor seconds of a run."""
    began = time.process_time()
    way(config, data)
    return time.process_time() - began


def ratio(own: list[float], base: list[float]) -> float:
    """The median over repetitions; the speed of a shared machine drifts between them."""
    return float(np.median(np.divide(own, base)))


def share_of_measuring() -> None:
    """Measuring beside training within one epoch of all of Fashion-MNIST, in processor time.

    Both within a minute: the speed of a shared machine drifts by more between long runs.
    """
    config = dataclasses.replace(
        LONG, epochs=1, measure_every=1, measure_samples=LONG_SAMPLES
    ).methods()[0]
    took: dict[str, list[float]] = {"epoch": [], "measuring": []}

    def timed(call: Callable[..., Any], what: str) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            began = time.process_time()
            result = call(*given)
            took[what].append(time.process_time() - began)
            return result

        return run

    loop._run_epoch = timed(loop._run_epoch, "epoch")
    Observer.__call__ = timed(Observer.__call__, "measuring")
    recorded(config, load_data(config))
    epoch, measuring = took["epoch"][-1], took["measuring"][-1]
    print(
        f"fashion-mnist, cnn 16: epoch {epoch:.1f} s, measuring {measuring:.2f} s after it, "
        f"{100 * measuring / epoch:.1f} %"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="An epoch of ours beside a bare loop.")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--only", default="", help="settings whose name contains this")
    parser.add_argument("--long", action="store_true", help="all of Fashion-MNIST instead")
    options = parser.parse_args()
    epochs, repetitions = options.epochs, options.repetitions
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread")
    if options.long:
        share_of_measuring()
        return
    print(f"{'':<26}{'bare':>9}{'ours':>9}{'measured':>10}{'measured':>11}{'a tenth':>11}")
    print(f"{'':<26}{'s/epoch':>9}{'/ bare':>9}{'/ bare':>10}{'/evaluated':>11}{'/ bare':>11}")
    for name, config in SETTINGS.items():
        if options.only not in name:
            continue
        data = load_data(config)
        every = dataclasses.replace(config, measure_every=1)
        tenth = dataclasses.replace(every, measure_samples=len(data.train) // 10)
        ways = {
            "bare": (bare, config),
            "evaluated": (functools.partial(bare, evaluate=True), config),
            "ours": (recorded, dataclasses.replace(config, measure=False)),
            "measured": (recorded, every),
            "tenth": (recorded, tenth),
        }
        for function, chosen in ways.values():
            function(dataclasses.replace(chosen, epochs=2), data)  # warm up
        costs: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repetitions):
            for way, (function, chosen) in ways.items():
                short, long = (
                    seconds(function, dataclasses.replace(chosen, epochs=number), data)
                    for number in (2, 2 + epochs)
                )
                costs[way].append((long - short) / epochs)
        cells = [f"{np.median(costs['bare']):9.4f}"]
        for own, base, width in COLUMNS:
            known = own in costs and base in costs
            cells.append(f"{ratio(costs[own], costs[base]):{width}.3f}" if known else " " * width)
        print(f"{name:<26}{''.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
