"""Raising `stellatrain.Error` from Python, as the core does."""

from __future__ import annotations

import math
from typing import Any

from stellatrain._core import Error


def error(code: str, sentence: str) -> Error:
    """An Error with a code of include/stella/error.hpp ("configuration", "mismatch", ...)."""
    made = Error(sentence)
    made.code = code
    return made


def number(value: Any, name: str) -> float:
    """As a float; Error("invalid_argument") that names the argument if it is none."""
    try:
        shape = tuple(getattr(value, "shape", ()))
        if math.prod(shape) == 1:
            return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as cause:  # the last: complex tensors
        raise error("invalid_argument", f"{name} is {value!r}; it must be one number") from cause
    raise error("invalid_argument", f"{name} has the shape {shape}; it must be one number")
