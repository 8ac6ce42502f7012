"""Bytes that one member sends. Headers, acknowledgements and retransmissions are not counted."""

from __future__ import annotations


def ring_all_reduce(members: int, size: float) -> float:
    """A vector of `size` bytes: reduce-scatter and all-gather, each N-1 messages of a 1/N of it."""
    return 2 * (members - 1) / members * size


def all_gather(members: int, size: float) -> float:
    """A message of `size` bytes that reaches each other member, directly or round a ring."""
    return (members - 1) * size


def of_ddp(members: int, parameters: int) -> float:
    """One step of DistributedDataParallel: every gradient in fp32. The 100 % of all tables."""
    return ring_all_reduce(members, 4 * parameters)


def all_gather_message(budget: float, members: int, parameters: int) -> float:
    """Bytes of the message whose all-gather costs the share `budget` of DDP's egress."""
    return budget * 8 * parameters / members  # budget * of_ddp / (members - 1)
