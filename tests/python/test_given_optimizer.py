"""The optimizer that was given to distribute(): it steps again only when the run is over."""

from __future__ import annotations

import gc

import pytest
import torch
from conftest import outcomes_of_members, run_members
from training import EXACT, adamw, flat, loss_of, mlp, plain_loop, vectors

from stellatrain import Error
from stellatrain.environment import Membership
from stellatrain.run import Run


def test_the_optimizer_that_was_given_steps_no_more_until_the_run_is_over() -> None:
    """A script that goes on with it would train each member alone, and save the weights it began with."""

    def member(run: Run) -> list[Error]:
        net = nets[run.rank]
        given = adamw(net)
        _, optimizer = run.distribute(net, given, **EXACT, rule="sparse")
        loss_of(net, vectors(1, 4)[0]).backward()
        before = [parameter.detach().clone() for parameter in net.parameters()]
        with pytest.raises(Error, match="use the one that it returned: model, optimizer = ") as failure:
            given.step()
        assert failure.value.code == "invalid_argument"
        assert all(map(torch.equal, before, net.parameters()))
        optimizer.step()
        run.finish()
        before = [parameter.detach().clone() for parameter in net.parameters()]
        given.step()
        assert not any(map(torch.equal, before, net.parameters()))

    nets = [mlp(), mlp()]
    run_members(2, member)


def test_the_optimizer_that_was_given_steps_again_where_distribute_failed_or_the_run_is_gone() -> None:
    net = mlp()
    given = adamw(net)
    loss_of(net, vectors(1, 4)[0]).backward()

    def fails(run: Run) -> None:
        given.state[net[0].weight] = {"exp_avg": torch.zeros(3)}
        run.distribute(net, given, rule="sparse")

    (failure,) = outcomes_of_members(1, fails)
    assert isinstance(failure, Error)
    given.state.clear()
    given.step()
    run = Run(Membership())
    run.distribute(net, given, rule="sparse")
    with pytest.raises(Error, match="use the one that it returned"):
        given.step()
    del run
    gc.collect()
    given.step()


def test_the_optimizer_that_was_given_steps_again_where_the_end_of_distribute_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the other members leave then: nothing was returned that could be used in its place."""

    def fails(session: object, engine: object) -> None:
        raise Error("the others are gone")

    monkeypatch.setattr("stellatrain.run.share_state", fails)
    net = mlp()
    given = adamw(net)
    plain_loop(net, given, vectors(1, 4))
    loss_of(net, vectors(1, 4)[0]).backward()

    def member(run: Run) -> None:
        with pytest.raises(Error, match="the others are gone"):
            run.distribute(net, given, rule="sparse")
        before = flat(net)
        given.step()
        assert not torch.equal(before, flat(net))
        assert run.optimizer is None

    run_members(1, member)
