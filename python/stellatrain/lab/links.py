"""How many bytes went over the links, and which share of the line that was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stellatrain.lab.sandbox import Sandbox
from stellatrain.lab.topology import Link, Topology


@dataclass(frozen=True)
class LinkUse:
    """Bytes of one link, headers of Ethernet, IP and TCP included; `out` is what the member or the
    cluster sent. `bits_per_second` is what the line carries each way, None if unshaped."""

    name: str
    bytes_out: int
    bytes_in: int
    bits_per_second: float | None

    def since(self, before: LinkUse) -> LinkUse:
        """Returns the use since the reading `before` of the same link."""
        return LinkUse(
            self.name,
            self.bytes_out - before.bytes_out,
            self.bytes_in - before.bytes_in,
            self.bits_per_second,
        )

    def share(self, count: int, seconds: float) -> float | None:
        """Returns the share of the line that `count` bytes take in `seconds`; None if unshaped."""
        if self.bits_per_second is None or seconds <= 0:
            return None
        return count * 8 / (self.bits_per_second * seconds)


def read_links(sandbox: Sandbox, topology: Topology) -> list[LinkUse]:
    """Reads the counters of every link: the members' by rank, then the uplinks by cluster."""
    links = topology.links()
    ends = [end for link in links for end in (link.near, link.far)]
    printed = sandbox.run_script(
        [f"tc -n {namespace} -s -j qdisc show dev {device} root; echo" for namespace, device in ends]
    )
    counts = [json.loads(line)[0]["bytes"] for line in printed.splitlines() if line.strip()]
    pairs = zip(counts[::2], counts[1::2], strict=True)
    return [_use(link, out, back) for link, (out, back) in zip(links, pairs, strict=True)]


def table(before: Mapping[str, LinkUse], after: Sequence[LinkUse], seconds: float) -> str:
    """Returns one line per link: bytes out and in during `seconds`, and the share of the line."""
    lines = [f"{'link':<11}{'out':>12}{'in':>20}     in {seconds:.1f} s"]
    for use in (use.since(before[use.name]) for use in after):
        columns = (_cell(use, count, seconds) for count in (use.bytes_out, use.bytes_in))
        lines.append(f"{use.name:<11}" + "  ".join(columns))
    return "\n".join(lines)


def _use(link: Link, bytes_out: int, bytes_in: int) -> LinkUse:
    return LinkUse(link.name, bytes_out, bytes_in, link.rate.bits_per_second)


def _cell(use: LinkUse, count: int, seconds: float) -> str:
    share = use.share(count, seconds)
    used = "unshaped" if share is None else f"{share:5.1%}"
    return f"{count / 1e6:9.2f} MB {used:>6}"
