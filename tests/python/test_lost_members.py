"""A member that dies, freezes or fails is named by all others, soon. Every member is a process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SECRET, forkserver, free_port, membership_of, outcomes_of_members
from scripts import SCRIPT, outputs, start, weights_printed
from training import adamw, loss_of, mlp, vectors

from stellatrain.environment import Membership
from stellatrain.run import Run

WORLD_SIZE = 4
NAMED_WITHIN = 15  # seconds, with the default peer timeout


def train_for_ever(who: Membership, report: Connection, pause: float, forks: bool = False) -> None:
    """Reports "training", then how it ended: (exception's type, sentence, time).

    forks: before "training" it reports a child that it forked.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    try:
        with Run(who) as run:
            net = mlp()
            _, optimizer = run.distribute(net, adamw(net), density=0.1, rule="sparse")
            step = 0
            while True:
                for batch in vectors(5, 4):
                    optimizer.zero_grad()
                    loss_of(net, batch).backward()
                    optimizer.step()
                    step += 1
                    if step == 5:
                        if forks:
                            report.send(child_that_sleeps())
                        report.send("training")
                    time.sleep(pause)
    except BaseException as failure:
        report.send((type(failure).__name__, str(failure), time.monotonic()))


def child_that_sleeps() -> int:
    """As a DataLoader's worker: forked in the middle of training, and outlives its parent."""
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    return child


def wait_for_port(port: int, seconds: float) -> None:
    """Until somebody could listen there."""
    deadline = time.monotonic() + seconds
    while True:
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                again.bind(("127.0.0.1", port))
                return again.listen()
            except OSError:
                assert time.monotonic() < deadline, f"port {port} is still taken"
        time.sleep(0.05)


class Members:
    """Processes that train until one of them is hurt."""

    def __init__(self, world_size: int, forking: int | None = None, **overrides: Any):
        self.port = port = free_port()
        self.child = None
        self.processes, self.reports = [], []
        for rank in range(world_size):
            who = membership_of(rank, world_size, port, name=f"office-{rank}", **overrides)
            here, there = forkserver().Pipe()
            process = forkserver().Process(target=train_for_ever, args=(who, there, 0.005, rank == forking))
            process.start()
            there.close()
            self.processes.append(process)
            self.reports.append(here)
        if forking is not None:
            self.child = self.next_report(forking, 40)
        for rank in range(world_size):
            assert self.next_report(rank, 40) == "training"

    def signal(self, rank: int, number: int) -> None:
        os.kill(self.processes[rank].pid, number)

    def next_report(self, rank: int, seconds: float) -> Any:
        assert wait([self.reports[rank]], seconds), f"member {rank} reported nothing within {seconds} s"
        return self.reports[rank].recv()

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        if self.child is not None:
            os.kill(self.child, signal.SIGKILL)


@pytest.fixture
def four() -> Iterator[Members]:
    members = Members(WORLD_SIZE)
    yield members
    members.end()


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM], ids=["killed", "frozen", "ended"]
)
@pytest.mark.parametrize("lost", [2])
def test_a_lost_member_is_named_by_every_survivor(four: Members, number: int, lost: int) -> None:
    four.signal(lost, number)
    begin = time.monotonic()
    for rank in set(range(WORLD_SIZE)) - {lost}:
        kind, sentence, at = four.next_report(rank, NAMED_WITHIN)
        assert kind == "Error"
        assert f"member {lost} (office-{lost}" in sentence
        assert re.search(r"\(in iteration [1-9]\d*\); to go on, start all members again and load", sentence)
        assert at - begin < (NAMED_WITHIN if number == signal.SIGSTOP else 2)


def test_the_coordinator_is_a_member_like_every_other_once_all_have_joined(four: Members) -> None:
    four.signal(0, signal.SIGKILL)
    for rank in range(1, WORLD_SIZE):
        _, sentence, _ = four.next_report(rank, NAMED_WITHIN)
        assert "member 0 (office-0" in sentence


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_member_is_noticed_at_once_though_a_child_that_it_forked_lives_on(lost: int) -> None:
    """Silence would tell only after the peer timeout: here a minute."""
    members = Members(2, forking=lost, peer_timeout=60.0)
    try:
        members.signal(lost, signal.SIGKILL)
        kind, sentence, _ = members.next_report(1 - lost, 5)
        assert kind == "Error"
        assert f"member {lost} (office-{lost}" in sentence
        os.kill(members.child, 0)  # it lives
        if lost == 0:
            wait_for_port(members.port, 5)  # and does not keep it; its parent is still giving its sockets up
    finally:
        members.end()


def test_control_c_is_told_to_the_others() -> None:
    members = Members(2)
    try:
        members.signal(1, signal.SIGINT)
        assert members.next_report(1, 5)[0] == "KeyboardInterrupt"
        kind, sentence, _ = members.next_report(0, 5)
        assert kind == "Error"
        assert "member 1 (office-1" in sentence
        assert "KeyboardInterrupt" in sentence
        assert "; to go on, start all members again and load the last checkpoint" in sentence
    finally:
        members.end()


def test_control_c_ends_a_member_that_waits_for_a_silent_one() -> None:
    members = Members(2, peer_timeout=60.0)
    try:
        members.signal(1, signal.SIGSTOP)
        time.sleep(0.5)  # member 0 waits inside step() now
        members.signal(0, signal.SIGINT)
        # Telling the silent one takes the 2 s that it is given.
        assert members.next_report(0, 5)[0] == "KeyboardInterrupt"
    finally:
        members.end()


@pytest.mark.parametrize(
    ("inside", "sentence"),
    [
        (
            "if stella.rank() == 1 and step == 1: raise ValueError('line 7 is broken')",
            "ValueError: line 7 is broken",
        ),
        ("if stella.rank() == 1 and step == 1: sys.exit()", "its script ended without finish()"),
    ],
    ids=["raises", "exits"],
)
def test_a_script_that_ends_early_tells_the_others_why(inside: str, sentence: str) -> None:
    port = str(free_port())
    common = {"WORLD_SIZE": "2", "STELLA_COORDINATOR": f"127.0.0.1:{port}"}
    script = SCRIPT.format(inside=inside)
    waiting, _ = outputs(
        [start(script, **common, RANK="0", STELLA_PORT=port), start(script, **common, RANK="1")]
    )
    assert "stellatrain.Error: member 1" in waiting
    assert sentence in waiting.splitlines()[-1]


def test_torchrun_starts_members(tmp_path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(inside=""))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(free_port()), str(script)]
    env = {"STELLA_SECRET": SECRET, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    lines = weights_printed(done.stdout)
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert lines[0].endswith("of 2")


def test_plain_env_variables_start_members_without_torchrun() -> None:
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    script = SCRIPT.format(inside="")
    first, second = outputs([start(script, **common, RANK=rank) for rank in "01"])
    assert weights_printed(first) == weights_printed(second) != []


@pytest.mark.parametrize("there", [False, True], ids=["the_store", "an_address_in_it"])
def test_control_c_ends_a_member_that_waits_for_torchs_store(there: bool) -> None:
    port = free_port()
    store = (
        torch.distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
        if there
        else None
    )
    env = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    # Named before: torch, which comes with it, swallows a signal while it is imported.
    script = "import os; from stellatrain import init; os.write(1, b'joins'); init()"
    member = start("import signal; signal.signal(2, signal.default_int_handler); " + script, **env)
    assert member.stdout is not None
    assert member.stdout.read(5) == "joins"
    time.sleep(0.5)
    member.send_signal(signal.SIGINT)
    since = time.monotonic()
    (output,) = outputs([member])
    assert time.monotonic() - since < 5
    assert output.splitlines()[-1] == "KeyboardInterrupt"
    del store


TOLD = ("ended without stellatrain.finish()", "ended without finish()")


def test_a_script_that_forgets_finish_is_told() -> None:
    """Where all members forget it, nobody else would say so."""
    for body, told in (
        (SCRIPT.format(inside=""), False),
        (SCRIPT.format(inside="").replace("stella.finish()\n", ""), True),
    ):
        port = str(free_port())
        common = {"WORLD_SIZE": "2", "STELLA_COORDINATOR": f"127.0.0.1:{port}"}
        members = [start(body, **common, RANK="0", STELLA_PORT=port), start(body, **common, RANK="1")]
        # One that is still at its last step is told by the other one's end.
        heard = [any(sentence in output for sentence in TOLD) for output in outputs(members)]
        assert heard == [told] * 2


SAVES_OR_LOADS = """
import torch
import stellatrain as stella

stella.init()
net = torch.nn.Linear(4, 2)
net, optimizer = stella.distribute(net, torch.optim.SGD(net.parameters(), lr=0.1), rule="sparse")
if {saves}:
    net(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    stella.save({directory!r})
    stella.finish()
else:
    stella.load({directory!r})
    print("loaded", optimizer.iteration)
"""


def test_two_scripts_that_only_look_at_a_checkpoint_need_not_finish(tmp_path: Path) -> None:
    for saves in (True, False):
        script = SAVES_OR_LOADS.format(directory=str(tmp_path), saves=saves)
        port = str(free_port())
        common = {"WORLD_SIZE": "2", "STELLA_COORDINATOR": f"127.0.0.1:{port}"}
        members = [start(script, **common, RANK="0", STELLA_PORT=port), start(script, **common, RANK="1")]
        heard = outputs(members)
    assert ["loaded 1" in output for output in heard] == [True, True]
    assert "ended without stellatrain.finish()" not in "".join(heard)


def test_one_member_alone_need_not_finish() -> None:
    script = SCRIPT.format(inside="").replace("stella.finish()\n", "")
    (output,) = outputs([start(script, WORLD_SIZE="1", RANK="0")])
    assert "weights" in output
    assert not any(sentence in output for sentence in TOLD)


def test_a_script_whose_finish_failed_is_not_told_to_call_it() -> None:
    port = str(free_port())
    common = {"WORLD_SIZE": "2", "STELLA_COORDINATOR": f"127.0.0.1:{port}"}
    script = SCRIPT.format(inside="")
    leaves = script.replace("stella.finish()\n", "time.sleep(2); os._exit(3)\n")
    catches = script.replace(
        "stella.finish()\n", "try: stella.finish()\nexcept stella.Error as error: print('caught', error)\n"
    )
    members = [start(catches, **common, RANK="0", STELLA_PORT=port), start(leaves, **common, RANK="1")]
    output, _ = outputs(members)
    assert "caught" in output
    assert "ended without stellatrain.finish()" not in output


def test_control_c_to_all_at_once_shows_each_where_it_was() -> None:
    """As a terminal sends it. On one that waits the other's end arrives while its own signal is pending."""
    port = str(free_port())
    inside = "os.write(1, b'ready'); stella.save('.') if stella.rank() == 0 else time.sleep(60)"
    script = "import signal; signal.signal(2, signal.default_int_handler)\n" + SCRIPT.format(inside=inside)
    common = {"WORLD_SIZE": "2", "STELLA_COORDINATOR": f"127.0.0.1:{port}", "STELLA_LOG": "off"}
    members = [start(script, **common, RANK="0", STELLA_PORT=port), start(script, **common, RANK="1")]
    for member in members:
        assert member.stdout is not None
        assert member.stdout.read(5) == "ready"
    time.sleep(0.5)
    for member in members:
        member.send_signal(signal.SIGINT)
    for output in outputs(members):
        assert "Traceback" in output
        assert output.splitlines()[-1] == "KeyboardInterrupt"


def test_an_exception_that_utf_8_cannot_hold_is_still_the_users_own() -> None:
    """And the others learn of it, as far as it can be written."""

    def member(run: Run) -> None:
        if run.rank == 1:
            raise ValueError("\udcff is broken")
        run.session.all_gather("waiting", b"")

    waiting, raised = outcomes_of_members(2, member)
    assert isinstance(raised, ValueError)
    assert raised.__context__ is None
    assert "ValueError: ? is broken" in str(waiting)
