"""The optimizer that distribute() returns is a torch optimizer: state, copies, refusals."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from conftest import outcomes_of_members, run_members
from training import EXACT, SPARSE, Training, adamw, flat, loss_of, mlp, plain_loop, sgd, vectors

import stellatrain
from stellatrain import Error
from stellatrain.environment import Membership
from stellatrain.run import Run

OPTIMIZERS = {
    "sgd": lambda net: torch.optim.SGD(net.parameters(), lr=0.05),
    "momentum": sgd,
    "dampened": lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, dampening=0.2),
    "adamw": adamw,
    "amsgrad": lambda net: torch.optim.Adam(net.parameters(), lr=0.01, amsgrad=True),
}
HALF = 6


def torch_for(steps: int, name: str, batches):
    net = mlp()
    optimizer = OPTIMIZERS[name](net)
    plain_loop(net, optimizer, batches[:steps])
    return net, optimizer


def distributed(run: Run, net: torch.nn.Module, optimizer: torch.optim.Optimizer, **options):
    return run.distribute(net, optimizer, **(EXACT | options), rule="sparse")[1]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_a_torch_optimizer_with_the_same_param_groups(name: str) -> None:
    def member(run: Run):
        net = mlp()
        mine = OPTIMIZERS[name](net)
        optimizer = distributed(run, net, mine)
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert all(a is b for a, b in zip(optimizer.param_groups, mine.param_groups, strict=True))
        assert optimizer.defaults == mine.defaults
        assert "lr: 0.0" in repr(optimizer)

    run_members(1, member)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_goes_from_plain_torch_into_distributed_training(name: str) -> None:
    """Half of the steps in plain torch, half distributed, are all of them in plain torch."""
    batches = Training().batches(2 * HALF, 8)

    def member(run: Run):
        net, half = copy.deepcopy(started)
        optimizer = distributed(run, net, half)
        plain_loop(net, optimizer, [(x[rows(run)], y[rows(run)]) for x, y in batches[HALF:]])
        run.finish()
        return flat(net)

    def by_load(run: Run):
        net, half = copy.deepcopy(started)
        optimizer = distributed(run, net, OPTIMIZERS[name](net))
        optimizer.load_state_dict(half.state_dict())
        plain_loop(net, optimizer, [(x[rows(run)], y[rows(run)]) for x, y in batches[HALF:]])
        run.finish()
        return flat(net)

    def rows(run: Run) -> slice:
        return slice(4 * run.rank, 4 * run.rank + 4)

    started = torch_for(HALF, name, batches)
    expected = flat(torch_for(2 * HALF, name, batches)[0])
    for weights in run_members(2, member) + run_members(2, by_load):
        assert torch.allclose(weights, expected, atol=1e-5)


def test_loading_state_brings_the_moments_that_its_param_groups_switch_on() -> None:
    """distribute() without momentum, then load_state_dict() of a run with it."""
    batches = Training().batches(2 * HALF, 8)

    def member(run: Run):
        net = copy.deepcopy(half)
        optimizer = distributed(run, net, OPTIMIZERS["sgd"](net))
        optimizer.load_state_dict(state)
        plain_loop(net, optimizer, batches[HALF:])
        run.finish()
        return flat(net)

    half, with_momentum = torch_for(HALF, "momentum", batches)
    state = with_momentum.state_dict()
    whole, _ = torch_for(2 * HALF, "momentum", batches)
    assert torch.allclose(run_members(1, member)[0], flat(whole), atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_goes_from_distributed_training_into_plain_torch(name: str) -> None:
    batches = Training().batches(2 * HALF, 8)

    def member(run: Run):
        net = mlp()
        optimizer = distributed(run, net, OPTIMIZERS[name](net))
        plain_loop(net, optimizer, batches[:HALF])
        state = copy.deepcopy(optimizer.state_dict())
        run.finish()
        return net, state

    ((net, state),) = run_members(1, member)
    optimizer = OPTIMIZERS[name](net)
    optimizer.load_state_dict(state)
    plain_loop(net, optimizer, batches[HALF:])
    assert torch.allclose(flat(net), flat(torch_for(2 * HALF, name, batches)[0]), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_goes_from_one_distributed_optimizer_into_another_exactly(
    name: str, dtype: torch.dtype
) -> None:
    """At low density: the step count of every block is part of it."""

    def member(run: Run):
        net = mlp()
        optimizer = distributed(run, net, OPTIMIZERS[name](net), density=0.1)
        plain_loop(net, optimizer, vectors(HALF, 4))
        state = optimizer.state_dict()
        run.finish()
        return state

    def again(run: Run):
        net = mlp()
        net.to(dtype)
        optimizer = distributed(run, net, OPTIMIZERS[name](net), density=0.1)
        optimizer.load_state_dict(copy.deepcopy(saved))
        state = optimizer.state_dict()
        run.finish()
        return state

    (saved,) = run_members(1, member)
    (loaded,) = run_members(1, again)
    assert saved["param_groups"] == loaded["param_groups"]
    assert saved["state"].keys() == loaded["state"].keys()
    assert (len(saved["state"]) == 0) == (name == "sgd")  # as in torch
    for key, entry in saved["state"].items():
        for field, value in entry.items():
            assert torch.equal(value, loaded["state"][key][field]), (key, field)


def test_everybody_starts_from_member_0s_moments() -> None:
    """Only member 0 resumes an optimizer; the others hold none, or another one's."""
    batches = Training().batches(2 * HALF, 8)

    def member(run: Run):
        net, optimizer = starts[run.rank]
        optimizer = distributed(run, net, optimizer or adamw(net))
        plain_loop(net, optimizer, batches[HALF:])
        run.finish()
        return flat(net)

    starts = [torch_for(HALF, "adamw", batches), torch_for(2, "adamw", batches), (mlp(), None)]
    results = run_members(3, member)
    expected = flat(torch_for(2 * HALF, "adamw", batches)[0])
    for weights in results:
        assert torch.equal(weights, results[0])
        assert torch.allclose(weights, expected, atol=1e-5)


def test_momentum_that_only_member_0_holds_and_that_is_off_becomes_everybodys() -> None:
    batches = Training().batches(2 * HALF, 8)

    def member(run: Run):
        net, optimizer = nets[run.rank]
        optimizer.param_groups[0]["momentum"] = 0.0
        optimizer = distributed(run, net, optimizer)
        optimizer.param_groups[0]["momentum"] = 0.9
        plain_loop(net, optimizer, batches[HALF:])
        run.finish()
        return flat(net)

    nets = [copy.deepcopy(torch_for(steps, "momentum", batches)) for steps in (HALF, 0)]
    expected = flat(torch_for(2 * HALF, "momentum", batches)[0])
    for weights in run_members(2, member):
        assert torch.allclose(weights, expected, atol=1e-5)


def test_state_of_another_shape_is_refused_naming_the_parameter() -> None:
    def member(run: Run):
        net = mlp()
        optimizer = distributed(run, net, adamw(net))
        state = torch_for(1, "adamw", vectors(1, 4))[1].state_dict()
        state["state"][0]["exp_avg"] = torch.zeros(3)
        optimizer.load_state_dict(state)

    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert "'exp_avg' of '0.weight' has the shape (3,)" in str(failure)


def test_state_that_is_refused_leaves_the_settings_and_their_schedulers() -> None:
    def member(run: Run):
        net = mlp()
        plain = torch.optim.AdamW(net.parameters(), lr=0.25)
        optimizer = distributed(run, net, plain)
        scheduler = torch.optim.lr_scheduler.StepLR(plain, 1, gamma=0.5)
        state = torch_for(1, "adamw", vectors(1, 4))[1].state_dict()
        state["state"][0]["exp_avg"] = torch.zeros(3)
        with pytest.raises(Error, match="has the shape"):
            optimizer.load_state_dict(state)
        before = optimizer.param_groups[0]["lr"]
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        scheduler.step()
        return before, optimizer.param_groups[0]["lr"]

    assert run_members(1, member) == [(0.25, 0.125)]


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (lambda: torch_for(1, "adamw", vectors(1, 4))[1].state_dict(), "are not those of a torch.optim.SGD"),
        (dict, "load_state_dict: {} is not what state_dict"),
        (lambda: None, "load_state_dict: None is not what state_dict"),
        (lambda: {"state": None, "param_groups": None}, "is not what state_dict"),
    ],
    ids=["of another optimizer", "nothing in it", "None", "None in it"],
)
def test_state_that_is_none_of_this_optimizer_is_refused_and_changes_nothing(state, says: str) -> None:
    def member(run: Run):
        net = mlp()
        optimizer = distributed(run, net, sgd(net))
        with pytest.raises(Error) as caught:
            optimizer.load_state_dict(state())
        plain_loop(net, optimizer, vectors(2, 4))
        return str(caught.value), optimizer.param_groups[0]["momentum"]

    ((sentence, momentum),) = run_members(1, member)
    assert says in sentence
    assert momentum == 0.9


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_state_of_a_torch_that_had_no_maximize_is_taken(name: str) -> None:
    def member(run: Run):
        net = mlp()
        optimizer = distributed(run, net, plain := OPTIMIZERS[name](net))
        state = torch_for(2, name, vectors(2, 4))[1].state_dict()
        for group in state["param_groups"]:
            for key in (
                "maximize",
                "foreach",
                "differentiable",
                "fused",
                "capturable",
                "decoupled_weight_decay",
            ):
                group.pop(key, None)
        optimizer.load_state_dict(state)
        plain_loop(net, optimizer, vectors(2, 4))
        run.finish()
        plain_loop(net, plain, vectors(2, 4))  # the script's own, which goes on
        return plain.param_groups[0]["maximize"]

    assert run_members(1, member) == [False]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copying_it_is_refused_with_what_to_do(copied) -> None:
    def member(run: Run):
        net = mlp()
        copied(distributed(run, net, adamw(net)))

    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert "use state_dict()" in str(failure)


def test_add_param_group_after_distribute_is_refused() -> None:
    def member(run: Run):
        net = mlp()
        optimizer = distributed(run, net, adamw(net))
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(3))]})

    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert "add the group to the optimizer first" in str(failure)


class MyAdam(torch.optim.Adam):
    pass


@pytest.mark.parametrize("kind", [torch.optim.RMSprop, torch.optim.Adagrad, MyAdam])
def test_other_optimizers_are_refused_naming_the_supported_ones(kind: type) -> None:
    def member(run: Run):
        net = mlp()
        run.distribute(net, kind(net.parameters(), lr=0.1), rule="sparse")

    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "invalid_argument"
        assert kind.__qualname__ in str(failure)
        assert "torch.optim.SGD, torch.optim.Adam and torch.optim.AdamW; rule='local'" in str(failure)


@pytest.mark.parametrize(
    ("option", "value"), [("density", 0.5), ("staleness", 0), ("selector", "random"), ("block", 32)]
)
def test_options_of_sparse_are_refused_under_local(
    option: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(**options: object) -> str:
        def member(run: Run):
            net = mlp()
            run.distribute(net, adamw(net), **options)

        (failure,) = outcomes_of_members(1, member)
        return str(failure)

    behind = (
        ", which is for rule='sparse'; the rule here is 'local', as it is unless rule= or STELLA_RULE says "
        "otherwise: leave this out, or choose 'sparse'"
    )
    assert refusal(**{option: value}).endswith(f"{option} is {value!r}{behind}")
    monkeypatch.setenv(f"STELLA_{option.upper()}", str(value))
    assert refusal().endswith(f"STELLA_{option.upper()} is '{value}'{behind}")


@pytest.mark.parametrize(("rule", "wire"), [("sparse", "signs"), ("local", "int1")])
def test_pull_is_refused_where_it_means_nothing(rule: str, wire: str) -> None:
    def member(run: Run):
        net = mlp()
        run.distribute(net, adamw(net), rule=rule, wire=wire, pull=0.5)

    (failure,) = outcomes_of_members(1, member)
    assert failure.code == "invalid_argument"
    assert "pull is 0.5 (argument or STELLA_PULL), which is for rule='local'" in str(failure)
    assert f"here they are '{rule}' and '{wire}'" in str(failure)


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("density", 0, "density is 0"),
        ("density", 1.5, "density is 1.5"),
        ("density", float("nan"), "density is nan"),
        ("staleness", 2, "staleness is 2"),
        ("staleness", -1, "staleness is -1"),
        ("threads", -1, "threads is -1"),
        ("wire", "int3", "wire is 'int3'; it must be fp32, bf16, int8, int4, int2, int1, signs or auto"),
        ("selector", "best", "selector is 'best'; it must be blocks, threshold or random"),
        ("rule", "dense", "rule is 'dense'; it must be sparse"),
        ("block", 48, "block is 48; it must be 16, 32 or 64"),
        ("bucket_mib", 1000, "bucket_mib is 1000"),
        ("bucket_mib", -1, "bucket_mib is -1"),
        ("bucket_mib", float("inf"), "bucket_mib is inf"),
        ("threads", 10**30, "threads is 1000000000"),
        ("step_timeout", 0, "step_timeout is 0"),
        ("pull", 1.5, "pull is 1.5; it must be from 0 to 1"),
        ("pull", float("nan"), "pull is nan; it must be from 0 to 1"),
    ],
)
def test_nonsense_options_are_refused_naming_them(option: str, value: object, sentence: str) -> None:
    def member(run: Run):
        net = mlp()
        run.distribute(net, adamw(net), **({"rule": "sparse"} | {option: value}))

    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert failure.code == "invalid_argument"
    assert sentence in str(failure)


def test_one_member_alone_trains_as_torch_does_unless_it_is_told_otherwise() -> None:
    """There is nobody to send to: its script serves the laptop too."""

    def member(run: Run) -> None:
        _, optimizer = run.distribute(net, adamw(net), **options, rule="sparse")
        plain_loop(net, optimizer, batches)
        run.finish()

    batches = vectors(5, 4)
    alone = mlp()
    plain_loop(alone, adamw(alone), batches)
    for options, equal in (({}, True), ({"density": 0.01}, False), ({"staleness": 1}, False)):
        net = mlp()
        run_members(1, member)
        assert torch.allclose(flat(net), flat(alone), atol=1e-6) == equal, options


def test_a_second_model_in_one_run_is_refused() -> None:
    def member(run: Run):
        for _ in range(2):
            net = mlp()
            run.distribute(net, adamw(net), rule="sparse")

    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert "a second model needs a Run of its own, at another port (docs/environment.md)" in str(failure)


def test_two_runs_in_one_process_train_two_models() -> None:
    first, second = mlp(), mlp()
    with Run(Membership()) as one, Run(Membership()) as two:
        _, optimizer = one.distribute(first, sgd(first), **EXACT, rule="sparse")
        _, other = two.distribute(second, adamw(second), **SPARSE, rule="sparse")
        for batch in vectors(5, 4):
            plain_loop(first, optimizer, [batch])
            plain_loop(second, other, [batch])
        one.finish()
        two.finish()
    expected = mlp()
    plain_loop(expected, sgd(expected), vectors(5, 4))
    assert torch.allclose(flat(first), flat(expected), atol=1e-6)
    assert not torch.equal(flat(second), flat(mlp()))


@pytest.mark.parametrize(
    "call",
    [
        lambda run, optimizer: optimizer.step(),
        lambda run, optimizer: optimizer.set_density(0.5),
        lambda run, optimizer: optimizer.state_dict(),
        lambda run, optimizer: optimizer.load_state_dict({}),
        lambda run, optimizer: run.finish(),
    ],
    ids=["step", "set_density", "state_dict", "load_state_dict", "finish"],
)
def test_after_finish_what_needs_the_others_says_that_the_run_is_over(call: Callable) -> None:
    def member(run: Run):
        net = mlp()
        optimizer = distributed(run, net, adamw(net))
        run.finish()
        call(run, optimizer)

    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert failure.code == "cancelled"
    assert "the run is over: finish() was called" in str(failure)


def test_after_finish_the_optimizer_still_tells_what_it_counted() -> None:

    def member(run: Run):
        net = nets[run.rank]
        optimizer = run.distribute(net, adamw(net), **SPARSE, rule="sparse")[1]
        plain_loop(net, optimizer, vectors(4, 4))
        run.finish()
        assert optimizer.stats()["bytes_sent"] > 0
        assert optimizer.stats()["iteration"] == optimizer.iteration
        return optimizer.iteration, optimizer.digest()

    nets = [mlp(), mlp()]
    first, second = run_members(2, member)
    assert first == second
    assert first[0] == 4 + 1  # finish() makes an empty step: docs/stats.md


def test_an_optimizer_of_another_model_is_refused() -> None:
    (failure,) = outcomes_of_members(1, lambda run: run.distribute(mlp(), adamw(mlp()), rule="sparse"))
    assert isinstance(failure, Error)
    assert failure.code == "invalid_argument"
    assert "holds no parameter of the model" in str(failure)


def test_the_functions_of_the_module_train_alone_without_any_environment() -> None:
    """The example of the package's docstring."""
    stellatrain.init()
    try:
        assert (stellatrain.rank(), stellatrain.world_size()) == (0, 1)
        assert stellatrain.default_run().rank == 0
        model, optimizer = stellatrain.distribute(net := mlp(), adamw(net), rule="sparse")
        data = torch.utils.data.TensorDataset(*vectors(1, 12)[0])
        for batch in stellatrain.DataLoader(data, batch_size=4):
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
        with pytest.raises(Error, match="call finish\\(\\) first"):
            stellatrain.init()
    finally:
        stellatrain.finish()
    assert not torch.equal(flat(net), flat(mlp()))
