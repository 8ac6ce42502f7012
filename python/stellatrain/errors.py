"""Raising `stellatrain.Error` from Python, as the core does."""

from __future__ import annotations

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
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # torch: more than one element
        text = type(value).__name__ if hasattr(value, "shape") else repr(value)
        raise error("invalid_argument", f"{name} is {text}; it must be one number") from None
