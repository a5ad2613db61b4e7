"""What tests run in processes of their own; a module, so that those processes can import it.

Children come from a server that has imported torch already: each takes a tenth of a second to
start instead of several.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from neuralcollapse.hierarchy import Hierarchy
from neuralcollapse.record import Run
from neuralcollapse.train.backbones import make_backbone
from neuralcollapse.train.data import Data
from neuralcollapse.train.loop import train
from neuralcollapse.train.synchronised import synchronise_batch_norm
from neuralcollapse.train.tally import MistakeTally


def server() -> ForkServerContext:
    """Starts children that have the slow imports behind them; see conftest.py."""
    return multiprocessing.get_context("forkserver")


@contextlib.contextmanager
def counted_changes(at: Callable[[int], None]) -> Iterator[None]:
    """Calls `at` with its number before and after each file is put in place or removed."""
    number = 0

    def watched(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal number
            at(number)
            result = change(*args, **options)
            at(number + 1)
            number += 2
            return result

        return call

    originals = os.replace, os.unlink
    os.replace, os.unlink = watched(os.replace), watched(os.unlink)
    try:
        yield
    finally:
        os.replace, os.unlink = originals


def train_until(path: Path, data: Data, last_change: int | None, noisy: bool = False) -> None:
    """Train a run, and be killed without warning at a change of its files."""

    def perhaps_die(number: int) -> None:
        if number == last_change:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    with counted_changes(perhaps_die), dropping_out() if noisy else contextlib.nullcontext():
        train(Run.open(path), data, progress=False)


@contextlib.contextmanager
def dropping_out() -> Iterator[None]:
    """Backbones that draw from the global generator at every step."""

    def with_dropout(*args: Any) -> nn.Module:
        return nn.Sequential(make_backbone(*args), nn.Dropout(0.2))

    with mock.patch("neuralcollapse.train.network.make_backbone", with_dropout):
        yield


def normalise_shares(rank: int, world: int, folder: str) -> None:
    """Run every case of `cases.pt` on this process's share of its batch and keep what came out."""
    results = []
    for module, steps in torch.load(f"{folder}/cases.pt", weights_only=False):
        holder = nn.Sequential(module)
        synchronise_batch_norm(holder)
        results.append(normalised(holder, [(x[rank::world], g[rank::world]) for x, g in steps]))
    torch.save(results, f"{folder}/result-{rank}.pt")


def normalised(module: nn.Module, steps: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    """Outputs, gradients of inputs and weights, buffers; after training steps and an evaluation."""
    outputs, input_gradients = [], []
    for inputs, gradient in steps:
        inputs = inputs.clone().requires_grad_()
        output = module(inputs)
        output.backward(gradient)
        outputs.append(output.detach())
        input_gradients.append(inputs.grad)
    module.eval()
    with torch.no_grad():
        outputs.append(module(steps[0][0]))
    weights = [parameter.grad for parameter in module.parameters()]
    return outputs, input_gradients, weights, list(module.buffers())


def count_shares(rank: int, world: int, folder: str) -> list[Any]:
    """Mistakes on this process's share of some batches, all processes together; kept in a file."""
    counted = []
    for number in (31, 8, 1):
        generator = torch.Generator().manual_seed(number)
        logits = torch.randn(number, 4, generator=generator)
        labels = torch.randint(0, 4, (number,), generator=generator)
        for kind in ("lca_height", "path"):
            tally = MistakeTally(Hierarchy.from_file(f"{folder}/tree.nwk"), kind)
            for some, own in zip(logits.split(10), labels.split(10), strict=True):
                if len(own[rank::world]):
                    tally.update(some[rank::world], own[rank::world])
            tally.merge_processes()
            counted.append([tally.result().to_dict(), tally.confusion().tolist()])
    if world > 1:
        torch.save(counted, f"{folder}/counted-{rank}.pt")
    return counted
