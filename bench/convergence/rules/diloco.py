"""DiLoCo (Douillard et al. 2023, arXiv 2311.08105): many own steps, then an outer one on their mean."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.convergence.recipe import step_with
from bench.convergence.rules.outer import OuterNesterov, affordable_rounds, rounds_due
from bench.convergence.rules.rule import Rule, Setting


class DiLoCo(Rule):
    """H steps of the user's optimizer on each member, whose moments stay its own; then the outer
    gradient, the mean of theta - x_i, goes round the ring and an outer SGD with Nesterov momentum moves
    theta, from where all go on.

    H follows from the budget. Outer learning rate and momentum are the paper's 0.7 and 0.9. `wire` "bf16"
    halves the bytes: the outer gradients and their mean are rounded to it (the ring's partial sums are
    not, in the method's favour). The paper has fp32 on the wire, 500 steps between rounds and a
    pretrained start.
    """

    def __init__(
        self, setting: Setting, outer_lr: float = 0.7, outer_momentum: float = 0.9, wire: str = "fp32"
    ) -> None:
        super().__init__(setting)
        if wire not in ("fp32", "bf16"):
            raise ValueError(f"diloco sends fp32 or bf16, not {wire}")
        self._outer = outer_lr, outer_momentum
        self._rounding = torch.bfloat16 if wire == "bf16" else None
        share = 1.0 if wire == "fp32" else 0.5
        self._size = 4 * self.layout.parameters * share
        self.rounds = affordable_rounds(setting.steps, share, setting.budget)

    def start(self, x: Tensor) -> None:
        self._x = x
        self._weights = x[0].clone()
        self._inner = self.recipe.attach(x)
        self._optimizer = OuterNesterov(self._weights, *self._outer)

    def step(self, t: int, lr: float, g: Tensor) -> None:
        self.recipe.clip_(g)
        step_with(self._inner, self._x, g, lr)
        if rounds_due(t, self.setting.steps, self.rounds):
            self._optimizer.step(self._rounded(self._rounded(self._weights - self._x).mean(0)))
            self._x.copy_(self._weights)
            self.count_all_reduce(self._size)

    def consensus(self) -> Tensor:
        return self._weights

    def _rounded(self, x: Tensor) -> Tensor:
        return x if self._rounding is None else x.to(self._rounding).to(x.dtype)
