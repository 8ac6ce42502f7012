"""Synchronous DDP: every step all gradients in fp32. The 100 % of bytes, and the loss to reach."""

from __future__ import annotations

from torch import Tensor

from bench.convergence.recipe import step_with
from bench.convergence.rules.rule import Rule


class Dense(Rule):
    """The user's optimizer steps on the mean gradient, clipped after the mean."""

    def start(self, x: Tensor) -> None:
        self._x = x
        self._weights = x[0].clone()
        self._optimizer = self.recipe.attach(self._weights)

    def step(self, t: int, lr: float, g: Tensor) -> None:
        mean = self._reduce(g)
        self.recipe.clip_(mean)
        step_with(self._optimizer, self._weights, mean, lr)
        self._x.copy_(self._weights)

    def consensus(self) -> Tensor:
        return self._weights

    def _reduce(self, g: Tensor) -> Tensor:
        """Returns what the members agree on as their mean gradient, [width]."""
        self.count_all_reduce(4 * self.layout.parameters)
        return g.mean(0)
