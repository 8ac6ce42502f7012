"""Parameters that somebody else than the engine changes after distribute()."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from conftest import outcomes_of_members, run_members
from training import EXACT, SPARSE, adamw, flat, loss_of, mlp, repeated, sgd, vectors

from stellatrain import Error
from stellatrain.run import Run

CALLS = ["consensus", "save", "finish"]
# None of them sends all blocks, so that most edits are never overwritten by a step.
SETTINGS = [SPARSE | {"staleness": 0}, SPARSE]


def filled(net: torch.nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(value)


def trained(
    run: Run, net: torch.nn.Module, settings: dict, edits: bool, call: str, path: Path
) -> torch.Tensor:
    """The parameters as `call` shows or leaves them, after steps, an edit and one more step."""
    dtype = net[0].weight.dtype
    optimizer = run.distribute(net, adamw(net), **settings, rule="sparse")[1]

    def step() -> None:
        optimizer.zero_grad()
        (inputs, targets) = vectors(1, 4)[0]
        loss_of(net, (inputs.to(dtype), targets)).backward()
        optimizer.step()

    for _ in range(4):
        step()
    if edits:
        before = flat(net)
        gradients = [parameter.grad.clone() for parameter in net.parameters()]
        filled(net, 7.0 + run.rank)
        assert not torch.equal(flat(net), before)
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter.grad = gradient
    optimizer.step(samples=0)  # a step whose gradient does not come from edited weights
    if call == "consensus":
        with run.consensus():
            seen = flat(net)
    elif call == "save":
        run.save(path)
        seen = flat(net)
    else:
        run.finish()
        return flat(net)
    run.session.leave()
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("settings", SETTINGS, ids=["staleness 0", "staleness 1"])
@pytest.mark.parametrize("call", CALLS)
def test_what_somebody_changed_is_put_back(
    call: str, settings: dict, dtype: torch.dtype, tmp_path: Path
) -> None:
    def all_trained(edits: bool) -> list[torch.Tensor]:
        nets = [mlp().to(dtype) for _ in range(2)]  # not by the members' threads, which share torch's seed
        path = tmp_path / str(edits)
        return run_members(2, lambda run: trained(run, nets[run.rank], settings, edits, call, path))

    expected, seen = all_trained(False), all_trained(True)
    assert torch.equal(expected[0], expected[1])
    for flat_of_member in seen:
        assert torch.equal(flat_of_member, expected[0])


def test_a_checkpoint_that_is_loaded_after_an_edit_is_the_one_that_was_saved(tmp_path: Path) -> None:
    def member(run: Run) -> bool:
        net = mlp()
        optimizer = run.distribute(net, sgd(net), **SPARSE | {"staleness": 0}, rule="sparse")[1]
        repeated(net, optimizer, 4)
        before = flat(net)
        filled(net, 7.0 + run.rank)
        run.save(tmp_path)
        filled(net, 9.0)
        run.load(tmp_path)
        run.finish()
        return torch.equal(flat(net), before)

    assert run_members(2, member) == [True, True]


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("kind", [torch.nn.Embedding, torch.nn.EmbeddingBag])
def test_an_embedding_with_max_norm_is_refused(kind: type, frozen: bool) -> None:
    def member(run: Run) -> None:
        net = torch.nn.ModuleDict({"words": kind(9, 4, max_norm=1.0), "out": torch.nn.Linear(4, 1)})
        net["words"].weight.requires_grad_(not frozen)
        run.distribute(net, sgd(net), **EXACT, rule="sparse")

    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert "the embedding 'words' has max_norm" in str(failure)
    assert ("rule='local'" in str(failure)) is not frozen


def test_an_edit_right_before_a_save_stays_only_where_the_last_step_has_yet_to_write(tmp_path: Path) -> None:
    def member(run: Run) -> tuple[int, bool, torch.Tensor]:
        net = nets[run.rank]
        optimizer = run.distribute(net, adamw(net), **SPARSE, rule="sparse")[1]
        repeated(net, optimizer, 4)
        filled(net, 7.0)
        run.save(tmp_path)
        left = int((flat(net) == 7).sum())
        optimizer.step(samples=0)
        gone = not bool((flat(net) == 7).any())
        run.finish()
        return left, gone, flat(net)

    nets = [mlp(), mlp()]
    (left, gone, end), (_, _, other) = run_members(2, member)
    assert 0 < left < 0.2 * end.numel()
    assert gone and torch.equal(end, other)


def test_a_parameter_of_another_size_on_one_member_ends_save_on_all_at_once(tmp_path: Path) -> None:
    def member(run: Run) -> None:
        net = mlp()
        run.distribute(net, sgd(net), **EXACT, rule="sparse")
        if run.rank == 1:
            net[2].weight.data = torch.zeros(3)
        run.save(tmp_path)

    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert str(failure).startswith("save: member 1 (")
        assert "could not do its part" in str(failure)
        assert "'2.weight' has 3 values now" in str(failure)


@pytest.mark.parametrize("rule", ["sparse", "local"])
def test_parameters_that_need_gradients_but_are_in_no_optimizer_are_a_warning(rule: str) -> None:
    def member(run: Run) -> None:
        net = mlp()
        run.distribute(net, torch.optim.SGD(net[0].parameters(), lr=0.1), rule=rule)
        run.finish()

    with pytest.warns(UserWarning, match=r"does not hold '2.weight' \(2 such parameters\), which needs"):
        run_members(1, member)


def test_a_frozen_parameter_in_no_optimizer_is_none() -> None:
    def member(run: Run) -> None:
        net = mlp()
        net[2].requires_grad_(False)
        run.distribute(net, torch.optim.SGD(net[0].parameters(), lr=0.1), rule="sparse")
        run.finish()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_members(1, member)
