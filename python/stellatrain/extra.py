"""What the caller of save() gives along, as JSON and back without a change.

JSON has neither dictionaries with other keys than strings nor tuples, and json.dumps() silently makes other
things of them. Here they travel as an object with the one key "$stella": [kind, content], where kind is

    dict, Counter   [[key, value], ...]; any dictionary that holds the key "$stella" itself travels so too
    tuple           [value, ...]

Everything else is the JSON that one expects. The page for users is docs/checkpoints.md, "What extra holds".
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from typing import Any

import torch

from stellatrain.errors import error

_MARK = "$stella"
_SCALARS = (type(None), bool, int, float, str)
_DICTIONARIES = (dict, OrderedDict, Counter)
_DEEPEST = 100  # levels; json.loads() follows some hundreds


def to_tensor(extra: dict[str, Any]) -> torch.Tensor:
    """The JSON as bytes, which a safetensors file holds as they are, however many.

    Raises Error("invalid_argument") as to_json().
    """
    if not isinstance(extra, dict):
        raise error("invalid_argument", f"save: extra is a {_kind(extra)}; it must be a dict")
    try:
        text = json.dumps(to_json(extra)).encode()
    except ValueError as cause:  # an int of some thousand digits
        raise error("invalid_argument", f"save: extra cannot be written as JSON: {cause}") from cause
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def from_tensor(content: torch.Tensor) -> dict[str, Any]:
    """The reverse. Raises ValueError for what to_tensor() never returns."""
    try:
        extra = from_json(json.loads(content.numpy().tobytes()))
    except RecursionError as cause:
        raise ValueError("it is nested too deep") from cause
    if not isinstance(extra, dict):
        raise ValueError(f"it is a {_kind(extra)} and no dict")
    return extra


def to_json(value: Any, path: str = "extra", depth: int = 0) -> Any:
    """What json.dumps() writes without a change, and from_json() makes `value` of again.

    Raises Error("invalid_argument") with the path of what cannot be kept: "extra['scheduler']['best']".
    """
    kind = type(value)  # exactly: whatever is derived from these would come back as one of them
    if kind in _SCALARS:
        return value
    if depth == _DEEPEST:
        raise _refused(path, f"it is nested deeper than {_DEEPEST} levels")
    if kind in (list, tuple):
        values = [to_json(each, f"{path}[{i}]", depth + 1) for i, each in enumerate(value)]
        return {_MARK: ["tuple", values]} if kind is tuple else values
    if kind not in _DICTIONARIES:
        raise _refused(path, f"it is a {_kind(value)}")
    for key in value:
        _check_key(key, path)
    items = [(key, to_json(each, f"{path}[{key!r}]", depth + 1)) for key, each in value.items()]
    if kind is Counter:
        return {_MARK: ["Counter", [[to_json(key), each] for key, each in items]]}
    if _MARK in value or not all(type(key) is str for key in value):
        return {_MARK: ["dict", [[to_json(key), each] for key, each in items]]}
    return dict(items)


def from_json(value: Any) -> Any:
    """The reverse. Raises ValueError for what to_json() never returns."""
    if isinstance(value, list):
        return [from_json(each) for each in value]
    if not isinstance(value, dict):
        return value
    if _MARK not in value:
        return {key: from_json(each) for key, each in value.items()}
    try:
        ((kind, content),) = value.values()
        if kind == "tuple":
            return tuple(from_json(each) for each in content)
        items = {from_json(key): from_json(each) for key, each in content}
        return {"dict": dict, "Counter": Counter}[kind](items)
    except (KeyError, TypeError, ValueError) as cause:
        raise ValueError(f"what it holds under '{_MARK}' is nothing that save() writes: {cause}") from cause


def _check_key(key: Any, path: str) -> None:
    if type(key) is tuple:
        for each in key:
            _check_key(each, path)
    elif type(key) not in _SCALARS:
        raise _refused(path, f"its key {key!r} is a {_kind(key)}")
    elif key != key:
        raise _refused(path, "its key nan would not be found again")


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _refused(path: str, why: str) -> Exception:
    return error(
        "invalid_argument",
        f"save: {path} cannot be kept: {why}. extra holds None, bool, int, float, str, and lists, tuples, "
        "dicts and Counters of them, and no types derived from these: make such values of it (.item(), "
        ".tolist(), int(), dict()), or a file of its own",
    )
