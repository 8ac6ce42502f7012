"""The options that train.py and train_ddp.py share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path


def parse(
    description: str, add_own: Callable[[argparse.ArgumentParser], None] | None = None
) -> argparse.Namespace:
    """Returns the options of the command line; without --seconds and --steps, 100 steps.

    `add_own` adds what only one of the two scripts has.
    """
    parser = argparse.ArgumentParser(description=description)
    if add_own:
        add_own(parser)
    add = parser.add_argument
    add("--seconds", type=float, default=math.inf, help="wall-clock budget of training")
    add("--steps", type=int, help="stop after so many steps")
    add("--batch", type=int, default=1, help="sequences per member and step (%(default)s)")
    add("--context", type=int, default=128, help="tokens per sequence (%(default)s)")
    add("--lr", type=float, default=5e-4, help="learning rate after warm-up (%(default)s)")
    add("--warmup", type=int, default=10, help="steps of linear warm-up (%(default)s)")
    add("--seed", type=int, default=0, help="of weights and data order (%(default)s)")
    add("--threads", type=int, default=1, help="CPU threads of torch (%(default)s)")
    add("--log", type=Path, help="JSON lines, one per step; {rank} in the name is replaced")
    options = parser.parse_args()
    if options.steps is None:
        options.steps = 100 if math.isinf(options.seconds) else 10**9
    return options


def warmup_factor(options: argparse.Namespace):
    """Returns the factor of the learning rate by step: a linear warm-up, then 1.

    Constant afterwards, because runs that are compared at equal wall-clock time take different
    numbers of steps: a decay by step would finish in one and hardly begin in the other.
    """
    return lambda step: min(1.0, (step + 1) / max(1, options.warmup))
