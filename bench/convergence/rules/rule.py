"""What an update rule is: it moves the members' weights by their gradients, and counts what that costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from bench.convergence import traffic
from bench.convergence.layout import Layout
from bench.convergence.recipe import Recipe


@dataclass(frozen=True)
class Setting:
    """What a rule is told before the first step. `budget`: the share of DDP's egress it should keep to, on
    average; None: as much as it likes. A rule that cannot go so low sends more, and its `egress` tells."""

    layout: Layout
    members: int
    steps: int
    recipe: Recipe
    budget: float | None = None
    seed: int = 0

    @property
    def message(self) -> float:
        """Bytes per step of a message that goes to all members, if the budget is to hold; inf without
        one."""
        if self.budget is None:
            return float("inf")
        return traffic.all_gather_message(self.budget, self.members, self.layout.parameters)

    def share_of(self, message: float) -> float:
        """Returns what it costs to send all members `message` bytes, as a share of one step of DDP."""
        return message / traffic.all_gather_message(1.0, self.members, self.layout.parameters)


class Rule(ABC):
    """One way of training together. Vectorised over the members, deterministic, on one thread.

    egress  bytes that each member has sent so far
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.layout = setting.layout
        self.recipe = setting.recipe
        self.egress = 0.0

    @abstractmethod
    def start(self, x: Tensor) -> None:
        """Before the first step. `x` [N, width]: what the members compute with, all rows equal. The rule
        keeps it and changes it in place."""

    @abstractmethod
    def step(self, t: int, lr: float, g: Tensor) -> None:
        """After the backward pass of step `t`, counted from 0. `g` [N, width]: each member's own
        gradient; the rule may overwrite it."""

    @abstractmethod
    def consensus(self) -> Tensor:
        """Returns the weights [width] that are evaluated, saved and shipped."""

    def count_all_gather(self, size: float) -> None:
        """Each member sent a message of `size` bytes to all others."""
        self.egress += traffic.all_gather(self.setting.members, size)

    def count_all_reduce(self, size: float) -> None:
        """A vector of `size` bytes was summed round the ring."""
        self.egress += traffic.ring_all_reduce(self.setting.members, size)
