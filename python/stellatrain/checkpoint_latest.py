"""latest.json: which checkpoint a directory holds, and which of several is the newest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stellatrain.agreement import together, until_all_heard
from stellatrain.errors import Error, error
from stellatrain.messages import exchanged, require

if TYPE_CHECKING:
    from stellatrain.run import Run

FORMAT = 6
RESTORE = "restore the directory from a copy, or start without it"  # what to do about damage
_DIGITS = 16  # of what no other save() has; more than a date and a time have
UNIQUE = f"[0-9a-f]{{{_DIGITS}}}"
NAME = f"[0-9]+-{UNIQUE}"  # of a checkpoint: iteration and that


@dataclass(frozen=True)
class Latest:
    """The content of latest.json, the same on all members."""

    name: str  # NAME
    saved: int  # member 0's clock at this save(), in nanoseconds since 1970
    iteration: int
    world_size: int
    optimizer: str
    param_groups: list[dict[str, Any]]  # member 0's, what JSON can hold of them
    sha256: dict[str, str]  # of every file of the checkpoint, by its name

    def model(self, directory: Path) -> Path:
        return directory / f"model-{self.name}.safetensors"

    def consensus(self, directory: Path) -> Path:
        return directory / f"consensus-{self.name}.safetensors"

    def member(self, directory: Path, rank: int) -> Path:
        return directory / f"member-{rank}-{self.name}.safetensors"

    def content(self) -> bytes:
        values = asdict(self)
        whole = {"format": FORMAT, "sha256_of_the_rest": _sha256(values), **values}
        return json.dumps(whole, indent=1).encode()


def _sha256(values: dict[str, Any]) -> str:
    """Of what latest.json says: a changed digit is damage, not another checkpoint."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


_KINDS = {
    "name": str,
    "saved": int,
    "iteration": int,
    "world_size": int,
    "optimizer": str,
    "param_groups": list,
    "sha256": dict,
}


def begun(run: Run, iteration: int) -> Latest:
    """What a save() of this moment is called. The hashes come when the files are written. Collective.

    Raises Error("mismatch") on every member if one's settings are not member 0's (src/optim/settings.hpp).
    """

    def check(message: Any) -> None:
        saved, unique, groups = message
        require(type(saved) is int and 0 <= saved < 2**63, "a time")
        require(isinstance(unique, str) and re.fullmatch(UNIQUE, unique), "hexadecimal digits")
        require(isinstance(groups, list) and all(isinstance(group, dict) for group in groups), "settings")

    optimizer = run.optimizer
    unique = uuid.uuid4().hex[-_DIGITS:]
    own: list[dict[str, Any]] = []

    def collect() -> None:
        for i, group in enumerate(optimizer.param_groups):
            with _naming_group(i):
                own.append(_numbers(group))

    together(run, "save", collect)
    mine = [time.time_ns(), unique, own]
    saved, unique, groups = exchanged(run.session, "checkpoint name", mine, check)[0]

    def compare() -> None:
        for i, (group, numbers) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
            with _naming_group(i):
                optimizer.check_settings(group)  # or load() would refuse them
            try:
                difference = optimizer.difference(group, numbers)
            except KeyError as key:
                raise error(
                    "invalid_argument",
                    f"param_groups[{i}][{key}] of {run.describe(0)} is nothing that a checkpoint can hold; "
                    "make it a number",
                ) from None
            if difference:
                raise error(
                    "mismatch",
                    f"param_groups[{i}]: {difference}, on {run.describe(0)}; set the same on every member",
                )

    together(run, "save", compare)
    return Latest(
        f"{iteration}-{unique}", saved, iteration, run.world_size, optimizer.name, groups, sha256={}
    )


def newest(run: Run, directory: Path, missing_ok: bool) -> tuple[Latest | None, str]:
    """This member's latest.json, or another's that was saved later; and a warning, or "". Collective.

    They differ where save() was interrupted between the two, when all files of the newer one were written
    everywhere, and where a machine was not in the last run. One that is damaged does not count while another
    member has one: a warning, to be told when nobody waits for this member.

    Raises Error("io") if no member has one that is whole. None if there is none anywhere and missing_ok, the
    same on all members.
    """
    path = directory / "latest.json"
    text: str | None = None
    missing = False
    failure: Error | None = None
    advice = ""
    try:
        text = path.read_text(encoding="utf-8")
        _parsed(text, str(path))
    except FileNotFoundError:
        missing = True
        failure = error(
            "io",
            f"there is no checkpoint in {directory}: it has no {path.name}; missing_ok=True starts "
            "without one",
        )
    except NotADirectoryError:
        failure = error("io", f"there is no {path}: {directory}, or what it lies in, is a file")
    except OSError as cause:
        failure = error("io", f"cannot read {path}: {cause.strerror or cause}")
    except Error as cause:
        text, failure, advice = None, cause, f"; {RESTORE}"
    except ValueError:
        failure, advice = error("io", f"{path} is damaged: it holds bytes that are no text"), f"; {RESTORE}"

    def check(message: Any) -> None:
        theirs, absent = message
        require(theirs is None or isinstance(theirs, str), "text or nothing")
        require(isinstance(absent, bool), "true or false")

    told = exchanged(run.session, "latest.json", [text, missing and missing_ok], check)
    if all(absent for _, absent in told):
        return None, ""
    found = {
        rank: _parsed(theirs, f"the latest.json of {run.describe(rank)}")
        for rank, (theirs, _) in enumerate(told)
        if theirs is not None
    }
    if not found:
        until_all_heard(run, "latest.json")
        raise error("io", f"load: {run.describe(run.rank)}: {failure}{advice}")
    first = max(found, key=lambda rank: (found[rank].saved, found[rank].name))
    damaged = text is None and not missing
    return found[first], f"{failure}; going on with that of {run.describe(first)}" if damaged else ""


def name_in(path: Path) -> str | None:
    """The checkpoint that the latest.json at `path` names now; "" if it is not there.

    None if it cannot be read: it may name any.
    """
    try:
        return _parsed(path.read_text(), str(path)).name
    except FileNotFoundError:
        return None if path.is_symlink() else ""
    except (OSError, ValueError, Error):
        return None


def names_in_use(run: Run, directory: Path) -> set[str] | None:
    """The checkpoints that the members' latest.json name. Collective.

    None if one's cannot be read: it may name any.
    """

    def check(name: Any) -> None:
        require(name is None or isinstance(name, str), "a name or nothing")

    told = exchanged(run.session, "checkpoint in use", name_in(directory / "latest.json"), check)
    return None if None in told else set(told)


def _parsed(content: str, path: str) -> Latest:
    """path: where it is from, for the Error("io") if it is no latest.json that this version reads."""
    if not content.strip():
        raise error("io", f"{path} is damaged: it is empty")
    try:
        latest = json.loads(content)
    except (ValueError, RecursionError) as cause:
        raise error("io", f"{path} is damaged: it is no JSON, or not all of it is there") from cause
    if not isinstance(latest, dict) or "format" not in latest:
        raise error("io", f"{path} is damaged: it does not say which format of checkpoints it has")
    written = latest.pop("format")
    sha256 = latest.pop("sha256_of_the_rest", None)
    if written != FORMAT:
        raise error("io", f"{path} has format {written!r:.40}; this version reads {FORMAT}")
    try:
        found = _sha256(latest)
    except (ValueError, RecursionError):
        found = ""
    if sha256 != found:
        raise error("io", f"{path} is damaged: its values are not those that save() wrote")
    if missing := _KINDS.keys() - latest.keys():
        raise error("io", f"{path} is no checkpoint: it lacks {', '.join(sorted(missing))}")
    if unknown := latest.keys() - _KINDS.keys():
        raise error("io", f"{path} is damaged: it holds '{min(unknown)}', which no save() writes")
    for key, kind in _KINDS.items():
        good = type(latest[key]) is kind and (kind is not int or 0 <= latest[key] < 2**63)
        if not good:
            raise error("io", f"{path} is damaged: '{key}' is {latest[key]!r:.40}")
    if not re.fullmatch(f"{latest['iteration']}-{UNIQUE}", latest["name"]):
        raise error("io", f"{path} is damaged: 'name' is {latest['name']!r:.40}")
    groups = latest["param_groups"]
    if not all(isinstance(group, dict) and "params" not in group for group in groups):
        raise error("io", f"{path} is damaged: 'param_groups' holds something else than settings")
    return Latest(**latest)


@contextlib.contextmanager
def _naming_group(i: int) -> Iterator[None]:
    """Puts the param_group before the sentence of what is wrong with it."""
    try:
        yield
    except Error as failure:
        raise error(failure.code, f"param_groups[{i}]: {failure}") from None
    except KeyError as key:
        raise error("invalid_argument", f"param_groups[{i}] has no {key}") from key
    except Exception as failure:  # whatever a value raises that is made a number
        raise error("invalid_argument", f"param_groups[{i}]: {failure}") from failure


def _numbers(group: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a param_group that JSON can hold."""
    kept = {}
    for key, value in group.items():
        if not isinstance(key, str):
            continue
        if callable(getattr(value, "item", None)):  # a tensor, or one of numpy's numbers
            with contextlib.suppress(RuntimeError, ValueError, TypeError):  # of several elements
                value = value.item()
        if isinstance(value, bool | int | float | str) or value is None:
            kept[key] = value
        elif key == "betas":
            kept[key] = [float(beta) for beta in value]
    return kept
