"""Measuring during training: what is looked at, and what goes into the record."""

import math
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from neuralcollapse.frames import Frame
from neuralcollapse.heads import FixedHead, RotatedHead
from neuralcollapse.measurement import Measurement
from neuralcollapse.measuring import measure
from neuralcollapse.metrics import frame_deviation, frame_spread
from neuralcollapse.record import Run
from neuralcollapse.tap import evaluating
from neuralcollapse.train.alarm import MinorityAlarm
from neuralcollapse.train.config import TrainConfig
from neuralcollapse.train.data import Data
from neuralcollapse.train.network import Network, class_hierarchy
from neuralcollapse.train.progress import TrainingProgress
from neuralcollapse.train.samples import AbstractSamples, EpochOrder, loader
from neuralcollapse.train.state import State
from neuralcollapse.train.tally import MistakeTally

# Larger batches do not fit into the processor's cache and are slower.
_BATCH = 256
_SNAPSHOT_FEATURES = 400


class Observer:
    """Measures training, validation and test set at an epoch and records what it finds.

    In evaluation mode, without augmentation, in the precision of the weights whatever the
    training runs in. Every process measures its part of the data. With a hierarchy, the same
    passes count how severe the mistakes are.
    """

    def __init__(self, fabric: Any, run: Run, config: TrainConfig, data: Data, network: Network):
        self._fabric, self._run, self._workers = fabric, run, config.workers
        self._data, self._network = data, network
        self._normalize, self._deep = config.normalize, config.measure_layers
        self._hierarchy, self._distances = class_hierarchy(config, data.classes), config.distances
        self._framed = (config.frame or "").partition(":")[0] == "hierarchy"
        self._train, self._train_name = _at_most(data.train, "train", config, data)
        self._test, self._test_name = _at_most(data.test, "test", config, data)
        few = min(_SNAPSHOT_FEATURES, config.measure_samples or _SNAPSHOT_FEATURES)
        self._positions = spread_over_classes(data.train.labels, data.num_classes, few)
        self._alarm = MinorityAlarm(
            config.to_values(), data.counts()["train"], data.classes, run.rows()
        )

    def __call__(self, state: State, bar: TrainingProgress, lr: float) -> bool:
        """Measure and record; returns whether validation is better than ever."""
        train = self._measure(self._train, self._train_name, layers="all" if self._deep else None)
        tallies = self._tallies()
        test = self._measure(self._test, self._test_name, tallies.get("test"))
        accuracy = self._accuracy(self._data.validation, tallies.get("validation"))
        if self._fabric.world_size > 1:
            for tally in tallies.values():
                tally.merge_processes()
        improved = not state.best or accuracy > state.best["validation_accuracy"]
        if improved:
            state.best = {
                "epoch": state.epoch,
                "validation_accuracy": accuracy,
                "test_accuracy": test.accuracy,
            }
        if self._fabric.is_global_zero:
            snapshot = self._snapshot(train)
            if tallies:
                snapshot["test_confusion"] = tallies["test"].confusion()
            self._run.write_snapshot(state.epoch, snapshot)
            alarms = self._alarms(state.epoch, train, bar)
            self._run.append(
                {
                    "epoch": state.epoch,
                    "seconds": state.seconds,
                    "lr": lr,
                    "loss": state.loss,
                    "terms": state.terms,
                    "train_accuracy_running": state.accuracy,
                    "train": train.to_dict(),
                    "validation": {"accuracy": accuracy},
                    "test": test.to_dict(),
                    "alarms": alarms,
                    **self._on_the_tree(tallies, train),
                }
            )
        bar.measured(state, train, test)
        return improved

    def _alarms(self, epoch: int, train: Measurement, bar: TrainingProgress) -> list[Any]:
        """The alarms that hold now; new ones are shown."""
        if train.statistics is None:
            return []
        alarms = self._alarm(epoch, train.statistics.means, train.weight)
        bar.alarms([alarm.text for alarm in self._alarm.new(alarms)], len(alarms))
        return [alarm.to_dict() for alarm in alarms]

    def assign_frame(self) -> None:
        """Give each class the vector of the head's frame that lies nearest to its mean.

        By the means of all of the training set, which are the same in every process.
        """
        statistics, head = self._measure(self._data.train, "train").statistics, self._network.head
        if statistics is None or not isinstance(head, FixedHead | RotatedHead):
            raise ValueError(f"head must hold a frame to assign, got {type(head).__name__}")
        with torch.no_grad():
            head.assign(statistics.means.to(head.weight.device))

    def _tallies(self) -> dict[str, MistakeTally]:
        """What counts mistakes, by part of the data; nothing without a hierarchy."""
        if self._hierarchy is None:
            return {}
        kind: Any = self._distances
        return {part: MistakeTally(self._hierarchy, kind) for part in ("validation", "test")}

    def _on_the_tree(
        self, tallies: dict[str, MistakeTally], train: Measurement
    ) -> dict[str, dict[str, Any]]:
        """What a record says where there is a hierarchy."""
        found: dict[str, dict[str, Any]] = {}
        if tallies:
            found["mistakes"] = {part: tally.result().to_dict() for part, tally in tallies.items()}
        if self._framed and train.statistics is not None and train.weight is not None:
            frame = Frame("of the head", train.weight)
            fit = {
                "frame_deviation": float(frame_deviation(train.statistics, frame)),
                "frame_spread": float(frame_spread(train.statistics, frame)),
            }
            found["frame_fit"] = {
                key: value if math.isfinite(value) else None for key, value in fit.items()
            }
        return found

    def _measure(
        self,
        samples: AbstractSamples,
        split: str,
        tally: MistakeTally | None = None,
        layers: Literal["all"] | None = None,
    ) -> Measurement:
        batches = self._batches(samples)
        return measure(
            self._network,
            batches if tally is None else tally.watching(self._network, batches),
            layer="head",
            split=split,
            normalize=self._normalize,
            layers=layers,
            distributed=self._fabric.world_size > 1,
            progress=False,
        )

    def _accuracy(self, samples: AbstractSamples, tally: MistakeTally | None = None) -> float:
        """Share that the network decides right, over all processes."""
        counts = torch.zeros(2, dtype=torch.int64, device=self._fabric.device)
        with evaluating(self._network) as device:
            for inputs, labels in self._batches(samples):
                logits = self._network(inputs.to(device))
                right = logits.argmax(1) == labels.to(device)
                if tally is not None:
                    tally.update(logits, labels)
                counts += torch.stack([right.sum(), torch.as_tensor(len(labels), device=device)])
        if self._fabric.world_size > 1:
            dist.all_reduce(counts)
        correct, total = counts.tolist()
        return correct / total

    def _batches(self, samples: AbstractSamples) -> Any:
        """This process's share of a part of the data, in order."""
        rank, world = self._fabric.global_rank, self._fabric.world_size
        return loader(samples, EpochOrder(len(samples), _BATCH, None, rank, world), self._workers)

    def _snapshot(self, train: Measurement) -> dict[str, Tensor]:
        if train.statistics is None or train.weight is None:
            raise ValueError("a snapshot needs the statistics and the classifier of a measurement")
        inputs, labels = self._data.train[self._positions]
        with evaluating(self._network) as device:
            features = self._network.features(inputs.to(device))
        return {
            "means": train.statistics.means.float(),
            "weight": train.weight.float(),
            "features": features.float(),
            "labels": labels,
        }


def _at_most(
    samples: AbstractSamples, split: str, config: TrainConfig, data: Data
) -> tuple[AbstractSamples, str]:
    """What is measured of a part of the data, and what it is called."""
    limit = config.measure_samples
    if limit is None or limit >= len(samples):
        return samples, split
    chosen = spread_over_classes(samples.labels, data.num_classes, limit)
    return samples.subset(chosen), f"{split}, {len(chosen)} of {len(samples)} samples"


def spread_over_classes(labels: Tensor, num_classes: int, number: int) -> Tensor:
    """Positions of about `number` samples, as evenly over the classes as there are samples."""
    per_class = max(1, number // num_classes)
    chosen = [(labels == k).nonzero().squeeze(1)[:per_class] for k in range(num_classes)]
    return torch.cat(chosen)[:number]
