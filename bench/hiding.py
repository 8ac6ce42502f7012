"""Does the network hide behind the compute? Steps/s at 100 Mbps against steps/s without any network.

usage: python -m bench.hiding [--parameters 10 60] [--pairs 5] [--steps 30] [--wan 100mbit]
                              [--out build/hiding]

The GPU is a stand-in: a trainer whose compute is a timed wait, so that two cores measure the engine and not
their own contention. Everything else is real: gradients recorded from a byte-level GPT on real text, engine,
optimizer (AdamW), TLS connections, and a link of --wan for each of four members.

Each member process holds two engines for the same model: one that is connected to the other members, and one
that trains alone ("no network"). Segments of --steps steps alternate between the two, all members together,
so each pair sees the same machine. The ratio of a pair is steps/s with the network over steps/s without.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = 4
RECORDED_STEPS = 4
STAGES = ("step_copy", "step_wait", "step_publish", "contribute", "merge", "apply")  # of optimizer.stats()
WARM_UP = 5  # steps of a segment that do not count: the first one finds the pipeline empty


@dataclass(frozen=True)
class Size:
    """A model, and the share that each member sends: what 100 Mbit/s carry in 0.3 s."""

    width: int
    layers: int
    heads: int
    density: float


SIZES = {10: Size(320, 8, 5, 0.035), 60: Size(768, 8, 12, 0.006)}


def main() -> int:
    args = _options()
    if args.trainer:
        return _train(args)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for millions in args.parameters:
        recording = args.out / f"gradients-{millions}m.pt"
        if not recording.exists():
            print(f"recording gradients of a {millions} M parameter GPT on real text", flush=True)
            _record(SIZES[millions], recording)
        rows.append(_measure(millions, recording, args))
        print(_table(rows), flush=True)
    (args.out / "hiding.json").write_text(json.dumps(rows, indent=1))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parameters", type=int, nargs="+", default=[10, 60], choices=SIZES, help="millions")
    add("--pairs", type=int, default=5)
    add("--steps", type=int, default=30, help="of a segment, after its warm-up")
    add("--compute", type=float, default=0.3, help="seconds of a step's stand-in compute")
    add("--wan", default="100mbit", help="each member's link")
    add("--out", type=Path, default=ROOT / "build/hiding")
    add("--trainer", type=Path, help=argparse.SUPPRESS)  # the recording: this process is a member
    add("--density", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def _record(size: Size, path: Path) -> None:
    """Real gradients: RECORDED_STEPS steps of AdamW on real text, one gradient per step."""
    sys.path.insert(0, str(ROOT / "examples/gpt"))
    import data
    from model import GPT

    torch.manual_seed(0)
    training, _ = data.load(64)
    net = GPT(64, size.width, size.layers, size.heads)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    steps = []
    for step in range(RECORDED_STEPS):
        x, y = training[step * 997]
        optimizer.zero_grad()
        net(x[None], y[None]).backward()
        steps.append([p.grad.clone() for p in net.parameters()])
        optimizer.step()
    torch.save({"weights": [p.detach().clone() for p in net.parameters()], "gradients": steps}, path)


class Recorded(torch.nn.Module):
    """The recorded model's parameters, with its gradients in turn in place of a backward pass."""

    def __init__(self, recording: dict, first: int):
        super().__init__()
        self.weights = torch.nn.ParameterList(recording["weights"])
        self._gradients = recording["gradients"]
        self._next = first

    def compute(self, seconds: float) -> None:
        """The stand-in for forward and backward: takes that long, leaves gradients, costs no CPU."""
        time.sleep(seconds)
        for parameter, gradient in zip(self.weights, self._gradients[self._next], strict=True):
            parameter.grad = gradient
        self._next = (self._next + 1) % len(self._gradients)


def _train(args: argparse.Namespace) -> int:
    """One member: alternates segments of the connected and the lonely engine; rank 0 writes the figures."""
    import stellatrain as stella
    from stellatrain.environment import Membership

    recording = torch.load(args.trainer)
    run = stella.init()
    alone = stella.Run(Membership())
    options = {"density": args.density, "staleness": 1, "wire": "bf16"}
    engines = {}
    for name, owner in (("network", run), ("none", alone)):
        model = Recorded(recording, first=run.rank)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        engines[name] = owner.distribute(model, optimizer, **options)
    figures = []
    for pair in range(args.pairs):
        for name in ("network", "none") if pair % 2 == 0 else ("none", "network"):
            run.session.all_gather("segment", b"")
            figures.append({"pair": pair, "mode": name, **_segment(*engines[name], args)})
    everybody = run.session.all_gather("figures", json.dumps(figures).encode())
    if run.rank == 0:
        (args.out / "segments.json").write_text(json.dumps([json.loads(raw) for raw in everybody]))
    stella.finish()
    alone.finish()
    return 0


def _segment(model: Recorded, optimizer: torch.optim.Optimizer, args: argparse.Namespace) -> dict:
    """Steps/s of one segment, and where a step's time went, in milliseconds."""
    for _ in range(WARM_UP):
        model.compute(args.compute)
        optimizer.step()
    before, begin = optimizer.stats(), time.perf_counter()
    for _ in range(args.steps):
        model.compute(args.compute)
        optimizer.step()
    seconds, after = time.perf_counter() - begin, optimizer.stats()
    where = {stage: 1000 * (after[stage] - before[stage]) / args.steps for stage in STAGES}
    sent = (after["bytes_sent"] - before["bytes_sent"]) / args.steps
    return {"steps_per_second": args.steps / seconds, "bytes_per_step": sent, **where}


def _measure(millions: int, recording: Path, args: argparse.Namespace) -> dict:
    from stellatrain.lab import Lab

    size = SIZES[millions]
    command = [
        sys.executable,
        "-m",
        "bench.hiding",
        "--trainer",
        str(recording),
        "--density",
        str(size.density),
    ]
    for name in ("pairs", "steps", "compute", "out"):
        command += [f"--{name}", str(getattr(args, name))]
    with Lab(clusters=MEMBERS, members=1, wan=args.wan, lan="none") as lab:
        status = lab.run(
            command, {"OMP_NUM_THREADS": "1", "STELLA_THREADS": "1"}, timeout=1800, log_dir=args.out
        )
    if status != 0:
        raise SystemExit(f"a member failed with status {status}; see {args.out}/*.log")
    members = json.loads((args.out / "segments.json").read_text())
    return _summary(millions, size, members, args)


def _summary(millions: int, size: Size, members: list[list[dict]], args: argparse.Namespace) -> dict:
    """The slowest member of each segment is what counts: the others wait for it."""

    def rates(mode: str) -> list[float]:
        by_pair: dict[int, list[float]] = {}
        for member in members:
            for figure in member:
                if figure["mode"] == mode:
                    by_pair.setdefault(figure["pair"], []).append(figure["steps_per_second"])
        return [min(by_pair[pair]) for pair in sorted(by_pair)]

    def mean(mode: str, key: str) -> float:
        return statistics.mean(f[key] for member in members for f in member if f["mode"] == mode)

    network, none = rates("network"), rates("none")
    ratios = [a / b for a, b in zip(network, none, strict=True)]
    return {
        "millions": millions,
        "density": size.density,
        "wan": args.wan,
        "compute_seconds": args.compute,
        "steps_per_second": network,
        "steps_per_second_without_network": none,
        "ratios": ratios,
        "ideal_steps_per_second": 1 / args.compute,
        "bytes_per_step": mean("network", "bytes_per_step"),
        "milliseconds": {
            mode: {stage: mean(mode, stage) for stage in STAGES} for mode in ("network", "none")
        },
    }


def _table(rows: list[dict]) -> str:
    lines = [
        "",
        "| parameters | density | MB sent per step | steps/s | without network | ratio: median (min-max) |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        ratios = row["ratios"]
        lines.append(
            f"| {row['millions']} M | {row['density']:.1%} | {row['bytes_per_step'] / 1e6:.2f} | "
            f"{statistics.median(row['steps_per_second']):.3f} | "
            f"{statistics.median(row['steps_per_second_without_network']):.3f} | "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f}) |"
        )
    lines += [
        "",
        "| parameters | mode | copy | wait | publish | contribute | merge | apply | (ms per step, CPU ms) |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        for mode, where in row["milliseconds"].items():
            cells = " | ".join(f"{value:.1f}" for value in where.values())
            lines.append(f"| {row['millions']} M | {mode} | {cells} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
