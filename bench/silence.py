"""Does rule="local" wait for anybody? Steps/s on a slow link, on a cut one, and beside a member that stops.

usage: python -m bench.silence [--wan 100mbit 20mbit] [--parameters 10] [--compute 0.3] [--calm 30]
                               [--cut 30] [--stop 60] [--out build/silence]

Four members with a link of --wan each and the stand-in GPU of bench/hiding.py: compute is a timed wait,
gradients are recorded from a GPT on real text, and torch's fused AdamW steps. One run for each rate: calm,
then the link of the last member is cut, calm, then the last member is stopped (SIGSTOP), calm, and finish(),
after which all must hold the same weights. Before and behind it the same members train without any network,
for as long as a calm phase. A row is the slowest of those members that are not stopped; ratios are steps/s
over the mean of both runs without network.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from bench.hiding import MEMBERS, SIZES, STAGES, Recorded, _record

ROOT = Path(__file__).resolve().parent.parent
LAST = f"c{MEMBERS - 1}m0"
STARTED, SETTLED = "it trains", 10  # said after so many steps


def main() -> int:
    args = _options()
    if args.trainer:
        return _train(args)
    args.out.mkdir(parents=True, exist_ok=True)
    recording = args.out / f"gradients-{args.parameters}m.pt"
    if not recording.exists():
        print(f"recording gradients of a {args.parameters} M parameter GPT on real text", flush=True)
        _record(SIZES[args.parameters], recording)
    rows = []
    for wan in args.wan:
        rows += _measure(wan, recording, args)
        print(_table(rows), flush=True)
    (args.out / "silence.json").write_text(json.dumps(rows, indent=1))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--wan", nargs="+", default=["100mbit", "20mbit"], help="each member's link")
    add("--parameters", type=int, default=10, choices=SIZES, help="millions")
    add("--compute", type=float, default=0.3, help="seconds of a step's stand-in compute")
    add("--calm", type=float, default=30, help="seconds")
    add("--cut", type=float, default=30, help="seconds without the last member's link")
    add("--stop", type=float, default=60, help="seconds for which the last member is stopped")
    add("--out", type=Path, default=ROOT / "build/silence")
    add("--trainer", type=Path, help=argparse.SUPPRESS)  # the recording: this process is a member
    add("--alone", action="store_true", help=argparse.SUPPRESS)
    add("--end", type=Path, help=argparse.SUPPRESS)  # a file: once it is there, training is over
    return parser.parse_args()


def _train(args: argparse.Namespace) -> int:
    """One member: steps until the end; then when they were, the digest and the stats, on one line."""
    import stellatrain as stella

    torch.set_num_threads(1)
    recording = torch.load(args.trainer, mmap=True)  # members share its pages
    run = stella.init()
    model = Recorded(recording, first=run.rank)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    if not args.alone:
        model, optimizer = stella.distribute(model, optimizer, rule="local")
    steps = []
    while not args.end.exists():
        model.compute(args.compute)
        optimizer.step()
        steps.append(time.time())
        if len(steps) == SETTLED:
            print(STARTED, flush=True)
    figures = {"steps": steps, "digest": 0, "bytes": 0}
    if not args.alone:
        stats = stella.stats()
        figures["bytes"] = stats["bytes_sent"]
        figures["share"] = 16 * stats["blocks_sent"] / len(steps) / sum(p.numel() for p in model.parameters())
        figures["where"] = {stage: 1000 * stats[stage] / len(steps) for stage in STAGES}
    stella.finish()
    if not args.alone:
        figures["digest"] = f"{run.digest():016x}"
    print(f"\nfigures {json.dumps(figures)}", flush=True)
    return 0


def _measure(wan: str, recording: Path, args: argparse.Namespace) -> list[dict]:
    before = _without_network(wan, recording, args)
    phases = [("calm", args.calm), (f"link of {LAST} cut", args.cut), ("calm again", args.calm)]
    phases += [(f"{LAST} stopped", args.stop), ("and again", args.calm)]
    marks: list[float] = []

    def events(lab, processes: dict[str, subprocess.Popen]) -> None:
        for name, seconds in phases:
            if "cut" in name:
                lab.cut(LAST)
            elif "stopped" in name:
                processes[LAST].send_signal(signal.SIGSTOP)
            marks.append(time.time())
            time.sleep(seconds)
            if "cut" in name:
                lab.restore(LAST)
            elif "stopped" in name:
                processes[LAST].send_signal(signal.SIGCONT)
        marks.append(time.time())

    figures, logs = _run(wan, recording, args, events)
    after = _without_network(wan, recording, args)
    none = statistics.mean([before, after])
    digests = {figure["digest"] for figure in figures.values()}
    if len(digests) != 1:
        raise SystemExit(f"the members ended with different weights: {digests}; see {args.out}/*.log")
    rows = []
    for index, (name, _) in enumerate(phases):
        begin, end = marks[index], marks[index + 1]
        counted = [member for member in figures if member != LAST or "stopped" not in name]
        rate = min(_rate(figures[member]["steps"], begin, end) for member in counted)
        rows.append({"wan": wan, "phase": name, "steps_per_second": rate, "none": [before, after]})
        rows[-1]["ratio"] = rate / none
    sent = statistics.mean(figure["bytes"] for figure in figures.values())
    rows[-1]["bytes_per_second"] = sent / (marks[-1] - marks[0])
    rows[-1]["share"] = statistics.mean(figure["share"] for figure in figures.values())
    rows[-1]["where"] = {
        stage: statistics.mean(figure["where"][stage] for figure in figures.values()) for stage in STAGES
    }
    rows[-1]["said"] = sorted(
        line for log in logs.values() for line in re.findall(r".*(?:go on without|takes part).*", log)
    )
    return rows


def _without_network(wan: str, recording: Path, args: argparse.Namespace) -> float:
    begin: list[float] = []

    def one_phase(*_: object) -> None:
        begin.append(time.time())
        time.sleep(args.calm)

    figures, _ = _run(wan, recording, args, one_phase, alone=True)
    return min(_rate(figure["steps"], begin[0], begin[0] + args.calm) for figure in figures.values())


def _rate(steps: list[float], begin: float, end: float) -> float:
    """Between the first and the last step of that time."""
    inside = [step for step in steps if begin <= step <= end]
    return (len(inside) - 1) / (inside[-1] - inside[0])


def _run(
    wan: str,
    recording: Path,
    args: argparse.Namespace,
    events: Callable,
    alone: bool = False,
) -> tuple[dict[str, dict], dict[str, str]]:
    """Each member's figures, and its log."""
    from stellatrain.lab import Lab

    start = 180  # seconds at most, until all train
    command = [sys.executable, "-m", "bench.silence", "--trainer", str(recording)]
    command += ["--compute", str(args.compute), "--end", str(args.out / "end")]
    command += ["--alone"] * alone
    (args.out / "end").unlink(missing_ok=True)
    began = time.time()
    with Lab(clusters=MEMBERS, members=1, wan=wan, lan="none") as lab:
        processes, files = {}, {}
        for name in lab.members:
            files[name] = args.out / f"{name}.log"
            with open(files[name], "wb") as log:
                environment = {"OMP_NUM_THREADS": "1", "STELLA_THREADS": "1"}
                if alone:
                    environment |= {"WORLD_SIZE": "1", "RANK": "0"}
                processes[name] = lab.popen(name, command, environment, stdout=log, stderr=subprocess.STDOUT)
        _await_all(list(files.values()), began + start)
        events(lab, processes)
        (args.out / "end").touch()
        for name, process in processes.items():
            if process.wait(timeout=180) != 0:
                raise SystemExit(f"{name} failed; see {files[name]}")
    logs = {name: path.read_text() for name, path in files.items()}
    figures = {name: json.loads(re.search(r"^figures (.*)$", log, re.M)[1]) for name, log in logs.items()}
    return figures, logs


def _await_all(logs: Iterable[Path], until: float) -> None:
    """Until all members train."""
    while not all(STARTED in log.read_text() for log in logs):
        if time.time() > until:
            raise SystemExit(f"not all members train; see {', '.join(map(str, logs))}")
        time.sleep(0.1)


def _table(rows: list[dict]) -> str:
    lines = [
        "",
        "| link | phase | steps/s | without network, before and after | ratio |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        none = " and ".join(f"{rate:.3f}" for rate in row["none"])
        lines.append(
            f"| {row['wan']} | {row['phase']} | {row['steps_per_second']:.3f} | {none} | {row['ratio']:.3f} |"
        )
    for row in rows:
        if "bytes_per_second" in row:
            lines += [
                "",
                f"{row['wan']}: {8 * row['bytes_per_second'] / 1e6:.1f} Mbit/s sent by a member on average; "
                f"{row['share']:.0%} of the model in a step",
                "ms per step: " + ", ".join(f"{stage} {ms:.1f}" for stage, ms in row["where"].items()),
            ]
            lines += row["said"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
