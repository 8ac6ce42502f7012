"""What save() leaves in the directory, and what it refuses to write."""

from __future__ import annotations

import hashlib
import os
import re
from itertools import product
from pathlib import Path

import pytest
from checkpointing import described, started
from conftest import outcomes_of_members, run_members
from training import mlp, plain_loop

from stellatrain import Error
from stellatrain.run import Run


def test_only_the_last_checkpoint_and_nothing_else_stays(tmp_path: Path) -> None:
    def member(run: Run):
        net = nets[run.rank]
        optimizer, batches = started(run, net)
        for batch in batches[:3]:
            plain_loop(net, optimizer, [batch])
            run.save(tmp_path)
        run.finish()

    nets = [mlp(), mlp()]
    run_members(2, member)
    name = described(tmp_path)["name"]
    assert re.fullmatch("3-[0-9a-f]{16}", name)
    files = [f"{kind}-{name}.safetensors" for kind in ("consensus", "member-0", "member-1", "model")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files, "latest.json"])


def test_files_of_the_user_stay(tmp_path: Path) -> None:
    """Also where they are called nearly as ours are."""
    names = (
        "model-00001-of-00002.safetensors",
        "model-best.safetensors",
        "model-5.safetensors",
        "model-5-0123456789abcdef.safetensors.bak",
        "consensus-notes.safetensors",
        ".probe-mine",
    )
    for name in names:
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (0, 0))

    def member(run: Run):
        started(run, mlp())
        run.save(tmp_path)

    run_members(1, member)
    assert {path.name for path in tmp_path.iterdir()} > set(names)


def test_latest_json_holds_the_hash_of_every_file(tmp_path: Path) -> None:
    def member(run: Run):
        started(run, nets[run.rank])
        run.save(tmp_path)
        run.finish()

    nets = [mlp(), mlp()]
    run_members(2, member)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    del files["latest.json"]
    assert described(tmp_path)["sha256"] == files


def test_extra_that_would_not_come_back_as_it_is_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    """On all members, though it is one's only."""

    def member(run: Run):
        started(run, mlp())
        run.save(tmp_path / "new", {"model": object() if run.rank == 1 else 1})

    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "invalid_argument"
        assert "could not do its part: extra['model'] cannot be kept: it is a builtins.object" in str(failure)
    assert not (tmp_path / "new").exists()


def test_a_directory_that_is_no_path_is_an_error_on_all_and_who_catches_it_stays_in_step(
    tmp_path: Path,
) -> None:
    def member(run: Run) -> list[str]:
        started(run, nets[run.rank])
        sentences = []
        for wrong in wrongs:
            for call in (run.save, run.load):
                with pytest.raises(Error) as failure:
                    call(wrong if run.rank == 1 else tmp_path)
                assert failure.value.code == "invalid_argument"
                sentences.append(str(failure.value))
        run.save(tmp_path)
        run.finish()
        return sentences

    wrongs = (None, 5, "a\0b", "")
    nets = [mlp(), mlp()]
    for sentences in run_members(2, member):
        for (wrong, call), sentence in zip(product(wrongs, ("save", "load")), sentences, strict=True):
            why = f"could not do its part: directory is {wrong!r}; it must be a path"
            assert re.match(rf"{call}: member 1 \(.*\) {re.escape(why)}", sentence)


def test_save_and_load_before_distribute_are_refused(tmp_path: Path) -> None:
    for call in ("save", "load"):
        (failure,) = outcomes_of_members(1, lambda run, call=call: getattr(run, call)(tmp_path))
        assert isinstance(failure, Error)
        assert "call distribute() before save() or load()" in str(failure)
