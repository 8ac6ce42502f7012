"""Density 1, staleness 0: training on W members is single-process torch on the union batch."""

from __future__ import annotations

import pytest
import torch
from conftest import run_members
from training import EXACT

STEPS = 50
BATCH = 4  # per member


def model() -> torch.nn.Module:
    torch.manual_seed(1)
    # Odd sizes, so that blocks and tensors do not line up.
    return torch.nn.Sequential(
        torch.nn.Linear(13, 149), torch.nn.Tanh(), torch.nn.LayerNorm(149), torch.nn.Linear(149, 5)
    )


def groups(net: torch.nn.Module) -> list[dict]:
    """Two param groups: one with its own learning rate and weight decay."""
    matrices = [p for p in net.parameters() if p.dim() > 1]
    vectors = [p for p in net.parameters() if p.dim() == 1]
    return [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "lr": 0.003}]


OPTIMIZERS = {
    "sgd": lambda net: torch.optim.SGD(groups(net), lr=0.05),
    "nesterov": lambda net: torch.optim.SGD(groups(net), lr=0.05, momentum=0.9, nesterov=True),
    "dampened": lambda net: torch.optim.SGD(groups(net), lr=0.05, momentum=0.8, dampening=0.1),
    "adam": lambda net: torch.optim.Adam(groups(net), lr=0.01, weight_decay=0.01),
    "amsgrad": lambda net: torch.optim.Adam(groups(net), lr=0.01, amsgrad=True),
    "adamw": lambda net: torch.optim.AdamW(groups(net), lr=0.01, betas=(0.9, 0.95)),
}


def batches(world_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(STEPS, world_size, BATCH, 13, generator=generator)
    y = torch.randn(STEPS, world_size, BATCH, 5, generator=generator)
    return x, y


def reference(name: str, world_size: int) -> torch.nn.Module:
    net = model()
    optimizer = OPTIMIZERS[name](net)
    for x, y in zip(*batches(world_size), strict=True):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(x.flatten(0, 1)), y.flatten(0, 1)).backward()
        optimizer.step()
    return net


def flat(net: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


CASES = [(name, world_size, 16) for name in OPTIMIZERS for world_size in (1, 2, 3, 4)]
CASES += [("nesterov", 2, 32), ("adamw", 3, 64)]


@pytest.mark.parametrize(("name", "world_size", "block"), CASES)
def test_equals_single_process_torch_on_the_union_batch(name: str, world_size: int, block: int) -> None:
    def member(run):
        net = nets[run.rank]
        if run.rank != 0:  # everybody must start from member 0's weights
            torch.nn.init.zeros_(net[0].weight)
        _, optimizer = run.distribute(net, OPTIMIZERS[name](net), block=block, **EXACT, rule="sparse")
        for x, y in zip(*batches(world_size), strict=True):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(net(x[run.rank]), y[run.rank]).backward()
            optimizer.step()
        run.finish()
        return flat(net)

    # Made here, not by the members: these are threads, and torch.manual_seed() of one would cross another's.
    nets = [model() for _ in range(world_size)]
    results = run_members(world_size, member)
    for other in results[1:]:
        assert torch.equal(other, results[0])
    expected = flat(reference(name, world_size))
    tolerance = 1e-5 if name in ("sgd", "nesterov", "dampened") else 1e-4
    assert torch.norm(results[0] - expected) / torch.norm(expected) < tolerance
