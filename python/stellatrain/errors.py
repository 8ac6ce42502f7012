"""Raising `stellatrain.Error` from Python, as the core does."""

from __future__ import annotations

from stellatrain._core import Error


def error(code: str, sentence: str) -> Error:
    """An Error with a code of include/stella/error.hpp ("configuration", "mismatch", ...)."""
    made = Error(sentence)
    made.code = code
    return made
