"""The report's two kinds of picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.convergence import rules
from bench.convergence.summary import Table, mean_curve


def curves(table: Table, path: Path) -> None:
    """Validation loss over steps, each rule at its best learning rate."""
    figure, axes = _figure(f"{table.task}, {table.members} members, {table.budget:.2%} of DDP's egress")
    for number, row in enumerate(table.rows):
        if row.runs:
            steps, losses = zip(*mean_curve(row.runs)[1:], strict=True)
            axes.plot(
                steps, losses, color=f"C{number % 10}", linestyle=_style(row.cell.rule), label=row.cell.rule
            )
    axes.set(xlabel="steps", ylabel="validation loss")
    _finish(figure, axes, path)


def egress(same: Sequence[Table], path: Path) -> None:
    """Final loss over egress, of all budgets of one task."""
    first = same[0]
    figure, axes = _figure(f"{first.task}, {first.members} members, {first.steps} steps")
    names = dict.fromkeys(row.cell.rule for table in same for row in table.rows if row.runs)
    for number, name in enumerate(names):
        rows = {row.cell: row for table in same for row in table.rows if row.runs and row.cell.rule == name}
        points = sorted((100 * row.egress_share, row.loss) for row in rows.values())
        style = {"color": f"C{number % 10}", "linestyle": _style(name)}
        axes.plot(*zip(*points, strict=True), marker="o", label=name, **style)
    axes.set(xscale="log", xlabel="egress, % of DDP's", ylabel="final validation loss")
    _finish(figure, axes, path)


def _style(rule: str) -> str:
    return "--" if rule in rules.WITHOUT_BUDGET else "-"


def _figure(title: str):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    axes.set_title(title)
    return figure, axes


def _finish(figure, axes, path: Path) -> None:
    from matplotlib import pyplot

    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
