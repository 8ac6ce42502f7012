"""How the members of a run find each other."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import torch.distributed

from stellatrain import _core
from stellatrain.environment import Membership
from stellatrain.errors import error


def join(session: _core.Session, who: Membership) -> None:
    """Connects to all members: through member 0 at STELLA_COORDINATOR, or through torch's store.

    Raises Error("timeout") that names who is missing.
    """
    if who.world_size == 1:
        session.join([""])
        return
    port = session.listen()
    if who.coordinator:
        session.join_through(who.coordinator)
    elif os.environ.get("MASTER_ADDR"):
        # The store must outlive the join: member 0 may host it, and everybody reads it.
        addresses, _store = _exchange_addresses(who, port)
        session.join(addresses)
    else:
        raise error(
            "configuration",
            f"member {who.rank} of {who.world_size} does not know where the others are: start with torchrun, or "
            "set STELLA_COORDINATOR to host:port of member 0 on every member",
        )


def _exchange_addresses(who: Membership, port: int) -> tuple[list[str], torch.distributed.Store]:
    """Publishes this member's address in torch's store and reads everybody's, by rank.

    The store carries addresses only; whoever listens there still has to prove the run secret.
    """
    host = who.host or _address_towards(os.environ["MASTER_ADDR"])
    timeout = timedelta(seconds=who.join_timeout)
    store, _, _ = next(torch.distributed.rendezvous("env://", who.rank, who.world_size, timeout=timeout))
    # torchrun keeps its store over restarts: each has its own keys.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    run = os.environ.get("TORCHELASTIC_RUN_ID", "run")

    def key(rank: int) -> str:
        return f"stellatrain/{run}/{attempt}/{rank}"

    store.set(key(who.rank), f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    addresses = []
    for rank in range(who.world_size):
        try:
            addresses.append(store.get(key(rank)).decode())
        except (torch.distributed.DistStoreError, RuntimeError) as cause:
            raise error(
                "timeout",
                f"member {rank} did not appear in the store at {os.environ['MASTER_ADDR']}:"
                f"{os.environ.get('MASTER_PORT')} within {who.join_timeout:g} s: is it started, with the same "
                "MASTER_ADDR and WORLD_SIZE?",
            ) from cause
    return addresses, store


def _address_towards(host: str) -> str:
    """The address of this machine on the way to `host`; nothing is sent."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        return probe.getsockname()[0]
