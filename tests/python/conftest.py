"""Several members in one process, each a thread with a Run of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from stellatrain import _core
from stellatrain.environment import Membership
from stellatrain.run import Run

SECRET = _core.new_secret()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_members(world_size: int, body: Callable[[Run], Any], **overrides: Any) -> list[Any]:
    """Calls body(run) on `world_size` threads, each a member of one run; their results by rank.

    Raises the first member's exception, after all have ended.
    """
    outcomes = outcomes_of_members(world_size, body, **overrides)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


def outcomes_of_members(world_size: int, body: Callable[[Run], Any], **overrides: Any) -> list[Any]:
    """As run_members, but exceptions are results too."""
    port = free_port()
    outcomes: list[Any] = [None] * world_size

    def member(rank: int) -> None:
        settings = {
            "rank": rank,
            "world_size": world_size,
            "coordinator": f"127.0.0.1:{port}",
            "port": port if rank == 0 else 0,
            "secret": SECRET,
            "join_timeout": 30.0,
        } | overrides
        try:
            with Run(Membership(**settings)) as run:
                outcomes[rank] = body(run)
        except BaseException as problem:
            outcomes[rank] = problem

    threads = [threading.Thread(target=member, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a member hangs"
    return outcomes


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)
