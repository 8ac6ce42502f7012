"""What DiLoCo and its kin share: the outer optimizer, and when to synchronise under a budget."""

from __future__ import annotations

import torch
from torch import Tensor


class OuterNesterov:
    """SGD with Nesterov momentum on the mean outer gradient, torch's: DiLoCo's outer optimizer."""

    def __init__(self, weights: Tensor, lr: float, momentum: float) -> None:
        self._weights = weights
        self._optimizer = torch.optim.SGD([weights], lr=lr, momentum=momentum, nesterov=momentum > 0)

    def step(self, gradient: Tensor) -> None:
        """Moves `weights`, [n], by `gradient` [n]: old weights minus new ones."""
        self._weights.grad = gradient
        self._optimizer.step()


def rounds_due(t: int, steps: int, rounds: int) -> bool:
    """Whether step `t` of `steps`, counted from 0, ends one of `rounds` rounds: evenly spread, and the
    last one ends with the last step, so that nothing learned is left out of what is evaluated."""
    return (t + 1) * rounds // steps > t * rounds // steps


def affordable_rounds(steps: int, share: float, budget: float | None) -> int:
    """How many rounds that cost `share` of one step of DDP each fit into `budget` over `steps`; 1 at
    least."""
    if budget is None:
        return steps
    return max(1, min(steps, int(steps * budget / share + 1e-9)))
