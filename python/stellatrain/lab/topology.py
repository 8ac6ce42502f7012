"""Which members there are, how they are joined, and the commands that build it.

    wan --+-- c0 --+-- c0m0          each name is a network namespace; wan and c0, c1, ... hold a
          |        +-- c0m1          bridge `br0`; every line is a veth pair shaped at both ends
          +-- c1 --+-- c1m0

A member's end of its link is `eth0`, the switch's end `m0`, `m1`, ...; a cluster's end of its
uplink is `uplink`, the WAN switch's end has the cluster's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stellatrain.lab.errors import UsageError
from stellatrain.lab.rate import Rate

_MOST_CLUSTERS, _MOST_MEMBERS = 64, 64  # of one cluster; keeps addresses sane
_MOST_IN_ALL = 256  # built and freed in seconds; thousands of namespaces bury a machine for minutes


@dataclass(frozen=True)
class Member:
    """One member: member `index` of cluster `cluster`; ranks count cluster by cluster."""

    rank: int
    cluster: int
    index: int

    @property
    def name(self) -> str:
        return f"c{self.cluster}m{self.index}"

    @property
    def address(self) -> str:
        return f"10.77.{self.cluster}.{self.index + 1}"


@dataclass(frozen=True)
class Link:
    """A shaped veth pair. `near` and `far` are (namespace, device); near is the member's or the
    cluster's end, so what near sends is the link's `out`."""

    name: str
    near: tuple[str, str]
    far: tuple[str, str]
    rate: Rate


@dataclass(frozen=True)
class Topology:
    """`sizes[c]` members in cluster c, `lan` on each member's link, `wan` on each uplink."""

    sizes: tuple[int, ...]
    wan: Rate
    lan: Rate

    def members(self) -> list[Member]:
        places = [(c, i) for c, size in enumerate(self.sizes) for i in range(size)]
        return [Member(rank, c, i) for rank, (c, i) in enumerate(places)]

    def links(self) -> list[Link]:
        """Members' links by rank, then the uplinks by cluster."""
        down = [
            Link(m.name, (m.name, "eth0"), (f"c{m.cluster}", f"m{m.index}"), self.lan) for m in self.members()
        ]
        up = [
            Link(f"c{c} uplink", (f"c{c}", "uplink"), ("wan", f"c{c}"), self.wan)
            for c in range(len(self.sizes))
        ]
        return down + up

    def set_up(self) -> list[str]:
        """Returns the commands that build all this in an empty mount and network namespace."""
        return [
            *_switch("wan"),
            *(line for c in range(len(self.sizes)) for line in _switch(f"c{c}")),
            *(f"ip netns add {m.name}" for m in self.members()),
            *(line for link in self.links() for line in _join(link)),
            *(line for m in self.members() for line in _address(m)),
        ]


def cluster_sizes(clusters: int, members: int | Sequence[int]) -> tuple[int, ...]:
    """Returns the members of each cluster from one number for all or one number for each."""
    if not 1 <= clusters <= _MOST_CLUSTERS:
        raise UsageError(f"--clusters is {clusters}; a lab has 1 to {_MOST_CLUSTERS} clusters.")
    sizes = (members,) * clusters if isinstance(members, int) else tuple(members)
    if len(sizes) != clusters:
        raise UsageError(
            f"--members names {len(sizes)} sizes for {clusters} clusters; give one number for all "
            "clusters, or as many as there are clusters."
        )
    for size in sizes:
        if not 1 <= size <= _MOST_MEMBERS:
            raise UsageError(
                f"--members names a cluster of {size}; a cluster has 1 to {_MOST_MEMBERS} members."
            )
    if sum(sizes) > _MOST_IN_ALL:
        raise UsageError(
            f"--clusters and --members make {sum(sizes)} members; a lab has at most {_MOST_IN_ALL}, as each "
            "is a network namespace and a process of this machine."
        )
    return sizes


def _switch(namespace: str) -> Iterator[str]:
    yield f"ip netns add {namespace}"
    yield f"ip -n {namespace} link add br0 type bridge"
    yield f"ip -n {namespace} link set br0 addrgenmode none up"


def _join(link: Link) -> Iterator[str]:
    (near, near_device), (far, far_device) = link.near, link.far
    yield f"ip -n {near} link add {near_device} type veth peer name {far_device} netns {far}"
    for namespace, device in (link.near, link.far):
        master = "" if device == "eth0" else " master br0"
        yield f"ip -n {namespace} link set {device}{master} addrgenmode none up"
        yield f"tc -n {namespace} qdisc add dev {device} root {link.rate.qdisc()}"


def _address(member: Member) -> Iterator[str]:
    yield f"ip -n {member.name} link set lo up"
    yield f"ip -n {member.name} addr add {member.address}/16 dev eth0"
