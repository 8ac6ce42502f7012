"""Every tensor that torch sees comes back, and the model file is what torch itself would write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpointing import (
    AFTER,
    BEFORE,
    Weighed,
    file_of,
    normed,
    resumed,
    rewrite,
    started,
    unbroken,
    with_criterion,
)
from conftest import outcomes_of_members, run_members
from safetensors.torch import load_file
from training import adamw, mlp, plain_loop, vectors

from stellatrain import Error
from stellatrain.run import Run


def test_the_model_file_is_plain_safetensors_with_the_names_of_torch(tmp_path: Path) -> None:
    def member(run: Run):
        net = nets[run.rank]
        optimizer, batches = started(run, net, density=1, staleness=0)
        plain_loop(net, optimizer, batches)
        run.save(tmp_path)
        run.finish()
        return net

    nets = [normed(), normed()]
    trained = run_members(2, member)[0]
    plain = normed()
    plain.load_state_dict(load_file(file_of(tmp_path, "model")))
    for name, value in trained.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


class Counting(torch.nn.Module):
    """Its output depends on a buffer that state_dict() leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = normed()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += x[0, 0]
        return self.net(x) * (1 + self.seen.tanh())


class Renamed(torch.nn.Module):
    """state_dict() has other keys than named_parameters() has names, and lacks one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = normed()
        self.scale = torch.nn.Parameter(torch.ones(5))
        self.register_state_dict_post_hook(self._rename)
        self.register_load_state_dict_pre_hook(self._rename_back)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) * self.scale

    @staticmethod
    def _rename(module: torch.nn.Module, state: dict, prefix: str, metadata: dict) -> None:
        del state["scale"]
        state["first"] = state.pop("net.0.weight")

    @staticmethod
    def _rename_back(module: torch.nn.Module, state: dict, *_: object) -> None:
        state["net.0.weight"] = state.pop("first")
        state["scale"] = torch.ones(5)


@pytest.mark.parametrize("model", [Counting, Renamed])
@pytest.mark.parametrize("staleness", [0, 1])
def test_what_state_dict_leaves_out_is_not_in_the_model_file_and_comes_back_all_the_same(
    tmp_path: Path, model: Callable[[], torch.nn.Module], staleness: int
) -> None:
    def members(body: Callable) -> list[tuple]:
        nets = [model(), model()]
        return run_members(2, lambda run: body(run, nets[run.rank], tmp_path, staleness=staleness))

    expected = members(unbroken)
    tensors = load_file(file_of(tmp_path, "model"))
    assert tensors.keys() == model().state_dict().keys()
    model().load_state_dict(tensors)  # strictly
    assert members(resumed) == expected


def test_tied_parameters_are_in_the_model_file_once_and_resume_exactly(tmp_path: Path) -> None:
    def tied() -> torch.nn.Module:
        torch.manual_seed(3)
        first, last = torch.nn.Linear(13, 13), torch.nn.Linear(13, 13)
        last.weight = first.weight
        return torch.nn.Sequential(first, last, torch.nn.Linear(13, 5))

    def members(body: Callable) -> list[tuple]:
        nets = [tied(), tied()]
        return run_members(2, lambda run: body(run, nets[run.rank], tmp_path))

    expected = members(unbroken)
    tensors = load_file(file_of(tmp_path, "model"))
    assert tensors.keys() == tied().state_dict().keys() - {"1.weight"}
    assert members(resumed) == expected


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("density", [0.3, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_that_the_optimizer_has_beside_the_model_resume_exactly(
    tmp_path: Path, staleness: int, density: float, dtype: torch.dtype
) -> None:
    def members(directory: Path | None, spoilt: bool = False) -> list:
        parts = [(mlp(), Weighed(dtype)) for _ in range(2)]
        for _, criterion in parts:
            if spoilt:  # as they are in a run that starts otherwise
                torch.nn.init.constant_(criterion.weights, 3)
        options = {"staleness": staleness, "density": density}
        return run_members(2, lambda run: with_criterion(run, parts[run.rank], batches, directory, **options))

    batches = vectors(BEFORE + AFTER, 4)
    expected = members(None)
    assert members(tmp_path) == expected
    assert members(tmp_path, spoilt=True) == expected


def test_a_parameter_beside_the_model_that_is_missing_is_named_on_every_member(tmp_path: Path) -> None:
    def member(run: Run):
        with_criterion(run, parts[run.rank], vectors(BEFORE + AFTER, 4), tmp_path)

    parts = [(mlp(), Weighed(torch.float32)) for _ in range(2)]
    run_members(2, member)
    path = file_of(tmp_path, "consensus")
    tensors = load_file(path)
    (missing, _) = sorted(key for key in tensors if key.startswith("parameter."))
    del tensors[missing]
    rewrite(path, tensors)
    parts = [(mlp(), Weighed(torch.float32)) for _ in range(2)]
    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "mismatch"
        assert f"{path} holds nothing for '{missing}'" in str(failure)


def with_frozen() -> torch.nn.Module:
    net = normed()
    net[0].weight.requires_grad_(False)
    return net


def test_a_parameter_that_is_not_trained_and_differs_between_members_is_named_at_the_save(
    tmp_path: Path,
) -> None:
    def member(run: Run):
        net = with_frozen()
        started(run, net)
        with torch.no_grad():
            net[0].weight[0, 0] += run.rank
        run.save(tmp_path)

    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "mismatch"
        assert "SHA-256 of '0.weight' is" in str(failure)
        assert "must be the same on every member" in str(failure)
    assert list(tmp_path.iterdir()) == []


def test_a_parameter_that_somebody_changed_on_one_member_is_saved_as_the_engine_has_it(
    tmp_path: Path,
) -> None:
    def member(run: Run) -> tuple[bool, dict]:
        net = normed()
        started(run, net)
        before = net[0].weight.detach().clone()
        with torch.no_grad():
            net[0].weight[0, 0] += run.rank
        run.save(tmp_path / str(run.rank))
        (path,) = (tmp_path / str(run.rank)).glob("model-*.safetensors")
        return torch.equal(net[0].weight, before), load_file(path)

    (same, first), (other_same, second) = run_members(2, member)
    assert same and other_same
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_what_cannot_be_put_back_yet_is_told_at_the_save(tmp_path: Path) -> None:
    """At staleness 1 the next step writes the blocks of the last one. Each has a directory."""

    def member(run: Run):
        net = nets[run.rank]
        optimizer = run.distribute(net, adamw(net), density=1, staleness=1, rule="sparse")[1]
        plain_loop(net, optimizer, vectors(2, 4))
        with torch.no_grad():
            net[0].weight[0, 0] += run.rank
        run.save(tmp_path / str(run.rank))

    nets = [mlp(), mlp()]
    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "mismatch"
        assert "hold different values for model-2-" in str(failure)
    assert [list((tmp_path / str(rank)).iterdir()) for rank in (0, 1)] == [[], []]


def test_frozen_parameters_come_back(tmp_path: Path) -> None:
    def members(body: Callable) -> list[tuple]:
        nets = [with_frozen(), with_frozen()]
        return run_members(2, lambda run: body(run, nets[run.rank], tmp_path))

    expected = members(unbroken)
    assert members(resumed) == expected
