"""The `stella` command. Imports torch and the native core only where a subcommand needs them."""

from __future__ import annotations

import argparse
import os
import stat
import sys

from stellatrain.lab.command import add_parser as add_lab
from stellatrain.lab.errors import LabError, UsageError

_USAGE = 2  # as argparse has it


def main(argv: list[str] | None = None) -> int:
    """Runs `stella` with `argv` (default: the process's) and returns the exit status: 2 if they are wrong."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.main(arguments)
    except LabError as error:
        print(f"stella: {error}", file=sys.stderr)
        return _USAGE if isinstance(error, UsageError) else 1
    except _NotPrinted as cause:
        print(f"stella: {cause}", file=sys.stderr)
        return 1
    except ImportError as cause:  # the core's, which says what to do
        print(f"stella: {cause}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line's grammar; tools/check_docs.py holds the docs' commands to it."""
    stella = argparse.ArgumentParser(
        prog="stella", description="Trains one PyTorch model on machines in several places."
    )
    stella.add_argument("--version", action=_Version, help="print the version and exit")
    subcommands = stella.add_subparsers(required=True, metavar="SUBCOMMAND", parser_class=_Subcommand)
    add_lab(subcommands)
    _add_secret(subcommands)
    info = subcommands.add_parser("info", help="versions and the CPU target in use, for reports")
    info.set_defaults(main=_info)
    return stella


class _Version(argparse.Action):
    """argparse's own wants the version before it is asked for, and looking it up takes time."""

    def __init__(self, option_strings, dest, **options):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **options)

    def __call__(self, parser, namespace, values, option_string=None):
        print(f"{parser.prog} {_version('stellatrain')}")
        parser.exit()


class _Subcommand(argparse.ArgumentParser):
    """Refuses what it does not know with its own usage; argparse leaves that to the parser above it."""

    def parse_known_args(self, args=None, namespace=None):
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown


def _add_secret(subcommands: argparse._SubParsersAction) -> None:
    secret = subcommands.add_parser("secret", help="the secret that the members of a run share")
    actions = secret.add_subparsers(required=True, metavar="ACTION")
    new = actions.add_parser(
        "new",
        help="print a new secret",
        description="Prints a new secret: stella secret new > run.key",
    )
    new.set_defaults(main=_secret_new)


def _secret_new(_: argparse.Namespace) -> int:
    from stellatrain import _core

    try:
        changed = sys.stdout is not None and _keep_private(sys.stdout.fileno())  # before it is written
        _print(_core.new_secret())
    except _NotPrinted as cause:
        raise _NotPrinted(f"{cause}. A file that the secret was meant for holds none; remove it") from cause
    if changed:
        print("stella: the secret is in a file that only you can read (mode 0600)", file=sys.stderr)
    return 0


def _keep_private(descriptor: int) -> bool:
    """Takes everybody else's access from the file behind `descriptor`; returns whether they had any."""
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) or not mode & 0o077:
        return False
    os.fchmod(descriptor, 0o600)
    return True


class _NotPrinted(Exception):
    """stdout does not take what the command is there to print."""


def _print(text: str) -> None:
    """All of it, now: else a full disk would be noticed where nobody can say so any more."""
    if sys.stdout is None:  # as `>&-` leaves it
        raise _NotPrinted("cannot print: stdout is closed")
    try:
        print(text, flush=True)
    except OSError as cause:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python tries again at its end
        raise _NotPrinted(f"cannot print: {cause.strerror}") from cause


def _info(_: argparse.Namespace) -> int:
    facts = _facts()
    _print("\n".join(f"{name:<12}{value}" for name, value in facts.items()))
    return int("core" in facts)  # which is there only if it is not available


def _facts() -> dict[str, str]:
    return {
        "stellatrain": _version("stellatrain"),
        "python": sys.version.split()[0],
        "torch": _version("torch"),
        **_core(),
    }


def _version(distribution: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _core() -> dict[str, str]:
    try:
        from stellatrain import core_info
    except ImportError as error:
        return {"core": f"not available ({error})"}
    return {key: str(value) for key, value in core_info().items()}
