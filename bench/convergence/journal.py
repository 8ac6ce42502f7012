"""The finished runs: a file with one JSON line each, which survives being killed at any moment."""

from __future__ import annotations

import json
import os
from pathlib import Path


class Journal:
    """Appends lines and reads them back. One writer at a time.

    A line that was cut off by a kill is not a run: it is skipped, and the next line starts on its own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[dict]:
        """Returns the runs in the order in which they finished."""
        if not self._path.exists():
            return []
        lines = (_parsed(line) for line in self._path.read_bytes().split(b"\n"))
        return [line for line in lines if line is not None]

    def append(self, line: dict) -> None:
        """Writes one run, and returns when it is on the disk."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab+") as file:
            torn = file.tell() > 0 and not self._ends_a_line()
            file.write((b"\n" if torn else b"") + json.dumps(line, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _ends_a_line(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"


def _parsed(line: bytes) -> dict | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
