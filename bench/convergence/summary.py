"""What a report says of the finished runs: a row per rule, with its best learning rate."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.convergence import rules
from bench.convergence.plans import Cell, best_lr


@dataclass(frozen=True)
class Row:
    """A cell's result at its best learning rate (of its first seed); `losses` over the seeds that ran
    with it.

    edge      the best is the largest or smallest that was tried: a better one may lie beyond
    diverged  runs of the cell that diverged, at any learning rate
    """

    cell: Cell
    lr: float | None
    runs: list[dict]
    edge: bool
    rates: int
    diverged: int

    @property
    def losses(self) -> list[float]:
        return [run["loss"] for run in self.runs]

    @property
    def loss(self) -> float | None:
        return statistics.mean(self.losses) if self.runs else None

    @property
    def accuracy(self) -> float | None:
        values = [run["accuracy"] for run in self.runs if run["accuracy"] is not None]
        return statistics.mean(values) if values else None

    @property
    def egress_share(self) -> float | None:
        return statistics.mean(run["egress_share"] for run in self.runs) if self.runs else None


@dataclass(frozen=True)
class Table:
    """All rules of one task under one budget, with as many members and steps."""

    task: str
    budget: float
    members: int
    steps: int
    rows: list[Row]

    def row(self, rule: str) -> Row | None:
        return next((row for row in self.rows if row.cell.rule == rule and row.runs), None)


def tables(finished: Sequence[dict]) -> list[Table]:
    """Returns a table for each budget that some rule ran under; rules without a budget stand in each."""
    cells = list(dict.fromkeys(Cell.of(line) for line in finished))
    heads = dict.fromkeys((cell.task, cell.members, cell.steps) for cell in cells)
    found = []
    for task, members, steps in heads:
        same = [cell for cell in cells if (cell.task, cell.members, cell.steps) == (task, members, steps)]
        budgets = sorted({cell.budget for cell in same if cell.budget is not None}, reverse=True)
        for budget in budgets:
            rows = [_row(cell, finished) for cell in same if cell.budget in (None, budget)]
            found.append(Table(task, budget, members, steps, sorted(rows, key=_order)))
    return found


def gap(row: Row, other: Row | None) -> float | None:
    """Returns how much higher the loss of `row` is, as a share of the other's; over the seeds of both."""
    both = _shared_seeds(row, other)
    if not both:
        return None
    return _mean_loss(row, both) / _mean_loss(other, both) - 1


def convergence_speed(row: Row, dense: Row | None) -> float | None:
    """Returns (steps that dense needs for the loss that `row` ends with) / (steps of `row`), from the
    mean curves of the seeds that both have; 1 where dense does not get there.

    An upper bound: at that step dense's learning rate is still high, and a dense run planned for fewer
    steps would have got there sooner."""
    both = _shared_seeds(row, dense)
    if not both:
        return None
    curve = mean_curve([run for run in dense.runs if run["seed"] in both])
    return _first_step_at(_mean_loss(row, both), curve) / row.cell.steps


def _shared_seeds(row: Row, other: Row | None) -> set[int]:
    return {run["seed"] for run in row.runs} & {run["seed"] for run in (other.runs if other else ())}


def _mean_loss(row: Row, seeds: set[int]) -> float:
    return statistics.mean(run["loss"] for run in row.runs if run["seed"] in seeds)


def mean_curve(runs: Sequence[dict]) -> list[tuple[float, float]]:
    """Returns (step, mean loss) over `runs`, which were evaluated after the same steps."""
    points = zip(*(run["curve"] for run in runs), strict=True)
    return [(point[0][0], statistics.mean(loss for _, loss in point)) for point in points]


def _first_step_at(loss: float, curve: Sequence[tuple[float, float]]) -> float:
    """Returns the first step at which `curve`, straight between its points, is down at `loss`; its last,
    if never."""
    (before_step, before), *rest = curve
    for step, now in rest:
        if now <= loss:
            share = (before - loss) / (before - now) if before > now else 1.0
            return before_step + min(1.0, max(0.0, share)) * (step - before_step)
        before_step, before = step, now
    return before_step


def _row(cell: Cell, finished: Sequence[dict]) -> Row:
    own = [line for line in finished if Cell.of(line) == cell]
    lr = best_lr(cell, own, own[0]["seed"])
    tried = {line["lr"] for line in own}
    return Row(
        cell,
        lr,
        [line for line in own if line["lr"] == lr and line["loss"] is not None],
        edge=lr in (min(tried), max(tried)),
        rates=len(tried),
        diverged=sum(line["diverged"] is not None for line in own),
    )


def _order(row: Row) -> tuple[bool, float]:
    """Dense and its like first, then by loss, what diverged last."""
    return row.cell.rule not in rules.WITHOUT_BUDGET, float("inf") if row.loss is None else row.loss
