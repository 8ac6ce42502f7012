"""A byte-level GPT of 1.28 million parameters on Python's documentation or its library (examples/gpt/)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.convergence.recipe import Recipe
from bench.convergence.tasks.example import example
from bench.convergence.tasks.task import Batch, Task, windows

_CONTEXT = 64
_BATCH = 4  # sequences per member and step
_VALIDATION = 128  # windows, evenly spread over the files that training does not see
_VALIDATION_BATCH = 32


class GPTTask(Task):
    """AdamW, weight decay 0.1, clipping at 1."""

    name = "gpt"
    recipe = Recipe("adamw", weight_decay=0.1, clip=1.0)
    base_lr = 2e-3
    steps = 600

    def __init__(self, width: int = 160, layers: int = 4, heads: int = 5) -> None:
        self._shape = width, layers, heads
        self._model = example("gpt/model")
        self._training, validation = example("gpt/data").load(_CONTEXT)
        ids = torch.linspace(0, len(validation) - 1, _VALIDATION).long()
        self._validation = windows(validation, ids)

    def model(self) -> nn.Module:
        return self._model.GPT(_CONTEXT, *self._shape)

    def batch(self, generator: torch.Generator) -> Batch:
        return windows(self._training, torch.randint(len(self._training), (_BATCH,), generator=generator))

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        return net(*batch)

    @torch.no_grad()
    def evaluate(self, net: nn.Module) -> dict[str, float]:
        parts = zip(*(part.split(_VALIDATION_BATCH) for part in self._validation), strict=True)
        losses = [net(x, y).item() for x, y in parts]
        return {"loss": sum(losses) / len(losses)}
