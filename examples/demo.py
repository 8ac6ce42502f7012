"""DDP and StellaTrain side by side: the same GPT, text, seed and wall-clock budget on this machine.

Trains first with PyTorch's DDP over gloo, then with StellaTrain, on 2 clusters of 2 members joined
by 100 Mbit/s, and writes a table, a plot and results.json. --with adds DDP with one of torch's
communication hooks. Members are processes of this machine in network namespaces (docs/lab.md), one
torch thread each; StellaTrain's engine has one more, which takes its time from the same cores.
StellaTrain is tuned by its environment variables (STELLA_WIRE=int1 python examples/demo.py).
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import shutil
import sys
import threading
import time
from pathlib import Path

import demo_report as report

from stellatrain.environment import warn_of_misspelt_variables
from stellatrain.lab import Lab, LabError

_EXAMPLES = Path(__file__).resolve().parent
_SCRIPTS = {
    "DDP": ["train_ddp.py"],
    "DDP fp16": ["train_ddp.py", "--hook", "fp16"],
    "DDP PowerSGD": ["train_ddp.py", "--hook", "powersgd", "--rank", "4"],
    "StellaTrain": ["train.py"],
}
_PROGRESS_SECONDS = 5.0
_SLACK_SECONDS = 120.0  # for starting, the validation and the last exchange


def main() -> int:
    args = _options()
    logging.basicConfig(format="%(message)s")
    warn_of_misspelt_variables()  # the members say it too, to their log files
    traces = []
    for name in ("DDP", *args.rivals, "StellaTrain"):
        print(f"\n{name}: {_setting(args)}", flush=True)
        folder = args.out / name.lower().replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            status = _train(name, folder, args)
        except LabError as error:
            print(error, file=sys.stderr)
            if os.geteuid() != 0:
                print(f"As root: {shlex.join(['sudo', sys.executable, *sys.argv])}", file=sys.stderr)
            return 1
        if status != 0:
            print(f"{name} failed with status {status}; see {folder}/*.log", file=sys.stderr)
            return status
        traces.append(report.read(name, _learning_rate(name, args), folder))
    print("\n" + report.write(traces, args.out, _setting(args), args.seconds))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seconds", type=float, default=200.0, help="of training, for each (%(default)s)")
    add("--clusters", type=int, default=2, help="%(default)s")
    add("--members", type=int, default=2, help="of each cluster (%(default)s)")
    add("--wan", default="100mbit", help="each cluster's uplink (%(default)s)")
    add("--lan", default="1gbit", help="each member's link (%(default)s)")
    add("--batch", type=int, default=1, help="sequences per member and step (%(default)s)")
    add("--context", type=int, default=128, help="tokens per sequence (%(default)s)")
    rivals = [name for name in _SCRIPTS if name.startswith("DDP ")]
    add("--with", dest="rivals", action="append", default=[], choices=rivals, help="train this too")
    add("--ddp-lr", type=float, default=5e-4, help="learning rate of DDP, with any hook (%(default)s)")
    add("--stella-lr", type=float, default=5e-4, help="that of StellaTrain (%(default)s)")
    add("--seed", type=int, default=0, help="%(default)s")
    add("--out", type=Path, default=Path("build/demo"), help="%(default)s")
    return parser.parse_args()


def _setting(args: argparse.Namespace) -> str:
    return (
        f"{args.clusters} clusters of {args.members}, WAN {args.wan}, LAN {args.lan}, "
        f"{args.batch} x {args.context} tokens per member and step, {args.seconds:g} s"
    )


def _learning_rate(name: str, args: argparse.Namespace) -> float:
    return args.stella_lr if name == "StellaTrain" else args.ddp_lr


def _train(name: str, folder: Path, args: argparse.Namespace) -> int:
    """Trains with the script of `name`, showing progress; returns the members' worst status."""
    script, *fixed = _SCRIPTS[name]
    options = {
        "--seconds": args.seconds,
        "--batch": args.batch,
        "--context": args.context,
        "--lr": _learning_rate(name, args),
        "--seed": args.seed,
        "--threads": 1,
        "--log": report.log_path(folder),
    }
    command = [sys.executable, str(_EXAMPLES / "gpt" / script), *fixed]
    command += [str(x) for pair in options.items() for x in pair]
    with Lab(args.clusters, args.members, args.wan, args.lan) as lab:
        done = threading.Event()
        progress = threading.Thread(target=_show_progress, args=(lab, folder, done))
        progress.start()
        try:
            return lab.run(
                command,
                {"OMP_NUM_THREADS": "1"} | {"STELLA_THREADS": os.environ.get("STELLA_THREADS", "1")},
                timeout=args.seconds + _SLACK_SECONDS,
                log_dir=folder,
            )
        finally:
            done.set()
            progress.join()


def _show_progress(lab: Lab, folder: Path, done: threading.Event) -> None:
    """Prints a line every few seconds until `done`, where all members did a step since the last one."""
    last_bytes, last_time, last_step = _uplink_bytes(lab), time.monotonic(), 0
    while not done.wait(_PROGRESS_SECONDS):
        state = report.latest(folder)
        if state is None or state.step == last_step:
            continue
        now, sent = time.monotonic(), _uplink_bytes(lab)
        bits = [(b - a) * 8 / (now - last_time) for a, b in zip(last_bytes, sent, strict=True)]
        print(
            f"{state.seconds:6.0f} s  step {state.step:5}  "
            f"{state.step / state.seconds:5.2f} steps/s  loss {state.loss:.3f}  "
            f"{state.megabytes_per_step:7.2f} MB/step out per member  "
            f"uplinks out {', '.join(f'{rate / 1e6:.0f}' for rate in bits)} Mbit/s",
            flush=True,
        )
        last_bytes, last_time, last_step = sent, now, state.step


def _uplink_bytes(lab: Lab) -> list[int]:
    return [use.bytes_out for use in lab.links() if use.name.endswith("uplink")]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
