"""rule="local" (local-first): every member steps at once on its own gradient; all tell each other, piece
by piece, what the others have not seen of their weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.convergence import codes
from bench.convergence.layout import BLOCK
from bench.convergence.recipe import step_with
from bench.convergence.rules.rule import Rule, Setting

_PLAIN = 32  # bits of a value that is sent as fp32
_CODES = 8  # bits of a value, where a link carries so many
_CHUNK = 1024  # values of which the largest are sent, where not all are


@dataclass(frozen=True)
class _Round:
    """Codes on their way: what each member said of `fragment`, decoded, [N, length]."""

    step: int
    fragment: slice
    codes: Tensor


class Pull:
    """src/control/pull.cpp, of one member."""

    MOST, LEAST = 0.5, 0.001

    def __init__(self) -> None:
        self.hidden = self.MOST
        self._values = self._onwards = 0

    def told(self, values: int, onwards: int) -> None:
        """Of so many told values, `onwards` go where W went there last."""
        self._values += values
        self._onwards += onwards
        if self._values >= 256:
            part = self._onwards / self._values
            self.hidden = min(max(self.hidden * (1 + 0.5 * (part - 0.45)), self.LEAST), self.MOST)
            self._values = self._onwards = 0

    @property
    def shown(self) -> float:
        return (1 - self.hidden / self.MOST) ** 2


class Local(Rule):
    """Each step: the user's optimizer moves x_i; a fragment of d_i = x_i - W - (own codes in flight) is
    sent as code(d_i), and `delay` steps later, with c_i the codes and G their mean, W += G and x_i += G -
    c_i.

    What a member has not told is x_i - W, and what is hidden (below). Fragments are windows of blocks of 64
    that go round the parameters; their length follows from the budget, and is `part` of the model at most.
    All weights are equal, and all members take part in every round.

    `bits` of a value, 1, 2, 4, 8 or 32; or 0, signs: of each 1024 values of a fragment only the `share` of
    the largest is sent (codes.sparse_signs). By default 8 where such a part goes in every step, else signs.

    `pull`, with signs: when a fragment is merged, that share of what a member shows beside W and has not told
    is hidden from its own model, in a residual that is told all the same, and first. By default as
    src/control/pull.cpp chooses it.
    """

    def __init__(
        self,
        setting: Setting,
        bits: int | None = None,
        delay: int = 1,
        share: float = 1 / 64,
        pull: float | None = None,
        part: float = 0.5,
    ) -> None:
        super().__init__(setting)
        self._part = part
        self._delay = delay
        self._share = share
        self._blocks = self.layout.width // BLOCK
        self._valid = self.layout.valid.view(-1, BLOCK)
        self.bits = self._affordable_bits() if bits is None else bits
        self._given_pull = pull
        self._per_step = min(part * self._blocks, setting.message / self._block_bytes())  # blocks, on average

    def start(self, x: Tensor) -> None:
        self._x = x
        self._weights = x[0].clone()
        self._in_flight = torch.zeros_like(x)
        self._hidden = torch.zeros_like(x) if self.bits == 0 else None
        self._went = torch.zeros_like(self._weights)  # the signs of the last changes of W
        self._pulls = [Pull() for _ in x]
        self._rounds: deque[_Round] = deque()
        self._optimizer = self.recipe.attach(x)

    def step(self, t: int, lr: float, g: Tensor) -> None:
        self.recipe.clip_(g)
        step_with(self._optimizer, self._x, g, lr)
        for fragment in self._fragments(t):
            self._send(t, fragment)
        while self._rounds and self._rounds[0].step + self._delay <= t:
            self._merge(self._rounds.popleft())

    def consensus(self) -> Tensor:
        return self._weights

    def _send(self, t: int, fragment: slice) -> None:
        untold = self._x[:, fragment] - self._weights[fragment] - self._in_flight[:, fragment]
        if self._hidden is not None:
            untold += self._hidden[:, fragment]
        if self.bits == 0:
            said, sizes = codes.sparse_signs(untold, self._share, _CHUNK)
            size = sizes.mean().item()
        else:
            said = self._coded(untold, self._valid[fragment.start // BLOCK : fragment.stop // BLOCK])
            size = self._size(fragment)
        self._in_flight[:, fragment] += said
        self._rounds.append(_Round(t, fragment, said))
        self.count_all_gather(size)

    def _merge(self, round_: _Round) -> None:
        fragment, mean = round_.fragment, round_.codes.mean(0)
        self._weights[fragment] += mean
        self._x[:, fragment] += mean - round_.codes
        self._in_flight[:, fragment] -= round_.codes
        if self._hidden is None:
            return
        for member, told in enumerate(round_.codes):
            shares = self._shares(self._pulls[member], told, self._went[fragment])
            known = self._weights[fragment] + self._in_flight[member, fragment]
            self._hide(self._x[member, fragment], self._hidden[member, fragment], told, known, *shares)
        self._went[fragment] = torch.where(mean != 0, mean.sign(), self._went[fragment])

    def _shares(self, pull: Pull, told: Tensor, went: Tensor) -> tuple[float, float]:
        if self._given_pull is not None:
            return self._given_pull, 0.0
        pull.told(int((told * went != 0).sum()), int((told * went > 0).sum()))
        return pull.hidden, pull.shown

    def _hide(
        self, x: Tensor, aside: Tensor, told: Tensor, known: Tensor, hidden: float, shown: float
    ) -> None:
        """What was hidden is told first; then a share of the rest is hidden, and one of that shown again."""
        back = torch.where(told * aside > 0, _less(told, aside), 0.0)
        x += back
        aside -= back
        away = hidden * (x - known)
        away -= shown * (aside + away)
        x -= away
        aside += away

    def _fragments(self, t: int) -> Iterator[slice]:
        """Yields the elements whose turn it is: one window, or two where it goes round the end."""
        begin, end = int(t * self._per_step), int((t + 1) * self._per_step)
        while begin < end:
            first = begin % self._blocks
            length = min(end - begin, self._blocks - first)
            yield slice(first * BLOCK, (first + length) * BLOCK)
            begin += length

    def _coded(self, x: Tensor, valid: Tensor) -> Tensor:
        """Returns what `x` [N, length] decodes to; `valid` [length / 64, 64]."""
        if self.bits == _PLAIN:
            return x
        return codes.block_code(x.view(len(x), -1, BLOCK), valid, self.bits).view_as(x)

    def _size(self, fragment: slice) -> float:
        """Bytes of a fragment; padding is sent as part of its block of codes, but not as fp32."""
        if self.bits == _PLAIN:
            return 4 * int(self.layout.valid[fragment].sum())
        return (fragment.stop - fragment.start) // BLOCK * self._block_bytes()

    def _block_bytes(self) -> float:
        if self.bits == 0:
            return codes.sparse_signs_bits(self._share, _CHUNK) * BLOCK / 8
        if self.bits == _PLAIN:
            return 4 * self.layout.parameters / self._blocks
        return codes.message_bytes(1, BLOCK, self.bits)

    def _affordable_bits(self) -> int:
        whole = codes.message_bytes(self._blocks, BLOCK, _CODES)
        return _CODES if self._part * whole <= self.setting.message else 0


def _less(a: Tensor, b: Tensor) -> Tensor:
    """Returns the lesser magnitude of the two, with the sign of `a`."""
    return torch.minimum(a.abs(), b.abs()).copysign(a)
