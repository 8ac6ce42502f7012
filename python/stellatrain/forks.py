"""A child that a member forks (a DataLoader's worker, os.fork()) takes no part in the run.

It has copies of the parent's sessions and engines, but not their threads: a destructor that joins them would
wait for ever. So what owns one registers here, and in a child its forget() lets them go without destructors.
The child's own atexit hooks of Python run as ever; static destructors of C++ do not.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

from stellatrain import _core

NO_MEMBER = "this process was forked from a member; only that one takes part in the run"

_owners: weakref.WeakSet[Any] = weakref.WeakSet()


def forget_in_child(owner: Any) -> None:
    """owner.forget() will be called in every child that this process forks while `owner` exists."""
    _owners.add(owner)


def _after_fork_in_child() -> None:
    _core.skip_static_destructors()  # whether a run is under way or over
    for owner in list(_owners):
        owner.forget()
    _owners.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
