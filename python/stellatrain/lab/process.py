"""One member's command, a process that can be signalled and awaited from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# What is stopped takes none of these but SIGKILL until it goes on.
_ENDING = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_WAITER = str(Path(__file__).with_name("waiter.py"))


class MemberProcess(subprocess.Popen):
    """A `subprocess.Popen` of `command`, whose signals reach its whole process group.

    enter: the command that runs another one inside, which leaves itself outside (a process namespace is
        entered by children only). There, waiter.py waits for `command` and ends as it ends, by the same
        signal, with the same status: so `wait`, `poll` and `returncode` are the command's.

    It runs once this returns, with the present working directory; what could not enter has ended then.
    """

    def __init__(self, enter: Sequence[str], command: Sequence[str], **options: Any) -> None:
        reading, writing = os.pipe()
        waiter = [sys.executable, "-IS", _WAITER, str(writing), os.getcwd()]
        with os.fdopen(reading, "rb") as told:
            try:
                super().__init__([*enter, *waiter, *command], pass_fds=(writing,), **options)
            finally:
                os.close(writing)
            leader = told.read()
        self._leader = int(leader) if leader else None

    def send_signal(self, sig: int) -> None:
        if self.poll() is not None or self._leader is None:  # the latter: it is about to end
            return
        with contextlib.suppress(ProcessLookupError):  # the command has just ended
            os.killpg(self._leader, sig)
            if sig in _ENDING:
                os.killpg(self._leader, signal.SIGCONT)


def shell_status(returncode: int) -> int:
    """Returns what a shell would report: 128 + n for a process ended by signal n."""
    return returncode if returncode >= 0 else 128 - returncode
