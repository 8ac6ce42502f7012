"""Processes that a member forks: they neither hang nor end the run."""

from __future__ import annotations

import textwrap

import pytest
from conftest import free_port
from scripts import SCRIPT, outputs, start, weights_printed


def test_the_workers_of_an_evaluation_after_finish_read_and_end() -> None:
    """They are forked from a process that was a member."""
    script = SCRIPT.format(inside="") + (
        "data = torch.utils.data.TensorDataset(torch.ones(8, 4))\n"
        "loader = torch.utils.data.DataLoader(data, num_workers=2, multiprocessing_context='fork')\n"
        "os.write(1, f'evaluated {sum(len(batch[0]) for batch in loader)}\\n'.encode())\n"
    )
    (output,) = outputs([start(script, WORLD_SIZE="1", RANK="0")])
    assert output.splitlines()[-1] == "evaluated 8"


# Waits for `child` without hanging with it. The last line is one write: members may share one pipe.
WAITING = """
for _ in range(400):
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        break
    time.sleep(0.05)
else:
    os.kill(child, 9)
os.write(1, f"child {{ended == child and os.waitstatus_to_exitcode(status)}}\\n".encode())
"""

FORKING = """
    if step == 1:
        child = os.fork()
        if child == 0:
            {in_child}
""" + textwrap.indent(WAITING, 8 * " ")


@pytest.mark.parametrize(
    "in_child",
    [
        "sys.exit(0)",
        "stella.default_run().close('not for the child to say'); sys.exit(0)",
        "del net, optimizer; sys.exit(0)",
        "sys.exit(0 if optimizer.state_dict() else 1)",
    ],
    ids=["exits", "closes", "drops", "uses"],
)
def test_a_forked_child_that_ends_in_order_neither_hangs_nor_ends_the_run(in_child: str) -> None:
    """It has copies of session and engine, but none of their threads, which destructors would wait for."""
    port = str(free_port())
    common = {"WORLD_SIZE": "2", "STELLA_COORDINATOR": f"127.0.0.1:{port}"}
    forking = SCRIPT.format(inside=FORKING.format(in_child=in_child).strip())
    first, second = outputs(
        [
            start(forking, **common, RANK="0", STELLA_PORT=port),
            start(SCRIPT.format(inside=""), **common, RANK="1"),
        ]
    )
    uses = "state_dict" in in_child
    assert f"child {int(uses)}" in first.splitlines(), first
    assert ("only that one takes part in the run" in first) == uses
    assert "leaked" not in first
    assert weights_printed(first) == weights_printed(second) != []


def test_a_child_of_a_process_that_kept_only_the_optimizer_ends_too() -> None:
    """The engine keeps the session, whose threads the child does not have."""
    script = """
import gc, os, sys, time
import torch
import stellatrain as stella

run = stella.Run()
net = torch.nn.Linear(4, 2)
_, optimizer = run.distribute(net, torch.optim.SGD(net.parameters(), lr=0.1), rule="sparse")
del run
gc.collect()
child = os.fork()
if child == 0:
    sys.exit(0)
"""
    (output,) = outputs([start(script + WAITING.format(), WORLD_SIZE="1", RANK="0")])
    assert "child 0" in output.splitlines(), output
    assert "leaked" not in output


@pytest.mark.parametrize("kept", ["run.session", "optimizer.engine"])
def test_a_child_may_drop_what_the_frames_of_an_exception_kept(kept: str) -> None:
    """Its owner gave it up long ago."""
    script = """
import gc, os, sys, time
import torch
import stellatrain as stella

run = stella.Run()
net = torch.nn.Linear(4, 2)
_, optimizer = run.distribute(net, torch.optim.SGD(net.parameters(), lr=0.1), rule="sparse")
kept = {kept}
run.close("the script failed")
del run, optimizer
gc.collect()
child = os.fork()
if child == 0:
    del kept
    sys.exit(0)
"""
    program = script.format(kept=kept) + WAITING.format()
    (output,) = outputs([start(program, WORLD_SIZE="1", RANK="0")])
    assert "child 0" in output.splitlines(), output
    assert "leaked" not in output
