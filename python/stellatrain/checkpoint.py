"""Checkpoints: safetensors files, written atomically, resumed exactly at the same membership.

A directory holds, for the checkpoint that latest.json names:

    latest.json                      name, time of the save, world size, optimizer, param_groups, hashes
    model-<name>.safetensors         model.state_dict(): parameters and buffers (averaged over members)
    consensus-<name>.safetensors     consensus weights, moments, step counts: the same on all members
    member-<rank>-<name>.safetensors     residual, selectors, own buffers, random generators, epochs, extra

<name> is the iteration and 16 digits that no other save() has: no file of an older checkpoint is ever
overwritten. The lowest rank of those that share a directory writes the first three, every member its own.
Each file is written under another name, synced and renamed; latest.json is replaced last, after all members
have written. So whatever is killed when, the directory names a checkpoint that is whole. The parts are in
checkpoint_<part>.py, the page for users is docs/checkpoints.md.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stellatrain import buffers
from stellatrain.agreement import agree, together
from stellatrain.checkpoint_checks import (
    check_consensus,
    check_counters,
    check_described,
    check_extra,
    check_model,
    check_own,
)
from stellatrain.checkpoint_directory import read, writes_shared_files
from stellatrain.checkpoint_latest import begun, newest
from stellatrain.checkpoint_saving import Saving
from stellatrain.checkpoint_tensors import (
    EXTRA,
    Tensors,
    fill_engine,
    fill_model,
    hashes_of_untrained,
)
from stellatrain.errors import error, flag, shown
from stellatrain.extra import to_tensor
from stellatrain.random_states import (
    check_random_states,
    set_random_states,
    warn_of_other_devices,
)

if TYPE_CHECKING:
    from stellatrain.run import Run


def save(run: Run, directory: str | Path, extra: dict[str, Any] | None = None) -> None:
    """Writes a checkpoint of this moment. Collective: every member calls it at the same iteration.

    extra: this member's values to get back from load() as they are, for example
    {"scheduler": scheduler.state_dict()}; of which types, says stellatrain.extra.

    Raises Error("io") on every member, naming who could not write; the last checkpoint stays then. Raises
    Error("mismatch") if members differ in what must be the same. What is older and cannot be removed is a
    warning.
    """
    optimizer = _optimizer(run)
    optimizer.come_together(run.session, "save")
    iteration = optimizer.place
    # Before digest(), which waits for steps that all must have made.
    agree(run, "save", {"iteration": iteration}, "every member must call save() at the same step")
    together(run, "save", optimizer.restore_parameters)
    latest = begun(run, iteration)
    directory = _everywhere_a_path(run, "save", directory)
    given: Tensors = {}

    def prepare() -> None:
        given[EXTRA] = to_tensor({} if extra is None else extra)

    together(run, "save", prepare)
    agree(run, "save", {"digest": optimizer.digest()}, "report this: it should not happen")
    untrained = {f"the SHA-256 of '{name}'": hash_ for name, hash_ in hashes_of_untrained(run).items()}
    agree(run, "save", untrained, "parameters that are not trained must be the same on every member")

    saving = Saving(run, directory, latest, writes_shared_files(run, directory))
    saving.make_room()
    saving.write_tensors(given, buffers.averaged(run))
    saving.write_latest()


def load(run: Run, directory: str | Path, missing_ok: bool = False) -> dict[str, Any] | None:
    """Continues where the checkpoint was taken, with all that the next step depends on.

    Collective, after distribute(), with the same number of members, all at the same iteration. Returns the
    `extra` that this member gave to save(); None, with nothing changed, if `missing_ok` and no member has a
    checkpoint.

    Raises Error("io") for a missing or broken file, Error("mismatch") for another model or membership, on
    every member, naming the one that met it. All files are read and checked before anything is changed on any
    member. Taking over what they hold may fail all the same: an error on every member, and the run must end.
    """
    optimizer = _optimizer(run)
    flag(missing_ok, "missing_ok")
    optimizer.come_together(run.session, "load")
    # Or checks would wait for steps that a member never makes.
    agree(run, "load", {"iteration": optimizer.place}, "every member must call load() at the same step")
    agree(run, "load", {"missing_ok": missing_ok}, "every member must say the same")
    directory = _everywhere_a_path(run, "load", directory)
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
        optimizer.check_own(own, own_path)
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
        optimizer.fill_own(own)
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


def _everywhere_a_path(run: Run, what: str, directory: str | Path) -> Path:
    """This member's. Raises on every member if one's is no path."""
    paths: list[Path] = []

    def convert() -> None:
        try:
            paths.append(Path(directory).absolute())
            if directory == "":
                raise ValueError("the present directory is '.'")
            if "\0" in str(paths[-1]):
                raise ValueError("no path holds a null character")
        except (TypeError, ValueError) as cause:
            raise error(
                "invalid_argument",
                f"directory is {shown(directory)}; it must be a path: a str or a pathlib.Path",
            ) from cause

    together(run, what, convert)
    return paths[0]


def _optimizer(run: Run) -> Any:
    if run.optimizer is None:
        raise error("invalid_argument", "call distribute() before save() or load()")
    return run.optimizer
