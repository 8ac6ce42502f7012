"""One directory for all members or one for each: who writes what, and which save counts."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpointing import SHARED, described, files_in, loaded_from, normed, save_after, started
from conftest import outcomes_of_members, run_members
from training import mlp, plain_loop

from stellatrain import Error
from stellatrain.run import Run


def test_members_on_one_host_with_a_directory_each_write_all_that_they_need(tmp_path: Path) -> None:
    """As do containers of the same host name, whose directories have the same path but are not the same."""
    directories = [tmp_path / "0", tmp_path / "1"]
    digest = save_after(3, directories)
    for rank, directory in enumerate(directories):
        assert files_in(directory) == sorted([*SHARED, f"member-{rank}"])
    assert loaded_from(directories) == [(3, digest)] * 2


def test_the_lowest_rank_writes_for_all_whose_directory_is_the_same_whatever_they_call_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = []
    replace = os.replace

    def noted(source: Path, target: Path) -> None:
        replaced.append(
            str(Path(target).relative_to(tmp_path))
        )  # "ours/model-3-0123456789abcdef.safetensors"
        replace(source, target)

    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    directories = [tmp_path / name for name in ("ours", "theirs", "ours", "link")]
    monkeypatch.setattr(os, "replace", noted)
    digest = save_after(3, directories)
    ending = f"-{described(tmp_path / 'ours')['name']}.safetensors"
    members = ["ours/member-0", "theirs/member-1", "ours/member-2", "link/member-3"]
    assert sorted(path.removesuffix(ending) for path in replaced) == sorted(
        [f"{directory}/{name}" for directory in ("ours", "theirs") for name in SHARED] + members
    )
    assert loaded_from(directories) == [(3, digest)] * 4


def test_a_member_that_can_leave_no_file_is_an_error_on_all_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch = Path.touch

    def refused(path: Path, *arguments: object, **options: object) -> None:
        if path.parent.name == "1":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        touch(path, *arguments, **options)

    def member(run: Run) -> None:
        started(run, nets[run.rank])
        run.save(tmp_path / str(run.rank))

    monkeypatch.setattr(Path, "touch", refused)
    nets = [mlp(), mlp()]
    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "io"
        assert "save: member 1 (" in str(failure)
        assert f"could not do its part: cannot write in {tmp_path}/1: Permission denied" in str(failure)
    assert files_in(tmp_path / "0") == files_in(tmp_path / "1") == []


def test_a_directory_in_which_a_member_does_not_see_what_it_made_is_an_error_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: not path.name.startswith(".probe-1-") and exists(path))

    def member(run: Run) -> None:
        started(run, nets[run.rank])
        run.save(tmp_path)

    nets = [mlp(), mlp()]
    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "io"
        assert "save: member 1 (" in str(failure)
        assert "was made, but is not there" in str(failure)
    assert files_in(tmp_path) == []


def test_a_later_save_counts_whatever_iteration_an_older_run_had_reached(tmp_path: Path) -> None:
    """Machine 1 was killed before it could replace the latest.json of the older run."""
    directories = [tmp_path / "0", tmp_path / "1"]
    save_after(9, directories)
    shutil.copytree(directories[1], tmp_path / "older")
    digest = save_after(3, directories)
    for path in (tmp_path / "older").iterdir():
        shutil.copy(path, directories[1])
    assert loaded_from(directories) == [(3, digest)] * 2


def test_all_members_of_a_save_write_the_same_latest_json(tmp_path: Path) -> None:
    directories = [tmp_path / "0", tmp_path / "1"]
    save_after(1, directories)
    first, second = ((directory / "latest.json").read_bytes() for directory in directories)
    assert first == second


def test_two_runs_that_save_into_one_directory_leave_a_checkpoint_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a job was started anew while the old one is still dying."""
    replace = os.replace

    def other_saves_first(source: Path, target: Path) -> None:
        if Path(target).name == "latest.json":
            monkeypatch.undo()
            save_after(4, [tmp_path])
        replace(source, target)

    save_after(2, [tmp_path])
    monkeypatch.setattr(os, "replace", other_saves_first)
    digest = save_after(3, [tmp_path])
    assert loaded_from([tmp_path]) == [(3, digest)]


def test_two_runs_that_save_into_one_directory_for_each_member_leave_a_checkpoint_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old job's members find, at their latest.json, one the checkpoint before and one the new job's."""
    replace = os.replace
    directories = [tmp_path / "0", tmp_path / "1"]
    first_is_there = threading.Event()

    def other_saves_in_between(source: Path, target: Path) -> None:
        if Path(target).name != "latest.json":
            replace(source, target)
        elif Path(target).parent == directories[0]:
            replace(source, target)
            first_is_there.set()
        else:
            assert first_is_there.wait(30)
            monkeypatch.undo()
            save_after(4, directories)
            replace(source, target)

    save_after(2, directories)
    monkeypatch.setattr(os, "replace", other_saves_in_between)
    old = save_after(3, directories)
    assert [described(directory)["iteration"] for directory in directories] == [4, 3]
    new = loaded_from(directories)
    assert new[0] == new[1]
    assert new[0][0] == 4
    (directories[0] / "latest.json").unlink()
    assert loaded_from(directories) == [(3, old)] * 2


def load_or_begin(run: Run, net: torch.nn.Module, directory: Path) -> tuple[object, int]:
    """What load() returned, and the iteration after two more steps."""
    optimizer, batches = started(run, net)
    extra = run.load(directory, missing_ok=True)
    plain_loop(net, optimizer, batches[:2])
    iteration = optimizer.iteration
    run.finish()
    return extra, iteration


def test_a_run_begins_where_no_member_has_a_checkpoint_and_goes_on_where_one_has(tmp_path: Path) -> None:
    def members() -> list[tuple[object, int]]:
        nets = [normed(), normed()]
        return run_members(2, lambda run: load_or_begin(run, nets[run.rank], directories[run.rank]))

    directories = [tmp_path / "0", tmp_path / "1"]
    assert members() == [(None, 2), (None, 2)]
    save_after(3, directories)
    (directories[1] / "latest.json").unlink()
    assert members() == [({}, 5), ({}, 5)]


def test_one_that_must_be_there_and_is_not_is_an_error_on_all(tmp_path: Path) -> None:
    def member(run: Run) -> None:
        started(run, nets[run.rank])
        run.load(tmp_path / str(run.rank))

    nets = [normed(), normed()]
    for rank, failure in enumerate(outcomes_of_members(2, member)):
        assert isinstance(failure, Error)
        assert failure.code == "io"
        assert f"load: member {rank} (" in str(failure)
        assert f"there is no checkpoint in {tmp_path}/{rank}" in str(failure)


def test_members_that_differ_in_whether_one_must_be_there_are_told_so(tmp_path: Path) -> None:
    def member(run: Run) -> None:
        started(run, nets[run.rank])
        run.load(tmp_path, missing_ok=run.rank == 0)

    nets = [normed(), normed()]
    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "mismatch"
        assert "load: missing_ok is " in str(failure)


@pytest.mark.parametrize("given", ["x", 1, None])
def test_a_missing_ok_that_is_no_bool_is_refused_before_anything_is_sent(tmp_path: Path, given: Any) -> None:
    def member(run: Run) -> None:
        started(run, nets[run.rank])
        with pytest.raises(Error, match=r"missing_ok is .*; it must be True or False") as failure:
            run.load(tmp_path, missing_ok=given)
        assert failure.value.code == "invalid_argument"
        assert run.load(tmp_path, missing_ok=True) is None

    nets = [normed(), normed()]
    run_members(2, member)


def test_a_damaged_latest_json_on_one_member_is_a_warning_and_that_of_another_counts(tmp_path: Path) -> None:
    directories = [tmp_path / "0", tmp_path / "1"]
    digest = save_after(3, directories)
    (directories[1] / "latest.json").write_text("{")
    with pytest.warns(
        UserWarning, match=r"1/latest\.json is damaged: it is no JSON, .*; going on with that of member 0"
    ):
        assert loaded_from(directories) == [(3, digest)] * 2
