"""latest.json: which checkpoint a directory holds, and which of several is the newest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stellatrain.checkpoint_agreement import until_all_heard
from stellatrain.errors import Error, error

if TYPE_CHECKING:
    from stellatrain.run import Run

FORMAT = 4
_READABLE = (2, 3, FORMAT)
_KEYS = {"iteration": int, "world_size": int, "digest": str, "param_groups": list}


def described(run: Run, iteration: int, digest: str, saved: int) -> bytes:
    """The content of latest.json.

    saved: the moment of this save() by member 0's clock, in nanoseconds since 1970; the same on all members.
    """
    latest = {
        "format": FORMAT,
        "saved": saved,
        "iteration": iteration,
        "world_size": run.world_size,
        "digest": digest,
        "param_groups": [_numbers(group) for group in run.optimizer.param_groups],
    }
    return json.dumps(latest, indent=1).encode()


def newest(run: Run, directory: Path) -> dict[str, Any]:
    """This member's latest.json, or another's that was saved later. Collective.

    They differ where save() was interrupted between the two, when all files of the newer one were written
    everywhere, and where a machine was not in the last run. At equal times (before format 4 there were none)
    the larger iteration is the newer one.

    Raises Error("io") if no member has one that is whole.
    """
    path = directory / "latest.json"
    content = b""
    mine: dict[str, Any] | None = None
    failure: Error | None = None
    try:
        content = _content(path)
        mine = _parsed(content, path)
    except Error as cause:
        failure = cause
    age = None if mine is None else [mine.get("saved", 0), mine["iteration"]]
    raw = run.session.all_gather("checkpoint", json.dumps([age, len(content)]).encode())
    ages, sizes = zip(*map(json.loads, raw), strict=True)
    if not any(ages):
        until_all_heard(run, "checkpoint")
        raise failure
    youngest = max(filter(None, ages))
    if any(theirs != youngest for theirs in ages):
        root = ages.index(youngest)
        theirs = _broadcast(run, root, content, sizes[root])
        if age != youngest:
            return _parsed(theirs, Path(f"member {root}'s latest.json"))
    return mine


def _broadcast(run: Run, root: int, content: bytes, size: int) -> bytes:
    """Of any size: before format 4 it held what the caller gave along."""
    whole = content if run.rank == root else bytes(size)
    buffer = torch.frombuffer(bytearray(whole), dtype=torch.uint8)
    run.session.broadcast("latest.json", root, buffer.data_ptr(), buffer.numel())
    return buffer.numpy().tobytes()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise error("io", f"there is no checkpoint in {path.parent}: it has no {path.name}") from None
    except OSError as cause:
        raise error("io", f"{path} is no checkpoint: {cause}") from cause


def _parsed(content: bytes, path: Path) -> dict[str, Any]:
    """path: where it is from, for the Error("io") if it is no latest.json that this version reads."""
    try:
        latest = json.loads(content)
        written = latest["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        raise error("io", f"{path} is no checkpoint: {cause}") from cause
    if written not in _READABLE:
        readable = f"{', '.join(map(str, _READABLE[:-1]))} and {_READABLE[-1]}"
        raise error("io", f"{path} has format {written}; this version reads {readable}")
    keys = _KEYS | ({"extra": dict} if written < 4 else {"saved": int})
    if missing := keys.keys() - latest.keys():
        raise error("io", f"{path} is no checkpoint: it lacks {', '.join(sorted(missing))}")
    for key, kind in keys.items():
        if type(latest[key]) is not kind:
            raise error("io", f"{path} is damaged: '{key}' is {latest[key]!r:.40}")
        if kind is int and not 0 <= latest[key] < 2**63:
            raise error("io", f"{path} is damaged: '{key}' is {latest[key]}")
    groups = latest["param_groups"]
    if not all(isinstance(group, dict) and "params" not in group for group in groups):
        raise error("io", f"{path} is damaged: 'param_groups' holds something else than settings")
    return latest


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
