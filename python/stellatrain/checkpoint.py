"""Checkpoints: safetensors files, written atomically, resumed exactly at the same membership.

A directory holds, for the iteration that latest.json names:

    latest.json                         iteration, world size, digest, param_groups, the caller's extra
    model-<iteration>.safetensors       parameters and buffers (averaged over members) by their torch names
    consensus-<iteration>.safetensors   consensus weights, moments, step counts: the same on all members
    member-<rank>-<iteration>.safetensors   residual, selectors, own buffers, random generators, epochs

The lowest rank on each machine writes the first three, every member its own. Each file is written under
another name, synced and renamed; latest.json is replaced last, after all members have written. So whatever is
killed when, the directory names a checkpoint that is whole. docs/checkpoints.md is the page for users.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from stellatrain import buffers
from stellatrain.checkpoint_checks import (
    SELECTOR,
    Tensors,
    check_counters,
    check_described,
    check_engine,
    check_model,
    dtype_of,
    moments_to_make,
    size_of,
)
from stellatrain.errors import Error, error
from stellatrain.extra import from_json, to_json
from stellatrain.optimizer_state import BLOCK, make_room, slices
from stellatrain.random_states import (
    check_random_states,
    random_states,
    set_random_states,
    warn_of_other_devices,
)

if TYPE_CHECKING:
    from stellatrain.run import Run

_FORMAT = 3
_LATEST = {"iteration": int, "world_size": int, "digest": str, "param_groups": list, "extra": dict}
_READABLE = (2, 3)  # in 2, extra was plain JSON


def save(run: Run, directory: Path, extra: dict[str, Any] | None = None) -> None:
    """Writes a checkpoint of this moment. Collective: every member calls it at the same iteration.

    extra: values to get back from load() as they are, for example {"scheduler": scheduler.state_dict()}; of
    which types, says stellatrain.extra.

    Raises Error("io") on every member, naming who could not write; the last checkpoint stays then.
    """
    optimizer = _optimizer(run)
    iteration = optimizer.iteration
    _agree(run, "save", iteration=iteration)  # before digest(), which waits for steps that all must have made
    digest = f"{optimizer.digest():016x}"
    latest = b""

    def describe() -> None:
        nonlocal latest
        latest = _described(run, iteration, digest, extra)

    _together(run, "save", describe)
    _agree(run, "save", digest=digest)
    machines = [machine.decode() for machine in run.session.all_gather("machine", _machine().encode())]
    writes_for_machine = machines.index(machines[run.rank]) == run.rank
    mean_buffers = buffers.averaged(run.session, run.model)

    def write_tensors() -> None:
        consensus, own = _engine_tensors(run)
        directory.mkdir(parents=True, exist_ok=True)
        own_buffers = {f"buffer.{name}": value for name, value in _host(run.model.named_buffers()).items()}
        epochs = {"loader_epochs": torch.tensor(run.loader_epochs(), dtype=torch.int64)}
        own_bytes = to_bytes({**own, **own_buffers, **random_states(run.model), **epochs})
        _write(directory / f"member-{run.rank}-{iteration}.safetensors", own_bytes, run.rank)
        if writes_for_machine:
            model = to_bytes(_host(run.model.named_parameters()) | mean_buffers)
            _write(directory / f"model-{iteration}.safetensors", model, run.rank)
            _write(directory / f"consensus-{iteration}.safetensors", to_bytes(consensus), run.rank)

    def write_latest() -> None:
        if writes_for_machine:
            _write(directory / "latest.json", latest, run.rank)

    _together(run, "save", write_tensors)
    _together(run, "save", write_latest)
    _remove_older(directory, iteration, run.rank, writes_for_machine)


def load(run: Run, directory: Path) -> dict[str, Any]:
    """Continues where the checkpoint was taken, with all that the next step depends on.

    Collective, after distribute(), with the same number of members. Returns the `extra` of save().

    Raises Error("io") for a missing or broken file, Error("mismatch") for another model or membership, on
    every member, naming the one that met it. All files are read and checked before anything is changed on any
    member. Taking over what they hold may fail all the same: an error on every member, and the run must end.
    """
    optimizer = _optimizer(run)
    latest = _newest(run, directory)
    iteration = latest["iteration"]
    extra: dict[str, Any] = {}
    _agree(run, "load", iteration=iteration, digest=latest["digest"])
    own_path = directory / f"member-{run.rank}-{iteration}.safetensors"
    consensus_path = directory / f"consensus-{iteration}.safetensors"
    model_path = directory / f"model-{iteration}.safetensors"
    own: Tensors = {}
    consensus: Tensors = {}
    model: Tensors = {}
    moments: list[tuple[str, int]] = []

    def read() -> None:
        check_described(run, latest, directory / "latest.json")
        extra.update(_extra(latest, directory))
        own.update(_read(own_path))
        consensus.update(_read(consensus_path))
        model.update(_read(model_path))
        check_engine(run, consensus, consensus_path, own, own_path)
        moments.extend(moments_to_make(run, consensus, consensus_path))
        check_model(run, model, model_path, own, own_path)
        check_counters(run, own, own_path)
        check_random_states(run.model, own, own_path)

    def fill() -> None:
        _fill_engine(run, consensus | own, moments)
        _fill_model(run, model | own)
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

    _together(run, "load", read)
    _together(run, "load", fill)  # or some members would wait in state_loaded() for one that failed before it
    optimizer.state_loaded(iteration)
    _together(run, "load", compare)
    warn_of_other_devices(run.model, own, own_path)
    return extra


def _optimizer(run: Run) -> Any:
    if run.optimizer is None:
        raise error("invalid_argument", "call distribute() before save() or load()")
    return run.optimizer


def _described(run: Run, iteration: int, digest: str, extra: dict[str, Any] | None) -> bytes:
    """The content of latest.json."""
    latest = {
        "format": _FORMAT,
        "iteration": iteration,
        "world_size": run.world_size,
        "digest": digest,
        "param_groups": [_numbers(group) for group in run.optimizer.param_groups],
        "extra": to_json(extra or {}),
    }
    try:
        return json.dumps(latest, indent=1).encode()
    except ValueError as cause:  # an int of some thousand digits
        raise error("invalid_argument", f"save: extra cannot be written as JSON: {cause}") from cause


def _extra(latest: dict[str, Any], directory: Path) -> dict[str, Any]:
    """What save() was given."""
    if latest["format"] < _FORMAT:
        return latest["extra"]
    try:
        return from_json(latest["extra"])
    except ValueError as cause:
        raise error("io", f"{directory / 'latest.json'} is damaged: of 'extra', {cause}") from cause


def _machine() -> str:
    """Equal on members that share a file system: one host, and one container on it."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}"


def _agree(run: Run, what: str, **mine: Any) -> None:
    """Raises Error("mismatch") unless everybody has the same values."""
    raw = run.session.all_gather(what, json.dumps(mine).encode())
    for rank, theirs in enumerate(map(json.loads, raw)):
        for key, value in mine.items():
            if theirs[key] != value:
                _until_all_heard(run, what)
                raise error(
                    "mismatch",
                    f"{what}: {key} is {value} here, {theirs[key]} on member {rank}; every member must call "
                    f"{what}() at the same step, on the same checkpoint",
                )


def _until_all_heard(run: Run, what: str) -> None:
    """Before every member raises what all have just been told.

    The farewell of one that ends sooner overtakes its message, and would hide the cause from the others.
    """
    with contextlib.suppress(Error):
        run.session.all_gather(f"{what} failed", b"")


def _together(run: Run, what: str, work: Callable[[], None]) -> None:
    """Runs `work` on every member; what goes wrong on one is an Error on all that names it."""
    failure: Exception | None = None
    try:
        work()
    except Exception as cause:  # whatever it was, the others must not wait for this member
        failure = cause
    code = failure.code if isinstance(failure, Error) else "io"  # another exception's .code is none of ours
    mine = b"" if failure is None else json.dumps([code, str(failure)]).encode()
    outcomes = run.session.all_gather(what, mine)
    if any(outcomes):
        _until_all_heard(run, what)
    for rank, text in enumerate(outcomes):
        if text:
            code, sentence = json.loads(text)
            raise error(code, f"{what}: member {rank} could not do its part: {sentence}") from failure


def _engine_tensors(run: Run) -> tuple[Tensors, Tensors]:
    """The engine's arrays as whole tensors, "<array>.<parameter>": consensus, and this member's own.

    Beside the latter the state of its selectors, "selector.<name>".
    """
    optimizer = run.optimizer
    consensus: Tensors = {}
    selector, words = optimizer.engine.selector_state()
    own = {SELECTOR + selector: torch.tensor(words, dtype=torch.uint64)}
    for name, index, shared, begin, _, values in slices(optimizer.engine):
        bridge = optimizer.bridges[index]
        whole = (consensus if shared else own).setdefault(
            f"{name}.{bridge.name}", torch.zeros(size_of(name, bridge.numel), dtype=dtype_of(name))
        )
        first = begin // BLOCK if name == "steps" else begin
        whole[first : first + values.numel()] = values.to(whole.dtype)
    return consensus, own


def _fill_engine(run: Run, tensors: Tensors, moments: list[tuple[str, int]]) -> None:
    """moments: some may have come into being only after distribute() in the run that was saved."""
    optimizer = run.optimizer
    if unknown := make_room(optimizer.engine, moments):
        raise error("mismatch", f"the optimizer here never has '{unknown[0][0]}'")
    for name, index, _, begin, _, values in slices(optimizer.engine):
        whole = tensors.get(f"{name}.{optimizer.bridges[index].name}")
        if whole is None:  # room comes by bucket, and those of the saved run may differ
            values.zero_()
            continue
        first = begin // BLOCK if name == "steps" else begin
        values.copy_(whole[first : first + values.numel()].to(values.dtype))
    for name, words in tensors.items():
        if name.startswith(SELECTOR):  # of another selector or of other buckets, it does not count
            optimizer.engine.set_selector_state(name.removeprefix(SELECTOR), words.tolist())


def _fill_model(run: Run, tensors: Tensors) -> None:
    with torch.no_grad():
        for name, parameter in run.model.named_parameters():
            parameter.copy_(tensors[name])
        for name, buffer in run.model.named_buffers():
            buffer.copy_(tensors[f"buffer.{name}"])


def _host(named: Any) -> Tensors:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in named}


def _numbers(group: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a param_group that JSON can hold."""
    kept = {}
    for key, value in group.items():
        if isinstance(value, torch.Tensor) and value.numel() == 1 and key != "params":
            value = value.item()
        if isinstance(value, bool | int | float | str) or value is None:
            kept[key] = value
        elif key == "betas":
            kept[key] = [float(beta) for beta in value]
    return kept


def _write(path: Path, content: bytes, rank: int) -> None:
    """All of it or nothing, even through a crash: written beside, synced, renamed.

    rank: members of several machines may write the same file of a shared directory.
    """
    beside = path.with_name(f".{path.name}.{rank}")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> Tensors:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as cause:
        raise error("io", f"cannot read {path}: {cause}; was it saved on this machine?") from cause


def _newest(run: Run, directory: Path) -> dict[str, Any]:
    """This machine's latest.json, or another's that is newer: save() was interrupted between the two, when
    all files of the newer one were written everywhere.
    """
    mine: dict[str, Any] | None = None
    failure: Error | None = None
    try:
        mine = _read_latest(directory / "latest.json")
    except Error as cause:
        failure = cause
    raw = run.session.all_gather("checkpoint", json.dumps(mine).encode())
    found = [latest for latest in map(json.loads, raw) if latest is not None]
    if not found:
        _until_all_heard(run, "checkpoint")
        raise failure
    newest = max(found, key=lambda latest: latest["iteration"])
    return mine if mine is not None and mine["iteration"] == newest["iteration"] else newest


def _read_latest(path: Path) -> dict[str, Any]:
    try:
        latest = json.loads(path.read_bytes())
        written = latest["format"]
        missing = _LATEST.keys() - latest.keys()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as cause:
        raise error("io", f"{path} is no checkpoint: {cause}") from cause
    if written not in _READABLE:
        readable = " and ".join(map(str, _READABLE))
        raise error("io", f"{path} has format {written}; this version reads {readable}")
    if missing:
        raise error("io", f"{path} is no checkpoint: it lacks {', '.join(sorted(missing))}")
    for key, kind in _LATEST.items():
        if type(latest[key]) is not kind:
            raise error("io", f"{path} is damaged: '{key}' is {latest[key]!r:.40}")
    groups = latest["param_groups"]
    if not all(isinstance(group, dict) and "params" not in group for group in groups):
        raise error("io", f"{path} is damaged: 'param_groups' holds something else than settings")
    if not 0 <= latest["iteration"] < 2**63:
        raise error("io", f"{path} is damaged: 'iteration' is {latest['iteration']}")
    return latest


def _remove_older(directory: Path, iteration: int, rank: int, all_: bool) -> None:
    patterns = [f"member-{rank}-*.safetensors"]
    if all_:
        patterns += ["model-*.safetensors", "consensus-*.safetensors"]
    leftovers = [f".{pattern}.{rank}" for pattern in patterns]  # of a save() that was killed
    for path in itertools.chain.from_iterable(map(directory.glob, patterns + leftovers)):
        if not path.name.endswith(f"-{iteration}.safetensors"):
            path.unlink(missing_ok=True)
