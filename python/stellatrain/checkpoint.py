"""Checkpoints: safetensors files, written atomically, resumed exactly at the same membership.

A directory holds, for the checkpoint that latest.json names:

    latest.json                      name, time of the save, world size, optimizer, param_groups, hashes
    model-<name>.safetensors         model.state_dict(): parameters and buffers (averaged over members)
    consensus-<name>.safetensors     consensus weights, moments, step counts: the same on all members
    member-<rank>-<name>.safetensors     residual, selectors, own buffers, random generators, epochs, extra

<name> is the iteration and eight digits that no other save() has: no file of an older checkpoint is ever
overwritten. The lowest rank of those that share a directory writes the first three, every member its own.
Each file is written under another name, synced and renamed; latest.json is replaced last, after all members
have written. So whatever is killed when, the directory names a checkpoint that is whole. The parts are in
checkpoint_<part>.py, the page for users is docs/checkpoints.md.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as to_bytes

from stellatrain import buffers
from stellatrain.checkpoint_agreement import agree, together, until_all_heard
from stellatrain.checkpoint_checks import (
    check_consensus,
    check_counters,
    check_described,
    check_extra,
    check_model,
    check_own,
)
from stellatrain.checkpoint_directory import read, remove, remove_older, write, writes_shared_files
from stellatrain.checkpoint_latest import Latest, begun, current, newest, settings_of
from stellatrain.checkpoint_tensors import (
    EXTRA,
    Tensors,
    buffer_tensors,
    consensus_tensors,
    fill_engine,
    fill_model,
    hashes_of_untrained,
    model_tensors,
    own_tensors,
)
from stellatrain.errors import Error, error
from stellatrain.extra import to_tensor
from stellatrain.messages import require
from stellatrain.random_states import (
    check_random_states,
    random_states,
    set_random_states,
    warn_of_other_devices,
)

if TYPE_CHECKING:
    from stellatrain.run import Run


def save(run: Run, directory: Path, extra: dict[str, Any] | None = None) -> None:
    """Writes a checkpoint of this moment. Collective: every member calls it at the same iteration.

    extra: this member's values to get back from load() as they are, for example
    {"scheduler": scheduler.state_dict()}; of which types, says stellatrain.extra.

    Raises Error("io") on every member, naming who could not write; the last checkpoint stays then. Raises
    Error("mismatch") if members differ in what must be the same. What is older and cannot be removed is a
    warning.
    """
    optimizer = _optimizer(run)
    iteration = optimizer.iteration
    # Before digest(), which waits for steps that all must have made.
    agree(run, "save", {"iteration": iteration}, "every member must call save() at the same step")
    latest = begun(run, iteration)
    given: Tensors = {}

    def prepare() -> None:
        given[EXTRA] = to_tensor({} if extra is None else extra)

    together(run, "save", prepare)
    agree(run, "save", {"digest": optimizer.digest()}, "report this: it should not happen")
    agree(run, "save", settings_of(latest), "param_groups must be the same on every member")
    untrained = {f"the SHA-256 of '{name}'": hash_ for name, hash_ in hashes_of_untrained(run).items()}
    agree(run, "save", untrained, "parameters that are not trained must be the same on every member")
    writes_shared = writes_shared_files(run, directory)
    mean_buffers = buffers.averaged(run.session, run.model)

    hashes: dict[str, str] = {}  # of the files that this member writes, by name

    def write_file(path: Path, tensors: Tensors) -> None:
        hashes[path.name] = ""
        hashes[path.name] = write(path, to_bytes(tensors), str(run.rank))

    def write_tensors() -> dict[str, str]:
        epochs = {"loader_epochs": torch.tensor(run.loader_epochs(), dtype=torch.int64)}
        own = own_tensors(run) | buffer_tensors(run.model) | random_states(run.model) | epochs | given
        write_file(latest.member(directory, run.rank), own)
        if writes_shared:
            model, others = model_tensors(run, mean_buffers)
            write_file(latest.model(directory), model)
            write_file(latest.consensus(directory), consensus_tensors(run) | others)
        return hashes

    def remove_written() -> None:
        """Nothing will name these files: a full disk has room again."""
        remove(directory / name for name in hashes)

    before: Latest | None = None

    def write_latest() -> None:
        nonlocal before
        if writes_shared:
            before = current(directory / "latest.json")
            content = replace(latest, sha256=all_hashes).content()
            write(directory / "latest.json", content, f"{run.rank}-{latest.name}")

    def check_hashes(written: Any) -> None:
        require(all(isinstance(sha256, str) for sha256 in written.values()), "a hash for each name")

    written = together(run, "save", write_tensors, check_hashes, undo=remove_written)
    try:
        all_hashes = _same(run, written)
    except Error:
        remove_written()
        raise
    together(run, "save", write_latest)
    if writes_shared:
        remove_older(directory, before, run.rank)


def load(run: Run, directory: Path, missing_ok: bool = False) -> dict[str, Any] | None:
    """Continues where the checkpoint was taken, with all that the next step depends on.

    Collective, after distribute(), with the same number of members, all at the same iteration. Returns the
    `extra` that this member gave to save(); None, with nothing changed, if `missing_ok` and no member has a
    checkpoint.

    Raises Error("io") for a missing or broken file, Error("mismatch") for another model or membership, on
    every member, naming the one that met it. All files are read and checked before anything is changed on any
    member. Taking over what they hold may fail all the same: an error on every member, and the run must end.
    """
    optimizer = _optimizer(run)
    # Or checks would wait for steps that a member never makes.
    agree(run, "load", {"iteration": optimizer.iteration}, "every member must call load() at the same step")
    latest, warning = newest(run, directory, missing_ok)
    if latest is None:
        return None
    own_path = latest.member(directory, run.rank)
    own: Tensors = {}
    consensus: Tensors = {}
    model: Tensors = {}
    moments: list[tuple[str, int]] = []
    extra: dict[str, Any] = {}

    def read_file(path: Path) -> Tensors:
        return read(path, latest.sha256.get(path.name))

    def read_and_check() -> None:
        check_described(run, latest, directory / "latest.json")
        own.update(read_file(own_path))
        consensus.update(read_file(latest.consensus(directory)))
        model.update(read_file(latest.model(directory)))
        check_own(run, own, own_path)
        moments.extend(check_consensus(run, consensus, latest.consensus(directory)))
        check_model(run, model, latest.model(directory))
        check_counters(run, own, own_path)
        check_random_states(run.model, own, own_path)
        extra.update(check_extra(own, own_path))

    def fill() -> None:
        fill_engine(run, consensus | own, moments)
        fill_model(run, model, consensus, own)
        for group, numbers in zip(optimizer.param_groups, latest.param_groups, strict=True):
            group.update(numbers)
        set_random_states(run.model, own)
        run.set_loader_epochs(own["loader_epochs"].tolist())
        optimizer.parameters_written()

    together(run, "load", read_and_check)
    together(run, "load", fill)  # or some members would wait in state_loaded() for one that failed before it
    optimizer.state_loaded(latest.iteration)
    agree(run, "load", {"digest": optimizer.digest()}, "end the run, and report this: it should not happen")
    if warning:
        warnings.warn(warning, stacklevel=3)
    warn_of_other_devices(run.model, own, own_path)
    return extra


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


def _optimizer(run: Run) -> Any:
    if run.optimizer is None:
        raise error("invalid_argument", "call distribute() before save() or load()")
    return run.optimizer
