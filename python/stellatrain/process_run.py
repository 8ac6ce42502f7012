"""The process's one default run, for scripts: stellatrain.init(), distribute(), ..."""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
from pathlib import Path
from typing import Any

import torch

from stellatrain.environment import Membership
from stellatrain.errors import error, sentence_of
from stellatrain.run import Run

log = logging.getLogger("stellatrain")

_run: Run | None = None


def init(who: Membership | None = None) -> Run:
    """Joins the run that the environment describes (torchrun, Slurm, or STELLA_*: docs/environment.md).

    With one member and no environment this process trains alone, so one script serves laptop and fleet.
    Raises Error("configuration") for what is missing, Error("timeout") that names who did not come.
    """
    global _run
    if _run is not None and _run._session is not None:
        raise error(
            "invalid_argument",
            "init() was called before; call finish() first, or make a Run of your own",
        )
    _run = Run(who)
    return _run


def default_run() -> Run:
    """The run of init()."""
    if _run is None:
        raise error("invalid_argument", "call stellatrain.init() first")
    return _run


def distribute(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, **options: Any
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """See Run.distribute."""
    return default_run().distribute(model, optimizer, **options)


def rank() -> int:
    """This member's place, 0 to world_size() - 1."""
    return default_run().rank


def world_size() -> int:
    """How many members take part."""
    return default_run().world_size


def save(directory: str | Path, extra: dict[str, Any] | None = None) -> None:
    """See Run.save."""
    default_run().save(directory, extra)


def load(directory: str | Path, missing_ok: bool = False) -> dict[str, Any] | None:
    """See Run.load."""
    return default_run().load(directory, missing_ok)


def consensus() -> contextlib.AbstractContextManager[None]:
    """See Run.consensus."""
    return default_run().consensus()


def stats() -> dict[str, float]:
    """See Run.stats."""
    return default_run().stats()


def mean(value: float, samples: float = 1) -> float:
    """See Run.mean."""
    return default_run().mean(value, samples)


def finish() -> None:
    """See Run.finish."""
    default_run().finish()


@atexit.register
def _close_at_exit() -> None:
    if _run is None:
        return
    failure = getattr(sys, "last_value", None)  # what ended the script, if something did
    if failure is None and _run._ends_unfinished():
        log.warning(
            "the script ended without stellatrain.finish(), which applies the last updates and averages "
            "buffers: members may differ; call it at the end of the script"
        )
    _run.close("its script ended without finish()" if failure is None else sentence_of(failure))
