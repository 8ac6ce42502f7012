"""Checkpoints: safetensors files, written atomically, resumed exactly at the same membership.

A directory holds, for the iteration that latest.json names:

    latest.json                         iteration, world size, digest, param_groups, the caller's extra
    model-<iteration>.safetensors       parameters and buffers (averaged over members) by their torch names
    consensus-<iteration>.safetensors   consensus weights, moments, step counts: the same on all members
    member-<rank>-<iteration>.safetensors   residual, own buffers, state of torch's random generator

The lowest rank on each machine writes the first three, every member its own. Each file is written under another
name, synced and renamed; latest.json is replaced last, after all members have written. So whatever is killed
when, the directory names a checkpoint that is whole.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from stellatrain import buffers
from stellatrain.errors import Error, error
from stellatrain.optimizer_state import BLOCK, slices

if TYPE_CHECKING:
    from stellatrain.run import Run

_FORMAT = 1


def save(run: Run, directory: Path, extra: dict[str, Any] | None = None) -> None:
    """Writes a checkpoint of this moment. Collective: every member calls it at the same iteration.

    extra: JSON values to get back from load(), for example {"scheduler": scheduler.state_dict()}.

    Raises Error("io") on every member, naming who could not write; the last checkpoint stays then.
    """
    optimizer = _optimizer(run)
    iteration, digest = optimizer.iteration, optimizer.digest()
    machines = _agree(
        run, "save", {"iteration": iteration, "digest": digest, "machine": socket.gethostname()}
    )
    names = [entry["machine"] for entry in machines]
    writes_for_machine = names.index(names[run.rank]) == run.rank
    mean_buffers = buffers.averaged(run.session, run.model)
    consensus, own = _engine_tensors(run)

    def write() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        own_buffers = {f"buffer.{name}": value for name, value in _host(run.model.named_buffers()).items()}
        random = {"torch_rng_state": torch.get_rng_state()}
        _write(
            directory / f"member-{run.rank}-{iteration}.safetensors",
            to_bytes({**own, **own_buffers, **random}),
        )
        if writes_for_machine:
            model = _host(run.model.named_parameters()) | mean_buffers
            _write(directory / f"model-{iteration}.safetensors", to_bytes(model))
            _write(directory / f"consensus-{iteration}.safetensors", to_bytes(consensus))

    _all_or_none(run, "save", write)
    if writes_for_machine:
        latest = {
            "format": _FORMAT,
            "iteration": iteration,
            "world_size": run.world_size,
            "digest": f"{digest:016x}",
            "param_groups": [_numbers(group) for group in optimizer.param_groups],
            "extra": extra or {},
        }
        _write(directory / "latest.json", json.dumps(latest, indent=1).encode())
    run.session.all_gather("saved", b"")
    _remove_older(directory, iteration, run.rank, writes_for_machine)


def load(run: Run, directory: Path) -> dict[str, Any]:
    """Continues where the checkpoint was taken: weights, moments, residuals, buffers, param_groups, random state.

    Collective, after distribute(), with the same number of members. Returns the `extra` of save().

    Raises Error("io") for a missing or broken file, Error("mismatch") for another model or membership.
    """
    optimizer = _optimizer(run)
    latest = _read_latest(directory)
    iteration = latest["iteration"]
    _agree(run, "load", {"iteration": iteration, "digest": latest["digest"]})
    if latest["world_size"] != run.world_size:
        raise error(
            "mismatch",
            f"{directory} was saved by {latest['world_size']} members, this run has {run.world_size}; an exact resume "
            "needs the same number",
        )
    consensus = _read(directory / f"consensus-{iteration}.safetensors")
    model = _read(directory / f"model-{iteration}.safetensors")
    own = _read(directory / f"member-{run.rank}-{iteration}.safetensors")
    _fill_engine(run, {**consensus, **own}, directory)
    _fill_model(run, model, own, directory)
    for group, numbers in zip(optimizer.param_groups, latest["param_groups"], strict=True):
        group.update(numbers)
    optimizer.state_loaded(iteration)
    if (digest := f"{optimizer.digest():016x}") != latest["digest"]:
        raise error(
            "mismatch",
            f"{directory}: the weights have the digest {digest}, saved was {latest['digest']}",
        )
    torch.set_rng_state(own["torch_rng_state"])
    run.session.all_gather("loaded", b"")
    return latest["extra"]


def _optimizer(run: Run) -> Any:
    if run.optimizer is None:
        raise error("invalid_argument", "call distribute() before save() or load()")
    return run.optimizer


def _agree(run: Run, what: str, mine: dict[str, Any]) -> list[dict[str, Any]]:
    """Everybody's facts by rank; Error("mismatch") unless iteration and digest are equal."""
    raw = run.session.all_gather(what, json.dumps(mine).encode())
    everybody = [json.loads(text) for text in raw]
    for rank, theirs in enumerate(everybody):
        for key in ("iteration", "digest"):
            if theirs[key] != mine[key]:
                raise error(
                    "mismatch",
                    f"{what}: {key} is {mine[key]} here, {theirs[key]} on member {rank}; every member must call "
                    f"{what}() at the same step, on the same checkpoint",
                )
    return everybody


def _all_or_none(run: Run, what: str, work: Any) -> None:
    """Runs `work` on every member; an OSError of any becomes Error("io") on all."""
    failure = ""
    try:
        work()
    except OSError as cause:
        failure = str(cause)
    raw = run.session.all_gather(f"{what} written", failure.encode())
    for rank, text in enumerate(raw):
        if text:
            raise error("io", f"{what}: member {rank} could not write its part: {text.decode()}")


def _engine_tensors(run: Run) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The engine's arrays as whole tensors, "<array>.<parameter>": consensus, and this member's own."""
    optimizer = run.optimizer
    consensus: dict[str, torch.Tensor] = {}
    own: dict[str, torch.Tensor] = {}
    for name, index, shared, begin, _, values in slices(optimizer.engine):
        bridge = optimizer.bridges[index]
        whole = (consensus if shared else own).setdefault(
            f"{name}.{bridge.name}", torch.zeros(_size(name, bridge.numel), dtype=_dtype(name))
        )
        first = begin // BLOCK if name == "steps" else begin
        whole[first : first + values.numel()] = values.to(whole.dtype)
    return consensus, own


def _fill_engine(run: Run, tensors: dict[str, torch.Tensor], directory: Path) -> None:
    optimizer = run.optimizer
    for name, index, _, begin, _, values in slices(optimizer.engine):
        bridge = optimizer.bridges[index]
        whole = tensors.get(f"{name}.{bridge.name}")
        if whole is None or whole.numel() != _size(name, bridge.numel):
            found = "nothing" if whole is None else f"{whole.numel()} values"
            raise error(
                "mismatch",
                f"{directory} holds {found} for '{name}' of '{bridge.name}' where {_size(name, bridge.numel)} values "
                "are needed: it is of another model or optimizer",
            )
        first = begin // BLOCK if name == "steps" else begin
        values.copy_(whole[first : first + values.numel()].to(values.dtype))


def _fill_model(
    run: Run, model: dict[str, torch.Tensor], own: dict[str, torch.Tensor], directory: Path
) -> None:
    with torch.no_grad():
        for name, parameter in run.model.named_parameters():
            if name not in model or model[name].shape != parameter.shape:
                raise error(
                    "mismatch",
                    f"{directory} does not hold the parameter '{name}' {tuple(parameter.shape)}",
                )
            parameter.copy_(model[name])
        for name, buffer in run.model.named_buffers():
            if f"buffer.{name}" not in own:
                raise error("mismatch", f"{directory} does not hold the buffer '{name}'")
            buffer.copy_(own[f"buffer.{name}"])


def _size(name: str, numel: int) -> int:
    return -(-numel // BLOCK) if name == "steps" else numel


def _dtype(name: str) -> torch.dtype:
    return torch.int64 if name == "steps" else torch.float32


def _host(named: Any) -> dict[str, torch.Tensor]:
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


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing, even through a crash: written beside, synced, renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
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


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as cause:
        raise error("io", f"cannot read {path}: {cause}; was it saved on this machine?") from cause


def _read_latest(directory: Path) -> dict[str, Any]:
    path = directory / "latest.json"
    try:
        latest = json.loads(path.read_bytes())
        if latest["format"] != _FORMAT:
            raise error("io", f"{path} has format {latest['format']}; this version reads {_FORMAT}")
        return latest
    except Error:
        raise
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise error("io", f"{path} is no checkpoint: {cause}") from cause


def _remove_older(directory: Path, iteration: int, rank: int, all_: bool) -> None:
    patterns = [f"member-{rank}-*.safetensors"]
    if all_:
        patterns += ["model-*.safetensors", "consensus-*.safetensors"]
    for pattern in patterns:
        for path in directory.glob(pattern):
            if not path.name.endswith(f"-{iteration}.safetensors"):
                path.unlink(missing_ok=True)
