"""The training loop: visible, on Lightning Fabric, resumable at any epoch."""

import functools
import math
import multiprocessing
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException

from neuralcollapse import __version__
from neuralcollapse.losses import AbstractLoss, FrameCosine
from neuralcollapse.record import Run
from neuralcollapse.train.alarm import alarm_history
from neuralcollapse.train.augmentation import augment
from neuralcollapse.train.config import TrainConfig, measured_epochs
from neuralcollapse.train.data import Data, load_data
from neuralcollapse.train.network import (
    Objective,
    class_hierarchy,
    fit_scale,
    made_frame,
    make_loss,
    make_network,
    parameter_groups,
)
from neuralcollapse.train.observer import Observer
from neuralcollapse.train.progress import TrainingProgress
from neuralcollapse.train.samples import EpochOrder, loader
from neuralcollapse.train.state import State, restore, save
from neuralcollapse.train.synchronised import synchronise_batch_norm

# Names of precisions in Fabric.
_PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}

# What a report compares the classifier with: by name, or the frame that the snapshots hold.
_TARGETS = {None: "uniform", "simplex": "simplex", "orthogonal": "orthogonal"}

_Model = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor], Tensor]]


def create_run(
    path: str | Path, config: TrainConfig, data: Data, compared: Sequence[str] = ()
) -> Run:
    """A new run folder for a configuration whose loss, head and frame are chosen.

    `compared` names the folders, beside this one, of all runs that are made to be compared.
    """
    info = {
        "method": config.label,
        "compared": list(compared),
        "data": config.data,
        "classes": list(data.classes),
        "input_shape": list(data.input_shape),
        "counts": data.counts(),
        "target": _TARGETS.get(config.frame, "frame"),
        "versions": {
            "neuralcollapse": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "platform": platform.platform(),
    }
    hierarchy = class_hierarchy(config, data.classes)
    if hierarchy is not None:
        info["hierarchy"] = hierarchy.to_dict()
    return Run.create(path, config.to_values(), info)


def slow_precision(config: TrainConfig) -> str | None:
    """A warning where the precision asked for makes training slower, or None."""
    on_gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    if config.precision != "bf16" or on_gpu:
        return None
    # PyTorch tells only in private; without an answer there is no warning.
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    answers = [getattr(torch.cpu, name)() for name in names if hasattr(torch.cpu, name)]
    if any(answers) or not answers:
        return None
    return "this processor has no bf16 instructions: --precision bf16 is slower here than 32"


def check_trainable(config: TrainConfig, data: Data) -> None:
    """Raise if this configuration cannot be trained on these data; a trial step is made.

    Raises:
        ValueError: if the network, the loss or the device cannot be had, or do not fit the data.
    """
    _fabric(config)
    for name, part in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if len(part) < config.devices:
            raise ValueError(
                f"devices must be at most {len(part)}, the samples in the {name} part, got "
                f"{config.devices}"
            )
    limit = config.measure_samples
    if limit is not None and limit < data.num_classes:
        raise ValueError(
            f"measure_samples must be at least {data.num_classes} (one per class), got {limit}"
        )
    if min(config.batch_size, len(data.train)) < 2:
        raise ValueError(
            f"batch_size and training samples must be at least 2 for batch normalisation, got "
            f"{config.batch_size} and {len(data.train)}"
        )
    with torch.random.fork_rng(devices=[]):
        order = EpochOrder(len(data.train), 2, None)
        inputs, labels = data.train[next(iter(order))]
        inputs = augment(inputs, config.augment, order, 0)
        loss = make_loss(config, data)
        try:
            frame = made_frame(config, data.classes)
            network = make_network(config, data.num_classes, data.input_shape, frame)
            objective = Objective(network, loss, config.feature_decay, len(data.train))
            parameter_groups(objective, config)
            objective(inputs, labels)
        except (RuntimeError, MemoryError) as error:
            raise ValueError(
                f"backbone={config.backbone} with width={config.width} and dim={config.dim} cannot "
                f"take inputs of shape {data.input_shape}: {str(error).splitlines()[0]}"
            ) from None


def train(run: Run, data: Data | None = None, *, progress: bool = True) -> str:
    """Train a run from its last checkpoint, or from the start, to its end.

    Args:
        run: made by `create_run`.
        data: of its configuration, if at hand.
        progress: show progress on standard error.

    Returns:
        "finished", or "interrupted" if it was stopped by Ctrl-C; the record is whole either way.

    Raises:
        ValueError: if the loss is no longer finite, or the configuration cannot be run.
    """
    config = TrainConfig.from_values(run.config)
    summary = run.summary()
    if summary is not None and summary["status"] == "finished":
        return "finished"
    run.remove_leftovers()
    if data is None:
        data = load_data(config)
    if data.counts() != run.info.get("counts", data.counts()):
        raise ValueError(
            f"data={config.data} is no longer what it was when {run.path} began: its counts "
            "differ; start anew in another --out"
        )
    fabric = _fabric(config)
    try:
        # Bound beforehand: Fabric looks into arguments for tensors and stops at frozen values.
        work = functools.partial(_train, run=run, config=config, data=data, progress=progress)
        return fabric.launch(work)
    except KeyboardInterrupt:
        _end_processes()
        return "interrupted"
    except (ProcessRaisedException, ValueError) as error:
        # Of a traceback that crossed processes (of training, or of loading) only the text is
        # left; its last line is the error.
        kind, _, message = str(error).strip().splitlines()[-1].partition(": ")
        if kind == "ValueError":
            raise ValueError(message) from None
        raise


def _end_processes() -> None:
    """Wait for the training processes of an interrupted run.

    Ctrl-C reaches them all; a signal to this process alone (kill -INT) does not.
    """
    for process in multiprocessing.active_children():
        process.join(5)
        if process.is_alive():
            process.terminate()
            process.join()


def _train(fabric: Any, run: Run, config: TrainConfig, data: Data, progress: bool) -> str:
    """Set up in each process, then train; the caller's random state stays as it was."""
    forked = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked):
        torch.manual_seed(config.seed)
        frame = made_frame(config, data.classes)
        network = make_network(config, data.num_classes, data.input_shape, frame)
        fit_scale(network.scale, data)
        loss = make_loss(config, data)
        objective = Objective(network, loss, config.feature_decay, len(data.train))
        if fabric.world_size > 1:
            synchronise_batch_norm(objective)
        # Up to three times faster on the CPU; on a GPU it pays in half precision.
        if fabric.device.type == "cpu" or config.precision == "bf16":
            network.lay_channels_last()
        groups = parameter_groups(objective, config)
        optimizer = torch.optim.SGD(groups, config.lr, config.momentum)
        model, stepper = fabric.setup(objective, optimizer)
        if fabric.world_size == 1 and config.precision == "32":
            model = objective  # Fabric's wrapper has nothing to add, and costs 0.1 ms a step
        state = restore(run, objective, optimizer)
        observer = Observer(fabric, run, config, data, network)
        show = progress and fabric.is_global_zero

        schedule = functools.partial(_schedule, config, loss)

        def save_state() -> None:
            if fabric.is_global_zero:
                save(run, objective, optimizer, state)

        with TrainingProgress(config.label, config.epochs, show) as bar:
            try:
                _run_epochs(
                    fabric, model, stepper, schedule, config, data, state, observer, save_state, bar
                )
                status = "finished"
            except KeyboardInterrupt:
                status = "interrupted"
        if fabric.is_global_zero:
            best = {f"best_{name}": value for name, value in state.best.items()}
            summary = {"status": status, "epochs": state.epoch, "seconds": state.seconds}
            alarms = alarm_history(run.rows())
            run.write_summary({**summary, **best, "alarms": alarms})
        return status


def _run_epochs(
    fabric: Any,
    model: _Model,
    optimizer: Any,
    schedule: Callable[[float], float],
    config: TrainConfig,
    data: Data,
    state: State,
    observer: Observer,
    save_state: Callable[[], None],
    bar: TrainingProgress,
) -> None:
    """All epochs from the state's on: train, measure when it is due, save now and then."""
    order = EpochOrder(
        len(data.train), config.batch_size, config.seed, fabric.global_rank, fabric.world_size
    )
    batches = loader(data.train, order, config.workers)
    to_measure = measured_epochs(config)
    if state.epoch == 0:
        if 0 in to_measure:
            observer(state, bar, config.lr)
        save_state()
    saved_at = time.monotonic()
    while state.epoch < config.epochs:
        began = time.monotonic()
        order.epoch = state.epoch
        lr = _run_epoch(fabric, model, optimizer, schedule, batches, order, config, state)
        state.epoch += 1
        state.seconds += time.monotonic() - began
        bar.epoch(state)
        if state.epoch == config.assign_after:
            observer.assign_frame()
        try:
            improved = state.epoch in to_measure and observer(state, bar, lr)
        except ValueError as error:
            if not str(error).startswith(("features must be", "scores must")):
                raise
            raise ValueError(_diverged(state.epoch, str(error), config)) from None
        due = time.monotonic() - saved_at >= config.checkpoint_seconds
        if improved or due or state.epoch == config.epochs:
            save_state()
            saved_at = time.monotonic()


def _run_epoch(
    fabric: Any,
    model: _Model,
    optimizer: Any,
    schedule: Callable[[float], float],
    batches: Any,
    order: EpochOrder,
    config: TrainConfig,
    state: State,
) -> float:
    """One pass over the training set; returns the learning rate of its last step."""
    steps = len(order)
    lr = config.lr
    sums: dict[str, Tensor] = {}
    correct = torch.zeros((), dtype=torch.int64, device=fabric.device)
    seen = 0
    for step, (inputs, labels) in enumerate(batches):
        lr = schedule((state.epoch * steps + step) / (config.epochs * steps))
        for group in optimizer.param_groups:
            group["lr"] = lr
        inputs, labels = inputs.to(fabric.device), labels.to(fabric.device)
        inputs = augment(inputs, config.augment, order, step)
        loss, terms, right = model(inputs, labels)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        for name, value in terms.items():
            sums[name] = sums.get(name, 0) + value
        correct += right
        seen += len(labels)
    if fabric.world_size > 1:
        for value in sums.values():
            dist.all_reduce(value)
        dist.all_reduce(correct)
    scale = 1 / (steps * fabric.world_size)
    state.terms = {name: float(value) * scale for name, value in sums.items()}
    state.loss = loss_mean = sum(state.terms.values())
    state.accuracy = int(correct) / (seen * fabric.world_size)
    # The mean loss may be finite still when the last step was not.
    groups = optimizer.param_groups
    weights = sum(value.detach().sum() for group in groups for value in group["params"])
    for name, number in (("loss is", loss_mean), ("sum of the weights is", float(weights))):
        if not math.isfinite(number):
            raise ValueError(_diverged(state.epoch + 1, f"the {name} {number}", config))
    return lr


def _fabric(config: TrainConfig) -> Any:
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.utilities.exceptions import MisconfigurationException
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f"training needs the extra train, which cannot be imported ({error}); "
            "pip install 'neuralcollapse[train]'"
        ) from None
    try:
        return Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            strategy="ddp_spawn" if config.devices > 1 else "auto",
            precision=_PRECISIONS[config.precision],
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise ValueError(
            f"accelerator={config.accelerator} with devices={config.devices} cannot be had here: "
            f"{error}"
        ) from None


def _diverged(epoch: int, sign: str, config: TrainConfig) -> str:
    return f"training diverged in epoch {epoch}: {sign}; use a lower --lr than {config.lr:g}"


def _schedule(config: TrainConfig, loss: AbstractLoss, done: float) -> float:
    """Move the loss on to a share of the training, and return the learning rate there."""
    if isinstance(loss, FrameCosine):
        loss.set_progress(done)
    return _cosine(config.lr, done)


def _cosine(start: float, done: float) -> float:
    """From `start` to zero along half a cosine, as `done` goes from 0 to 1."""
    return start * (1 + math.cos(math.pi * done)) / 2
