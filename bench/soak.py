"""Memory over 10,000 iterations, and what an idle engine costs.

usage: python -m bench.soak [--iterations 10000] [--warm-up 40000] [--members 4] [--idle 20]

Members are threads of one process, joined over the loopback; the model is small, so that iterations are many.
They warm up first, until every thread's allocator has met its largest case, which takes some 18,000 to 24,000
of these iterations and 4 MiB. Then prints, at every tenth of the way, the resident memory and how much of it
malloc has handed out, which goes up and down with what is under way just then, and the share of a core that
an engine takes while its trainer computes nothing. Exits with 1 if resident memory grew by more than 0.5 MiB
on the way, if the least that was handed out did from the first half to the second, or if an idle engine takes
1 % of a core or more.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import socket
import sys
import threading
import time

import torch

from stellatrain import _core
from stellatrain.environment import Membership
from stellatrain.run import Run

GROWTH_LIMIT = 2**19  # bytes
IDLE_LIMIT = 0.01  # of a core, per engine


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=10_000)
    parser.add_argument("--warm-up", type=int, default=40_000, help="iterations before")
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--idle", type=float, default=20, help="seconds")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    soak = Soak(args, port, _core.new_secret())
    threads = [threading.Thread(target=soak.member, args=(rank,)) for rank in range(args.members)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return soak.verdict()


class Soak:
    """What the members share: they meet at barriers, rank 0 measures."""

    def __init__(self, args: argparse.Namespace, port: int, secret: str):
        self.args, self.port, self.secret = args, port, secret
        self.memory: list[int] = []  # resident bytes, every tenth of the way
        self.handed_out: list[int] = []  # bytes of it that malloc has given to somebody
        self.idle_share = 1.0  # of a core, per engine
        self.failures: list[BaseException] = []

    def member(self, rank: int) -> None:
        try:
            self._train(rank)
        except BaseException as failure:
            self.failures.append(failure)

    def _train(self, rank: int) -> None:
        who = Membership(
            rank=rank,
            world_size=self.args.members,
            coordinator=f"127.0.0.1:{self.port}",
            port=self.port if rank == 0 else 0,
            secret=self.secret,
        )
        with Run(who) as run:
            torch.manual_seed(rank)
            net = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256))
            _, optimizer = run.distribute(
                net,
                torch.optim.AdamW(net.parameters(), lr=1e-4),
                density=0.05,
                bucket_mib=0.0625,
                threads=1,
                rule="sparse",
            )
            x = torch.randn(4, 256)
            for iteration in range(-self.args.warm_up, self.args.iterations + 1):
                optimizer.zero_grad()
                net(x).square().mean().backward()
                optimizer.step()
                if iteration >= 0 and iteration % (self.args.iterations // 10) == 0 and rank == 0:
                    self.memory.append(_resident_bytes())
                    self.handed_out.append(_handed_out_bytes())
                    print(
                        f"iteration {iteration}: {self.memory[-1] / 2**20:.2f} MiB, "
                        f"{self.handed_out[-1] / 2**20:.2f} of them handed out",
                        flush=True,
                    )
            run.session.all_gather("idle begins", b"")
            self._idle(rank)
            run.session.all_gather("idle ends", b"")
            run.finish()

    def _idle(self, rank: int) -> None:
        """All trainers wait; the process's CPU time is that of the engines."""
        time.sleep(1)
        before = _cpu_seconds()
        time.sleep(self.args.idle)
        if rank == 0:
            self.idle_share = (_cpu_seconds() - before) / self.args.idle / self.args.members
            print(f"idle: {self.idle_share:.3%} of a core per engine", flush=True)

    def verdict(self) -> int:
        if self.failures:
            print(f"failed: {self.failures[0]}", file=sys.stderr)
            return 1
        resident = self.memory[-1] - self.memory[0]
        half = len(self.handed_out) // 2
        handed_out = min(self.handed_out[half:]) - min(self.handed_out[:half])
        print(
            f"memory grew by {resident / 2**20:.2f} MiB in {self.args.iterations} iterations, the least that "
            f"was handed out by {handed_out / 2**20:.2f} MiB from the first half to the second"
        )
        return int(max(resident, handed_out) > GROWTH_LIMIT or self.idle_share >= IDLE_LIMIT)


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class _Mallinfo2(ctypes.Structure):
    """glibc's, 2.33 and later."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks")
    ] + [(name, ctypes.c_size_t) for name in ("fordblks", "keepcost")]


def _handed_out_bytes() -> int:
    """What every arena's blocks in use hold, and blocks with a mapping of their own."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo2
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
