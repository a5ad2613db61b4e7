"""The callback of Lightning, under a small Trainer that has the same hooks and attributes.

Where Lightning itself is installed, one test runs its Trainer.
"""

from __future__ import annotations

import csv
import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from neuralcollapse import layers as layers_module
from neuralcollapse import measure, measuring
from stand_ins import packages

ADAPTER = "neuralcollapse.integrations.lightning"
MISSING: dict[str, ModuleType | None] = dict.fromkeys(
    ("lightning", "lightning.pytorch", "pytorch_lightning")
)
GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.arange(60) % 3
INPUTS = torch.randn(60, 4, generator=GENERATOR) + 2 * torch.eye(3, 4)[LABELS]


class Callback:
    """What Lightning's base class is for a callback: hooks that do nothing."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None: ...
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None: ...


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def adapter(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The adapter's module, imported beside a stand-in for one of the two packages."""
    stand_in = ModuleType(request.param)
    stand_in.Callback = Callback  # pyright: ignore[reportAttributeAccessIssue]
    given = MISSING | {request.param: stand_in}
    if request.param == "lightning.pytorch":
        given["lightning"] = ModuleType("lightning")
    with packages(ADAPTER, given):
        yield importlib.import_module(ADAPTER)


class Module(nn.Module):
    """A user's module: it knows nothing of this library."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))
        self.logged: list[dict[str, float]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs)

    def log_dict(self, values: dict[str, float], *, on_step: bool, on_epoch: bool) -> None:
        assert on_epoch
        assert not on_step
        self.logged.append(values)


def loader(shuffle: bool = False) -> DataLoader[Any]:
    return DataLoader(TensorDataset(INPUTS, LABELS), batch_size=16, shuffle=shuffle)


def fit(callback: Any, module: Module, epochs: int = 3, **loaders: Any) -> Any:
    """The hooks that a fit calls, in its order, with the attributes that it has then."""
    trainer = SimpleNamespace(
        max_epochs=epochs,
        current_epoch=0,
        sanity_checking=False,
        train_dataloader=loaders.get("train", loader(shuffle=True)),
        val_dataloaders=loaders.get("val", loader()),
    )
    callback.on_fit_start(trainer, module)
    for epoch in range(epochs):
        trainer.current_epoch = epoch
        module.train()
        callback.on_train_epoch_end(trainer, module)
        assert module.training
        assert module.model[2].training
    return trainer


def epochs_of(module: Module) -> int:
    return len(module.logged) // 2


def test_it_logs_what_measuring_gives(adapter: Any) -> None:
    module = Module()
    callback: Any = adapter.CollapseCallback()
    assert adapter.CollapseCallback.__mro__[1] is Callback
    fit(callback, module, epochs=1)
    wanted = measure(module.model, loader())
    train, val = module.logged
    assert {f"collapse/val/{key}" for key in wanted.metrics} | {"collapse/val/accuracy"} == {*val}
    for key, value in wanted.metrics.items():
        assert val[f"collapse/val/{key}"] == value
        # Other batches: the order of sums differs.
        assert train[f"collapse/train/{key}"] == pytest.approx(value, rel=1e-4, abs=1e-6)
    assert callback.latest["val"].conventions["split"] == "val"


@pytest.mark.parametrize(
    "epochs, measured",
    [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), ([0, 3], [0, 3]), (lambda epoch: epoch == 2, [2])],
)
def test_epochs_are_chosen(adapter: Any, epochs: Any, measured: list[int]) -> None:
    module = Module()
    fit(adapter.CollapseCallback(epochs), module, epochs=5)
    assert epochs_of(module) == len(measured)


def test_training_is_not_disturbed(adapter: Any) -> None:
    module = Module()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(0)
    fit(adapter.CollapseCallback(), module)
    drawn = torch.rand(1)
    assert torch.equal(drawn, torch.rand(1, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_names_of_several_loaders(adapter: Any) -> None:
    module = Module()
    callback = adapter.CollapseCallback(metrics=["nc1", "accuracy"], prefix="nc")
    fit(callback, module, 1, train=[loader()], val=[loader(), loader()])
    assert [*module.logged[0]] == ["nc/train/nc1", "nc/train/accuracy"]
    assert [*module.logged[2]] == ["nc/val/1/nc1", "nc/val/1/accuracy"]
    module = Module()
    fit(callback, module, 1, train={"a": loader(), "b": loader()}, val=None)
    assert [next(iter(values)) for values in module.logged] == ["nc/train/a/nc1", "nc/train/b/nc1"]


def test_loaders_of_ones_own_and_few_batches(adapter: Any) -> None:
    module = Module()
    callback = adapter.CollapseCallback(loaders={"probe": loader()}, batches=2)
    fit(callback, module, 1)
    assert [*callback.latest] == ["probe"]
    assert sum(callback.latest["probe"].counts) == 32


def test_a_module_without_forward_names_its_network(adapter: Any) -> None:
    module = Module()
    module.forward = None  # pyright: ignore[reportAttributeAccessIssue]
    fit(adapter.CollapseCallback(network="model"), module, 1)
    assert len(module.logged) == 2
    with pytest.raises(ValueError, match=r"network must name a part .* 'net'; it holds model"):
        fit(adapter.CollapseCallback(network="net"), module, 1)


def test_layers_are_logged_by_name_with_their_law(adapter: Any) -> None:
    module = Module()
    layers = ["model.0", "model.1", "model.3"]
    callback = adapter.CollapseCallback(layers=layers)
    fit(callback, module, 1)
    depth = measure(module, loader(), layers=layers).depth
    assert depth is not None
    assert depth.law is not None
    wanted = {
        f"collapse/val/layers/{layer.name}/{key}": value
        for layer in depth.layers
        for key, value in layer.metrics.items()
    }
    wanted["collapse/val/layers/rho"] = depth.law.rho
    wanted["collapse/val/layers/r_squared"] = depth.law.r_squared
    found = {key: value for key, value in module.logged[1].items() if "/layers/" in key}
    assert found == wanted
    assert callback.latest["val"].depth.law == depth.law


def test_keys_choose_among_the_metrics_of_layers_too(adapter: Any) -> None:
    module = Module()
    callback = adapter.CollapseCallback(layers=["model.0", "model.1"], metrics=["vci"])
    fit(callback, module, 1, val=None)
    # Two layers follow no law.
    keys = ["", "layers/model.0/", "layers/model.1/"]
    assert [*module.logged[0]] == [f"collapse/train/{key}vci" for key in keys]


FAR = [(10 + torch.randn(8, 4, generator=GENERATOR), torch.zeros(8).long())]
OPTIONS: dict[str, dict[str, Any]] = {
    "samples": {"weighting": "samples"},
    "balanced": {"weighting": "balanced"},
    "no scatter": {"scatter": False},
    "outsiders": {"outsiders": FAR},
    "unit length": {"normalize": True, "global_mean": "sample"},
    "flat layers": {"layers": ["model.0", "model.1"], "pooling": "flatten"},
    "intervals": {"jackknife": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_those_of_measuring(adapter: Any, name: str) -> None:
    module = Module()
    # Unequal classes, or no weighting would make a difference.
    some = DataLoader(TensorDataset(INPUTS[9:], LABELS[9:] // 2), batch_size=16)
    callback = adapter.CollapseCallback(**OPTIONS[name])
    fit(callback, module, 1, val=some, train=None)
    wanted = measure(module.eval(), some, split="val", progress=False, **OPTIONS[name])
    assert callback.latest["val"].to_dict() == wanted.to_dict()
    assert ("collapse/val/nc5_orthogonality" in module.logged[0]) == (name == "outsiders")


class Counting:
    """A loader, and how often it was asked for its batches."""

    def __init__(self, batches: Any):
        self.batches, self.passes = batches, 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return iter(self.batches)


def move(module: Module, seed: int) -> None:
    """A step of training."""
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
            parameter.add_(0.3 * noise)


def test_means_of_the_measurement_before_take_one_pass(
    adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_KEPT_BYTES", 0)
    torch.manual_seed(0)
    module, data = Module(), Counting([*loader()])
    callback = adapter.CollapseCallback(loaders={"probe": data}, means="previous")
    trainer = fit(callback, module, 1)
    assert data.passes == 2
    earlier = callback.latest["probe"]
    assert earlier.conventions["nc4"].endswith("class means of the same data")
    for number in (1, 2):
        move(module, number)
        callback.on_train_epoch_end(trainer, module)
        assert data.passes == 2 + number
        measurement = callback.latest["probe"]
        wanted = measure(module, loader(), means=earlier)
        assert measurement["nc4_disagreement"] == wanted["nc4_disagreement"]
        assert measurement["nc4_disagreement"] != measure(module, loader())["nc4_disagreement"]
        assert measurement.accuracy == wanted.accuracy
        assert measurement.conventions["nc4"].endswith("class means of the measurement before")
        assert "collapse/probe/nc4_disagreement" in module.logged[number]
        assert "collapse/probe/hug_intra" not in module.logged[number]
        earlier = measurement
    # Of another fit, perhaps of another module, nothing is known.
    fit(callback, module, 1)
    assert callback.latest["probe"].conventions["nc4"].endswith("class means of the same data")


def test_means_of_the_training_data_decide_on_the_others(adapter: Any) -> None:
    torch.manual_seed(0)
    module = Module()
    other = DataLoader(TensorDataset(INPUTS + 1, LABELS), batch_size=16)
    callback = adapter.CollapseCallback(means="train")
    fit(callback, module, 1, val=other)
    wanted = measure(module, other, means=measure(module, loader()))
    own = measure(module, other)
    found = callback.latest["val"]
    assert found["nc4_disagreement"] == wanted["nc4_disagreement"]
    assert found["nc4_disagreement"] != own["nc4_disagreement"]
    assert found.conventions["nc4"] == "Euclidean distance to class means of train"
    assert callback.latest["train"].conventions["nc4"].endswith("of the same data")


def test_ends_of_intervals_are_logged_beside_the_values(adapter: Any) -> None:
    module = Module()
    callback = adapter.CollapseCallback(jackknife=True, metrics=["nc1", "accuracy"])
    fit(callback, module, 1, train=None)
    assert [*module.logged[0]] == [
        f"collapse/val/{key}"
        for key in ("nc1", "accuracy", "nc1_low", "nc1_high", "accuracy_low", "accuracy_high")
    ]
    interval = measure(module, loader(), jackknife=True).intervals["nc1"]
    assert module.logged[0]["collapse/val/nc1_low"] == interval.low
    assert module.logged[0]["collapse/val/nc1_high"] == interval.high


def test_wide_layers_have_nc1_from_a_second_pass_over_the_same_batches(
    adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a loader that shuffles has other batches to begin with at every pass."""
    monkeypatch.setattr(layers_module, "MAX_SCATTER_DIM", 4)
    monkeypatch.setattr(measuring, "_KEPT_BYTES", 0)
    module, layers = Module(), ["model.0", "model.1"]
    for options in ({"batches": 2}, {}):
        torch.manual_seed(0)
        callback = adapter.CollapseCallback(layers=layers, pooling="flatten", **options)
        fit(callback, module, 1, val=None)
        torch.manual_seed(0)
        seen = [*loader(shuffle=True)][: options.get("batches")]
        assert sum(callback.latest["train"].counts) == (32 if options else 60)
        monkeypatch.setattr(layers_module, "MAX_SCATTER_DIM", 4096)
        wanted = measure(module, seen, layers=layers, pooling="flatten")
        monkeypatch.setattr(layers_module, "MAX_SCATTER_DIM", 4)
        assert wanted.depth is not None
        values = module.logged[-1]
        for layer in wanted.depth.layers:
            path = f"collapse/train/layers/{layer.name}"
            assert values[f"{path}/nc1"] == pytest.approx(layer.metrics["nc1"], rel=1e-5)
            # Sums without scatter are single.
            rank = layer.metrics["effective_rank"]
            assert values[f"{path}/effective_rank"] == pytest.approx(rank, rel=1e-6)
            assert f"{path}/vci" not in values
        assert values["collapse/train/nc4_disagreement"] == wanted["nc4_disagreement"]


def test_of_rounding_it_warns_once(adapter: Any) -> None:
    module = Module().bfloat16()
    narrow = TensorDataset((30 + 1e-2 * INPUTS).bfloat16(), LABELS)
    callback = adapter.CollapseCallback()
    with pytest.warns(UserWarning, match="collapse/train: of the within-class variance"):
        fit(callback, module, 1, train=DataLoader(narrow, 20), val=DataLoader(narrow, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(callback, module, 1, train=DataLoader(narrow, 20), val=None)
        fit(adapter.CollapseCallback(), Module(), 1)


LABEL_KINDS: dict[str, Any] = {
    "one-hot floats": lambda labels: torch.eye(3)[labels],
    "one-hot bytes": lambda labels: torch.eye(3, dtype=torch.uint8)[labels],
    "tokens": lambda labels: labels[:, None].expand(-1, 5),
}


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_labels_of_any_kind_count_once(adapter: Any, kind: str) -> None:
    """59 samples for 4 processes: the last process repeats one."""
    labels = LABEL_KINDS[kind](LABELS[:59])
    inputs = INPUTS[:59, None].expand(-1, 5, -1) if kind == "tokens" else INPUTS[:59]
    data, whole = TensorDataset(inputs, labels), torch.zeros(3).long()
    for rank in range(4):
        sampler = DistributedSampler(data, 4, rank)
        callback = adapter.CollapseCallback(loaders={"train": DataLoader(data, 6, sampler=sampler)})
        fit(callback, Module(), epochs=1)
        whole += torch.tensor(callback.latest["train"].counts)
    assert torch.equal(whole, torch.bincount(LABELS[:59]) * (5 if kind == "tokens" else 1))


@pytest.mark.parametrize("processes, batch_size", [(2, 16), (7, 4), (7, 9), (50, 1)])
@pytest.mark.parametrize("drop_last", [False, True])
def test_samples_that_a_sampler_repeats_count_once(
    adapter: Any, processes: int, batch_size: int, drop_last: bool
) -> None:
    """60 samples for 7 or 50 processes: nine or two each, some of them given twice or left out."""
    labels = LABELS[:59]
    data = TensorDataset(INPUTS[:59], labels)
    whole, given = torch.zeros(3).long(), 0
    for rank in range(processes):
        sampler = DistributedSampler(data, processes, rank, drop_last=drop_last)
        callback = adapter.CollapseCallback(
            loaders={"train": DataLoader(data, batch_size, sampler=sampler)}
        )
        fit(callback, Module(), epochs=1)
        whole += torch.tensor(callback.latest["train"].counts)
        given += len(sampler)
    assert (given > len(data)) != drop_last
    if not drop_last:
        assert torch.equal(whole, torch.bincount(labels))


def test_undefined_metrics_are_not_logged(adapter: Any) -> None:
    module = Module()
    one_class = DataLoader(TensorDataset(INPUTS[LABELS == 0], LABELS[LABELS == 0]), batch_size=8)
    fit(adapter.CollapseCallback(), module, 1, train=one_class, val=None)
    (values,) = module.logged
    assert "collapse/train/accuracy" in values
    assert "collapse/train/nc1" not in values


def test_inputs_follow_the_precision_of_the_trainer(adapter: Any) -> None:
    module = Module().bfloat16()
    callback = adapter.CollapseCallback()
    trainer = SimpleNamespace(
        max_epochs=1,
        current_epoch=0,
        sanity_checking=False,
        train_dataloader=loader(),
        val_dataloaders=None,
        precision_plugin=SimpleNamespace(
            convert_input=lambda batch: [batch[0].bfloat16(), batch[1]]
        ),
    )
    callback.on_train_epoch_end(trainer, module)
    assert "collapse/train/nc1" in module.logged[0]


def test_mistakes_are_found_before_training(adapter: Any) -> None:
    with pytest.raises(ValueError, match="model has no linear layer with 7 outputs"):
        fit(adapter.CollapseCallback(num_classes=7), Module())
    with pytest.raises(ValueError, match=r"layers must name modules of the model, got 'model\.7'"):
        fit(adapter.CollapseCallback(layers=["model.7"]), Module())
    with pytest.raises(ValueError, match="layers must be a list of names"):
        adapter.CollapseCallback(layers="model.0")
    with pytest.raises(ValueError, match="weighting must be one of"):
        adapter.CollapseCallback(weighting="classes")
    with pytest.raises(ValueError, match="pooling must be one of"):
        adapter.CollapseCallback(pooling="max")
    with pytest.raises(ValueError, match="metrics must be one of"):
        adapter.CollapseCallback(metrics=["nc1", "nc7"])
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        adapter.CollapseCallback(0)
    with pytest.raises(TypeError, match="epochs must be an integer"):
        adapter.CollapseCallback("all")
    with pytest.raises(ValueError, match="global_mean must be one of"):
        adapter.CollapseCallback(global_mean="mode")
    with pytest.raises(ValueError, match="batches must be at least 1"):
        adapter.CollapseCallback(batches=0)
    with pytest.raises(TypeError, match="jackknife must be True or False, got 'no' of type str"):
        adapter.CollapseCallback(jackknife="no")
    with pytest.raises(ValueError, match="means must be one of previous, train, val, got 'test'"):
        adapter.CollapseCallback(means="test")
    with pytest.raises(ValueError, match="means must be one of previous, probe, got True"):
        adapter.CollapseCallback(means=True, loaders={"probe": loader()})


def test_without_lightning_the_error_names_it() -> None:
    with packages(ADAPTER, MISSING):
        module = importlib.import_module(ADAPTER)
        with pytest.raises(
            ImportError, match=r"CollapseCallback needs lightning.pytorch or pytorch_lightning"
        ):
            module.CollapseCallback()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_under_the_trainer_of_lightning(tmp_path: Any) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    from neuralcollapse.integrations.lightning import CollapseCallback

    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layer(inputs)

        def training_step(self, batch: Any, index: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: Any, index: int) -> None: ...

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    logger = lightning.loggers.CSVLogger(tmp_path)
    callback = CollapseCallback(means="previous", jackknife=True)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[callback],
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        logger=logger,
    )
    module = Lit()
    trainer.fit(module, loader(shuffle=True), loader())
    wanted = measure(module.layer, loader())
    for key in ("nc1", "nc3_duality"):
        value = float(trainer.callback_metrics[f"collapse/val/{key}"])
        assert value == pytest.approx(wanted[key], rel=1e-4)
        ends = [
            float(trainer.callback_metrics[f"collapse/val/{key}_{end}"]) for end in ("low", "high")
        ]
        assert ends[0] < value < ends[1]
    assert callback.latest["val"].conventions["nc4"].endswith("of the measurement before")
    with Path(logger.log_dir, "metrics.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    for name in ("train", "val"):
        logged = [float(row[key]) for row in rows if row[key := f"collapse/{name}/nc1"]]
        assert len(logged) == 2  # epochs
        assert logged[1] == pytest.approx(wanted["nc1"], rel=1e-4)
