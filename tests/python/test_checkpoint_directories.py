"""One directory for all members or one for each: who writes what, which save counts, what is removed."""

from __future__ import annotations

import decimal
import errno
import os
import re
import shutil
import threading
import time
from pathlib import Path

import numpy
import pytest
import torch
from checkpointing import described, file_of, normed, started
from conftest import outcomes_of_members, run_members
from training import mlp, plain_loop

from stellatrain import Error
from stellatrain.run import Run

SHARED = ["consensus", "latest.json", "model"]


def files_in(directory: Path) -> list[str]:
    """Names; "model" and so on of the files of the checkpoint that latest.json names."""
    ours = f"-{described(directory)['name']}.safetensors" if (directory / "latest.json").exists() else "/"
    return sorted(path.name.removesuffix(ours) for path in directory.iterdir())


def save_after(steps: int, directories: list[Path]) -> int:
    """A new run, with a directory for each member; its digest."""

    def member(run: Run) -> int:
        net = nets[run.rank]
        optimizer, batches = started(run, net)
        plain_loop(net, optimizer, batches[:steps])
        run.save(directories[run.rank])
        digest = optimizer.digest()
        run.finish()
        return digest

    nets = [normed() for _ in directories]
    return run_members(len(directories), member)[0]


def loaded_from(directories: list[Path]) -> list[tuple[int, int]]:
    """Iteration and digest that each member goes on with."""

    def member(run: Run) -> tuple[int, int]:
        optimizer, _ = started(run, nets[run.rank])
        run.load(directories[run.rank])
        result = optimizer.iteration, optimizer.digest()
        run.finish()
        return result

    nets = [normed() for _ in directories]
    return run_members(len(directories), member)


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


def test_what_a_save_that_was_killed_left_is_removed_by_the_next(tmp_path: Path) -> None:
    member = "member-1-1-0123456789abcdef.safetensors"
    for name in (f".probe-1-{'0123456789abcdef' * 2}", f".{member}.1", member):
        (tmp_path / name).write_bytes(b"")
    young = set(tmp_path.iterdir())
    save_after(2, [tmp_path] * 2)
    assert young < set(tmp_path.iterdir())  # another run may be writing them
    for path in young:
        os.utime(path, (time.time() - 3700,) * 2)
    save_after(3, [tmp_path] * 2)
    assert files_in(tmp_path) == sorted([*SHARED, "member-0", "member-1"])


def test_what_a_save_that_was_killed_left_goes_before_the_next_writes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a disk that it filled could never be saved on again."""

    def no_room(source: Path, target: Path) -> None:
        assert not left.exists()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    left = tmp_path / "model-1-0123456789abcdef.safetensors"
    left.write_bytes(b"")
    os.utime(left, (time.time() - 3700,) * 2)
    monkeypatch.setattr(os, "replace", no_room)
    with pytest.raises(Error, match="No space left"):
        save_after(2, [tmp_path])


def test_what_another_members_latest_json_names_is_nothing_that_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save killed between two latest.json long ago; the next one is killed too."""
    directories = [tmp_path / "0", tmp_path / "1"]
    save_after(2, directories)
    older = (directories[1] / "latest.json").read_bytes()
    shutil.copytree(directories[1], tmp_path / "older")
    digest = save_after(3, directories)
    (directories[1] / "latest.json").write_bytes(older)
    for path in (tmp_path / "older").glob("*.safetensors"):
        shutil.copy(path, directories[1])
    for path in tmp_path.glob("?/*"):
        os.utime(path, (time.time() - 3700,) * 2)

    def no_room(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(os, "replace", no_room)
    with pytest.raises(Error, match="No space left"):
        save_after(4, directories)
    monkeypatch.undo()
    assert loaded_from(directories) == [(3, digest)] * 2


@pytest.mark.parametrize("which", ["damaged", "of another version"])
def test_while_a_latest_json_cannot_be_read_old_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """It may name them."""
    save_after(2, [tmp_path])
    latest = tmp_path / "latest.json"
    latest.write_text("{" if which == "damaged" else latest.read_text().replace('"format": ', '"format": 1'))
    before = set(tmp_path.iterdir())
    for path in before:
        os.utime(path, (0, 0))

    def no_room(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(os, "replace", no_room)
    with pytest.raises(Error, match="No space left"):
        save_after(4, [tmp_path])
    assert set(tmp_path.iterdir()) == before


def test_a_latest_json_that_cannot_be_written_on_the_only_member_that_does_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(source: Path, target: Path) -> None:
        if Path(target).name == "latest.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    replace = os.replace
    digest = save_after(2, [tmp_path] * 2)
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(os, "replace", no_room)
    with pytest.raises(Error, match=r"member 0 .* could not do its part: .*No space left"):
        save_after(3, [tmp_path] * 2)
    monkeypatch.undo()
    assert set(tmp_path.iterdir()) == before
    assert loaded_from([tmp_path] * 2) == [(2, digest)] * 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_checkpoint_that_one_latest_json_names_already_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """The other could not be written."""

    def no_room(source: Path, target: Path) -> None:
        if Path(target) == directories[rank] / "latest.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    replace = os.replace
    directories = [tmp_path / "0", tmp_path / "1"]
    save_after(2, directories)
    monkeypatch.setattr(os, "replace", no_room)
    with pytest.raises(Error, match=rf"member {rank} .* could not do its part"):
        save_after(3, directories)
    monkeypatch.undo()
    assert [iteration for iteration, _ in loaded_from(directories)] == [3, 3]


def test_a_latest_json_that_was_replaced_but_not_synced_names_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are no descriptors any more, neither to sync with nor to look what it says."""

    def no_descriptors(source: Path, target: Path) -> None:
        replace(source, target)
        if Path(target).name == "latest.json":
            monkeypatch.setattr(os, "open", failing)
            monkeypatch.setattr(Path, "read_text", failing)

    def failing(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    replace = os.replace
    save_after(2, [tmp_path])
    monkeypatch.setattr(os, "replace", no_descriptors)
    with pytest.raises(Error, match="Too many open files"):
        save_after(3, [tmp_path])
    monkeypatch.undo()
    assert [iteration for iteration, _ in loaded_from([tmp_path])] == [3]


@pytest.mark.filterwarnings("error")
def test_what_cannot_be_removed_is_told_when_nobody_waits_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a warning is an exception: on member 0 alone."""
    left = tmp_path / "model-1-0123456789abcdef.safetensors"
    left.write_bytes(b"")
    os.utime(left, (0, 0))
    unlink = os.unlink

    def refused(path: str) -> None:
        if Path(path) == left:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        unlink(path)

    def member(run: Run) -> int:
        optimizer, _ = started(run, nets[run.rank])
        if run.rank == 0:
            with pytest.raises(UserWarning, match=f"member 0 cannot remove {re.escape(str(left))}"):
                run.save(tmp_path)
        else:
            run.save(tmp_path)
        run.finish()
        return optimizer.digest()

    monkeypatch.setattr(os, "unlink", refused)
    nets = [normed(), normed()]
    digest, _ = run_members(2, member)
    assert loaded_from([tmp_path] * 2) == [(0, digest)] * 2


def test_what_is_called_like_a_file_of_a_checkpoint_and_is_none_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "model-1-0000000000000000.safetensors").mkdir()
    loop = tmp_path / "model-1-1111111111111111.safetensors"
    loop.symlink_to(loop)
    ahead = tmp_path / "model-1-2222222222222222.safetensors"
    ahead.write_bytes(b"")
    for path in (tmp_path / "model-1-0000000000000000.safetensors", loop):
        os.utime(path, (0, 0), follow_symlinks=False)
    os.utime(ahead, (time.time() + 7200,) * 2)
    save_after(2, [tmp_path])
    assert files_in(tmp_path) == sorted([*SHARED, "member-0", "model-1-0000000000000000.safetensors"])


@pytest.mark.parametrize("code", [errno.EACCES, errno.ESTALE])
def test_an_older_file_that_cannot_be_removed_is_a_warning_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """On one member, of which the others know nothing: the run goes on."""
    unlink = os.unlink

    def refused(path: str) -> None:
        if Path(path) == older:
            raise OSError(code, os.strerror(code), path)
        unlink(path)

    save_after(2, [tmp_path] * 2)
    older = file_of(tmp_path, "member-1")
    monkeypatch.setattr(os, "unlink", refused)
    with pytest.warns(UserWarning, match=f"member 0 cannot remove {re.escape(str(older))}") as warned:
        digest = save_after(3, [tmp_path] * 2)
    (warning,) = warned
    assert os.strerror(code) in str(warning.message)
    assert loaded_from([tmp_path] * 2) == [(3, digest)] * 2
    assert older.exists()
    monkeypatch.undo()
    os.utime(older, (time.time() - 3700,) * 2)
    save_after(4, [tmp_path] * 2)
    assert not older.exists()


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


@pytest.mark.parametrize("shared", [True, False])
def test_members_whose_param_groups_differ_do_not_save(tmp_path: Path, shared: bool) -> None:
    """The next step would say it; until then the checkpoint before must stay."""

    def member(run: Run) -> None:
        optimizer, _ = started(run, nets[run.rank])
        optimizer.param_groups[0]["lr"] = 0.1 + run.rank
        run.save(tmp_path / ("0" if shared else str(run.rank)))

    nets = [normed(), normed()]
    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "mismatch"
        assert "save: member 1 (" in str(failure)
        assert "could not do its part: param_groups[0]: lr is 1.1 here, 0.1 there, on member 0 (" in str(
            failure
        )
    assert list(tmp_path.iterdir()) == []


def test_members_whose_settings_differ_by_rounding_or_by_what_the_engine_does_not_use_save(
    tmp_path: Path,
) -> None:
    """Machines compute a schedule with different libraries; fused=True is for those with a GPU."""

    def trained(run: Run) -> tuple:
        net = nets[run.rank]
        optimizer, batches = started(run, net)
        group = optimizer.param_groups[0]
        group.update(lr=0.1 * (1 + 1e-13 * run.rank), fused=bool(run.rank), best=float("nan"))
        return optimizer, batches, group

    def save(run: Run) -> None:
        optimizer, batches, _ = trained(run)
        plain_loop(nets[run.rank], optimizer, batches[:2])
        run.save(tmp_path / str(run.rank))
        run.finish()

    def load(run: Run) -> float:
        optimizer, batches, group = trained(run)
        run.load(tmp_path / str(run.rank))
        plain_loop(nets[run.rank], optimizer, batches[:2])
        run.finish()
        return group["lr"]

    nets = [normed(), normed()]
    run_members(2, save)
    assert run_members(2, load) == [0.1, 0.1]


@pytest.mark.parametrize(
    ("lr", "needed"),
    [
        (-1e-9, "lr is -1e-09"),
        (float("nan"), "lr is nan"),
        (float("inf"), "lr is inf"),
        ("0.1", "'lr' is '0.1', which is no number"),
        (decimal.Decimal("0.1"), "param_groups[0]['lr'] of member 0 ("),
    ],
    ids=str,
)
def test_settings_that_could_not_be_loaded_are_not_saved(tmp_path: Path, lr: object, needed: str) -> None:
    """A schedule that went below zero after the last step, say."""

    def member(run: Run) -> None:
        optimizer, _ = started(run, normed())
        optimizer.param_groups[0]["lr"] = lr
        run.save(tmp_path)

    digest = save_after(2, [tmp_path])
    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert failure.code == "invalid_argument"
    assert needed in str(failure)
    assert loaded_from([tmp_path]) == [(2, digest)]


@pytest.mark.parametrize("lr", [numpy.float32(0.25), torch.tensor(0.25), True], ids=repr)
def test_a_number_of_another_library_is_resumed_as_a_number(tmp_path: Path, lr: object) -> None:
    def save(run: Run) -> None:
        optimizer, _ = started(run, normed())
        optimizer.param_groups[0]["lr"] = lr
        run.save(tmp_path)

    def load(run: Run) -> object:
        optimizer, _ = started(run, normed())
        run.load(tmp_path)
        return optimizer.param_groups[0]["lr"]

    run_members(1, save)
    assert run_members(1, load) == [float(lr)]


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


def test_files_of_ranks_that_there_are_no_more_go_too(tmp_path: Path) -> None:
    save_after(2, [tmp_path] * 3)
    save_after(3, [tmp_path])
    assert files_in(tmp_path) == sorted([*SHARED, "member-0"])


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
    """Also on a member that does not mind."""

    def member(run: Run) -> None:
        started(run, nets[run.rank])
        run.load(tmp_path / str(run.rank), missing_ok=run.rank == 0)

    nets = [normed(), normed()]
    for rank, failure in enumerate(outcomes_of_members(2, member)):
        assert isinstance(failure, Error)
        assert failure.code == "io"
        assert f"load: member {rank} (" in str(failure)
        assert f"there is no checkpoint in {tmp_path}/{rank}" in str(failure)


def test_a_damaged_latest_json_on_one_member_is_a_warning_and_that_of_another_counts(tmp_path: Path) -> None:
    directories = [tmp_path / "0", tmp_path / "1"]
    digest = save_after(3, directories)
    (directories[1] / "latest.json").write_text("{")
    with pytest.warns(
        UserWarning, match=r"1/latest\.json is no checkpoint: .*; going on with that of member 0"
    ):
        assert loaded_from(directories) == [(3, digest)] * 2
