"""What `stella lab` takes for its numbers and for the folder of its logs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from stellatrain.lab.errors import LabError, UsageError

_BLOCK = 1 << 16  # bytes: more than a full disk has left in any of its blocks
_LONGEST = 1e6  # seconds: some 11 days; the kernel waits for 24 at most


def check_times(grace: float, timeout: float | None) -> None:
    """Raises UsageError for seconds that nobody can wait."""
    if not 0 <= grace <= _LONGEST:
        raise UsageError(f"--grace is {grace:.15g}; it must be 0 to {_LONGEST:g} seconds.")
    if timeout is not None and not 0 < timeout <= _LONGEST:
        raise UsageError(f"--timeout is {timeout:.15g}; it must be above 0 and at most {_LONGEST:g} seconds.")


def check_threads(threads: int | None) -> None:
    """Raises UsageError for a number of threads that no member can have."""
    if threads is not None and threads < 1:
        raise UsageError(f"--threads is {threads}; it must be at least 1.")


def make_log_dir(log_dir: Path | None) -> None:
    """Makes the folder if it is not there. Raises LabError if it cannot be one."""
    if log_dir is None:
        return
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as cause:
        raise LabError(
            f"--log-dir is '{log_dir}'; it must be a folder, or a place where one can be made: {cause}."
        ) from cause


def why_unwritable(log_dir: Path) -> OSError | None:
    """What keeps the members' output from the folder: a full disk, of which only they are told."""
    try:
        with tempfile.TemporaryFile(dir=log_dir, buffering=0) as probe:
            probe.write(bytes(_BLOCK))
    except OSError as cause:
        return cause
    return None
