"""A toy that needs no data set, to test the harness. It says nothing about the rules."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.convergence.recipe import Recipe
from bench.convergence.tasks.task import Batch, Task

_INPUTS, _CLASSES, _BATCH, _VALIDATION = 20, 4, 8, 256


class SyntheticTask(Task):
    """Points that a random linear map sorts into 4 classes, and a small network with BatchNorm."""

    name = "synthetic"
    recipe = Recipe("adamw", weight_decay=0.01)
    base_lr = 1e-2
    steps = 40

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._teacher = torch.randn(_INPUTS, _CLASSES, generator=generator)
        self._validation = self._draw(_VALIDATION, generator)

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(_INPUTS, 70), nn.BatchNorm1d(70), nn.ReLU(), nn.Linear(70, _CLASSES, bias=False)
        )

    def batch(self, generator: torch.Generator) -> Batch:
        return self._draw(_BATCH, generator)

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        points, classes = batch
        return F.cross_entropy(net(points), classes)

    @torch.no_grad()
    def evaluate(self, net: nn.Module) -> dict[str, float]:
        points, classes = self._validation
        logits = net(points)
        right = (logits.argmax(1) == classes).float().mean().item()
        return {"loss": F.cross_entropy(logits, classes).item(), "accuracy": right}

    def _draw(self, count: int, generator: torch.Generator) -> Batch:
        points = torch.randn(count, _INPUTS, generator=generator)
        return points, (points @ self._teacher).argmax(1)
