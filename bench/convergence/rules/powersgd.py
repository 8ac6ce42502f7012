"""PowerSGD (Vogels et al., NeurIPS 2019, arXiv 1905.13727) as torch's DDP hook does it."""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from bench.convergence.layout import Slot
from bench.convergence.rules.dense import Dense
from bench.convergence.rules.rule import Setting

_MIN_COMPRESSION = 2  # the hook's min_compression_rate: what gains less is sent whole
_LARGEST_RANK = 64


class PowerSGD(Dense):
    """M = P Q^T for every tensor of two and more dimensions, with error feedback and warm start; P and Q
    are summed by ring all-reduce in fp32, tensors of one dimension whole. No staleness.

    As torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook with one bucket, by the same formulas.
    Two things differ, both in its favour: `dense_steps` (the hook's start_powerSGD_iter, which DDP wants
    to be 2 at least and torch sets to 1000) is 0, for its bytes count here; and `epsilon` keeps a matrix
    of zeros from becoming NaN. `rank`: by default the largest that the budget carries, 1 at least.
    """

    def __init__(
        self, setting: Setting, rank: int | None = None, dense_steps: int = 0, epsilon: float = 1e-8
    ) -> None:
        super().__init__(setting)
        self._epsilon = epsilon
        self._dense_steps = dense_steps
        self.rank = rank or self._affordable_rank()
        self._matrices = self._compressed(self.rank)

    def start(self, x: Tensor) -> None:
        super().start(x)
        self._errors = torch.zeros_like(x)
        self._qs: list[Tensor] = []

    def message_bytes(self, rank: int) -> int:
        """Bytes of P, Q and the tensors that are sent whole."""
        matrices = self._compressed(rank)
        low_rank = sum(_rank(slot, rank) * sum(_shape(slot)) for slot in matrices)
        return 4 * (low_rank + self.layout.parameters - sum(slot.numel for slot in matrices))

    def _reduce(self, g: Tensor) -> Tensor:
        if self._dense_steps > 0:
            self._dense_steps -= 1
            return super()._reduce(g)
        self.count_all_reduce(self.message_bytes(self.rank))
        mean = g.mean(0)  # stays for the tensors that are sent whole
        if not self._qs:
            self._qs = self._random_qs()
        for number, slot in enumerate(self._matrices):
            error = slot.of(self._errors).flatten(2)  # [N, n, m]
            m = slot.of(g).flatten(2) + error
            q = _orthogonal(self._qs[number], self._epsilon)
            p = _orthogonal((m @ q).sum(0), self._epsilon)
            q = (m.transpose(1, 2) @ p).mean(0)
            approximation = p @ q.T  # [n, m]
            error.copy_(m - approximation)
            slot.of(mean).copy_(approximation.view(slot.shape))
            self._qs[number] = q
        return mean

    def _random_qs(self) -> list[Tensor]:
        """The hook's own draw: one generator, seeded through numpy, for all matrices in its order."""
        seed = numpy.random.RandomState(self.setting.seed).randint(1_000_000_000)
        generator = torch.Generator().manual_seed(seed)
        dtype = self._weights.dtype
        return [
            torch.randn(1, _shape(slot)[1], _rank(slot, self.rank), generator=generator, dtype=dtype)[0]
            for slot in self._matrices
        ]

    def _compressed(self, rank: int) -> list[Slot]:
        """The slots worth compressing, in the hook's order: gradients as they become ready, that is
        backwards, equal shapes next to each other."""
        by_shape: dict[tuple[int, int], list[Slot]] = {}
        for slot in reversed(self.layout.slots):
            n, m = _shape(slot)
            if (n + m) * _rank(slot, rank) * _MIN_COMPRESSION < n * m:
                by_shape.setdefault((n, m), []).append(slot)
        return [slot for slots in by_shape.values() for slot in slots]

    def _affordable_rank(self) -> int:
        if self.setting.budget is None:
            return 4
        size = self.setting.budget * 4 * self.layout.parameters  # of an all-reduce
        ranks = [rank for rank in range(1, _LARGEST_RANK + 1) if self.message_bytes(rank) <= size]
        return max(ranks, default=1)


def _shape(slot: Slot) -> tuple[int, int]:
    rows = slot.shape[0] if slot.shape else 1
    return rows, slot.numel // rows


def _rank(slot: Slot, rank: int) -> int:
    return min(*_shape(slot), rank)


def _orthogonal(matrix: Tensor, epsilon: float) -> Tensor:
    """Returns an orthonormal basis of the columns of `matrix` [n, r]: Gram-Schmidt up to rank 2, then
    QR."""
    if matrix.shape[1] > 2:
        return torch.linalg.qr(matrix).Q
    columns: list[Tensor] = []
    for column in matrix.unbind(1):
        for other in columns:
            column = column - (other * column).sum() * other
        column = column / (torch.linalg.vector_norm(column) + epsilon)
        if epsilon == 0:  # the hook divides twice there
            column = column / torch.linalg.vector_norm(column)
        columns.append(column)
    return torch.stack(columns, dim=1)
