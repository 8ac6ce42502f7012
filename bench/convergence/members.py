"""The members of a virtual run: N copies of a model whose parameters are views into one tensor."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bench.convergence.layout import Layout
from bench.convergence.tasks.task import Batch, Task


class Members:
    """N members with equal weights at first. A rule moves `weights`; `compute` fills `gradients`.

    weights, gradients  [N, width] fp32: row i is member i's; its model's parameters are views of them
    """

    def __init__(self, model: nn.Module, count: int) -> None:
        self.layout = Layout(model)
        self.weights = torch.zeros(count, self.layout.width)
        self.gradients = torch.zeros(count, self.layout.width)
        self._models = [copy.deepcopy(model) for _ in range(count)]
        for member, net in enumerate(self._models):
            self._bind(net, self.weights[member], self.gradients[member])
        self._evaluated = copy.deepcopy(model)

    def compute(self, task: Task, batches: list[Batch]) -> Tensor:
        """Forward and backward of each member on its own batch. Returns the training losses, [N]."""
        self.gradients.zero_()
        losses = []
        for net, batch in zip(self._models, batches, strict=True):
            net.train()
            loss = task.loss(net, batch)
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses)

    @torch.no_grad()
    def consensus(self, weights: Tensor) -> nn.Module:
        """Returns a model in evaluation mode with `weights` [width] and the members' buffers: the mean
        of those in floating point (BatchNorm's statistics), member 0's of the others."""
        net = self._evaluated
        for slot, parameter in zip(self.layout.slots, net.parameters(), strict=True):
            parameter.copy_(slot.of(weights).view_as(parameter))
        for buffer, *each in zip(net.buffers(), *(member.buffers() for member in self._models), strict=True):
            buffer.copy_(torch.stack(each).mean(0) if buffer.is_floating_point() else each[0])
        return net.eval()

    def _bind(self, net: nn.Module, weights: Tensor, gradients: Tensor) -> None:
        """Moves the parameters of `net` into `weights` and its gradients into `gradients`, both [width]."""
        for slot, parameter in zip(self.layout.slots, net.parameters(), strict=True):
            view = slot.of(weights).view(parameter.shape)
            view.copy_(parameter.detach())
            parameter.data = view
            parameter.grad = slot.of(gradients).view(parameter.shape)
