"""`stella lab`: runs a command on every member of a lab."""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from stellatrain.lab.bounds import check_threads, check_times, make_log_dir
from stellatrain.lab.errors import UsageError
from stellatrain.lab.lab import Lab
from stellatrain.lab.links import table
from stellatrain.lab.run import TIMED_OUT

log = logging.getLogger("stellatrain.lab")

_SHORTEST = 1e-3  # seconds that a run has whose lab took all the others
_NAMED = 8  # members in the line that says who starts

_EPILOG = """\
example:
  stella lab --clusters 2 --members 2 --wan 100mbit --lan 1gbit -- python train.py
"""


def add_parser(subcommands: argparse._SubParsersAction) -> None:
    """Adds `lab` to the stella command."""
    parser = subcommands.add_parser(
        "lab",
        help="run a command on members joined by links of a set rate, all on this machine",
        description="Runs COMMAND on every member at once, each in a network namespace of its own, "
        "joined by links shaped with tc. Needs root or unprivileged user namespaces. The exit "
        "status is the worst of the members', 124 when --timeout ran out.",
        epilog=_EPILOG,
        usage="stella lab [OPTIONS] -- COMMAND [ARGUMENTS]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--clusters", type=int, default=2, metavar="N", help="clusters (default: %(default)s)")
    add(
        "--members",
        type=_sizes,
        default=[2],
        metavar="N[,N...]",
        help="members of each cluster, one number for all or one for each (default: 2)",
    )
    add("--wan", default="100mbit", metavar="RATE", help="each uplink (default: %(default)s)")
    add("--lan", default="1gbit", metavar="RATE", help="each member's link (default: %(default)s)")
    add("--threads", type=int, metavar="N", help="sets OMP_NUM_THREADS=N for the members")
    add("--log-dir", type=Path, metavar="D", help="members' output to D/<member>.log instead")
    add("--timeout", type=float, metavar="S", help="end everything S seconds after the start")
    add(
        "--grace",
        type=float,
        default=20.0,
        metavar="S",
        help="seconds the others have when a member failed (default: %(default)s)",
    )
    add("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="what to run, as a member")
    parser.set_defaults(main=main)


def main(arguments: argparse.Namespace) -> int:
    """Runs the lab and returns its exit status."""
    start = time.monotonic()
    command = arguments.command[arguments.command[:1] == ["--"] :]
    if not command:
        raise UsageError("stella lab has nothing to run; write the command after --.")
    check_threads(arguments.threads)
    check_times(arguments.grace, arguments.timeout)  # as run() does, which comes when the lab is built
    sizes = arguments.members
    logging.basicConfig(format="stella lab: %(message)s")
    signal.signal(signal.SIGTERM, _leave)
    lab = Lab(arguments.clusters, sizes[0] if len(sizes) == 1 else sizes, arguments.wan, arguments.lan)
    make_log_dir(arguments.log_dir)
    with contextlib.ExitStack() as stack:
        try:
            with _time_limit(arguments.timeout):
                stack.enter_context(lab)
                before = {use.name: use for use in lab.links()}
        except _TimeIsUp:
            log.warning("time is up; the lab was still being built, and no member has started")
            return TIMED_OUT
        print(f"stella lab: {who_starts(lab)}", file=sys.stderr)
        built = time.monotonic()
        try:
            return lab.run(
                command,
                _environment(arguments.threads),
                grace=arguments.grace,
                timeout=arguments.timeout and max(_SHORTEST, arguments.timeout - (built - start)),
                log_dir=arguments.log_dir,
            )
        except (KeyboardInterrupt, _Terminated):
            log.warning("interrupted; all members have ended")
            raise
        finally:
            print(table(before, lab.links(), time.monotonic() - built), file=sys.stderr)


def _sizes(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number or numbers joined by commas") from None


def who_starts(lab: Lab) -> str:
    """ "40 members start: c0m0, c0m1, ..., c1m1": on one line, however many."""
    names = list(lab.members)
    if len(names) > _NAMED:
        names[_NAMED - 1 : -1] = ["..."]
    word = "member starts" if len(lab.members) == 1 else "members start"
    return f"{len(lab.members)} {word}: {', '.join(names)}"


def _environment(threads: int | None) -> dict[str, str]:
    """What the members get beside their place: live output, and a bound on their threads."""
    env = {"PYTHONUNBUFFERED": "1"}
    return env if threads is None else {**env, "OMP_NUM_THREADS": str(threads)}


@contextlib.contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """Raises _TimeIsUp in the middle of what it holds, whatever that waits for."""
    before = signal.signal(signal.SIGALRM, _time_is_up)
    signal.setitimer(signal.ITIMER_REAL, seconds or 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _TimeIsUp(Exception):
    """--timeout ran out before the members started."""


def _time_is_up(_number: int, _frame: object) -> None:
    raise _TimeIsUp


class _Terminated(SystemExit):
    """SIGTERM came."""


def _leave(number: int, _frame: object) -> None:
    raise _Terminated(128 + number)
