"""A small training to compare with plain torch: the same loop on members and on one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from conftest import run_members

from stellatrain.run import Run

Batch = tuple[torch.Tensor, torch.Tensor]
# train(net, optimizer, batches): the loop of the script under test.
Train = Callable[[torch.nn.Module, torch.optim.Optimizer, list[Batch]], None]

SMALL_BUCKETS = 1 / 256  # MiB: mlp() has three of them, and its first weight lies in two
EXACT = {"density": 1, "staleness": 0, "bucket_mib": SMALL_BUCKETS}
SPARSE = {"density": 0.05, "staleness": 1, "bucket_mib": SMALL_BUCKETS}


_SEEDED = threading.Lock()  # torch's generator is all threads'


def mlp() -> torch.nn.Module:
    """The same each time, whichever member's thread makes it."""
    with _SEEDED:
        torch.manual_seed(1)
        return torch.nn.Sequential(torch.nn.Linear(13, 149), torch.nn.Tanh(), torch.nn.Linear(149, 5))


def adamw(net: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=0.01)


def sgd(net: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)


def vectors(steps: int, rows: int) -> list[Batch]:
    """For mlp()."""
    generator = torch.Generator().manual_seed(7)
    return [
        (torch.randn(rows, 13, generator=generator), torch.randn(rows, 5, generator=generator))
        for _ in range(steps)
    ]


def loss_of(net: torch.nn.Module, batch: Batch) -> torch.Tensor:
    return torch.nn.functional.mse_loss(net(batch[0]).float(), batch[1])


def repeated(net: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """So many steps on two batches in turn; their losses."""
    losses = []
    for batch in vectors(2, 4) * (steps // 2):
        optimizer.zero_grad()
        loss = loss_of(net, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def step_with_closures(net: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> None:
    """As LBFGS needs them."""
    for batch in vectors(steps, 4):

        def closure(batch: Batch = batch) -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(net, batch)
            loss.backward()
            return loss

        optimizer.step(closure)


def plain_loop(net: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch]) -> None:
    for batch in batches:
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        optimizer.step()


def flat(net: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().float().reshape(-1) for parameter in net.parameters()])


@dataclass
class Training:
    """A script: run it on members, or alone in plain torch on the union of their batches."""

    train: Train = plain_loop
    model: Callable[[], torch.nn.Module] = mlp
    optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer] = adamw
    batches: Callable[[int, int], list[Batch]] = vectors  # (steps, rows)
    steps: int = 12
    world_size: int = 2
    rows: int = 4  # of one member's batch
    options: dict[str, Any] = field(default_factory=dict)

    def share(self, rank: int) -> list[Batch]:
        rows = slice(rank * self.rows, (rank + 1) * self.rows)
        return [(x[rows], y[rows]) for x, y in self.batches(self.steps, self.rows * self.world_size)]

    def alone(self) -> torch.nn.Module:
        """Plain torch."""
        net = self.model()
        self.train(net, self.optimizer(net), self.batches(self.steps, self.rows * self.world_size))
        return net

    def on_members(self, **options: Any) -> list[torch.nn.Module]:
        """The models after finish(), by rank."""
        nets = [self.model() for _ in range(self.world_size)]  # torch's seed is the process's

        def member(run: Run) -> torch.nn.Module:
            net = nets[run.rank]
            _, optimizer = run.distribute(net, self.optimizer(net), **(self.options | options), rule="sparse")
            self.train(net, optimizer, self.share(run.rank))
            run.finish()
            return net

        return run_members(self.world_size, member)

    def check(self, tolerance: float = 1e-4) -> None:
        """As plain torch when everything is sent; without error and equal on all members when little is."""
        self.check_equals_torch(tolerance)
        self.check_members_agree(**SPARSE)

    def check_equals_torch(self, tolerance: float = 1e-4) -> None:
        expected = flat(self.alone())
        for net in self.check_members_agree(**EXACT):
            assert torch.norm(flat(net) - expected) <= tolerance * torch.norm(expected)

    def check_members_agree(self, **options: Any) -> list[torch.nn.Module]:
        nets = self.on_members(**options)
        before = flat(self.model())
        assert not torch.equal(flat(nets[0]), before), "nothing was trained"
        for net in nets[1:]:
            assert torch.equal(flat(net), flat(nets[0]))
        return nets
