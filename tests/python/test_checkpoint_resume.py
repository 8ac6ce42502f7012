"""A run that was resumed goes on as one that never stopped."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpointing import BEFORE, OPTIMIZERS, end_of, normed, resumed, started, unbroken
from conftest import run_members, run_processes
from torch.utils.data import TensorDataset
from training import adamw, flat, mlp, plain_loop, vectors

import stellatrain.random_states
from stellatrain import DataLoader
from stellatrain.run import Run


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("density", [0.05, 1])
@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_resumed_run_goes_on_as_one_that_never_stopped_and_never_saved(
    tmp_path: Path, world_size: int, staleness: int, density: float, optimizer: str
) -> None:
    options = {"density": density, "staleness": staleness, "optimizer": optimizer}

    def members(body: Callable, *arguments: Any) -> list[tuple]:
        nets = [normed() for _ in range(world_size)]
        return run_members(world_size, lambda run: body(run, nets[run.rank], *arguments, **options))

    expected = members(unbroken, None)
    assert members(unbroken, tmp_path) == expected
    assert members(resumed, tmp_path) == expected


@pytest.mark.parametrize("density", [0.05, 1])
@pytest.mark.parametrize(
    ("wire", "block"), [("bf16", 16), ("int8", 16), ("int4", 64), ("int2", 16), ("int1", 16), ("int1", 64)]
)
def test_what_codes_left_behind_is_resumed(tmp_path: Path, wire: str, block: int, density: float) -> None:
    options = {"wire": wire, "block": block, "density": density}

    def members(body: Callable, *arguments: Any) -> list[tuple]:
        nets = [normed() for _ in range(2)]
        return run_members(2, lambda run: body(run, nets[run.rank], *arguments, **options))

    expected = members(unbroken, tmp_path)
    assert members(resumed, tmp_path) == expected


def with_dropout() -> torch.nn.Module:
    net = normed()
    net.insert(3, torch.nn.Dropout(0.3))
    return net


class Even(torch.nn.Module):
    """All its gradients are equal, so that all blocks compete for the last place."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.ones(2000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weights.mean() * x[:, :5]


@pytest.mark.parametrize(("model", "density"), [(normed, 0.05), (Even, 0.6)])
@pytest.mark.parametrize("selector", ["blocks", "threshold", "random"])
def test_every_selector_goes_on_with_the_choices_that_it_would_have_made(
    tmp_path: Path, selector: str, model: Callable, density: float
) -> None:
    options = {"selector": selector, "density": density}

    def members(body: Callable, *arguments: Any) -> list[tuple]:
        nets = [model() for _ in range(2)]
        return run_members(2, lambda run: body(run, nets[run.rank], *arguments, **options))

    expected = members(unbroken, tmp_path)
    assert members(resumed, tmp_path) == expected


def test_a_checkpoint_of_another_selector_or_of_other_buckets_loads(tmp_path: Path) -> None:
    """What it says of the selectors does not count then; the run goes on with the options of distribute()."""

    def loaded(run: Run, **options: Any) -> tuple:
        optimizer, _ = started(run, net := normed(), **options)
        run.load(tmp_path)
        state = optimizer.state_dict()["state"].items()
        moments = {(i, key): value.tolist() for i, entry in state for key, value in entry.items()}
        return len(optimizer.engine.selector_state()[1]) // 2, flat(net).tolist(), moments

    run_members(1, lambda run: unbroken(run, normed(), tmp_path, selector="threshold"))
    ((buckets, *expected),) = run_members(1, lambda run: loaded(run, selector="threshold"))
    assert buckets >= 3
    same = {"selector": "threshold"}
    for options in ({"selector": "random"}, same | {"block": 64}, same | {"bucket_mib": 1}):
        ((buckets, *found),) = run_members(1, lambda run, options=options: loaded(run, **options))
        assert found == expected
        assert (buckets == 1) == ("bucket_mib" in options)
        run_members(1, lambda run, options=options: resumed(run, normed(), tmp_path, **options))


MOMENTUM = {"momentum": 0.9}, {"momentum": 0.0}
AMSGRAD = {"amsgrad": True}, {"amsgrad": False}


def plain_sgd(net: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.05)


@pytest.mark.parametrize(("optimizer", "numbers"), [(plain_sgd, MOMENTUM), (adamw, AMSGRAD)])
@pytest.mark.parametrize("off_at", [None, 4], ids=["on at the save", "off at the save"])
@pytest.mark.parametrize("density", [0.05, 1])
def test_moments_that_were_switched_on_after_distribute_come_back(
    tmp_path: Path, optimizer: Callable, numbers: tuple[dict, dict], off_at: int | None, density: float
) -> None:
    """On from step 2; perhaps off again before the save, and on again after it: moments stay in between."""
    on, off = numbers
    switches = {2: on, off_at: off, BEFORE + 1: on}
    options = {"optimizer": optimizer, "density": density}

    def train(net: torch.nn.Module, distributed, batches: list, first: int) -> None:
        for step, batch in enumerate(batches, first):
            distributed.param_groups[0].update(switches.get(step, {}))
            plain_loop(net, distributed, [batch])

    def unbroken(run: Run):
        distributed, batches = started(run, net := nets[run.rank], **options)
        train(net, distributed, batches[:BEFORE], 0)
        run.save(tmp_path)
        train(net, distributed, batches[BEFORE:], BEFORE)
        return end_of(run, net, distributed)

    def resumed(run: Run):
        distributed, batches = started(run, net := nets[run.rank], **options)
        run.load(tmp_path)
        train(net, distributed, batches[BEFORE:], BEFORE)
        return end_of(run, net, distributed)

    nets = [normed(), normed()]
    expected = run_members(2, unbroken)
    nets = [normed(), normed()]
    assert run_members(2, resumed) == expected


def in_process(run: Run, what: str, directory: Path | None, options: dict) -> tuple:
    net = with_dropout()
    torch.manual_seed(run.rank)
    return {"unbroken": unbroken, "resumed": resumed}[what](run, net, directory, **options)


@pytest.mark.parametrize("options", [{}, {"density": 1, "staleness": 0}], ids=["sparse", "exact"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_dropout_goes_on_with_the_same_random_numbers(tmp_path: Path, world_size: int, options: dict) -> None:
    expected = run_processes(world_size, in_process, "unbroken", None, options)
    assert run_processes(world_size, in_process, "unbroken", tmp_path, options) == expected
    assert run_processes(world_size, in_process, "resumed", tmp_path, options) == expected


@pytest.mark.parametrize("sizes", [(4, 4), (4, 2)], ids=["even", "uneven"])
@pytest.mark.parametrize("load_first", [False, True], ids=["loader first", "load first"])
def test_loaders_go_on_with_the_epoch_that_comes(
    tmp_path: Path, load_first: bool, sizes: tuple[int, int]
) -> None:
    """Each epoch has an order of its own; a loader may be made before load() or after it."""
    x, y = vectors(1, 21)[0]
    data = TensorDataset(x, y)

    def loaders(run: Run) -> list[DataLoader]:
        return [DataLoader(data, sizes[run.rank], shuffle=True, seed=seed, run=run) for seed in (1, 2)]

    def epochs(net: torch.nn.Module, optimizer, loader: DataLoader, passes: int) -> list:
        seen = []
        for _ in range(passes):
            for batch in loader:
                seen.append(batch[0].tolist())
                plain_loop(net, optimizer, [batch])
        return seen

    def unbroken(run: Run):
        optimizer, _ = started(run, net := nets[run.rank])
        DataLoader(data, 2, run=run)  # gone at save(), so that it does not count
        DataLoader(data, 2, run=run, training=False)
        first, second = loaders(run)
        epochs(net, optimizer, first, 2)
        epochs(net, optimizer, second, 1)
        run.save(tmp_path)
        seen = epochs(net, optimizer, second, 1) + epochs(net, optimizer, first, 1)
        return seen, end_of(run, net, optimizer)

    def resumed(run: Run):
        optimizer, _ = started(run, net := nets[run.rank])
        made = None if load_first else loaders(run)
        run.load(tmp_path)
        first, second = made or loaders(run)
        assert (first.epoch, second.epoch) == (2, 1)
        seen = epochs(net, optimizer, second, 1) + epochs(net, optimizer, first, 1)
        return seen, end_of(run, net, optimizer)

    nets = [mlp(), mlp()]
    expected = run_members(2, unbroken)
    nets = [mlp(), mlp()]
    assert run_members(2, resumed) == expected


def test_the_generator_of_each_cuda_device_of_the_model_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without CUDA here: torch's two functions are replaced, and so is what finds the devices."""
    states = {2: torch.tensor([1, 2], dtype=torch.uint8), 5: torch.tensor([3, 4], dtype=torch.uint8)}
    devices = [2, 5]

    def set_state(state: torch.Tensor, device: torch.device) -> None:
        states[device.index] = state

    def found(_: torch.nn.Module) -> list[tuple[int, torch.device]]:
        return [(i, torch.device("cuda", index)) for i, index in enumerate(devices)]

    monkeypatch.setattr(stellatrain.random_states, "cuda_devices", found)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device.index])
    monkeypatch.setattr(torch.cuda, "set_rng_state", set_state)
    run_members(1, lambda run: unbroken(run, normed(), tmp_path))
    states.update({index: torch.zeros(2, dtype=torch.uint8) for index in (0, 1, 7)})
    devices[:] = [0, 1]  # the same model on the other two
    with warnings.catch_warnings(action="error"):
        run_members(1, lambda run: resumed(run, normed(), tmp_path))
    assert states[0].tolist() == [1, 2]
    assert states[1].tolist() == [3, 4]
    devices[:] = [0, 1, 7]
    with pytest.warns(UserWarning, match="generators of 2 CUDA devices, the model here is on 3"):
        run_members(1, lambda run: resumed(run, normed(), tmp_path))
    assert states[7].tolist() == [0, 0]
    devices[:] = []
    with pytest.warns(UserWarning, match="generators of 2 CUDA devices, the model here is on 0"):
        run_members(1, lambda run: resumed(run, normed(), tmp_path))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_other_types_resume_exactly_too(tmp_path: Path, dtype: torch.dtype) -> None:
    """The fp32 consensus is what counts, not the 16 bits that torch sees."""

    class Cast(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp().to(dtype)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x.to(dtype))

    expected = run_members(1, lambda run: unbroken(run, Cast(), tmp_path))
    assert run_members(1, lambda run: resumed(run, Cast(), tmp_path)) == expected


def test_extra_and_the_param_groups_come_back(tmp_path: Path) -> None:
    def scheduled(run: Run):
        net = mlp()
        optimizer, batches = started(run, net, density=1, staleness=0)
        return net, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2), batches

    def save(run: Run):
        net, optimizer, scheduler, batches = scheduled(run)
        for batch in batches[:BEFORE]:
            plain_loop(net, optimizer, [batch])
            scheduler.step()
        optimizer.param_groups[0]["weight_decay"] = 0.125
        run.save(tmp_path, {"scheduler": scheduler.state_dict(), "epoch": 7})
        run.finish()
        return optimizer.param_groups[0]["lr"]

    def load(run: Run):
        _, optimizer, scheduler, _ = scheduled(run)
        extra = run.load(tmp_path)
        scheduler.load_state_dict(extra["scheduler"])
        (group,) = optimizer.param_groups
        found = (
            group["lr"],
            group["weight_decay"],
            tuple(group["betas"]),
            extra["epoch"],
            scheduler.last_epoch,
        )
        run.finish()
        return found

    rates = run_members(2, save)
    assert rates[0] == pytest.approx(0.01 * 0.1**2)
    assert run_members(2, load) == [(rates[0], 0.125, (0.9, 0.999), 7, BEFORE)] * 2
