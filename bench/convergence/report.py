"""Markdown tables and plots of the finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.convergence import plots, rules
from bench.convergence.summary import Row, Table, convergence_speed, gap, tables

_OVER = 1.1  # times the budget: then a row says so

_HEAD = (
    "rule",
    "best lr (of)",
    "final loss",
    "accuracy",
    "over dense",
    "over uncompressed local-first",
    "convergence speed",
    "egress, % of DDP",
    "diverged",
)


def write(finished: Sequence[dict], out: Path) -> str:
    """Writes OUT/report.md and its plots; returns the text."""
    found = tables(finished)
    if not found:
        return f"no rule with a budget has finished in {out} yet; a plan makes runs"
    parts = []
    for table in found:
        parts += [_title(table), "", *_lines(table), ""]
        plots.curves(table, out / f"{_name(table)}.png")
    for group in _by_task(found):
        first = group[0]
        plots.egress(group, out / f"{first.task}-{first.members}m-{first.steps}s-egress.png")
    text = "\n".join([*parts, *_LEGEND])
    (out / "report.md").write_text(text + "\n")
    return text


_LEGEND = (
    "Loss: validation loss of the consensus weights in nats, mean over seeds (least-largest).",
    "Best lr: of how many tried; `edge` where no larger or no smaller one was.",
    "Convergence speed: steps that dense needs for the same loss / steps used, an upper bound.",
    "Egress: bytes sent per member and step; `over` where the rule cannot go down to the budget.",
)


def _title(table: Table) -> str:
    setting = f"{table.task}, {table.members} members, {table.steps} steps"
    return f"### {setting}, budget {table.budget:.2%} of DDP's egress"


def _name(table: Table) -> str:
    return f"{table.task}-{table.members}m-{table.steps}s-{table.budget:g}"


def _lines(table: Table) -> list[str]:
    lines = [f"| {' | '.join(_HEAD)} |", "|---" * len(_HEAD) + "|"]
    return lines + [f"| {' | '.join(_cells(row, table))} |" for row in table.rows]


def _cells(row: Row, table: Table) -> list[str]:
    dense, uncompressed = table.row(rules.DENSE), table.row(rules.UNCOMPRESSED)
    speed = convergence_speed(row, dense)
    return [
        row.cell.rule,
        "" if row.lr is None else f"{row.lr:.3g} ({row.rates}{', edge' if row.edge else ''})",
        _loss(row),
        "" if row.accuracy is None else f"{row.accuracy:.2%}",
        _percent(gap(row, dense)),
        _percent(gap(row, uncompressed)),
        "" if speed is None else f"{speed:.2f}",
        _egress(row),
        str(row.diverged or ""),
    ]


def _loss(row: Row) -> str:
    if row.loss is None:
        return "diverged"
    return f"{row.loss:.4f}" + (
        f" ({min(row.losses):.4f}-{max(row.losses):.4f})" if len(row.losses) > 1 else ""
    )


def _egress(row: Row) -> str:
    if row.egress_share is None:
        return ""
    over = row.cell.budget is not None and row.egress_share > _OVER * row.cell.budget
    return f"{100 * row.egress_share:.2f}" + (" (over)" if over else "")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.1f} %"


def _by_task(found: Sequence[Table]) -> list[list[Table]]:
    groups: dict[tuple, list[Table]] = {}
    for table in found:
        groups.setdefault((table.task, table.members, table.steps), []).append(table)
    return list(groups.values())
