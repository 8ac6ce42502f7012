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

    `command` runs in the present working directory.
    """

    def __init__(self, enter: Sequence[str], command: Sequence[str], **options: Any) -> None:
        directory = os.getcwd()
        reading, writing = os.pipe()
        self._told = os.fdopen(reading, "rb")
        self._leader: int | None = None
        try:
            waiter = [sys.executable, "-IS", _WAITER, str(writing), directory]
            passed = (*options.pop("pass_fds", ()), writing)
            super().__init__([*enter, *waiter, *command], pass_fds=passed, **options)
        except BaseException:
            self._told.close()
            raise
        finally:
            os.close(writing)

    def send_signal(self, sig: int) -> None:
        """Once the command runs, for which this waits."""
        if self.poll() is not None:
            return
        leader = self._await_leader()
        if leader is None:  # the command never came to be, and the waiter is about to end
            return
        with contextlib.suppress(ProcessLookupError):  # the command has just ended
            os.killpg(leader, sig)
            if sig in _ENDING:
                os.killpg(leader, signal.SIGCONT)

    def _await_leader(self) -> int | None:
        if not self._told.closed:
            with self._told:
                if told := self._told.read():  # until the command runs
                    self._leader = int(told)
        return self._leader

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # one that never came to be
            self._told.close()
        super().__del__()


def shell_status(returncode: int) -> int:
    """Returns what a shell would report: 128 + n for a process ended by signal n."""
    return returncode if returncode >= 0 else 128 - returncode
