"""The directory of a checkpoint: whose it is, files that are whole or not there, and what goes again."""

from __future__ import annotations

import contextlib
import os
import uuid
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file

from stellatrain.checkpoint_agreement import together
from stellatrain.checkpoint_tensors import Tensors
from stellatrain.errors import error

if TYPE_CHECKING:
    from stellatrain.run import Run


def writes_shared_files(run: Run, directory: Path) -> bool:
    """Whether this member is the lowest rank of those whose `directory` is the same as its own. Collective.

    What a directory is called, and on which host, says nothing: each member makes the directory and leaves a
    file with a new name in it, and looks whose it finds there. None of these files stays.

    Raises Error("io") on every member, naming the one that can make no file there, or cannot see its own.
    """
    tokens = run.session.all_gather("probe", uuid.uuid4().bytes)
    probes = [directory / f".probe-{rank}-{token.hex()}" for rank, token in enumerate(tokens)]
    mine = probes[run.rank]
    first = run.rank

    def leave() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        mine.touch(exist_ok=False)

    def look() -> None:
        nonlocal first
        seen = [rank for rank, probe in enumerate(probes) if probe.exists()]
        if run.rank not in seen:
            raise error("io", f"{mine} was made, but is not there: can this member read {directory}?")
        first = seen[0]

    try:
        together(run, "save", leave)
        together(run, "save", look)  # all have looked before anybody's goes
    finally:
        with contextlib.suppress(OSError):  # the next save takes it away
            mine.unlink(missing_ok=True)
    return first == run.rank


def write(path: Path, content: bytes, rank: int) -> None:
    """All of it or nothing, even through a crash: written beside, synced, renamed.

    rank: its name beside is this member's only, whoever else uses the directory. Raises OSError that names a
    file.
    """
    beside = path.with_name(f".{path.name}.{rank}")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as cause:
        if cause.filename is not None or cause.errno is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from cause  # a full disk is told without a path
    finally:
        beside.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> Tensors:
    """Raises Error("io") if it is missing or no safetensors file."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as cause:
        raise error("io", f"cannot read {path}: {cause}; was it saved on this machine?") from cause


def remove_older(directory: Path, iteration: int, rank: int, shared_files: bool) -> None:
    """What the checkpoint of `iteration` does not need, and what a save() that was killed left behind.

    shared_files: not this member's own only. A file that cannot be removed is a warning: the checkpoint is
    there, and the other members know nothing of this one's trouble.
    """
    patterns = [f"member-{rank}-*.safetensors"]
    if shared_files:
        patterns += ["model-*.safetensors", "consensus-*.safetensors"]
    leftovers = [f".{pattern}.{rank}" for pattern in patterns]
    if shared_files:
        leftovers.append(".probe-*")  # anybody's: all of this save() are gone, or go without being asked for
    for pattern in patterns + leftovers:
        for path in _found(directory, pattern, rank):
            if not path.name.endswith(f"-{iteration}.safetensors"):
                try:
                    path.unlink(missing_ok=True)
                except OSError as cause:
                    _warn(f"member {rank} cannot remove {path}, which no checkpoint needs any more", cause)


def _found(directory: Path, pattern: str, rank: int) -> list[Path]:
    try:
        return list(directory.glob(pattern))
    except OSError as cause:
        _warn(f"member {rank} cannot look in {directory} for older files", cause)
        return []


def _warn(sentence: str, cause: OSError) -> None:
    warnings.warn(
        f"{sentence}: {cause}. The new checkpoint is complete; the next save tries again", stacklevel=5
    )
