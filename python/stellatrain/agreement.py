"""Members that do something together: all of them go on, or all of them raise the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stellatrain.errors import Error, error, sentence_of
from stellatrain.messages import exchanged, require

if TYPE_CHECKING:
    from stellatrain.run import Run


def agree(run: Run, what: str, mine: dict[str, Any], rule: str) -> None:
    """Raises Error("mismatch") that names the first key of `mine` for which another member has another value.

    rule: what the members have to do so that it is the same; part of the sentence.
    """
    raw = exchanged(run.session, what, mine, lambda theirs: require(isinstance(theirs, dict), "an object"))
    for rank, theirs in enumerate(raw):
        for key in mine | theirs:
            here, there = (values.get(key, "nothing") for values in (mine, theirs))
            if here != there:
                until_all_heard(run, what)
                raise error(
                    "mismatch", f"{what}: {key} is {here} here, {there} on {run.describe(rank)}; {rule}"
                )


def together(
    run: Run,
    what: str,
    work: Callable[[], Any],
    check: Callable[[Any], object] = lambda _: None,
    undo: Callable[[], object] = lambda: None,
) -> list[Any]:
    """Runs `work` on every member; what goes wrong on one is an Error on all that names it.

    Returns what `work` returned, by rank: JSON. check: as for exchanged(). undo: called on every member when
    one could not do its part, and never when all did.
    """

    def check_outcome(outcome: Any) -> None:
        require(isinstance(outcome, dict) and len(outcome) == 1, "an object with one key")
        if "done" in outcome:
            check(outcome["done"])
        else:
            require(isinstance(outcome["failed"], list), "a code and a sentence")
            code, sentence = outcome["failed"]
            require(isinstance(code, str) and isinstance(sentence, str), "a code and a sentence")

    failure: Exception | None = None
    result = None
    try:
        result = work()
    except Exception as cause:  # whatever it was, the others must not wait for this member
        failure = cause
    code = failure.code if isinstance(failure, Error) else "io"  # another exception's .code is none of ours
    mine = {"done": result} if failure is None else {"failed": [code, _told(failure)]}
    outcomes = exchanged(run.session, what, mine, check_outcome)
    if any("failed" in outcome for outcome in outcomes):
        undo()
        until_all_heard(run, what)
    for rank, outcome in enumerate(outcomes):
        if "failed" in outcome:
            code, sentence = outcome["failed"]
            cause = None if isinstance(failure, Error) else failure  # ours is in the sentence already
            sentence = sentence.removeprefix(f"{what}: ")  # as an Error that names the call itself has it
            raise error(code, f"{what}: {run.describe(rank)} could not do its part: {sentence}") from cause
    return [outcome["done"] for outcome in outcomes]


def _told(failure: Exception) -> str:
    """What the others read of it: an Error and the system's errors are sentences without their type."""
    sentence = str(failure) if isinstance(failure, (Error, OSError)) else ""
    return sentence or sentence_of(failure)


def until_all_heard(run: Run, what: str) -> None:
    """Before every member raises what all have just been told.

    The farewell of one that ends sooner overtakes its message, and would hide the cause from the others.
    """
    with contextlib.suppress(Error):
        run.session.all_gather(f"{what} failed", b"")
