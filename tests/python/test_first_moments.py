"""The optimizer's state at the start of a run: everybody gets member 0's, in few broadcasts."""

from __future__ import annotations

import pytest
import torch
from conftest import outcomes_of_members, run_members
from training import EXACT, adamw, mlp

from stellatrain import Error, _core, optimizer_state
from stellatrain.run import Run


class Recorded:
    """A session that notes the collectives, and may hear from member 0 what it did not say."""

    def __init__(self, session: _core.Session, heard: bytes | None = None):
        self.session, self.heard = session, heard
        self.broadcasts: list[int] = []

    def all_gather(self, tag: str, mine: bytes) -> list[bytes]:
        said = self.session.all_gather(tag, mine)
        return said if self.heard is None else [self.heard, *said[1:]]

    def describe(self, rank: int) -> str:
        return self.session.describe(rank)

    def broadcast(self, tag: str, root: int, address: int, size: int) -> None:
        self.broadcasts.append(size)
        self.session.broadcast(tag, root, address, size)


@pytest.mark.parametrize(
    ("packed", "broadcasts"), [(64 << 20, 1), (8192, 3), (1, 18)], ids=["one", "some", "one for each"]
)
def test_first_moments_travel_in_few_broadcasts(
    monkeypatch: pytest.MonkeyPatch, packed: int, broadcasts: int
) -> None:
    """Each costs two trips over the network. mlp() lies in buckets in 6 pieces, with 3 arrays of AdamW."""
    monkeypatch.setattr(optimizer_state, "_PACKED", packed)

    def member(run: Run):
        net = mlp()
        optimizer = run.distribute(net, adamw(net), **EXACT, rule="sparse")[1]
        for name, index, _, begin, _, values in optimizer_state.slices(optimizer.engine):
            if name != "weights":
                values.fill_(100 * run.rank + 10 * index + begin + len(name))
        session = Recorded(run.session)
        optimizer_state.share_state(session, optimizer.engine)
        state = [
            (name, index, begin, *values.to(torch.float64).unique().tolist())
            for name, index, shared, begin, _, values in optimizer_state.slices(optimizer.engine)
            if shared and name != "weights"
        ]
        run.session.leave()
        return state, len(session.broadcasts)

    first, second = run_members(2, member)
    assert first == second
    state, made = first
    assert len(state) == 6 * 3
    for name, index, begin, *values in state:
        assert values == [10.0 * index + begin + len(name)]  # member 0's
    assert made == broadcasts


@pytest.mark.parametrize(
    "heard",
    [
        b"",
        b"\xff",
        b"5",
        b"null",
        b'[["exp_avg"]]',
        b'[["exp_avg", "0"]]',
        b'[["exp_avg", -1]]',
        b'[["exp_avg", 4]]',
        b'[["exp_avg", true]]',
        b"[[5, 0]]",
        b'[["momentum_buffer", 0]]',
        b"[" * 100_000,
    ],
    ids=lambda heard: repr(heard[:40]),
)
def test_a_list_of_moments_that_cannot_be_is_an_error_that_names_the_member(heard: bytes) -> None:
    def member(run: Run):
        net = mlp()
        optimizer = run.distribute(net, adamw(net), **EXACT, rule="sparse")[1]
        optimizer_state.share_state(Recorded(run.session, heard), optimizer.engine)

    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert failure.code == "protocol"
    assert "member 0 " in str(failure)
