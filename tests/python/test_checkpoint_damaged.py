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
from training import mlp, plain_loop

from stellatrain import Error
from stellatrain.run import Run


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
    "text", ["[]", "{}", "null", '{"format": 1}', '{"format": 3}', '{"format": 99}', "\udcff"]
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
        assert "has format 1; this version reads 2 and 3" in str(failure)


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
        (wider, {}, ["185 values for", "'3.weight'", "needs 222"]),
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
