"""Which runs to make, and in which order; a plan looks at what is finished and names the next run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from bench.convergence import rules
from bench.convergence.configuration import Configuration

_TRIED_FIRST = (1.0, 0.5, 2.0)  # of the task's base_lr, for every rule
_MOST_RATES = 8  # learning rates of one rule under one budget

# The rules of a sweep: dense and the ceiling first, for all others are compared with them.
COMPARED = (
    "dense",
    "local-uncompressed",
    "local",
    "sparse",
    "sparse-int4",
    "powersgd",
    "diloco",
    "diloco-bf16",
    "streaming-diloco",
    "sparseloco",
    "sparseloco:h=15",
)


@dataclass(frozen=True)
class Cell:
    """One place of a table: a rule on a task under a budget, whose learning rate is to be found."""

    task: str
    rule: str
    budget: float | None
    members: int
    steps: int

    def at(self, lr: float, seed: int) -> Configuration:
        return Configuration(self.task, self.rule, self.budget, lr, seed, self.members, self.steps)

    @classmethod
    def of(cls, line: dict) -> Cell:
        return cls(line["task"], line["rule"], line["budget"], line["members"], line["steps"])

    def matches(self, words: Iterable[str]) -> bool:
        """Whether the cell's label has each of `words` in it, as whole words."""
        budget = "none" if self.budget is None else f"{self.budget:g}"
        label = {self.task, self.rule, budget, str(self.members)}
        return all(word in label for word in words)


def cells(
    tasks: Sequence[str],
    compared: Sequence[str],
    budgets: Sequence[float],
    members: Sequence[int],
    steps: dict[str, int],
) -> Iterator[Cell]:
    """Yields the cross product; a rule that knows no budget has one cell for all of them. `steps` by
    task."""
    for task in tasks:
        for count in members:
            for rule in compared:
                free = rule.partition(":")[0] in rules.WITHOUT_BUDGET
                for budget in [None] if free else budgets:
                    yield Cell(task, rule, budget, count, steps[task])


def best_lr(cell: Cell, finished: Iterable[dict], seed: int) -> float | None:
    """Returns the learning rate with the lowest final loss of `seed`; None where no run of it converged."""
    losses = {line["lr"]: line["loss"] for line in _of(cell, finished, seed) if line["loss"] is not None}
    return min(losses, key=losses.__getitem__, default=None)


def next_of_sweep(
    cell: Cell, first: Sequence[float], finished: Sequence[dict], seed: int
) -> Configuration | None:
    """Returns the next run of a search by factors of 2: those of `first`, then beyond an edge for as long
    as the best lies on it. None when the best has worse neighbours on both sides, or after
    _MOST_RATES."""
    losses = {line["lr"]: line["loss"] for line in _of(cell, finished, seed)}
    for lr in first:
        if lr not in losses:
            return cell.at(lr, seed)
    if len(losses) >= _MOST_RATES:
        return None
    best = min(losses, key=lambda lr: math.inf if losses[lr] is None else losses[lr])
    if losses[best] is None:  # all diverged
        return cell.at(min(losses) / 2, seed)
    for lr in (best * 2, best / 2):
        if lr not in losses:
            return cell.at(lr, seed)
    return None


def first_rates(base_lr: float) -> list[float]:
    return [base_lr * factor for factor in _TRIED_FIRST]


def sweep(
    wanted: Sequence[Cell], base_lr: dict[str, float], finished: Sequence[dict], seed: int
) -> Configuration | None:
    """The plan "sweep": each cell's best learning rate, with one seed."""
    searches = (next_of_sweep(cell, first_rates(base_lr[cell.task]), finished, seed) for cell in wanted)
    return next(filter(None, searches), None)


def confirm(wanted: Sequence[Cell], finished: Sequence[dict], seeds: Sequence[int]) -> Configuration | None:
    """The plan "confirm": the other seeds at the learning rate that the first one found best."""
    for cell in wanted:
        lr = best_lr(cell, finished, seeds[0])
        if lr is None:
            continue
        done = {line["seed"] for line in finished if Cell.of(line) == cell and line["lr"] == lr}
        for seed in seeds:
            if seed not in done:
                return cell.at(lr, seed)
    return None


def members(wanted: Sequence[Cell], finished: Sequence[dict], seed: int, known: int) -> Configuration | None:
    """The plan "members": other member counts, searched from the best learning rate with `known` members
    on."""
    for cell in wanted:
        lr = best_lr(replace(cell, members=known), finished, seed)
        if lr is None:
            continue
        run = next_of_sweep(cell, [lr], finished, seed)
        if run:
            return run
    return None


def smoke(
    wanted: Sequence[Cell], base_lr: dict[str, float], finished: Sequence[dict], seed: int
) -> Configuration | None:
    """The plan "smoke": each cell once, at the middle learning rate."""
    done = {Configuration.of(line) for line in finished}
    runs = (cell.at(base_lr[cell.task], seed) for cell in wanted)
    return next((run for run in runs if run not in done), None)


def _of(cell: Cell, finished: Iterable[dict], seed: int) -> list[dict]:
    return [line for line in finished if Cell.of(line) == cell and line["seed"] == seed]
