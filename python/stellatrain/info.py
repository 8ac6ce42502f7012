"""What `stella info` prints of the native core; bug reports need it."""

from __future__ import annotations

from stellatrain import _core


def core_info() -> dict[str, str]:
    """The instruction set in use, and those that this machine has (STELLA_CPU picks one)."""
    return {
        "cpu_target": _core.chosen_target(),
        "cpu_targets": ", ".join(_core.supported_targets()),
    }
