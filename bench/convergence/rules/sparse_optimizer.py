"""Optimizers that move only the blocks that were sent (StellaTrain, section 3.1)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from bench.convergence.recipe import Recipe


class SparseOptimizer(ABC):
    """Steps on some blocks of `weights` [B, 16]; the moments of the others stay as they are."""

    def __init__(self, recipe: Recipe, weights: Tensor) -> None:
        self._recipe = recipe
        self._weights = weights

    @abstractmethod
    def step(self, ids: Tensor, gradient: Tensor, lr: float) -> None:
        """Steps on blocks `ids` [U] with `gradient` [U, 16]."""


class SparseAdamW(SparseOptimizer):
    """AdamW, with the number of steps in the bias correction counted block by block."""

    def __init__(self, recipe: Recipe, weights: Tensor) -> None:
        super().__init__(recipe, weights)
        self._first = torch.zeros_like(weights)
        self._second = torch.zeros_like(weights)
        self._steps = torch.zeros(len(weights), 1, dtype=torch.float64)

    def step(self, ids: Tensor, gradient: Tensor, lr: float) -> None:
        beta1, beta2 = self._recipe.betas
        first = self._first[ids].lerp(gradient, 1 - beta1)
        second = beta2 * self._second[ids] + (1 - beta2) * gradient.square()
        steps = self._steps[ids] + 1
        self._first[ids], self._second[ids], self._steps[ids] = first, second, steps
        correction1 = (1 - beta1**steps).to(gradient.dtype)
        correction2 = (1 - beta2**steps).to(gradient.dtype)
        update = (first / correction1) / ((second / correction2).sqrt() + self._recipe.eps)
        self._weights[ids] = self._weights[ids] * (1 - lr * self._recipe.weight_decay) - lr * update


class SparseSGD(SparseOptimizer):
    """SGD with Nesterov momentum and weight decay in the gradient, as torch's."""

    def __init__(self, recipe: Recipe, weights: Tensor) -> None:
        super().__init__(recipe, weights)
        self._momentum = torch.zeros_like(weights)

    def step(self, ids: Tensor, gradient: Tensor, lr: float) -> None:
        weights = self._weights[ids]
        gradient = gradient + self._recipe.weight_decay * weights
        momentum = self._recipe.momentum * self._momentum[ids] + gradient
        self._momentum[ids] = momentum
        self._weights[ids] = weights - lr * (gradient + self._recipe.momentum * momentum)


def sparse_optimizer(recipe: Recipe, weights: Tensor) -> SparseOptimizer:
    """Returns the sparse form of the recipe's optimizer, of `weights` [B, 16]."""
    return (SparseAdamW if recipe.optimizer == "adamw" else SparseSGD)(recipe, weights)
