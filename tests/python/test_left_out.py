"""rule="local" with a member that stands still: the others go on, and it comes back with what it learned."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest
import torch
from conftest import forkserver, free_port, membership_of
from training import adamw, loss_of, mlp, vectors

from stellatrain.environment import Membership
from stellatrain.run import Run

MEMBERS = 3
PATIENCE = 1.0  # seconds


def train_until_told(who: Membership, pipe: Connection) -> None:
    """Reports "training" after a few steps; answers "stats"; ends at "finish", and reports the digest, or how
    it failed."""
    torch.set_num_threads(1)
    try:
        with Run(who) as run:
            net = mlp()
            _, optimizer = run.distribute(net, adamw(net), rule="local", max_drift=60)
            told = "begin"
            while told != "finish":
                for batch in vectors(5, 4):
                    optimizer.zero_grad()
                    loss_of(net, batch).backward()
                    optimizer.step()
                    time.sleep(0.005)
                if told == "begin":
                    pipe.send("training")
                told = pipe.recv() if pipe.poll() else ""
                if told == "stats":
                    pipe.send(run.stats())
            run.finish()
            pipe.send(run.digest())
    except BaseException as failure:
        pipe.send(f"{type(failure).__name__}: {failure}")


class Trainers:
    """Processes that train."""

    def __init__(self) -> None:
        self.pipes, self.processes = [], []
        port = free_port()
        for rank in range(MEMBERS):
            who = membership_of(rank, MEMBERS, port, name=f"office-{rank}", peer_timeout=PATIENCE)
            here, there = forkserver().Pipe()
            process = forkserver().Process(target=train_until_told, args=(who, there))
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)
        for rank in range(MEMBERS):
            assert self.next(rank) == "training"

    def next(self, rank: int) -> Any:
        assert wait([self.pipes[rank]], 40), f"member {rank} says nothing"
        return self.pipes[rank].recv()

    def stats(self, rank: int) -> dict[str, float]:
        self.pipes[rank].send("stats")
        return self.next(rank)

    def signal(self, rank: int, number: int) -> None:
        os.kill(self.processes[rank].pid, number)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


@pytest.mark.parametrize("stopped", range(MEMBERS), ids=["the coordinator", "another", "the last"])
def test_a_member_that_is_stopped_holds_nobody_up_and_comes_back(stopped: int) -> None:
    trainers = Trainers()
    try:
        others = [rank for rank in range(MEMBERS) if rank != stopped]
        trainers.signal(stopped, signal.SIGSTOP)
        time.sleep(PATIENCE + 1)
        before = [trainers.stats(rank) for rank in others]
        time.sleep(2)
        after = [trainers.stats(rank) for rank in others]
        for one, other in zip(before, after, strict=True):
            assert other["iteration"] > one["iteration"] + 50
            if stopped != 0:  # without the coordinator nobody says which rounds count
                assert other["blocks_applied"] > one["blocks_applied"]
        trainers.signal(stopped, signal.SIGCONT)
        for rank in range(MEMBERS):
            trainers.pipes[rank].send("finish")
        digests = [trainers.next(rank) for rank in range(MEMBERS)]
        assert isinstance(digests[0], int), digests
        assert digests == [digests[0]] * MEMBERS
    finally:
        trainers.end()


def test_a_member_that_dies_is_a_lost_one_all_the_same() -> None:
    trainers = Trainers()
    try:
        trainers.signal(1, signal.SIGKILL)
        for rank in (0, 2):
            sentence = trainers.next(rank)
            assert "member 1 (office-1" in sentence
            assert sentence.endswith("; to go on, start all members again and load the last checkpoint")
    finally:
        trainers.end()
