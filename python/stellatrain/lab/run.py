"""Waits for the members' commands, passes their output on, and ends them when one fails."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping

from stellatrain.lab.process import MemberProcess, shell_status

log = logging.getLogger("stellatrain.lab")

TIMED_OUT = 124  # as timeout(1) reports it
_KILL_SECONDS = 5.0  # from SIGTERM to SIGKILL
_DRAIN_SECONDS = 1.0  # for output still in the pipes when the commands have ended

Output = Callable[[str, bytes], None]  # (member's name, line with its newline)


class Run:
    """One command on several members.

    processes  by member's name; their stdout is a pipe, or None if it goes elsewhere
    output     called with each line of a piped member
    grace      seconds that the others have after a member failed, before SIGTERM
    timeout    seconds that all have, before SIGTERM; None: for ever
    """

    def __init__(
        self,
        processes: Mapping[str, MemberProcess],
        output: Output,
        grace: float,
        timeout: float | None,
    ) -> None:
        self._running = dict(processes)
        self._output = output
        self._grace = grace
        self._end = None if timeout is None else time.monotonic() + timeout
        self._partial: dict[str, bytes] = {}
        self._selector = selectors.DefaultSelector()
        self._signals = [signal.SIGTERM, signal.SIGKILL]  # still to be sent
        self._failed = False
        self._status = 0
        for name, process in processes.items():
            self._watch(name, process)

    def wait(self) -> int:
        """Returns the worst status of the members that ended by themselves, TIMED_OUT if time ran
        out first. Leaves no command running, whatever is raised."""
        try:
            while self._running:
                self._turn()
            self._drain()
        except BaseException:
            self._stop()  # with what they print while they end
            raise
        finally:
            for key in list(self._selector.get_map().values()):
                self._forget(key)
            self._selector.close()
        return self._status

    def _watch(self, name: str, process: MemberProcess) -> None:
        end = os.fdopen(os.pidfd_open(process.pid), "rb", buffering=0)  # readable once it ended
        self._selector.register(end, selectors.EVENT_READ, (name, process))
        if process.stdout is not None:
            self._selector.register(process.stdout, selectors.EVENT_READ, (name, None))
            self._partial[name] = b""

    def _turn(self) -> None:
        """Handles the next output or end of a member, or a deadline that has come."""
        wait = None if self._end is None else max(0.0, self._end - time.monotonic())
        ready = self._selector.select(wait)
        for key, _ in ready:
            self._handle(key)
        if self._running and self._end is not None and time.monotonic() >= self._end:
            self._escalate()

    def _handle(self, key: selectors.SelectorKey) -> None:
        name, process = key.data
        if process is None:
            self._read(key, name)
            return
        process.wait()
        del self._running[name]
        self._forget(key)
        self._account(name, shell_status(process.returncode))

    def _account(self, name: str, status: int) -> None:
        if status == 0 or len(self._signals) < 2:
            return  # as it should, or because the lab told it to
        self._status = max(self._status, status)
        log.warning("%s ended with status %d", name, status)
        if self._running and not self._failed:
            log.warning("the other members have %g s to end by themselves", self._grace)
            grace_end = time.monotonic() + self._grace
            self._end = grace_end if self._end is None else min(self._end, grace_end)
        self._failed = True

    def _escalate(self) -> None:
        """A deadline has come: SIGTERM first, SIGKILL next; after that the kernel is awaited."""
        if len(self._signals) == 2 and not self._failed:
            self._status = TIMED_OUT
            log.warning("time is up")
        sig = self._signals.pop(0)
        for process in self._running.values():
            process.send_signal(sig)
        self._end = time.monotonic() + _KILL_SECONDS if self._signals else None
        log.warning("ending %s (%s)", ", ".join(self._running), sig.name)  # last: nothing may keep them alive

    def _stop(self) -> None:
        """Ends what still runs, as deadlines would, whatever state the run is in."""
        self._failed = True
        self._end = time.monotonic() if self._signals else None
        while self._running:
            self._unless_it_fails(self._turn)
        self._unless_it_fails(self._drain)

    def _unless_it_fails(self, go_on: Callable[[], None]) -> None:
        """The first failure is on its way already. One more, as a second Ctrl-C, leaves no time to end."""
        try:
            go_on()
        except BaseException:
            self._output = lambda member, line: None
            self._end = time.monotonic() if self._signals else None

    def _drain(self) -> None:
        end = time.monotonic() + _DRAIN_SECONDS
        while self._selector.get_map() and (left := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                self._handle(key)
        for name, rest in self._partial.items():
            if rest:
                self._output(name, rest + b"\n")

    def _read(self, key: selectors.SelectorKey, name: str) -> None:
        data = os.read(key.fd, 65536)
        *lines, rest = (self._partial[name] + data).split(b"\n")
        for line in lines:
            self._output(name, line + b"\n")
        self._partial[name] = rest
        if not data:
            self._forget(key)

    def _forget(self, key: selectors.SelectorKey) -> None:
        self._selector.unregister(key.fileobj)
        key.fileobj.close()
