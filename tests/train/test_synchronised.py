"""Batch normalisation over two processes is that of one process on the joint batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuralcollapse.train.synchronised import synchronise_batch_norm
from processes import run_processes
from train.processes import normalise_shares, normalised

WORLD = 2


def prepared(module: nn.Module, seed: int) -> nn.Module:
    """With weights and running statistics that are not those of the start."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 2.0, generator=generator)
    return module


def steps(*shape: int, dtype: torch.dtype, shift: float = 0.0) -> list[tuple[Tensor, Tensor]]:
    """Three batches with the gradients that come back."""
    generator = torch.Generator().manual_seed(len(shape))
    drawn = [torch.randn(2, *shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    return [((3 * x + shift).to(dtype), g.to(dtype)) for x, g in drawn]


FLOAT, DOUBLE, HALF = torch.float32, torch.float64, torch.bfloat16
CASES: dict[str, tuple[nn.Module, list[tuple[Tensor, Tensor]], float]] = {
    # A few roundings of float32 (6e-8), float64, and bfloat16 (4e-3).
    "vectors": (prepared(nn.BatchNorm1d(5), 0), steps(8, 5, dtype=FLOAT), 1e-6),
    "sequences": (prepared(nn.BatchNorm1d(5), 1), steps(8, 5, 3, dtype=FLOAT), 1e-6),
    "pictures": (prepared(nn.BatchNorm2d(4), 2), steps(6, 4, 3, 5, dtype=FLOAT), 1e-6),
    "volumes": (prepared(nn.BatchNorm3d(2), 3), steps(4, 2, 3, 2, 2, dtype=FLOAT), 1e-6),
    "double": (prepared(nn.BatchNorm1d(5).double(), 4), steps(8, 5, dtype=DOUBLE), 1e-12),
    "a sample each": (prepared(nn.BatchNorm1d(5), 5), steps(2, 5, dtype=FLOAT), 1e-6),
    "plain": (nn.BatchNorm1d(5, affine=False), steps(8, 5, dtype=FLOAT), 1e-6),
    "momentum": (prepared(nn.BatchNorm1d(5, momentum=0.3), 6), steps(8, 5, dtype=FLOAT), 1e-6),
    # A mean a hundred times the spread: squares must be taken of what is centred.
    "off centre": (
        prepared(nn.BatchNorm1d(5).double(), 7),
        steps(8, 5, dtype=DOUBLE, shift=300.0),
        1e-10,
    ),
    "without statistics": (
        prepared(nn.BatchNorm1d(5, track_running_stats=False), 8),
        steps(8, 5, dtype=FLOAT),
        1e-6,
    ),
    "half": (prepared(nn.BatchNorm1d(5), 9), steps(8, 5, dtype=HALF), 1e-2),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each process found, by rank."""
    folder = tmp_path_factory.mktemp("gloo")
    torch.save([(module, batches) for module, batches, _ in CASES.values()], folder / "cases.pt")
    run_processes(normalise_shares, folder, WORLD)
    return [torch.load(folder / f"result-{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.mark.distributed
@pytest.mark.parametrize("name", CASES)
def test_two_processes_normalise_as_one(name: str, shared: list[Any]) -> None:
    module, batches, close = CASES[name]
    outputs, inputs, weights, buffers = normalised(nn.Sequential(module), batches)
    module.train()
    place = list(CASES).index(name)
    found = [shared[rank][place] for rank in range(WORLD)]

    def assert_joined(wanted: list[Tensor], which: int, scale: float) -> None:
        for step, whole in enumerate(wanted):
            joined = torch.empty_like(whole)
            for rank in range(WORLD):
                joined[rank::WORLD] = found[rank][which][step]
            torch.testing.assert_close(joined, whole, rtol=close, atol=close * scale)

    # Without running statistics evaluation is by the batch of the process, as in PyTorch.
    assert_joined(outputs[:-1] if name == "without statistics" else outputs, 0, 1.0)
    # Gradients may cancel: their rounding is that of what came in, times weight over deviation.
    assert_joined(inputs, 1, max(float(g.abs().max()) for _, g in batches))
    for index, whole in enumerate(weights):
        # Each process has its part of the gradient; DDP adds them up.
        joined = sum(found[rank][2][index] for rank in range(WORLD))
        torch.testing.assert_close(joined, whole, rtol=10 * close, atol=10 * close)
    for rank in range(WORLD):
        for mine, whole in zip(found[rank][3], buffers, strict=True):
            torch.testing.assert_close(mine, whole, rtol=close, atol=close)


def test_every_batch_norm_inside_is_replaced_and_keeps_its_names() -> None:
    module = nn.Sequential(
        nn.Linear(3, 4),
        nn.BatchNorm1d(4),
        nn.Sequential(nn.BatchNorm2d(4), nn.ModuleDict({"deep": nn.BatchNorm3d(2)})),
    )
    prepared(module, 0)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    synchronise_batch_norm(module)
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    kinds = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
    assert not any(isinstance(child, kinds) for child in module.modules())
    assert module.training


def test_evaluation_needs_no_other_process() -> None:
    norm = prepared(nn.BatchNorm1d(5), 0)
    holder = nn.Sequential(norm)
    inputs = torch.randn(8, 5)
    wanted = holder.eval()(inputs)
    synchronise_batch_norm(holder)
    assert torch.equal(holder.eval()(inputs), wanted)
