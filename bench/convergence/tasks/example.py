"""Loads files of examples/, which are scripts and not a package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

_EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def example(path: str) -> ModuleType:
    """Returns the module examples/`path`.py; `path` such as "gpt/data"."""
    name = "convergence_example_" + path.replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, _EXAMPLES / f"{path}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
