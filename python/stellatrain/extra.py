"""What the caller of save() gives along, as JSON and back without a change.

JSON has neither dictionaries with other keys than strings nor tuples, and json.dumps() silently makes other
things of them. Here they travel as an object with the one key "$stella": [kind, content], where kind is

    dict, Counter   [[key, value], ...]; any dictionary that holds the key "$stella" itself travels so too
    tuple           [value, ...]

Everything else is the JSON that one expects. The page for users is docs/checkpoints.md, "What extra holds".
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from stellatrain.errors import error

_MARK = "$stella"
_DEEPEST = 100  # levels; json.loads() follows some hundreds


def to_json(value: Any, path: str = "extra", depth: int = 0) -> Any:
    """What json.dumps() writes without a change, and from_json() makes `value` of again.

    Raises Error("invalid_argument") with the path of what cannot be kept: "extra['scheduler']['best']".
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if depth == _DEEPEST:
        raise _refused(path, f"it is nested deeper than {_DEEPEST} levels")
    if isinstance(value, list | tuple):
        values = [to_json(each, f"{path}[{i}]", depth + 1) for i, each in enumerate(value)]
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            raise _refused(path, f"a {type(value).__qualname__} would come back as a plain tuple")
        return {_MARK: ["tuple", values]} if isinstance(value, tuple) else values
    if not isinstance(value, dict):
        raise _refused(path, f"it is a {type(value).__module__}.{type(value).__qualname__}")
    for key in value:
        _check_key(key, path)
    items = [(key, to_json(each, f"{path}[{key!r}]", depth + 1)) for key, each in value.items()]
    if isinstance(value, Counter):
        return {_MARK: ["Counter", [[to_json(key), each] for key, each in items]]}
    if _MARK in value or not all(isinstance(key, str) for key in value):
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
    if isinstance(key, tuple):
        for each in key:
            _check_key(each, path)
    elif not (key is None or isinstance(key, bool | int | float | str)):
        kind = f"{type(key).__module__}.{type(key).__qualname__}"
        raise _refused(path, f"its key {key!r} is a {kind}")
    elif isinstance(key, float) and math.isnan(key):
        raise _refused(path, "its key nan would not be found again")


def _refused(path: str, why: str) -> Exception:
    return error(
        "invalid_argument",
        f"save: {path} cannot be kept: {why}. extra holds None, bool, int, float, str, and lists, tuples, "
        "dicts and Counters of them: make such values of it (.item(), .tolist()), or a file of its own",
    )
