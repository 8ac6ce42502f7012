"""English text with some code from what the machine has: Python's documentation or its library."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

_DOCUMENTATION = Path("/usr/share/doc")
_VALIDATION_SHARE = 20  # one file in so many is for validation


class Windows(Dataset):
    """Text cut into windows of `context` tokens; item i is (tokens, targets), int64 [context] each,
    the targets one byte further on."""

    def __init__(self, text: Tensor, context: int) -> None:
        """`text`: uint8 [bytes]"""
        self._text = text
        self._context = context

    def __len__(self) -> int:
        return (len(self._text) - 1) // self._context

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = index * self._context
        window = self._text[start : start + self._context + 1].long()
        return window[:-1], window[1:]


def load(context: int, root: Path = _DOCUMENTATION, library: Path | None = None) -> tuple[Windows, Windows]:
    """Returns (training, validation) windows of the documentation of Python under `root`, or else
    of the modules in `library` (default: the standard library's).

    A file belongs to one of the two by its name, so the split is the same on every machine that has
    the same files. Raises FileNotFoundError, with the package to install, where there is no text.
    """
    folder, files = _find(root, library or Path(os.__file__).parent)
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for file in files:
        parts[_is_validation(file.relative_to(folder))].append(file.read_bytes())
    training, validation = (Windows(_as_tensor(b"".join(part)), context) for part in parts)
    return training, validation


def _find(root: Path, library: Path) -> tuple[Path, list[Path]]:
    """Returns the folder of the first source that has files, and its files in a fixed order."""
    candidates = [(folder, "**/*.rst.txt") for folder in root.glob("python3.*/html/_sources")]
    for folder, pattern in [*sorted(candidates), (library, "**/*.py")]:
        files = [file for file in folder.glob(pattern) if "site-packages" not in file.parts]
        if files:
            return folder, sorted(files)
    raise FileNotFoundError(
        f"there is no text to train on: neither {root}/python3.*/html/_sources nor Python files in "
        f"{library}; install Debian's python3-doc."
    )


def _is_validation(name: Path) -> bool:
    return zlib.crc32(name.as_posix().encode()) % _VALIDATION_SHARE == 0


def _as_tensor(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)
