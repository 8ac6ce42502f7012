"""A private set of mount, network and process namespaces that dies with its owner.

One process, process 1 of the new process namespace, keeps it alive. It reads a pipe that only the
owner holds; when the owner closes the pipe or dies, however it dies, process 1 ends, and with it
the kernel ends every process inside and frees every network namespace named there: the names live
in a file system (a tmpfs on /run) that nothing outside can see. So there is nothing to clean up.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from stellatrain.lab.errors import LabError

SECRET_FILE = "/run/stella-secret"
_READY = "ready\n"
_CLOSE_SECONDS = 10.0
_PACKAGES = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "tc": "iproute2"}
# Settings of the kernel that can forbid user namespaces: name, the value that forbids, one that allows.
_SWITCHES = [
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),  # Ubuntu's
    ("kernel.unprivileged_userns_clone", "0", "1"),  # Debian's
    ("user.max_user_namespaces", "0", "10000"),
]
_KEEPER = f"""
mount -t tmpfs -o mode=755 tmpfs /run || exit 1
IFS= read -r secret
umask 077; printf '%s\\n' "$secret" > {SECRET_FILE} || exit 1; umask 022
exec 3<&0
cat <&3 >/dev/null &
echo ready
wait  # reaps orphans, too, until the pipe is closed
"""


class Sandbox:
    """Namespaces holding `secret` as one line in SECRET_FILE, readable by their owner only.

    Without `user_namespace` the caller must be root; with it, the kernel must allow user namespaces
    and the caller is root inside. Raises LabError if the namespaces cannot be had.
    """

    def __init__(self, secret: str, user_namespace: bool) -> None:
        _require_tools()
        user = ["--user", "--map-root-user"] if user_namespace else []
        namespaces = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._user_namespace = user_namespace
        self._keeper = subprocess.Popen(
            ["unshare", *user, *namespaces, "sh", "-c", _KEEPER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C in the terminal is the owner's to handle
            env=_environment(),
            text=True,
        )
        try:
            self._await_ready(secret)
        except BaseException:
            self.close()
            raise

    def enter(self) -> list[str]:
        """Returns the command that runs another one, appended to it, inside; its children, not itself, are
        in the process namespace."""
        pid = self._keeper.pid
        user = ["--user", "--preserve-credentials"] if self._user_namespace else []
        namespaces = ["--mount", "--net", f"--pid=/proc/{pid}/ns/pid_for_children"]
        return ["nsenter", f"--target={pid}", "--no-fork", *user, *namespaces]

    def run_script(self, lines: Sequence[str]) -> str:
        """Runs `lines` of shell inside, up to the first that fails, and returns what they print."""
        done = subprocess.run(
            [*self.enter(), "sh", "-e"],
            check=False,
            input="\n".join(lines),
            capture_output=True,
            start_new_session=True,
            env=_environment(),
            text=True,
        )
        if done.returncode != 0:
            raise LabError(f"a command of the lab's own failed: {_one_line(done.stderr)}")
        return done.stdout

    def close(self) -> None:
        """Ends everything inside and returns once it is gone. May be called again."""
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.close()
        try:
            self._keeper.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        self._keeper.stdout.close()
        self._keeper.stderr.close()

    def _await_ready(self, secret: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.write(secret + "\n")
            self._keeper.stdin.flush()
        if self._keeper.stdout.readline() != _READY:
            reason = _one_line(self._keeper.stderr.read())
            raise LabError(
                f"this machine does not let the lab make network namespaces ({reason}); "
                f"{_remedy(self._user_namespace)}."
            )


def _remedy(user_namespace: bool) -> str:
    """Returns what lets the lab make its namespaces here."""
    container = "a container must be started with --privileged"
    if not user_namespace:
        return container
    forbidding = [f"{name}={allow}" for name, forbid, allow in _SWITCHES if _setting(name) == forbid]
    if not forbidding:
        return f"run it as root ({container})"
    return f"run it as root, or allow user namespaces: sudo sysctl -w {' '.join(forbidding)}"


def _setting(name: str) -> str | None:
    """Returns the kernel's setting `name`, None if this kernel has no such."""
    try:
        return Path("/proc/sys", *name.split(".")).read_text().strip()
    except OSError:
        return None


def _require_tools() -> None:
    for tool, package in _PACKAGES.items():
        if shutil.which(tool, path=_environment()["PATH"]) is None:
            raise LabError(f"the lab needs the command {tool}; install the package {package}.")


def _environment() -> dict[str, str]:
    """The present environment, with the folders where Debian keeps ip and tc on the path."""
    path = os.environ.get("PATH", os.defpath)
    return {**os.environ, "PATH": f"{path}:/usr/sbin:/sbin", "LC_ALL": "C"}


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip()) or "no reason given"
