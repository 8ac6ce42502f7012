"""SparseLoCo (Sarfi et al. 2025, arXiv 2508.15706): DiLoCo with top-k, 2 bits and error feedback."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.convergence.layout import Slot
from bench.convergence.recipe import step_with
from bench.convergence.rules.outer import affordable_rounds, rounds_due
from bench.convergence.rules.rule import Rule, Setting

CHUNK = 4096  # elements of which the largest are chosen
_INDEX_BITS = 12  # a position within a chunk
_VALUE_BITS = 2
_RANGE = 6.0  # standard deviations that the 4 bins span
_TABLE_BYTES = 4 * (2**_VALUE_BITS + 1)  # per tensor: what each bin means, and the shift


class SparseLoCo(Rule):
    """After H own steps, with Delta_i = theta - x_i: e_i = 0.95 e_i + Delta_i; the largest of e_i in each
    chunk of 4096 are sent in 2 bits, e_i -= what was sent; theta -= outer_lr x mean, and all go on from
    theta.

    Quantisation as in the authors' code: 4 bins over 6 standard deviations of a tensor's chosen values
    round their mean; a bin stands for the mean of what fell into it. 12 bits per index, 2 per value, 20
    bytes per tensor; sent by all-gather. `density`: the share that is chosen, by default 1/32 (the
    paper's 1 to 3 %); H follows from the budget, or, with `h` given (the paper: 15 and more), the density
    does. The merge is the paper's mean over all members (the authors' code has also been seen to average
    over those that sent a value). Chunks are consecutive elements of a tensor here, the paper's are tiles
    of 64 x 64; a short chunk sends its share.
    """

    def __init__(
        self,
        setting: Setting,
        density: float = 1 / 32,
        h: int | None = None,
        outer_lr: float = 1.0,
        decay: float = 0.95,
    ) -> None:
        super().__init__(setting)
        self._outer_lr = outer_lr
        self._decay = decay
        if h:
            self.rounds = max(1, setting.steps // h)
            self.density = self._affordable_density()
        else:
            self.density = density
            share = setting.share_of(self.message_bytes(density))
            self.rounds = affordable_rounds(setting.steps, share, setting.budget)

    def start(self, x: Tensor) -> None:
        self._x = x
        self._weights = x[0].clone()
        self._errors = torch.zeros_like(x)
        self._inner = self.recipe.attach(x)

    def step(self, t: int, lr: float, g: Tensor) -> None:
        self.recipe.clip_(g)
        step_with(self._inner, self._x, g, lr)
        if rounds_due(t, self.setting.steps, self.rounds):
            self._exchange()

    def consensus(self) -> Tensor:
        return self._weights

    def message_bytes(self, density: float) -> float:
        """Bytes of one member's message."""
        bits = _INDEX_BITS + _VALUE_BITS
        return sum(_TABLE_BYTES + _chosen(slot, density) * bits / 8 for slot in self.layout.slots)

    def _exchange(self) -> None:
        self._errors.mul_(self._decay).add_(self._weights - self._x)
        sent = torch.zeros_like(self._errors)
        for slot in self.layout.slots:
            elements = slice(slot.begin, slot.begin + slot.numel)
            sent[:, elements] = chosen_in_two_bits(self._errors[:, elements], self.density)
        self._errors -= sent
        self._weights -= self._outer_lr * sent.mean(0)
        self._x.copy_(self._weights)
        self.count_all_gather(self.message_bytes(self.density))

    def _affordable_density(self) -> float:
        """The largest density that the budget carries with the given number of rounds, to a part in 1000."""
        affordable = self.setting.message * self.setting.steps / self.rounds  # bytes of a round
        if self.message_bytes(1.0) <= affordable:
            return 1.0
        low, high = 1 / CHUNK, 1.0
        while high / low > 1.001:
            middle = (low * high) ** 0.5
            low, high = (middle, high) if self.message_bytes(middle) <= affordable else (low, middle)
        return low


def chosen_in_two_bits(errors: Tensor, density: float) -> Tensor:
    """Returns what is sent of a tensor's `errors` [N, numel], decoded, and 0 elsewhere."""
    sent = torch.zeros_like(errors)
    for begin, length in _chunks(errors.shape[1]):
        chunk = errors[:, begin : begin + length]
        ids = chunk.abs().topk(_count(length, density), dim=1).indices
        sent[:, begin : begin + length].scatter_(1, ids, chunk.gather(1, ids))
    for row in sent:
        chosen = row.nonzero()[:, 0]
        row[chosen] = _two_bits(row[chosen])
    return sent


def _two_bits(values: Tensor) -> Tensor:
    """Returns `values` [n], each as the mean of those in its bin."""
    if len(values) < 2:
        return values
    centred = values - values.mean()
    scale = _RANGE * centred.std() / 2**_VALUE_BITS
    if not scale > 0:
        return values.mean().expand_as(values)
    bins = (centred / scale + 2 ** (_VALUE_BITS - 1)).round().clamp(0, 2**_VALUE_BITS - 1).long()
    sums = values.new_zeros(2**_VALUE_BITS).index_add_(0, bins, values)
    counts = torch.bincount(bins, minlength=2**_VALUE_BITS).clamp(min=1)
    return (sums / counts)[bins]


def _chunks(numel: int) -> list[tuple[int, int]]:
    """(begin, length) of each chunk of a tensor."""
    return [(begin, min(CHUNK, numel - begin)) for begin in range(0, numel, CHUNK)]


def _count(length: int, density: float) -> int:
    """How many elements of a chunk are sent."""
    return min(length, max(1, round(length * density)))


def _chosen(slot: Slot, density: float) -> int:
    return sum(_count(length, density) for _, length in _chunks(slot.numel))
