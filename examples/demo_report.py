"""What the logs of the demo's runs say: a table, a plot and results.json.

Curves: at time t, the mean training loss of all members' steps that ended before t, where a step
that ended s seconds ago weighs exp(-s / tau) and tau is a twentieth of the budget. All runs are
smoothed alike, in seconds and not in steps; a run with few steps has few losses in the mean.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

_DURATION = "s of training"  # the same for all, but for the last step: its ratio says nothing
_POINTS = 400  # of a curve
_COLOURS = {"DDP": "#c2410c", "StellaTrain": "#1d4ed8"}
_OTHER_COLOURS = ("#a16207", "#be185d")


@dataclass(frozen=True)
class Trace:
    """One run: arrays over all steps of all members, sorted by time, and totals."""

    name: str
    learning_rate: float
    seconds: np.ndarray
    losses: np.ndarray
    steps: float  # of a member, mean over members
    bytes_per_step: float  # sent by a member, mean over members
    duration: float  # until the last step ended
    validation_loss: float
    stages: dict[str, float]  # seconds of a step, mean over members; empty for DDP

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.duration

    def curve(self, grid: np.ndarray, tau: float) -> np.ndarray:
        """Returns the smoothed loss at the times `grid`, NaN before the first step ended."""
        age = grid[:, None] - self.seconds[None, :]
        weights = np.where(age >= 0, np.exp(-np.maximum(age, 0) / tau), 0)
        total = weights.sum(axis=1)
        return np.divide(weights @ self.losses, total, np.full_like(grid, np.nan), where=total > 0)


@dataclass(frozen=True)
class State:
    """Where a run is: means over the members' newest steps."""

    seconds: float
    step: int
    loss: float
    megabytes_per_step: float


def log_path(folder: Path) -> Path:
    """Returns where a member logs its steps; `{rank}` is the training script's to fill in."""
    return folder / "steps-{rank}.jsonl"


def latest(folder: Path) -> State | None:
    """Returns where the run that logs to `folder` is; None before all members did a step."""
    newest = [steps[-1] for steps, _ in _logs(folder) if steps]
    if not newest:
        return None
    done = [record["step"] + 1 for record in newest]
    return State(
        seconds=max(record["seconds"] for record in newest),
        step=min(done),
        loss=float(np.mean([record["loss"] for record in newest])),
        megabytes_per_step=sum(record["bytes_out"] for record in newest) / sum(done) / 1e6,
    )


def read(name: str, learning_rate: float, folder: Path) -> Trace:
    """Returns the finished run that logged to `folder`."""
    logs = _logs(folder)
    records = sorted((r for steps, _ in logs for r in steps), key=lambda r: r["seconds"])
    steps = sum(len(steps) for steps, _ in logs)
    ends = [end for _, end in logs]
    windows = sum(end["windows"] for end in ends)
    total = sum(end["validation_loss"] * end["windows"] for end in ends)
    stages = ends[0].get("stages", {})
    return Trace(
        name=name,
        learning_rate=learning_rate,
        seconds=np.array([r["seconds"] for r in records]),
        losses=np.array([r["loss"] for r in records]),
        steps=steps / len(logs),
        bytes_per_step=sum(steps[-1]["bytes_out"] for steps, _ in logs) / steps,
        duration=records[-1]["seconds"],
        validation_loss=total / windows,
        stages={stage: sum(end["stages"][stage] for end in ends) / steps for stage in stages},
    )


def write(traces: list[Trace], out: Path, setting: str, budget: float) -> str:
    """Writes loss.png and results.json to `out`; returns the table to print.

    `traces`: of DDP first, of StellaTrain last, of other rivals between.
    """
    grid = np.linspace(0, min(trace.duration for trace in traces), _POINTS)
    tau = budget / 20
    curves = [trace.curve(grid, tau) for trace in traces]
    rows = {
        "steps/s": [trace.steps_per_second for trace in traces],
        "MB sent per step and member": [trace.bytes_per_step / 1e6 for trace in traces],
        f"training loss at {grid[-1]:.0f} s": [float(curve[-1]) for curve in curves],
        _DURATION: [trace.duration for trace in traces],
        "validation loss": [trace.validation_loss for trace in traces],
    }
    for rival, curve in zip(traces[:-1], curves, strict=False):
        name = f"s to {rival.name}'s last loss {curve[-1]:.3f}"
        rows[name] = [_first_time(grid, other, curve[-1]) for other in curves]
    _plot(traces, grid, curves, out / "loss.png", setting, tau)
    names = [trace.name for trace in traces]
    results = {
        "setting": setting,
        "machine": {"cores": os.cpu_count(), "cpu": _cpu()},
        "rows": {row: dict(zip(names, _without_nan(v), strict=True)) for row, v in rows.items()},
        "steps": {trace.name: trace.steps for trace in traces},
        "stages": traces[-1].stages,
        "curves": {
            "seconds": grid.tolist(),
            **{name: _without_nan(c.tolist()) for name, c in zip(names, curves, strict=True)},
        },
    }
    (out / "results.json").write_text(json.dumps(results, indent=1))
    return "\n".join(
        [*_table(names, rows), "", *_where(traces[-1]), "", f"{out}/loss.png, {out}/results.json"]
    )


def _table(names: list[str], rows: dict[str, list[float]]) -> list[str]:
    """Returns the lines of the table; the last column is StellaTrain over DDP, "-" is never."""

    def cell(value: float) -> str:
        return "-" if np.isnan(value) else f"{value:.3f}"

    def line(row: str, cells: list[str]) -> str:
        return f"{row:36}" + "".join(f"{text:>14}" for text in cells[:-1]) + f"{cells[-1]:>20}"

    lines = [line("", [*names, f"{names[-1]} / {names[0]}"])]
    for row, values in rows.items():
        ratio = "" if row == _DURATION else cell(values[-1] / values[0])
        lines.append(line(row, [*map(cell, values), ratio]))
    return lines


def _where(trace: Trace) -> list[str]:
    """Returns in words where the time of a step of StellaTrain goes."""
    ms = {stage: 1000 * seconds for stage, seconds in trace.stages.items()}
    held = [ms[stage] for stage in ("step_copy", "step_wait", "step_publish")]
    whole = 1000 / trace.steps_per_second
    beside = ", ".join(f"{stage} {ms[stage]:.0f}" for stage in ("contribute", "merge", "apply"))
    return [
        f"A step of {trace.name} takes {whole:.0f} ms: {whole - sum(held):.0f} in the script, "
        f"and in step() {held[0]:.0f} to hand over gradients, {held[1]:.0f} to wait for the others,",
        f"{held[2]:.0f} to take the weights. On the engine's thread: {beside} ms (docs/stats.md).",
    ]


def _logs(folder: Path) -> list[tuple[list[dict], dict]]:
    """Returns each member's step records, and what it recorded at the end, {} while it has not."""
    logs = []
    for path in sorted(folder.glob("steps-*.jsonl")):
        lines = path.read_text().split("\n")[:-1]  # a line still being written has no newline
        records = [json.loads(line) for line in lines]
        steps = [record for record in records if "step" in record]
        end = {key: value for record in records if "step" not in record for key, value in record.items()}
        logs.append((steps, end))
    return logs


def _first_time(grid: np.ndarray, curve: np.ndarray, target: float) -> float:
    """Returns when the curve first is at or below `target`, NaN if it never is."""
    reached = np.flatnonzero(curve <= target)
    return float(grid[reached[0]]) if len(reached) else np.nan


def _plot(traces: list[Trace], grid: np.ndarray, curves: list, path: Path, setting: str, tau: float) -> None:
    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    others = iter(_OTHER_COLOURS)
    for trace, curve in zip(traces, curves, strict=True):
        colour = _COLOURS.get(trace.name) or next(others)
        axes.plot(trace.seconds, trace.losses, ".", color=colour, alpha=0.12, markersize=4)
        axes.plot(grid, curve, color=colour, linewidth=2.2, label=f"{trace.name}, lr {trace.learning_rate:g}")
    last = f"{traces[0].name}'s last loss, {curves[0][-1]:.3f}"
    axes.axhline(curves[0][-1], color="grey", linewidth=1.2, linestyle=":", label=last)
    axes.set_xlim(0, grid[-1])
    axes.set_xlabel("wall-clock time of training [s]")
    axes.set_ylabel("training loss [nats per byte]")
    axes.set_title(setting, fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(title=f"lines: means over about {tau:g} s, of all members; dots: each step", frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _without_nan(values: list[float]) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values]


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
