"""Files that are broken, or of another model, are errors on every member; nothing is loaded then."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpointing import normed, saved, started
from conftest import outcomes_of_members, run_members
from safetensors.torch import load_file, save_file
from training import adamw, mlp, plain_loop

from stellatrain import Error
from stellatrain.run import Run
from stellatrain.settings import MOMENTS


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint") / "original"
    saved(directory, 2)
    return directory


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    """A checkpoint of two members, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "run"))


def load_outcomes(directory: Path, world_size: int, model: Callable = normed, **options: Any) -> list[Any]:
    def member(run: Run):
        started(run, nets[run.rank], **options)
        run.load(directory)

    nets = [model() for _ in range(world_size)]
    return outcomes_of_members(world_size, member)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path: Path) -> None:
    path.write_bytes(os.urandom(1000))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, garble, empty, Path.unlink])
@pytest.mark.parametrize("name", ["latest.json", "model-5", "consensus-5", "member-1-5"])
def test_a_broken_file_is_an_error_on_every_member_that_names_it(
    checkpoint: Path, damage: Callable[[Path], None], name: str
) -> None:
    damage(checkpoint / (name if name == "latest.json" else f"{name}.safetensors"))
    for failure in load_outcomes(checkpoint, 2):
        assert isinstance(failure, Error)
        assert failure.code == "io"
        assert name in str(failure)


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "null", '{"format": 1}', '{"format": 3}', '{"format": 4}', '{"format": 99}', "\udcff"],
)
def test_a_latest_json_that_is_none_is_an_error(checkpoint: Path, text: str) -> None:
    (checkpoint / "latest.json").write_text(text, errors="surrogateescape")
    for failure in load_outcomes(checkpoint, 2):
        assert isinstance(failure, Error)
        assert failure.code == "io"
        assert "latest.json" in str(failure)


def test_a_checkpoint_of_an_older_format_says_so(checkpoint: Path) -> None:
    path = checkpoint / "latest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    for failure in load_outcomes(checkpoint, 2):
        assert isinstance(failure, Error)
        assert "has format 1; this version reads 2, 3 and 4" in str(failure)


def test_weights_that_changed_on_disk_are_noticed(checkpoint: Path) -> None:
    path = checkpoint / "consensus-5.safetensors"
    tensors = load_file(path)
    tensors["weights.0.weight"][0] += 1e-6
    save_file(tensors, path)
    for failure in load_outcomes(checkpoint, 2):
        assert isinstance(failure, Error)
        assert failure.code == "mismatch"
        assert "is damaged" in str(failure)


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_checkpoint_of_another_world_size_is_a_mismatch_that_says_both(
    checkpoint: Path, world_size: int
) -> None:
    for failure in load_outcomes(checkpoint, world_size):
        assert isinstance(failure, Error)
        assert failure.code == "mismatch"
        assert f"was saved by 2 members, this run has {world_size}" in str(failure)


def wider() -> torch.nn.Module:
    net = normed()
    net[3] = torch.nn.Linear(37, 6)
    return net


def plain_sgd(net: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.05)


def with_buffer() -> torch.nn.Module:
    net = normed()
    net.register_buffer("more", torch.zeros(3))
    return net


@pytest.mark.parametrize(
    ("model", "options", "sentences"),
    [
        (wider, {}, ["185 values of", "'3.weight'", "needs 222"]),
        (mlp, {}, ["nothing for", "'2.weight'"]),
        (with_buffer, {}, ["nothing for 'buffer.more'", "needs (3,)"]),
        (normed, {"optimizer": "sgd"}, ["nothing for 'momentum_buffer'", "another model or optimizer"]),
        (normed, {"optimizer": plain_sgd}, ["holds 'exp_avg' of '", "another optimizer"]),
    ],
)
def test_a_checkpoint_of_another_model_is_a_mismatch_that_names_the_difference(
    checkpoint: Path, model: Callable, options: dict, sentences: list[str]
) -> None:
    for failure in load_outcomes(checkpoint, 2, model, **options):
        assert isinstance(failure, Error)
        assert failure.code == "mismatch"
        for sentence in sentences:
            assert sentence in str(failure)


def negative(tensor: torch.Tensor) -> torch.Tensor:
    return -1 - tensor.to(torch.int64)


def as_float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.float32)


def halved(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten()[: tensor.numel() // 2]


def square(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(1, -1)


def odd(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[1:]


def reads(text: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda _: torch.tensor(list(text), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "key", "change"),
    [
        ("member-1", "loader_epochs", None),
        ("member-1", "loader_epochs", as_float),
        ("member-1", "loader_epochs", lambda _: torch.tensor([1, -1])),
        ("member-1", "loader_epochs", lambda _: torch.tensor(3)),
        ("member-1", "selector.blocks", None),  # any other is allowed, but there is always one
        ("member-1", "selector.blocks", as_float),
        ("member-1", "selector.blocks", negative),
        ("member-1", "selector.blocks", square),
        ("member-1", "selector.blocks", odd),
        ("member-1", "torch_rng_state", None),
        ("member-1", "torch_rng_state", as_float),
        ("member-1", "torch_rng_state", halved),
        ("member-1", "torch_rng_state", torch.zeros_like),
        ("member-1", "residual.0.weight", square),
        ("member-1", "residual.0.weight", lambda tensor: tensor.to(torch.float64)),
        ("member-1", "buffer.1.running_mean", None),
        ("member-1", "extra", None),
        ("member-1", "extra", as_float),
        ("member-1", "extra", square),
        ("member-1", "extra", odd),
        ("member-1", "extra", reads(b"[]")),
        ("member-1", "extra", reads(b"\xff")),
        ("member-1", "extra", reads(b"[" * 100_000)),
        ("member-1", "extra", reads(b'{"$stella": "?"}')),
        ("consensus", "steps.0.weight", negative),
        ("consensus", "exp_avg.0.weight", halved),
        ("consensus", "exp_avg.0.weight", None),
        ("model", "0.weight", halved),
    ],
)
def test_a_tensor_that_is_not_what_it_must_be_is_named_on_every_member_and_nothing_is_loaded(
    checkpoint: Path, name: str, key: str, change: Callable | None
) -> None:
    path = checkpoint / f"{name}-5.safetensors"
    tensors = load_file(path)
    if change is None:
        del tensors[key]
    else:
        tensors[key] = change(tensors[key]).contiguous()
    save_file(tensors, path)

    def member(run: Run):
        optimizer, batches = started(run, nets[run.rank])
        before = optimizer.digest(), optimizer.iteration, optimizer.engine.selector_state()
        with pytest.raises(Error) as failure:
            run.load(checkpoint)
        assert (optimizer.digest(), optimizer.iteration, optimizer.engine.selector_state()) == before
        plain_loop(nets[run.rank], optimizer, batches)
        run.finish()
        return failure.value.code, str(failure.value)

    nets = [normed(), normed()]
    for code, sentence in run_members(2, member):
        assert code == "mismatch"
        assert str(path) in sentence
        for part in key.split(".", 1):  # "'exp_avg' of '0.weight'" too
            assert part in sentence


@pytest.mark.parametrize(
    "damage",
    [
        {"iteration": "5"},
        {"iteration": -1},
        {"iteration": 2**64},
        {"digest": 5},
        {"world_size": None},
        {"saved": None},
        {"saved": -1},
        {"param_groups": [5]},
        {"param_groups": [{"params": []}]},
        {"param_groups": [{"lr": "fast"}]},
        {"param_groups": [{"betas": 1}]},
    ],
)
def test_a_value_of_latest_json_that_cannot_be_is_named_on_every_member(
    checkpoint: Path, damage: dict[str, Any]
) -> None:
    path = checkpoint / "latest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    for failure in load_outcomes(checkpoint, 2):
        assert isinstance(failure, Error)
        assert failure.code in ("io", "mismatch")
        assert "latest.json" in str(failure)
        for key in damage:
            assert f"'{key}'" in str(failure)


def test_what_fails_on_one_member_after_all_checks_is_told_to_all(checkpoint: Path) -> None:
    """Not that its neighbours wait for it in another collective, and blame its silence."""

    def member(run: Run):
        started(run, nets[run.rank])
        if run.rank == 1:
            run.set_loader_epochs = None  # which nobody can call
        run.load(checkpoint)

    nets = [normed(), normed()]
    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "io"
        assert "member 1 (" in str(failure)
        assert "could not do its part: 'NoneType' object is not callable" in str(failure)


def test_a_load_that_failed_elsewhere_leaves_no_moments_behind(tmp_path: Path) -> None:
    """Room for those of the saved run is made only when every member has read its files."""

    def moments(optimizer) -> set[str]:
        return {name for name, *_ in optimizer.engine.state()}

    def save(run: Run):
        optimizer, batches = started(run, nets[run.rank], optimizer=plain_sgd)
        optimizer.param_groups[0]["momentum"] = 0.9
        plain_loop(nets[run.rank], optimizer, batches)
        assert "momentum_buffer" in moments(optimizer)
        run.save(tmp_path)
        run.finish()

    def load(run: Run):
        optimizer, _ = started(run, nets[run.rank], optimizer=plain_sgd)
        with pytest.raises(Error, match="member-1-10"):
            run.load(tmp_path)
        assert "momentum_buffer" not in moments(optimizer)
        run.finish()

    nets = [normed(), normed()]
    run_members(2, save)
    truncate(tmp_path / "member-1-10.safetensors")
    run_members(2, load)


@pytest.mark.parametrize("make", [plain_sgd, adamw])
def test_the_moments_that_checks_know_are_those_that_the_engine_can_hold(make: Callable) -> None:
    def member(run: Run):
        optimizer, _ = started(run, normed(), optimizer=make)
        names = {name for names in MOMENTS.values() for name in names} | {"step", "weights", "residual"}
        return {name for name in names if optimizer.engine.allocate_moment(name, 0)}, optimizer.moments

    ((found, known),) = run_members(1, member)
    assert found == set(known)


def test_after_a_load_that_failed_the_run_goes_on_unchanged(checkpoint: Path) -> None:
    def member(run: Run):
        net = nets[run.rank]
        optimizer, batches = started(run, net)
        before = optimizer.digest()
        with pytest.raises(Error):
            run.load(checkpoint)
        assert optimizer.digest() == before
        plain_loop(net, optimizer, batches)
        run.finish()
        return optimizer

    truncate(checkpoint / "member-1-5.safetensors")
    nets = [normed(), normed()]
    run_members(2, member)
