"""Whatever happens while a checkpoint is written, one that is whole can be loaded."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpointing import BEFORE, iteration_loaded, normed, saved, started
from conftest import forkserver, lacking, outcomes_of_members, run_members
from training import mlp, plain_loop

from stellatrain import Error
from stellatrain.environment import Membership
from stellatrain.run import Run


class Killed(BaseException):
    pass


@pytest.mark.parametrize("steps", [BEFORE, BEFORE + 1], ids=["same iteration", "another iteration"])
@pytest.mark.parametrize("renamed", range(4))
def test_a_save_that_is_killed_between_two_files_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int, steps: int
) -> None:
    """All of it, also where a new run reaches the same iteration."""

    def member(run: Run):
        optimizer, batches = started(run, net, density=0.3)
        torch.nn.init.zeros_(net[3].weight)
        optimizer.parameters_written()
        plain_loop(net, optimizer, batches[:steps])
        replace, calls = os.replace, iter(range(10))

        def killed_at(source: Path, target: Path) -> None:
            if next(calls) == renamed:
                raise Killed
            replace(source, target)

        monkeypatch.setattr(os, "replace", killed_at)
        monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # who is killed removes nothing
        run.save(tmp_path, {"run": 2})

    def load(run: Run):
        optimizer, _ = started(run, net, density=0.3)
        return run.load(tmp_path), optimizer.iteration, optimizer.digest()

    saved(tmp_path)
    net = normed()
    (expected,) = run_members(1, load)
    net = normed()
    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Killed)
    monkeypatch.undo()
    net = normed()
    assert run_members(1, load) == [expected]
    assert expected[:2] == ({}, BEFORE)


def test_a_save_that_fails_on_one_member_leaves_nothing_of_any_in_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a full disk has the room again that the half checkpoint took."""
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if "consensus-0-" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    def member(run: Run):
        started(run, nets[run.rank])
        run.save(tmp_path)

    monkeypatch.setattr(os, "fsync", full)
    nets = [mlp(), mlp()]
    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert "consensus-0-" in str(failure)
    assert list(tmp_path.iterdir()) == []


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
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lacking(f"mounting a small disk needs root: {done.stderr.strip()}")
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
    assert "the last checkpoint that is whole stays: make room for another one" in str(failure)
    assert iteration_loaded(small_disk) == BEFORE


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_a_file_in_the_place_of_a_directory_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")

    def member(run: Run):
        started(run, nets[run.rank])
        run.save(tmp_path / below)

    nets = [mlp(), mlp()]
    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "io"
        assert f"{tmp_path}/file is a file; save() needs a directory" in str(failure)


class Foreign(OSError):
    """As urllib's HTTPError, which a file system behind HTTP may raise."""

    code = 404


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        # The operating system names no file when a write fails.
        pytest.param(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "on device: '{}/", id="full disk"),
        pytest.param(Foreign("not there"), "not there", id="foreign code"),
    ],
)
def test_what_goes_wrong_with_a_file_is_an_io_error_that_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: OSError, told: str
) -> None:
    def fails(_: int) -> None:
        raise cause

    def member(run: Run):
        started(run, net)
        monkeypatch.setattr(os, "fsync", fails)
        run.save(tmp_path)

    net = mlp()
    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert failure.code == "io"
    assert told.format(tmp_path) in str(failure)


@pytest.mark.parametrize("call", ["save", "load"])
def test_a_call_at_different_steps_is_a_mismatch_that_names_both(tmp_path: Path, call: str) -> None:
    """And says so at once: nobody waits for a step that another member never makes."""

    def member(run: Run):
        net = nets[run.rank]
        optimizer, batches = started(run, net, staleness=1, step_timeout=30)
        plain_loop(net, optimizer, batches[: 3 + run.rank])
        getattr(run, call)(tmp_path)

    saved(tmp_path, 2)
    nets = [normed(), normed()]
    began = time.monotonic()
    for rank, failure in enumerate(outcomes_of_members(2, member)):
        assert isinstance(failure, Error)
        assert failure.code == "mismatch"
        assert f"{call}: iteration is {3 + rank} here, {4 - rank} on member {1 - rank}" in str(failure)
    assert time.monotonic() - began < 20


def test_machines_that_were_interrupted_between_their_latest_json_resume_from_the_newer_one(
    tmp_path: Path,
) -> None:
    """A directory for each member: the last was killed before it could replace its latest.json."""

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
