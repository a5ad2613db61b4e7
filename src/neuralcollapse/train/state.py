"""The state of a run between epochs, and how it is saved and restored bit for bit."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from neuralcollapse.record import Checkpoint, Run


@dataclass
class State:
    """What changes from epoch to epoch, beside the tensors.

    Attributes:
        epoch: epochs completed.
        seconds: spent training, measuring left out.
        best: epoch, validation and test accuracy where validation was best; empty at first.
        loss: mean over the last epoch, or None before the first.
        terms: the parts of the loss by name.
        accuracy: share decided right while training in the last epoch.
    """

    epoch: int = 0
    seconds: float = 0.0
    best: dict[str, Any] = field(default_factory=dict)
    loss: float | None = None
    terms: dict[str, float] = field(default_factory=dict)
    accuracy: float | None = None


def save(run: Run, objective: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
    """Write a checkpoint: weights, frame, optimiser, generators, state."""
    tensors = {f"objective.{name}": value for name, value in objective.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
    tensors["generator.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["generator.cuda"] = torch.cuda.get_rng_state()
    keep = (state.best["epoch"],) if state.best else ()
    run.write_checkpoint(Checkpoint(state.epoch, tensors, dataclasses.asdict(state)), keep=keep)


def restore(run: Run, objective: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Put back the last checkpoint of a run, if it has one, and return its state.

    Raises:
        ValueError: if the checkpoint does not fit the network.
    """
    epochs = run.checkpoint_epochs()
    if not epochs:
        return State()
    checkpoint = run.checkpoint(epochs[-1])
    tensors = checkpoint.tensors
    try:
        objective.load_state_dict(_below(tensors, "objective."))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in _below(tensors, "optimizer.").items():
            index, _, slot = name.partition(".")
            slots.setdefault(int(index), {})[slot] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
        state = State(**checkpoint.state)
        if state.epoch != checkpoint.epoch:
            raise ValueError(f"its state is that of epoch {state.epoch!r}")
        torch.set_rng_state(tensors["generator.cpu"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()[:40])
        raise ValueError(
            f"the checkpoint of epoch {checkpoint.epoch} in {run.path} does not fit its "
            f"configuration: {reason}"
        ) from None
    if torch.cuda.is_available() and "generator.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["generator.cuda"])
    return state


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
