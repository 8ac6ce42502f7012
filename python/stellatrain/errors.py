"""Raising `stellatrain.Error` from Python, as the core does."""

from __future__ import annotations

import math
from numbers import Complex, Real
from typing import Any

from stellatrain._core import Error

_SHOWN = 60  # characters of a value in a sentence


def error(code: str, sentence: str) -> Error:
    """An Error with a code of include/stella/error.hpp ("configuration", "mismatch", ...)."""
    made = Error(sentence)
    made.code = code
    return made


def shown(value: Any) -> str:
    """`value` as Python writes it, with its middle left out where that is long."""
    try:
        text = repr(value)
    except Exception:  # whatever a value raises; an int of more than 4300 digits does
        return f"something of type {type(value).__name__}"
    half = _SHOWN // 2
    return text if len(text) <= _SHOWN else f"{text[:half]}...{text[-half:]}"


def number(value: Any, name: str) -> float:
    """As a float; Error("invalid_argument") that names the argument if it is none: text is none."""
    try:
        shape = tuple(getattr(value, "shape", ()))
        if math.prod(shape) == 1:
            return _as_float(value)
    except OverflowError as cause:
        raise error(
            "invalid_argument",
            f"{name} is {shown(value)}; it must be one number, and small enough for a float",
        ) from cause
    except Exception as cause:  # whatever a value raises that is made a number
        raise error("invalid_argument", f"{name} is {shown(value)}; it must be one number") from cause
    raise error("invalid_argument", f"{name} has the shape {shape}; it must be one number")


def _as_float(value: Any) -> float:
    # A tensor's, without torch's warning where it requires a gradient; numpy's, still complex if it is that.
    scalar = value.item() if callable(getattr(value, "item", None)) else value
    if isinstance(scalar, Complex) and not isinstance(scalar, Real):
        raise TypeError(f"{type(scalar).__name__} is complex")
    return math.ldexp(scalar, 0)  # unlike float(), it reads no text
