"""What a save removes, what it must not, and what one that failed leaves."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpointing import SHARED, file_of, files_in, loaded_from, normed, save_after, started
from conftest import run_members

from stellatrain import Error
from stellatrain.run import Run


def no_room(monkeypatch: pytest.MonkeyPatch, for_: Callable[[Path], bool] = lambda _: True) -> None:
    """The disk is full when a file that `for_` holds for comes to its place."""
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if for_(Path(target)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)


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

    def is_gone(target: Path) -> bool:
        assert not left.exists()
        return True

    left = tmp_path / "model-1-0123456789abcdef.safetensors"
    left.write_bytes(b"")
    os.utime(left, (time.time() - 3700,) * 2)
    no_room(monkeypatch, is_gone)
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

    no_room(monkeypatch)
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

    no_room(monkeypatch)
    with pytest.raises(Error, match="No space left"):
        save_after(4, [tmp_path])
    assert set(tmp_path.iterdir()) == before


def test_a_latest_json_that_cannot_be_written_on_the_only_member_that_does_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = save_after(2, [tmp_path] * 2)
    before = set(tmp_path.iterdir())
    no_room(monkeypatch, lambda target: target.name == "latest.json")
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

    directories = [tmp_path / "0", tmp_path / "1"]
    save_after(2, directories)
    no_room(monkeypatch, lambda target: target == directories[rank] / "latest.json")
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


def test_files_of_ranks_that_there_are_no_more_go_too(tmp_path: Path) -> None:
    save_after(2, [tmp_path] * 3)
    save_after(3, [tmp_path])
    assert files_in(tmp_path) == sorted([*SHARED, "member-0"])
