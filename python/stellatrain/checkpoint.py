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

import itertools
import json
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from stellatrain import buffers
from stellatrain.errors import Error, error
from stellatrain.extra import from_json, to_json
from stellatrain.optimizer_state import BLOCK, make_room, slices

if TYPE_CHECKING:
    from stellatrain.run import Run

_FORMAT = 3
_READABLE = (2, 3)  # in 2, extra was plain JSON
_SELECTOR = "selector."  # its name follows


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
    consensus, own = _engine_tensors(run)

    def write_tensors() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        own_buffers = {f"buffer.{name}": value for name, value in _host(run.model.named_buffers()).items()}
        epochs = {"loader_epochs": torch.tensor(run.loader_epochs(), dtype=torch.int64)}
        own_bytes = to_bytes({**own, **own_buffers, **_random_states(run), **epochs})
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
    every member, naming the one that met it. All files are read and checked before anything is changed.
    """
    optimizer = _optimizer(run)
    latest = _newest(run, directory)
    iteration = latest["iteration"]
    extra: dict[str, Any] = {}
    _agree(run, "load", iteration=iteration, digest=latest["digest"])
    engine: dict[str, torch.Tensor] = {}
    torchs: dict[str, torch.Tensor] = {}

    def read() -> None:
        _check_described(run, latest, directory)
        extra.update(_extra(latest, directory))
        own = _read(directory / f"member-{run.rank}-{iteration}.safetensors")
        consensus = _read(directory / f"consensus-{iteration}.safetensors")
        engine.update(consensus | own)
        torchs.update(_read(directory / f"model-{iteration}.safetensors") | own)
        _check_engine(run, engine, directory)
        _make_room(run, engine, consensus, directory)
        _check_engine(run, engine, directory)  # what has room now
        _check_model(run, torchs, directory)

    def fill() -> None:
        _fill_engine(run, engine)
        _fill_model(run, torchs)
        for group, numbers in zip(optimizer.param_groups, latest["param_groups"], strict=True):
            group.update(numbers)
        optimizer.state_loaded(iteration)
        if (digest := f"{optimizer.digest():016x}") != latest["digest"]:
            raise error(
                "mismatch",
                f"{directory} is damaged: its weights have the digest {digest}, saved was {latest['digest']}",
            )
        _set_random_states(run, torchs)
        run.set_loader_epochs(torchs["loader_epochs"].tolist())

    _together(run, "load", read)
    _together(run, "load", fill)
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
                raise error(
                    "mismatch",
                    f"{what}: {key} is {value} here, {theirs[key]} on member {rank}; every member must call "
                    f"{what}() at the same step, on the same checkpoint",
                )


def _together(run: Run, what: str, work: Callable[[], None]) -> None:
    """Runs `work` on every member; what goes wrong on one is an Error on all that names it."""
    failure: Exception | None = None
    try:
        work()
    except Exception as cause:  # whatever it was, the others must not wait for this member
        failure = cause
    code = getattr(failure, "code", "io")
    mine = b"" if failure is None else json.dumps([code, str(failure)]).encode()
    for rank, text in enumerate(run.session.all_gather(what, mine)):
        if text:
            code, sentence = json.loads(text)
            raise error(code, f"{what}: member {rank} could not do its part: {sentence}") from failure


def _engine_tensors(run: Run) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The engine's arrays as whole tensors, "<array>.<parameter>": consensus, and this member's own.

    Beside the latter the state of its selectors, "selector.<name>".
    """
    optimizer = run.optimizer
    consensus: dict[str, torch.Tensor] = {}
    selector, words = optimizer.engine.selector_state()
    own = {_SELECTOR + selector: torch.tensor(words, dtype=torch.uint64)}
    for name, index, shared, begin, _, values in slices(optimizer.engine):
        bridge = optimizer.bridges[index]
        whole = (consensus if shared else own).setdefault(
            f"{name}.{bridge.name}", torch.zeros(_size(name, bridge.numel), dtype=_dtype(name))
        )
        first = begin // BLOCK if name == "steps" else begin
        whole[first : first + values.numel()] = values.to(whole.dtype)
    return consensus, own


def _check_described(run: Run, latest: dict[str, Any], directory: Path) -> None:
    if latest["world_size"] != run.world_size:
        raise error(
            "mismatch",
            f"{directory} was saved by {latest['world_size']} members, this run has {run.world_size}; "
            "an exact resume needs the same number",
        )
    saved, here = len(latest["param_groups"]), len(run.optimizer.param_groups)
    if saved != here:
        raise error(
            "mismatch", f"{directory} was saved with {saved} param groups, the optimizer here has {here}"
        )


def _check_engine(run: Run, tensors: dict[str, torch.Tensor], directory: Path) -> None:
    optimizer = run.optimizer
    for name, index, *_ in slices(optimizer.engine):
        bridge = optimizer.bridges[index]
        whole, needed = tensors.get(f"{name}.{bridge.name}"), _size(name, bridge.numel)
        if whole is None or whole.numel() != needed:
            found = "nothing" if whole is None else f"{whole.numel()} values"
            raise error(
                "mismatch",
                f"{directory} holds {found} for '{name}' of '{bridge.name}', the model here needs {needed}: "
                "it was saved with another model or optimizer",
            )


def _make_room(run: Run, tensors: dict[str, torch.Tensor], saved: Iterable[str], directory: Path) -> None:
    """Lets the engine hold what came into being only after distribute() in the run that was saved."""
    optimizer = run.optimizer
    index_of = {bridge.name: index for index, bridge in enumerate(optimizer.bridges)}
    before = {(name, index) for name, index, *_ in slices(optimizer.engine)}
    named = (key.partition(".") for key in saved)
    moments = ((name, index_of[parameter]) for name, _, parameter in named if parameter in index_of)
    for name, index in make_room(optimizer.engine, moments):
        raise error(
            "mismatch",
            f"{directory} holds '{name}' of '{optimizer.bridges[index].name}', which the optimizer here "
            "never has: it was saved with another optimizer",
        )
    for name, index, *_ in slices(optimizer.engine):
        bridge = optimizer.bridges[index]
        if (name, index) not in before:  # room comes by bucket, and those of the saved run may differ
            tensors.setdefault(f"{name}.{bridge.name}", torch.zeros(_size(name, bridge.numel)))


def _check_model(run: Run, tensors: dict[str, torch.Tensor], directory: Path) -> None:
    needed = itertools.chain(
        run.model.named_parameters(),
        ((f"buffer.{name}", buffer) for name, buffer in run.model.named_buffers()),
        [("torch_rng_state", torch.get_rng_state())],
    )
    for name, tensor in needed:
        if name not in tensors or tensors[name].shape != tensor.shape:
            found = tuple(tensors[name].shape) if name in tensors else "nothing"
            raise error(
                "mismatch",
                f"{directory} holds {found} for '{name}', the model here needs {tuple(tensor.shape)}",
            )


def _fill_engine(run: Run, tensors: dict[str, torch.Tensor]) -> None:
    optimizer = run.optimizer
    for name, index, _, begin, _, values in slices(optimizer.engine):
        whole = tensors[f"{name}.{optimizer.bridges[index].name}"]
        first = begin // BLOCK if name == "steps" else begin
        values.copy_(whole[first : first + values.numel()].to(values.dtype))
    for name, words in tensors.items():
        if name.startswith(_SELECTOR):  # of another selector or of other buckets, it does not count
            optimizer.engine.set_selector_state(name.removeprefix(_SELECTOR), words.tolist())


def _fill_model(run: Run, tensors: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in run.model.named_parameters():
            parameter.copy_(tensors[name])
        for name, buffer in run.model.named_buffers():
            buffer.copy_(tensors[f"buffer.{name}"])


def _random_states(run: Run) -> dict[str, torch.Tensor]:
    cuda = {f"cuda_rng_state.{i}": torch.cuda.get_rng_state(device) for i, device in _cuda_devices(run.model)}
    return {"torch_rng_state": torch.get_rng_state(), **cuda}


def _set_random_states(run: Run, tensors: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(tensors["torch_rng_state"])
    for i, device in _cuda_devices(run.model):
        if (state := tensors.get(f"cuda_rng_state.{i}")) is not None:  # not in that of a run without CUDA
            torch.cuda.set_rng_state(state, device)


def _cuda_devices(model: torch.nn.Module) -> list[tuple[int, torch.device]]:
    """The model's, counted: a resumed member may have others than before. Empty without CUDA."""
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    return list(enumerate(sorted(devices, key=lambda device: device.index)))


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


def _read(path: Path) -> dict[str, torch.Tensor]:
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
        raise failure
    newest = max(found, key=lambda latest: latest["iteration"])
    return mine if mine is not None and mine["iteration"] == newest["iteration"] else newest


def _read_latest(path: Path) -> dict[str, Any]:
    try:
        latest = json.loads(path.read_bytes())
        written = latest["format"]
        missing = {"iteration", "world_size", "digest", "param_groups", "extra"} - latest.keys()
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise error("io", f"{path} is no checkpoint: {cause}") from cause
    if written not in _READABLE:
        readable = " and ".join(map(str, _READABLE))
        raise error("io", f"{path} has format {written}; this version reads {readable}")
    if missing:
        raise error("io", f"{path} is no checkpoint: it lacks {', '.join(sorted(missing))}")
    return latest


def _remove_older(directory: Path, iteration: int, rank: int, all_: bool) -> None:
    patterns = [f"member-{rank}-*.safetensors"]
    if all_:
        patterns += ["model-*.safetensors", "consensus-*.safetensors"]
    leftovers = [f".{pattern}.{rank}" for pattern in patterns]  # of a save() that was killed
    for path in itertools.chain.from_iterable(map(directory.glob, patterns + leftovers)):
        if not path.name.endswith(f"-{iteration}.safetensors"):
            path.unlink(missing_ok=True)
