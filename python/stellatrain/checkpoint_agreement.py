"""Members that save or load together: all of them go on, or all of them raise the same."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stellatrain.errors import Error, error

if TYPE_CHECKING:
    from stellatrain.run import Run


def agree(run: Run, what: str, **mine: Any) -> None:
    """Raises Error("mismatch") that names the other member unless everybody has the same values."""
    raw = run.session.all_gather(what, json.dumps(mine).encode())
    for rank, theirs in enumerate(map(json.loads, raw)):
        for key, value in mine.items():
            if theirs[key] != value:
                until_all_heard(run, what)
                raise error(
                    "mismatch",
                    f"{what}: {key} is {value} here, {theirs[key]} on {run.describe(rank)}; every member "
                    f"must call {what}() at the same step, on the same checkpoint",
                )


def together(run: Run, what: str, work: Callable[[], None]) -> None:
    """Runs `work` on every member; what goes wrong on one is an Error on all that names it."""
    failure: Exception | None = None
    try:
        work()
    except Exception as cause:  # whatever it was, the others must not wait for this member
        failure = cause
    code = failure.code if isinstance(failure, Error) else "io"  # another exception's .code is none of ours
    mine = b"" if failure is None else json.dumps([code, str(failure)]).encode()
    outcomes = run.session.all_gather(what, mine)
    if any(outcomes):
        until_all_heard(run, what)
    for rank, text in enumerate(outcomes):
        if text:
            code, sentence = json.loads(text)
            cause = None if isinstance(failure, Error) else failure  # ours is in the sentence already
            raise error(code, f"{what}: {run.describe(rank)} could not do its part: {sentence}") from cause


def until_all_heard(run: Run, what: str) -> None:
    """Before every member raises what all have just been told.

    The farewell of one that ends sooner overtakes its message, and would hide the cause from the others.
    """
    with contextlib.suppress(Error):
        run.session.all_gather(f"{what} failed", b"")
