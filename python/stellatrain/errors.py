"""Raising `stellatrain.Error` from Python, as the core does."""

from __future__ import annotations

import math
import traceback
from numbers import Complex, Integral, Real
from typing import Any

import torch

from stellatrain._core import Error

_ACCELERATOR_ERROR = getattr(torch, "AcceleratorError", ())  # torch 2.8 and later
_SHOWN = 60  # characters of a value in a sentence


def error(code: str, sentence: str) -> Error:
    """An Error with a code of include/stella/error.hpp ("configuration", "mismatch", ...)."""
    made = Error(sentence)
    made.code = code
    return made


def sentence_of(failure: BaseException) -> str:
    """The last line of a traceback: "ValueError: this and that"; whatever is in it, UTF-8 can hold it."""
    sentence = "".join(traceback.format_exception_only(failure)).strip()
    return sentence.encode("utf-8", "replace").decode()


def shown(value: Any) -> str:
    """`value` as Python writes it, with its middle left out where that is long."""
    try:
        text = repr(value)
    except Exception:  # whatever a value raises; an int of more than 4300 digits does
        return f"something of type {type(value).__name__}"
    half = _SHOWN // 2
    return text if len(text) <= _SHOWN else f"{text[:half]}...{text[-half:]}"


STEP_IN_CONSENSUS = (
    "optimizer.step() inside `with consensus()` would train the weights of all; leave it first"
)


def number(value: Any, name: str) -> float:
    """As a float; Error("invalid_argument") that names the argument if it is none: text is none.

    What a GPU did wrong before, which shows when a tensor is read, is torch's error as it is.
    """
    try:
        shape = tuple(getattr(value, "shape", ()))
        if math.prod(shape) == 1:
            return _as_float(value)
    except OverflowError as cause:
        raise error(
            "invalid_argument",
            f"{name} is {shown(value)}; it must be one number, and small enough for a float",
        ) from cause
    except _ACCELERATOR_ERROR:
        raise
    except Exception as cause:  # whatever a value raises that is made a number
        raise error("invalid_argument", f"{name} is {shown(value)}; it must be one number") from cause
    raise error("invalid_argument", f"{name} has the shape {shape}; it must be one number")


def whole(value: Any, name: str, least: int) -> int:
    """As an int of at most 2^62; Error("invalid_argument") that names the argument if it is none."""
    if not isinstance(value, Integral) or not least <= value <= 1 << 62:
        raise error(
            "invalid_argument",
            f"{name} is {shown(value)}; it must be a whole number, at least {least} and at most 2^62",
        )
    return int(value)


def flag(value: Any, name: str) -> bool:
    """As it is; Error("invalid_argument") that names the argument if it is neither True nor False."""
    if not isinstance(value, bool):
        raise error("invalid_argument", f"{name} is {shown(value)}; it must be True or False")
    return value


def _as_float(value: Any) -> float:
    # A tensor's, without torch's warning where it requires a gradient; numpy's, still complex if it is that.
    scalar = value.item() if callable(getattr(value, "item", None)) else value
    if isinstance(scalar, Complex) and not isinstance(scalar, Real):
        raise TypeError(f"{type(scalar).__name__} is complex")
    return math.ldexp(scalar, 0)  # unlike float(), it reads no text
