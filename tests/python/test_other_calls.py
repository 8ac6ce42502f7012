"""Members whose scripts make different calls: all end soon, with an error that names the calls."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import outcomes_of_members, run_members
from training import adamw, loss_of, mlp, vectors

from stellatrain.errors import Error
from stellatrain.optimizer import DistributedOptimizer
from stellatrain.run import Run

Train = Callable[[int], None]
SOON = 30  # seconds, with all that a start takes; the step timeout is half an hour


def outcomes(script: Callable[[Run, Train, Path], None], directory: Path, staleness: int) -> list[Any]:
    """The failure, or None, of each of three members that run `script` and finish; train(n) makes n steps."""

    def member(run: Run) -> None:
        net = mlp()
        _, optimizer = run.distribute(net, adamw(net), density=0.1, staleness=staleness, rule="sparse")
        script(run, lambda steps: train(net, optimizer, steps), directory)
        run.finish()

    began = time.monotonic()
    failures = outcomes_of_members(3, member)
    assert time.monotonic() - began < SOON
    return failures


def train(net: torch.nn.Module, optimizer: DistributedOptimizer, steps: int) -> None:
    for batch in vectors(steps, 4):
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        optimizer.step()


def save_on_rank_0_only(run: Run, train: Train, directory: Path) -> None:
    train(4)
    if run.rank == 0:
        run.save(directory)
    train(4)


def mean_on_rank_0_only(run: Run, train: Train, _: Path) -> None:
    train(4)
    if run.rank == 0:
        run.mean(1.0)
    train(4)


def evaluate_on_rank_0_only(run: Run, train: Train, _: Path) -> None:
    train(4)
    if run.rank == 0:
        with run.consensus():
            pass
    train(4)


def one_step_less_before_a_mean(run: Run, train: Train, _: Path) -> None:
    train(3 if run.rank == 0 else 4)
    run.mean(1.0)
    train(4)
    run.mean(1.0)


def finish_before_the_others_mean(run: Run, train: Train, _: Path) -> None:
    train(4)
    if run.rank != 0:
        train(4)
        run.mean(1.0)


def read_state_while_the_others_mean(run: Run, train: Train, _: Path) -> None:
    train(4 if run.rank == 0 else 3)
    if run.rank == 0:
        run.optimizer.state_dict()
    run.mean(1.0)


@pytest.mark.parametrize(
    ("script", "staleness", "who_waits"),
    [
        (
            save_on_rank_0_only,
            0,
            r'member 0 .* in all_gather "save" .* after iteration 4, for member [12] .* in step\(\)',
        ),
        (
            save_on_rank_0_only,
            1,
            r'member 0 .* in all_gather "save" .* after iteration 4, for member [12] .* in step\(\)',
        ),
        (
            mean_on_rank_0_only,
            0,
            r'member 0 .* in all_gather "mean" .* after iteration 4, for member [12] .* in step\(\)',
        ),
        (
            mean_on_rank_0_only,
            1,
            r'member 0 .* in all_gather "mean" .* after iteration 4, for member [12] .* in step\(\)',
        ),
        (
            evaluate_on_rank_0_only,
            0,
            r'member 0 .* in all_gather "consensus" .* after iteration 4, for member [12] .* in step\(\)',
        ),
        (
            evaluate_on_rank_0_only,
            1,
            r'member 0 .* in all_gather "consensus" .* after iteration 4, for member [12] .* in step\(\)',
        ),
        (
            one_step_less_before_a_mean,
            0,
            r'member 0 .* "mean" .* after iteration 3, .* in step\(\) .* of iteration 4',
        ),
        (
            read_state_while_the_others_mean,
            1,
            r'member [12] .* "mean" .* after iteration 3, for member 0 .* to read or set its state \(save, ',
        ),
        (
            finish_before_the_others_mean,
            0,
            r'member [12] .* "mean" .* after iteration 8, for member 0 .* in finish\(\)',
        ),
        (
            finish_before_the_others_mean,
            1,
            r'member [12] .* "mean" .* after iteration 8, for member 0 .* in finish\(\)',
        ),
    ],
)
def test_members_that_wait_for_each_other_are_told_at_once(
    script: Callable[[Run, Train, Path], None], staleness: int, who_waits: str, tmp_path: Path
) -> None:
    for failure in outcomes(script, tmp_path, staleness):
        assert isinstance(failure, Error), failure
        assert re.search(who_waits, str(failure)), failure
        assert "all members must make the same calls" in str(failure)
        assert failure.code == "mismatch"


# The others' fourth step waits for the third iteration only, and then they call mean(), too.
def test_members_that_do_not_wait_for_each_other_go_on_whatever_they_have_begun(tmp_path: Path) -> None:
    assert outcomes(one_step_less_before_a_mean, tmp_path, staleness=1) == [None, None, None]


@pytest.mark.parametrize("rule", ["sparse", "local"])
def test_inside_of_consensus_nothing_is_saved_loaded_or_ended(rule: str, tmp_path: Path) -> None:
    """The model does not hold this member's own buffers there, nor, under "local", its own weights."""

    def member(run: Run) -> torch.Tensor:
        net = torch.nn.Sequential(torch.nn.Linear(13, 13), torch.nn.BatchNorm1d(13))
        _, optimizer = run.distribute(net, torch.optim.AdamW(net.parameters(), lr=0.01), rule=rule)
        torch.manual_seed(run.rank)
        net(torch.randn(5, 13)).square().mean().backward()
        optimizer.step()
        with run.consensus():
            calls = {
                "save": lambda: run.save(tmp_path),
                "load": lambda: run.load(tmp_path),
                "finish": run.finish,
                "another consensus": run.consensus().__enter__,
            }
            for name, call in calls.items():
                with pytest.raises(Error) as failure:
                    call()
                assert failure.value.code == "invalid_argument"
                assert f"leave `with consensus()` before {name}()" in str(failure.value)
            with pytest.raises(Error, match="leave it first"):
                optimizer.step()
            assert run.mean(run.rank) == 0.5
        run.save(tmp_path)
        run.finish()
        return torch.cat([tensor.flatten().double() for tensor in net.state_dict().values()])

    one, other = run_members(2, member)
    assert torch.equal(one, other)
