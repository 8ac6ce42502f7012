"""The lab: links carry what they are set to, statuses come back, nothing is ever left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import lacking

from stellatrain.lab import Lab, LabError
from stellatrain.lab.rate import parse_rate
from stellatrain.lab.topology import Topology

RECEIVER = """
import socket, sys, time
server = socket.create_server(("", 5000))
print("listening", flush=True)
with server.accept()[0] as peer:
    peer.recv(1 << 16)
    start, count = time.monotonic(), 0
    while chunk := peer.recv(1 << 16):
        count += len(chunk)
    print(count, time.monotonic() - start, flush=True)
"""
SENDER = """
import socket, sys
with socket.create_connection((sys.argv[1], 5000), timeout=5) as peer:
    peer.settimeout(None)
    for _ in range(int(sys.argv[2])):
        peer.sendall(bytes(100_000))
"""
MEMBERS = ("c0m0", "c0m1", "c1m0", "c1m1")  # of a lab by default
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 5000), timeout=1)"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two clusters, of two members and one."""
    try:
        lab = Lab(clusters=2, members=(2, 1), wan="40mbit", lan="200mbit").__enter__()
    except LabError as error:
        lacking(str(error))
    yield lab
    lab.__exit__()


def python(lab: Lab, member: str, code: str, *arguments: object):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return lab.popen(member, command, stdout=subprocess.PIPE, text=True)


def receiver(lab: Lab, member: str):
    process = python(lab, member, RECEIVER)
    assert process.stdout.readline() == "listening\n"
    return process


def goodput(lab: Lab, sender: str, to: str, count: int) -> float:
    """Returns the payload bits/s of a transfer of about `count` bytes."""
    with receiver(lab, to) as server:
        address = lab.members[to].address
        with python(lab, sender, SENDER, address, count // 100_000) as client:
            assert client.wait(20) == 0
        received, seconds = server.stdout.readline().split()
    return int(received) * 8 / float(seconds)


def used(lab: Lab) -> dict[str, tuple[int, int]]:
    return {use.name: (use.bytes_out, use.bytes_in) for use in lab.links()}


@pytest.mark.parametrize("ends", [("c0m0", "c1m0"), ("c1m0", "c0m1")])
def test_a_transfer_between_clusters_gets_the_rate_of_the_uplink(lab: Lab, ends) -> None:
    before = used(lab)
    assert 0.85 * 40e6 <= goodput(lab, *ends, 6_000_000) <= 40e6
    after = used(lab)
    out, back = f"{ends[0][:2]} uplink", f"{ends[1][:2]} uplink"
    assert 6_000_000 < after[out][0] - before[out][0] < 7_000_000
    assert 6_000_000 < after[back][1] - before[back][1] < 7_000_000


def test_a_transfer_inside_a_cluster_gets_the_rate_of_the_link_and_no_uplink(lab: Lab) -> None:
    before = used(lab)
    assert 0.85 * 200e6 <= goodput(lab, "c0m0", "c0m1", 25_000_000) <= 200e6
    after = used(lab)
    assert after["c0m0"][0] - before["c0m0"][0] > 25_000_000
    assert after["c0m1"][1] - before["c0m1"][1] > 25_000_000
    assert after["c0 uplink"][0] - before["c0 uplink"][0] < 10_000


def test_a_cut_member_is_unreachable_until_it_is_restored(lab: Lab) -> None:
    with receiver(lab, "c0m1") as server:
        lab.cut("c0m1")
        with python(lab, "c0m0", CONNECT, lab.members["c0m1"].address) as client:
            assert client.wait(10) != 0
        lab.restore("c0m1")
        with python(lab, "c0m0", CONNECT, lab.members["c0m1"].address) as client:
            assert client.wait(10) == 0
        assert server.wait(10) == 0


def test_members_know_their_place_and_share_a_private_secret(lab: Lab) -> None:
    code = """
import os, pathlib, stat
names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "STELLA_HOST",
         "STELLA_MEMBER", "STELLA_CLUSTER", "STELLA_COORDINATOR", "EXTRA"]
secret = pathlib.Path(os.environ["STELLA_SECRET_FILE"])
assert stat.S_IMODE(secret.stat().st_mode) == 0o600
print(*(os.environ[name] for name in names), secret.read_text().strip())
"""
    lines: dict[str, str] = {}
    status = lab.run(
        [sys.executable, "-c", code],
        {"EXTRA": "more"},
        output=lambda member, line: lines.update({member: line.decode()}),
    )
    assert status == 0
    secret = lines["c0m0"].split()[-1]
    assert secret.startswith("stella-secret-1:")
    shared = "10.77.0.1"
    for rank, (name, address) in enumerate([("c0m0", shared), ("c0m1", "10.77.0.2"), ("c1m0", "10.77.1.1")]):
        assert lines[name].split() == [
            *(str(rank), "3", "0", "1", shared, address, name, name[:2]),
            *(f"{shared}:29400", "more", secret),
        ]


def test_the_lab_is_alone_in_its_network(lab: Lab) -> None:
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
    assert "br0" not in links.stdout
    with lab.popen("c0m0", ["ip", "route"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.read().split()[:3] == ["10.77.0.0/16", "dev", "eth0"]


def test_the_worst_status_comes_back_and_the_others_are_ended_after_the_grace(lab: Lab) -> None:
    start = time.monotonic()
    assert lab.run(["sh", "-c", "[ $RANK = 2 ] && exit 7; exec sleep 60"], grace=0.2) == 7
    assert time.monotonic() - start < 5


def test_a_stopped_member_is_ended_too_and_leaves_nothing_behind(lab: Lab) -> None:
    """What is stopped takes no signal but SIGKILL until it goes on."""
    before = children()
    start = time.monotonic()
    stopped = "[ $RANK = 2 ] && { sleep 0.5; exit 7; }; kill -STOP $$"
    assert lab.run(["sh", "-c", stopped], grace=0.2) == 7
    assert time.monotonic() - start < 5
    assert children() == before


def children() -> set[str]:
    """Of this process, those that ended but were not awaited among them."""
    lists = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {child for path in lists for child in path.read_text().split()}


def test_a_member_can_be_stopped_and_goes_on(lab: Lab) -> None:
    """As a machine that freezes for a while."""
    with lab.popen("c0m0", ["sh", "-c", "echo up; read line; echo on"], stdin=-1, stdout=-1) as sh:
        assert sh.stdout.readline() == b"up\n"
        sh.send_signal(signal.SIGSTOP)
        sh.stdin.write(b"go on\n")
        sh.stdin.close()
        assert not select.select([sh.stdout], [], [], 0.3)[0]
        sh.send_signal(signal.SIGCONT)
        assert sh.stdout.read() == b"on\n"
        assert sh.wait(5) == 0


def test_a_member_that_was_stopped_and_continued_at_once_goes_on(lab: Lab) -> None:
    with lab.popen("c0m0", ["sh", "-c", "echo up; read line; exit 7"], stdin=-1, stdout=-1) as sh:
        assert sh.stdout.readline() == b"up\n"
        for _ in range(20):
            sh.send_signal(signal.SIGSTOP)
            sh.send_signal(signal.SIGCONT)
        sh.stdin.write(b"\n")
        sh.stdin.close()
        assert sh.wait(5) == 7


def test_whoever_stops_a_member_and_lets_it_go_on_the_lab_ends_with_it(lab: Lab) -> None:
    """From a shell outside, say, with the number that ps shows."""
    script = "print('up', flush=True); input(); exit(7)"
    with lab.popen("c0m0", [sys.executable, "-c", script], stdin=-1, stdout=-1, text=True) as process:
        process.stdout.readline()
        (number,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(number), signal.SIGSTOP)
        while state_of(int(number)) != "T":
            time.sleep(0.01)
        os.kill(int(number), signal.SIGCONT)
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(5) == 7


def state_of(process: int) -> str:
    """As /proc has it: "T" is stopped."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0]


def test_a_member_that_a_signal_ends_ends_by_that_signal(lab: Lab) -> None:
    for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM):
        with lab.popen("c0m0", ["sh", "-c", f"kill -{int(number)} $$"]) as process:
            assert process.wait(5) == -number


def test_a_command_starts_with_the_signals_that_a_shell_would_give_it(lab: Lab) -> None:
    """Python ignores two, which its children would inherit."""
    with lab.popen("c0m0", ["grep", "SigIgn", "/proc/self/status"], stdout=-1, text=True) as process:
        ignored = int(process.stdout.read().split()[1], 16)
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


@pytest.mark.parametrize("up", [True, False], ids=["when it is up", "while it starts"])
def test_a_lab_ends_at_once_with_a_member_that_is_stopped(lab: Lab, up: bool) -> None:
    with Lab(clusters=1, members=1) as own:
        frozen = own.popen("c0m0", ["sh", "-c", "echo up; exec sleep 60"], stdout=-1)
        if up:
            assert frozen.stdout.readline() == b"up\n"
        frozen.send_signal(signal.SIGSTOP)
        since = time.monotonic()
    assert time.monotonic() - since < 5
    assert frozen.wait(5) == -signal.SIGKILL
    frozen.stdout.close()


def test_a_run_out_of_time_reports_124_and_whom_it_ends(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    assert lab.run(["sleep", "60"], timeout=0.2) == 124
    assert caplog.messages == ["time is up", "ending c0m0, c0m1, c1m0 (SIGTERM)"]


def test_the_members_that_a_failure_ends_are_named(
    lab: Lab, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stellatrain.lab.run._KILL_SECONDS", 2)
    stubborn = "trap '' TERM; exec sleep 60"
    script = f"case $RANK in 0) exec sleep 60;; 1) {stubborn};; 2) sleep 0.5; exit 7;; esac"
    assert lab.run(["sh", "-c", script], grace=0.2) == 7
    assert caplog.messages == [
        "c1m0 ended with status 7",
        "the other members have 0.2 s to end by themselves",
        "ending c0m0, c0m1 (SIGTERM)",
        "ending c0m1 (SIGKILL)",
    ]


def test_a_member_ended_by_a_signal_reports_128_and_the_signal(lab: Lab) -> None:
    assert lab.run(["sh", "-c", "kill -9 $$"]) == 137


def test_a_signal_reaches_the_children_of_a_command(lab: Lab) -> None:
    with lab.popen("c0m0", ["sh", "-c", "sleep 60 & echo up; wait"], stdout=subprocess.PIPE) as sh:
        assert sh.stdout.readline() == b"up\n"
        sh.terminate()
        assert sh.wait(5) == -signal.SIGTERM
        assert sh.stdout.read() == b""  # the sleep held the other end of this pipe


def test_log_files_hold_the_output_of_each_member(lab: Lab, tmp_path: Path) -> None:
    assert lab.run(["sh", "-c", "echo $RANK; echo late >&2"], log_dir=tmp_path) == 0
    assert [(tmp_path / f"{name}.log").read_text() for name in lab.members] == [
        f"{rank}\nlate\n" for rank in range(3)
    ]


@pytest.mark.parametrize(
    ("times", "sentence"), [({"timeout": float("inf")}, "--timeout is inf"), ({"grace": -1}, "--grace is -1")]
)
def test_a_run_of_times_that_nobody_can_wait_starts_nothing(
    lab: Lab, times: dict[str, float], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(LabError, match=sentence):
        lab.run(["touch", str(tmp_path / "started")], **times)
    assert not list(tmp_path.iterdir())


def test_a_run_whose_log_cannot_be_written_starts_nothing(lab: Lab, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    (logs / "c1m0.log").mkdir(parents=True)
    with pytest.raises(LabError, match=r"c1m0\.log"):
        lab.run(["touch", str(tmp_path / "started")], log_dir=logs)
    assert list(tmp_path.iterdir()) == [logs]


def test_logs_on_a_full_disk_are_told_as_what_they_lack(lab: Lab, tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=64k tmpfs {tmp_path} && exec "$@"'
    much = ["head", "-c", "1000000", "/dev/zero"]
    command = [sys.executable, "-m", "stellatrain", "lab", "--log-dir", str(tmp_path), "--", *much]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"the logs in '{tmp_path}' lack what could not be written: [Errno 28] No space" in done.stderr


def test_a_lab_in_a_user_namespace_works_alike() -> None:
    try:
        with Lab(clusters=1, members=2, user_namespace=True) as lab:
            assert lab.run(["sh", "-c", "exit $RANK"]) == 1
            assert len(lab.links()) == 3
    except LabError as error:
        lacking(str(error))


def test_where_user_namespaces_are_forbidden_the_error_names_the_switch(lab: Lab) -> None:
    code = "from stellatrain.lab import Lab; Lab(user_namespace=True).__enter__()"
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "allow user namespaces: sudo sysctl -w user.max_user_namespaces=10000." in done.stderr


class Beacon:
    """A named pipe that members of a `stella lab` hold open: it tells when all have died."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "beacon"
        os.mkfifo(self.path)
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self._namespaces: set[str] = set()

    def start(self) -> subprocess.Popen:
        """Starts a lab whose members and their children heed no SIGTERM, and awaits them."""
        script = (
            f"trap '' TERM INT; exec 3>{self.path}; readlink /proc/self/ns/net >&3; sleep 300 & sleep 300"
        )
        # What a script starts in its background has SIGINT ignored, and hands that on.
        heeding = ["env", "--default-signal=INT"]
        lab = subprocess.Popen(
            [*heeding, sys.executable, "-m", "stellatrain", "lab", "--", "sh", "-c", script],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        seen = b""
        while seen.count(b"\n") < 4:
            seen += self._read()
        self._namespaces = set(seen.decode().split())
        assert len(self._namespaces & namespaces()) == 4
        return lab

    def nothing_is_left(self) -> bool:
        return self._read() == b"" and not self._namespaces & namespaces()

    def _read(self) -> bytes:
        assert select.select([self._descriptor], [], [], 15)[0], "members live on after 15 s"
        return os.read(self._descriptor, 1000)


def namespaces() -> set[str]:
    """Returns the network namespaces of all processes and of all mounts that this one sees."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found = {line.split()[3] for line in mounts if " nsfs " in line}
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(os.readlink(link))
        except OSError:
            continue
    return found


@pytest.fixture
def beacon(lab: Lab, tmp_path: Path) -> Beacon:
    return Beacon(tmp_path)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_lab_leaves_nothing_behind_and_tells_what_the_links_carried(
    beacon: Beacon, sig: signal.Signals
) -> None:
    process = beacon.start()
    process.send_signal(sig)
    said = process.communicate(timeout=15)[1].splitlines()
    assert process.returncode == 128 + sig
    assert beacon.nothing_is_left()
    assert said[:4] == [
        f"stella lab: 4 members start: {', '.join(MEMBERS)}",
        f"stella lab: ending {', '.join(MEMBERS)} (SIGTERM)",
        f"stella lab: ending {', '.join(MEMBERS)} (SIGKILL)",
        "stella lab: interrupted; all members have ended",
    ]
    assert [line[:9].strip() for line in said[4:]] == ["link", *MEMBERS, "c0 uplink", "c1 uplink"]


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_members_of_an_interrupted_lab_may_end_in_order_and_are_heard(lab: Lab, sig: signal.Signals) -> None:
    script = "trap 'echo saved; exit' TERM; echo up; while true; do sleep 0.1; done"
    command = [sys.executable, "-m", "stellatrain", "lab", "--members", "1", "--", "sh", "-c", script]
    process = subprocess.Popen(
        ["env", "--default-signal=INT", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert {process.stdout.readline() for _ in range(2)} == {"[c0m0] up\n", "[c1m0] up\n"}
    process.send_signal(sig)
    assert {"[c0m0] saved", "[c1m0] saved"} <= set(process.communicate(timeout=15)[0].splitlines())
    assert process.returncode == 128 + sig


def test_a_killed_lab_leaves_nothing_behind(beacon: Beacon) -> None:
    process = beacon.start()
    process.kill()
    process.communicate(timeout=5)
    assert beacon.nothing_is_left()


def test_a_set_up_that_fails_halfway_leaves_nothing_behind(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(Topology, "set_up", lambda _: ["ip netns add a", "ip netns add a"])
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    with pytest.raises(LabError, match='"/run/netns/a"'), Lab(clusters=1, members=1):
        pass
    assert started
    assert all(process.poll() is not None for process in started)


def never_built(folder: Path, *options: str) -> subprocess.Popen:
    """A `stella lab` whose links are never done; it is on it when this returns."""
    begun = folder / "begun"
    code = f"""
import sys
from stellatrain.cli import main
from stellatrain.lab.topology import Topology
Topology.set_up = lambda _: ["touch {begun}", "sleep 60"]
sys.exit(main(["lab", *sys.argv[1:], "--", "true"]))
"""
    lab = subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-c", code, *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    while not begun.exists():
        assert lab.poll() is None, lab.stderr.read()
        time.sleep(0.01)
    return lab


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_a_lab_that_is_still_being_built_ends_at_once(lab: Lab, tmp_path: Path, sig: signal.Signals) -> None:
    building = never_built(tmp_path)
    building.send_signal(sig)
    building.communicate(timeout=5)
    assert building.returncode == 128 + sig


def test_the_timeout_counts_from_the_start_and_not_from_when_the_lab_is_built(
    lab: Lab, tmp_path: Path
) -> None:
    building = never_built(tmp_path, "--timeout", "2")
    assert building.communicate(timeout=7)[1] == (
        "stella lab: time is up; the lab was still being built, and no member has started\n"
    )
    assert building.returncode == 124


@pytest.mark.parametrize("text", ["fast", "100", "100mb", "-1mbit", "1e3mbit", "1kbit", "99gbit"])
def test_a_rate_that_is_none_is_named(text: str) -> None:
    with pytest.raises(LabError, match=f"--wan is '{text}'"):
        Lab(wan=text)


def test_rates_are_tcs() -> None:
    rates = [parse_rate(text, "--lan").bits_per_second for text in ("64kbit", "1.5gbit", "2Mbit", "none")]
    assert rates == [64e3, 1.5e9, 2e6, None]


def test_sizes_must_fit_the_clusters() -> None:
    with pytest.raises(LabError, match="3 sizes for 2 clusters"):
        Lab(clusters=2, members=(1, 2, 3))
    with pytest.raises(LabError, match="a cluster of 0"):
        Lab(clusters=2, members=(1, 0))
    with pytest.raises(LabError, match="make 4096 members; a lab has at most 256"):
        Lab(clusters=64, members=64)
    assert len(Lab(clusters=64, members=4).members) == 256
