"""One number of every member made one of the run."""

from __future__ import annotations

import math
from typing import Any

from stellatrain import _core
from stellatrain.errors import error
from stellatrain.messages import exchanged, require


def mean(session: _core.Session, value: float, samples: float) -> float:
    """See Run.mean."""

    def check(message: Any) -> None:
        number, weight = message
        require(isinstance(number, float), "a number")
        require(isinstance(weight, float) and math.isfinite(weight) and weight >= 0, "a count of samples")

    if not (math.isfinite(samples) and samples >= 0):
        raise error("invalid_argument", f"samples is {samples}; it must be at least 0 and finite")
    numbers = exchanged(session, "mean", [value, samples], check)
    total = sum(weight for _, weight in numbers)
    if not total > 0:
        raise error("invalid_argument", "mean() of no samples: all members passed samples=0")
    return sum(number * weight for number, weight in numbers if weight > 0) / total
