"""Streaming DiLoCo (Douillard et al. 2025, arXiv 2501.18512): DiLoCo by fragments, overlapped, in 4
bits."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.convergence import codes
from bench.convergence.layout import BLOCK, Layout
from bench.convergence.recipe import step_with
from bench.convergence.rules.outer import OuterNesterov, affordable_rounds, rounds_due
from bench.convergence.rules.rule import Rule, Setting

_BITS = 4


@dataclass(frozen=True)
class _Sent:
    """A fragment's mean outer gradient [length] on its way since step `step`."""

    step: int
    fragment: int
    gradient: Tensor


class StreamingDiLoCo(Rule):
    """The layers fall into `fragments` by turns (layer l to fragment l mod K, the paper's strided
    pattern). Each is synchronised every H steps, the fragments evenly spread over them: theta_p - x_i is
    sent in E3M0 (sign and 3 bits of exponent), summed in fp32, and `overlap` steps later theta_p makes
    its outer Nesterov step and x_i = alpha x_i + (1 - alpha) theta_p.

    H follows from the budget. Bytes are those of an all-gather: a sum of 4-bit numbers is not one of 4
    bits, and the paper does not round it again. What the paper leaves open or differs: a scale of one
    byte per 64 values, for E3M0 has no useful range of its own here; `overlap` is 1, as local-first's
    delay, not 5; layers are few, so a fragment is one or two, not three; embeddings and the last norm
    count as layers.
    """

    def __init__(
        self,
        setting: Setting,
        outer_lr: float = 0.7,
        outer_momentum: float = 0.9,
        fragments: int = 4,
        overlap: int = 1,
        alpha: float = 0.5,
    ) -> None:
        super().__init__(setting)
        self._outer = outer_lr, outer_momentum
        self._overlap = overlap
        self._alpha = alpha
        self._fragments = strided_fragments(self.layout, fragments)
        share = setting.share_of(sum(self._size(elements) for elements in self._fragments))
        self.rounds = affordable_rounds(setting.steps, share, setting.budget)

    def start(self, x: Tensor) -> None:
        self._x = x
        self._weights = [x[0, elements] for elements in self._fragments]
        self._inner = self.recipe.attach(x)
        self._optimizers = [OuterNesterov(weights, *self._outer) for weights in self._weights]
        self._queue: deque[_Sent] = deque()

    def step(self, t: int, lr: float, g: Tensor) -> None:
        self.recipe.clip_(g)
        step_with(self._inner, self._x, g, lr)
        for fragment in range(len(self._fragments)):
            if self._due(t, fragment):
                self._send(t, fragment)
        while self._queue and self._queue[0].step + self._overlap <= t:
            self._merge(self._queue.popleft())

    def consensus(self) -> Tensor:
        weights = self._x.new_zeros(self.layout.width)
        for elements, part in zip(self._fragments, self._weights, strict=True):
            weights[elements] = part
        return weights

    def _due(self, t: int, fragment: int) -> bool:
        """The last fragment's last round arrives with the last step, the others' an even part of H
        before."""
        steps = self.setting.steps
        early = (len(self._fragments) - 1 - fragment) * steps // (self.rounds * len(self._fragments))
        shifted = t + self._overlap + early
        return shifted < steps and rounds_due(shifted, steps, self.rounds)

    def _send(self, t: int, fragment: int) -> None:
        elements = self._fragments[fragment]
        valid = self.layout.valid[elements].view(-1, BLOCK)
        difference = self._weights[fragment] - self._x[:, elements]
        sent = codes.e3m0(difference.view(len(difference), -1, BLOCK), valid).view_as(difference)
        self._queue.append(_Sent(t, fragment, sent.mean(0)))
        self.count_all_gather(self._size(elements))

    def _merge(self, sent: _Sent) -> None:
        elements, weights = self._fragments[sent.fragment], self._weights[sent.fragment]
        self._optimizers[sent.fragment].step(sent.gradient)
        self._x[:, elements] = torch.lerp(weights, self._x[:, elements], self._alpha)

    def _size(self, elements: Tensor) -> int:
        return codes.message_bytes(len(elements) // BLOCK, BLOCK, _BITS)


def strided_fragments(layout: Layout, count: int) -> list[Tensor]:
    """Returns the elements (padding included) of each of `count` fragments, or as many as there are
    layers."""
    layers = list(layout.layers())
    fragments = []
    for first in range(min(count, len(layers))):
        slots = [slot for layer in layers[first::count] for slot in layer]
        ends = [slot.begin + -(-slot.numel // BLOCK) * BLOCK for slot in slots]
        fragments.append(torch.cat([torch.arange(s.begin, end) for s, end in zip(slots, ends, strict=True)]))
    return fragments
