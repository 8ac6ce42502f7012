"""Compares update rules at equal bytes: python -m bench.convergence [--plan sweep] [--report] ...

Runs what the plan still lacks and appends each finished run to OUT/runs.jsonl; stop it at any moment and
start it again with the same options to go on. --report reads that file, runs nothing, and writes
OUT/report.md and plots.

Plans: smoke    every rule once, for a few steps: does all work?
       sweep    one seed; learning rates by factors of 2 until the best has neighbours on both sides
       confirm  the other seeds at each rule's best learning rate
       members  other member counts (--members 2 8), from the best learning rate of --known members on
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from bench.convergence import plans, report, rules, tasks
from bench.convergence.configuration import Configuration
from bench.convergence.journal import Journal
from bench.convergence.training import train

ROOT = Path(__file__).resolve().parents[2]
_SMOKE_STEPS = 20


def main(arguments: list[str] | None = None) -> int:
    args = _options(arguments)
    torch.set_num_threads(args.threads)
    journal = Journal(args.out / "runs.jsonl")
    if args.report:
        print(report.write(journal.read(), args.out))
        return 0
    deadline = time.monotonic() + 60 * args.minutes
    while time.monotonic() < deadline:
        configuration = _next(args, journal.read())
        if configuration is None:
            print("the plan is done; --report writes its tables", flush=True)
            return 0
        line = train(configuration)
        journal.append(line)
        print(_told(configuration, line), flush=True)
    print(f"{args.minutes:g} minutes are over; the same command goes on", flush=True)
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.convergence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=ROOT / "build/convergence")
    add("--plan", choices=("smoke", "sweep", "confirm", "members"), default="sweep")
    add("--report", action="store_true", help="tables and plots of what is finished; runs nothing")
    add("--tasks", nargs="+", default=["gpt"], choices=tasks.TASKS, help="(%(default)s)")
    add("--rules", nargs="+", default=plans.COMPARED, help="names, with options: diloco:outer_lr=0.4")
    add(
        "--budgets", nargs="+", type=float, default=[0.02, 0.005], help="shares of DDP's egress (%(default)s)"
    )
    add("--members", nargs="+", type=int, default=[4], help="(%(default)s)")
    add(
        "--known",
        type=int,
        default=4,
        help="members of the sweep that the plan members builds on (%(default)s)",
    )
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="the first is the sweep's (%(default)s)")
    add("--steps", type=int, help="of a run (the task's own, or 20 for the plan smoke)")
    add(
        "--only",
        nargs="+",
        default=[],
        help="words of task, rule, budget (0.02, or none) and members, all of them",
    )
    add("--minutes", type=float, default=float("inf"), help="start no run after so long")
    add("--threads", type=int, default=1, help="of torch (%(default)s)")
    args = parser.parse_args(arguments)
    unknown = [rule for rule in args.rules if rule.partition(":")[0] not in rules.RULES]
    if unknown:
        parser.error(f"there is no rule {unknown[0]}; there are {', '.join(rules.RULES)}")
    return args


def _next(args: argparse.Namespace, finished: list[dict]) -> Configuration | None:
    own_steps = _SMOKE_STEPS if args.plan == "smoke" else None
    steps = {task: args.steps or own_steps or tasks.TASKS[task].steps for task in args.tasks}
    base_lr = {task: tasks.TASKS[task].base_lr for task in args.tasks}
    every = plans.cells(args.tasks, args.rules, args.budgets, args.members, steps)
    wanted = [cell for cell in every if cell.matches(args.only)]
    if args.plan == "smoke":
        return plans.smoke(wanted, base_lr, finished, args.seeds[0])
    if args.plan == "sweep":
        return plans.sweep(wanted, base_lr, finished, args.seeds[0])
    if args.plan == "confirm":
        return plans.confirm(wanted, finished, args.seeds)
    return plans.members(wanted, finished, args.seeds[0], args.known)


def _told(configuration: Configuration, line: dict) -> str:
    outcome = f"diverged at step {line['diverged']}" if line["diverged"] else f"loss {line['loss']:.4f}"
    return f"{configuration.label()}: {outcome}, egress {line['egress_share']:.2%}, {line['seconds']:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
