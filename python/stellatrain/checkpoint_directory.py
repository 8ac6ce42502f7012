"""The directory of a checkpoint: whose it is, files that are whole or not there, and what goes again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import uuid
from collections.abc import Container, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file

from stellatrain.agreement import together
from stellatrain.checkpoint_latest import NAME, RESTORE
from stellatrain.checkpoint_tensors import Tensors
from stellatrain.errors import error

if TYPE_CHECKING:
    from stellatrain.run import Run


_OURS = re.compile(  # with the checkpoint's name as a group
    rf"(?:model|consensus|member-[0-9]+)-({NAME})\.safetensors"
    rf"|\.(?:model|consensus|member-[0-9]+)-({NAME})\.safetensors\.[0-9]+"
    rf"|\.latest\.json\.[0-9]+-({NAME})"
    r"|\.probe-[0-9]+-[0-9a-f]{32}"
)
_SIZE_BYTES = 8  # of a safetensors file: how long the JSON behind it is
_MOST_HEADER = 100_000_000  # bytes of that, as safetensors has it
_LEFT_BEHIND = 3600  # seconds without a change, after which a file is none that is being written


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
        try:
            _make(directory)
            mine.touch(exist_ok=False)
        except (FileExistsError, NotADirectoryError) as cause:
            raise error(
                "io", f"{cause.filename} is a file; save() needs a directory, or a path where it can make one"
            ) from cause
        except OSError as cause:
            raise error("io", f"cannot write in {directory}: {cause.strerror}") from cause

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
        with contextlib.suppress(OSError):  # remove_older() takes it away some time
            mine.unlink(missing_ok=True)
    return first == run.rank


def write(path: Path, content: bytes, unique: str) -> str:
    """All of it or nothing, even through a crash: written beside, synced, renamed. Returns its SHA-256.

    unique: part of the name beside, which is this member's only, whoever else uses the directory. Raises
    OSError that names a file.
    """
    beside = path.with_name(f".{path.name}.{unique}")
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
    _sync(path.parent)
    return hashlib.sha256(content).hexdigest()


def _make(directory: Path) -> None:
    """With its parents, so that a crash leaves none of them out."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(exist_ok=True)
        _sync(directory.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path, sha256: str | None) -> Tensors:
    """Raises Error("io") unless it is the file of that hash. sha256: as latest.json has it, if it does."""
    try:
        if (found := _sha256(path)) != sha256:
            raise error("io", f"{path} {_what_is_wrong(path, found, sha256)}; {RESTORE}")
        return load_file(path)
    except FileNotFoundError as cause:
        raise error("io", f"{path} is missing: was it saved on this machine? Else {RESTORE}") from cause
    except OSError as cause:
        raise error("io", f"cannot read {path}: {cause.strerror or cause}; {RESTORE}") from cause
    except SafetensorError as cause:
        raise error("io", f"{path} is no file of tensors ({cause}); {RESTORE}") from cause


def _what_is_wrong(path: Path, found: str, sha256: str | None) -> str:
    """With a file that has another hash."""
    size = path.stat().st_size
    whole = _whole_size(path)
    if size == 0:
        return "is empty"
    if whole is not None and size < whole:
        return f"is cut short: it has {size} bytes of {whole}"
    return f"is not what was saved: its SHA-256 is {found}, the one in latest.json is {sha256 or 'missing'}"


_NO_HEADER = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def _whole_size(path: Path) -> int | None:
    """How long it would be by its beginning, which says where each tensor ends; None if it says nothing."""
    with open(path, "rb") as file, contextlib.suppress(*_NO_HEADER):
        size = int.from_bytes(file.read(_SIZE_BYTES), "little")
        if size > _MOST_HEADER:
            return None
        text = file.read(size)
        if len(text) < size:
            return _SIZE_BYTES + size  # at least
        ends = [each["data_offsets"][1] for key, each in json.loads(text).items() if key != "__metadata__"]
        return _SIZE_BYTES + size + max(ends, default=0)
    return None


def _sha256(path: Path) -> str:
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            sha256.update(piece)
    return sha256.hexdigest()


def remove(paths: Iterable[Path]) -> None:
    """As far as that is possible."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def remove_older(directory: Path, kept: Container[str | None], replaced: str | None) -> list[str]:
    """The files of the checkpoint whose place was taken, and what saves that were killed left behind.

    Only files that are called as save() calls them, and only old ones of those that belong to neither: the
    directory may hold others of the user's, and another run may be saving there. Raises nothing, as others
    may wait for this member; returns a sentence for each that cannot be removed.

    kept, replaced: names of checkpoints.
    """
    try:
        now = _time(directory)
        entries = list(os.scandir(directory))
    except OSError as cause:
        return [f"cannot look in {directory} for older files: {cause}"]
    troubles = []
    for entry in entries:
        ours = _OURS.fullmatch(entry.name)
        name = next(filter(None, ours.groups()), None) if ours else None
        if ours is None or (name is not None and name in kept):
            continue
        try:
            if entry.is_dir(follow_symlinks=False):
                continue
            age = abs(now - entry.stat(follow_symlinks=False).st_mtime)  # a clock may have been ahead
            if age > _LEFT_BEHIND or (name is not None and name == replaced):
                os.unlink(entry.path)
        except FileNotFoundError:  # a probe of another run, that just went
            continue
        except OSError as cause:
            troubles.append(f"cannot remove {entry.path}, which no checkpoint needs any more: {cause}")
    return troubles


def _time(directory: Path) -> float:
    """By the clock that files there get their times from."""
    with tempfile.TemporaryFile(dir=directory) as file:
        return os.fstat(file.fileno()).st_mtime
