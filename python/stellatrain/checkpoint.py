"""Checkpoints: safetensors files, written atomically, resumed exactly at the same membership.

A directory holds, for the iteration that latest.json names:

    latest.json                         iteration, time of the save, world size, digest, param_groups
    model-<iteration>.safetensors       model.state_dict(): parameters and buffers (averaged over members)
    consensus-<iteration>.safetensors   consensus weights, moments, step counts: the same on all members
    member-<rank>-<iteration>.safetensors   residual, selectors, own buffers, random generators, epochs, extra

The lowest rank of those that share a directory writes the first three, every member its own. Each file is
written under another name, synced and renamed; latest.json is replaced last, after all members have written.
So whatever is killed when, the directory names a checkpoint that is whole. The parts are in
checkpoint_<part>.py, the page for users is docs/checkpoints.md.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as to_bytes

from stellatrain import buffers, checkpoint_older
from stellatrain.checkpoint_agreement import agree, together
from stellatrain.checkpoint_checks import (
    check_counters,
    check_described,
    check_engine,
    check_extra,
    check_model,
    moments_to_make,
)
from stellatrain.checkpoint_directory import read, remove_older, write, writes_shared_files
from stellatrain.checkpoint_latest import FORMAT, described, newest
from stellatrain.checkpoint_tensors import (
    EXTRA,
    Tensors,
    buffer_tensors,
    engine_tensors,
    fill_engine,
    fill_model,
    model_tensors,
)
from stellatrain.errors import error
from stellatrain.extra import to_tensor
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

    Raises Error("io") on every member, naming who could not write; the last checkpoint stays then. What is
    older and cannot be removed is a warning.
    """
    optimizer = _optimizer(run)
    iteration = optimizer.iteration
    agree(run, "save", iteration=iteration)  # before digest(), which waits for steps that all must have made
    digest = f"{optimizer.digest():016x}"
    saved = int(run.session.all_gather("time", str(time.time_ns()).encode())[0])
    latest = b""
    given: Tensors = {}

    def describe() -> None:
        nonlocal latest
        latest = described(run, iteration, digest, saved)
        given[EXTRA] = to_tensor({} if extra is None else extra)

    together(run, "save", describe)
    agree(run, "save", digest=digest)
    writes_shared = writes_shared_files(run, directory)
    mean_buffers = buffers.averaged(run.session, run.model)

    def write_tensors() -> None:
        consensus, own = engine_tensors(run)
        epochs = {"loader_epochs": torch.tensor(run.loader_epochs(), dtype=torch.int64)}
        own |= buffer_tensors(run.model) | random_states(run.model) | epochs | given
        write(directory / f"member-{run.rank}-{iteration}.safetensors", to_bytes(own), run.rank)
        if writes_shared:
            model, others = model_tensors(run, mean_buffers)
            write(directory / f"model-{iteration}.safetensors", to_bytes(model), run.rank)
            write(directory / f"consensus-{iteration}.safetensors", to_bytes(consensus | others), run.rank)

    def write_latest() -> None:
        if writes_shared:
            write(directory / "latest.json", latest, run.rank)

    together(run, "save", write_tensors)
    together(run, "save", write_latest)
    remove_older(directory, iteration, run.rank, writes_shared)


def load(run: Run, directory: Path) -> dict[str, Any]:
    """Continues where the checkpoint was taken, with all that the next step depends on.

    Collective, after distribute(), with the same number of members, all at the same iteration. Returns the
    `extra` that this member gave to save().

    Raises Error("io") for a missing or broken file, Error("mismatch") for another model or membership, on
    every member, naming the one that met it. All files are read and checked before anything is changed on any
    member. Taking over what they hold may fail all the same: an error on every member, and the run must end.
    """
    optimizer = _optimizer(run)
    agree(run, "load", iteration=optimizer.iteration)  # or checks wait for steps that a member never makes
    latest_path = directory / "latest.json"
    latest = newest(run, directory)
    agree(run, "load", digest=latest["digest"])
    iteration = latest["iteration"]
    own_path = directory / f"member-{run.rank}-{iteration}.safetensors"
    consensus_path = directory / f"consensus-{iteration}.safetensors"
    model_path = directory / f"model-{iteration}.safetensors"
    own: Tensors = {}
    consensus: Tensors = {}
    model: Tensors = {}
    moments: list[tuple[str, int]] = []
    extra: dict[str, Any] = {}

    def read_and_check() -> None:
        check_described(run, latest, latest_path)
        own.update(read(own_path))
        consensus.update(read(consensus_path))
        model.update(read(model_path))
        check_engine(run, consensus, consensus_path, own, own_path)
        if latest["format"] < FORMAT:
            checkpoint_older.complete(run, latest, latest_path, consensus, own, model)
        moments.extend(moments_to_make(run, consensus, consensus_path))
        check_model(run, model, model_path, consensus, consensus_path, own, own_path)
        check_counters(run, own, own_path)
        check_random_states(run.model, own, own_path)
        extra.update(check_extra(own, own_path))

    def fill() -> None:
        fill_engine(run, consensus | own, moments)
        fill_model(run, model, consensus, own)
        for group, numbers in zip(optimizer.param_groups, latest["param_groups"], strict=True):
            group.update(numbers)
        set_random_states(run.model, own)
        run.set_loader_epochs(own["loader_epochs"].tolist())
        optimizer.parameters_written()

    def compare() -> None:
        if (digest := f"{optimizer.digest():016x}") != latest["digest"]:
            raise error(
                "mismatch",
                f"{directory} is damaged: its weights have the digest {digest}, saved was {latest['digest']}",
            )

    together(run, "load", read_and_check)
    together(run, "load", fill)  # or some members would wait in state_loaded() for one that failed before it
    optimizer.state_loaded(iteration)
    together(run, "load", compare)
    warn_of_other_devices(run.model, own, own_path)
    return extra


def _optimizer(run: Run) -> Any:
    if run.optimizer is None:
        raise error("invalid_argument", "call distribute() before save() or load()")
    return run.optimizer
