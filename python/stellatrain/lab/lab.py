"""The lab: members in network namespaces joined by shaped links, as long as a with-block lasts."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from stellatrain.lab.bounds import check_times, make_log_dir, why_unwritable
from stellatrain.lab.errors import LabError
from stellatrain.lab.links import LinkUse, read_links
from stellatrain.lab.process import MemberProcess
from stellatrain.lab.rate import parse_rate
from stellatrain.lab.run import Output, Run
from stellatrain.lab.sandbox import SECRET_FILE, Sandbox
from stellatrain.lab.topology import Member, Topology, cluster_sizes

_MASTER_PORT, _STELLA_PORT = 29500, 29400  # every member has its ports to itself
_FORWARDING, _DISABLED = 3, 0  # states of a bridge port

log = logging.getLogger("stellatrain.lab")


class Lab:
    """`members` members in each of `clusters` clusters (or a size for each cluster).

    wan   rate of each cluster's uplink, each way, as tc spells it; 'none': unshaped
    lan   rate of each member's link, each way
    user_namespace  whether to become root of a user namespace first; None: unless root already

        with Lab(clusters=2, members=2, wan="100mbit", lan="1gbit") as lab:
            status = lab.run(["python", "train.py"])

    Leaving the block ends every process inside and frees everything, as does the end of the process
    that made the lab. Raises LabError where the machine or an argument is not up to it. A lab
    belongs to one thread, apart from `links`, `cut` and `restore`.
    """

    def __init__(
        self,
        clusters: int = 2,
        members: int | Sequence[int] = 2,
        wan: str = "100mbit",
        lan: str = "1gbit",
        user_namespace: bool | None = None,
    ) -> None:
        self._topology = Topology(
            cluster_sizes(clusters, members), parse_rate(wan, "--wan"), parse_rate(lan, "--lan")
        )
        self._user_namespace = os.geteuid() != 0 if user_namespace is None else user_namespace
        self._sandbox: Sandbox | None = None
        self._processes: weakref.WeakSet[MemberProcess] = weakref.WeakSet()
        self.members: dict[str, Member] = {m.name: m for m in self._topology.members()}

    def __enter__(self) -> Lab:
        from stellatrain import _core  # only who starts a lab needs the core

        self._sandbox = Sandbox(_core.new_secret(), self._user_namespace)
        try:
            self._sandbox.run_script(self._topology.set_up())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for process in list(self._processes):
                process.kill()  # also one that is stopped, which would outlast the lab outside of it
        finally:
            self._sandbox.close()
            self._sandbox = None

    def environment(self, member: str) -> dict[str, str]:
        """Returns the variables by which the member `member` finds its place and the others."""
        me, first = self._member(member), next(iter(self.members.values()))
        return {
            "RANK": str(me.rank),
            "WORLD_SIZE": str(len(self.members)),
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": first.address,
            "MASTER_PORT": str(_MASTER_PORT),
            "GLOO_SOCKET_IFNAME": "eth0",
            "STELLA_COORDINATOR": f"{first.address}:{_STELLA_PORT}",
            "STELLA_PORT": str(_STELLA_PORT),
            "STELLA_HOST": me.address,
            "STELLA_MEMBER": me.name,
            "STELLA_CLUSTER": f"c{me.cluster}",
            "STELLA_SECRET_FILE": SECRET_FILE,
        }

    def popen(
        self,
        member: str,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        **options: object,
    ) -> MemberProcess:
        """Starts `command` on the member named `member`, with this process's environment, the
        member's own and `env`, in its working directory; `options` are `subprocess.Popen`'s."""
        inside = ["ip", "netns", "exec", member, *command]
        options = {"stdin": subprocess.DEVNULL, "start_new_session": True, **options}
        process = MemberProcess(
            self._sandbox.enter(),
            inside,
            env={**os.environ, **self.environment(member), **(env or {})},
            **options,
        )
        self._processes.add(process)
        return process

    def run(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        grace: float = 20.0,
        timeout: float | None = None,
        log_dir: Path | None = None,
        output: Output | None = None,
    ) -> int:
        """Runs `command` on every member and returns the worst exit status (124: out of time).

        When a member fails, the others have `grace` seconds to end before SIGTERM, then SIGKILL;
        `timeout` seconds bound the whole. What members print goes, stdout and stderr together, to
        `log_dir`/<member>.log, or line by line to output(member, line), by default to stdout with
        the member's name before each line. LabError for times or a `log_dir` that cannot be, with
        nothing started.
        """
        check_times(grace, timeout)
        make_log_dir(log_dir)
        with contextlib.ExitStack() as files:
            outputs = {
                name: files.enter_context(_log(log_dir, name)) if log_dir else subprocess.PIPE
                for name in self.members
            }
            processes = {
                name: self.popen(name, command, env, stdout=stdout, stderr=subprocess.STDOUT)
                for name, stdout in outputs.items()
            }
            status = Run(processes, output or _print_line, grace, timeout).wait()
        if status != 0 and log_dir is not None and (cause := why_unwritable(log_dir)):
            log.warning("the logs in '%s' lack what could not be written: %s; make room", log_dir, cause)
        return status

    def links(self) -> list[LinkUse]:
        """Returns the counters of the members' links by rank, then of the uplinks by cluster."""
        return read_links(self._sandbox, self._topology)

    def cut(self, member: str) -> None:
        """Lets no frame pass to or from the member until `restore`; nobody is told."""
        self._set_port(member, _DISABLED)

    def restore(self, member: str) -> None:
        """Lets the member's frames pass again."""
        self._set_port(member, _FORWARDING)

    def _member(self, name: str) -> Member:
        if name not in self.members:
            raise LabError(f"the lab has no member '{name}'; it has {', '.join(self.members)}.")
        return self.members[name]

    def _set_port(self, member: str, state: int) -> None:
        me = self._member(member)
        self._sandbox.run_script([f"bridge -n c{me.cluster} link set dev m{me.index} state {state}"])


def _log(log_dir: Path, member: str) -> BinaryIO:
    try:
        return open(log_dir / f"{member}.log", "wb")
    except OSError as cause:
        raise LabError(
            f"--log-dir is '{log_dir}'; it must be a folder whose logs can be written: {cause}."
        ) from cause


def _print_line(member: str, line: bytes) -> None:
    sys.stdout.buffer.write(f"[{member}] ".encode() + line)
    sys.stdout.buffer.flush()
