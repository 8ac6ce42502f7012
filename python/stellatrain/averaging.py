"""One number of every member made one of the run."""

from __future__ import annotations

import math
import struct

from stellatrain import _core
from stellatrain.errors import error

_MESSAGE = struct.Struct("<dd")  # value, samples


def mean(session: _core.Session, value: float, samples: float) -> float:
    """See Run.mean."""
    if not (math.isfinite(samples) and samples >= 0):
        raise error("invalid_argument", f"samples is {samples}; it must be at least 0 and finite")
    numbers = []
    for rank, message in enumerate(session.all_gather("mean", _MESSAGE.pack(value, samples))):
        if len(message) != _MESSAGE.size:
            raise error("protocol", f"{session.describe(rank)} sent {len(message)} bytes in 'mean', not 16")
        numbers.append(_MESSAGE.unpack(message))
    total = sum(weight for _, weight in numbers)
    if not total > 0:
        raise error("invalid_argument", "mean() of no samples: all members passed samples=0")
    return sum(number * weight for number, weight in numbers if weight > 0) / total
