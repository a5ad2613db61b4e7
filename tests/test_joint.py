"""The uniformity gap and class means over two processes are those of one on the joint batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import joint
from processes import run_processes

WORLD = 2


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each process found, by rank."""
    folder = tmp_path_factory.mktemp("gloo")
    run_processes(joint.step_shares, folder, WORLD)
    return [torch.load(folder / f"result-{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.mark.distributed
@pytest.mark.parametrize("name", joint.CASES)
def test_two_processes_step_as_one(name: str, shared: list[Any]) -> None:
    value, by_features, by_proxies, averages = joint.stepped(name, torch.arange(12))
    shares = joint.CASES[name][2]
    found = [shared[rank][name] for rank in range(WORLD)]
    # Value and gradients as training takes them: the mean over processes. Sums in another order.
    mean = torch.stack([result[0] for result in found]).mean(0)
    torch.testing.assert_close(mean, value, rtol=1e-12, atol=1e-14)
    assert by_features is not None
    joined = torch.empty_like(by_features)
    for share, result in zip(shares, found, strict=True):
        joined[share] = result[1] / WORLD
    if "mhs" in name:
        # The farthest sample of its class stands in both processes, which share its gradient.
        assert bool((by_features[[1, 11]] != 0).any(1).all())
    torch.testing.assert_close(joined, by_features, rtol=1e-12, atol=1e-14)
    if by_proxies is not None:
        mean = torch.stack([result[2] for result in found]).mean(0)
        torch.testing.assert_close(mean, by_proxies, rtol=1e-12, atol=1e-14)
    for result in found:
        if averages is not None:
            torch.testing.assert_close(result[3], averages, rtol=1e-12, atol=1e-14)
