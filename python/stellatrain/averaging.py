"""One number of every member made one of the run."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from stellatrain.agreement import together, until_all_heard
from stellatrain.errors import error, number
from stellatrain.messages import require

if TYPE_CHECKING:
    from stellatrain.run import Run


def mean(run: Run, value: float, samples: float) -> float:
    """See Run.mean."""

    def mine() -> list[float]:
        return [number(value, "value"), _checked(number(samples, "samples"))]

    def check(message: Any) -> None:
        theirs, weight = message
        require(isinstance(theirs, float), "a number")
        require(isinstance(weight, float) and _usable(weight), "a count of samples")

    if run.world_size == 1:
        mine()  # a sentence without a member's name: there is one only
    numbers = together(run, "mean", mine, check)
    counted = [(theirs, weight) for theirs, weight in numbers if weight > 0]
    if not counted:
        until_all_heard(run, "mean")
        raise error("invalid_argument", "mean() of no samples: all members passed samples=0")
    return _weighted_mean(counted)


def _checked(samples: float) -> float:
    if not _usable(samples):
        raise error("invalid_argument", f"samples is {samples}; it must be 0, or lie between 1e-9 and 1e12")
    return samples


def _usable(samples: float) -> bool:
    """As step() takes them: usable_samples() of src/exchange/payload.hpp."""
    return samples == 0 or 1e-9 <= samples <= 1e12


def _weighted_mean(numbers: list[tuple[float, float]]) -> float:
    """Of (number, weight): exact, then rounded once. So it cannot overflow, and equal numbers stay."""
    if odd := [number for number, _ in numbers if not math.isfinite(number)]:
        return sum(odd)
    exact = [(Fraction(number), Fraction(weight)) for number, weight in numbers]
    return float(sum(number * weight for number, weight in exact) / sum(weight for _, weight in exact))
