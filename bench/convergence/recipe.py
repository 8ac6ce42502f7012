"""How a task is trained where there is one member: optimizer, weight decay, clipping, schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

WARM_UP = 0.05  # of all steps, at least one
LAST = 0.1  # the learning rate ends at this share of its largest


@dataclass(frozen=True)
class Recipe:
    """A task's own optimizer and clipping. Rules that step with the user's optimizer use torch's,
    unchanged."""

    optimizer: str  # "adamw", or "sgd": with Nesterov momentum
    weight_decay: float
    clip: float | None = None  # largest norm of a gradient
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    momentum: float = 0.9

    def attach(self, weights: Tensor) -> torch.optim.Optimizer:
        """Returns torch's optimizer of `weights`, [width] or [N, width]: it works element by element, so a
        row each is as good as N optimizers. Set `weights.grad` before its step."""
        if self.optimizer == "adamw":
            decay = {"weight_decay": self.weight_decay, "fused": True}
            return torch.optim.AdamW([weights], lr=0.0, betas=self.betas, eps=self.eps, **decay)
        nesterov = {"momentum": self.momentum, "nesterov": self.momentum > 0, "fused": True}
        return torch.optim.SGD([weights], lr=0.0, weight_decay=self.weight_decay, **nesterov)

    def clip_(self, gradients: Tensor) -> None:
        """Scales each row of `gradients` [..., width] down to the norm `clip`, as clip_grad_norm_ does."""
        if self.clip is not None:
            norms = torch.linalg.vector_norm(gradients, dim=-1, keepdim=True)
            gradients.mul_((self.clip / (norms + 1e-6)).clamp(max=1.0))


def step_with(optimizer: torch.optim.Optimizer, weights: Tensor, gradients: Tensor, lr: float) -> None:
    """One step of `optimizer` (of `Recipe.attach(weights)`) at the learning rate `lr`."""
    weights.grad = gradients
    optimizer.param_groups[0]["lr"] = lr
    optimizer.step()


def learning_rate(step: int, steps: int, largest: float) -> float:
    """Linear warm-up, then a cosine from `largest` to LAST of it; `step` counts from 0."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return largest * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - 1 - warm_up)
    return largest * (LAST + (1 - LAST) * 0.5 * (1 + math.cos(math.pi * progress)))
