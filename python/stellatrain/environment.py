"""What a member learns from its environment. The table of all variables is docs/environment.md.

A variable that is set wins over the script's argument, so that a run can be tuned without editing the script.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from stellatrain.errors import error, shown

log = logging.getLogger("stellatrain")


@dataclass(frozen=True)
class Membership:
    """Who this member is and how it finds the others."""

    rank: int = 0
    world_size: int = 1
    name: str = ""
    cluster: str = ""
    host: str = ""  # address to announce; empty: found out
    port: int = 0  # to listen on; 0: any free one
    coordinator: str = ""  # host:port of member 0; empty: torch's store at MASTER_ADDR:MASTER_PORT
    secret_file: str = ""
    secret: str = field(default="", repr=False)
    join_timeout: float = 120.0  # seconds
    peer_timeout: float = 10.0  # seconds of silence after which a member is lost


_KINDS = {str: "text", int: "a whole number", float: "a number"}
_TYPES = {str: str, int: Integral, float: Real}


def _one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in names, ", ".join(names[:-1]) + " or " * (len(names) > 1) + names[-1]


_MOST_NAME = 64  # bytes of UTF-8, of docs/wire.md, "Hello"
_NAME = (
    lambda value: value.isprintable() and len(value.encode()) <= _MOST_NAME,
    f"at most {_MOST_NAME} bytes of UTF-8, all of them printable",
)

# What each value may be. NaN is never it.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "rule": _one_of("sparse", "local"),
    "wire": _one_of("fp32", "bf16", "int8", "int4", "int2", "int1", "signs", "auto"),
    "selector": _one_of("blocks", "threshold", "random"),
    "name": _NAME,
    "cluster": _NAME,
    "world_size": (lambda value: value <= 65_536, "at most 65536"),
    "join_timeout": (lambda value: 0.001 <= value <= 1e8, "at least 0.001 and at most 1e8"),
    "peer_timeout": (lambda value: 0.01 <= value <= 1e8, "at least 0.01 and at most 1e8"),
    "density": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "staleness": (lambda value: value in (0, 1), "0 or 1"),
    "block": (lambda value: value in (16, 32, 64), "16, 32 or 64"),
    "bucket_mib": (lambda value: 1 / 256 <= value <= 32, "at least 1/256 (4 KiB) and at most 32"),
    "threads": (lambda value: 0 <= value <= 256, "at least 0 and at most 256"),
    "step_timeout": (lambda value: 0.001 <= value <= 1e8, "at least 0.001 and at most 1e8"),
    "pull": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "max_drift": (lambda value: 0.001 <= value <= 1e8, "at least 0.001 and at most 1e8"),
}


_VARIABLES = {
    f"STELLA_{name}"
    for name in (
        *("RANK", "WORLD_SIZE", "MEMBER", "CLUSTER", "SECRET_FILE", "SECRET", "COORDINATOR", "PORT", "HOST"),
        *("JOIN_TIMEOUT", "PEER_TIMEOUT", "RULE", "DENSITY", "STALENESS", "WIRE", "SELECTOR", "BLOCK"),
        *("BUCKET_MIB", "THREADS", "STEP_TIMEOUT", "MAX_DRIFT", "PULL", "LOG", "CPU"),
    )
}


_PREFIX = re.compile(r"(STELLA_TRAIN|STELLATRAIN|STELLA|STELA)_(?=.)", re.IGNORECASE)


def warn_of_misspelt_variables(env: Mapping[str, str] = os.environ) -> None:
    """A variable that is nearly one of ours would be ignored in silence.

    Said through logging: many scripts ignore Python's warnings, all of them.
    """
    for name in sorted(name for name in env if name not in _VARIABLES and _PREFIX.match(name)):
        likely = _PREFIX.sub("STELLA_", name.upper(), count=1)
        if meant := difflib.get_close_matches(likely, _VARIABLES, n=1, cutoff=0.84):
            log.warning("%s is set, but means nothing; %s does", name, meant[0])


def _first(env: Mapping[str, str], *names: str) -> tuple[str, str] | None:
    return next(((name, env[name]) for name in names if env.get(name)), None)


def _number(kind: type, name: str, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise error("configuration", f"{name} is '{text}'; it must be {_KINDS[kind]}") from None


def _checked(name: str, value: Any, code: str, said: str) -> Any:
    holds, sentence = _RULES.get(name, (None, ""))
    if holds is not None and not holds(value):
        raise error(code, f"{said}; it must be {sentence}")
    return value


def membership(env: Mapping[str, str] = os.environ) -> Membership:
    """Reads STELLA_*, torchrun's and Slurm's variables, in this order of precedence.

    Raises Error("configuration") that names the variable.
    """
    values: dict[str, Any] = {}
    numbers = {
        "rank": (int, ("STELLA_RANK", "RANK", "SLURM_PROCID")),
        "world_size": (int, ("STELLA_WORLD_SIZE", "WORLD_SIZE", "SLURM_NTASKS")),
        "port": (int, ("STELLA_PORT",)),
        "join_timeout": (float, ("STELLA_JOIN_TIMEOUT",)),
        "peer_timeout": (float, ("STELLA_PEER_TIMEOUT",)),
    }
    for name, (kind, names) in numbers.items():
        if found := _first(env, *names):
            variable, text = found
            value = _number(kind, variable, text)
            values[name] = _checked(name, value, "configuration", f"{variable} is '{text}'")
    texts = {
        "name": "STELLA_MEMBER",
        "cluster": "STELLA_CLUSTER",
        "host": "STELLA_HOST",
        "coordinator": "STELLA_COORDINATOR",
        "secret_file": "STELLA_SECRET_FILE",
        "secret": "STELLA_SECRET",
    }
    for name, variable in texts.items():
        if text := env.get(variable):
            values[name] = _checked(name, text, "configuration", f"{variable} is {shown(text)}")
    found = Membership(**values)
    if found.world_size > 1 and "rank" not in values:
        raise error(
            "configuration",
            f"this run has {found.world_size} members, but RANK is not set; give each member its own, from 0 "
            f"to {found.world_size - 1} (torchrun does), or set STELLA_RANK",
        )
    if not 0 <= found.rank < found.world_size:
        raise error(
            "configuration",
            f"{_no_rank(found)}; set RANK and WORLD_SIZE (torchrun does), or STELLA_RANK and "
            "STELLA_WORLD_SIZE",
        )
    _check_place(found, "configuration", "STELLA_COORDINATOR", "STELLA_PORT")
    return found


def checked(who: Any) -> Membership:
    """A script's own Membership. Error("invalid_argument") that names what it cannot be."""
    if not isinstance(who, Membership):
        # Not its value: that may hold the secret.
        raise error(
            "invalid_argument", f"who is something of type {type(who).__name__}; it must be a Membership"
        )
    for part in fields(Membership):
        value, kind = getattr(who, part.name), type(part.default)
        said = f"{part.name} is {shown(value) if part.repr else f'something of type {type(value).__name__}'}"
        if not isinstance(value, _TYPES[kind]):
            raise error("invalid_argument", f"{said}; it must be {_KINDS[kind]}")
        _checked(part.name, value, "invalid_argument", said)
    if not 0 <= who.rank < who.world_size:
        raise error("invalid_argument", _no_rank(who))
    _check_place(who, "invalid_argument", "coordinator", "port")
    return who


def _no_rank(who: Membership) -> str:
    return f"rank {who.rank} does not exist in a world of {who.world_size} (ranks 0 to world size - 1)"


def _check_place(found: Membership, code: str, coordinator: str, port: str) -> None:
    """coordinator, port: what the user calls them."""
    if not 0 <= found.port < 65536:
        raise error(code, f"{port} is {found.port}; it must lie between 0 and 65535")
    if found.coordinator and found.world_size > 1:
        _check_coordinator(found, code, f"{coordinator} is '{found.coordinator}'", port)


def _check_coordinator(found: Membership, code: str, text: str, own_port: str) -> None:
    """Every member's own mistakes, before anybody waits for anybody."""
    host, _, port = found.coordinator.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host.replace(":", "[")
    if not bare or "[" in bare or "]" in bare or not port.isdecimal() or not 0 < int(port) < 65536:
        raise error(
            code,
            f"{text}; it must be host:port of member 0, as in 198.51.100.7:29400 or [2001:db8::7]:29400",
        )
    if found.rank != 0 or found.port == int(port):
        return
    if found.port == 0:
        raise error(
            code,
            f"{text}, but {own_port} is not set on member 0, which would listen on any port; set "
            f"{own_port}={int(port)} there",
        )
    log.warning("%s, but member 0 listens on %s %d: is that port forwarded?", text, own_port, found.port)


def tuned(name: str, kind: type, argument: Any, env: Mapping[str, str] = os.environ) -> Any:
    """The value of an option of distribute(): STELLA_<NAME> if it is set, else the script's argument.

    Raises Error("configuration") that names the variable, Error("invalid_argument") that names the argument.
    """
    variable = f"STELLA_{name.upper()}"
    text = env.get(variable)
    if not text:
        if not isinstance(argument, _TYPES[kind]):
            raise error("invalid_argument", f"{name} is {argument!r}; it must be {_KINDS[kind]}")
        said = repr(argument) if kind is str else argument
        return _checked(name, argument, "invalid_argument", f"{name} is {said}")
    return _checked(name, _number(kind, variable, text), "configuration", f"{variable} is '{text}'")
