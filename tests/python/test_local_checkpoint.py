"""save() and load() under rule="local": what all agree on, and what each member has of its own."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import outcomes_of_members, run_members
from safetensors.torch import load_file
from training import flat, mlp, repeated, step_with_closures

from stellatrain import Error
from stellatrain.checkpoint_tensors import consensus_tensors, own_tensors
from stellatrain.run import Run


def trained(
    run: Run, net: torch.nn.Module, steps: int, name: str = "AdamW", **options: Any
) -> torch.optim.Optimizer:
    """Its optimizer after so many steps, of other data on each member."""
    optimizer = getattr(torch.optim, name)(net.parameters(), lr=0.01)
    run.distribute(net, optimizer, rule="local", **options)
    torch.manual_seed(run.rank)
    for _ in range(steps):
        optimizer.zero_grad()
        (net(torch.randn(4, 13)) - run.rank).square().mean().backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adafactor"])
def test_a_checkpoint_has_what_all_agree_on_and_what_each_member_has_of_its_own(
    world_size: int, name: str, tmp_path: Path
) -> None:
    def before(run: Run) -> tuple[Any, ...]:
        net = mlp()
        optimizer = trained(run, net, 12 + run.rank, name)
        run.save(tmp_path, {"rank": run.rank})
        own, state = flat(net), copy.deepcopy(optimizer.state_dict()["state"])
        consensus = consensus_tensors(run)  # without a step there is no round that changes them
        run.finish()
        return own, state, run.optimizer.iteration, consensus

    def after(run: Run) -> tuple[Any, ...]:
        torch.manual_seed(99)
        net = mlp()
        optimizer = trained(run, net, 3, name)
        assert run.load(tmp_path) == {"rank": run.rank}
        own, iteration = flat(net), run.optimizer.iteration
        state = copy.deepcopy(optimizer.state_dict()["state"])
        digest = run.digest()
        repeated(net, optimizer, 5)
        run.finish()
        return own, state, iteration, digest, flat(net)

    saved, loaded = run_members(world_size, before), run_members(world_size, after)
    for (own, state, iteration, _), (own_again, state_again, iteration_again, *rest) in zip(
        saved, loaded, strict=True
    ):
        assert torch.equal(own, own_again)
        assert iteration == iteration_again
        assert_equal_states(state, state_again)
        assert rest[0] == loaded[0][3]
        assert torch.equal(rest[1], loaded[0][4])
    name = json.loads((tmp_path / "latest.json").read_text())["name"]
    model = load_file(tmp_path / f"model-{name}.safetensors")
    assert model.keys() == mlp().state_dict().keys()
    for *_, consensus in saved:
        for key, tensor in model.items():
            assert torch.equal(tensor.flatten(), consensus[f"weights.{key}"])


def hidden_of(run: Run) -> dict[str, torch.Tensor]:
    """By parameter; nothing where the engine hides nothing."""
    prefix = "hidden."
    return {k.removeprefix(prefix): t for k, t in own_tensors(run).items() if k.startswith(prefix)}


HIDES, AS_IT_PAYS, NEVER, CODES = (
    {"wire": "signs", "pull": 0.5},
    {"wire": "signs", "pull": None},
    {"wire": "signs"},
    {"wire": "int8"},
)


@pytest.mark.parametrize(
    ("saved_with", "loaded_with"),
    [(HIDES, HIDES), (AS_IT_PAYS, AS_IT_PAYS), (HIDES, NEVER), (NEVER, HIDES), (AS_IT_PAYS, CODES)],
)
def test_what_is_hidden_from_a_members_model_is_in_its_checkpoint(
    saved_with: dict[str, Any], loaded_with: dict[str, Any], tmp_path: Path
) -> None:
    def kept(
        run: Run, options: dict[str, Any], checkpoint: Callable[[Path], object]
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        """A member's weights and what is hidden beside them, when it has been saved or loaded."""
        net = mlp()
        trained(run, net, 30, **options)
        checkpoint(tmp_path)
        own = {name: p.detach().clone() for name, p in net.named_parameters()}
        hidden = hidden_of(run)
        run.finish()
        return own, hidden

    saved = run_members(2, lambda run: kept(run, saved_with, run.save))
    loaded = run_members(2, lambda run: kept(run, loaded_with, run.load))
    names = [name for name, _ in mlp().named_parameters()]
    hid, hides = (options in (HIDES, AS_IT_PAYS) for options in (saved_with, loaded_with))
    for (own, hidden), (own_again, hidden_again) in zip(saved, loaded, strict=True):
        assert list(hidden) == (names if hid else [])
        assert any(tensor.any() for tensor in hidden.values()) == hid
        assert list(hidden_again) == (names if hides else [])
        for name in names:
            there = hidden.get(name, torch.zeros(own[name].numel()))
            here = hidden_again.get(name, torch.zeros(own[name].numel()))
            assert torch.equal(own_again[name], own[name] if hides else own[name] + there.view_as(own[name]))
            assert torch.equal(here, there if hides else torch.zeros_like(here))


def assert_equal_states(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal_states(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal_states(a, b)
    else:
        assert one == other


@pytest.mark.parametrize("kind", [float, np.float64, torch.tensor])
def test_a_checkpoint_has_parameters_beside_the_model_and_each_members_own_settings(
    kind: Callable[[float], Any], tmp_path: Path
) -> None:
    def prepared(run: Run, turned: bool) -> tuple[torch.nn.Module, torch.nn.Parameter, torch.optim.Optimizer]:
        """turned: the parameters come in another order."""
        net, scale = mlp(), torch.nn.Parameter(torch.ones(5))
        parameters = [("scale", scale), *net.named_parameters()][:: -1 if turned else 1]
        lr, beta = kind(0.01 * (run.rank + 1)), kind(0.9 + 0.05 * run.rank)
        optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(kind(0.9), beta))
        run.distribute(net, optimizer, rule="local")
        for _ in range(3):
            optimizer.zero_grad()
            (net(torch.ones(4, 13)) * scale - run.rank).square().mean().backward()
            optimizer.step()
        return net, scale, optimizer

    def save(run: Run) -> tuple[torch.Tensor, torch.Tensor, float, float]:
        _, scale, optimizer = prepared(run, turned=False)
        run.save(tmp_path)
        moment = optimizer.state[scale]["exp_avg"].clone()
        group = optimizer.param_groups[0]
        kept = scale.detach().clone(), moment, float(group["lr"]), float(group["betas"][1])
        run.finish()
        return kept

    def load(run: Run) -> tuple[torch.Tensor, torch.Tensor, float, float]:
        _, scale, optimizer = prepared(run, turned=True)
        optimizer.param_groups[0].update(lr=7, betas=(0.5, 0.5))
        run.load(tmp_path)
        group = optimizer.param_groups[0]
        assert group["param_names"][-1] == "scale"
        return scale.detach().clone(), optimizer.state[scale]["exp_avg"], group["lr"], group["betas"][1]

    for saved, loaded in zip(run_members(2, save), run_members(2, load), strict=True):
        assert_equal_states(list(saved), list(loaded))


@pytest.mark.parametrize(
    ("what", "code", "sentence"),
    [
        ("lbfgs", "invalid_argument", "LBFGS holds what a checkpoint cannot: "),
        ("nan", "nonfinite", "the parameter '0.weight' holds NaN or infinity: it is not saved"),
    ],
)
def test_what_cannot_be_saved_leaves_the_checkpoint_before(
    what: str, code: str, sentence: str, tmp_path: Path
) -> None:
    def member(run: Run) -> None:
        net = mlp()
        kind = torch.optim.LBFGS if what == "lbfgs" else torch.optim.SGD
        optimizer = kind(net.parameters(), lr=0.01)
        run.distribute(net, optimizer, rule="local")
        run.save(tmp_path)
        before = (tmp_path / "latest.json").read_bytes()
        if what == "lbfgs":
            step_with_closures(net, optimizer)
        else:
            with torch.no_grad():
                net[0].weight[3, 4] = torch.nan
        try:
            run.save(tmp_path)
        finally:
            assert (tmp_path / "latest.json").read_bytes() == before

    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert failure.code == code
    assert sentence in str(failure)


def test_a_checkpoint_of_the_other_rule_or_optimizer_is_a_mismatch(tmp_path: Path) -> None:
    def save(run: Run) -> None:
        trained(run, mlp(), 3)
        run.save(tmp_path)
        run.finish()

    def load(run: Run, rule: str, name: str) -> None:
        net = mlp()
        optimizer = getattr(torch.optim, name)(net.parameters(), lr=0.01)
        run.distribute(net, optimizer, rule=rule)
        run.load(tmp_path)

    run_members(2, save)
    for rule, name in (("sparse", "AdamW"), ("local", "SGD")):
        for failure in outcomes_of_members(2, lambda run, rule=rule, name=name: load(run, rule, name)):
            assert isinstance(failure, Error)
            assert failure.code == "mismatch"
            assert "was saved with the optimizer 'torch.optim.adamw.AdamW'" in str(failure)
            assert ("give distribute() rule='local', as then" in str(failure)) == (rule == "sparse")


def test_members_that_save_at_different_steps_are_told(tmp_path: Path) -> None:
    """No step waits for anybody, but save() does."""

    def member(run: Run) -> None:
        net = mlp()
        optimizer = trained(run, net, 3)
        if run.rank == 0:
            run.save(tmp_path)
        repeated(net, optimizer, 3)
        run.finish()

    for failure in outcomes_of_members(3, member):
        assert isinstance(failure, Error)
        assert failure.code == "mismatch"
        assert re.search(r'member 0 .* waits in all_gather "save" .* waits in finish\(\)', str(failure))
