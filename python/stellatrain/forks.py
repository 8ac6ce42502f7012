"""A child that a member forks (a DataLoader's worker, os.fork()) takes no part in the run.

It has copies of the parent's sessions and engines, but not their threads: a destructor that joins them would
wait for ever. So each of them registers here, and in a child goes without its destructor, whatever holds it
there: the frames of an exception do, too, long after its owner has given it up. The owners drop theirs. The
child's own atexit hooks of Python run as ever; static destructors of C++ do not.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, TypeVar

from stellatrain import _core

NO_MEMBER = "this process was forked from a member; only that one takes part in the run"

Threaded = TypeVar("Threaded", _core.Session, _core.Engine)

_threaded: weakref.WeakSet[Any] = weakref.WeakSet()
_owners: weakref.WeakSet[Any] = weakref.WeakSet()


def of_this_process(instance: Threaded) -> Threaded:
    """Returns it; in every child that this process forks while it exists, it has no destructor."""
    _threaded.add(instance)
    return instance


def forget_in_child(owner: Any) -> None:
    """owner.forget() will be called in every child that this process forks while `owner` exists."""
    _owners.add(owner)


def _after_fork_in_child() -> None:
    _core.skip_static_destructors()  # whether a run is under way or over
    for instance in list(_threaded):
        _core.forget(instance)
    for owner in list(_owners):
        owner.forget()
    _threaded.clear()
    _owners.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
