"""Checkpoints resume exactly, and survive whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import forkserver, outcomes_of_members, run_members, run_processes
from safetensors.torch import load_file, save_file
from training import adamw, flat, mlp, plain_loop, sgd, vectors

import stellatrain.checkpoint
from stellatrain import Error
from stellatrain.environment import Membership
from stellatrain.run import Run

BEFORE, AFTER = 5, 5
OPTIMIZERS = {"sgd": sgd, "adamw": adamw}


def normed() -> torch.nn.Module:
    torch.manual_seed(5)
    return torch.nn.Sequential(
        torch.nn.Linear(13, 37), torch.nn.BatchNorm1d(37), torch.nn.Tanh(), torch.nn.Linear(37, 5)
    )


def with_dropout() -> torch.nn.Module:
    net = normed()
    net.insert(3, torch.nn.Dropout(0.3))
    return net


def started(run: Run, net: torch.nn.Module, optimizer: str = "adamw", **options: Any):
    """The distributed optimizer, and this member's batches."""
    options = {"density": 0.05, "staleness": 1, "bucket_mib": 1 / 256} | options
    _, distributed = run.distribute(net, OPTIMIZERS[optimizer](net), **options)
    rows = slice(4 * run.rank, 4 * run.rank + 4)
    return distributed, [(x[rows], y[rows]) for x, y in vectors(BEFORE + AFTER, 16)]


def end_of(run: Run, net: torch.nn.Module, optimizer) -> tuple:
    """What must be equal: the consensus, what torch sees, and the buffers. Leaves without finish()."""
    result = optimizer.digest(), flat(net).tolist(), [buffer.tolist() for buffer in net.buffers()]
    run.session.leave()
    return result


def unbroken(run: Run, net: torch.nn.Module, directory: Path | None, **options: Any) -> tuple:
    optimizer, batches = started(run, net, **options)
    plain_loop(net, optimizer, batches[:BEFORE])
    if directory is not None:
        run.save(directory)
    plain_loop(net, optimizer, batches[BEFORE:])
    return end_of(run, net, optimizer)


def resumed(run: Run, net: torch.nn.Module, directory: Path, **options: Any) -> tuple:
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer, batches = started(run, net, **options)
    run.load(directory)
    assert optimizer.iteration == BEFORE
    plain_loop(net, optimizer, batches[BEFORE:])
    return end_of(run, net, optimizer)


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
    plain.load_state_dict(load_file(tmp_path / f"model-{BEFORE + AFTER}.safetensors"))
    for name, value in trained.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


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


def test_only_the_last_checkpoint_and_nothing_else_stays(tmp_path: Path) -> None:
    def member(run: Run):
        net = nets[run.rank]
        optimizer, batches = started(run, net)
        (tmp_path / f".member-{run.rank}-1.safetensors.{run.rank}").write_bytes(
            b"of a save() that was killed"
        )
        for batch in batches[:3]:
            plain_loop(net, optimizer, [batch])
            run.save(tmp_path)
        run.finish()

    nets = [mlp(), mlp()]
    run_members(2, member)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "consensus-3.safetensors",
        "latest.json",
        "member-0-3.safetensors",
        "member-1-3.safetensors",
        "model-3.safetensors",
    ]


def test_extra_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    def member(run: Run):
        started(run, mlp())
        run.save(tmp_path / "new", {"model": object()})

    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "invalid_argument"
        assert "extra must hold what JSON can hold" in str(failure)
    assert not (tmp_path / "new").exists()


def test_save_and_load_before_distribute_are_refused(tmp_path: Path) -> None:
    for call in ("save", "load"):
        (failure,) = outcomes_of_members(1, lambda run, call=call: getattr(run, call)(tmp_path))
        assert isinstance(failure, Error)
        assert "call distribute() before save() or load()" in str(failure)


# --- What goes wrong while a checkpoint is written.


def saved(directory: Path, world_size: int = 1) -> None:
    """Leaves a checkpoint of iteration BEFORE."""
    nets = [normed() for _ in range(world_size)]
    run_members(world_size, lambda run: unbroken(run, nets[run.rank], directory, density=0.3))


def iteration_loaded(directory: Path, world_size: int = 1) -> int:
    """Loads the checkpoint; returns where it goes on."""

    def member(run: Run):
        optimizer, batches = started(run, net := nets[run.rank], density=0.3)
        run.load(directory)
        iteration = optimizer.iteration
        plain_loop(net, optimizer, batches[:2])
        run.finish()
        return iteration

    nets = [normed() for _ in range(world_size)]
    (iteration,) = set(run_members(world_size, member))
    return iteration


class Killed(BaseException):
    pass


@pytest.mark.parametrize("renamed", range(4))
def test_a_save_that_is_killed_between_two_files_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int
) -> None:
    def member(run: Run):
        optimizer, batches = started(run, net, density=0.3)
        plain_loop(net, optimizer, batches)
        replace, calls = os.replace, iter(range(10))

        def killed_at(source: Path, target: Path) -> None:
            if next(calls) == renamed:
                raise Killed
            replace(source, target)

        monkeypatch.setattr(os, "replace", killed_at)
        run.save(tmp_path)

    saved(tmp_path)
    net = normed()
    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Killed)
    monkeypatch.undo()
    assert iteration_loaded(tmp_path) == BEFORE


def save_for_ever(directory: Path) -> None:
    torch.set_num_threads(1)
    with Run(Membership()) as run:
        net = normed()
        optimizer, batches = started(run, net, density=0.3)
        for step in range(1_000_000):
            plain_loop(net, optimizer, [batches[step % len(batches)]])
            run.save(directory)


@pytest.mark.parametrize("milliseconds", [0, 3, 7, 20])
def test_a_process_killed_while_it_saves_leaves_a_checkpoint(tmp_path: Path, milliseconds: int) -> None:
    process = forkserver().Process(target=save_for_ever, args=(tmp_path,))
    process.start()
    deadline = time.monotonic() + 30
    while not (tmp_path / "latest.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(milliseconds / 1000)
    process.kill()
    process.join()
    assert iteration_loaded(tmp_path) >= 1


@pytest.mark.parametrize("name", ["member-1-", "model-", "consensus-", "latest.json"])
def test_a_disk_that_is_full_on_one_member_is_an_error_on_all_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The run can go on: here it saves again when there is room."""
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if name in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    def member(run: Run):
        net = nets[run.rank]
        optimizer, batches = started(run, net, density=0.3)
        plain_loop(net, optimizer, batches[:3])
        if run.rank == 0:
            monkeypatch.setattr(os, "fsync", full)
        run.session.all_gather("full now", b"")
        with pytest.raises(Error) as failure:
            run.save(tmp_path)
        run.session.all_gather("seen", b"")
        monkeypatch.undo()
        assert not list(tmp_path.glob(".*"))
        kept = json.loads((tmp_path / "latest.json").read_text())["iteration"]
        run.session.all_gather("looked", b"")
        run.save(tmp_path)
        run.finish()
        return failure.value, kept

    saved(tmp_path, 2)
    nets = [normed(), normed()]
    culprit = 1 if "member-1" in name else 0
    for failure, kept in run_members(2, member):
        assert failure.code == "io"
        assert f"member {culprit}" in str(failure)
        assert "No space left on device" in str(failure)
        assert kept == BEFORE
    assert iteration_loaded(tmp_path, 2) == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_really_full_disk_leaves_the_last_checkpoint(small_disk: Path) -> None:
    saved(small_disk)
    with open(small_disk / "filling", "wb", buffering=0) as filling:
        for size in (4096, 1):
            try:
                while True:
                    filling.write(bytes(size))
            except OSError:
                continue

    def member(run: Run):
        optimizer, batches = started(run, net, density=0.3)
        plain_loop(net, optimizer, batches)
        run.save(small_disk)

    net = normed()
    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert failure.code == "io"
    assert "No space left on device" in str(failure)
    assert iteration_loaded(small_disk) == BEFORE


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def member(run: Run):
        started(run, nets[run.rank])
        run.save(tmp_path / "file" / "run")

    nets = [mlp(), mlp()]
    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "io"


def test_save_at_different_steps_is_a_mismatch_that_names_both(tmp_path: Path) -> None:
    def member(run: Run):
        net = nets[run.rank]
        optimizer, batches = started(run, net, staleness=1)
        plain_loop(net, optimizer, batches[: 3 + run.rank])
        run.save(tmp_path)

    nets = [mlp(), mlp()]
    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert "save: iteration is" in str(failure)


# --- What goes wrong with files that are read.


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


def load_outcomes(directory: Path, world_size: int, model: Callable = normed, **options: Any) -> list[Any]:
    def member(run: Run):
        started(run, nets[run.rank], **options)
        run.load(directory)

    nets = [model() for _ in range(world_size)]
    return outcomes_of_members(world_size, member)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint") / "original"
    saved(directory, 2)
    return directory


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    """A checkpoint of two members, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"format": 1}', '{"format": 99}', "\udcff"])
def test_a_latest_json_that_is_none_is_an_error(checkpoint: Path, text: str) -> None:
    (checkpoint / "latest.json").write_text(text, errors="surrogateescape")
    for failure in load_outcomes(checkpoint, 2):
        assert isinstance(failure, Error)
        assert failure.code == "io"
        assert "latest.json" in str(failure)


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


def test_machines_that_were_interrupted_between_their_latest_json_resume_from_the_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every member on a machine of its own: the last was killed before it could replace its latest.json."""
    monkeypatch.setattr(stellatrain.checkpoint, "_machine", lambda: str(threading.get_ident()))

    def save(run: Run):
        net = nets[run.rank]
        directory = tmp_path / str(run.rank)
        optimizer, batches = started(run, net)
        plain_loop(net, optimizer, batches[:2])
        run.save(directory, {"saved": "first"})
        older = (directory / "latest.json").read_bytes()
        plain_loop(net, optimizer, batches[2:BEFORE])
        run.save(directory, {"saved": "second"})
        digest = optimizer.digest()
        if run.rank == 1:
            (directory / "latest.json").write_bytes(older)
        run.finish()
        return digest

    def load(run: Run):
        optimizer, _ = started(run, nets[run.rank])
        extra = run.load(tmp_path / str(run.rank))
        digest = optimizer.digest()
        run.finish()
        return digest, extra

    nets = [normed(), normed()]
    digest = run_members(2, save)[0]
    assert run_members(2, load) == [(digest, {"saved": "second"})] * 2
