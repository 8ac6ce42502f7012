"""rule="local": the script's own optimizer steps; what the members learned apart comes together."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest
import torch
from conftest import outcomes_of_members, run_members
from training import adamw, flat, mlp, repeated, sgd, step_with_closures

from stellatrain import DataLoader, Error
from stellatrain.run import Run

STEPS = 40
OPTIMIZERS = {
    "adamw": adamw,
    "rmsprop": lambda net: torch.optim.RMSprop(net.parameters(), lr=0.01),
    "adagrad": lambda net: torch.optim.Adagrad(net.parameters(), lr=0.05),
    "nadam": lambda net: torch.optim.NAdam(net.parameters(), lr=0.01),
    "fused": lambda net: torch.optim.AdamW(net.parameters(), lr=0.01, fused=True),
}


def test_model_and_optimizer_come_back_themselves() -> None:
    def member(run: Run) -> tuple[bool, bool]:
        net = mlp()
        optimizer = adamw(net)
        model, distributed = run.distribute(net, optimizer, rule="local")
        run.finish()
        return model is net, distributed is optimizer

    assert run_members(2, member) == [(True, True)] * 2


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_members_learn_and_end_with_equal_weights_under_any_optimizer(name: str) -> None:
    nets = [mlp() for _ in range(3)]
    torch.nn.init.zeros_(nets[2][0].weight)  # it starts from member 0's all the same

    def member(run: Run) -> tuple[torch.Tensor, float, float]:
        net = nets[run.rank]
        _, optimizer = run.distribute(net, OPTIMIZERS[name](net), rule="local")
        losses = repeated(net, optimizer, STEPS)
        run.finish()
        return flat(net), losses[0], losses[-1]

    results = run_members(3, member)
    for weights, first, last in results:
        assert torch.equal(weights, results[0][0])
        assert last < 0.9 * first


@pytest.mark.parametrize("pull", [0, 0.5, 1])
def test_members_that_tell_signs_learn_and_end_with_equal_weights_whatever_they_hide(pull: float) -> None:
    nets = [mlp() for _ in range(3)]

    def member(run: Run) -> tuple[torch.Tensor, torch.Tensor, float, float]:
        net = nets[run.rank]
        _, optimizer = run.distribute(net, adamw(net), rule="local", wire="signs", pull=pull)
        losses = repeated(net, optimizer, STEPS)
        with run.consensus():
            inside = flat(net)
        run.finish()
        return flat(net), inside, losses[0], losses[-1]

    results = run_members(3, member)
    for weights, inside, first, last in results:
        assert torch.equal(weights, results[0][0])
        assert torch.equal(inside, results[0][1])
        assert last < 0.9 * first


def test_one_member_alone_trains_as_torch_does() -> None:
    def member(run: Run) -> torch.Tensor:
        net = mlp()
        _, optimizer = run.distribute(net, adamw(net), rule="local")
        repeated(net, optimizer, STEPS)
        run.finish()
        return flat(net)

    plain = mlp()
    repeated(plain, adamw(plain), STEPS)
    (weights,) = run_members(1, member)
    assert torch.allclose(weights, flat(plain), rtol=1e-3, atol=1e-4)  # see write_probe.py


def test_inside_consensus_all_hold_the_same_and_behind_it_each_its_own() -> None:
    def member(run: Run) -> tuple[torch.Tensor, torch.Tensor, bool]:
        net = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.BatchNorm1d(9))
        _, optimizer = run.distribute(net, adamw(net), rule="local")
        torch.manual_seed(run.rank)
        for _ in range(5):
            net(torch.randn(8, 4) + run.rank).square().mean().backward()
            optimizer.step()
        with run.consensus():
            inside, buffers = flat(net), net[1].running_mean.clone()
            digest = run.digest()
        before = flat(net)
        assert run.digest() == digest
        run.finish()
        return torch.cat([inside, buffers]), before, torch.equal(before, inside)

    results = run_members(2, member)
    (inside, before, same), (other_inside, other_before, _) = results
    assert torch.equal(inside, other_inside)
    assert not same
    assert not torch.equal(before, other_before)


def test_a_step_inside_of_consensus_is_refused() -> None:
    def member(run: Run) -> None:
        net = mlp()
        _, optimizer = run.distribute(net, adamw(net), rule="local")
        repeated(net, optimizer, 2)
        with run.consensus():
            repeated(net, optimizer, 2)

    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert "inside `with consensus()`" in str(failure)


def test_steps_go_on_while_a_member_makes_none() -> None:
    made = threading.Event()

    def member(run: Run) -> None:
        net = mlp()
        _, optimizer = run.distribute(net, adamw(net), rule="local")
        if run.rank == 1:
            assert made.wait(30)
        repeated(net, optimizer, 100)
        made.set()
        run.finish()

    run_members(2, member)


def test_uneven_epochs_and_amp_need_no_care() -> None:
    """A step that GradScaler skips is none, and nobody waits for it."""

    def member(run: Run) -> torch.Tensor:
        net = torch.nn.Linear(4, 9)
        _, optimizer = run.distribute(net, adamw(net), rule="local")
        data = torch.utils.data.TensorDataset(torch.randn(21, 4, generator=torch.Generator().manual_seed(1)))
        loader = DataLoader(data, 2 + run.rank, run=run)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127 if run.rank == 1 else 2.0)
        for _ in range(3):
            for (x,) in loader:
                optimizer.zero_grad()
                scaler.scale(1000 * net(x).square().mean()).backward()
                scaler.step(optimizer)
                scaler.update()
        run.finish()
        return flat(net)

    first, second = run_members(2, member)
    assert torch.equal(first, second)
    assert torch.isfinite(first).all()


def test_a_parameter_that_is_not_finite_is_named_and_the_others_go_on() -> None:
    def member(run: Run) -> str:
        net = mlp()
        _, optimizer = run.distribute(net, adamw(net), rule="local")
        repeated(net, optimizer, 6)
        told = ""
        if run.rank == 1:
            with torch.no_grad():
                net[2].weight[0, 0] = float("nan")
            with pytest.raises(Error, match=r"the parameter '\d\.\w+' holds NaN or infinity") as failure:
                repeated(net, optimizer, 20)
            told = failure.value.code
        else:
            repeated(net, optimizer, 20)
        run.finish()
        assert torch.isfinite(flat(net)).all()
        return told

    assert run_members(2, member) == ["", "nonfinite"]


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("half", "parameter '0.weight' is bfloat16; rule='local' needs float32 parameters"),
        ("optimizer", "optimizer is 'adam'; it must be one of torch's"),
    ],
)
def test_what_it_cannot_do_is_refused(what: str, sentence: str) -> None:
    def member(run: Run) -> None:
        net = mlp().bfloat16() if what == "half" else mlp()
        run.distribute(net, "adam" if what == "optimizer" else adamw(net), rule="local")

    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert sentence in str(failure)


def test_after_finish_the_optimizer_is_the_script_s_alone() -> None:
    def member(run: Run) -> tuple[float, int, bool]:
        net = mlp()
        _, optimizer = run.distribute(net, adamw(net), rule="local")
        repeated(net, optimizer, 6)
        run.finish()
        ended = flat(net)
        repeated(net, optimizer, 2)
        return run.stats()["iteration"], run.digest(), torch.equal(flat(net), ended)

    first, second = run_members(2, member)
    assert first == second
    assert first[0] == 6
    assert not first[2]


class Masters(torch.optim.SGD):
    """Keeps the weights itself, as mixed-precision optimizers do."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter].setdefault("master", parameter.detach().clone())
                self.state[parameter]["master"] -= group["lr"] * parameter.grad
                parameter.data.copy_(self.state[parameter]["master"])


class Lookahead(torch.optim.SGD):
    """Every fifth step goes back half of the way."""

    def step(self, closure=None):
        self.made = getattr(self, "made", 0) + 1
        parameters = self.param_groups[0]["params"]
        if self.made == 1:
            self.slow = [parameter.detach().clone() for parameter in parameters]
        super().step()
        if self.made % 5 == 0:
            for slow, parameter in zip(self.slow, parameters, strict=True):
                slow += 0.5 * (parameter.detach() - slow)
                parameter.data.copy_(slow)


@pytest.mark.parametrize("kind", [Masters, Lookahead])
def test_an_optimizer_with_a_second_copy_of_the_weights_is_refused(kind: type) -> None:
    def member(run: Run) -> None:
        net = mlp()
        _, optimizer = run.distribute(net, kind(net.parameters(), lr=0.01), rule="local")
        repeated(net, optimizer, 32)  # all that are looked at: of one that goes back in every fifth, three

    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert f".{kind.__name__} did not keep a change of '" in str(failure)


PLAIN = (
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "Adamax",
    "AdamW",
    "ASGD",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
)


@pytest.mark.parametrize("name", PLAIN)
def test_torch_s_optimizers_pass_and_learn_what_they_would_have(name: str) -> None:
    """A step of the probe costs one element some low bits."""

    def member(run: Run) -> torch.Tensor:
        net = mlp()
        _, optimizer = run.distribute(
            net, getattr(torch.optim, name)(net.parameters(), lr=0.001), rule="local"
        )
        repeated(net, optimizer, 20)
        return flat(net)

    plain = mlp()
    repeated(plain, getattr(torch.optim, name)(plain.parameters(), lr=0.001), 20)
    (weights,) = run_members(1, member)
    assert torch.allclose(weights, flat(plain), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("start", "steps"), [(1e-3, 10), (1e-3, 20), (1e-8, 1000), (1e-10, 100)])
def test_a_learning_rate_that_rises_by_much_in_each_step_is_no_second_copy(start: float, steps: int) -> None:
    def member(run: Run) -> None:
        net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        for layer in (net[0], net[2]):
            torch.nn.init.zeros_(layer.bias)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
        _, optimizer = run.distribute(net, optimizer, rule="local")
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=start, total_iters=steps)
        for _ in range(40):
            optimizer.zero_grad()
            net(torch.randn(16, 8)).square().mean().backward()
            optimizer.step()
            scheduler.step()

    for seed in range(3):
        torch.manual_seed(seed)
        run_members(1, member)


def test_a_step_says_how_much_its_member_counts() -> None:
    """One pulls to 0 and counts for 3, the other one to 4."""

    def member(run: Run) -> float:
        weight = torch.nn.Parameter(torch.full((64,), 2.0))
        net = torch.nn.ParameterList([weight])
        _, optimizer = run.distribute(net, torch.optim.SGD(net.parameters(), lr=0.05), rule="local")
        for step in range(400):
            optimizer.zero_grad()
            (0.5 * (weight - 4 * run.rank).square()).sum().backward()
            optimizer.step(samples=1 if run.rank else 3)
            if step % 5 == 0:
                run.mean(0.0)  # at one pace
        run.finish()
        return float(weight.detach().mean())

    for mean in run_members(2, member):
        assert abs(mean - 1) < 0.3


def test_lbfgs_with_its_closure_passes() -> None:
    def member(run: Run) -> torch.Tensor:
        net = mlp()
        _, optimizer = run.distribute(net, torch.optim.LBFGS(net.parameters(), max_iter=2), rule="local")
        step_with_closures(net, optimizer)
        run.finish()
        return flat(net)

    first, second = run_members(2, member)
    assert torch.equal(first, second)


def test_a_parameter_that_thaws_later_is_refused() -> None:
    """It would be trained on each member alone."""

    def member(run: Run) -> None:
        net = mlp()
        net[0].weight.requires_grad_(False)
        _, optimizer = run.distribute(net, adamw(net), rule="local")
        net[0].weight.requires_grad_(True)
        repeated(net, optimizer, 2)

    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert "(149, 13) that was frozen, or not in the optimizer, at distribute() has a gradient" in str(
            failure
        )


def test_a_parameter_that_thaws_later_is_found_behind_a_closure_too() -> None:
    def member(run: Run) -> None:
        net = mlp()
        net[0].weight.requires_grad_(False)
        _, optimizer = run.distribute(net, adamw(net), rule="local")
        net[0].weight.requires_grad_(True)
        with pytest.raises(Error, match="that was frozen, or not in the optimizer, at distribute"):
            step_with_closures(net, optimizer, steps=1)

    run_members(2, member)


def test_a_model_that_was_cast_is_refused_and_goes_on_when_it_is_cast_back(tmp_path: Path) -> None:
    def member(run: Run) -> torch.Tensor:
        net = mlp()
        _, optimizer = run.distribute(net, sgd(net), rule="local")
        for cast in (net.half, net.bfloat16, net.double):
            cast()
            for call in (optimizer.step, lambda: run.save(tmp_path)):
                with pytest.raises(Error, match=r"the parameter '0.weight' is torch.*model.float\(\)"):
                    call()
            net.float()
            repeated(net, optimizer, 3)
        run.finish()
        return flat(net)

    one, other = run_members(2, member)
    assert torch.equal(one, other)


def test_what_the_others_learned_arrives_where_a_copy_stands_between_though_this_member_has_nan() -> None:
    """A channels-last weight is no contiguous memory: the engine works on a copy of it."""

    def member(run: Run) -> bool:
        net = torch.nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
        _, optimizer = run.distribute(net, torch.optim.SGD(net.parameters(), lr=0.1), rule="local")
        for step in range(30):
            net.weight.grad = torch.ones_like(net.weight)
            net.bias.grad = torch.ones_like(net.bias)
            if run.rank == 1 and step == 5:
                with torch.no_grad():
                    net.bias[0] = float("nan")
            with contextlib.suppress(Error):
                optimizer.step()
            run.mean(1.0)  # in step with each other
        with run.consensus():
            same = bool(torch.isfinite(net.weight).all())
        run.finish()
        return same

    assert run_members(2, member) == [True, True]


def test_the_consensus_is_the_mean_and_each_member_s_own_comes_back() -> None:
    def member(run: Run) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        net = torch.nn.Linear(40, 50)
        _, optimizer = run.distribute(net, torch.optim.SGD(net.parameters(), lr=1.0), rule="local")
        generator = torch.Generator().manual_seed(run.rank)
        for parameter in net.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        before = flat(net)
        with run.consensus():
            pass
        behind = flat(net)
        run.finish()
        return before, behind, flat(net)

    results = run_members(2, member)
    for _, behind, final in results:
        assert torch.allclose(final, (results[0][1] + results[1][1]) / 2, atol=0.02)  # 8 bits at the end
        assert not torch.allclose(behind, final, atol=0.1)
