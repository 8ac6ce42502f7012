"""Several members in one process, each a thread with a Run of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NoReturn

import pytest
import torch

from stellatrain import _core
from stellatrain.environment import Membership
from stellatrain.run import Run

SECRET = _core.new_secret()


def free_port() -> int:
    """Not one that the system may hand out, as to a member with port 0, before its turn comes."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def membership_of(rank: int, world_size: int, at: int, **overrides: Any) -> Membership:
    """A member on the loopback; member 0 listens at the port `at`."""
    settings = {
        "rank": rank,
        "world_size": world_size,
        "coordinator": f"127.0.0.1:{at}",
        "port": at if rank == 0 else 0,
        "secret": SECRET,
        "join_timeout": 30.0,
    }
    return Membership(**(settings | overrides))


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
    # A member that ends while others still join ends their join, too.
    joined = threading.Barrier(world_size)

    def member(rank: int) -> None:
        try:
            with Run(membership_of(rank, world_size, port, **overrides)) as run:
                with contextlib.suppress(threading.BrokenBarrierError):  # not everybody joined
                    joined.wait()
                outcomes[rank] = body(run)
        except BaseException as problem:
            joined.abort()
            outcomes[rank] = problem

    threads = [threading.Thread(target=member, args=(rank,), daemon=True) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a member hangs"
    return outcomes


def run_processes(world_size: int, body: Callable[..., Any], *arguments: Any) -> list[Any]:
    """As run_members, but every member is a process, with a random generator of its own.

    body(run, *arguments) is a function of a module.
    """
    port = free_port()
    with ProcessPoolExecutor(world_size, mp_context=forkserver()) as pool:
        members = [membership_of(rank, world_size, port) for rank in range(world_size)]
        futures = [pool.submit(_process, who, body, arguments) for who in members]
        return [future.result(60) for future in futures]


def forkserver() -> multiprocessing.context.BaseContext:
    """Processes that need not import torch anew, and inherit no threads."""
    context = multiprocessing.get_context("forkserver")
    # torch imports _dynamo when the first optimizer is made.
    context.set_forkserver_preload(["torch._dynamo", "pytest", "stellatrain.checkpoint"])
    return context


def _process(who: Membership, body: Callable[..., Any], arguments: tuple) -> Any:
    torch.set_num_threads(1)
    with Run(who) as run:
        return body(run, *arguments)


def lacking(reason: str) -> NoReturn:
    """Skips a test that this machine forbids to ordinary users. For root, and in CI, it must run."""
    if os.geteuid() == 0 or "CI" in os.environ:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)
