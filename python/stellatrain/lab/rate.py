"""Link rates in tc's words."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stellatrain.lab.errors import UsageError

_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(kbit|mbit|gbit)", re.IGNORECASE)
_SLOWEST, _FASTEST = 64e3, 32e9  # bits/s: below, a burst outlasts a queue; above, no tbf keeps up
_BURST_SECONDS = 0.002
_LEAST_BURST = 16384  # bytes: some full-size frames, also on a slow line
_QUEUE = "50ms"


@dataclass(frozen=True)
class Rate:
    """What one direction of a link carries; `bits_per_second` is None where nothing limits it."""

    bits_per_second: float | None

    def qdisc(self) -> str:
        """Returns the words of ``tc qdisc add`` that make a link end send at this rate."""
        if self.bits_per_second is None:
            return "pfifo limit 1000"  # shapes nothing, counts bytes as tbf does
        burst = max(_LEAST_BURST, round(self.bits_per_second / 8 * _BURST_SECONDS))
        return f"tbf rate {self.bits_per_second:.0f}bit burst {burst} latency {_QUEUE}"


def parse_rate(text: str, name: str) -> Rate:
    """Returns the rate that `text` ('100mbit', '1.5gbit'; '0' or 'none': unshaped) spells.

    `name` is what to call it in the UsageError that any other text raises.
    """
    if text in ("0", "none"):
        return Rate(None)
    match = _RATE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{name} is '{text}', which is no rate; write a number and kbit, mbit or gbit "
            "(100mbit, 1.5gbit), or none for an unshaped link."
        )
    bits_per_second = float(match[1]) * _UNITS[match[2].lower()]
    if not _SLOWEST <= bits_per_second <= _FASTEST:
        raise UsageError(
            f"{name} is '{text}'; the lab shapes rates from 64kbit to 32gbit (none: an unshaped link)."
        )
    return Rate(bits_per_second)
