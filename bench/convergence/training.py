"""One run from its configuration to its line in the journal."""

from __future__ import annotations

import math
import time

import torch

from bench.convergence import rules, tasks, traffic
from bench.convergence.configuration import Configuration
from bench.convergence.members import Members
from bench.convergence.recipe import learning_rate
from bench.convergence.rules.rule import Rule, Setting
from bench.convergence.tasks.task import Task, streams

_EVALUATIONS = 20  # of a run, evenly spread, besides the one before the first step


def train(configuration: Configuration) -> dict:
    """Returns the journal's line: the configuration, and

    parameters    of the model
    egress        bytes that each member sent per step, and egress_share of what plain DDP sends
    curve         [[steps done, validation loss of the consensus], ...]
    loss          the last of them; accuracy too, where the task has one; None where the run diverged
    diverged      None, or the step with a loss that is not finite, or `steps` if it ended above its start
    seconds       of the run, evaluation included
    """
    begin = time.perf_counter()
    task = tasks.load(configuration.task)
    members = _members(task, configuration)
    setting = Setting(
        members.layout,
        configuration.members,
        configuration.steps,
        task.recipe,
        configuration.budget,
        configuration.seed,
    )
    rule = rules.make(configuration.rule, setting)
    rule.start(members.weights)
    curve, last, diverged = _steps(task, members, rule, configuration)
    steps = diverged or configuration.steps
    per_step = rule.egress / steps
    ddp = traffic.of_ddp(configuration.members, members.layout.parameters)
    return configuration.as_dict() | {
        "parameters": members.layout.parameters,
        "egress": per_step,
        "egress_share": per_step / ddp if ddp else 0.0,
        "curve": curve,
        "loss": None if diverged else last["loss"],
        "accuracy": None if diverged else last.get("accuracy"),
        "diverged": diverged,
        "seconds": round(time.perf_counter() - begin, 2),
        "torch": torch.__version__,
    }


def _members(task: Task, configuration: Configuration) -> Members:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(configuration.seed)
        return Members(task.model(), configuration.members)


def _steps(
    task: Task, members: Members, rule: Rule, configuration: Configuration
) -> tuple[list[list[float]], dict[str, float], int | None]:
    """Returns the curve, the last evaluation, and None or the step of the divergence."""
    steps = configuration.steps
    sources = streams(configuration.seed, configuration.members)
    last = task.evaluate(members.consensus(rule.consensus()))
    curve = [[0, last["loss"]]]
    for t in range(steps):
        losses = members.compute(task, [task.batch(source) for source in sources])
        if not losses.isfinite().all():
            return curve, last, max(1, t)
        rule.step(t, learning_rate(t, steps, configuration.lr), members.gradients)
        if (t + 1) * _EVALUATIONS // steps > t * _EVALUATIONS // steps:
            last = task.evaluate(members.consensus(rule.consensus()))
            if not math.isfinite(last["loss"]):
                return curve, last, t + 1
            curve.append([t + 1, last["loss"]])
    return curve, last, steps if last["loss"] > curve[0][1] else None
