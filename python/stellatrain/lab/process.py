"""One member's command, a process that can be signalled and awaited from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

# What is stopped takes none of these but SIGKILL until it goes on; nsenter stops with its command, and would
# not see it end.
_ENDING = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

_SETTLED = 5.0  # seconds until nsenter has stopped, or goes on: far more than it takes


class MemberProcess(subprocess.Popen):
    """A `subprocess.Popen` of nsenter whose signals reach the whole process group of the command.

    nsenter waits outside for the command inside and ends as it ends (by the same signal, with the
    same status), so `wait`, `poll` and `returncode` are the command's. It stops when the command
    stops, and when it goes on it makes the command go on: SIGSTOP and SIGCONT return when it has.
    """

    def send_signal(self, sig: int) -> None:
        if self.poll() is not None:
            return
        leader = self._leader()
        if leader is None:
            super().send_signal(sig)  # nsenter hasn't forked yet
        else:
            _signal_group(leader, sig)
            if sig in _ENDING:
                _signal_group(leader, signal.SIGCONT)
        if sig in (*_ENDING, signal.SIGCONT):
            super().send_signal(signal.SIGCONT)
        if sig == signal.SIGSTOP:
            self._settle("T")
            forked = self._leader()  # while it stopped
            if leader is None and forked is not None:
                _signal_group(forked, sig)
        elif sig == signal.SIGCONT:
            self._settle("S")  # it waits for the command again

    def _settle(self, state: str) -> None:
        """Returns when nsenter is in that state, or has ended."""
        deadline = time.monotonic() + _SETTLED
        while (now := self._state()) not in (state, "Z", "X") and time.monotonic() < deadline:
            if now == "T":  # it followed a stop of the command's own only now
                super().send_signal(signal.SIGCONT)
            time.sleep(0.001)

    def _state(self) -> str:
        """As /proc has it: "T" is stopped, "S" waits, "Z" and "X" have ended."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2][0]
        except (FileNotFoundError, ProcessLookupError):
            return "X"

    def _leader(self) -> int | None:
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except FileNotFoundError:
            return None
        return int(children[0]) if children else None


def _signal_group(leader: int, sig: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        try:
            os.killpg(leader, sig)
        except ProcessLookupError:
            os.kill(leader, sig)  # it leads no group of its own yet


def shell_status(returncode: int) -> int:
    """Returns what a shell would report: 128 + n for a process ended by signal n."""
    return returncode if returncode >= 0 else 128 - returncode
