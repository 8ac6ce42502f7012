"""The files of one save() on one member: written, named by latest.json, taken away where that failed."""

from __future__ import annotations

import contextlib
import errno
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as to_bytes

from stellatrain.agreement import together, until_all_heard
from stellatrain.checkpoint_directory import remove, remove_older, write
from stellatrain.checkpoint_latest import Latest, name_in, names_in_use
from stellatrain.checkpoint_tensors import (
    Tensors,
    buffer_tensors,
    consensus_tensors,
    model_tensors,
    own_tensors,
)
from stellatrain.errors import Error, error
from stellatrain.messages import exchanged, require
from stellatrain.random_states import random_states

if TYPE_CHECKING:
    from stellatrain.run import Run


class Saving:
    """Its steps, in this order; each is collective, and raises on every member what went wrong on one."""

    def __init__(self, run: Run, directory: Path, latest: Latest, writes_shared: bool):
        """latest: without its hashes. writes_shared: whether this member writes more than its own file."""
        self._run = run
        self._directory = directory
        self._latest = latest
        self._writes_shared = writes_shared
        self._written: dict[str, str] = {}  # the files of this member, and their hashes
        self._replaced: str | None = None  # the name that stood in latest.json

    def make_room(self) -> None:
        """Removes what saves that were killed left behind, as far as no member's latest.json names it."""
        kept = names_in_use(self._run, self._directory)
        if kept is not None and self._writes_shared:
            remove_older(self._directory, kept, None)  # what troubles it will trouble write_latest() too

    def write_tensors(self, given: Tensors, mean_buffers: Tensors) -> None:
        """All files but latest.json. A failure leaves none of them.

        given: what this member wants back. mean_buffers: as buffers.averaged() has them.
        """

        def work() -> dict[str, str]:
            run, directory = self._run, self._directory
            with _telling_what_stays():
                self._write(self._latest.member(directory, run.rank), _own(run) | given)
                if self._writes_shared:
                    consensus = consensus_tensors(run)
                    model, others = model_tensors(run, mean_buffers, consensus)
                    self._write(self._latest.model(directory), model)
                    self._write(self._latest.consensus(directory), consensus | others)
            return self._written

        def check(written: Any) -> None:
            require(all(isinstance(sha256, str) for sha256 in written.values()), "a hash for each name")

        written = together(self._run, "save", work, check, undo=self._remove_written)
        try:
            self._latest = replace(self._latest, sha256=_same(self._run, written))
        except Error:
            self._remove_written()
            raise

    def write_latest(self) -> None:
        """From now on it is the one that load() takes; then the files of the one before go."""

        def work() -> list[str | None]:
            if not self._writes_shared:
                return []
            path = self._directory / "latest.json"
            before = name_in(path)
            with _telling_what_stays():
                write(path, self._latest.content(), f"{self._run.rank}-{self._latest.name}")
            return [before]

        def check(replaced: Any) -> None:
            require(isinstance(replaced, list) and len(replaced) <= 1, "at most one name")
            require(all(name is None or isinstance(name, str) for name in replaced), "a name")

        replaced = together(self._run, "save", work, check, undo=self._remove_unless_named)
        if self._writes_shared:
            # Where directories held different ones, another run may be saving, and its files stay.
            names = {name for of_member in replaced for name in of_member}
            (only,) = names if len(names) == 1 else {None}
            kept = {self._latest.name, name_in(self._directory / "latest.json")}
            for trouble in remove_older(self._directory, kept, only):
                warnings.warn(
                    f"member {self._run.rank} {trouble}. The new checkpoint is complete", stacklevel=5
                )

    def _write(self, path: Path, tensors: Tensors) -> None:
        self._written[path.name] = ""
        self._written[path.name] = write(path, to_bytes(tensors), str(self._run.rank))

    def _remove_written(self) -> None:
        """Nothing will name these files: a full disk has room again."""
        remove(self._directory / name for name in self._written)

    def _remove_unless_named(self) -> None:
        """One member that replaced its latest.json is enough: load() takes that, and all files with it."""

        def check(named: Any) -> None:
            require(isinstance(named, bool), "true or false")

        mine = name_in(self._directory / "latest.json") in (self._latest.name, None)
        with contextlib.suppress(Error):  # what failed before is what all will raise
            if not any(exchanged(self._run.session, "latest.json replaced", mine, check)):
                self._remove_written()


@contextlib.contextmanager
def _telling_what_stays() -> Iterator[None]:
    """Makes what the system says of a file a sentence that says what is left, and what to do."""
    try:
        yield
    except OSError as cause:
        full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
        todo = "make room for another one, and save again" if full else "the run may go on"
        raise error("io", f"{cause}; the last checkpoint that is whole stays: {todo}") from cause


def _own(run: Run) -> Tensors:
    epochs = {"loader_epochs": torch.tensor(run.loader_epochs(), dtype=torch.int64, device="cpu")}
    own = own_tensors(run) | run.optimizer.own_tensors()
    return own | buffer_tensors(run.model) | random_states(run.model) | epochs


def _same(run: Run, written: list[dict[str, str]]) -> dict[str, str]:
    """The hashes of all files. Several members write the same one where each has a directory of its own."""
    hashes: dict[str, str] = {}
    writer: dict[str, int] = {}
    for rank, files in enumerate(written):
        for name, sha256 in files.items():
            if hashes.setdefault(name, sha256) != sha256:
                until_all_heard(run, "save")
                raise error(
                    "mismatch",
                    f"save: {run.describe(writer[name])} and {run.describe(rank)} hold different values for "
                    f"{name}: were parameters changed on one of them, other than by step()?",
                )
            writer.setdefault(name, rank)
    return hashes
