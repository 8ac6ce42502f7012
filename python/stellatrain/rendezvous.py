"""How the members of a run find each other."""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta

import torch.distributed

from stellatrain import _core
from stellatrain.environment import Membership
from stellatrain.errors import error

# Seconds between two looks at the store: its own waits know no Ctrl-C, and log a stack for each in vain.
_PAUSE = 0.1
_ATTEMPT = 5.0  # seconds to reach whoever has it


def join(session: _core.Session, who: Membership) -> None:
    """Connects to all members: through member 0 at STELLA_COORDINATOR, or through torch's store.

    Raises Error("timeout") that names who is missing.
    """
    if who.world_size == 1:
        session.join([""])
        return
    deadline = time.monotonic() + who.join_timeout  # the session's own starts here too
    port = session.listen()
    if who.coordinator:
        session.join_through(who.coordinator)
    elif os.environ.get("MASTER_ADDR"):
        # The store must outlive the join: member 0 may host it, and everybody reads it.
        addresses, _store = _exchange_addresses(who, port, deadline)
        session.join(addresses)
    else:
        raise error(
            "configuration",
            f"member {who.rank} of {who.world_size} does not know where the others are: start with torchrun, "
            "or set STELLA_COORDINATOR to host:port of member 0 on every member",
        )


def _exchange_addresses(
    who: Membership, port: int, deadline: float
) -> tuple[list[str], torch.distributed.TCPStore]:
    """Publishes this member's address in torch's store and reads everybody's, by rank.

    The store carries addresses only; whoever listens there still has to prove the run secret.
    """
    store = _store(who, deadline)  # waits for the name MASTER_ADDR to appear too, so it comes first
    host = who.host or _address_towards(os.environ["MASTER_ADDR"])
    # torchrun keeps its store over restarts: each has its own keys.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    run = os.environ.get("TORCHELASTIC_RUN_ID", "run")

    def key(rank: int) -> str:
        return f"stellatrain/{run}/{attempt}/{rank}"

    # Debian maps a machine's own name to 127.0.1.1: whoever finds itself there is at MASTER_ADDR for all.
    if host.startswith("127.") and not os.environ["MASTER_ADDR"].startswith(("127.", "localhost")):
        host = os.environ["MASTER_ADDR"]
    store.set(key(who.rank), f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    addresses = []
    for rank in range(who.world_size):
        try:
            while not store.check([key(rank)]):
                if time.monotonic() > deadline:
                    raise error(
                        "timeout",
                        f"member {rank} did not appear in the store at {store.host}:{store.port} within "
                        f"{who.join_timeout:g} s: is it started, with the same MASTER_ADDR and WORLD_SIZE?",
                    )
                time.sleep(_PAUSE)
            addresses.append(store.get(key(rank)).decode())
        except torch.distributed.DistError as cause:
            raise error(
                "peer_lost",
                f"the store at {store.host}:{store.port} went while this member waited there for member "
                f"{rank}: member 0 (or torchrun), which opened it, has ended; its log says more",
            ) from cause
    return addresses, store


def _store(who: Membership, deadline: float) -> torch.distributed.TCPStore:
    """torchrun's store, or one that member 0 hosts."""
    host, port = os.environ["MASTER_ADDR"], os.environ.get("MASTER_PORT", "")
    if not port.isdecimal():
        raise error("configuration", f"MASTER_PORT is '{port}'; with MASTER_ADDR it must be set, to a port")
    hosts = who.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not hosts:
        _wait_for_listener(host, int(port), who, deadline)
    try:
        return torch.distributed.TCPStore(
            host,
            int(port),
            is_master=hosts,
            timeout=timedelta(seconds=max(1.0, deadline - time.monotonic())),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except RuntimeError as cause:
        if hosts:
            raise error(
                "configuration", f"member 0 cannot open its store at {host}:{port}: {cause}"
            ) from cause
        raise _no_store(host, int(port), who) from cause


def _wait_for_listener(host: str, port: int, who: Membership, deadline: float) -> None:
    """Returns once somebody listens there, which may be long before its name is known here."""
    while True:
        try:
            left = deadline - time.monotonic()
            socket.create_connection((host, port), timeout=min(max(_PAUSE, left), _ATTEMPT)).close()
            return
        except OSError as cause:
            if time.monotonic() > deadline:
                raise _no_store(host, port, who) from cause
            time.sleep(_PAUSE)


def _no_store(host: str, port: int, who: Membership) -> Exception:
    return error(
        "timeout",
        f"there was no store at {host}:{port} within {who.join_timeout:g} s: member 0 (or torchrun) "
        "opens it; is it started, with the same MASTER_ADDR and MASTER_PORT?",
    )


def _address_towards(host: str) -> str:
    """The address of this machine on the way to `host`; nothing is sent."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return probe.getsockname()[0]
    except OSError as cause:
        raise error(
            "configuration",
            f"this machine's address towards MASTER_ADDR {host} cannot be told ({cause}); set STELLA_HOST to "
            "the address at which the other members reach it",
        ) from cause
