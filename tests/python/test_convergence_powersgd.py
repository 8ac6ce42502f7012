"""The benchmark's PowerSGD against torch's own hook, over gloo in two processes."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from bench.convergence.layout import Layout
from bench.convergence.recipe import Recipe
from bench.convergence.rules.powersgd import PowerSGD
from bench.convergence.rules.rule import Setting
from torch import nn
from torch.nn import functional as F

_STEPS = 6
_LR = 0.05
_MEMBERS = 2


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.Tanh(), nn.Linear(40, 16))


def loss(net: nn.Module, member: int, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(10 * step + member)
    points, values = torch.randn(8, 24, generator=generator), torch.randn(8, 16, generator=generator)
    return F.mse_loss(net(points), values)


def train_with_hook(member: int, rank: int, folder: Path) -> None:
    """One process of DDP; leaves its weights in `folder`."""
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=member, world_size=_MEMBERS)
    net = DistributedDataParallel(model(), bucket_cap_mb=1000)
    options = {"start_powerSGD_iter": 2, "orthogonalization_epsilon": 1e-8, "random_seed": 0}
    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=rank, **options)
    net.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    optimizer = torch.optim.SGD(net.parameters(), lr=_LR, momentum=0.9, nesterov=True)
    for step in range(_STEPS):
        optimizer.zero_grad()
        loss(net, member, step).backward()
        optimizer.step()
    torch.save([parameter.detach() for parameter in net.module.parameters()], folder / f"{member}.pt")
    dist.barrier()
    os._exit(0)  # torch's own end now and then aborts: "terminate called without an active exception"


@pytest.mark.parametrize("rank", [2, 3])  # Gram-Schmidt and QR
def test_powersgd_is_torchs_hook(rank: int, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=train_with_hook, args=(member, rank, tmp_path)) for member in range(_MEMBERS)
    ]
    for process in processes:
        process.start()
    ours = train_with_rule(rank)
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    for mine, theirs in zip(ours, torch.load(tmp_path / "0.pt"), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def train_with_rule(rank: int) -> list[torch.Tensor]:
    net = model()
    layout = Layout(net)
    setting = Setting(layout, _MEMBERS, _STEPS, Recipe("sgd", weight_decay=0.0))
    rule = PowerSGD(setting, rank=rank, dense_steps=2)
    x = torch.zeros(_MEMBERS, layout.width)
    for slot, parameter in zip(layout.slots, net.parameters(), strict=True):
        slot.of(x).copy_(parameter.detach())
    rule.start(x)
    for step in range(_STEPS):
        g = torch.zeros_like(x)
        for member in range(_MEMBERS):
            for slot, parameter in zip(layout.slots, net.parameters(), strict=True):
                parameter.data = slot.of(x[member]).clone()
            gradients = torch.autograd.grad(loss(net, member, step), list(net.parameters()))
            for slot, gradient in zip(layout.slots, gradients, strict=True):
                slot.of(g[member]).copy_(gradient)
        rule.step(step, _LR, g)
    return [slot.of(rule.consensus()) for slot in layout.slots]
