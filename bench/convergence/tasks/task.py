"""What a rule is measured on: a model, its data, and how one trains it alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from bench.convergence.recipe import Recipe

Batch = tuple[Tensor, Tensor]


class Task(ABC):
    """A model and its data; the same for all rules.

    base_lr  middle of the learning rates that are tried first
    steps    of a run, unless told otherwise
    """

    name: str
    recipe: Recipe
    base_lr: float
    steps: int

    @abstractmethod
    def model(self) -> nn.Module:
        """Returns a model drawn from torch's global generator."""

    @abstractmethod
    def batch(self, generator: torch.Generator) -> Batch:
        """Returns one member's next batch, drawn from `generator`."""

    @abstractmethod
    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """Returns the mean loss of `batch`, in nats."""

    @abstractmethod
    def evaluate(self, net: nn.Module) -> dict[str, float]:
        """Returns {"loss"} on data held out of training, and {"accuracy"}, a share, where that is one."""


def streams(seed: int, members: int) -> list[torch.Generator]:
    """Returns each member's own source of batches: other samples for each, the same for every rule."""
    states = [numpy.random.SeedSequence([seed, member]).generate_state(1) for member in range(members)]
    return [torch.Generator().manual_seed(int(state[0])) for state in states]


def windows(examples: Any, ids: Tensor) -> Batch:
    """Returns examples `ids` of a torch data set of pairs, stacked."""
    first, second = zip(*(examples[i] for i in ids.tolist()), strict=True)
    return torch.stack(first), torch.stack(second)
