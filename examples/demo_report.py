"""What the logs of the demo's two runs say: a table, a plot and results.json.

Curves: at time t, the mean training loss of all members' steps that ended before t, where a step
that ended s seconds ago weighs exp(-s / tau) and tau is a twentieth of the budget. Both runs are
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

_POINTS = 400  # of a curve
_COLOURS = ("#c2410c", "#1d4ed8")


@dataclass(frozen=True)
class Trace:
    """One run: arrays over all steps of all members, sorted by time, and totals."""

    name: str
    seconds: np.ndarray
    losses: np.ndarray
    steps: float  # of a member, mean over members
    bytes_per_step: float  # sent by a member, mean over members
    duration: float  # until the last step ended
    validation_loss: float

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


def read(name: str, folder: Path) -> Trace:
    """Returns the finished run that logged to `folder`."""
    logs = _logs(folder)
    records = sorted((r for steps, _ in logs for r in steps), key=lambda r: r["seconds"])
    steps = sum(len(steps) for steps, _ in logs)
    windows = sum(validation["windows"] for _, validation in logs)
    total = sum(v["validation_loss"] * v["windows"] for _, v in logs)
    return Trace(
        name=name,
        seconds=np.array([r["seconds"] for r in records]),
        losses=np.array([r["loss"] for r in records]),
        steps=steps / len(logs),
        bytes_per_step=sum(steps[-1]["bytes_out"] for steps, _ in logs) / steps,
        duration=records[-1]["seconds"],
        validation_loss=total / windows,
    )


def write(ddp: Trace, stella: Trace, out: Path, setting: str, budget: float) -> str:
    """Writes loss.png and results.json to `out`; returns the table to print."""
    grid = np.linspace(0, min(ddp.duration, stella.duration), _POINTS)
    curves = [trace.curve(grid, budget / 20) for trace in (ddp, stella)]
    target = max(curve[-1] for curve in curves)  # the loss that both reached
    times = [_first_time(grid, curve, target) for curve in curves]
    rows = {
        "steps/s": (ddp.steps_per_second, stella.steps_per_second),
        "MB sent per step and member": (ddp.bytes_per_step / 1e6, stella.bytes_per_step / 1e6),
        f"training loss at {grid[-1]:.0f} s": (curves[0][-1], curves[1][-1]),
        f"s to training loss {target:.3f}": tuple(times),
        "validation loss": (ddp.validation_loss, stella.validation_loss),
    }
    _plot((ddp, stella), grid, curves, target, out / "loss.png", setting)
    results = {
        "setting": setting,
        "machine": {"cores": os.cpu_count(), "cpu": _cpu()},
        "rows": {name: {"DDP": a, "StellaTrain": b, "ratio": b / a} for name, (a, b) in rows.items()},
        "steps": {trace.name: trace.steps for trace in (ddp, stella)},
        "curves": {
            "seconds": grid.tolist(),
            **{t.name: _without_nan(c) for t, c in zip((ddp, stella), curves, strict=True)},
        },
    }
    (out / "results.json").write_text(json.dumps(results, indent=1))
    lines = [f"{'':32}{'DDP':>12}{'StellaTrain':>14}{'ratio':>10}"]
    lines += [f"{name:32}{a:12.3f}{b:14.3f}{b / a:10.3f}" for name, (a, b) in rows.items()]
    return "\n".join([*lines, "", f"{out}/loss.png, {out}/results.json"])


def _logs(folder: Path) -> list[tuple[list[dict], dict]]:
    """Returns each member's step records and its validation record, {} while there is none."""
    logs = []
    for path in sorted(folder.glob("steps-*.jsonl")):
        lines = path.read_text().split("\n")[:-1]  # a line still being written has no newline
        records = [json.loads(line) for line in lines]
        steps = [record for record in records if "step" in record]
        validation = [record for record in records if "validation_loss" in record]
        logs.append((steps, validation[0] if validation else {}))
    return logs


def _first_time(grid: np.ndarray, curve: np.ndarray, target: float) -> float:
    """Returns when the curve first is at or below `target`, as it is at the end if not before."""
    return float(grid[np.flatnonzero(curve <= target)[0]])


def _plot(traces, grid, curves, target: float, path: Path, setting: str) -> None:
    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for trace, curve, colour in zip(traces, curves, _COLOURS, strict=True):
        axes.plot(trace.seconds, trace.losses, ".", color=colour, alpha=0.12, markersize=4)
        axes.plot(grid, curve, color=colour, linewidth=2.2, label=trace.name)
    axes.axhline(target, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlim(0, grid[-1])
    axes.set_xlabel("wall-clock time of training [s]")
    axes.set_ylabel("training loss [nats per byte]")
    axes.set_title(setting, fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(title="mean of all members", frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _without_nan(curve: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in curve]


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
