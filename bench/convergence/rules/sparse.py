"""rule="sparse": error feedback and sparse optimizers, StellaTrain (SIGCOMM 2024) 3.1-3.3."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.convergence import codes
from bench.convergence.rules.rule import Rule, Setting
from bench.convergence.rules.sparse_optimizer import sparse_optimizer

_BLOCK = 16  # elements: one cache line of fp32
_PLAIN = 32  # bits of a value that is sent as fp32


@dataclass(frozen=True)
class _Merged:
    """What all sent in one step: `values` [U, 16], their mean, of blocks `ids` [U]; `lr` of that step."""

    ids: Tensor
    values: Tensor
    lr: float


class Sparse(Rule):
    """Each member adds its gradient to a residual and sends the residual's largest blocks of 16; all step
    on the union of the blocks, with a mean over all members and a step count per block.

    Blocks are the exact largest by sum of magnitudes (the engine meets the same number by a threshold).
    Payload by docs/encoding.md: `bits` 32 is fp32, 4 the product's int4; indices in the cheaper of gaps
    and bit map, counted as they fall. `staleness` 1: the forward of step t sees the updates of the steps
    up to t-2.
    """

    def __init__(self, setting: Setting, bits: int = _PLAIN, staleness: int = 1) -> None:
        super().__init__(setting)
        self._bits = bits
        self._staleness = staleness
        self._valid = self.layout.valid.view(-1, _BLOCK)
        self._real = self._valid[:, 0]  # [width / 16]: False where the layout's padding fills a block
        self._number = self._real.cumsum(0) - 1  # a real block's id on the wire
        self._blocks = int(self._real.sum())
        self.count = self._affordable_blocks()

    def start(self, x: Tensor) -> None:
        self._x = x
        self._weights = x[0].clone()
        self._residuals = torch.zeros_like(x)
        self._optimizer = sparse_optimizer(self.recipe, self._weights.view(-1, _BLOCK))
        self._queue: deque[_Merged] = deque()

    def step(self, t: int, lr: float, g: Tensor) -> None:
        self.recipe.clip_(g)
        self._residuals += g
        self._queue.append(self._exchange(lr))
        if len(self._queue) > self._staleness:
            merged = self._queue.popleft()
            self._optimizer.step(merged.ids, merged.values, merged.lr)
            self._x.copy_(self._weights)

    def consensus(self) -> Tensor:
        return self._weights

    def _exchange(self, lr: float) -> _Merged:
        """Moves the largest blocks out of the residuals, and counts them as sent."""
        members = self.setting.members
        residuals = self._residuals.view(members, -1, _BLOCK)
        scores = residuals.abs().sum(-1)
        scores[:, ~self._real] = -1.0
        ids = scores.topk(self.count, dim=1, sorted=False).indices  # [N, count]
        chosen = ids[..., None].expand(-1, -1, _BLOCK)
        sent = residuals.gather(1, chosen)
        if self._bits < _PLAIN:
            sent = torch.stack(
                [
                    codes.block_code(x[None], self._valid[own], self._bits)[0]
                    for x, own in zip(sent, ids, strict=True)
                ]
            )
        residuals.scatter_add_(1, chosen, -sent)
        union, position = ids.unique(return_inverse=True)
        values = sent.new_zeros(len(union), _BLOCK)
        for member in range(members):
            values[position[member]] += sent[member]
        self._count_bytes(ids)
        return _Merged(union, values / members, lr)

    def _count_bytes(self, ids: Tensor) -> None:
        """Members choose other blocks and so pay different indices: the mean counts."""
        index = sum(index_bytes(self._number[own], self._blocks) for own in ids) / len(ids)
        self.count_all_gather(self._value_bytes() * self.count + index)

    def _value_bytes(self) -> int:
        return 4 * _BLOCK if self._bits == _PLAIN else codes.message_bytes(1, _BLOCK, self._bits)

    def _affordable_blocks(self) -> int:
        """The largest number of blocks whose payload the budget carries, were they evenly spread."""
        least, most = 1, self._blocks
        while least < most:
            count = (least + most + 1) // 2
            even = torch.linspace(0, self._blocks - 1, count).long()
            fits = self._value_bytes() * count + index_bytes(even, self._blocks) <= self.setting.message
            least, most = (count, most) if fits else (least, count - 1)
        return least


def index_bytes(ids: Tensor, blocks: int) -> int:
    """Bytes that say which `ids` [count] of `blocks` are sent: nothing for all, varints of gaps, or a bit
    map."""
    if len(ids) == blocks:
        return 0
    ascending = ids.sort().values
    gaps = torch.diff(ascending, prepend=ascending.new_tensor([-1])) - 1
    varints = sum(int((gaps >= limit).sum()) for limit in (0, 1 << 7, 1 << 14, 1 << 21))
    return min(varints, -(-blocks // 8))
