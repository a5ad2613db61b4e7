"""What a user may hand over by mistake, and the sentence that it meets instead of a traceback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from neuralcollapse import (
    ClassStatistics,
    CosineHead,
    compare_splits,
    jackknife_intervals,
    measure,
    measure_features,
    nearest_frame,
    simplex_etf,
    to_head,
)
from neuralcollapse.layers import LayerTap
from neuralcollapse.ood import NECO, NearestMean, Residual, ViM
from neuralcollapse.shards import measure_shards, shard_files
from neuralcollapse.splits import wrong_label_collapse
from neuralcollapse.transfer import linear_probe, transfer_scores

INPUTS = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(30) % 3
WEIGHT = torch.eye(3, 4)


def network(**options: Any) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8, **options), nn.ReLU(), nn.Linear(8, 3, **options))


def measured(model: Any, loader: Any, **options: Any) -> Any:
    return measure(model, loader, progress=False, **options)


class Unused(nn.Module):
    """Its last linear layer never runs."""

    def __init__(self):
        super().__init__()
        self.fc, self.auxiliary = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(inputs)


def tapped(**options: Any) -> LayerTap:
    return LayerTap(
        network(),
        **{"layers": "all", "head": "2", "num_classes": 3, **options},  # pyright: ignore[reportArgumentType]
    )


BATCH = [(INPUTS, LABELS)]
STATISTICS = ClassStatistics.from_features(INPUTS, LABELS, 3)
NOBODY = ClassStatistics.from_features(INPUTS[:0], LABELS[:0], 3)
CASES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    # The model.
    "no module": (
        lambda: measured(lambda x: x, BATCH),
        TypeError,
        r"model must be a torch.nn.Module, got function",
    ),
    "no head": (
        lambda: measured(nn.Conv2d(3, 4, 1), BATCH),
        ValueError,
        r"it has none at all; end it in a torch.nn.Linear or a head of this library, or work",
    ),
    "a head that does not run": (
        lambda: measured(Unused(), BATCH),
        ValueError,
        r"ran 0 times; name another layer \(its linear layers are 'fc' \(4 -> 3\), 'auxiliary'",
    ),
    "a model without data": (
        lambda: measured(network(device="meta"), BATCH),
        ValueError,
        r"model must have its parameters in memory, got the meta device",
    ),
    "a device without data": (
        lambda: measured(network(), BATCH, device="meta"),
        ValueError,
        r"model must have its parameters in memory, got the meta device",
    ),
    "no device": (
        lambda: measured(network(), BATCH, device="tpu9"),
        ValueError,
        r"device must be one of torch's, got 'tpu9'",
    ),
    # What it is called with.
    "inputs of another width": (
        lambda: measured(network(), [(INPUTS[:, :3], LABELS)]),
        ValueError,
        r"model must take the inputs of a batch, got float32 of shape \(30, 3\) for parameters of "
        r"float32 on cpu: mat1 and mat2 shapes cannot be multiplied",
    ),
    "inputs of changing width": (
        lambda: measured(network(), [*BATCH, (INPUTS[:, :3], LABELS)]),
        ValueError,
        r"model must take the inputs of a batch, got float32 of shape \(30, 3\)",
    ),
    "inputs of another precision": (
        lambda: measured(network(dtype=torch.float16), BATCH),
        ValueError,
        r"got float32 of shape \(30, 4\) for parameters of float16 on cpu",
    ),
    "one argument too many": (
        lambda: measured(network(), [((INPUTS, INPUTS), LABELS)]),
        ValueError,
        r"got float32 of shape \(30, 4\), float32 of shape \(30, 4\) for parameters",
    ),
    "inputs without data": (
        lambda: measured(network(), [(INPUTS.to("meta"), LABELS)]),
        ValueError,
        r"inputs must hold data, got a tensor of shape \(30, 4\) on the meta device",
    ),
    # The loader.
    "no loader": (lambda: measured(network(), 5), TypeError, r"loader must yield batches, got int"),
    "a batch for a loader": (
        lambda: measured(network(), {"x": INPUTS, "labels": LABELS}),
        TypeError,
        r"loader must yield batches, got one dict; put it into a list",
    ),
    "a tensor for a loader": (
        lambda: NECO(network()).fit(INPUTS),
        TypeError,
        r"loader must yield batches, got one Tensor",
    ),
    "samples for batches": (
        lambda: measured(network(), TensorDataset(INPUTS, LABELS)),
        ValueError,
        r"got \(8,\); give batches, as a torch.utils.data.DataLoader makes them, not samples",
    ),
    "samples with plain labels": (
        lambda: measured(network(), [(INPUTS[0], 0)]),
        TypeError,
        r"got \(Tensor, int, ...\), a single sample; put the data set into a torch.utils.data.Data",
    ),
    "no batches of outsiders": (
        lambda: measured(network(), BATCH, outsiders=7),
        TypeError,
        r"outsiders must yield batches, got int",
    ),
    "pooling of nothing": (
        lambda: measured(network(), BATCH, pooling="max"),
        ValueError,
        r"pooling must be one of mean, flatten, got 'max'",
    ),
    # Labels and features.
    "labels without data": (
        lambda: measured(network(), [(INPUTS, LABELS.to("meta"))]),
        ValueError,
        r"labels must hold data, got a tensor of shape \(30,\) on the meta device",
    ),
    "one-hot labels of features": (
        lambda: measure_features(INPUTS, torch.eye(3)[LABELS]),
        ValueError,
        r"got shape \(30, 3\); take labels.argmax\(1\) of one-hot rows",
    ),
    "features without data": (
        lambda: measure_features(INPUTS.to("meta"), LABELS),
        ValueError,
        r"features must hold data",
    ),
    "labels of features without data": (
        lambda: measure_features(INPUTS, LABELS.to("meta")),
        ValueError,
        r"labels must hold data",
    ),
    "weight without data": (
        lambda: measure_features(INPUTS, LABELS, WEIGHT.to("meta")),
        ValueError,
        r"weight must hold data",
    ),
    "sparse features": (
        lambda: measure_features(INPUTS.to_sparse(), LABELS),
        TypeError,
        r"features must be dense, got torch.sparse_coo; convert with .to_dense\(\)",
    ),
    # Heads, layers and frames.
    "a head for no module": (
        lambda: to_head("model", CosineHead(3, 4)),  # pyright: ignore[reportArgumentType]
        TypeError,
        r"model must be a torch.nn.Module, got str",
    ),
    "layers in front of nothing": (
        lambda: tapped(head="fc"),
        ValueError,
        r"head must name a module of the model, got 'fc'",
    ),
    "layers of no class": (
        lambda: tapped(num_classes=0),
        ValueError,
        r"num_classes must be at least 1, got 0",
    ),
    "no layers": (
        lambda: tapped(layers=None),
        TypeError,
        r"layers must be a list of names or 'all', got None",
    ),
    "a frame for its Gram matrix": (
        lambda: nearest_frame(INPUTS[:3], simplex_etf(3, 4)),  # pyright: ignore[reportArgumentType]
        TypeError,
        r"frame_gram must be a Gram matrix, got a Frame; pass frame.gram",
    ),
    "means of nothing": (
        lambda: nearest_frame(INPUTS[:0], torch.zeros(0, 0)),
        ValueError,
        r"means must hold at least one class, got none",
    ),
    # Detectors.
    "scores of nan": (
        lambda: NECO().fit_features(INPUTS, LABELS).predict_features(INPUTS / 0),
        ValueError,
        r"features must be finite",
    ),
    "an ignore index for a class": (
        lambda: NearestMean().fit_features(INPUTS, LABELS - 1),
        ValueError,
        r"labels must not be negative, got -1; leave these samples out",
    ),
    "labels of detectors without data": (
        lambda: NearestMean().fit_features(INPUTS, LABELS.to("meta")),
        ValueError,
        r"labels must hold data",
    ),
    "a residual in one dimension": (
        lambda: Residual().fit_features(INPUTS[:, :1]),
        ValueError,
        r"features must have at least 2 columns, for a residual, got 1",
    ),
    "inputs that a detector's model does not take": (
        lambda: ViM(network()).fit(BATCH).predict(INPUTS[:, :3]),
        ValueError,
        r"model must take the inputs of a batch, got float32 of shape \(30, 3\)",
    ),
    # Transfer, splits, intervals, files.
    "test samples without labels": (
        lambda: transfer_scores(INPUTS, LABELS, INPUTS),  # pyright: ignore[reportArgumentType]
        TypeError,
        r"test must be \(features, labels\), got Tensor",
    ),
    "labels of a task without data": (
        lambda: transfer_scores(INPUTS, LABELS.to("meta")),
        ValueError,
        r"labels must hold data",
    ),
    "a probe of too few classes": (
        lambda: linear_probe(INPUTS, LABELS, 2),
        ValueError,
        r"labels must lie in \[0, 2\), got values from 0 to 2",
    ),
    "splits without a sample": (
        lambda: compare_splits(STATISTICS, NOBODY),
        ValueError,
        r"test must hold at least one sample, got none",
    ),
    "splits of features": (
        lambda: compare_splits(INPUTS, INPUTS),  # pyright: ignore[reportArgumentType]
        TypeError,
        r"train must be ClassStatistics, got Tensor",
    ),
    "a label that is a mistake": (
        lambda: wrong_label_collapse(INPUTS, LABELS * 10**9, LABELS),
        ValueError,
        r"labels must lie below \d+ where num_classes is not given, got 2000000000",
    ),
    "intervals of one": (
        lambda: jackknife_intervals(STATISTICS),  # pyright: ignore[reportArgumentType]
        TypeError,
        r"parts must be a list of ClassStatistics, got ClassStatistics",
    ),
    "intervals of features": (
        lambda: jackknife_intervals([INPUTS, INPUTS]),  # pyright: ignore[reportArgumentType]
        TypeError,
        r"parts must be a list of ClassStatistics, got list of Tensor",
    ),
    "intervals with another classifier": (
        lambda: jackknife_intervals([STATISTICS, STATISTICS], WEIGHT[:2]),
        ValueError,
        r"weight must have 3 rows \(as the parts have\)",
    ),
    "one file for a list": (
        lambda: measure_shards("a.npz"),
        TypeError,
        r"files must be a list, got 'a.npz'; put it into one",
    ),
    "one pattern for a list": (
        lambda: shard_files("*.npz"),
        TypeError,
        r"files must be a list, got '\*.npz'",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_one_sentence(name: str) -> None:
    act, kind, told = CASES[name]
    with pytest.raises(kind, match=told) as raised:
        act()
    assert type(raised.value) is kind
    assert "\n" not in str(raised.value)


def test_what_the_model_raised_is_the_cause() -> None:
    with pytest.raises(ValueError, match="model must take") as raised:
        measured(network(), [(INPUTS[:, :3], LABELS)])
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_no_memory_stays_what_it_is() -> None:
    """So that a program that makes batches smaller can tell it."""

    class Full(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        measured(Full(), BATCH)


def test_a_model_is_not_lost_to_a_device_without_data() -> None:
    model = network()
    with pytest.raises(ValueError, match="meta"):
        measured(model, BATCH, device="meta")
    assert model[0].weight.device.type == "cpu"
    assert measured(model, BATCH).counts == (10, 10, 10)


def test_outsiders_may_come_without_labels() -> None:
    far = INPUTS + 5
    alone = measured(network := nn.Sequential(nn.Linear(4, 3)), BATCH, outsiders=[far])
    labelled = measured(network, BATCH, outsiders=[(far, LABELS)])
    assert alone["nc5_orthogonality"] == labelled["nc5_orthogonality"]


def test_detectors_take_the_batches_that_measuring_takes() -> None:
    model = network()
    ignored = torch.cat([LABELS, torch.full((5,), -100)])
    more = torch.cat([INPUTS, 100 + INPUTS[:5]])
    wanted = NearestMean(model).fit(BATCH).predict(INPUTS)
    for labels, inputs in ((torch.eye(3)[LABELS], INPUTS), (ignored, more)):
        found = NearestMean(model).fit([{"x": inputs, "labels": labels}]).predict(INPUTS)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_class_seen_once_is_remarked() -> None:
    labels = LABELS.clone()
    labels[labels == 2] = 1
    labels[0] = 2
    (note,) = [n for n in measure_features(INPUTS, labels).notes if "one sample" in n]
    assert note.startswith("1 class of one sample")
    assert not any("one sample" in n for n in measure_features(INPUTS, LABELS).notes)


def test_a_classifier_of_two_names_is_replaced_under_both() -> None:
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.classifier = nn.Linear(4, 3)
            self.fc = self.classifier

        def forward(self, inputs: Tensor) -> Tensor:
            return self.fc(inputs)

    head = CosineHead(3, 4)
    model = to_head(Shared(), head)
    assert model.fc is head
    assert model.classifier is head


def test_layers_flattened_to_changing_widths_are_named() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    loader = [(torch.randn(30, 2, length, 1), LABELS) for length in (5, 9)]
    with pytest.raises(ValueError, match=r"of one width, '0' gave 20 and then 36; use pooling="):
        measured(model, loader, layers=["0"], pooling="flatten")
    assert measured(model, loader, layers=["0"]).depth is not None
