"""The tasks by name."""

from __future__ import annotations

import functools

from bench.convergence.tasks.gpt import GPTTask
from bench.convergence.tasks.images import ResNetTask, ViTTask
from bench.convergence.tasks.synthetic import SyntheticTask
from bench.convergence.tasks.task import Task

TASKS: dict[str, type[Task]] = {task.name: task for task in (GPTTask, ResNetTask, ViTTask, SyntheticTask)}


@functools.cache
def load(name: str) -> Task:
    """Returns the task `name` with its data. Raises FileNotFoundError, with the package to install, where
    the machine has none."""
    if name not in TASKS:
        raise ValueError(f"there is no task {name}; there are {', '.join(TASKS)}")
    return TASKS[name]()
